"""All SQL of the dataset service, a module per family of tables.

Every function takes the connection of a transaction that is bound to an app, and the number of that app besides: each
query filters by it, and row-level security filters again.

Rows are locked in one order everywhere, so that writers wait for each other instead of deadlocking: blobs by hash, then
concepts by id, then inputs by id, then annotations and the change feed.
"""
