-- What the public model General saw in each input when it was embedded: the concepts of highest score, at most some dozens.
-- By their number in WordNet rather than by name, a third of the bytes.
CREATE TABLE general_concepts (
    app_id bigint NOT NULL,
    input_id bigint NOT NULL,
    -- Number of the version of General that answered.
    version integer NOT NULL,
    -- Offsets of synsets among the nouns of WordNet 3.0, by falling score.
    synsets integer[] NOT NULL,
    scores real[] NOT NULL,
    -- Whether each score reached the version's threshold for the concept.
    predicted boolean[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT general_concepts_pkey PRIMARY KEY (app_id, input_id),
    CONSTRAINT general_concepts_input_fkey FOREIGN KEY (app_id, input_id) REFERENCES inputs (app_id, id),
    CONSTRAINT general_concepts_lengths_check CHECK (
        cardinality(scores) = cardinality(synsets) AND cardinality(predicted) = cardinality(synsets)
    )
);
SELECT protect('general_concepts');
