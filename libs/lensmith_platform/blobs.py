"""Blobs: bytes in S3, named by what they are.

The client is blocking; its calls run in threads of their own, as many at once as it has connections.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import structlog
import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error

from lensmith_platform.errors import DependencyUnavailableError, NotFoundError

_LOG = structlog.get_logger(__name__)

_Result = TypeVar("_Result")

_CONNECT_SECONDS = 2.0
_READ_SECONDS = 20.0
_RETRIES = 3
_REGION = "us-east-1"
_CHUNK_BYTES = 1 << 20
_MISSING = frozenset({"NoSuchKey", "NoSuchObject"})  # A missing bucket is an outage: its blobs are not gone for good.


def blob_key(app_uid: str, sha256: str) -> str:
    """Name of an app's blob: its bytes are stored once for each app, never shared between apps."""
    return f"apps/{app_uid}/blobs/{sha256}"


class Blobs:
    """One bucket.

    Args:
        url: ``http[s]://access:secret@host:port/bucket``; ``?region=eu-west-1`` where it is not the default one.
        concurrency: most calls at once.

    Every call raises `DependencyUnavailableError` (`BLOBS_UNAVAILABLE`) while S3 is away.
    """

    def __init__(self, url: str, *, concurrency: int = 16) -> None:
        parts = urlsplit(url)
        self._bucket = parts.path.strip("/")
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="blobs")
        self._pool = urllib3.PoolManager(
            maxsize=concurrency,
            timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
            retries=urllib3.Retry(total=_RETRIES, backoff_factor=0.1, status_forcelist=(500, 502, 503, 504)),
        )
        self._client = Minio(
            parts.netloc.rpartition("@")[2],
            access_key=unquote(parts.username or ""),
            secret_key=unquote(parts.password or ""),
            secure=parts.scheme == "https",
            # Given, so that it is not asked for before the first call.
            region=parse_qs(parts.query).get("region", [_REGION])[0],
            http_client=self._pool,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close connections and threads; calls in flight end first."""
        await asyncio.to_thread(self._threads.shutdown)
        self._pool.clear()

    async def ensure_bucket(self) -> None:
        """Make the bucket where it is missing."""

        def ensure() -> None:
            if not self._client.bucket_exists(self._bucket):
                self._client.make_bucket(self._bucket)

        await self._call(ensure)

    async def put(self, key: str, data: bytes, content_type: str) -> None:
        """Store bytes; the same again changes nothing."""
        await self._call(
            lambda: self._client.put_object(self._bucket, key, io.BytesIO(data), len(data), content_type=content_type)
        )

    async def get(self, key: str) -> bytes:
        """Return all bytes of a blob.

        Raises:
            NotFoundError: BLOB_NOT_FOUND.
        """

        def get() -> bytes:
            response = self._client.get_object(self._bucket, key)
            try:
                return response.read()
            finally:
                response.close()
                response.release_conn()

        return await self._call(get)

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """Yield the bytes of a blob in chunks of at most 1 MiB.

        Raises:
            NotFoundError: BLOB_NOT_FOUND, before the first chunk.
        """
        response = await self._call(lambda: self._client.get_object(self._bucket, key))
        try:
            while chunk := await self._call(lambda: response.read(_CHUNK_BYTES)):
                yield chunk
        finally:
            response.close()
            response.release_conn()

    async def exists(self, key: str) -> bool:
        """Tell whether a blob is stored."""
        try:
            await self._call(lambda: self._client.stat_object(self._bucket, key))
        except NotFoundError:
            return False
        return True

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete blobs; one that is missing counts as deleted."""

        def delete() -> None:
            failed = list(self._client.remove_objects(self._bucket, map(DeleteObject, keys)))
            if failed:
                raise DependencyUnavailableError(
                    "BLOBS_UNAVAILABLE", f"{len(failed)} of {len(keys)} blobs could not be deleted"
                )

        if keys:
            await self._call(delete)

    async def list(self, prefix: str) -> Iterable[str]:
        """Names of all blobs that begin with a prefix."""
        return await self._call(
            lambda: [str(item.object_name) for item in self._client.list_objects(self._bucket, prefix, recursive=True)]
        )

    async def _call(self, work: Callable[[], _Result]) -> _Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except S3Error as error:
            if error.code in _MISSING:
                raise NotFoundError("BLOB_NOT_FOUND", "these bytes are not stored (any more)") from error
            _LOG.warning("blobs_refused", code=error.code)
            raise _unavailable() from error
        except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _unavailable() from error


def _unavailable() -> DependencyUnavailableError:
    # The URL holds a password, so nothing of it is told.
    return DependencyUnavailableError("BLOBS_UNAVAILABLE", "the object store cannot be reached now")
