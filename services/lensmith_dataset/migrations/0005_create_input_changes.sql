-- The change feed of training data: one row for each input that ever changed, moved to the end by its newest change.
CREATE TABLE input_changes (
    app_id bigint NOT NULL,
    input_id bigint NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    -- uid of an input that is gone, for whoever must forget it.
    deleted_uid uuid,
    CONSTRAINT input_changes_pkey PRIMARY KEY (app_id, input_id)
);
SELECT protect('input_changes');
CREATE INDEX input_changes_app_id_xid_idx ON input_changes (app_id, xid, input_id);
