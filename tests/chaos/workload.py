"""A customer at work while the platform is shaken: takes pictures in, annotates, trains and predicts, and keeps a
ledger of everything that was acknowledged.
"""

import asyncio
import hashlib
import io
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from lensmith import AsyncClient
from lensmith.errors import LensmithError
from lensmith.types import Annotation, ModelType, NewInput
from lensmith_vision.materials import MATERIALS, render

MODEL: Final = "sorter"
BY_ITSELF: Final = "by-itself"
RETRAIN_AFTER: Final = 30
CHECKED: Final = "checked"
ROADS: Final = ("import", "train", "predict")

_BATCH: Final = 3
_SEED_BATCHES: Final = 16
_PAUSE: Final = {"import": 0.3, "train": 1.0, "predict": 0.05}


class Pictures:
    """Pictures of materials without end, each different from all others.

    Args:
        folder: where the first ones are drawn.
    """

    def __init__(self, folder: Path) -> None:
        self._drawn = [(path.parent.name, Image.open(path).convert("RGB")) for path in render(folder, 6)]
        self._drawn = [pair for first in range(6) for pair in self._drawn[first::6]]
        self._number = 0

    def next(self) -> tuple[str, bytes]:
        """The material and the bytes of a new picture; materials follow one another."""
        material, drawn = self._drawn[self._number % len(self._drawn)]
        noise = np.random.default_rng(self._number).integers(0, 9, (*drawn.size, 3), dtype=np.uint8)
        self._number += 1
        file = io.BytesIO()
        Image.fromarray(np.clip(np.asarray(drawn) + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        return material, file.getvalue()


@dataclass
class Ledger:
    """What the platform has acknowledged.

    Attributes:
        inputs: SHA-256 of the bytes by own id.
        annotations: pairs of own id and concept.
        versions: numbers by the note that each training was given.
        answers: how many predictions were answered.
        answered_by: resource names of the versions that answered.
        refused: calls that failed for good: nothing was acknowledged.
    """

    inputs: dict[str, str] = field(default_factory=dict)
    annotations: set[tuple[str, str]] = field(default_factory=set)
    versions: dict[str, int] = field(default_factory=dict)
    answers: int = 0
    answered_by: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)


class Workload:
    """Import, training and prediction of one app, side by side.

    Args:
        client: in the app, which is empty.
        pictures: what to take in and to ask about.
    """

    def __init__(self, client: AsyncClient, pictures: Pictures) -> None:
        self.client = client
        self.ledger = Ledger()
        self._pictures = pictures
        self._done: dict[str, deque[float]] = {road: deque(maxlen=1) for road in ROADS}
        self._stopped = asyncio.Event()

    async def prepare(self) -> None:
        """Takes in enough to train on, and trains the first version."""
        await self.client.concepts.create([*MATERIALS, CHECKED])
        for _ in range(_SEED_BATCHES):
            await self._take_in()
        await self.client.inputs.wait_until_ready(timeout=60)
        await self.client.models.create(MODEL, ModelType.MULTI_CLASS, concepts=list(MATERIALS))
        await self._train()
        await self.client.models.create(
            BY_ITSELF, ModelType.MULTI_CLASS, concepts=list(MATERIALS), retrain_after_annotations=RETRAIN_AFTER
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works as long as the block does, and lets what was begun come to its end."""
        steps = {"import": self._take_in, "train": self._train, "predict": self._predict}
        async with asyncio.TaskGroup() as group:
            for road, step in steps.items():
                group.create_task(self._walk(road, step), name=road)
            try:
                yield
            finally:
                self._stopped.set()

    def went_well_since(self, moment: float, *roads: str) -> bool:
        """Whether on each road something went well that had begun after a moment of the monotonic clock."""
        return all(self._done[road] and self._done[road][-1] > moment for road in roads)

    async def _walk(self, road: str, step: Callable[[], Awaitable[None]]) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                await step()
                self._done[road].append(began)
            except LensmithError as error:
                self.ledger.refused.append(f"{road}: {error.reason}: {error}")
            try:
                await asyncio.wait_for(self._stopped.wait(), _PAUSE[road])
            except TimeoutError:
                continue

    async def _take_in(self) -> None:
        """Takes some pictures in with one annotation each, then adds another one."""
        batch = []
        for material, data in (self._pictures.next() for _ in range(_BATCH)):
            batch.append(NewInput(image=data, id=uuid.uuid4().hex, annotations=[Annotation(material)]))
        taken: list[NewInput] = []
        async for result in self.client.inputs.create(batch):
            sent = batch[len(taken)]
            taken.append(sent)
            if result.error:
                raise result.error
            assert isinstance(sent.image, bytes)
            self.ledger.inputs[sent.id] = hashlib.sha256(sent.image).hexdigest()
            self.ledger.annotations.add((sent.id, sent.annotations[0].concept))
        failed = await self.client.annotations.merge({item.id: [Annotation(CHECKED)] for item in taken})
        self.ledger.annotations |= {(item.id, CHECKED) for item in taken if item.id not in failed}
        for error in failed.values():
            raise error

    async def _train(self) -> None:
        note = uuid.uuid4().hex
        version = await self.client.models.train(MODEL, note=note)
        self.ledger.versions[note] = version.number
        await self.client.models.wait(MODEL, version.number)

    async def _predict(self) -> None:
        answer = await self.client.predict(MODEL, [self._pictures.next()[1]])
        if error := answer.items[0].error:
            raise error
        assert answer.items[0].best is not None
        self.ledger.answers += 1
        self.ledger.answered_by.add(answer.model_version)
