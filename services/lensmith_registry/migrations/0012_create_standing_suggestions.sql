-- What somebody followed that goes on: later versions of the model put the pictures that they find for it on the list of
-- what to label next by themselves.
CREATE TABLE standing_suggestions (
  app_id bigint NOT NULL,
  model_id bigint NOT NULL,
  fingerprint bytea NOT NULL,
  actor text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT standing_suggestions_pkey PRIMARY KEY (app_id, model_id, fingerprint),
  CONSTRAINT standing_suggestions_model_id_fkey FOREIGN KEY (app_id, model_id) REFERENCES models (app_id, id)
    ON DELETE CASCADE
);

SELECT protect('standing_suggestions');
