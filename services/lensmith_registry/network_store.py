"""SQL of the networks of fine-tuned versions: named before their bytes are written, so that none is ever forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from lensmith_platform.db.unit_of_work import Connection

__all__ = ["LeftNetwork", "StoredNetwork", "forget", "left_behind", "name_network"]

_ON_ITS_WAY_SECONDS = 3600.0


@dataclass(frozen=True)
class StoredNetwork:
    """What the card of a network says that serving must know before it has the network.

    Attributes:
        space: Of its features.
        sha256: Of its graph.
        size_bytes: Of its graph.
        dimensions: Of its features.
        input_side: Longest side of the pictures that it takes.
    """

    space: str
    sha256: str
    size_bytes: int
    dimensions: int
    input_side: int


@dataclass(frozen=True)
class LeftNetwork:
    """Files that no version needs any more."""

    app_id: int
    version_id: int
    version_uid: UUID


async def name_network(
    connection: Connection, app_id: int, uid: UUID, lease: int, lease_seconds: float, network: str
) -> bool:
    """TRAINING -> TRAINING: name the network whose file is about to be written. False: not this lease's any more."""
    named = await connection.fetchval(
        """UPDATE model_versions SET network = $4, lease_expires_at = now() + make_interval(secs => $5)
           WHERE app_id = $1 AND uid = $2 AND lease = $3 AND state = 'TRAINING' AND completed_at IS NULL
             AND deleted_at IS NULL RETURNING true""",
        app_id,
        uid,
        lease,
        network,
        lease_seconds,
    )
    return bool(named)


async def left_behind(connection: Connection, after: tuple[int, int], limit: int) -> list[LeftNetwork]:
    """Return versions with files that they do not need, of all apps: no result came of them, or their head was kept.

    Args:
        connection: Of the workers' role.
        after: App and version of the last one of the list before; zeros at first.
        limit: Most to return.
    """
    rows = await connection.fetch(
        """SELECT app_id, id, uid FROM model_versions
           WHERE network <> '' AND deleted_at IS NULL AND (state IN ('FAILED', 'CANCELLED')
             OR (completed_at IS NOT NULL AND network_space = '')) AND (app_id, id) > ($1, $2)
           ORDER BY app_id, id LIMIT $3""",
        *after,
        limit,
    )
    return [LeftNetwork(row["app_id"], row["id"], row["uid"]) for row in rows]


async def forget(connection: Connection, left: LeftNetwork) -> None:
    """Name no network any more, once its files are gone and none can be on its way.

    A file that was being put when the version ended is taken away by whoever put it. If that died before, the version
    is still found here, for longer than any file takes.
    """
    await connection.execute(
        """UPDATE model_versions SET network = '' WHERE app_id = $1 AND id = $2 AND network_space = ''
             AND coalesce(ended_at, completed_at) < now() - make_interval(secs => $3)""",
        left.app_id,
        left.version_id,
        _ON_ITS_WAY_SECONDS,
    )
