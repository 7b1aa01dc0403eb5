"""The auth service: apps, keys and what they have used. The only service that holds secrets, and only their hashes."""
