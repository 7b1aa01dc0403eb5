"""Calibration: what makes General's numbers mean what they say, for one network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lensmith_vision.errors import PackError
from lensmith_vision.general.concepts import TAXONOMY, hierarchy

__all__ = ["CALIBRATION_FILE", "DEFAULT_THRESHOLD", "Calibration", "calibration_from_json"]

CALIBRATION_FILE = "calibration.json"
"""Its place in a pack."""

DEFAULT_THRESHOLD = 0.5
"""Without calibration a concept counts as predicted when it is more probable than not."""

_FORMAT = 1
_MAX_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Calibration:
    """How a network's logits become probabilities, and from which on a concept counts as predicted.

    Attributes:
        temperature: What the logits are divided by.
        default_threshold: For concepts without one of their own.
        thresholds: By own id.
    """

    temperature: float = 1.0
    default_threshold: float = DEFAULT_THRESHOLD
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def of_all(self) -> npt.NDArray[np.float64]:
        """[c], the thresholds of all concepts in the order of the hierarchy."""
        concepts = hierarchy().concepts
        return np.asarray([self.thresholds.get(one.id, self.default_threshold) for one in concepts], np.float64)

    def to_json(self) -> str:
        """Write the calibration as it stands in a pack."""
        document = {
            "format": _FORMAT,
            "taxonomy": TAXONOMY,
            "temperature": self.temperature,
            "default_threshold": self.default_threshold,
            "thresholds": dict(sorted(self.thresholds.items())),
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def calibration_from_json(text: str) -> Calibration:
    """Read a calibration, trusting nothing in it.

    Raises:
        PackError: It breaks the format, or names concepts that General does not have.
    """
    try:
        document = json.loads(text) if len(text) <= _MAX_CHARACTERS else None
    except (ValueError, RecursionError) as error:
        raise PackError("PACK_CALIBRATION_INVALID", f"{CALIBRATION_FILE} is no JSON: {error}") from error
    names = {"format", "taxonomy", "temperature", "default_threshold", "thresholds"}
    if not isinstance(document, dict) or set(document) != names:
        raise PackError("PACK_CALIBRATION_INVALID", f"{CALIBRATION_FILE} must have exactly {', '.join(sorted(names))}")
    if document["format"] != _FORMAT or document["taxonomy"] != TAXONOMY:
        raise PackError(
            "PACK_CALIBRATION_INVALID", f"{CALIBRATION_FILE} must be of format {_FORMAT} and taxonomy {TAXONOMY}"
        )
    thresholds = document["thresholds"]
    if not isinstance(thresholds, dict) or not thresholds.keys() <= hierarchy().place.keys():
        raise PackError("PACK_CALIBRATION_INVALID", "thresholds must be an object of General's concepts")
    return Calibration(
        temperature=_number("temperature", document["temperature"], 0.01, 100.0),
        default_threshold=_number("default_threshold", document["default_threshold"], 0.0, 1.0),
        thresholds={concept: _number(concept, value, 0.0, 1.0) for concept, value in thresholds.items()},
    )


def _number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise PackError("PACK_CALIBRATION_INVALID", f"{name} must be a number from {low:g} to {high:g}")
    return float(value)
