"""SQL migrations of the schema `auth`, applied in order of their number."""
