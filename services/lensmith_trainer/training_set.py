"""From labelled inputs to what the vision library learns from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lensmith_api.v1.model_pb2 import Model, ModelType
from lensmith_api.v1.training_settings_pb2 import EvaluationMethod as Method
from lensmith_api.v1.training_settings_pb2 import HeadTier, TrainingSettings
from lensmith_trainer.holding import Row, TrainingRows
from lensmith_vision.classes import Tier
from lensmith_vision.dataset_snapshot import DatasetSnapshot, take
from lensmith_vision.heads import HeadType
from lensmith_vision.out_of_fold import EvaluationMethod
from lensmith_vision.report import ThresholdAim
from lensmith_vision.training_set import NO_CONCEPT, SEVERAL_CONCEPTS, TrainingSet, TrainOptions

__all__ = ["labels_needed", "method_of", "options_of", "snapshot_of", "training_set_of"]

_TYPES: dict[int, HeadType] = {
    ModelType.MODEL_TYPE_MULTI_CLASS: "multi_class",
    ModelType.MODEL_TYPE_MULTI_LABEL: "multi_label",
    ModelType.MODEL_TYPE_REGRESSION: "regression",
}
_TIERS: dict[int, Tier] = {
    # Of versions that were queued before there were settings.
    HeadTier.HEAD_TIER_UNSPECIFIED: "auto",
    HeadTier.HEAD_TIER_AUTO: "auto",
    HeadTier.HEAD_TIER_LINEAR: "linear",
    HeadTier.HEAD_TIER_KERNEL: "kernel",
}
_METHODS: dict[int, EvaluationMethod] = {
    Method.EVALUATION_METHOD_UNSPECIFIED: "out_of_fold",
    Method.EVALUATION_METHOD_OUT_OF_FOLD: "out_of_fold",
    Method.EVALUATION_METHOD_TEST_SET: "test_set",
    Method.EVALUATION_METHOD_SPLIT: "split",
}
_NO_BOUND = float(np.finfo(np.float32).max)


def labels_needed(model: Model) -> tuple[str, ...]:
    """Own ids of the concepts whose labels matter to a model, its negative concept among them."""
    return (*model.concepts, *([model.negative_concept] if model.negative_concept else []))


def options_of(model: Model, settings: TrainingSettings, seed: int) -> TrainOptions:
    """Say how a model is to be trained.

    Raises:
        KeyError: A type that this version does not know.
    """
    kind = _TYPES[model.type]
    value_range = None
    if kind == "regression":
        low = model.min_value if model.HasField("min_value") else -_NO_BOUND
        high = model.max_value if model.HasField("max_value") else _NO_BOUND
        value_range = (low, high)
    return TrainOptions(
        kind,
        closed_environment=model.closed_environment,
        seed=seed,
        value_range=value_range,
        tier=_TIERS[settings.tier],
        thresholds=_aim_of(settings),
    )


def method_of(settings: TrainingSettings) -> EvaluationMethod:
    """Say on which pictures a version is to be evaluated.

    Raises:
        KeyError: A method that this version does not know.
    """
    return _METHODS[settings.evaluation]


def _aim_of(settings: TrainingSettings) -> ThresholdAim:
    aim = settings.thresholds
    return ThresholdAim(
        aim.min_precision if aim.HasField("min_precision") else None,
        aim.min_recall if aim.HasField("min_recall") else None,
    )


def training_set_of(model: Model, space: str, taken: TrainingRows) -> TrainingSet:
    """Lay out inputs, which stand in order of uid, as matrices; so equal data gives equal heads."""
    rows = taken.rows
    regression = model.type == ModelType.MODEL_TYPE_REGRESSION
    exclusive = model.type == ModelType.MODEL_TYPE_MULTI_CLASS
    return TrainingSet(
        space=space,
        concepts=tuple(model.concepts),
        ids=tuple(row.uid for row in rows),
        features=taken.features,
        group_ids=tuple(row.sha256 for row in rows),
        labels=None if regression or exclusive else _labels(model, rows),
        targets=_targets(model.concepts[0], rows) if regression else None,
        shown=_shown(model, rows) if exclusive else None,
    )


def snapshot_of(
    model: Model, rows: Sequence[Row], left_out: Collection[str], folds: Mapping[str, int]
) -> DatasetSnapshot:
    """Take down the inputs that took part, and in which fold each was held out."""
    inputs = ((row.uid, row.sha256, row.labels) for row in rows if row.uid not in left_out)
    return take(inputs, labels_needed(model), folds)


def _labels(model: Model, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
    """Labels [n, c]: 1 positive, 0 negative, NaN unknown."""
    columns = {concept: column for column, concept in enumerate(model.concepts)}
    labels = np.full((len(rows), len(columns)), np.nan, np.float32)
    for index, row in enumerate(rows):
        if model.negative_concept and row.labels.get(model.negative_concept) is True:
            labels[index] = 0.0
        for concept, value in row.labels.items():
            column = columns.get(concept)
            if column is not None and isinstance(value, bool):
                labels[index, column] = float(value)
    return labels


def _shown(model: Model, rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    """The place of the one concept of each input [n]; most of them share a few sets of labels."""
    columns = {concept: column for column, concept in enumerate(model.concepts)}
    known: dict[int, int] = {}
    shown = np.empty(len(rows), np.int64)
    for index, row in enumerate(rows):
        place = known.get(id(row.labels))
        if place is None:
            places = [columns[name] for name, value in row.labels.items() if value is True and name in columns]
            place = places[0] if len(places) == 1 else SEVERAL_CONCEPTS if places else NO_CONCEPT
            known[id(row.labels)] = place
        shown[index] = place
    return shown


def _targets(concept: str, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
    """Numbers [n], NaN unknown."""
    values = [row.labels.get(concept) for row in rows]
    return np.asarray(
        [np.nan if value is None or isinstance(value, bool) else value for value in values], dtype=np.float32
    )
