"""Blobs in the real object store."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from lensmith_platform.blobs import Blobs, blob_key
from lensmith_platform.errors import DependencyUnavailableError, NotFoundError

if TYPE_CHECKING:
    from tests.conftest import Bucket
    from tests.lensmith_platform.conftest import Kill


@pytest.fixture
async def blobs(s3: Bucket) -> AsyncIterator[Blobs]:
    async with Blobs(s3.url) as blobs:
        yield blobs


def test_a_key_names_app_and_content() -> None:
    assert blob_key("u", "ab") == "apps/u/blobs/ab"


async def test_bytes_come_back_as_they_were_stored(blobs: Blobs) -> None:
    for size in (0, 1, 3_000_000):
        data = os.urandom(size)
        key = blob_key("u", hashlib.sha256(data).hexdigest())
        assert not await blobs.exists(key)
        await blobs.put(key, data, "image/jpeg")
        await blobs.put(key, data, "image/jpeg")
        assert await blobs.exists(key)
        assert await blobs.get(key) == data
        chunks = [chunk async for chunk in blobs.stream(key)]
        assert b"".join(chunks) == data
        assert all(len(chunk) <= 1 << 20 for chunk in chunks)
    assert len(list(await blobs.list("apps/u/"))) == 3


async def test_a_missing_blob_is_not_found(blobs: Blobs) -> None:
    with pytest.raises(NotFoundError) as raised:
        await blobs.get("apps/u/blobs/none")
    assert raised.value.reason == "BLOB_NOT_FOUND"
    with pytest.raises(NotFoundError):
        await anext(blobs.stream("apps/u/blobs/none"))


async def test_blobs_are_gone_when_they_were_deleted(blobs: Blobs) -> None:
    keys = [blob_key("u", str(number)) for number in range(30)]
    await asyncio.gather(*(blobs.put(key, b"x", "image/png") for key in keys))
    await blobs.delete([*keys[:20], "apps/u/blobs/none"])
    await blobs.delete([])
    assert sorted(await blobs.list("apps/")) == sorted(keys[20:])


async def test_a_connection_is_returned_when_a_stream_is_left_early(s3: Bucket) -> None:
    async with Blobs(s3.url, concurrency=1) as blobs:
        await blobs.put("big", os.urandom(4 << 20), "image/png")
        for _ in range(3):
            stream = blobs.stream("big")
            await anext(stream)
            await stream.aclose()
        assert len(await blobs.get("big")) == 4 << 20


async def test_the_bucket_is_made_when_it_is_missing(s3: Bucket) -> None:
    name = f"{s3.name}-new"
    async with Blobs(urlsplit(s3.url)._replace(path=f"/{name}").geturl()) as blobs:
        with pytest.raises(DependencyUnavailableError):
            await blobs.get("x")
        await blobs.ensure_bucket()
        await blobs.ensure_bucket()
        with pytest.raises(NotFoundError):
            await blobs.get("x")
        s3.client.remove_bucket(name)


@pytest.mark.parametrize("url", ["http://a:b@127.0.0.1:1/bucket"])
async def test_the_error_says_unavailable_when_nobody_listens(url: str) -> None:
    async with Blobs(url) as blobs:
        with pytest.raises(DependencyUnavailableError) as raised:
            await blobs.get("x")
    assert raised.value.reason == "BLOBS_UNAVAILABLE"
    assert "b@" not in raised.value.message


async def test_acknowledged_bytes_are_there_when_s3_was_killed(blobs: Blobs, kill: Kill) -> None:
    stored: list[int] = []

    async def put(number: int) -> None:
        try:
            await blobs.put(f"n/{number}", str(number).encode() * 1000, "image/png")
        except DependencyUnavailableError:
            return
        stored.append(number)

    await asyncio.gather(*(put(number) for number in range(50)))
    killing = asyncio.create_task(kill("s3"))
    await asyncio.gather(*(put(number) for number in range(50, 100)))
    await killing
    await put(100)
    assert 100 in stored
    assert set(range(50)) < set(stored)
    for number in stored:
        assert await blobs.get(f"n/{number}") == str(number).encode() * 1000
