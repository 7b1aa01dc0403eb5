"""Which key the commands of the operator send, and to whom."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import lensmith
from lensmith.cli.session import Session
from tests.lensmith.server import Script, scripted_server

SECRET = "lsk_" + "operator" * 5


@pytest.fixture
async def server() -> AsyncIterator[Script]:
    async with scripted_server() as running:
        yield running


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data directory of a platform of this machine, and a user who has configured nothing."""
    monkeypatch.setenv("LENSMITH_CONFIG", str(tmp_path / "config.toml"))
    for name in ("LENSMITH_URL", "LENSMITH_KEY", "LENSMITH_APP"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "operator.key").write_text(SECRET)
    return tmp_path


async def _sent(server: Script, session: Session, data_dir: Path) -> str:
    def ask() -> None:
        with session.operator_client(data_dir) as client:
            client.whoami()

    await asyncio.to_thread(ask)
    return server.metadata[-1].get("authorization", "")


async def test_operator_key_is_sent_when_the_platform_is_on_this_machine(server: Script, data_dir: Path) -> None:
    assert await _sent(server, Session(url=server.url), data_dir) == f"Key {SECRET}"


async def test_operator_key_stays_here_when_another_address_is_asked(server: Script, data_dir: Path) -> None:
    # The same server by a name that does not say that it is here.
    elsewhere = server.url.replace("127.0.0.1", "[::ffff:127.0.0.1]")
    assert SECRET not in await _sent(server, Session(url=elsewhere), data_dir)


async def test_given_key_is_sent_when_there_is_one(server: Script, data_dir: Path) -> None:
    assert await _sent(server, Session(url=server.url, key="lsk_mine"), data_dir) == "Key lsk_mine"


async def test_usual_address_is_asked_when_nothing_runs_and_nothing_is_configured(data_dir: Path) -> None:
    with Session().operator_client(data_dir) as client:
        assert client.url == lensmith.config.DEFAULT_URL
