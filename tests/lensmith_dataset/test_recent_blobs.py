"""What is kept of the blobs just stored."""

from typing import TYPE_CHECKING

import pytest

from lensmith_dataset.recent_blobs import RecentBlobs
from lensmith_platform.blobs import Blobs
from lensmith_platform.errors import NotFoundError

if TYPE_CHECKING:
    from tests.conftest import Bucket


async def test_bytes_are_kept_once_and_within_bounds(s3: "Bucket") -> None:
    async with Blobs(s3.url) as files:
        recent = RecentBlobs(files, most_bytes=10)
        for key in ("a", "b", "c"):
            await recent.put(key, key.encode() * 4, "image/png")
        await recent.put("large", b"x" * 11, "image/png")
        for item in s3.client.list_objects(s3.name):
            s3.client.remove_object(s3.name, str(item.object_name))

        assert await recent.get("b") == b"bbbb"
        assert await recent.get("c") == b"cccc"
        for gone in ("a", "b", "large"):
            with pytest.raises(NotFoundError):
                await recent.get(gone)


async def test_bytes_come_from_s3_when_they_are_kept_no_more(s3: "Bucket") -> None:
    async with Blobs(s3.url) as files:
        recent = RecentBlobs(files, most_bytes=0)
        await recent.put("a", b"aaaa", "image/png")
        assert await recent.get("a") == b"aaaa"
