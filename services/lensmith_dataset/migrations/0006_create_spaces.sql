-- The spaces of apps that have moved, or are moving, to another base model. What registry says of all other apps is
-- enough: they have one space, in which every READY input has its vector.
CREATE TABLE spaces (
    app_id bigint NOT NULL,
    space text COLLATE "C" NOT NULL,
    base_model text NOT NULL,
    dimensions integer NOT NULL,
    -- current: an input is READY once it has a vector of it. target: where the app is moving. retired: its vectors go.
    role text NOT NULL,
    -- Of the call that last said so: what is older is refused.
    revision bigint NOT NULL,
    -- Inputs up to this id were looked at whether they lack a vector; NULL: all of them.
    listed_to bigint DEFAULT 0,
    -- Whether there may be something to do; cleared by whoever finds nothing.
    has_work boolean NOT NULL DEFAULT true,
    -- How often in a row nothing could be embedded, and why, a serialised google.rpc.Status.
    failures integer NOT NULL DEFAULT 0,
    error bytea,
    retry_at timestamptz NOT NULL DEFAULT now(),
    worked_at timestamptz NOT NULL DEFAULT now(),
    -- When the vectors of a retired space go.
    remove_at timestamptz,
    CONSTRAINT spaces_pkey PRIMARY KEY (app_id, space),
    CONSTRAINT spaces_role_check CHECK (role IN ('current', 'target', 'retired'))
);
SELECT protect('spaces');
CREATE INDEX spaces_worked_at_idx ON spaces (worked_at) WHERE has_work;
CREATE INDEX spaces_remove_at_idx ON spaces (remove_at) WHERE role = 'retired';

-- Inputs that are READY and yet lack a vector of a space that their app wants: the queue of the backfill.
CREATE TABLE missing_embeddings (
    app_id bigint NOT NULL,
    space text COLLATE "C" NOT NULL,
    -- No foreign key: listing a million inputs must not wait for one that is being deleted. What is gone is passed over.
    input_id bigint NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    -- Who takes it keeps it so long.
    claimed_until timestamptz NOT NULL DEFAULT '-infinity',
    -- Why it will never get one, a serialised google.rpc.Status.
    error bytea,
    CONSTRAINT missing_embeddings_pkey PRIMARY KEY (app_id, space, input_id)
);
SELECT protect('missing_embeddings');
-- Deleting an input finds what it lacks.
CREATE INDEX missing_embeddings_app_id_input_id_idx ON missing_embeddings (app_id, input_id);
