"""Calls between services: tokens signed with each service's own Ed25519 key, good for one audience and one minute.

A token names its signer, the service it is meant for and the app that the call is about (0: none), so that a token
which leaks is of little use: to one service, for one app, for seconds.
"""

import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lensmith_platform.clock import Clock, SystemClock
from lensmith_platform.errors import UnauthenticatedError
from lensmith_platform.principal import AppRef, current_call_or_none
from lensmith_platform.settings import SettingsError

LIFETIME_SECONDS = 60
"""How long a token lives."""

_ALGORITHM = "EdDSA"
_LEEWAY_SECONDS = 5
_CACHED_TOKENS = 4096
_SERVICE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_PEM_END = "-----END PUBLIC KEY-----"


@dataclass(frozen=True, slots=True)
class ServiceClaims:
    """What a token proves.

    Attributes:
        service: the service that calls.
        app_id: number of the only app it may touch; 0: bound to none.
    """

    service: str
    app_id: int


def make_key_pair(service: str, key_file: Path, keys_dir: Path) -> None:
    """Make a service's private key and publish the public one as ``<keys_dir>/<service>.pub``.

    An existing private key is kept, and its public key published again.
    """
    if key_file.exists():
        private = load_private_key(key_file)
    else:
        private = Ed25519PrivateKey.generate()
        key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with open(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
    keys_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    # Replaced in one step: a service that reads it meanwhile sees the old key or the new one.
    fresh = keys_dir / f".{service}.pub.new"
    fresh.write_bytes(public)
    fresh.replace(keys_dir / f"{service}.pub")


def load_private_key(key_file: Path) -> Ed25519PrivateKey:
    """Load a service's private key.

    Raises:
        SettingsError: it cannot be read, or is of another kind.
    """
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"the service key {key_file} cannot be read: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"the service key {key_file} is not an Ed25519 key")
    return key


def load_public_keys(keys_dir: Path, service: str) -> list[Ed25519PublicKey]:
    """Load the public keys of a service: several while a key is exchanged, none where no file can be read.

    Whoever verifies asks anew each time, so that a key exchanged on disk counts at once.
    """
    try:
        text = (keys_dir / f"{service}.pub").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return []
    keys = []
    for block in text.split(_PEM_END)[:-1]:
        try:
            key = serialization.load_pem_public_key((block + _PEM_END).encode())
        except (ValueError, UnsupportedAlgorithm):
            continue
        if isinstance(key, Ed25519PublicKey):
            keys.append(key)
    return keys


class TokenSigner:
    """Signs the calls of one service."""

    def __init__(self, service: str, key_file: Path, *, clock: Clock | None = None) -> None:
        """Load the private key.

        Args:
            service: name of the service that signs.
            key_file: its private key, PEM.
            clock: where the time comes from.

        Raises:
            SettingsError: the key cannot be read.
        """
        self._service = service
        self._key = load_private_key(key_file)
        self._clock = clock or SystemClock()
        self._tokens: OrderedDict[tuple[str, int], tuple[float, str]] = OrderedDict()

    def token(self, audience: str, app_id: int = 0) -> str:
        """Return a token for calling a service about an app; signed anew when half its life is over."""
        now = self._clock.now().timestamp()
        cached = self._tokens.get((audience, app_id))
        if cached is not None and cached[0] > now:
            return cached[1]
        claims = {
            "iss": self._service,
            "aud": audience,
            "app": app_id,
            "iat": int(now),
            "exp": int(now) + LIFETIME_SECONDS,
        }
        token = jwt.encode(claims, self._key, algorithm=_ALGORITHM)
        self._tokens[(audience, app_id)] = (now + LIFETIME_SECONDS / 2, token)
        if len(self._tokens) > _CACHED_TOKENS:
            self._tokens.popitem(last=False)
        return token


class TokenVerifier:
    """Checks the tokens of those who call one service."""

    def __init__(self, keys_dir: Path, audience: str, *, clock: Clock | None = None) -> None:
        """Prepare to verify.

        Args:
            keys_dir: public keys of all services, ``<service>.pub``; a file may hold several, while a key is exchanged.
            audience: name of the service that is called.
            clock: where the time comes from.
        """
        self._keys_dir = keys_dir
        self._audience = audience
        self._clock = clock or SystemClock()
        self._verified: OrderedDict[str, tuple[float, ServiceClaims]] = OrderedDict()

    def verify(self, token: str) -> ServiceClaims:
        """Tell who signed a token.

        Raises:
            UnauthenticatedError: TOKEN_INVALID; the message says what is wrong with the token, not what is in it.
        """
        now = self._clock.now().timestamp()
        cached = self._verified.get(token)
        if cached is not None and cached[0] > now:
            return cached[1]
        expiry, claims = self._check(token, now)
        self._verified[token] = (expiry, claims)
        if len(self._verified) > _CACHED_TOKENS:
            self._verified.popitem(last=False)
        return claims

    def _check(self, token: str, now: float) -> tuple[float, ServiceClaims]:
        try:
            issuer = str(jwt.decode(token, options={"verify_signature": False}).get("iss", ""))
        except jwt.PyJWTError:
            raise _invalid("it is not a token") from None
        for key in self._public_keys(issuer):
            try:
                # Times are checked below, against our clock.
                claims = jwt.decode(
                    token,
                    key,
                    algorithms=[_ALGORITHM],
                    audience=self._audience,
                    options={"require": ["iss", "aud", "iat", "exp"], "verify_exp": False, "verify_iat": False},
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.InvalidAudienceError:
                raise _invalid(f"it is not meant for {self._audience}") from None
            except jwt.PyJWTError as error:
                raise _invalid(f"it breaks a rule ({type(error).__name__})") from None
            return self._check_times(claims, now), ServiceClaims(issuer, _whole(claims.get("app", 0), "app"))
        raise _invalid("none of the keys on file signed it")

    def _check_times(self, claims: dict[str, object], now: float) -> float:
        issued, expiry = _whole(claims["iat"], "iat"), _whole(claims["exp"], "exp")
        if expiry - issued > LIFETIME_SECONDS:
            raise _invalid(f"it lives longer than {LIFETIME_SECONDS} seconds")
        if expiry + _LEEWAY_SECONDS <= now:
            raise _invalid("it has expired")
        if issued - _LEEWAY_SECONDS > now:
            raise _invalid("it comes from the future: compare the clocks of the machines")
        return expiry

    def _public_keys(self, service: str) -> list[Ed25519PublicKey]:
        # The name becomes a file name, so it may hold nothing but a name.
        if not _SERVICE_NAME.fullmatch(service):
            raise _invalid("its issuer is no name of a service")
        keys = load_public_keys(self._keys_dir, service)
        if not keys:
            raise _invalid(f"no public key of {service} is on file")
        return keys


_app_of_calls: ContextVar[int | None] = ContextVar("lensmith_service_call_app", default=None)


@contextmanager
def service_call_app(app: AppRef | int) -> Iterator[None]:
    """Bind the calls to other services made inside to one app (0: to none)."""
    token = _app_of_calls.set(app.app_id if isinstance(app, AppRef) else app)
    try:
        yield
    finally:
        _app_of_calls.reset(token)


def app_of_outgoing_call() -> int:
    """Return the number of the app that outgoing calls are bound to: the one named explicitly, else the call's own."""
    explicit = _app_of_calls.get()
    if explicit is not None:
        return explicit
    call = current_call_or_none()
    return call.app.app_id if call is not None and call.app is not None else 0


def _whole(value: object, claim: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _invalid(f"its claim {claim} is not a whole number")
    return value


def _invalid(why: str) -> UnauthenticatedError:
    return UnauthenticatedError("TOKEN_INVALID", f"the service token is refused: {why}")
