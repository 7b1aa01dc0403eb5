"""The card of a model pack: what a base network is, takes, gives and may be used for."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from lensmith_vision.errors import PackError
from lensmith_vision.general.concepts import LEAVES, TAXONOMY
from lensmith_vision.resize import RESIZE_KINDS, ResizeKind, ResizePolicy

__all__ = ["CARD_FILE", "MODEL_FILE", "LABELS_FILE", "FORMAT_VERSION", "Card", "Golden", "Logits", "card_from_json"]

CARD_FILE = "card.json"
MODEL_FILE = "model.onnx"
LABELS_FILE = "labels.txt"
FORMAT_VERSION = 1
MAX_VIEWS = 64
"""More views of a picture than this nobody could wait for."""

MAX_MAP_VALUES = 1 << 26
"""Of one feature map: a quarter of a gigabyte for each picture."""

MAX_GOLDEN_PIXELS = 1 << 27
"""Of all golden pictures together: loading the pack shows them to the network at once."""

NUMERIC_CLASSES = ("fp32", "bf16", "int8")
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Logits:
    """The classifier that a base network brings with it.

    Attributes:
        dim: Number of logits; ``labels.txt`` names them line by line.
        activation: What turns them into scores.
        ignored: Logits that name nothing a user wants to read, such as ``background``.
        taxonomy: ``imagenet-1k`` where the others are the classes of ImageNet in their usual order: the classifier is
            then a version of General (:mod:`lensmith_vision.general`); empty: names of its own.
    """

    dim: int
    activation: Literal["softmax", "sigmoid"]
    ignored: tuple[int, ...] = ()
    taxonomy: str = ""


@dataclass(frozen=True)
class Golden:
    """Vectors that the network must give for pictures anyone can render again.

    Attributes:
        seeds: One picture each, see :func:`lensmith_vision.pack.golden_images`.
        features: The expected vectors [len(seeds), d].
    """

    seeds: tuple[int, ...]
    features: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Card:
    """All of ``card.json``, checked.

    Attributes:
        id: Lower-case letters, digits and dashes; the id of the base model.
        version: Counts up when the vectors change; part of the space.
        rank: Which installed base to prefer for training; higher is better.
        views: Passes through the network that make one vector; the graph makes them all.
        sha256: Of ``model.onnx``.
    """

    id: str
    version: int
    display_name: str
    description: str
    licence: str
    source: str
    rank: int
    resize: ResizePolicy
    views: int
    numeric: str
    feature_dim: int
    feature_map: tuple[int, int, int] | None
    logits: Logits | None
    golden: Golden
    sha256: str
    bytes: int

    def to_json(self) -> str:
        """Write the card as it stands in a pack."""
        resize: dict[str, object] = {"policy": self.resize.kind, "filter": self.resize.filter}
        if self.resize.kind == "short_side_crop":
            resize["short_side"] = self.resize.short_side
        outputs: dict[str, object] = {"features": {"dim": self.feature_dim}}
        if self.feature_map is not None:
            outputs["feature_map"] = {"shape": list(self.feature_map)}
        if self.logits is not None:
            logits: dict[str, object] = {
                "dim": self.logits.dim,
                "activation": self.logits.activation,
                "ignored": list(self.logits.ignored),
            }
            if self.logits.taxonomy:
                logits["taxonomy"] = self.logits.taxonomy
            outputs["logits"] = logits
        vectors = base64.b64encode(self.golden.features.astype("<f4").tobytes()).decode("ascii")
        document = {
            "format": FORMAT_VERSION,
            "id": self.id,
            "version": self.version,
            "display_name": self.display_name,
            "description": self.description,
            "licence": self.licence,
            "source": self.source,
            "rank": self.rank,
            "input": {"size": [self.resize.height, self.resize.width], "resize": resize},
            "views": self.views,
            "numeric": self.numeric,
            "outputs": outputs,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "golden": {"seeds": list(self.golden.seeds), "features": vectors},
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def card_from_json(text: str) -> Card:
    """Read a card, refusing what this version of the format does not know.

    Raises:
        PackError: The message names the field.
    """
    try:
        root = _Fields(json.loads(text), "card")
    except (ValueError, RecursionError) as error:
        raise PackError("PACK_CARD_INVALID", f"card.json is no JSON: {error}") from error
    if root.integer("format", 0, 1 << 30) != FORMAT_VERSION:
        raise PackError(
            "PACK_FORMAT_UNKNOWN",
            f"card.json has another format than {FORMAT_VERSION}, the one that this version reads",
        )
    outputs = root.fields("outputs")
    dim = outputs.fields("features").integer("dim", 1, 65_536)
    card = Card(
        id=root.matching("id", _ID),
        version=root.integer("version", 1, 1 << 30),
        display_name=root.text("display_name"),
        description=root.text("description"),
        licence=root.text("licence"),
        source=root.text("source"),
        rank=root.integer("rank", -1_000_000, 1_000_000),
        resize=_resize(root.fields("input")),
        views=root.integer("views", 1, MAX_VIEWS),
        numeric=root.one_of("numeric", NUMERIC_CLASSES),
        feature_dim=dim,
        feature_map=_feature_map(outputs, dim),
        logits=_logits(outputs),
        golden=_golden(root.fields("golden"), dim),
        sha256=root.matching("sha256", _SHA256),
        bytes=root.integer("bytes", 1, 1 << 40),
    )
    root.done()
    outputs.done()
    if len(card.golden.seeds) * card.resize.height * card.resize.width > MAX_GOLDEN_PIXELS:
        raise PackError("PACK_CARD_INVALID", f"card.golden asks for more than {MAX_GOLDEN_PIXELS} pixels")
    return card


def _resize(fields: _Fields) -> ResizePolicy:
    height, width = fields.integers("size", 2, 1, 4096)
    resize = fields.fields("resize")
    kind = resize.one_of("policy", RESIZE_KINDS)
    try:
        policy = ResizePolicy(
            kind=cast(ResizeKind, kind),
            height=height,
            width=width,
            short_side=resize.integer("short_side", 1, 8192) if kind == "short_side_crop" else 0,
            filter=cast(Literal["bilinear", "bicubic"], resize.one_of("filter", ("bilinear", "bicubic"))),
        )
    except ValueError as error:
        raise PackError("PACK_CARD_INVALID", f"card.input: {error}") from error
    resize.done()
    fields.done()
    return policy


def _feature_map(outputs: _Fields, dim: int) -> tuple[int, int, int] | None:
    if not outputs.has("feature_map"):
        return None
    channels, height, width = outputs.fields("feature_map").integers("shape", 3, 1, 65_536)
    if channels != dim:
        raise PackError("PACK_CARD_INVALID", "card.outputs.feature_map must have as many channels as features has dims")
    if channels * height * width > MAX_MAP_VALUES:
        raise PackError("PACK_CARD_INVALID", f"card.outputs.feature_map has more than {MAX_MAP_VALUES} values")
    return channels, height, width


def _logits(outputs: _Fields) -> Logits | None:
    if not outputs.has("logits"):
        return None
    fields = outputs.fields("logits")
    dim = fields.integer("dim", 1, 1_000_000)
    activation = cast(Literal["softmax", "sigmoid"], fields.one_of("activation", ("softmax", "sigmoid")))
    ignored = tuple(fields.integers("ignored", None, 0, dim - 1))
    taxonomy = fields.one_of("taxonomy", (TAXONOMY,)) if fields.has("taxonomy") else ""
    if taxonomy and (activation != "softmax" or dim - len(set(ignored)) != LEAVES):
        raise PackError(
            "PACK_CARD_INVALID",
            f"card.outputs.logits of {TAXONOMY} must be a softmax over {LEAVES} that are not ignored",
        )
    fields.done()
    return Logits(dim, activation, ignored, taxonomy)


def _golden(fields: _Fields, dim: int) -> Golden:
    seeds = tuple(fields.integers("seeds", None, 0, (1 << 32) - 1))
    try:
        raw = base64.b64decode(fields.text("features"), validate=True)
    except binascii.Error as error:
        raise PackError("PACK_CARD_INVALID", f"card.golden.features is no base64: {error}") from error
    if not 1 <= len(seeds) <= 64 or len(raw) != len(seeds) * dim * 4:
        raise PackError("PACK_CARD_INVALID", "card.golden must have 1 to 64 seeds and one float32 vector for each")
    vectors = np.frombuffer(raw, dtype="<f4").reshape(len(seeds), dim).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise PackError("PACK_CARD_INVALID", "card.golden.features has values that are not finite")
    fields.done()
    return Golden(seeds, vectors)


class _Fields:
    """Typed reading of a JSON object that names the field in every refusal and notices what was not read."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise PackError("PACK_CARD_INVALID", f"{path} must be an object")
        self._values: dict[str, object] = value
        self._path = path
        self._read: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self._values

    def fields(self, name: str) -> _Fields:
        return _Fields(self._get(name), f"{self._path}.{name}")

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str):
            raise self._wrong(name, "a text")
        return value

    def matching(self, name: str, pattern: re.Pattern[str]) -> str:
        value = self.text(name)
        if not pattern.match(value):
            raise self._wrong(name, f"like {pattern.pattern}")
        return value

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        value = self.text(name)
        if value not in choices:
            raise self._wrong(name, f"one of {', '.join(choices)}")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        return self._integer(name, self._get(name), low, high)

    def integers(self, name: str, count: int | None, low: int, high: int) -> list[int]:
        value = self._get(name)
        if not isinstance(value, list) or (count is not None and len(value) != count):
            raise self._wrong(name, f"a list of {count if count is not None else 'some'} integers")
        return [self._integer(name, item, low, high) for item in value]

    def done(self) -> None:
        unknown = sorted(set(self._values) - self._read)
        if unknown:
            raise PackError("PACK_CARD_INVALID", f"{self._path} has unknown fields: {', '.join(unknown)}")

    def _integer(self, name: str, value: object, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong(name, "an integer")
        if int(value) != value or not low <= value <= high:
            raise self._wrong(name, f"an integer from {low} to {high}")
        return int(value)

    def _get(self, name: str) -> object:
        self._read.add(name)
        if name not in self._values:
            raise PackError("PACK_CARD_INVALID", f"{self._path}.{name} is missing")
        return self._values[name]

    def _wrong(self, name: str, expected: str) -> PackError:
        return PackError("PACK_CARD_INVALID", f"{self._path}.{name} must be {expected}")
