"""The client: typed errors, retries where they are safe, deadlines, credentials."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

import lensmith
from lensmith._async import exports
from lensmith_api.v1.model_service_pb2 import ExportModelVersionResponse
from tests.lensmith.server import Script, scripted_server

SECRET = "lsk_secret"


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    async with scripted_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("URL", "KEY", "APP"):
        monkeypatch.delenv(f"LENSMITH_{name}", raising=False)
    monkeypatch.setenv("LENSMITH_CONFIG", str(tmp_path / "config.toml"))


def refusal(
    code: int, reason: str, retry_seconds: float | None = None
) -> Callable[[grpc.aio.ServicerContext], Awaitable[None]]:
    """Makes the server fail as the platform does."""

    async def fail(context: grpc.aio.ServicerContext) -> None:
        info = error_details_pb2.ErrorInfo(reason=reason, domain="lensmith", metadata={"scope": "Predict"})
        violation = error_details_pb2.BadRequest.FieldViolation(field="inputs", description="must not be empty")
        details = [info, error_details_pb2.BadRequest(field_violations=[violation])]
        if retry_seconds is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(int(retry_seconds * 1000))
            details.append(retry)
        status = status_pb2.Status(code=code, message="because")
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        await context.abort_with_status(rpc_status.to_status(status))

    return fail


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (code_pb2.INVALID_ARGUMENT, lensmith.InvalidInputError),
        (code_pb2.UNAUTHENTICATED, lensmith.UnauthenticatedError),
        (code_pb2.PERMISSION_DENIED, lensmith.ForbiddenError),
        (code_pb2.NOT_FOUND, lensmith.NotFoundError),
        (code_pb2.ALREADY_EXISTS, lensmith.AlreadyExistsError),
        (code_pb2.FAILED_PRECONDITION, lensmith.PreconditionError),
        (code_pb2.INTERNAL, lensmith.InternalError),
    ],
)
async def test_an_error_is_rebuilt_as_the_platform_raised_it(
    script: Script, code: int, kind: type[lensmith.LensmithError]
) -> None:
    script.failures = [refusal(code, "THE_REASON")]
    async with lensmith.AsyncClient(script.url, SECRET) as client:
        with pytest.raises(kind) as caught:
            await client.whoami()
    error = caught.value
    assert (error.reason, error.message) == ("THE_REASON", "because")
    assert error.metadata == {"scope": "Predict"}
    assert error.field_violations == [("inputs", "must not be empty")]
    assert script.calls["WhoAmI"] == 1


async def test_a_read_is_repeated_while_the_platform_is_away(script: Script) -> None:
    script.failures = [refusal(code_pb2.UNAVAILABLE, "SERVICE_UNAVAILABLE")] * 3
    async with lensmith.AsyncClient(script.url, SECRET) as client:
        assert (await client.whoami()).app == "trash"
    assert script.calls["WhoAmI"] == 4


async def test_retries_come_to_an_end(script: Script) -> None:
    script.failures = [refusal(code_pb2.UNAVAILABLE, "SERVICE_UNAVAILABLE")] * 10
    async with lensmith.AsyncClient(script.url, SECRET, retries=2) as client:
        with pytest.raises(lensmith.UnavailableError):
            await client.whoami()
    assert script.calls["WhoAmI"] == 3


async def test_a_delete_is_not_repeated_when_its_first_try_may_have_succeeded(script: Script) -> None:
    script.failures = [refusal(code_pb2.UNAVAILABLE, "SERVICE_UNAVAILABLE")]
    async with lensmith.AsyncClient(script.url, SECRET, "trash") as client:
        with pytest.raises(lensmith.UnavailableError):
            await client.keys.delete("k")
    assert script.calls["DeleteKey"] == 1


async def test_a_quota_is_waited_out_as_long_as_the_platform_says(script: Script) -> None:
    script.failures = [refusal(code_pb2.RESOURCE_EXHAUSTED, "TOO_MANY", retry_seconds=0.05)]
    async with lensmith.AsyncClient(script.url, SECRET) as client:
        await client.whoami()
    assert script.calls["WhoAmI"] == 2


async def test_a_call_ends_at_its_timeout(script: Script) -> None:
    async def hang(context: grpc.aio.ServicerContext) -> None:
        await asyncio.Event().wait()

    script.failures = [hang]
    async with lensmith.AsyncClient(script.url, SECRET, timeout=0.2) as client:
        with pytest.raises(lensmith.DeadlineExceededError):
            await client.whoami()


async def test_the_key_is_sent_and_never_shown(script: Script) -> None:
    async with lensmith.AsyncClient(script.url, SECRET) as client:
        await client.whoami()
    assert script.metadata[0]["authorization"] == f"Key {SECRET}"
    assert SECRET not in repr(lensmith.config.Config.load().replace(key=SECRET))


async def test_the_synchronous_client_does_the_same(script: Script) -> None:
    def ask() -> str:
        with lensmith.Client(script.url, SECRET, "trash") as client:
            return client.predict("sorter", [b"picture", b"picture"]).model_version

    script.failures = [refusal(code_pb2.UNAVAILABLE, "SERVICE_UNAVAILABLE")]
    assert await asyncio.to_thread(ask) == "apps/trash/models/sorter/versions/1"
    assert script.calls["Predict"] == 2


async def test_a_file_that_cannot_be_read_is_named(script: Script, tmp_path: Path) -> None:
    async with lensmith.AsyncClient(script.url, SECRET, "trash") as client:
        with pytest.raises(lensmith.InvalidInputError, match=r"nothing\.jpg"):
            await client.predict("sorter", [tmp_path / "nothing.jpg"])


async def test_the_file_that_was_asked_for_is_named_when_it_cannot_be_written(tmp_path: Path) -> None:
    async def nothing() -> AsyncIterator[ExportModelVersionResponse]:
        for _ in ():
            yield ExportModelVersionResponse()

    asked = tmp_path / "missing" / "model.zip"
    with pytest.raises(FileNotFoundError) as error:
        await exports.save(nothing(), asked)
    assert error.value.filename == str(asked)


async def test_a_platform_that_is_not_there_is_said_to_be_away() -> None:
    async with lensmith.AsyncClient("http://127.0.0.1:1", SECRET, retries=1) as client:
        with pytest.raises(lensmith.UnavailableError):
            await client.whoami()


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "http://", "http://host/path"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(lensmith.InvalidInputError, match="not the address"):
        lensmith.Client(url)


def test_an_app_has_to_be_chosen() -> None:
    with (
        lensmith.Client("http://127.0.0.1:1", SECRET) as client,
        pytest.raises(lensmith.PreconditionError, match="app"),
    ):
        client.keys  # noqa: B018  the property raises
