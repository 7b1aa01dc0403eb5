"""The change feed as the trainer reads it: asked with the trainer's own service key, from its last cursor on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from lensmith_api.internal.v1.key_resolver_service_pb2 import ResolveAppRequest
from lensmith_api.internal.v1.key_resolver_service_pb2_grpc import KeyResolverServiceStub
from lensmith_api.internal.v1.training_data_service_pb2 import StreamTrainingDataRequest, TrainingInput
from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceStub
from lensmith_platform.service_auth import TokenSigner
from lensmith_stack.commands import status
from tests.platform_process import PlatformProcess

if TYPE_CHECKING:  # the generated stubs name this class for type checkers only
    from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceAsyncStub


class Feed:
    """Everything that the feed has told of one app: the last word on each input.

    Attributes:
        inputs: state by uid.
        reads: how often it was asked.
    """

    def __init__(self, stub: TrainingDataServiceAsyncStub, signer: TokenSigner, app_id: int, space: str) -> None:
        self.inputs: dict[str, TrainingInput] = {}
        self.reads = 0
        self._stub = stub
        self._signer = signer
        self._app_id = app_id
        self._space = space
        self._cursor = ""

    async def read(self) -> None:
        """Takes in what has changed since the last read."""
        request = StreamTrainingDataRequest(app_id=self._app_id, space=self._space, cursor=self._cursor)
        metadata = _metadata(self._signer, "dataset", self._app_id)
        async for message in self._stub.StreamTrainingData(request, metadata=metadata, timeout=60):
            self.inputs |= {item.input_uid: item for item in message.inputs}
            self._cursor = message.next_cursor or self._cursor
        self.reads += 1


@asynccontextmanager
async def feed_of(platform: PlatformProcess, app: str, space: str) -> AsyncIterator[Feed]:
    """Opens the feed of an app in one space."""
    addresses = {part.name: part.address for part in status(platform.data_dir).parts}
    signer = TokenSigner("trainer", _trainer_key(platform.data_dir))
    async with (
        grpc.aio.insecure_channel(addresses["auth"]) as auth,
        grpc.aio.insecure_channel(addresses["dataset"]) as dataset,
    ):
        found = await KeyResolverServiceStub(auth).ResolveApp(
            ResolveAppRequest(app=app), metadata=_metadata(signer, "auth", 0), timeout=30
        )
        yield Feed(TrainingDataServiceStub(dataset), signer, found.app_id, space)


def _trainer_key(data_dir: Path) -> Path:
    return data_dir / "secrets" / "keys" / "private" / "trainer.pem"


def _metadata(signer: TokenSigner, audience: str, app_id: int) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Service {signer.token(audience, app_id)}"),)
