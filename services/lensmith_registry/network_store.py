"""SQL of the networks of fine-tuned versions: named before their bytes are written, so that none is ever forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from lensmith_platform.db.unit_of_work import Connection

__all__ = ["LeftNetwork", "StoredNetwork", "forget", "left_behind", "name_network"]


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


async def left_behind(connection: Connection, limit: int) -> list[LeftNetwork]:
    """Return versions with files that they do not need, of all apps: no result came of them, or their head was kept."""
    rows = await connection.fetch(
        """SELECT app_id, id, uid FROM model_versions
           WHERE network <> '' AND deleted_at IS NULL AND (state IN ('FAILED', 'CANCELLED')
             OR (completed_at IS NOT NULL AND network_space = ''))
           ORDER BY app_id, id LIMIT $1""",
        limit,
    )
    return [LeftNetwork(row["app_id"], row["id"], row["uid"]) for row in rows]


async def forget(connection: Connection, left: LeftNetwork) -> None:
    """Name no network any more, once its files are gone."""
    await connection.execute(
        "UPDATE model_versions SET network = '' WHERE app_id = $1 AND id = $2 AND network_space = ''",
        left.app_id,
        left.version_id,
    )
