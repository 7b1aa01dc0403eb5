-- The files of an app, each stored once. A blob is born with `deleted_at` set: bytes that no input came to use, because
-- a process died between storing them and adding the input, go like those of a deleted input, after the grace period.
CREATE TABLE blobs (
    app_id bigint NOT NULL,
    sha256 bytea NOT NULL,
    -- A blob that was removed and stored again is another one: an upload that reserved the first must not count on it.
    id bigint GENERATED ALWAYS AS IDENTITY,
    size_bytes bigint NOT NULL,
    mime_type text NOT NULL,
    width integer NOT NULL,
    height integer NOT NULL,
    stored_at timestamptz,
    deleted_at timestamptz DEFAULT now(),
    -- Set while its bytes are being removed: an upload of the same bytes waits.
    purging_at timestamptz,
    CONSTRAINT blobs_pkey PRIMARY KEY (app_id, sha256),
    CONSTRAINT blobs_sha256_check CHECK (octet_length(sha256) = 32)
);
SELECT protect('blobs');
CREATE INDEX blobs_deleted_at_idx ON blobs (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE inputs (
    app_id bigint NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    uid uuid NOT NULL,
    own_id text COLLATE "C",
    sha256 bytea NOT NULL,
    -- 1 PENDING, 2 READY, 3 FAILED: the numbers of lensmith.v1.InputStatus.
    status smallint NOT NULL DEFAULT 1,
    -- Why it failed, a serialised google.rpc.Status.
    error bytea,
    test boolean NOT NULL,
    metadata jsonb,
    source_url text NOT NULL,
    actor text NOT NULL,
    revision bigint NOT NULL DEFAULT 1,
    -- How often the indexer was told of it again, and when last: what stays PENDING is republished.
    attempts integer NOT NULL DEFAULT 0,
    progressed_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT inputs_pkey PRIMARY KEY (app_id, id),
    CONSTRAINT inputs_app_id_uid_key UNIQUE (app_id, uid),
    CONSTRAINT inputs_app_id_own_id_key UNIQUE (app_id, own_id),
    CONSTRAINT inputs_status_check CHECK (status BETWEEN 1 AND 3),
    CONSTRAINT inputs_blob_fkey FOREIGN KEY (app_id, sha256) REFERENCES blobs (app_id, sha256)
);
SELECT protect('inputs');
CREATE INDEX inputs_app_id_sha256_idx ON inputs (app_id, sha256);
CREATE INDEX inputs_app_id_status_idx ON inputs (app_id, status, id);
CREATE INDEX inputs_pending_idx ON inputs (progressed_at) WHERE status = 1;

-- What the items of a call with a request_id became, so that repeating the call adds nothing twice. Kept for a day.
CREATE TABLE requests (
    app_id bigint NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    position integer NOT NULL,
    sha256 bytea NOT NULL,
    -- No foreign key: an input deleted since must not come back by a repeated call.
    input_id bigint NOT NULL,
    duplicate boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT requests_pkey PRIMARY KEY (app_id, request_id, position)
);
SELECT protect('requests');
CREATE INDEX requests_created_at_idx ON requests (created_at);
