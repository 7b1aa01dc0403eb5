-- What to fix in the data of versions. A row here says that a version was looked through, also when nothing was found.
CREATE TABLE suggestion_sets (
  app_id bigint NOT NULL,
  version_id bigint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT suggestion_sets_pkey PRIMARY KEY (app_id, version_id),
  CONSTRAINT suggestion_sets_version_id_fkey FOREIGN KEY (app_id, version_id) REFERENCES model_versions (app_id, id)
    ON DELETE CASCADE
);

CREATE TABLE suggestions (
  app_id bigint NOT NULL,
  version_id bigint NOT NULL,
  -- 1, 2, 3 … within the version, in the order in which they are listed.
  number integer NOT NULL,
  kind text NOT NULL CONSTRAINT suggestions_kind_check
    CHECK (kind IN ('WRONG_LABEL', 'CONFUSED_CONCEPTS', 'FEW_IMAGES', 'DUPLICATE', 'OUTLIER', 'LABEL_NEXT')),
  concept text COLLATE "C" NOT NULL,
  other_concept text COLLATE "C" NOT NULL,
  score double precision NOT NULL,
  -- lensmith.v1.Suggestion as JSON, inputs by uid.
  body jsonb NOT NULL,
  -- SHA-256 over what it says: the same doubt about the same labels has the same.
  fingerprint bytea NOT NULL,
  state text NOT NULL DEFAULT 'OPEN' CONSTRAINT suggestions_state_check
    CHECK (state IN ('OPEN', 'ACCEPTED', 'DISMISSED', 'STALE')),
  actor text NOT NULL DEFAULT '',
  decided_at timestamptz,
  CONSTRAINT suggestions_pkey PRIMARY KEY (app_id, version_id, number),
  CONSTRAINT suggestions_version_id_fkey FOREIGN KEY (app_id, version_id)
    REFERENCES suggestion_sets (app_id, version_id) ON DELETE CASCADE
);

-- What somebody looked at and found right; later versions of the model do not say it again.
CREATE TABLE dismissed_suggestions (
  app_id bigint NOT NULL,
  model_id bigint NOT NULL,
  fingerprint bytea NOT NULL,
  actor text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT dismissed_suggestions_pkey PRIMARY KEY (app_id, model_id, fingerprint),
  CONSTRAINT dismissed_suggestions_model_id_fkey FOREIGN KEY (app_id, model_id) REFERENCES models (app_id, id)
    ON DELETE CASCADE
);

SELECT protect('suggestion_sets');
SELECT protect('suggestions');
SELECT protect('dismissed_suggestions');
