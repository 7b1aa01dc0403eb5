-- Moving an app to another base model, a job.
CREATE TABLE upgrades (
  app_id bigint NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  uid uuid NOT NULL DEFAULT gen_random_uuid(),
  -- 1, 2, 3 … within the app.
  number integer NOT NULL,
  -- The app as the request knew it; later work has no request to ask.
  app_uid text NOT NULL,
  app_name text NOT NULL,
  app_base_model text NOT NULL,
  state text NOT NULL CONSTRAINT upgrades_state_check
    CHECK (state IN ('EMBEDDING', 'TRAINING', 'SWITCHING', 'DONE', 'FAILED', 'CANCELLED')),
  from_space text NOT NULL,
  from_base_model text NOT NULL,
  space text NOT NULL,
  base_model text NOT NULL,
  -- The new space as long as the upgrade runs: its base model must stay installed.
  held_space text CONSTRAINT upgrades_held_space_fkey REFERENCES base_models (space),
  force boolean NOT NULL,
  input_count bigint NOT NULL DEFAULT 0,
  embedded_input_count bigint NOT NULL DEFAULT 0,
  failed_input_count bigint NOT NULL DEFAULT 0,
  -- google.rpc.Status as JSON.
  error jsonb,
  message text NOT NULL DEFAULT '',
  actor text NOT NULL,
  -- Whether dataset knows of its end: only then nothing is left to do.
  settled boolean NOT NULL DEFAULT false,
  -- Who takes it keeps it so long.
  claimed_until timestamptz NOT NULL DEFAULT '-infinity',
  -- Changes with everything that a watcher shows.
  revision bigint NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now(),
  switched_at timestamptz,
  ended_at timestamptz,
  CONSTRAINT upgrades_pkey PRIMARY KEY (app_id, id),
  CONSTRAINT upgrades_app_id_uid_key UNIQUE (app_id, uid),
  CONSTRAINT upgrades_app_id_number_key UNIQUE (app_id, number)
);
CREATE UNIQUE INDEX upgrades_running_key ON upgrades (app_id) WHERE state IN ('EMBEDDING', 'TRAINING', 'SWITCHING');
CREATE INDEX upgrades_claimed_until_idx ON upgrades (claimed_until) WHERE NOT settled;

-- What becomes of each model.
CREATE TABLE model_upgrades (
  app_id bigint NOT NULL,
  upgrade_id bigint NOT NULL,
  model_id bigint NOT NULL,
  -- Its own id: the model may be deleted later.
  model text COLLATE "C" NOT NULL,
  outcome text NOT NULL DEFAULT 'WAITING' CONSTRAINT model_upgrades_outcome_check
    CHECK (outcome IN ('WAITING', 'TRAINING', 'TRAINED', 'UPGRADED', 'KEPT')),
  from_version integer NOT NULL,
  to_version integer NOT NULL DEFAULT 0,
  -- How often it was trained: again when its owner trained it meanwhile.
  rounds integer NOT NULL DEFAULT 0,
  figure text NOT NULL,
  before double precision,
  after double precision,
  reason text NOT NULL DEFAULT '',
  CONSTRAINT model_upgrades_pkey PRIMARY KEY (app_id, upgrade_id, model_id),
  CONSTRAINT model_upgrades_upgrade_id_fkey FOREIGN KEY (app_id, upgrade_id) REFERENCES upgrades (app_id, id)
    ON DELETE CASCADE
);

-- Number of the upgrade that a version was trained for; 0: none. A candidate is not followed by production.
ALTER TABLE model_versions ADD COLUMN upgrade integer NOT NULL DEFAULT 0;
ALTER TABLE model_versions ADD COLUMN candidate boolean NOT NULL DEFAULT false;

SELECT protect('upgrades');
SELECT protect('model_upgrades');
