-- protect('inputs') binds a table, and its partitions, to the app of the transaction: row-level security, forced, so that
-- it binds the owner too. The roles follow from the schema: lensmith_dataset and lensmith_dataset_worker for `dataset`.
-- The owner, which runs the migrations, keeps sight of all rows: a backfill that silently finds none would be worse.
-- public => true: every app may also read (never write) the rows of app 1, `main`.
CREATE FUNCTION protect(target regclass, public boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
  part regclass;
  service text;
BEGIN
  SELECT 'lensmith_' || n.nspname INTO STRICT service
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target;
  -- A partition has policies of its own: read directly, its parent's would not apply.
  FOR part IN SELECT target UNION SELECT relid FROM pg_partition_tree(target) LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', part);
    EXECUTE format('DROP POLICY IF EXISTS own_app ON %s', part);
    EXECUTE format(
      'CREATE POLICY own_app ON %s TO %I '
      'USING (app_id = nullif(current_setting(''lensmith.app'', true), '''')::bigint)', part, service);
    EXECUTE format('DROP POLICY IF EXISTS main_app ON %s', part);
    IF public THEN
      EXECUTE format('CREATE POLICY main_app ON %s FOR SELECT TO %I USING (app_id = 1)', part, service);
    END IF;
    EXECUTE format('DROP POLICY IF EXISTS all_apps ON %s', part);
    EXECUTE format('CREATE POLICY all_apps ON %s TO %I, CURRENT_USER USING (true)', part, service || '_worker');
  END LOOP;
  EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I, %I', target, service, service || '_worker');
END
$$;
COMMENT ON FUNCTION protect(regclass, boolean) IS 'Bind a table to the app of the transaction.';
REVOKE ALL ON FUNCTION protect(regclass, boolean) FROM PUBLIC;
