"""Features of as many pictures as a benchmark wants, drawn: there are no 50,000 labelled photographs to measure with.

What a solver that goes step by step costs depends on how unlike the directions of its data are. Those of a network are
very unlike: the variances below span three orders of magnitude. They are those of the features that
`mobilenetv2-features` gives of 8,629 photographs of 139 concepts (trashnet, and animals, Caltech-101 and clothing of
the distillation pool): the eigenvalues of their covariance within concepts, and how much the concepts' means vary in
the same directions.
"""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Kind = Literal["as real", "white noise"]
KINDS: tuple[Kind, ...] = get_args(Kind)

DIM = 1280
# Rank of a direction, variance of pictures of one concept along it.
WITHIN = ((1, 5.3), (6, 2.8), (21, 1.7), (51, 1.1), (101, 0.66), (201, 0.27), (301, 0.08), (601, 0.034), (1280, 0.009))
# Rank of a direction, variance of concepts' means along it, in units of the former.
BETWEEN = ((3, 0.62), (13, 0.79), (35, 0.7), (75, 0.48), (150, 0.35), (300, 0.21), (600, 0.14), (1040, 0.17))
MEAN, MEAN_SPREAD = 0.49, 0.14

# Of the distance between real concepts: clouds of one shape come apart more easily than photographs do. So far apart, a
# linear head is right on three pictures of five of 500 concepts.
APART = 0.28

CHUNK = 4096

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def drawn(rows: int, concepts: int, dim: int, kind: Kind) -> tuple[Floats, Ints]:
    """Pictures of overlapping concepts, one after the other of each.

    Args:
        rows: How many.
        concepts: Of how many concepts.
        dim: Length of the features.
        kind: With the covariances of real ones, or the same in all directions but for a few that tell concepts apart.

    Returns:
        Features [rows, dim], not negative as those of a network, and classes [rows].
    """
    random = np.random.default_rng(0)
    classes = np.arange(rows) % concepts
    centres, spread = _as_real(random, concepts, dim) if kind == "as real" else _white(random, concepts, dim)
    features = np.empty((rows, dim), np.float32)
    for start in range(0, rows, CHUNK):
        part = classes[start : start + CHUNK]
        noise = random.standard_normal((len(part), dim), dtype=np.float32)
        features[start : start + CHUNK] = np.maximum(centres[part] + (noise if spread is None else noise @ spread), 0)
    return features, classes


def _as_real(random: np.random.Generator, concepts: int, dim: int) -> tuple[Floats, Floats]:
    """Centres [concepts, dim], and what turns white noise into that of pictures of a concept [dim, dim]."""
    directions = np.linalg.qr(random.standard_normal((dim, dim), dtype=np.float32))[0]
    within, between = (np.sqrt(_along(ranks, dim)) for ranks in (WITHIN, BETWEEN))
    mean = MEAN + MEAN_SPREAD * random.standard_normal(dim, dtype=np.float32)
    centres = (APART * random.standard_normal((concepts, dim), dtype=np.float32) * between * within) @ directions
    return mean + centres, within[:, None] * directions


def _along(known: tuple[tuple[int, float], ...], dim: int) -> Floats:
    ranks, values = np.array(known, np.float64).T
    return np.exp(np.interp(np.arange(1, dim + 1) * (DIM / dim), ranks, np.log(values))).astype(np.float32)


def _white(random: np.random.Generator, concepts: int, dim: int) -> tuple[Floats, None]:
    shared = random.standard_normal((concepts, 64)) @ random.standard_normal((64, dim)) / 8
    return 0.22 * np.abs(shared).astype(np.float32), None
