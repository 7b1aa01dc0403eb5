"""The gateway: what gRPC cannot say (uploads, image bytes, documentation), and the configuration of Envoy in front."""
