"""Where keys and apps are found: in this service's own tables. Other services ask for them over KeyResolverService."""

from datetime import UTC, datetime, timedelta

from lensmith_auth.app_store import AppRow, AppStore
from lensmith_auth.key_store import KeyRow, RevocationStore, SecretStore
from lensmith_platform.db import Database
from lensmith_platform.errors import NotFoundError, UnauthenticatedError
from lensmith_platform.key_cache import ResolvedKey
from lensmith_platform.principal import AppRef
from lensmith_platform.scopes import expand


class StoredKeySource:
    """Finds keys by the hash of their secret, and apps by their own id."""

    def __init__(self, worker: Database, last_used_seconds: float) -> None:
        self._worker = worker
        self._last_used = timedelta(seconds=last_used_seconds)

    async def resolve_key(self, secret_sha256: bytes) -> ResolvedKey:
        """What a key may do.

        Raises:
            UnauthenticatedError: `KEY_UNKNOWN` or `KEY_EXPIRED`.
        """
        async with self._worker.transaction(None) as connection:
            # Read before the key: a revocation in between makes the answer look older than it is, never newer.
            number = await RevocationStore(connection).current()
            key = await SecretStore(connection).find(secret_sha256)
            if key is None:
                raise UnauthenticatedError("KEY_UNKNOWN", "this key does not exist; it may have been deleted")
            now = datetime.now(UTC)
            if key.expires_at and key.expires_at <= now:
                raise UnauthenticatedError(
                    "KEY_EXPIRED",
                    f"this key expired at {key.expires_at:%Y-%m-%d %H:%M} UTC",
                    metadata={"expire_time": key.expires_at.isoformat()},
                )
            if key.last_used_at is None or now - key.last_used_at >= self._last_used:
                await SecretStore(connection).touch(key)
            app = None if key.operator else await AppStore(connection).get(key.app_id)
        return _resolved(key, app, number)

    async def resolve_app(self, name: str) -> AppRef:
        """An app by its own id.

        Raises:
            NotFoundError: `APP_NOT_FOUND`.
        """
        async with self._worker.transaction(None) as connection:
            row = await AppStore(connection).find_by_name(name)
        if row is None:
            raise NotFoundError("APP_NOT_FOUND", f"there is no app {name!r}", metadata={"app": name})
        return _app_ref(row)


def _resolved(key: KeyRow, app: AppRow | None, number: int) -> ResolvedKey:
    return ResolvedKey(
        key_uid=str(key.uid),
        app=_app_ref(app) if app else None,
        scopes=expand(key.scopes),
        operator=key.operator,
        expire_time=key.expires_at,
        revocation_number=number,
    )


def _app_ref(row: AppRow) -> AppRef:
    return AppRef(app_id=row.app_id, uid=str(row.uid), name=row.name, base_model=row.base_model)
