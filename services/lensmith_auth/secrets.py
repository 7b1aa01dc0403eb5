"""Secrets of keys: how they are made and hashed."""

import hashlib
import secrets
from dataclasses import dataclass

SECRET_START = "lsk_"  # noqa: S105  what secrets begin with, so that scanners find leaked ones
PREFIX_LENGTH = 12
"""Characters of a secret that are stored readable: enough to find a key, 48 of its 256 random bits."""


@dataclass(frozen=True)
class Secret:
    """A new secret. `text` goes to the user once; only the rest is stored."""

    text: str
    sha256: bytes
    prefix: str

    def __repr__(self) -> str:
        return f"Secret(prefix={self.prefix!r})"


def new_secret() -> Secret:
    """Make a secret with 256 random bits."""
    return secret_from_text(SECRET_START + secrets.token_urlsafe(32))


def secret_from_text(text: str) -> Secret:
    """Return what is stored of a secret made elsewhere.

    Raises:
        ValueError: The text is too short to be a secret.
    """
    if len(text) < len(SECRET_START) + 43:
        raise ValueError("a secret has at least 47 characters, as `lsk_` and secrets.token_urlsafe(32) give them")
    return Secret(text=text, sha256=hashlib.sha256(text.encode()).digest(), prefix=text[:PREFIX_LENGTH])
