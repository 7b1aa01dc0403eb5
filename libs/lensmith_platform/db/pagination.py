"""Pages: signed tokens that say where the next page of a list begins.

A token holds the position of the last row, bound to the query that it belongs to: changed, or used with another, it
is refused rather than answered with a wrong page.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from pathlib import Path

from lensmith_platform.errors import InvalidInputError

DEFAULT_SIZE = 50
MOST = 1000

Position = Sequence[str | int | float]
"""Sort key of the last row of a page."""

_SIGNATURE_BYTES = 16


class Pager:
    """Makes and reads page tokens.

    Args:
        service_key_file: the service's private key, which all its replicas share; tokens are signed with a key derived
            from it for nothing else.
    """

    def __init__(self, service_key_file: Path) -> None:
        self._key = hashlib.sha256(b"lensmith page tokens\n" + service_key_file.read_bytes()).digest()

    def size(self, page_size: int) -> int:
        """Return how many rows a page has: 50 when none are asked for, at most 1000.

        Raises:
            InvalidInputError: PAGE_SIZE_NEGATIVE.
        """
        if page_size < 0:
            raise InvalidInputError(
                "PAGE_SIZE_NEGATIVE",
                "page_size must not be negative",
                field_violations=[("page_size", "must not be negative")],
            )
        return min(page_size or DEFAULT_SIZE, MOST)

    def encode(self, position: Position, query: str) -> str:
        """Make the token of the page behind a row.

        Args:
            position: sort key of the row.
            query: everything that the rows depend on: parent, filters, order.
        """
        body = json.dumps(list(position), separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._signature(body, query) + body).decode().rstrip("=")

    def decode(self, token: str, query: str) -> tuple[str | int | float, ...] | None:
        """Read a token; None for the first page, which has none.

        Raises:
            InvalidInputError: PAGE_TOKEN_INVALID: it is not of this list, or was changed.
        """
        if not token:
            return None
        try:
            data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            data = b""
        signature, body = data[:_SIGNATURE_BYTES], data[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(body, query)):
            raise InvalidInputError(
                "PAGE_TOKEN_INVALID",
                "page_token is not one of this list: send it unchanged, with the same filters as the page before",
                field_violations=[("page_token", "is not one of this list")],
            )
        return tuple(json.loads(body))

    def _signature(self, body: bytes, query: str) -> bytes:
        message = hashlib.sha256(query.encode()).digest() + body
        return hmac.digest(self._key, message, "sha256")[:_SIGNATURE_BYTES]
