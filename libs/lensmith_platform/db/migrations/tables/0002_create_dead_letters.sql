-- Messages that their consumer could not handle: kept for people to look at and to publish again.
CREATE TABLE dead_letters (
  app_id bigint NOT NULL,
  consumer text NOT NULL,
  -- Id of the event; of a message that is none, made of its content.
  id uuid NOT NULL,
  subject text NOT NULL,
  payload bytea NOT NULL,
  reason text NOT NULL,
  message text NOT NULL,
  deliveries integer NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT dead_letters_pkey PRIMARY KEY (app_id, consumer, id)
);
SELECT protect('dead_letters');
