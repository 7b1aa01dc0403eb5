"""Packs as fine-tuning makes them, without fine-tuning: the starter with its features in another order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from lensmith_vision.card import MODEL_FILE, Card
from lensmith_vision.fine_tune.graph import read_graph, with_weights
from lensmith_vision.pack import builtin_pack, load_card
from lensmith_vision.pack_builder import PackSource, write_pack
from lensmith_vision.packing import store_weights_as_fp16


def order_of(seed: int) -> npt.NDArray[np.intp]:
    """Places of the starter's features in those of `tuned_pack`."""
    return np.random.RandomState(seed).permutation(load_card(builtin_pack("starter")).feature_dim)


def tuned_pack(folder: Path, network: str, concepts: Sequence[str], *, seed: int = 1) -> Card:
    """Write a pack whose vectors are no other space's, though they are as long as the starter's and as good.

    Args:
        folder: Where to.
        network: Id of its card.
        concepts: Names of its logits.
        seed: Another one gives another network.
    """
    start = builtin_pack("starter")
    begun = load_card(start)
    graph = read_graph(start)
    last = [node for node in graph.graph.node if node.op_type == "Conv"][-1]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    order = order_of(seed)
    moved = {name: stored[name].astype(np.float32)[order] for name in last.input[1:]}
    kernel = np.random.RandomState(seed).randn(begun.feature_dim, len(concepts)).astype(np.float32)
    changed = store_weights_as_fp16(with_weights(graph, moved, kernel, np.zeros(len(concepts), np.float32)))
    source = PackSource(
        id=network,
        version=1,
        display_name="Starter, fine-tuned",
        description="For tests",
        licence=begun.licence,
        source=begun.source,
        rank=0,
        model=start / MODEL_FILE,
        resize=begun.resize,
        scale=(1.0, 1.0, 1.0),
        offset=(0.0, 0.0, 0.0),
        labels=tuple(concepts),
    )
    folder.mkdir(parents=True)
    return write_pack(folder, source, changed)
