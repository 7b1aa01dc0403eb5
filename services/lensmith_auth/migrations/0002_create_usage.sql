-- Operations by day. Services report what they did within a second in one event; the same event never counts twice.
CREATE TABLE usage (
    app_id    bigint NOT NULL,
    day       date NOT NULL,
    operation text NOT NULL,
    model     text NOT NULL,
    key_uid   text NOT NULL,
    count     bigint NOT NULL,
    CONSTRAINT usage_pkey PRIMARY KEY (app_id, day, operation, model, key_uid)
);
SELECT protect('usage');
