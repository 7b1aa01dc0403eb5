-- lensmith: no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS annotations_app_id_xid_idx ON annotations (app_id, xid) WHERE xid IS NOT NULL;
