-- Events whose work is done: written in the transaction of that work, so that a second delivery does nothing.
CREATE TABLE processed_events (
  id uuid NOT NULL,
  consumer text NOT NULL,
  processed_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT processed_events_pkey PRIMARY KEY (id, consumer)
);
CREATE INDEX processed_events_processed_at_idx ON processed_events (processed_at);
