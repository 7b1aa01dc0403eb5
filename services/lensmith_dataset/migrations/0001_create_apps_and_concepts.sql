-- What dataset has to know of the apps whose data it keeps: auth owns apps, workers need their names long after a call.
CREATE TABLE apps (
    app_id bigint NOT NULL,
    uid uuid NOT NULL,
    own_id text COLLATE "C" NOT NULL,
    base_model text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Set when auth told that the app is gone: its rows and bytes are being removed, and nothing new is taken in.
    deleted_at timestamptz,
    CONSTRAINT apps_pkey PRIMARY KEY (app_id)
);
SELECT protect('apps');

CREATE TABLE concepts (
    app_id bigint NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    uid uuid NOT NULL DEFAULT gen_random_uuid(),
    own_id text COLLATE "C" NOT NULL,
    display_name text NOT NULL DEFAULT '',
    description text NOT NULL DEFAULT '',
    -- Own id and display name, case folded by the service: what `contains` looks in, the same in every locale.
    search_text text COLLATE "C" NOT NULL,
    actor text NOT NULL,
    revision bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT concepts_pkey PRIMARY KEY (app_id, id),
    CONSTRAINT concepts_app_id_uid_key UNIQUE (app_id, uid),
    CONSTRAINT concepts_app_id_own_id_key UNIQUE (app_id, own_id)
);
SELECT protect('concepts');
