"""Model packs: a base network in a folder, with everything needed to serve it and to trust it.

The format is described in ``docs/model-packs.md``: ``card.json``, ``model.onnx`` and, where the network names concepts,
``labels.txt``; where these are General's, maybe ``calibration.json``.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lensmith_vision.card import CARD_FILE, LABELS_FILE, MODEL_FILE, Card, card_from_json
from lensmith_vision.errors import PackError
from lensmith_vision.general.calibration import CALIBRATION_FILE, Calibration, calibration_from_json
from lensmith_vision.general.concepts import check_labels
from lensmith_vision.session import Session, open_session

__all__ = [
    "CALIBRATION_FILE",
    "CARD_FILE",
    "LABELS_FILE",
    "MODEL_FILE",
    "GOLDEN_COSINE",
    "MAX_CALIBRATION_BYTES",
    "MAX_CARD_BYTES",
    "MAX_LABEL_BYTES",
    "Card",
    "Space",
    "BUILTIN_PACKS",
    "builtin_pack",
    "check_golden",
    "find_packs",
    "golden_images",
    "is_space_id",
    "kept_logits",
    "load_calibration",
    "load_card",
    "load_labels",
    "scores_of_logits",
    "space_of",
    "verify",
]

GOLDEN_COSINE = 0.9995
"""An engine whose vectors point elsewhere than the card's by more than this must not serve the space."""

BUILTIN_PACKS = Path(__file__).parent / "packs"
"""The folder of the packs that ship with the code."""

MAX_CARD_BYTES = 4 * 1024 * 1024
MAX_LABEL_BYTES = 16 * 1024 * 1024
MAX_CALIBRATION_BYTES = 1024 * 1024
_SPACE_ID = re.compile(r"[a-z0-9][a-z0-9.\-]{0,199}")


@dataclass(frozen=True)
class Space:
    """Where vectors may be compared: base model, version, preprocessing, views and numeric class together.

    Attributes:
        id: Stable text of lower-case letters, digits, dots and dashes; safe in paths, subjects and SQL values.
        dim: Length of a feature vector.
    """

    id: str
    base_model: str
    version: int
    preprocessing: str
    views: int
    numeric: str
    dim: int


def space_of(card: Card) -> Space:
    """Name the space that a pack's vectors live in."""
    preprocessing = card.resize.key
    space_id = f"{card.id}.v{card.version}.{preprocessing}.views{card.views}.{card.numeric}"
    return Space(space_id, card.id, card.version, preprocessing, card.views, card.numeric, card.feature_dim)


def is_space_id(text: str) -> bool:
    """Tell whether a text can be the id of a space (it need not exist)."""
    return _SPACE_ID.fullmatch(text) is not None


def builtin_pack(name: str = "plain") -> Path:
    """Return the folder of a pack that ships with the code.

    Raises:
        PackError: No such pack.
    """
    folder = BUILTIN_PACKS / name
    if not re.fullmatch(r"[a-z0-9-]+", name) or not (folder / CARD_FILE).is_file():
        raise PackError("PACK_NOT_FOUND", f"no pack {name!r} ships with the code")
    return folder


def find_packs(root: Path) -> list[Path]:
    """List the pack folders directly inside a folder (or the folder itself), sorted by name, without reading them."""
    if (root / CARD_FILE).is_file():
        return [root]
    if not root.is_dir():
        return []
    return sorted(child for child in root.iterdir() if (child / CARD_FILE).is_file())


def load_card(folder: Path) -> Card:
    """Read and check the card of a pack; the graph itself is looked at by :func:`verify`.

    Raises:
        PackError: No card, or one that breaks the format; the message names the field.
    """
    path = folder / CARD_FILE
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise PackError("PACK_CARD_INVALID", f"{CARD_FILE} of {folder.name} is larger than {MAX_CARD_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PackError("PACK_NOT_FOUND", f"{CARD_FILE} of {folder.name} cannot be read: {error}") from error
    return card_from_json(text)


def load_labels(folder: Path) -> list[str]:
    """Read the names of the logits, one a line, in the order of the logits.

    Raises:
        PackError: The file is missing, too large, or does not have one line for each logit.
    """
    card = load_card(folder)
    path = folder / LABELS_FILE
    try:
        if path.stat().st_size > MAX_LABEL_BYTES:
            raise PackError("PACK_LABELS_INVALID", f"{LABELS_FILE} of {folder.name} is too large")
        labels = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise PackError("PACK_LABELS_INVALID", f"{LABELS_FILE} of {folder.name} cannot be read: {error}") from error
    if card.logits is None or len(labels) != card.logits.dim or not all(labels):
        expected = card.logits.dim if card.logits else 0
        raise PackError(
            "PACK_LABELS_INVALID", f"{LABELS_FILE} of {folder.name} has {len(labels)} names for {expected} logits"
        )
    return labels


def load_calibration(folder: Path) -> Calibration | None:
    """Read how the logits of a network become General's probabilities; None where the folder has no calibration.

    Raises:
        PackError: The file breaks its format.
    """
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_CALIBRATION_BYTES:
            raise PackError("PACK_CALIBRATION_INVALID", f"{CALIBRATION_FILE} of {folder.name} is too large")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PackError("PACK_CALIBRATION_INVALID", f"{CALIBRATION_FILE} of {folder.name}: {error}") from error
    return calibration_from_json(text)


def kept_logits(card: Card, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the logits [n, k] of a pack's own classifier without those that its card ignores.

    Raises:
        PackError: The pack has no classifier, or the logits are another's.
    """
    if card.logits is None or logits.ndim != 2 or logits.shape[1] != card.logits.dim:
        raise PackError("PACK_HAS_NO_LOGITS", f"{card.id} gives no logits of shape {list(logits.shape)}")
    return logits[:, np.setdiff1d(np.arange(card.logits.dim), np.asarray(card.logits.ignored, np.intp))]


def scores_of_logits(card: Card, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Turn the logits [n, k] of a pack's own classifier into scores [n, c] of those that name something.

    What the card ignores (a background class) leaves before the scores are made, so that those of a softmax add up to 1
    over what is shown.

    Raises:
        PackError: The pack has no classifier, or the logits are another's.
    """
    values = kept_logits(card, logits).astype(np.float64)
    if card.logits is not None and card.logits.activation == "softmax":
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -80, 80))), np.float32)


