"""A fine-tuned network as a pack: preprocessing in the graph, verified as every pack is."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from lensmith_vision.card import Card
from lensmith_vision.fine_tune.graph import with_weights
from lensmith_vision.fine_tune.job import Floats, Job
from lensmith_vision.fine_tune.network import Network
from lensmith_vision.pack import MODEL_FILE, load_card
from lensmith_vision.pack_builder import PackSource, write_pack
from lensmith_vision.packing import store_weights_as_fp16

__all__ = ["write_network"]


def write_network(network: Network, kernel: Floats, bias: Floats, job: Job, start: Path, destination: Path) -> Card:
    """Write a pack with features, their map where the start has one, and logits of the job's concepts.

    Args:
        network: What was learnt.
        kernel: The classifier in the units of the truth, [d, c].
        bias: [c].
        job: Names the network and its concepts.
        start: Pack that the network began as.
        destination: The folder to make; it appears complete or not at all.

    Raises:
        PackError: The network does not keep the contract of packs.
    """
    begun = load_card(start)
    graph = store_weights_as_fp16(with_weights(network.graph, network.learnt(), kernel, bias))
    graph.graph.name = job.network
    source = PackSource(
        id=job.network,
        version=1,
        display_name=f"{begun.display_name}, fine-tuned",
        description=f"Fine-tuned from {begun.id} version {begun.version}",
        licence=begun.licence,
        source=begun.source,
        rank=0,
        model=start / MODEL_FILE,
        resize=begun.resize,
        scale=(1.0, 1.0, 1.0),
        offset=(0.0, 0.0, 0.0),
        # Own ids may be anything; lines of a file may not.
        labels=tuple(" ".join(concept.split()) or "-" for concept in job.concepts),
        activation="softmax" if job.type == "multi_class" else "sigmoid",
    )
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        card = write_pack(staging, source, graph)
        os.replace(staging, destination)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return card
