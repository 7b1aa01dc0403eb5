"""Who is calling: keys checked in every service from a cache that revocations reach within a second.

auth broadcasts every revocation under a number, and the newest number every 250 ms. While these heartbeats arrive, a
key checked before is good. After 750 ms of silence every call asks auth; where auth is away too, a key works for as
long as it would have been cached (60 s by default) and no longer. A number that jumps tells of a revocation that was
missed: everything is forgotten.
"""

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from google.protobuf.message import DecodeError

from lensmith_api.internal.v1.events_pb2 import Revocation
from lensmith_platform.clock import Clock, SystemClock
from lensmith_platform.errors import DeadlineExceededError, DependencyUnavailableError, UnauthenticatedError
from lensmith_platform.principal import MAIN_APP, AppRef, Principal
from lensmith_platform.service_auth import TokenVerifier

SILENCE_SECONDS = 0.75
"""Silence after which nobody may rely on having heard of every revocation."""

APP_SECONDS = 1.0
"""How long an app found by its name is good: one deleted and made again has another number."""

REVOCATIONS_SUBJECT = "auth.revocations"
"""Subject of the numbered broadcasts."""

_HOW = "send the header `Authorization: Key <secret>`"
_MAX_SECRET = 512
_MAX_KEYS = 20_000
_MAX_APPS = 10_000


@dataclass(frozen=True, slots=True)
class ResolvedKey:
    """What auth knows of a key.

    Attributes:
        key_uid: uid of the key.
        app: the key's app; None for the operator's key.
        scopes: scopes granted, implied ones included.
        operator: whether it is the operator's key.
        expire_time: when it stops working, in UTC; None: never.
        revocation_number: number of the newest revocation that this takes account of.
    """

    key_uid: str
    app: AppRef | None
    scopes: frozenset[str]
    operator: bool
    expire_time: datetime | None
    revocation_number: int


class KeySource(Protocol):
    """Who knows keys and apps: auth over gRPC, or auth's own store inside auth."""

    async def resolve_key(self, secret_sha256: bytes) -> ResolvedKey:
        """Find a key by the SHA-256 of its secret.

        Raises:
            UnauthenticatedError: KEY_UNKNOWN or KEY_EXPIRED.
            DependencyUnavailableError: the source does not answer.
        """
        ...

    async def resolve_app(self, name: str) -> AppRef:
        """Find an app by its own id.

        Raises:
            NotFoundError: APP_NOT_FOUND.
            DependencyUnavailableError: the source does not answer.
        """
        ...


@dataclass(slots=True)
class _KeyEntry:
    principal: Principal
    expire_time: datetime | None
    confirmed: float


@dataclass(slots=True)
class _AppEntry:
    app: AppRef
    confirmed: float


