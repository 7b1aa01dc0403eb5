-- One vector for each input and space. No length in the type: spaces of every length live here (up to 4,000 numbers, one
-- page). PLAIN: an exact scan reads the vectors where they lie, three times faster than from TOAST.
CREATE TABLE embeddings (
    app_id bigint NOT NULL,
    space text COLLATE "C" NOT NULL,
    input_id bigint NOT NULL,
    vector public.halfvec STORAGE PLAIN NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT embeddings_pkey PRIMARY KEY (app_id, space, input_id),
    CONSTRAINT embeddings_input_fkey FOREIGN KEY (app_id, input_id) REFERENCES inputs (app_id, id)
) PARTITION BY HASH (app_id);

DO $$
BEGIN
    FOR part IN 0..15 LOOP
        EXECUTE format(
            'CREATE TABLE embeddings_%s PARTITION OF embeddings FOR VALUES WITH (MODULUS 16, REMAINDER %s)', part, part
        );
    END LOOP;
END
$$;
SELECT protect('embeddings');
-- Deleting an input finds its vectors in every space.
CREATE INDEX embeddings_app_id_input_id_idx ON embeddings (app_id, input_id);
