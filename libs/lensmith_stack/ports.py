"""Loopback ports: chosen once per data directory, kept as long as nobody else has taken them."""

import json
import secrets
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from lensmith_stack.files import write_private

LOOPBACK = "127.0.0.1"

# Below what Linux hands to outgoing connections, so that no client can take the port of a server that is restarting.
_PORTS = range(20000, 32768)


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports that nobody listens on at this moment."""
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with suppress(OSError):
                probe.bind((LOOPBACK, _PORTS.start + secrets.randbelow(len(_PORTS))))
                ports.append(int(probe.getsockname()[1]))
    return ports


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError:
        return False
    return True


def keep_ports(file: Path, names: Sequence[str]) -> dict[str, int]:
    """A free loopback port for each name, the same as last time where still free.

    Args:
        file: where the choice is remembered.
        names: what needs a port.
    """
    remembered: dict[str, int] = {}
    with suppress(FileNotFoundError, ValueError):
        loaded = json.loads(file.read_text())
        remembered = {str(name): int(port) for name, port in loaded.items()}
    kept = {name: remembered[name] for name in names if name in remembered and is_free(LOOPBACK, remembered[name])}
    missing = [name for name in names if name not in kept]
    fresh = [port for port in free_ports(len(names) + len(kept)) if port not in kept.values()]
    kept.update(zip(missing, fresh, strict=False))
    write_private(file, json.dumps(kept, indent=2))
    return kept
