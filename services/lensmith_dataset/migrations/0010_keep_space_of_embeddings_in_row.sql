-- A row with a vector is long, so Postgres moved the only column that it could into TOAST: the name of the space. Each
-- look at it was then three pages more. Vectors that are written from now on keep it in their row; those from before
-- are read as they were, and rewriting them all here would hold up everybody else.
ALTER TABLE embeddings ALTER COLUMN space SET STORAGE PLAIN;
