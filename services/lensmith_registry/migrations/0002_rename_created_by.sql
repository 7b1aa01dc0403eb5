-- Who did it is called actor in every schema. Only before the first release may a column that old code writes be renamed.
ALTER TABLE models RENAME COLUMN created_by TO actor;
ALTER TABLE model_versions RENAME COLUMN created_by TO actor;
