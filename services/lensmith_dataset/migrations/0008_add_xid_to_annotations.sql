-- The transaction that made or last changed an annotation, so that what is new since a snapshot can be counted exactly.
-- Those from before this column have none; the default is set apart, which spares the table a rewrite.
ALTER TABLE annotations ADD COLUMN xid xid8;
ALTER TABLE annotations ALTER COLUMN xid SET DEFAULT pg_current_xact_id();
