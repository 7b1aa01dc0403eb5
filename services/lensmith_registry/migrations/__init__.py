"""SQL migrations of the schema `registry`."""
