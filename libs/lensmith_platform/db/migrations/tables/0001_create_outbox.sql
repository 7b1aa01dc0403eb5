-- Events to publish: written in the transaction of the change they tell of, deleted once the bus has them.
CREATE TABLE outbox (
  id uuid NOT NULL,
  app_id bigint NOT NULL,
  subject text NOT NULL,
  -- lensmith.internal.v1.Event
  payload bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- A relay that died leaves its claim behind; it is free again after this time.
  claimed_until timestamptz NOT NULL DEFAULT '-infinity',
  attempts integer NOT NULL DEFAULT 0,
  CONSTRAINT outbox_pkey PRIMARY KEY (id)
);
CREATE INDEX outbox_created_at_idx ON outbox (created_at);
-- Rows live for milliseconds: without this the table would be vacuumed far too late.
ALTER TABLE outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

SELECT protect('outbox');
-- A transaction of an app speaks of its app only, or of none; one bound to no app may speak of any.
DO $$ BEGIN
  EXECUTE format(
    'CREATE POLICY published ON outbox FOR INSERT TO %I WITH CHECK '
    '(app_id = 0 OR nullif(current_setting(''lensmith.app'', true), '''') IS NULL)',
    'lensmith_' || current_schema());
END $$;

CREATE FUNCTION announce_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('outbox_' || TG_TABLE_SCHEMA, '');
  RETURN NULL;
END
$$;
CREATE TRIGGER outbox_announce AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION announce_outbox();
