"""The real servers of one machine: Postgres, NATS, S3, Envoy and the services, as supervised child processes.

Used by ``lensmith up`` (see `lensmith_stack.commands`) and by the tests (see `lensmith_stack.servers`).
"""
