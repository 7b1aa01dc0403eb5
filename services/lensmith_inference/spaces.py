"""The networks held in memory, each loaded when it is first asked for: base networks, and those of single versions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from weakref import WeakValueDictionary

import structlog

from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_inference.artefacts import Artefacts
from lensmith_inference.metrics import Metrics
from lensmith_inference.pinned_lru import Apart, PinnedLru
from lensmith_platform.errors import DependencyUnavailableError, InternalError, PreconditionError
from lensmith_platform.principal import current_call_or_none
from lensmith_vision.card import Card
from lensmith_vision.engine import Engine
from lensmith_vision.errors import VisionError
from lensmith_vision.networks import is_network_id, is_network_space

__all__ = ["MEMORY_OF_BYTES", "Spaces"]

MEMORY_OF_BYTES = 8
"""How many times the bytes of its file a network takes of memory, about: its weights twice as wide, packed once more
for the processor, and what lies between its layers (measured: 6 times for the starter, 10 times for a MobileNetV2)."""

_AT_ONCE = 2
"""Networks of versions being loaded: after a start all of them are wanted at the same time, and predictions go on. One
of each app at a time, so that an app with many of them keeps the others waiting for one."""

_ANSWER_SECONDS = 0.25

_AGAIN_SECONDS = 2.0
"""After how long a network that could not be loaded is tried again: whoever goes on asking must not cost a fetch each
time, and what was wrong may be mended."""

_LOG = structlog.get_logger(__name__)


class Spaces:
    """Loads networks into an engine and unloads the longest unused.

    Networks of fine-tuned versions have a budget of their own, of which apps have equal shares: however many of them
    are asked, base networks stay, and so do the networks of other apps that are within their share.

    Args:
        engine: Where they run.
        artefacts: Where their packs come from.
        most: How many base networks to hold.
        network_bytes: Memory of networks of versions to hold, as `MEMORY_OF_BYTES` counts it.
        metrics: Where loading is counted.
    """

    def __init__(self, engine: Engine, artefacts: Artefacts, most: int, network_bytes: int, metrics: Metrics) -> None:
        self._engine = engine
        self._artefacts = artefacts
        self._metrics = metrics
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._turns_of_apps: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._unusable: dict[str, tuple[float, str]] = {}
        self._loaded: PinnedLru[str, Card] = PinnedLru(
            most,
            cost=lambda card: _memory_of(card) if is_network_id(card.id) else 1,
            drop=self._drop,
            apart=Apart(lambda card: is_network_id(card.id), network_bytes),
        )

    @asynccontextmanager
    async def use(self, base_model: BaseModel, network: str = "") -> AsyncIterator[Card]:
        """Keep a network loaded until the block ends; gives its card.

        Args:
            base_model: Which.
            network: Key of its pack, where it is the network of one version.

        Raises:
            PreconditionError: The network of a version cannot be used on this server.
            DependencyUnavailableError: It is still being loaded when the call has to answer.
            LensmithError: Its pack cannot be had, or does not give its golden vectors on this machine.
        """
        if is_network_space(base_model.space) != bool(network):
            # Whatever registry says, no customer's network is ever taken for one that everybody shares.
            raise InternalError("BASE_MODEL_INVALID", f"{base_model.name} has the space of another kind of network")
        load = partial(self._load_network if network else self._load_base, base_model, network)
        call = current_call_or_none()
        until = call.deadline - _ANSWER_SECONDS if call is not None and call.deadline is not None else None
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(until):
                    owner = _app_of(base_model) if network else ""
                    card = await stack.enter_async_context(self._loaded.use(base_model.space, load, owner))
            except TimeoutError:
                raise DependencyUnavailableError(
                    "NETWORK_LOADING",
                    f"the network of {base_model.name} is still being loaded; ask again in a moment",
                    metadata={"network": base_model.name},
                ) from None
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

    async def _load_base(self, base_model: BaseModel, network: str) -> Card:
        return await self._load(base_model.space, await self._artefacts.pack(base_model, network))

    async def _load_network(self, base_model: BaseModel, network: str) -> Card:
        start = monotonic()
        self._unusable = {space: known for space, known in self._unusable.items() if known[0] > start}
        if base_model.space in self._unusable:
            raise _unusable(base_model, self._unusable[base_model.space][1])
        turn = self._turns_of_apps.setdefault(_app_of(base_model), asyncio.Lock())
        try:
            async with turn, self._turns:
                card = await self._load_base(base_model, network)
        except InternalError as error:
            _LOG.error("network_unusable", network=base_model.name, reason=error.reason, error=error.message)
            self._unusable[base_model.space] = (monotonic() + _AGAIN_SECONDS, error.reason)
            raise _unusable(base_model, error.reason) from error
        self._metrics.network_load_seconds.observe(monotonic() - start)
        self._metrics.networks.inc()
        self._metrics.network_bytes.inc(_memory_of(card))
        return card

    async def _load(self, space: str, folder: Path) -> Card:
        try:
            return await asyncio.to_thread(self._engine.load, space, folder)
        except VisionError as error:
            raise InternalError(error.reason, f"the base model cannot be served here: {error}") from error

    def _drop(self, space: str, card: Card) -> None:
        self._engine.unload(space)
        if is_network_id(card.id):
            self._metrics.networks.dec()
            self._metrics.network_bytes.dec(_memory_of(card))
            self._metrics.network_drops.inc()


def _app_of(version: BaseModel) -> str:
    """Whose network it is: that of `apps/{app}/models/{model}/versions/{version}`."""
    return version.name.split("/")[1]


def _memory_of(card: Card) -> int:
    return MEMORY_OF_BYTES * card.bytes


def _unusable(base_model: BaseModel, cause: str) -> PreconditionError:
    return PreconditionError(
        "NETWORK_UNUSABLE",
        f"the network of {base_model.name} cannot be loaded ({cause}); another version can answer",
        metadata={"network": base_model.name, "cause": cause},
    )
