"""Signed links: whoever holds one may see one picture for some minutes; the gateway checks and serves it."""

from datetime import datetime, timedelta
from pathlib import Path

import jwt

from lensmith_platform.blobs import blob_key
from lensmith_platform.clock import Clock
from lensmith_platform.principal import AppRef
from lensmith_platform.service_auth import load_private_key


class ImageLinkSigner:
    """Signs links with the service's own key.

    Args:
        key_file: the service's private Ed25519 key, PEM.
        clock: where the time comes from.
        seconds: how long a link works.

    Raises:
        SettingsError: the key cannot be read.
    """

    def __init__(self, key_file: Path, clock: Clock, seconds: int) -> None:
        self._key = load_private_key(key_file)
        self._clock = clock
        self._seconds = seconds

    def sign(self, app: AppRef, sha256: bytes, mime_type: str) -> tuple[str, datetime]:
        """Return the path that serves a file of an app, and when it stops working."""
        expiry = (self._clock.now() + timedelta(seconds=self._seconds)).replace(microsecond=0)
        claims = {
            "iss": "dataset",
            "aud": "gateway",
            "sub": blob_key(app.uid, sha256.hex()),
            "mime": mime_type,
            # No time of issue: without one it can never pass for a service's token, which is signed by the same key.
            "exp": int(expiry.timestamp()),
        }
        return f"/images/{jwt.encode(claims, self._key, algorithm='EdDSA')}", expiry
