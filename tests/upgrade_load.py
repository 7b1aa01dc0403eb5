"""An app in use: callers who predict all the time, and one who adds pictures, while it moves to another network."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from lensmith import AsyncClient
from lensmith.types import Annotation, Input, InputStatus, ModelType, ModelVersion, NewInput, VersionState
from tests.platform_process import PlatformProcess
from tests.polling import until

MODEL = "sorter"
CONCEPTS = ("glass", "metal", "plastic")
BASE_MODEL, BETTER = "plain", "mobilenetv2-features"


@dataclass(frozen=True)
class Photos:
    """Photographs of waste, as (concept, file).

    Attributes:
        known: to train on at first.
        added: to add while the app moves.
        asked: to predict.
    """

    known: list[tuple[str, Path]]
    added: list[tuple[str, Path]]
    asked: list[Path]


def photos_of(shared: Path, known: int) -> Photos:
    """Photographs of the shared collection, so many of each concept to train on.

    A few stand in it under two concepts: no model that tells them apart can be trained on these, so they are left out.
    """
    folder = shared / "datasets" / "trashnet"
    files = {concept: sorted((folder / concept).iterdir()) for concept in CONCEPTS}
    copies = Counter(file.read_bytes() for listed in files.values() for file in listed)
    by_concept = {
        concept: [file for file in listed if copies[file.read_bytes()] == 1] for concept, listed in files.items()
    }
    pairs = [(concept, file) for concept in CONCEPTS for file in by_concept[concept][:known]]
    rest = zip(*([(concept, file) for file in by_concept[concept][known:-1]] for concept in CONCEPTS), strict=False)
    return Photos(pairs, list(itertools.chain(*rest)), [by_concept[concept][-1] for concept in CONCEPTS])


@dataclass
class Answers:
    """What one caller was told, in order: by which version, and after how long.

    Attributes:
        errors: failures of any kind.
    """

    versions: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    @property
    def in_order(self) -> list[str]:
        """The versions as they followed each other."""
        return [version for version, _ in itertools.groupby(self.versions)]


@dataclass
class AppInUse:
    """The app.

    Attributes:
        client: with a key that may do everything in it.
        answers: of each caller.
        added: the pictures that were added while it moved.
    """

    client: AsyncClient
    photos: Photos
    answers: list[Answers] = field(default_factory=list)
    added: list[Input] = field(default_factory=list)

    async def add(self, pictures: Sequence[tuple[str, Path]]) -> list[Input]:
        """Adds annotated pictures."""
        new = [NewInput(image=file, annotations=[Annotation(concept)]) for concept, file in pictures]
        inputs = []
        async for result in self.client.inputs.create(new):
            assert result.input, result.error
            inputs.append(result.input)
        return inputs

    async def added_around(self, moment: datetime) -> bool:
        """Whether pictures were added both before and after a moment."""
        times = [item.created_at for item in self.added if item.created_at]
        return bool(times) and times[0] < moment < times[-1]

    async def train(self, model: str = MODEL) -> ModelVersion:
        """Trains a version and waits until it is ready."""
        version = await self.client.models.train(model)
        done = await self.client.models.wait(model, version.number)
        assert done.state is VersionState.READY, done.error
        return done

    async def scores(self, model: str, version: int = 0) -> list[tuple[float, ...]]:
        """Scores of the pictures to ask about."""
        answer = await self.client.predict(model, self.photos.asked, version=version)
        return [tuple(score.value for score in item.concepts) for item in answer.items]

    @asynccontextmanager
    async def used(self, callers: int) -> AsyncIterator[None]:
        """Predicts by several callers at once, and adds one picture after another, until the block ends."""
        self.answers = [Answers() for _ in range(callers)]
        tasks = [asyncio.create_task(self._predict(answers)) for answers in self.answers]
        tasks.append(asyncio.create_task(self._add_one_by_one()))
        try:
            await until(self._is_answered)
            yield
        finally:
            for task in tasks:
                task.cancel()
            failures = await asyncio.gather(*tasks, return_exceptions=True)
        unexpected = [error for error in failures if isinstance(error, Exception)]
        assert not unexpected, unexpected

    async def _is_answered(self) -> bool:
        return all(len(answers.versions) > 1 for answers in self.answers)

    async def _predict(self, answers: Answers) -> None:
        for picture in itertools.cycle(self.photos.asked):
            began = time.monotonic()
            try:
                answer = await self.client.predict(MODEL, [picture])
                if error := answer.items[0].error:
                    raise error
            except Exception as error:
                answers.errors.append(error)
            else:
                assert answer.items[0].best is not None
                answers.versions.append(answer.model_version)
                answers.seconds.append(time.monotonic() - began)

    async def _add_one_by_one(self) -> None:
        """Each as soon as the one before is READY, so that some are born around every step of the move."""
        for pair in self.photos.added:
            [item] = await self.add([pair])
            self.added.append(item)
            await until(lambda uid=item.uid: self._is_ready(uid), seconds=120)

    async def _is_ready(self, uid: str) -> bool:
        return (await self.client.inputs.get(uid)).status is InputStatus.READY


@asynccontextmanager
async def app_in_use(platform: PlatformProcess, name: str, photos: Photos) -> AsyncIterator[AppInUse]:
    """An app on the weaker network with a trained model, and a second model whose version is pinned."""
    async with AsyncClient(platform.url, platform.operator_key) as operator:
        _, key = await operator.apps.create(name, base_model=BASE_MODEL)
    async with AsyncClient(platform.url, key.secret, name, timeout=120) as client:
        app = AppInUse(client, photos)
        await client.concepts.create(CONCEPTS)
        await app.add(photos.known)
        await client.inputs.wait_until_ready(timeout=240)
        for model in (MODEL, "pinned"):
            await client.models.create(model, ModelType.MULTI_CLASS, concepts=CONCEPTS)
            await app.train(model)
        await client.models.promote("pinned", 1)
        yield app
