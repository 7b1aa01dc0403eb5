"""The base networks held in memory, each loaded when it is first asked for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_inference.artefacts import Artefacts
from lensmith_inference.pinned_lru import PinnedLru
from lensmith_platform.errors import InternalError
from lensmith_vision.card import Card
from lensmith_vision.engine import Engine
from lensmith_vision.errors import VisionError

__all__ = ["Spaces"]


class Spaces:
    """Loads base networks into an engine and unloads the longest unused.

    Args:
        engine: Where they run.
        artefacts: Where their packs come from.
        most: How many to hold.
    """

    def __init__(self, engine: Engine, artefacts: Artefacts, most: int) -> None:
        self._engine = engine
        self._artefacts = artefacts
        self._loaded: PinnedLru[str, Card] = PinnedLru(most, cost=lambda _: 1, drop=lambda key, _: engine.unload(key))

    @asynccontextmanager
    async def use(self, base_model: BaseModel) -> AsyncIterator[Card]:
        """Keep the space of a base model loaded until the block ends; gives its card.

        Raises:
            LensmithError: Its pack cannot be had, or does not give its golden vectors on this machine.
        """

        async def load() -> Card:
            return await self._load(base_model.space, await self._artefacts.pack(base_model))

        async with self._loaded.use(base_model.space, load) as card:
            yield card

    async def warm(self, base_model: BaseModel) -> None:
        """Load the space of a base model before anybody asks for it.

        Raises:
            LensmithError: As `use`.
        """
        async with self.use(base_model):
            pass

    async def warm_kept(self) -> bool:
        """Load the pack on disk that was used last, for a start without registry; tells whether there was one."""
        for space, folder in await asyncio.to_thread(self._artefacts.kept):
            try:
                async with self._loaded.use(space, partial(self._load, space, folder)):
                    return True
            except InternalError:
                continue  # damaged or not for this machine; the next may do
        return False

    async def _load(self, space: str, folder: Path) -> Card:
        try:
            return await asyncio.to_thread(self._engine.load, space, folder)
        except VisionError as error:
            raise InternalError(error.reason, f"the base model cannot be served here: {error}") from error
