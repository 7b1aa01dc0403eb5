-- lensmith: no-transaction
-- Versions of the last days whose data nobody has looked through yet are found among those that there are scores of.
CREATE INDEX CONCURRENTLY IF NOT EXISTS model_versions_completed_at_idx ON model_versions (completed_at)
  WHERE state = 'READY' AND out_of_fold <> '' AND deleted_at IS NULL;
