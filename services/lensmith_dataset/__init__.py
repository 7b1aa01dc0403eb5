"""The dataset service: inputs, concepts, annotations and embeddings of every app, and the indexer."""
