"""What General sees in pictures that are embedded anyway: for next to nothing where their own network can tell."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np
import structlog

from lensmith_api.v1.concept_score_pb2 import ConceptScore
from lensmith_inference.answers import Selection, ServedVersion, native_scores
from lensmith_inference.batcher import Seen
from lensmith_inference.catalogue import Catalogue
from lensmith_inference.pipeline import Look, Sight
from lensmith_inference.spaces import Spaces
from lensmith_platform.errors import DependencyUnavailableError, LensmithError
from lensmith_vision.card import Card

__all__ = ["General", "GeneralSight"]

_LEAST = 0.02
_MOST = 32

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True)
class GeneralSight:
    """A version of General that looks at pictures beside a base model.

    Attributes:
        version: The version.
        card: Of its network.
        look: How its network looks; None where it is the base model's own, whose logits are enough.
    """

    version: ServedVersion
    card: Card
    look: Look | None

    async def concepts(self, outcomes: Sequence[Sight | LensmithError]) -> list[list[ConceptScore]]:
        """Return the concepts of each picture by falling score; none where it could not be looked at."""
        seen = [self._seen(outcome) for outcome in outcomes]
        logits = [one.logits for one in seen if one is not None and one.logits is not None]
        if not logits:
            return [[] for _ in outcomes]
        # Not on the event loop: a full request is some milliseconds of work.
        answers = iter(await asyncio.to_thread(self._answers, np.stack(logits)))
        return [next(answers) if one is not None and one.logits is not None else [] for one in seen]

    def _answers(self, logits: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> list[list[ConceptScore]]:
        selection = Selection(self.version, self.version.all, _LEAST, _MOST)
        return [selection.concept_scores(scores) for scores in native_scores(logits, self.card, self.version)]

    def _seen(self, outcome: Sight | LensmithError) -> Seen | None:
        if isinstance(outcome, LensmithError):
            return None
        return outcome.own if self.look is None else outcome.also


@dataclass(frozen=True)
class General:
    """Chooses the version of General that looks at pictures of a space.

    Attributes:
        catalogue: Knows the versions.
        spaces: Holds their networks.
    """

    catalogue: Catalogue
    spaces: Spaces

    async def beside(self, stack: AsyncExitStack, space: str, card: Card) -> GeneralSight | None:
        """Return the version that sees most cheaply what pictures of a space show; None: there is none to be had.

        Args:
            stack: Keeps its network loaded.
            space: The space.
            card: Its card.

        Raises:
            DependencyUnavailableError: Registry is away.
        """
        version = await self.catalogue.general(space)
        if version is None:
            return None
        base_model = version.served.base_model
        if base_model.space == space:
            return GeneralSight(version, card, None)
        try:
            own = await stack.enter_async_context(self.spaces.use(base_model))
        except DependencyUnavailableError:
            raise
        except LensmithError as error:
            # A vector is worth more than what General would add: nothing fails because another network is broken.
            _LOG.warning("general_unusable", base_model=base_model.name, reason=error.reason)
            return None
        return GeneralSight(version, own, Look(base_model.space, own, logits=True))
