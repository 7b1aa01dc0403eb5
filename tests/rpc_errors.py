"""Asserting that a call fails as it should."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status


@dataclass
class Failure:
    """What a failed call said; filled when the block has ended."""

    reason: str = ""
    message: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


@contextmanager
def failing(code: grpc.StatusCode, reason: str | None = None) -> Iterator[Failure]:
    """Expects the block's call to fail with a code and, where given, the reason in its ErrorInfo."""
    failure = Failure()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield failure
    status = rpc_status.from_call(caught.value)
    failure.message = caught.value.details() or ""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            failure.reason, failure.metadata = info.reason, dict(info.metadata)
    assert caught.value.code() is code, f"{caught.value.code()} {failure.reason}: {failure.message}"
    if reason is not None:
        assert failure.reason == reason, failure.message
