"""Loopback ports: chosen once per data directory, kept as long as nobody else has taken them."""

import json
import secrets
import socket
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lensmith_stack.files import write_private

LOOPBACK = "127.0.0.1"

# Below what Linux hands to outgoing connections, so that no client can take the port of a server that is restarting.
_PORTS = range(20000, 32768)


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports that nobody listens on at this moment."""
    ports: list[int] = []
    while len(ports) < count:
        ports.append(_free_port(ports))
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


def keep_ports(file: Path, names: Sequence[str], twins: Mapping[str, int] | None = None) -> dict[str, int]:
    """A free loopback port for each name, the same as last time where still free.

    Args:
        file: where the choice is remembered.
        names: what needs a port.
        twins: for a name the distance to a second port that must be free with the first.
    """
    distances = twins or {}
    remembered: dict[str, int] = {}
    with suppress(FileNotFoundError, ValueError):
        remembered = {str(name): int(port) for name, port in json.loads(file.read_text()).items()}
    kept: dict[str, int] = {}
    taken: list[int] = []
    # Twins first: they find a place less easily.
    for name in sorted(names, key=lambda name: name not in distances):
        distance = distances.get(name, 0)
        port = remembered.get(name, 0)
        if not port or port in taken or not _both_free(port, distance):
            port = _free_port([*taken, *remembered.values()], distance)
        kept[name] = port
        taken += {port, port + distance}
    write_private(file, json.dumps(kept, indent=2))
    return kept


def _free_port(taken: Collection[int], distance: int = 0) -> int:
    while True:
        port = _PORTS.start + secrets.randbelow(len(_PORTS) - distance)
        if not {port, port + distance} & set(taken) and _both_free(port, distance):
            return port


def _both_free(port: int, distance: int) -> bool:
    return is_free(LOOPBACK, port) and is_free(LOOPBACK, port + distance)
