"""What the card of a pack says, for those who decide whether to install it."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lensmith.errors import InvalidInputError

CARD: Final = "card.json"
MODEL: Final = "model.onnx"
_PERMISSIVE: Final = frozenset(
    {"apache-2.0", "mit", "mit-0", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "0bsd", "zlib", "unlicense"}
    | {"cc0-1.0", "cc-by-4.0", "bsl-1.0", "none-needed"}
)
_MAX_CARD_BYTES: Final = 4 << 20


@dataclass(frozen=True)
class PackSummary:
    """The part of a card that people read."""

    id: str
    version: int
    display_name: str
    description: str
    licence: str
    source: str
    rank: int
    dimensions: int
    input_size: tuple[int, int]
    views: int
    size_bytes: int
    sha256: str
    names_concepts: bool


def is_permissive(licence: str) -> bool:
    """Whether a licence is known, and asks for no more than to be named."""
    return licence.strip().lower() in _PERMISSIVE


def read_card(folder: Path) -> dict[str, object]:
    """Reads `card.json` of a folder: of a pack, or of a network that a pack can be made of.

    Raises:
        InvalidInputError: `PACK_INVALID`: there is none, or it is no JSON object.
    """
    path = folder / CARD
    try:
        if path.stat().st_size > _MAX_CARD_BYTES:
            raise InvalidInputError("PACK_INVALID", f"{path} is too large for a card")
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError("PACK_INVALID", f"{folder} holds no card.json that can be read: {error}") from error
    if not isinstance(card, dict):
        raise InvalidInputError("PACK_INVALID", f"{path} is no object")
    return card


def is_pack(card: dict[str, object]) -> bool:
    """Whether a card is that of a ready pack: only those say which version of the format they have."""
    return "format" in card


def summary_of(folder: Path) -> PackSummary:
    """Reads the card of a pack and checks its graph against the hash in it; the platform checks the rest.

    Raises:
        InvalidInputError: `PACK_INVALID`: the card lacks a field. `PACK_HASH_MISMATCH`: the graph is another file.
    """
    summary = card_summary(read_card(folder))
    try:
        with (folder / MODEL).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidInputError("PACK_INVALID", f"{MODEL} of {summary.id} cannot be read: {error}") from error
    if digest != summary.sha256:
        raise InvalidInputError(
            "PACK_HASH_MISMATCH",
            f"{MODEL} of {summary.id} is not the file of its card",
            metadata={"expected": summary.sha256, "actual": digest},
        )
    return summary


def card_summary(card: dict[str, object]) -> PackSummary:
    """Reads the part of a pack's card that people read.

    Raises:
        InvalidInputError: `PACK_INVALID`: it lacks a field.
    """
    try:
        outputs, given = _object(card["outputs"]), _object(card["input"])
        height, width = (int(str(side)) for side in _list(given["size"]))
        summary = PackSummary(
            id=str(card["id"]),
            version=int(str(card["version"])),
            display_name=str(card["display_name"]),
            description=str(card["description"]),
            licence=str(card["licence"]),
            source=str(card["source"]),
            rank=int(str(card["rank"])),
            dimensions=int(str(_object(outputs["features"])["dim"])),
            input_size=(height, width),
            views=int(str(card.get("views", 1))),
            size_bytes=int(str(card["bytes"])),
            sha256=str(card["sha256"]),
            names_concepts="logits" in outputs,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidInputError("PACK_INVALID", f"card.json is not that of a pack: {error!r}") from error
    if not re.fullmatch("[0-9a-f]{64}", summary.sha256) or not 0 < summary.size_bytes <= 2 << 30:
        raise InvalidInputError("PACK_INVALID", "card.json has no hash or no size of the graph")
    return summary


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no object")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value
