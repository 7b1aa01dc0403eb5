CREATE TABLE annotations (
    app_id bigint NOT NULL,
    input_id bigint NOT NULL,
    concept_id bigint NOT NULL,
    positive boolean,
    number double precision,
    actor text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT annotations_pkey PRIMARY KEY (app_id, input_id, concept_id),
    CONSTRAINT annotations_value_check CHECK (num_nonnulls(positive, number) = 1),
    CONSTRAINT annotations_input_fkey FOREIGN KEY (app_id, input_id) REFERENCES inputs (app_id, id),
    CONSTRAINT annotations_concept_fkey FOREIGN KEY (app_id, concept_id) REFERENCES concepts (app_id, id)
);
SELECT protect('annotations');
-- Counts by concept and the inputs of a concept are read from this index alone.
CREATE INDEX annotations_app_id_concept_id_idx ON annotations (app_id, concept_id, input_id) INCLUDE (positive, number);
CREATE INDEX annotations_app_id_updated_at_idx ON annotations (app_id, updated_at, input_id, concept_id);
CREATE INDEX annotations_app_id_concept_id_updated_at_idx ON annotations (app_id, concept_id, updated_at, input_id);
