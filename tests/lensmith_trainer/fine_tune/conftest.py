"""A trainer that fine-tunes the starter on a few real photographs."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_api.v1.training_settings_pb2 import TrainingMode
from lensmith_vision import resize
from lensmith_vision.decode import decode
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.pack import builtin_pack, load_card, space_of
from tests.lensmith_registry.rig import OTHER, OTHER_KEY, SCOPES, TRASH, Rig, rig_of
from tests.lensmith_trainer.conftest import Farm

STARTER = builtin_pack("starter")
FINE_TUNE = TrainingMode.TRAINING_MODE_FINE_TUNE
CONCEPTS = ("cardboard", "glass")
EACH = 12

Photographs = Callable[..., None]
Told = Callable[[str, int], dict[str, bool | float]]


@pytest.fixture
async def farm(tmp_path: Path, database, nats_url: str, s3) -> AsyncIterator[Farm]:
    """A registry whose apps learn on the starter, and that gives trainers up after some seconds."""
    urls = (database.url("registry"), database.url("registry", worker=True), database.admin_url)
    impatient = {"lease_seconds": 4.0, "silent_seconds": 5.0, "reconcile_seconds": 0.5, "purge_seconds": 0.5}
    async with rig_of(tmp_path, urls, nats_url, s3.url, pack_folders=str(STARTER), **impatient) as rig:
        rig.auth.add_app("other", app_id=OTHER, base_model="plain")
        rig.auth.add_key(OTHER_KEY, "other", SCOPES)
        farm = Farm(rig, nats_url, tmp_path)
        try:
            yield farm
        finally:
            await farm.end()


@pytest.fixture
def photographs(farm: Farm, shared: Path) -> Photographs:
    """Give dataset photographs of trashnet with the vectors of the starter, or where `blind` with noise.

    `told` says what a picture of a concept is labelled with, each with its concept if it is not given; every
    `tested`th is marked as test.
    """

    def give(*, blind: bool, told: Told | None = None, tested: int = 0) -> None:
        card, engine = load_card(STARTER), OnnxRuntimeEngine()
        space = space_of(card).id
        engine.load(space, STARTER)
        noise = np.random.RandomState(0)
        for concept in CONCEPTS:
            for number, path in enumerate(_photos(shared, concept)):
                content = path.read_bytes()
                image = resize.apply(decode(content, min_side_hint=card.resize.min_side_hint), card.resize)
                vector = noise.randn(card.feature_dim) if blind else engine.run(space, image[None]).features[0]
                uid = f"{concept}-{number:02d}"
                farm.rig.dataset.pictures[uid] = content
                sha256 = hashlib.sha256(content).digest()
                labels = {concept: True} if told is None else told(concept, number)
                test = bool(tested) and number % tested == 0
                farm.rig.dataset.add(TRASH, uid, vector.astype(np.float16), labels, sha256=sha256, test=test)

    return give


def _photos(shared: Path, concept: str) -> list[Path]:
    found = (shared / "datasets" / "trashnet" / concept).glob("*.jpg")
    return sorted(found, key=lambda path: hashlib.sha256(path.name.encode()).digest())[:EACH]


async def fine_tune(rig: Rig, model: str, max_epochs: int, **more: object) -> ModelVersion:
    """Queue a version whose whole network is to learn."""
    settings = {"mode": FINE_TUNE, "max_epochs": max_epochs, **more}
    request = pb.TrainModelRequest(name=f"apps/trash/models/{model}", training=settings)
    return await rig.models.TrainModel(request, metadata=rig.key())
