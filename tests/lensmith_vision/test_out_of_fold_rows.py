"""Some pictures of a file of out-of-fold predictions are read as they are when all are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lensmith_vision import out_of_fold
from lensmith_vision.errors import VisionError
from lensmith_vision.out_of_fold import OutOfFoldPredictions

RANDOM = np.random.default_rng(0)
ROWS, WIDTH = 21_001, 101
"""Of so many scores the low ones are left out, and no row of labels begins with a byte."""


def _predictions(kind: str, rows: int) -> OutOfFoldPredictions:
    width = 1 if kind == "regression" else WIDTH
    labels = np.full((rows, width), np.nan, np.float32)
    known = RANDOM.random((rows, width))
    labels[known < 0.2], labels[known < 0.1] = 0.0, 1.0
    return OutOfFoldPredictions(
        type=kind,
        method="out_of_fold",
        ids=tuple(f"picture-{row}" for row in range(rows)),
        concepts=tuple(f"concept-{column}" for column in range(width)),
        scores=RANDOM.random((rows, width)).astype(np.float32),
        folds=RANDOM.integers(0, 5, rows),
        groups=np.arange(rows),
        labels=labels if kind == "multi_label" else None,
        classes=RANDOM.integers(0, width, rows) if kind == "multi_class" else None,
        targets=RANDOM.random(rows).astype(np.float32) if kind == "regression" else None,
    )


@pytest.mark.parametrize("rows", [50, ROWS])
@pytest.mark.parametrize("kind", ["multi_class", "multi_label", "regression"])
def test_some_pictures_are_read_as_they_are_when_all_are(kind: str, rows: int) -> None:
    data = out_of_fold.save(_predictions(kind, rows))
    wanted = [rows - 1, 3, 17, 0]

    some, every = out_of_fold.load(data, wanted), out_of_fold.load(data).rows(np.asarray(wanted))

    assert (some.ids, some.concepts, some.evaluated) == (every.ids, every.concepts, rows)
    for name in ("scores", "folds", "groups", "labels", "targets", "classes"):
        np.testing.assert_array_equal(getattr(some, name), getattr(every, name))


def test_places_that_a_file_has_not_are_refused() -> None:
    predictions = _predictions("multi_class", 50)
    data = out_of_fold.save(replace(predictions, ids=tuple(reversed(predictions.ids))))
    for places in ([50], []):
        with pytest.raises(VisionError):
            out_of_fold.load(data, places)
