"""Killing a server of the tests."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from lensmith_stack.supervisor import PartState
from tests.polling import until

if TYPE_CHECKING:
    from lensmith_stack.background import BackgroundServers


async def kill_server(servers: BackgroundServers, name: str) -> None:
    """Kills a server without warning and waits until its supervisor brought it back."""
    part = next((part for part in servers.supervisor.parts if part.program.name == name), None)
    if part is None or part.child is None:
        pytest.skip(f"{name} is an outside server, which tests do not kill")
    restarts = part.restarts

    async def is_back() -> bool:
        return part.restarts > restarts and part.state is PartState.RUNNING

    os.kill(part.child.pid, signal.SIGKILL)
    await until(is_back, seconds=60)
