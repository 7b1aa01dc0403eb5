"""What dataset remembers of apps, for work that outlives the call."""

from uuid import UUID

from lensmith_platform.db.unit_of_work import Connection
from lensmith_platform.principal import AppRef

# Children before parents: foreign keys hold at every moment.
_TABLES = (
    "missing_embeddings",
    "spaces",
    "embeddings",
    "general_concepts",
    "annotations",
    "requests",
    "inputs",
    "concepts",
    "input_changes",
)


async def remember(connection: Connection, app: AppRef) -> bool:
    """Note an app's names; return whether it may take in anything, that is, whether it has not been deleted."""
    known = await connection.fetchrow("SELECT own_id, base_model, deleted_at FROM apps WHERE app_id = $1", app.app_id)
    if known is not None and known["deleted_at"] is not None:
        return False
    # Written only when it says something new: every call would otherwise wait for the same row.
    if known is None or (known["own_id"], known["base_model"]) != (app.name, app.base_model):
        await connection.execute(
            """
            INSERT INTO apps (app_id, uid, own_id, base_model) VALUES ($1, $2, $3, $4)
            ON CONFLICT (app_id) DO UPDATE SET own_id = EXCLUDED.own_id, base_model = EXCLUDED.base_model
            """,
            app.app_id,
            UUID(app.uid),
            app.name,
            app.base_model,
        )
    return True


async def get(connection: Connection, app_id: int) -> AppRef | None:
    """Return a remembered app, or None when it is unknown or deleted."""
    row = await connection.fetchrow(
        "SELECT uid, own_id, base_model FROM apps WHERE app_id = $1 AND deleted_at IS NULL", app_id
    )
    if row is None:
        return None
    return AppRef(app_id=app_id, uid=str(row["uid"]), name=row["own_id"], base_model=row["base_model"])


async def uids(connection: Connection, app_ids: list[int]) -> dict[int, str]:
    """Return the uids of apps, deleted ones too."""
    rows = await connection.fetch("SELECT app_id, uid FROM apps WHERE app_id = ANY($1::bigint[])", app_ids)
    return {row["app_id"]: str(row["uid"]) for row in rows}


async def mark_deleted(connection: Connection, app_id: int, uid: str) -> None:
    """Note that an app is gone, also one that dataset never heard of."""
    await connection.execute(
        """
        INSERT INTO apps (app_id, uid, own_id, base_model, deleted_at) VALUES ($1, $2, '', '', now())
        ON CONFLICT (app_id) DO UPDATE SET deleted_at = coalesce(apps.deleted_at, now())
        """,
        app_id,
        UUID(uid),
    )


async def recently_deleted(connection: Connection, hours: float) -> list[int]:
    """Return the apps deleted within the last `hours`: calls that were under way may have added rows since."""
    rows = await connection.fetch(
        "SELECT app_id FROM apps WHERE deleted_at > now() - make_interval(hours => $1)", hours
    )
    return [row["app_id"] for row in rows]


async def delete_rows(connection: Connection, app_id: int, limit: int) -> int:
    """Delete up to `limit` rows of one table of an app; return how many, 0 when nothing is left but its blobs."""
    for table in _TABLES:
        # By ctid, which is unique here: all embeddings of an app lie in one partition.
        rows = await connection.fetch(
            f"""
            DELETE FROM {table} WHERE app_id = $1
                AND ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE app_id = $1 LIMIT $2))
            RETURNING 1
            """,
            app_id,
            limit,
        )
        if rows:
            return len(rows)
    await connection.execute(
        "UPDATE blobs SET deleted_at = '-infinity' WHERE app_id = $1 AND deleted_at IS DISTINCT FROM '-infinity'",
        app_id,
    )
    return 0
