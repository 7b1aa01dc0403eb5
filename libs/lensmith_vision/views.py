"""Packs that look at a picture eight times: the views are cut, shown to the network and averaged inside the graph.

A pack of several views is a pack like any other: its graph takes one picture, somewhat larger than its network's
input, and gives one vector. So nothing outside the graph knows of views: heads, search, exports and golden vectors stay
as they are, only the space is another one and a picture costs eight passes. Needs the extra ``lensmith[packs]``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from lensmith_vision.card import Card
from lensmith_vision.errors import PackError
from lensmith_vision.graph_parts import load_graph
from lensmith_vision.pack import MODEL_FILE, golden_images, load_calibration, load_labels, verify
from lensmith_vision.pack_builder import PackSource, write_pack
from lensmith_vision.resize import ResizePolicy
from lensmith_vision.session import open_session
from lensmith_vision.view_graph import View, shrinking, with_views

__all__ = ["VIEWS", "View", "build_pack_of_views", "cut", "larger_input", "views_of"]

VIEWS = 8
"""Views of a picture: the whole and its middle, each also mirrored, and the four corners, two of them mirrored."""

_LARGER = 11 / 8
"""How much larger than the network's input the picture is that views are cut out of."""

_SEEDS = (1, 2)
_TOLERANCE = 1e-3
Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


def larger_input(policy: ResizePolicy) -> ResizePolicy:
    """Return how pictures come to the input of a pack of views, from how they come to the network's own."""
    height, width = round(policy.height * _LARGER), round(policy.width * _LARGER)
    if policy.kind == "short_side_crop":
        return replace(policy, height=height, width=width, short_side=round(policy.short_side * _LARGER))
    return replace(policy, height=height, width=width)


def views_of(policy: ResizePolicy) -> tuple[View, ...]:
    """List the views of a network that takes pictures of this size."""
    larger = larger_input(policy)
    height, width = policy.height, policy.width
    down, right = larger.height - height, larger.width - width
    whole = View(0, 0, larger.height, larger.width, mirrored=False)
    middle = View(down // 2, right // 2, height, width, mirrored=False)
    corners = ((0, 0, False), (0, right, True), (down, 0, True), (down, right, False))
    return (
        whole,
        replace(whole, mirrored=True),
        middle,
        replace(middle, mirrored=True),
        *(View(top, left, height, width, mirrored) for top, left, mirrored in corners),
    )


def cut(picture: Pixels, policy: ResizePolicy) -> Pixels:
    """Cut the views out of a picture as the graph does.

    Args:
        picture: Pixels of the larger input [H, W, 3].
        policy: Of the network itself.

    Returns:
        Pixels [VIEWS, policy.height, policy.width, 3].
    """
    found = []
    for view in views_of(policy):
        part = picture[view.top : view.top + view.height, view.left : view.left + view.width].astype(np.float32)
        if (view.height, view.width) != (policy.height, policy.width):
            rows, columns = shrinking(view.height, policy.height), shrinking(view.width, policy.width)
            part = np.einsum("yh,hwc,xw->yxc", rows, part, columns, optimize=True)
        part = np.floor(part + 0.5)
        found.append(part[:, ::-1] if view.mirrored else part)
    return np.stack(found).astype(np.uint8)


def build_pack_of_views(folder: Path, destination: Path, *, id: str = "", rank: int | None = None) -> Card:
    """Make a pack of several views out of one of a single view; the folder appears complete or not at all.

    Where the vectors of the network are the mean of its last feature map, those of the new pack are too: the maps of
    the views are laid over each other where they saw the picture, and what followed the map follows that one. So heat
    maps stay exact. Of other networks the vectors and logits are averaged.

    Args:
        folder: The pack of one view.
        destination: The folder to make; it must not exist.
        id: Of the new base model; by default the old one with ``-8-views`` behind it.
        rank: By default one below that of the network alone, which is eight times as fast.

    Raises:
        PackError: It is no pack, has several views already, or the destination is taken.
    """
    if destination.exists():
        raise PackError("PACK_EXISTS", f"{destination} exists already")
    card = verify(folder)
    if card.views != 1:
        raise PackError("PACK_HAS_VIEWS", f"{card.id} looks {card.views} times at a picture already")
    source = _source(folder, card, id, rank)
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        made = write_pack(staging, source, _proven(folder, card))
        staging.chmod(0o755)
        os.rename(staging, destination)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return made


def _source(folder: Path, card: Card, id: str, rank: int | None) -> PackSource:
    suffix = f"-{VIEWS}-views"
    logits = card.logits
    return PackSource(
        id=id or card.id[: 63 - len(suffix)].rstrip("-") + suffix,
        version=card.version,
        display_name=f"{card.display_name}, {VIEWS} views",
        description=f"{card.description} ({VIEWS} views of each picture, averaged)".lstrip(),
        licence=card.licence,
        source=card.source,
        rank=card.rank - 1 if rank is None else rank,
        model=folder / MODEL_FILE,
        resize=larger_input(card.resize),
        # Both stand in the graph already.
        scale=(1.0, 1.0, 1.0),
        offset=(0.0, 0.0, 0.0),
        labels=() if logits is None else tuple(load_labels(folder)),
        ignored=() if logits is None else logits.ignored,
        activation="softmax" if logits is None else logits.activation,
        taxonomy="" if logits is None else logits.taxonomy,
        calibration=load_calibration(folder),
        views=VIEWS,
    )


def _proven(folder: Path, card: Card) -> onnx.ModelProto:
    """The graph, after it has given the mean over the views that the network was shown one by one."""
    larger = larger_input(card.resize)
    pictures = golden_images(_SEEDS, larger.height, larger.width)
    names = ["features", *(["logits"] if card.logits is not None else [])]
    single = open_session(folder / MODEL_FILE, threads=1)
    seen = [single.run(names, {"image": cut(picture, card.resize)}) for picture in pictures]
    expected = [np.stack([values[place].mean(axis=0) for values in seen]) for place in range(len(names))]
    for with_map in (True, False) if card.feature_map is not None else (False,):
        model = with_views(load_graph(folder / MODEL_FILE), card, larger, views_of(card.resize), with_map=with_map)
        if _gives(model, names, pictures, expected):
            return model
    raise PackError("PACK_VIEWS_FAILED", f"{card.id} gives other vectors inside a graph of {VIEWS} views than alone")


def _gives(model: onnx.ModelProto, names: list[str], pictures: Pixels, expected: list[Floats]) -> bool:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / MODEL_FILE
        onnx.save(model, path)
        try:
            given = open_session(path, threads=1).run(names, {"image": pictures})
        except PackError:
            return False
        except Exception:  # what a runtime says of a tail that cannot take the larger map differs from one to the next
            return False
    return all(
        actual.shape == wanted.shape and np.abs(actual - wanted).max() <= _TOLERANCE * max(1.0, np.abs(wanted).max())
        for actual, wanted in zip(given, expected, strict=True)
    )
