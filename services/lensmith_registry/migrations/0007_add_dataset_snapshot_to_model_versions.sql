-- The inputs that a version was trained on: their key among the blobs; empty: the version has no listing.
ALTER TABLE model_versions ADD COLUMN dataset_snapshot text NOT NULL DEFAULT '';
