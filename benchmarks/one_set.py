"""The start of benchmarks on one labelled set: where the pictures are, and its features."""

import tempfile
from pathlib import Path

from labelled_sets import Embedder, LabelledSet, load_set, shared_folder


def load_one(name: str, cache: Path | None) -> LabelledSet:
    """A set with its features, kept in a folder where one is given; says what is missing, and ends, where it is."""
    shared = shared_folder()
    with tempfile.TemporaryDirectory(prefix="lensmith-bench-") as scratch:
        folder = cache or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        return load_set(shared, name, Embedder(shared, folder))
