"""Pictures by signed link: who holds the link sees this one picture, until the link expires."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import jwt
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from lensmith_platform.clock import Clock
from lensmith_platform.errors import NotFoundError, UnauthenticatedError
from lensmith_platform.service_auth import load_public_keys

AUDIENCE = "gateway"
ISSUER = "dataset"

_ALGORITHM = "EdDSA"
_BLOB_KEY = re.compile(r"apps/[0-9a-f-]{36}/blobs/[0-9a-f]{64}")
# What browsers show as a picture and never run; anything else is handed out as a file.
_SHOWN = frozenset({"image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff", "image/avif"})
_EXTENSIONS = {"image/jpeg": "jpg", "image/tiff": "tif"}


class BlobStore(Protocol):
    """Where the bytes lie."""

    def stream(self, key: str) -> AsyncIterator[bytes]:
        """The bytes of a blob in chunks; raises `NotFoundError` before the first."""
        ...


@dataclass(frozen=True, slots=True)
class ImageLink:
    """What a link says, once its signature is checked.

    Attributes:
        blob_key: which bytes.
        mime_type: what they are.
        seconds_left: until it expires.
    """

    blob_key: str
    mime_type: str
    seconds_left: int


class ImageLinkReader:
    """Reads links that the dataset service has signed.

    Args:
        keys_dir: public keys of the services; `dataset.pub` may hold several, while a key is exchanged.
        clock: where the time comes from.
    """

    def __init__(self, keys_dir: Path, clock: Clock) -> None:
        self._keys_dir = keys_dir
        self._clock = clock

    def read(self, token: str) -> ImageLink:
        """Check a link.

        Raises:
            UnauthenticatedError: LINK_EXPIRED or LINK_INVALID.
        """
        for key in load_public_keys(self._keys_dir, ISSUER):
            try:
                claims = jwt.decode(
                    token,
                    key,
                    algorithms=[_ALGORITHM],
                    audience=AUDIENCE,
                    issuer=ISSUER,
                    # Times are checked below, against our clock.
                    options={"require": ["iss", "aud", "sub", "exp"], "verify_exp": False, "verify_iat": False},
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError:
                break
            return self._link(claims)
        raise UnauthenticatedError("LINK_INVALID", "This image link is not one that this platform made.")

    def _link(self, claims: dict[str, object]) -> ImageLink:
        blob_key, mime, expiry = claims.get("sub"), claims.get("mime"), claims.get("exp")
        if not isinstance(blob_key, str) or not _BLOB_KEY.fullmatch(blob_key) or not isinstance(mime, str):
            raise UnauthenticatedError("LINK_INVALID", "This image link names no image.")
        left = int(expiry) - int(self._clock.now().timestamp()) if isinstance(expiry, int | float) else 0
        if left <= 0:
            raise UnauthenticatedError("LINK_EXPIRED", "This image link has expired; ask GetImage for a new one.")
        return ImageLink(blob_key, mime, left)


class Images:
    """Answers `GET /images/{token}`."""

    def __init__(self, links: ImageLinkReader, blobs: BlobStore) -> None:
        self._links = links
        self._blobs = blobs

    async def get(self, request: Request) -> Response:
        """Send the picture's bytes.

        Raises:
            UnauthenticatedError: the link is no good, or no longer.
            NotFoundError: IMAGE_GONE; the picture has been deleted.
        """
        link = self._links.read(request.path_params["token"])
        digest = link.blob_key.rpartition("/")[2]
        headers = _headers(link, digest)
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        chunks = self._blobs.stream(link.blob_key)
        try:
            # The first chunk is fetched here: an error after the status line could not be told.
            first = await anext(chunks, b"")
        except NotFoundError:
            raise NotFoundError("IMAGE_GONE", "The image behind this link has been deleted.") from None
        return StreamingResponse(_with_first(first, chunks), headers=headers, media_type=headers["Content-Type"])


async def _with_first(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def _headers(link: ImageLink, digest: str) -> dict[str, str]:
    shown = link.mime_type in _SHOWN
    extension = _EXTENSIONS.get(link.mime_type, link.mime_type.rpartition("/")[2]) if shown else "bin"
    return {
        "Content-Type": link.mime_type if shown else "application/octet-stream",
        # Users upload these bytes: whatever they are, they must never run as a page of this origin.
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Content-Disposition": f'{"inline" if shown else "attachment"}; filename="{digest[:16]}.{extension}"',
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Referrer-Policy": "no-referrer",
        # The bytes behind a link never change; the link itself is a secret, so shared caches keep out.
        "Cache-Control": f"private, max-age={link.seconds_left}, immutable",
        "ETag": f'"{digest}"',
    }
