"""Upgrades at work: each is moved on by short steps, which any process may take and any process may die in.

EMBEDDING   dataset is told of the new space, again and again; when no input lacks a vector of it, models are listed.
TRAINING    each model with an answer gets a candidate in the new space; when all have ended, one transaction gives the
            app its new space and the models their new versions.
SWITCHING   serving and dataset are told; then the upgrade is DONE.

FAILED and CANCELLED leave everything as before: candidates are buried, and dataset is told that the space is not
wanted.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lensmith_api.internal.v1.space_service_pb2 import SetSpacesRequest, SpaceProgress
from lensmith_platform.bus import Bus
from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.db.unit_of_work import Connection, Database
from lensmith_platform.errors import ConflictError, LensmithError, NotFoundError, PreconditionError, to_status
from lensmith_platform.outbox import publish
from lensmith_platform.service_auth import service_call_app
from lensmith_registry import base_model_store, changes, model_upgrade_store, upgrade_store
from lensmith_registry.converters import base_model_to_proto, json_from_message
from lensmith_registry.model_upgrade_store import ModelUpgradeRow
from lensmith_registry.training import TrainingRequest, TrainingStart
from lensmith_registry.upgrade_judgement import begin, judge, story
from lensmith_registry.upgrade_store import State, UpgradeRow

if TYPE_CHECKING:  # the generated stubs name this class for type checkers only
    from lensmith_api.internal.v1.space_service_pb2_grpc import SpaceServiceAsyncStub

__all__ = ["Upgrader", "abandon"]

_CLAIM_SECONDS = 30.0
"""How long a step may take before another process takes the next one; two at once do no harm."""
_CALL_SECONDS = 20.0
_LONGEST_PAUSE_SECONDS = 30.0
_INPUTS_PER_SECOND_OF_PAUSE = 50_000
"""Counting a large app takes dataset a while: the larger, the less often it is asked."""
_MOST_FAILURES = 8
_MOST_FAILED_INPUTS = 0.05
"""Part of the inputs that may be lost by a new base model; more is a fault of the base model."""
_LOG = logging.getLogger(__name__)

_Step = Callable[[UpgradeRow], Awaitable[None]]


class Upgrader:
    """Moves upgrades on.

    Args:
        database: Of the workers' role, which sees every app.
        bus: Where serving is told.
        spaces: dataset, which embeds.
        training: Queues candidates.
        pause_seconds: How long an upgrade rests between two steps, at least.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        spaces: SpaceServiceAsyncStub,
        training: TrainingStart,
        pause_seconds: float,
    ) -> None:
        self._database = database
        self._bus = bus
        self._spaces = spaces
        self._training = training
        self._pause_seconds = pause_seconds
        self._steps: Mapping[State, _Step] = {
            "EMBEDDING": self._embed,
            "TRAINING": self._train,
            "SWITCHING": self._tell,
            "DONE": self._clean_up,
            "FAILED": self._clean_up,
            "CANCELLED": self._clean_up,
        }

    async def advance(self) -> None:
        """Take one step in every upgrade that has rested long enough."""
        while True:
            heed_cancellation()
            async with self._database.transaction(None) as connection:
                row = await upgrade_store.claim(connection, _CLAIM_SECONDS)
            if row is None:
                return
            pause = max(self._pause_seconds, row.input_count / _INPUTS_PER_SECOND_OF_PAUSE)
            with service_call_app(row.app_id):
                try:
                    await self._steps[row.state](row)
                except NotFoundError as error:
                    _LOG.info("%s rests: %s", row.name, error)
                except LensmithError as error:
                    _LOG.warning("%s waits: %s", row.name, error)
            async with self._database.transaction(None) as connection:
                await upgrade_store.release(connection, row, min(pause, _LONGEST_PAUSE_SECONDS))

    async def _embed(self, row: UpgradeRow) -> None:
        """Have dataset embed, and list the models when it has."""
        progress = await self._set_spaces(row, row.from_space, row.space, 2 * row.number)
        async with self._database.transaction(row.app_id) as connection:
            locked = await upgrade_store.lock_upgrade(connection, row.app_id, row.id)
            if locked.state != "EMBEDDING":
                return
            held_up = json_from_message(progress.error) if progress.failures else None
            await upgrade_store.note_progress(
                connection, locked, progress.inputs, progress.embedded, progress.failed, held_up
            )
            if progress.failures >= _MOST_FAILURES:
                why = f"{locked.base_model} cannot embed anything here: {progress.error.message}"
                await abandon(connection, locked, "FAILED", PreconditionError("UPGRADE_BASE_MODEL_FAILED", why))
            elif progress.failed > _MOST_FAILED_INPUTS * progress.inputs and not locked.force:
                why = f"{locked.base_model} cannot embed {progress.failed} of {progress.inputs} inputs"
                await abandon(connection, locked, "FAILED", PreconditionError("UPGRADE_INPUTS_FAILED", why))
            elif progress.complete:
                await upgrade_store.set_state(connection, locked, "TRAINING")
                await self._look(connection, locked, lock=False)

    async def _train(self, row: UpgradeRow) -> None:
        """Queue what waits; switch when nothing is left to wait for."""
        async with self._database.transaction(row.app_id) as connection:
            locked = await upgrade_store.lock_upgrade(connection, row.app_id, row.id)
            if locked.state != "TRAINING":
                return
            before = await model_upgrade_store.models_of(connection, locked)
            models = await self._look(connection, locked, lock=False)
        for model in models:
            if model.outcome == "WAITING":
                await self._queue(locked, model)
        # A step later than the last news, so that serving has made ready what will answer.
        known = {model.model_id: model.outcome for model in before}
        if all(model.outcome in ("TRAINED", "KEPT") and known.get(model.model_id) == model.outcome for model in models):
            await self._switch(row)

    async def _queue(self, row: UpgradeRow, model: ModelUpgradeRow) -> None:
        request = TrainingRequest(row.app, model.model, f"upgrade {row.number} to {row.base_model}", "", row.actor)
        try:
            await self._training.queue_for_upgrade(request, row)
        except PreconditionError as error:
            async with self._database.transaction(row.app_id) as connection:
                await upgrade_store.lock_upgrade(connection, row.app_id, row.id)
                refused = replace(model, outcome="KEPT", rounds=model.rounds + 1, reason=error.message)
                await model_upgrade_store.save_model(connection, row, refused)

    async def _look(self, connection: Connection, row: UpgradeRow, *, lock: bool) -> list[ModelUpgradeRow]:
        """Say what becomes of each model of a locked upgrade as it stands now, of new models too."""
        known = {model.model_id: model for model in await model_upgrade_store.models_of(connection, row)}
        standings = await model_upgrade_store.standings(connection, row, lock=lock)
        models = []
        for standing in standings:
            before = known.get(standing.model_id) or begin(standing)
            model = judge(before, standing, row.space, force=row.force)
            await model_upgrade_store.save_model(connection, row, model)
            if model.outcome == "TRAINED" and before.outcome != "TRAINED":
                await changes.model_changed(connection, row.app_id, model.model, model.to_version)
            models.append(model)
        await model_upgrade_store.forget_models(connection, row, [model.model_id for model in models])
        return models

    async def _switch(self, row: UpgradeRow) -> None:
        """Give the app its new space and the models their new versions, all at once."""
        async with self._database.transaction(row.app_id) as connection:
            locked = await upgrade_store.lock_upgrade(connection, row.app_id, row.id)
            if locked.state != "TRAINING":
                return
            # From here on nobody queues a version in the space before.
            await base_model_store.lock_space(connection, row.app_id)
            models = await self._look(connection, locked, lock=True)
            if any(model.outcome in ("WAITING", "TRAINING") for model in models):
                return
            if (why := _not_worth_it(models)) is not None:
                await abandon(connection, locked, "FAILED", why)
                return
            await base_model_store.switch_space(connection, row.app_id, row.space)
            for model in models:
                if model.outcome == "TRAINED":
                    await model_upgrade_store.promote(connection, locked, model)
                    await model_upgrade_store.save_model(connection, locked, replace(model, outcome="UPGRADED"))
                    await changes.model_changed(connection, row.app_id, model.model)
            await publish(connection, changes.space_changed_event(row.app_id, row.space))
            await upgrade_store.set_state(connection, locked, "SWITCHING", message=story(models, row.base_model))

    async def _tell(self, row: UpgradeRow) -> None:
        """Tell dataset and serving; whoever reads DONE afterwards is answered by the new versions."""
        await self._set_spaces(row, row.space, "", 2 * row.number + 1, keep=True)
        await self._bus.publish(changes.space_changed_event(row.app_id, row.space))
        async with self._database.transaction(row.app_id) as connection:
            models = await model_upgrade_store.models_of(connection, row)
        for model in models:
            if model.outcome == "UPGRADED":
                await self._bus.publish(changes.model_changed_event(row.app_id, model.model))
        async with self._database.transaction(row.app_id) as connection:
            locked = await upgrade_store.lock_upgrade(connection, row.app_id, row.id)
            if locked.state == "SWITCHING":
                await upgrade_store.set_state(connection, locked, "DONE")
                await upgrade_store.settle(connection, locked)
                _LOG.info("%s: %s", locked.name, locked.message)

    async def _clean_up(self, row: UpgradeRow) -> None:
        """Tell dataset that an upgrade has ended without a switch."""
        if row.state != "DONE":
            # Who was refused may force it: then nothing has to be embedded anew.
            await self._set_spaces(row, row.from_space, "", 2 * row.number + 1, keep=row.state == "FAILED")
        async with self._database.transaction(row.app_id) as connection:
            await upgrade_store.settle(connection, row)

    async def _set_spaces(
        self, row: UpgradeRow, current: str, target: str, revision: int, *, keep: bool = False
    ) -> SpaceProgress:
        async with self._database.transaction(row.app_id) as connection:
            request = SetSpacesRequest(
                app_id=row.app_id,
                revision=revision,
                current=base_model_to_proto(await base_model_store.by_space(connection, current)),
                target=base_model_to_proto(await base_model_store.by_space(connection, target)) if target else None,
                keep_vectors=keep,
            )
        try:
            return (await self._spaces.SetSpaces(request, timeout=_CALL_SECONDS)).progress
        except ConflictError as error:
            if error.reason != "SPACES_CHANGED":
                raise
            # Only a later upgrade says more than this one, and it begins when this one has ended.
            _LOG.info("%s is overtaken: %s", row.name, error)
            return SpaceProgress()


async def abandon(connection: Connection, row: UpgradeRow, state: State, why: LensmithError | None) -> None:
    """End a locked upgrade that has not switched yet, and leave everything as before."""
    await model_upgrade_store.bury_candidates(connection, row)
    error = None if why is None else json_from_message(to_status(why))
    message = "cancelled: everything is as before" if why is None else f"{why.message}; everything is as before"
    await upgrade_store.set_state(connection, row, state, message=message, error=error)


def _not_worth_it(models: Sequence[ModelUpgradeRow]) -> PreconditionError | None:
    """Say why an upgrade should not switch: none of the models that it could have changed got better."""
    tried = [model for model in models if model.rounds]
    if not tried or any(model.outcome == "TRAINED" for model in models):
        return None
    reasons = "; ".join(f"{model.model}: {model.reason}" for model in tried)
    return PreconditionError("UPGRADE_NO_MODEL_BETTER", f"no model would be upgraded ({reasons})")
