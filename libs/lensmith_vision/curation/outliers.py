"""Pictures whose context differs from that of all others of their concept: drawings among photographs, say."""

from __future__ import annotations

import numpy as np

from lensmith_vision.curation.suggestion import Bools, Curated, Floats, Ints, Suggestion

__all__ = ["outliers"]

_FEW_TO_JUDGE = 10
_NEAREST = 5
_SPREADS = 3.5
_MOST_OF_CONCEPT = 0.05
_MOST = 200
_MOST_COMPARED = 4096
_BLOCK = 1024
_NORMAL = 1.4826


def outliers(data: Curated, units: Floats, doubted: Bools) -> list[Suggestion]:
    """Find pictures that are unlike all others of their concept, other than by a label in doubt.

    Args:
        data: The set.
        units: [n, d] directions.
        doubted: [n] pictures whose labels are likely wrong: they are unlike for another reason.
    """
    if data.type == "regression":
        found = _outliers(np.arange(len(data.ids)), units, data.groups)
        pairs = [(data.concepts[0], row, score) for row, score in found]
    else:
        pairs = []
        for column, concept in enumerate(data.concepts):
            rows = np.flatnonzero((data.truth[:, column] == 1) & ~doubted)
            pairs += [(concept, row, score) for row, score in _outliers(rows, units, data.groups)]
    pairs.sort(key=lambda pair: (-pair[2], data.ids[pair[1]]))
    suggestions = []
    for concept, row, score in pairs[:_MOST]:
        message = f"unlike the other pictures of {concept}: is it what the model will see in use?"
        current = data.current(row, concept)
        if concept not in current:
            continue
        desired = {name: value for name, value in current.items() if name != concept}
        suggestions.append(Suggestion("OUTLIER", message, score, concept, "", data.ids[row], (), current, desired))
    return suggestions


def _outliers(rows: Ints, units: Floats, groups: Ints) -> list[tuple[int, float]]:
    """Rows that are far from the nearest others, against how far it usually is, with how sure that is."""
    if len(rows) < _FEW_TO_JUDGE:
        return []
    among = rows
    if len(among) > _MOST_COMPARED:
        among = np.random.default_rng(0).permutation(rows)[:_MOST_COMPARED]
    count = min(_NEAREST, len(among) - 1)
    distances = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        likeness = units[block] @ units[among].T
        likeness[groups[block][:, None] == groups[among][None, :]] = -1
        nearest = -np.partition(-likeness, count - 1, axis=1)[:, :count]
        distances[start : start + len(block)] = 1 - nearest.mean(axis=1)
    middle = float(np.median(distances))
    spread = max(_NORMAL * float(np.median(np.abs(distances - middle))), 1e-6)
    far = (distances - middle) / spread
    most = max(1, int(len(rows) * _MOST_OF_CONCEPT))
    order = np.argsort(-far, kind="stable")[:most]
    return [(int(rows[place]), float(1 - 1 / far[place])) for place in order.tolist() if far[place] > _SPREADS]
