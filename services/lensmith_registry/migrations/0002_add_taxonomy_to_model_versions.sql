-- Of versions that are the classifier of a base model: the taxonomy of its classes, where the version's concepts are sums
-- over them (else empty), and what its logits are divided by.
ALTER TABLE model_versions
  ADD COLUMN taxonomy text NOT NULL DEFAULT '',
  ADD COLUMN temperature double precision NOT NULL DEFAULT 1;
