-- What more images would bring, by version: asked for, computed by a trainer, and computed anew when asked for again.
CREATE TABLE learning_curves (
  app_id bigint NOT NULL,
  version_id bigint NOT NULL,
  state text NOT NULL CONSTRAINT learning_curves_state_check CHECK (state IN ('QUEUED', 'READY', 'FAILED')),
  -- lensmith.v1.LearningCurve as JSON, of a READY one.
  curve jsonb,
  -- google.rpc.Status as JSON, of a FAILED one.
  error jsonb,
  created_at timestamptz NOT NULL DEFAULT now(),
  ended_at timestamptz,
  -- When the bus was last told of it.
  announced_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT learning_curves_pkey PRIMARY KEY (app_id, version_id),
  CONSTRAINT learning_curves_version_fkey FOREIGN KEY (app_id, version_id) REFERENCES model_versions (app_id, id)
    ON DELETE CASCADE
);
SELECT protect('learning_curves');
