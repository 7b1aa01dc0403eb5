"""Loopback ports: a block of them for each data directory, kept for as long as nobody else has taken one.

A port that is chosen but not yet listened on could be chosen by a second platform as well. So whoever uses a block
holds its first port, bound and silent, all the while: two platforms that start at once never share a block.
"""

import json
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from lensmith_stack.errors import StackError
from lensmith_stack.files import write_private

LOOPBACK = "127.0.0.1"

# All of them below what Linux hands to outgoing connections, so that no client can take the port of a server that is
# restarting. Blocks begin in the first range; a server's second port may lie 10000 further on, where nothing else is.
_BLOCK = 32
_BASES = range(20000, 22768 - _BLOCK, _BLOCK)
_SINGLES = range(22768, 30000)


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports, outside all blocks, that nobody listens on at this moment."""
    ports: list[int] = []
    while len(ports) < count:
        port = secrets.choice(_SINGLES)
        if port not in ports and is_free(port):
            ports.append(port)
    return ports


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
    except OSError:
        return False
    return True


@contextmanager
def reserve_ports(
    file: Path, names: Sequence[str], twins: Mapping[str, int] | None = None
) -> Iterator[Mapping[str, int]]:
    """A free loopback port for each name, the same as last time where possible; ours until the end of the block.

    Args:
        file: where the choice is remembered.
        names: what needs a port, at most 31.
        twins: for a name the distance to a second port that must be free with the first.

    Raises:
        StackError: every block is taken.
    """
    bases = list(_BASES)
    secrets.SystemRandom().shuffle(bases)
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        bases.insert(0, int(json.loads(file.read_text())["base"]))
    for base in bases:
        guard = _guard(base)
        if guard is None:
            continue
        with closing(guard):
            ports = {name: base + 1 + offset for offset, name in enumerate(names)}
            second = [ports[name] + distance for name, distance in (twins or {}).items()]
            if all(is_free(port) for port in (*ports.values(), *second)):
                write_private(file, json.dumps({"base": base, "ports": ports}, indent=2))
                yield ports
                return
    raise StackError("No block of loopback ports between 20000 and 22768 is free: other programs hold them all.")


def _guard(port: int) -> socket.socket | None:
    guard = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        guard.bind((LOOPBACK, port))
    except (OSError, OverflowError):
        guard.close()
        return None
    return guard
