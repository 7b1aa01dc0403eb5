-- Base models belong to the platform, not to an app: no row-level security. A row is written once and never changed;
-- another content under the same name and version is refused, because vectors of two contents must never meet.
CREATE TABLE base_models (
  name text NOT NULL,
  version integer NOT NULL,
  space text NOT NULL,
  display_name text NOT NULL,
  description text NOT NULL,
  licence text NOT NULL,
  source text NOT NULL,
  dimensions integer NOT NULL,
  input_side integer NOT NULL,
  sha256 text NOT NULL,
  size_bytes bigint NOT NULL,
  -- SHA-256 over all files of the pack; names its folder among the blobs.
  pack_sha256 text NOT NULL,
  files text[] NOT NULL,
  rank integer NOT NULL,
  -- Own id of the public model that its classifier became; empty where it has none.
  model text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT base_models_pkey PRIMARY KEY (name, version),
  CONSTRAINT base_models_space_key UNIQUE (space)
);

-- The space of an app, decided once.
CREATE TABLE app_spaces (
  app_id bigint NOT NULL,
  space text NOT NULL CONSTRAINT app_spaces_space_fkey REFERENCES base_models (space),
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT app_spaces_pkey PRIMARY KEY (app_id)
);
CREATE INDEX app_spaces_space_idx ON app_spaces (space);

CREATE TABLE models (
  app_id bigint NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  uid uuid NOT NULL DEFAULT gen_random_uuid(),
  -- Own id of the app; resource names are made of it where no request brings it.
  app_name text NOT NULL,
  model text COLLATE "C" NOT NULL,
  display_name text NOT NULL,
  description text NOT NULL,
  type text NOT NULL CONSTRAINT models_type_check CHECK (type IN ('multi_class', 'multi_label', 'regression')),
  concepts text[] NOT NULL,
  closed_environment boolean NOT NULL,
  negative_concept text NOT NULL DEFAULT '',
  min_value double precision,
  max_value double precision,
  production_version integer NOT NULL DEFAULT 0,
  pinned boolean NOT NULL DEFAULT false,
  -- Number of the newest version ever made: numbers are not used twice, even after a version is deleted.
  last_number integer NOT NULL DEFAULT 0,
  imported boolean NOT NULL DEFAULT false,
  revision bigint NOT NULL DEFAULT 1,
  actor text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  CONSTRAINT models_pkey PRIMARY KEY (app_id, id),
  CONSTRAINT models_app_id_uid_key UNIQUE (app_id, uid)
);
CREATE UNIQUE INDEX models_app_id_model_key ON models (app_id, model) WHERE deleted_at IS NULL;
CREATE INDEX models_deleted_at_idx ON models (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE model_versions (
  app_id bigint NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  uid uuid NOT NULL DEFAULT gen_random_uuid(),
  model_id bigint NOT NULL,
  number integer NOT NULL,
  state text NOT NULL CONSTRAINT model_versions_state_check
    CHECK (state IN ('QUEUED', 'TRAINING', 'READY', 'FAILED', 'CANCELLED')),
  -- google.rpc.Status as JSON, of a FAILED version.
  error jsonb,
  fraction double precision NOT NULL DEFAULT 0,
  stage text NOT NULL DEFAULT '',
  progress_message text NOT NULL DEFAULT '',
  space text NOT NULL CONSTRAINT model_versions_space_fkey REFERENCES base_models (space),
  base_model text NOT NULL,
  -- The model as it stood when the version was queued, lensmith.v1.Model as JSON.
  model_snapshot jsonb NOT NULL,
  seed bigint NOT NULL,
  concepts text[] NOT NULL DEFAULT '{}',
  display_names text[] NOT NULL DEFAULT '{}',
  thresholds double precision[] NOT NULL DEFAULT '{}',
  input_count bigint NOT NULL DEFAULT 0,
  dataset_sha256 text NOT NULL DEFAULT '',
  -- List of lensmith.v1.Finding, lensmith.v1.EvaluationSummary and the vision library's evaluation, as JSON.
  findings jsonb NOT NULL DEFAULT '[]',
  summary jsonb,
  evaluation jsonb,
  -- Key of the head among the blobs; empty: none yet, or the base model's own classifier.
  head text NOT NULL DEFAULT '',
  note text NOT NULL,
  actor text NOT NULL,
  -- Fencing number: grows with every claim, and a trainer that carries an older one may write no more.
  lease bigint NOT NULL DEFAULT 0,
  lease_expires_at timestamptz,
  trainer text NOT NULL DEFAULT '',
  -- Changes with everything that a watcher shows.
  revision bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  started_at timestamptz,
  -- When its head was stored; it is READY once serving has been told.
  completed_at timestamptz,
  ended_at timestamptz,
  -- When the bus was last told that there is work to do.
  announced_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  CONSTRAINT model_versions_pkey PRIMARY KEY (app_id, id),
  CONSTRAINT model_versions_app_id_uid_key UNIQUE (app_id, uid),
  CONSTRAINT model_versions_app_id_model_id_number_key UNIQUE (app_id, model_id, number),
  CONSTRAINT model_versions_model_id_fkey FOREIGN KEY (app_id, model_id) REFERENCES models (app_id, id)
);
CREATE INDEX model_versions_unfinished_idx ON model_versions (announced_at)
  WHERE state IN ('QUEUED', 'TRAINING') AND deleted_at IS NULL;
CREATE INDEX model_versions_deleted_at_idx ON model_versions (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX model_versions_space_idx ON model_versions (space);

-- What a request_id made, so that a repeated call returns the same.
CREATE TABLE requests (
  app_id bigint NOT NULL,
  method text NOT NULL,
  request_id text NOT NULL,
  -- SHA-256 of the request: the same id with another content is a mistake of the caller.
  fingerprint bytea NOT NULL,
  resource_uid uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT requests_pkey PRIMARY KEY (app_id, method, request_id)
);
CREATE INDEX requests_created_at_idx ON requests (created_at);

SELECT protect('app_spaces');
SELECT protect('models', public => true);
SELECT protect('model_versions', public => true);
SELECT protect('requests');
