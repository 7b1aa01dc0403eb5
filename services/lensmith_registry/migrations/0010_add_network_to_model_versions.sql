-- The network of a fine-tuned version. `network` is the key under which the files of its pack lie; it is named before they
-- are written and '' where there is none. The rest is said by the pack's card and stands only once the version is complete.
ALTER TABLE model_versions
  ADD COLUMN network text NOT NULL DEFAULT '',
  ADD COLUMN network_space text NOT NULL DEFAULT '',
  -- Of its graph.
  ADD COLUMN network_sha256 text NOT NULL DEFAULT '',
  -- Of its graph.
  ADD COLUMN network_bytes bigint NOT NULL DEFAULT 0,
  ADD COLUMN network_dimensions integer NOT NULL DEFAULT 0,
  ADD COLUMN network_input_side integer NOT NULL DEFAULT 0;
CREATE INDEX model_versions_networks_idx ON model_versions (app_id, id) WHERE network <> '';
