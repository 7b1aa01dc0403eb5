"""What inference listens to: news of models, so that a new version answers at once."""

import asyncio

import structlog

from lensmith_api.internal.v1.events_pb2 import Event, ModelChanged
from lensmith_inference.catalogue import Catalogue
from lensmith_inference.predictor import Predictor
from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.errors import LensmithError

__all__ = ["ModelNews"]

_WAITING = 1000
"""Models waiting to be warmed; beyond, they are fetched when they are first asked."""

_LOG = structlog.get_logger(__name__)


class ModelNews:
    """Forgets what news made untrue, and warms what changed.

    Args:
        catalogue: What is known.
        predictor: Warms models.
        warm: Whether to warm at all.
    """

    def __init__(self, catalogue: Catalogue, predictor: Predictor, *, warm: bool) -> None:
        self._catalogue = catalogue
        self._predictor = predictor
        self._warm = warm
        self._changed: asyncio.Queue[tuple[int, ModelChanged]] = asyncio.Queue(_WAITING)

    async def model_changed(self, event: Event) -> None:
        """Handle `models.changed`."""
        self._catalogue.model_changed(event.app_id, event.model_changed.model)
        if self._warm and not self._changed.full():
            self._changed.put_nowait((event.app_id, event.model_changed))

    async def space_changed(self, event: Event) -> None:
        """Handle `apps.space_changed`."""
        self._catalogue.space_changed(event.app_id)

    async def app_deleted(self, event: Event) -> None:
        """Handle `apps.deleted`."""
        self._catalogue.app_deleted(event.app_id)

    async def missed(self) -> None:
        """Handle a gap in the news, or their beginning."""
        self._catalogue.everything_changed()

    async def run_warming(self) -> None:
        """Warm changed models one after another, for ever."""
        while True:
            app_id, changed = await self._changed.get()
            model = changed.model
            try:
                await self._predictor.warm(app_id, model, changed.version)
            except LensmithError as error:
                # Also the normal end of a deleted model; whoever asks is told the reason.
                _LOG.info("model_not_warmed", app_id=app_id, model=model, reason=error.reason)
            except Exception:
                _LOG.exception("warming_failed", app_id=app_id, model=model)
            heed_cancellation()
