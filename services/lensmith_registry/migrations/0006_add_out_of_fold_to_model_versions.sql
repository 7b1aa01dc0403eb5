-- Scores behind the evaluation: their key among the blobs; empty: the version has none.
-- Thresholds may be changed after training: what they were last chosen for, when, and by whom.
ALTER TABLE model_versions
  ADD COLUMN out_of_fold text NOT NULL DEFAULT '',
  ADD COLUMN threshold_aim jsonb,
  ADD COLUMN updated_at timestamptz,
  ADD COLUMN updated_by text NOT NULL DEFAULT '';
