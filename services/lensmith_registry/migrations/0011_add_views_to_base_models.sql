-- How many views of a picture make one vector. Of those installed before, the id of the space says it.
ALTER TABLE base_models ADD COLUMN views integer NOT NULL DEFAULT 1;
UPDATE base_models SET views = substring(space FROM '\.views([0-9]+)\.')::integer WHERE space ~ '\.views[0-9]+\.';
