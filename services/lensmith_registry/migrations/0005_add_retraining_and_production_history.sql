-- Training by itself. The cursor is dataset's: annotations behind it are new to the model's newest version.
ALTER TABLE models
  ADD COLUMN retrain_after_annotations integer NOT NULL DEFAULT 0,
  ADD COLUMN annotations_cursor text NOT NULL DEFAULT '',
  -- google.rpc.Status as JSON: why training was refused, and how many new annotations there were by then.
  ADD COLUMN retrain_error jsonb,
  ADD COLUMN retrain_refused_at_count bigint NOT NULL DEFAULT 0,
  -- When it was last looked whether to train: the processes share the looking.
  ADD COLUMN retrain_looked_at timestamptz NOT NULL DEFAULT '-infinity',
  -- Numbers that were production_version before, the last one first.
  ADD COLUMN production_history integer[] NOT NULL DEFAULT '{}';
CREATE INDEX models_retrain_looked_at_idx ON models (retrain_looked_at)
  WHERE retrain_after_annotations > 0 AND deleted_at IS NULL;

-- Production changes for many reasons (a success, a pin, an upgrade, a new network): no one of them may forget to note it.
CREATE FUNCTION note_production() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  NEW.production_history := (OLD.production_version || OLD.production_history)[1:100];
  RETURN NEW;
END
$$;
CREATE TRIGGER models_note_production BEFORE UPDATE ON models FOR EACH ROW
  WHEN (OLD.production_version > 0 AND NEW.production_version <> OLD.production_version)
  EXECUTE FUNCTION note_production();
