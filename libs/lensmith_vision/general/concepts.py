"""General's concepts: which there are, what each is a kind of, and how probable each is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lensmith_vision.errors import PackError

__all__ = [
    "LEAVES",
    "MODEL_ID",
    "TAXONOMY",
    "Concept",
    "ConceptSums",
    "Hierarchy",
    "check_labels",
    "hierarchy",
    "taxonomy_of",
]

TAXONOMY = "imagenet-1k"
"""What the card of a pack calls the classes that General is made of."""

MODEL_ID = "general"
"""Own id of the public model."""

LEAVES = 1000
"""Classes of ImageNet, in their usual order: that of their WordNet synsets."""

_LABELS_THAT_FIT = 0.9


@dataclass(frozen=True)
class Concept:
    """One of General's concepts.

    Attributes:
        id: Own id: lower-case letters, digits and dashes; the same in every version of General.
        name: Plain English; not always unique (a crane is a bird or a machine).
        synonyms: Other words for it, for search.
        synset: Offset of its synset among the nouns of WordNet 3.0; ImageNet calls it ``n`` and eight digits.
        parents: Places of what it is directly a kind of.
        depth: Steps to ``entity`` on the shortest way; on longer ways it would look more special than it is.
        longest_depth: Steps on the longest way.
        leaf: Which class of ImageNet it is, from 0; None for what is above the classes.
    """

    id: str
    name: str
    synonyms: tuple[str, ...]
    synset: int
    parents: tuple[int, ...]
    depth: int
    longest_depth: int
    leaf: int | None


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """All concepts, each after everything that it is a kind of; the leaves come last, in their own order."""

    concepts: tuple[Concept, ...]

    def __len__(self) -> int:
        return len(self.concepts)

    @cached_property
    def place(self) -> dict[str, int]:
        """Place of each concept by its own id."""
        return {concept.id: index for index, concept in enumerate(self.concepts)}

    @cached_property
    def by_synset(self) -> dict[int, Concept]:
        """Concepts by the offset of their synset."""
        return {concept.synset: concept for concept in self.concepts}

    @cached_property
    def depths(self) -> npt.NDArray[np.intp]:
        """[c], depth of each concept."""
        return np.asarray([concept.depth for concept in self.concepts], np.intp)

    @cached_property
    def leaves_below(self) -> tuple[npt.NDArray[np.intp], ...]:
        """For each concept its leaves in order, each once however many ways lead to it."""
        below: list[set[int]] = [set() if one.leaf is None else {one.leaf} for one in self.concepts]
        for index in range(len(self.concepts) - 1, -1, -1):
            for parent in self.concepts[index].parents:
                below[parent] |= below[index]
        return tuple(np.asarray(sorted(leaves), np.intp) for leaves in below)

    @cached_property
    def sums(self) -> ConceptSums:
        """The probabilities of all concepts."""
        return self.sums_of([concept.id for concept in self.concepts])

    def sums_of(self, concept_ids: Sequence[str]) -> ConceptSums:
        """Prepare the probabilities of some concepts.

        Raises:
            PackError: One of them is no concept of General.
        """
        unknown = [text for text in concept_ids if text not in self.place]
        if unknown or not concept_ids:
            raise PackError(
                "GENERAL_CONCEPT_UNKNOWN", f"no concept of General: {', '.join(unknown[:5]) or 'none named'}"
            )
        below = [self.leaves_below[self.place[text]] for text in concept_ids]
        starts = np.cumsum([0, *(len(leaves) for leaves in below)])[:-1]
        return ConceptSums(np.concatenate(below), starts)


@dataclass(frozen=True, eq=False)
class ConceptSums:
    """Sums over leaves, packed: the leaves of all concepts one after another, and where each concept begins."""

    leaves: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]

    def probabilities(self, logits: npt.NDArray[np.floating], temperature: float = 1.0) -> npt.NDArray[np.float32]:
        """Tell how probable each concept is.

        Args:
            logits: [n, 1000], of the leaves only, in their order.
            temperature: What the logits are divided by first, see `Calibration`.

        Returns:
            [n, c], from 0 to 1. They do not add up to 1: several are true at once.

        Raises:
            PackError: The logits are those of another taxonomy.
        """
        if logits.ndim != 2 or logits.shape[1] != LEAVES:
            raise PackError("GENERAL_LOGITS_INVALID", f"logits must be [n, {LEAVES}], not {list(logits.shape)}")
        values = logits.astype(np.float64) / temperature
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        leaves = powers / powers.sum(axis=1, keepdims=True)
        sums = np.add.reduceat(leaves[:, self.leaves], self.starts, axis=1)
        return np.clip(sums, 0.0, 1.0).astype(np.float32)


@lru_cache(maxsize=1)
def hierarchy() -> Hierarchy:
    """Read General's concepts, which ship with the code; once in a process."""
    document = json.loads((Path(__file__).parent / "concepts.json").read_text(encoding="utf-8"))
    records = document["concepts"]
    first_leaf = len(records) - int(document["leaves"])
    concepts: list[Concept] = []
    place: dict[str, int] = {}
    for index, record in enumerate(records):
        parents = tuple(place[parent] for parent in record["parents"])
        place[record["id"]] = index
        concepts.append(
            Concept(
                id=record["id"],
                name=record["name"],
                synonyms=tuple(record["synonyms"]),
                synset=int(record["synset"]),
                parents=parents,
                depth=min((1 + concepts[parent].depth for parent in parents), default=0),
                longest_depth=max((1 + concepts[parent].longest_depth for parent in parents), default=0),
                leaf=index - first_leaf if index >= first_leaf else None,
            )
        )
    return Hierarchy(tuple(concepts))


def check_labels(labels: Sequence[str]) -> None:
    """Hold the labels of a classifier against the leaves: another order would give every picture wrong concepts.

    Args:
        labels: One of each leaf, without those of a background. Spellings differ between networks, so nine in ten
            must name their leaf by one of its words; of another order next to none do.

    Raises:
        PackError: They name something else.
    """
    leaves = hierarchy().concepts[-LEAVES:]
    if len(labels) != LEAVES:
        raise PackError("PACK_TAXONOMY_MISMATCH", f"{TAXONOMY} has {LEAVES} classes, the labels name {len(labels)}")
    fitting = sum(
        not {_plain(part) for part in label.split(",")}.isdisjoint(map(_plain, (leaf.name, *leaf.synonyms)))
        for label, leaf in zip(labels, leaves, strict=True)
    )
    if fitting < _LABELS_THAT_FIT * LEAVES:
        raise PackError(
            "PACK_TAXONOMY_MISMATCH",
            f"only {fitting} of {LEAVES} labels name the class of {TAXONOMY} that stands at their place",
        )


def taxonomy_of(labels: Sequence[str]) -> str:
    """Return what a card calls the classes with these labels: `TAXONOMY`, or empty where they are others."""
    try:
        check_labels(labels)
    except PackError:
        return ""
    return TAXONOMY


def _plain(text: str) -> str:
    return " ".join(text.replace("_", " ").replace("-", " ").lower().split())
