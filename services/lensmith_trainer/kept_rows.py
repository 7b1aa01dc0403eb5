"""The training data of a version that is being fine-tuned, kept beside it, so that it goes on with the very same."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from lensmith_trainer.holding import Row, TrainingRows

__all__ = ["keep_rows", "kept_bytes", "kept_rows"]

_FILE = "rows.safetensors"
_KEY = "lensmith_rows"


def keep_rows(folder: Path, taken: TrainingRows) -> None:
    """Write what a training is about; it is found complete or not at all.

    Raises:
        OSError: The disk is full.
    """
    rows = [[row.uid, row.sha256, dict(row.labels), row.test] for row in taken.rows]
    data = safetensors.numpy.save({"features": np.ascontiguousarray(taken.features)}, {_KEY: json.dumps(rows)})
    staging = folder / f".{_FILE}"
    with staging.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(folder / _FILE)


def kept_bytes(folder: Path) -> int:
    """Return the room that it takes."""
    return (folder / _FILE).stat().st_size


def kept_rows(folder: Path) -> TrainingRows | None:
    """Read what was kept; None: nothing, or nothing that can be read."""
    try:
        data = (folder / _FILE).read_bytes()
        (size,) = struct.unpack_from("<Q", data)
        rows = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_KEY])
        features = safetensors.numpy.load(data)["features"]
        taken = [Row(uid, sha256, labels, test) for uid, sha256, labels, test in rows]
    except (OSError, ValueError, KeyError, TypeError, struct.error, safetensors.SafetensorError):
        return None
    return TrainingRows(taken, features) if len(taken) == len(features) else None
