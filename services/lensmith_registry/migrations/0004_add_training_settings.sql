-- lensmith.v1.TrainingSettings as JSON: what a model says about its versions, and what a version was trained with.
ALTER TABLE models
  ADD COLUMN training jsonb NOT NULL DEFAULT '{}';
-- Of a version also the tier of its head: `linear` or `kernel`; empty: it has none of its own, or none yet.
ALTER TABLE model_versions
  ADD COLUMN training jsonb NOT NULL DEFAULT '{}',
  ADD COLUMN tier text NOT NULL DEFAULT ''
    CONSTRAINT model_versions_tier_check CHECK (tier IN ('', 'linear', 'kernel'));
