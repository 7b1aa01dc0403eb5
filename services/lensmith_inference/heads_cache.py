"""The heads held in memory: one stack for each space, so that all heads of a space are one matrix product."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lensmith_inference.artefacts import Artefacts
from lensmith_inference.metrics import Metrics
from lensmith_inference.pinned_lru import Apart, PinnedLru
from lensmith_platform.errors import InternalError, PreconditionError
from lensmith_vision.errors import HeadError
from lensmith_vision.head_stack import HeadStack
from lensmith_vision.heads import Head

__all__ = ["HeadsCache"]


class HeadsCache:
    """Fetches heads when they are first asked for and drops the longest unused beyond a budget of bytes.

    Heads of the kernel tier, which cost a thousand times as much, have a budget of their own: however many of them are
    asked, linear heads stay.

    Args:
        artefacts: Where they come from.
        budget: Bytes of linear heads to hold, over all spaces.
        kernel_budget: Bytes of heads of the kernel tier to hold.
        metrics: Where hits, misses and bytes are counted.
    """

    def __init__(self, artefacts: Artefacts, budget: int, kernel_budget: int, metrics: Metrics) -> None:
        self._artefacts = artefacts
        self._metrics = metrics
        self._stacks: dict[str, HeadStack] = {}
        self._heads: PinnedLru[tuple[str, str], Head] = PinnedLru(
            budget,
            cost=lambda head: head.nbytes,
            drop=self._drop,
            apart=Apart(lambda head: head.tier == "kernel", kernel_budget),
        )

    def __len__(self) -> int:
        return len(self._heads)

    def __contains__(self, space_and_key: tuple[str, str]) -> bool:
        return space_and_key in self._heads

    @asynccontextmanager
    async def use(self, space: str, dim: int, key: str) -> AsyncIterator[tuple[HeadStack, Head]]:
        """Keep a head loaded until the block ends; gives the stack of its space, where it stands under its key.

        Args:
            space: The space whose features it will score.
            dim: Length of those features.
            key: Its key among the artefacts.

        Raises:
            PreconditionError: The head was trained in another space.
            LensmithError: It cannot be fetched or is damaged.
        """
        (self._metrics.head_hits if (space, key) in self._heads else self._metrics.head_misses).inc()
        async with self._heads.use((space, key), lambda: self._load(space, dim, key)) as head:
            yield self._stacks[space], head

    async def _load(self, space: str, dim: int, key: str) -> Head:
        head = await self._artefacts.head(key)
        # Numbers of one space say nothing about vectors of another, even where their lengths agree.
        if head.space != space:
            raise PreconditionError(
                "MODEL_SPACE_MISMATCH",
                f"the version was trained in space {head.space} and cannot answer about vectors of space {space}",
                metadata={"model_space": head.space, "space": space},
            )
        try:
            self._stacks.setdefault(space, HeadStack(space, dim)).add(key, head)
        except HeadError as error:
            raise InternalError(error.reason, f"the head of the model cannot be used: {error}") from error
        self._metrics.head_bytes.labels(head.tier).inc(head.nbytes)
        return head

    def _drop(self, key: tuple[str, str], head: Head) -> None:
        stack = self._stacks[key[0]]
        stack.remove(key[1])
        if not len(stack):
            # Each fine-tuned version has a space of its own: what nobody asks any more must not stay for ever.
            del self._stacks[key[0]]
        self._metrics.head_bytes.labels(head.tier).dec(head.nbytes)