class Authenticator:
    """Turns the `authorization` header of a call into a `Principal`."""

    def __init__(
        self,
        source: KeySource,
        verifier: TokenVerifier,
        *,
        clock: Clock | None = None,
        cache_seconds: float = 60.0,
    ) -> None:
        """Start with an empty cache.

        Args:
            source: who knows keys and apps.
            verifier: checks tokens of services.
            clock: where the time comes from.
            cache_seconds: how long a key works after it was checked, without asking again.
        """
        self.source = source
        """Who knows keys and apps. auth sets its own store here."""
        self._verifier = verifier
        self._clock = clock or SystemClock()
        self._cache_seconds = cache_seconds
        self._keys: OrderedDict[bytes, _KeyEntry] = OrderedDict()
        self._apps: OrderedDict[str, _AppEntry] = OrderedDict()
        self._asked: dict[bytes, asyncio.Task[Principal]] = {}
        self._number: int | None = None
        self._heard: float | None = None

    async def authenticate(self, authorization: str | None) -> Principal:
        """Tell who sends this header.

        Raises:
            UnauthenticatedError: CREDENTIALS_MISSING, CREDENTIALS_MALFORMED, KEY_UNKNOWN, KEY_EXPIRED or TOKEN_INVALID.
            DependencyUnavailableError: nobody can tell now.
        """
        if not authorization:
            raise UnauthenticatedError("CREDENTIALS_MISSING", f"this call needs a key: {_HOW}")
        scheme, _, secret = authorization.strip().partition(" ")
        secret = secret.strip()
        kind = scheme.lower()
        if not secret or " " in secret or kind not in ("key", "bearer", "service"):
            raise UnauthenticatedError("CREDENTIALS_MALFORMED", f"the authorization header cannot be read: {_HOW}")
        if kind == "service":
            claims = self._verifier.verify(secret)
            return Principal(
                "service",
                service=claims.service,
                actor=f"services/{claims.service}",
                service_app_id=claims.app_id,
            )
        if len(secret) > _MAX_SECRET:
            raise UnauthenticatedError("CREDENTIALS_MALFORMED", f"the key is longer than any key: {_HOW}")
        return await self._principal_of(hashlib.sha256(secret.encode()).digest())

    async def resolve_app(self, name: str) -> AppRef:
        """Find an app by its own id, for callers who are bound to no app.

        Raises:
            NotFoundError: APP_NOT_FOUND.
            DependencyUnavailableError: nobody can tell now.
        """
        entry = self._apps.get(name)
        age = self._clock.monotonic() - entry.confirmed if entry is not None else 0.0
        # The public app is never deleted, and predictions on it should not wait for auth.
        if entry is not None and age < (self._cache_seconds if name == MAIN_APP else APP_SECONDS):
            return entry.app
        try:
            app = await self.source.resolve_app(name)
        except (DependencyUnavailableError, DeadlineExceededError):
            if entry is not None and age < self._cache_seconds:
                return entry.app
            raise
        self._apps[name] = _AppEntry(app, self._clock.monotonic())
        if len(self._apps) > _MAX_APPS:
            self._apps.popitem(last=False)
        return app

    def on_broadcast(self, data: bytes) -> None:
        """Take in one broadcast of auth; what cannot be read is not a sign of life."""
        try:
            broadcast = Revocation.FromString(data)
        except DecodeError:
            return
        expected = self._number
        if broadcast.secret_sha256:
            self.forget(broadcast.secret_sha256)
            # A revocation may be the deletion of an app, and its name may be given again.
            self._apps.clear()
            expected = None if expected is None else expected + 1
        if broadcast.number != expected:
            self._keys.clear()
            self._apps.clear()
            # Answers on their way may be older than what was missed.
            self._asked.clear()
        self._number = broadcast.number
        self._heard = self._clock.monotonic()

    def forget(self, secret_sha256: bytes) -> None:
        """Forget one key at once; also an answer about it that is still on its way."""
        self._keys.pop(secret_sha256, None)
        self._asked.pop(secret_sha256, None)

    @property
    def hears_revocations(self) -> bool:
        """Whether broadcasts arrive, so that cached keys may be relied on."""
        return self._heard is not None and self._clock.monotonic() - self._heard <= SILENCE_SECONDS

    async def _principal_of(self, secret_sha256: bytes) -> Principal:
        entry = self._keys.get(secret_sha256)
        if entry is not None and self.hears_revocations and self._is_good(entry):
            return entry.principal
        try:
            return await self._ask_once(secret_sha256)
        except (DependencyUnavailableError, DeadlineExceededError) as error:
            # Looked up again: a revocation may have arrived while auth was asked.
            entry = self._keys.get(secret_sha256)
            if entry is not None and self._is_good(entry):
                return entry.principal
            raise DependencyUnavailableError(
                "AUTH_UNAVAILABLE", "the key cannot be checked now, because auth does not answer"
            ) from error
        except UnauthenticatedError:
            self._keys.pop(secret_sha256, None)
            raise

    async def _ask_once(self, secret_sha256: bytes) -> Principal:
        """Ask the source; calls that want to know the same at the same time share one question."""
        task = self._asked.get(secret_sha256)
        if task is None:
            task = asyncio.create_task(self._ask(secret_sha256))
            self._asked[secret_sha256] = task
            task.add_done_callback(lambda done: self._answered(secret_sha256, done))
        # A caller who gives up must not take the answer from the others.
        return await asyncio.shield(task)

    def _answered(self, secret_sha256: bytes, task: asyncio.Task[Principal]) -> None:
        if self._asked.get(secret_sha256) is task:
            del self._asked[secret_sha256]
        if not task.cancelled():
            # Marks it as seen, where every caller has gone meanwhile.
            task.exception()

    async def _ask(self, secret_sha256: bytes) -> Principal:
        this = asyncio.current_task()
        resolved = await self.source.resolve_key(secret_sha256)
        principal = _principal(resolved)
        entry = _KeyEntry(principal, resolved.expire_time, self._clock.monotonic())
        if not self._not_expired(entry):
            raise UnauthenticatedError("KEY_EXPIRED", "this key has expired; ask for a new one")
        # An answer older than what we have heard since may be about a key that is revoked by now: good for the calls
        # that wait for it, which began before, but not to be kept.
        overtaken = self._number is not None and resolved.revocation_number < self._number
        if not overtaken and self._asked.get(secret_sha256) is this:
            self._keys[secret_sha256] = entry
            self._keys.move_to_end(secret_sha256)
            if len(self._keys) > _MAX_KEYS:
                self._keys.popitem(last=False)
        return principal

    def _is_good(self, entry: _KeyEntry) -> bool:
        return self._clock.monotonic() - entry.confirmed < self._cache_seconds and self._not_expired(entry)

    def _not_expired(self, entry: _KeyEntry) -> bool:
        return entry.expire_time is None or self._clock.now() < entry.expire_time


def _principal(key: ResolvedKey) -> Principal:
    if key.operator:
        return Principal("operator", key_uid=key.key_uid, actor="operator")
    if key.app is None:
        raise UnauthenticatedError("KEY_UNKNOWN", "this key belongs to no app")
    return Principal("key", app=key.app, key_uid=key.key_uid, scopes=key.scopes, actor=f"keys/{key.key_uid}")
