"""Which pictures of a training set are held out together, and with which fold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse

from lensmith_vision.errors import TrainingError
from lensmith_vision.folds import groups_of, stratified_group_folds
from lensmith_vision.training_set import TrainingSet, TrainOptions

__all__ = ["deal_folds", "group_copies"]


def group_copies(data: TrainingSet, split: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int64]:
    """Group copies; near copies too, unless the pictures are so alike that hardly anything could be held out.

    Scans of one machine may all be near copies of each other, and what tells them apart is the very thing to learn.

    Args:
        data: The pictures.
        split: [n], where it is decided who is held out: then enough of the others must be left.
    """
    near = groups_of(data.features, data.group_ids)
    if split is not None:
        if (~np.isin(near, near[split])).sum() * 2 >= (~split).sum():
            return near
    elif np.bincount(near).max() * 2 <= len(near) and (data.targets is not None or _rarest(data, near) >= 2):
        return near
    return np.unique(np.asarray(data.group_ids), return_inverse=True)[1].astype(np.int64)


def _rarest(data: TrainingSet, groups: npt.NDArray[np.int64]) -> int:
    """Count the groups of the rarest side of any concept: with one alone, nothing is left to learn it from."""
    if data.classes is not None and data.complete:
        # Pairs of a group and a concept, however many pictures they have.
        pairs = np.unique(groups * len(data.concepts) + data.classes)
        return int(np.unique(pairs % len(data.concepts), return_counts=True)[1].min())
    strata = scipy.sparse.csr_array(_strata(data))
    member = scipy.sparse.csr_array((np.ones(len(groups), np.float32), (groups, np.arange(len(groups)))))
    counts = (member @ strata).astype(np.bool_).sum(axis=0)
    return int(min(counts[counts > 0], default=0))


def deal_folds(data: TrainingSet, groups: npt.NDArray[np.int64], options: TrainOptions) -> npt.NDArray[np.int64]:
    """Deal groups of copies into folds, concepts spread evenly.

    Raises:
        TrainingError: There is one group only.
    """
    count = len(np.unique(groups))
    if count < 2:
        raise TrainingError("TOO_FEW_IMAGES", "all images are copies of one picture; nothing can be held out")
    classes = data.classes if data.complete else None
    strata = _strata(data) if classes is None else classes
    return stratified_group_folds(strata, groups, max(2, min(options.folds, count)), options.seed)


def _strata(data: TrainingSet) -> npt.NDArray[np.float32]:
    if data.targets is not None:
        # Quarters of the values, so that every fold sees small and large ones.
        edges = np.quantile(data.targets, [0.25, 0.5, 0.75])
        return np.eye(4, dtype=np.float32)[np.searchsorted(edges, data.targets, side="left")]
    labels = data.labels if data.labels is not None else np.empty((len(data.ids), 0), np.float32)
    return np.concatenate([labels == 1, labels == 0], axis=1).astype(np.float32)
