"""Blobs, of which the ones just stored are kept in memory until the indexer has asked for them, once.

Where one process takes pictures in and indexes them, their bytes need not make the way to S3 and back: that is about a
quarter of what an ingested picture costs besides its embedding. What is not kept any more is read from S3.
"""

from collections import OrderedDict

from lensmith_platform.blobs import Blobs


class RecentBlobs:
    """Stores blobs and gives them back.

    Args:
        files: where they are stored.
        most_bytes: how much is kept at most; 0: nothing, for a process that does not index.
    """

    def __init__(self, files: Blobs, most_bytes: int) -> None:
        self._files = files
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    async def put(self, key: str, data: bytes, content_type: str) -> None:
        """Store bytes; they are kept only once S3 has them."""
        await self._files.put(key, data, content_type)
        # A key names its content, so what is kept cannot be outdated.
        if key in self._kept or len(data) > self._most_bytes:
            return
        self._kept[key] = data
        self._bytes += len(data)
        while self._bytes > self._most_bytes:
            self._bytes -= len(self._kept.popitem(last=False)[1])

    async def get(self, key: str) -> bytes:
        """Return the bytes of a blob, and keep them no longer.

        Raises:
            NotFoundError: BLOB_NOT_FOUND.
        """
        data = self._kept.pop(key, None)
        if data is None:
            return await self._files.get(key)
        self._bytes -= len(data)
        return data
