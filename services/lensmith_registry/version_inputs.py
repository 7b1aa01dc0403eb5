"""The inputs that a version was trained on: where the listing lies, and its pages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lensmith_api.internal.v1.training_data_service_pb2 import NameInputsRequest
from lensmith_api.v1.annotation_pb2 import Annotation
from lensmith_api.v1.model_version_input_pb2 import ModelVersionInput
from lensmith_platform.blobs import Blobs
from lensmith_platform.cancellation import thread_to_its_end
from lensmith_platform.errors import InternalError, PreconditionError
from lensmith_registry.pages import MOST_BYTES
from lensmith_registry.version_store import VersionRow
from lensmith_vision import dataset_snapshot
from lensmith_vision.dataset_snapshot import DatasetSnapshot
from lensmith_vision.errors import VisionError

if TYPE_CHECKING:  # the generated stubs name this class for type checkers only
    from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceAsyncStub

__all__ = ["VersionInputs", "snapshot_key"]

_AT_ONCE = 4


def snapshot_key(app_id: int, version_uid: str, sha256: str) -> str:
    """Key of a listing among the blobs. Each version has its own, so that deleting one never takes another's bytes."""
    return f"snapshots/{app_id}/{version_uid}/{sha256}"


class VersionInputs:
    """Reads listings.

    Args:
        blobs: Where they lie.
        training_data: dataset, which knows how inputs are called now.
    """

    def __init__(self, blobs: Blobs, training_data: TrainingDataServiceAsyncStub) -> None:
        self._blobs = blobs
        self._training_data = training_data
        self._turns = asyncio.Semaphore(_AT_ONCE)
        # Whoever reads one page of many reads the next one too: all of the list read for each would take its square.
        self._begun: tuple[str, DatasetSnapshot] | None = None

    async def page(self, row: VersionRow, start: int, size: int) -> tuple[list[ModelVersionInput], int]:
        """Return the inputs from one place on, fewer where they have very many labels, and how many there are in all.

        Raises:
            PreconditionError: VERSION_NOT_READY, or VERSION_HAS_NO_INPUT_LIST.
        """
        if row.state != "READY":
            raise PreconditionError(
                "VERSION_NOT_READY", f"{row.name} is {row.state}, not READY", metadata={"state": row.state}
            )
        if not row.dataset_snapshot:
            raise PreconditionError(
                "VERSION_HAS_NO_INPUT_LIST",
                f"{row.name} has no list of its inputs: it came trained, was trained before such lists were kept, or "
                "on more inputs than one holds",
            )
        # Each list of 100,000 inputs takes 17 MB.
        async with self._turns:
            begun = self._begun
            snapshot = begun[1] if begun is not None and begun[0] == row.dataset_snapshot else await self._read(row)
            places = range(start, min(start + size, len(snapshot)))
            uids = [snapshot.ids[place] for place in places]
            named = await self._training_data.NameInputs(NameInputsRequest(app_id=row.app_id, input_uids=uids))
            # A thousand inputs of hundreds of labels take seconds.
            page = await thread_to_its_end(_page, row, snapshot, places, named.input_ids)
            self._begun = (row.dataset_snapshot, snapshot) if start + len(page) < len(snapshot) else None
        return page, len(snapshot)

    async def _read(self, row: VersionRow) -> DatasetSnapshot:
        data = await self._blobs.get(row.dataset_snapshot)
        try:
            return await thread_to_its_end(dataset_snapshot.load, data)
        except VisionError as error:
            raise InternalError("DATASET_SNAPSHOT_DAMAGED", f"{row.dataset_snapshot}: {error}") from error


def _page(row: VersionRow, snapshot: DatasetSnapshot, places: range, names: Sequence[str]) -> list[ModelVersionInput]:
    found: list[ModelVersionInput] = []
    room = MOST_BYTES
    for place, name in zip(places, names, strict=True):
        if room <= 0:
            break
        fold = int(snapshot.folds[place])
        found.append(
            ModelVersionInput(
                input=f"apps/{row.app_name}/inputs/{name}",
                uid=snapshot.ids[place],
                sha256=snapshot.hashes[place].tobytes().hex(),
                annotations=[_annotation(concept, value) for concept, value in snapshot.labels_of(place).items()],
                fold=None if fold == dataset_snapshot.NO_FOLD else fold,
            )
        )
        room -= found[-1].ByteSize()
    return found


def _annotation(concept: str, value: bool | float) -> Annotation:
    if isinstance(value, bool):
        return Annotation(concept=concept, positive=value)
    return Annotation(concept=concept, number=value)