def golden_images(seeds: Sequence[int], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Render the test pictures of the golden vectors: coloured blocks under a slope of light, integers only.

    The recipe is part of the pack format (``docs/model-packs.md``) and never changes within a format version.

    Returns:
        Pixels [len(seeds), height, width, 3].
    """
    images = np.empty((len(seeds), height, width, 3), dtype=np.uint8)
    rows = np.arange(height)[:, None, None]
    columns = np.arange(width)[None, :, None]
    for index, seed in enumerate(seeds):
        # RandomState's stream is frozen by numpy's compatibility policy; Generator's is not.
        blocks = np.random.RandomState(seed).randint(0, 192, size=(7, 7, 3))
        tiles = blocks[(rows * 7 // height)[:, 0, 0]][:, (columns * 7 // width)[0, :, 0]]
        slope = (rows * 32 // height) + (columns * 31 // width)
        images[index] = (tiles + slope).astype(np.uint8)
    return images


def check_golden(session: Session, card: Card) -> None:
    """Compare what a loaded graph makes of the golden pictures with the card's vectors.

    Raises:
        PackError: The vectors differ: this engine, on this machine, must not serve the space.
    """
    images = golden_images(card.golden.seeds, card.resize.height, card.resize.width)
    (features,) = session.run(["features"], {"image": images})
    expected = card.golden.features.astype(np.float64)
    actual = np.asarray(features, dtype=np.float64)
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        raise PackError("PACK_GOLDEN_MISMATCH", f"{card.id} gives features of shape {actual.shape}, or not finite")
    norms = np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = float(((actual * expected).sum(axis=1) / np.maximum(norms, 1e-12)).min())
    length = float(np.linalg.norm(actual) / max(float(np.linalg.norm(expected)), 1e-12))
    # The cosine alone would let a wrongly scaled graph pass, and heads depend on the scale.
    if not (cosine >= GOLDEN_COSINE and math.isclose(length, 1.0, rel_tol=0.02)):
        raise PackError(
            "PACK_GOLDEN_MISMATCH",
            f"{card.id} does not give its golden vectors here: cosine {cosine:.6f}, scale {length:.4f}",
            {"cosine": f"{cosine:.6f}", "scale": f"{length:.6f}"},
        )


def check_graph(session: Session, card: Card) -> None:
    """Hold the inputs and outputs of a graph against the contract and its card.

    Raises:
        PackError: A wrong name, type or shape.
    """
    _check_value(session.get_inputs(), "image", "tensor(uint8)", (card.resize.height, card.resize.width, 3), card)
    outputs = session.get_outputs()
    _check_value(outputs, "features", "tensor(float)", (card.feature_dim,), card)
    if card.feature_map is not None:
        _check_value(outputs, "feature_map", "tensor(float)", card.feature_map, card)
    if card.logits is not None:
        _check_value(outputs, "logits", "tensor(float)", (card.logits.dim,), card)


def verify(folder: Path) -> Card:
    """Prove a pack: the hash of the graph, its inputs and outputs, its labels, calibration and golden vectors.

    Raises:
        PackError: What does not hold.
    """
    card = load_card(folder)
    check_hash(folder, card)
    if card.logits is not None:
        labels = load_labels(folder)
        if card.logits.taxonomy:
            check_labels([label for index, label in enumerate(labels) if index not in card.logits.ignored])
    if load_calibration(folder) is not None and (card.logits is None or not card.logits.taxonomy):
        raise PackError("PACK_CALIBRATION_INVALID", f"{card.id} has no classifier that {CALIBRATION_FILE} is for")
    session = open_session(folder / MODEL_FILE, threads=1)
    check_graph(session, card)
    check_golden(session, card)
    return card


def check_hash(folder: Path, card: Card) -> None:
    """Compare the graph file with the hash in its card.

    Raises:
        PackError: The file is missing or another one.
    """
    try:
        with (folder / MODEL_FILE).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PackError("PACK_NOT_FOUND", f"{MODEL_FILE} of {card.id} cannot be read: {error}") from error
    if digest != card.sha256:
        raise PackError(
            "PACK_HASH_MISMATCH",
            f"{MODEL_FILE} of {card.id} is not the file of its card",
            {"expected": card.sha256, "actual": digest},
        )


def _check_value(values: Sequence[object], name: str, kind: str, shape: tuple[int, ...], card: Card) -> None:
    found = next((value for value in values if getattr(value, "name", None) == name), None)
    actual_kind = getattr(found, "type", None)
    actual_shape = tuple(getattr(found, "shape", ()))
    # The first dimension is the batch, which must stay open.
    if found is None or actual_kind != kind or actual_shape[1:] != shape or isinstance(actual_shape[0], int):
        raise PackError(
            "PACK_GRAPH_INVALID",
            f"{card.id}: {name} must be {kind} [n, {', '.join(map(str, shape))}], "
            f"found {actual_kind} {list(actual_shape)}",
        )
