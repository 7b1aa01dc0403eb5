"""What fine-tuning gets from other services and gives to them: base networks, pictures, and what came out."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lensmith_api.internal.v1.serving_service_pb2 import FetchArtefactRequest, PackFile
from lensmith_api.internal.v1.training_data_service_pb2 import StreamPicturesRequest
from lensmith_api.internal.v1.training_job_service_pb2 import NetworkFileHeader, PutNetworkFileRequest, TrainingJob
from lensmith_trainer.patience import TRANSIENT, Patience
from lensmith_vision.card import CARD_FILE, LABELS_FILE, MODEL_FILE
from lensmith_vision.errors import PackError
from lensmith_vision.pack import load_card

if TYPE_CHECKING:  # the generated stubs name these classes for type checkers only
    from lensmith_api.internal.v1.serving_service_pb2_grpc import ServingServiceAsyncStub
    from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceAsyncStub
    from lensmith_api.internal.v1.training_job_service_pb2_grpc import TrainingJobServiceAsyncStub

__all__ = ["NetworkTransfer"]

_CHUNK_BYTES = 1 << 20
_PICTURES = 200
"""Asked for in one stream; a stream that breaks is begun again with what is left of them."""


class NetworkTransfer:
    """Fetches and gives. While the other service is away it waits, so long as whoever calls has patience.

    Args:
        serving: registry, which has base networks.
        training_data: dataset, which has pictures.
        jobs: registry, which takes networks.
        stream_seconds: Deadline of one stream.
        patience_seconds: How long to try again what fails.
    """

    def __init__(
        self,
        serving: ServingServiceAsyncStub,
        training_data: TrainingDataServiceAsyncStub,
        jobs: TrainingJobServiceAsyncStub,
        stream_seconds: float,
        patience_seconds: float,
    ) -> None:
        self._serving = serving
        self._training_data = training_data
        self._jobs = jobs
        self._stream_seconds = stream_seconds
        self._patience_seconds = patience_seconds

    async def fetch_pack(self, space: str, folder: Path) -> None:
        """Fetch card and graph of a space's base network into a folder.

        Raises:
            PackError: What came is not what the card tells of.
            LensmithError: registry does not have it, or is away for too long.
        """
        await asyncio.to_thread(lambda: folder.mkdir(parents=True, exist_ok=True))
        for name in (CARD_FILE, MODEL_FILE):
            await self._patiently(partial(self._fetch_file, space, name, folder / name))
        if await asyncio.to_thread(_digest, folder / MODEL_FILE) != load_card(folder).sha256:
            raise PackError("PACK_INVALID", f"the graph of {space} is not the one that its card tells of")

    async def pictures(self, app_id: int, uids: Sequence[str]) -> AsyncGenerator[tuple[str, bytes], None]:
        """Yield uid and bytes of pictures in the order asked for; those that are gone are left out.

        Raises:
            LensmithError: dataset refuses, or is away for too long.
        """
        for start in range(0, len(uids), _PICTURES):
            left = list(uids[start : start + _PICTURES])
            patience = Patience(self._patience_seconds)
            while left:
                request = StreamPicturesRequest(app_id=app_id, input_uids=left)
                try:
                    async for one in self._training_data.StreamPictures(request, timeout=self._stream_seconds):
                        left = left[left.index(one.input_uid) + 1 :]
                        patience.renew()
                        yield one.input_uid, one.content
                except TRANSIENT as error:
                    await patience.wait(error, "pictures cannot be had now")
                else:
                    break

    async def put_network(self, job: TrainingJob, pack: Path) -> None:
        """Give registry the files of a network; repeating it changes nothing.

        Raises:
            LensmithError: registry refuses, or is away for too long.
        """
        for name in (CARD_FILE, LABELS_FILE, MODEL_FILE):
            header = NetworkFileHeader(
                app_id=job.app_id,
                version_uid=job.version_uid,
                lease=job.lease,
                file_name=name,
                sha256=await asyncio.to_thread(_digest, pack / name),
            )
            await self._patiently(partial(self._put_file, header, pack / name))

    async def _fetch_file(self, space: str, name: str, path: Path) -> None:
        request = FetchArtefactRequest(pack_file=PackFile(space=space, file_name=name))
        with await asyncio.to_thread(path.open, "wb") as file:
            async for part in self._serving.FetchArtefact(request, timeout=self._stream_seconds):
                await asyncio.to_thread(file.write, part.chunk)

    async def _put_file(self, header: NetworkFileHeader, path: Path) -> None:
        await self._jobs.PutNetworkFile(_parts(header, path), timeout=self._stream_seconds)

    async def _patiently(self, call: Callable[[], Awaitable[None]]) -> None:
        patience = Patience(self._patience_seconds)
        while True:
            try:
                return await call()
            except TRANSIENT as error:
                await patience.wait(error, "registry cannot be asked now")


async def _parts(header: NetworkFileHeader, path: Path) -> AsyncIterator[PutNetworkFileRequest]:
    yield PutNetworkFileRequest(header=header)
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield PutNetworkFileRequest(chunk=chunk)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
