"""Two hundred writers at once, and a reader of the change feed who must miss nothing that any of them did."""

import asyncio
import io
import os
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from PIL import Image

from lensmith import AsyncClient
from lensmith.types import Annotation, NewInput
from tests.load.feed import Feed, feed_of
from tests.platform_process import PlatformProcess

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(300)]

CONCEPTS = ("day", "night", "rain", "sun")
WRITERS = 200
CONNECTIONS = 8
Record = Callable[[str, object], None]
Labels = dict[str, bool]


@dataclass
class Written:
    """What writers were told is done: labels by uid of the input."""

    labels: dict[str, Labels] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    calls: int = 0


async def test_the_change_feed_loses_nothing_when_two_hundred_write_at_once(
    platform: PlatformProcess, record_property: Record
) -> None:
    await _write_and_compare(platform, rounds=2, record_property=record_property)


@pytest.mark.long
@pytest.mark.timeout(7200)
async def test_the_change_feed_loses_nothing_when_two_hundred_write_for_minutes(
    platform: PlatformProcess, record_property: Record
) -> None:
    # A round is some 10 s of work for two cores.
    rounds = max(4, round(float(os.environ.get("LENSMITH_TEST_MINUTES", "3")) * 3))
    await _write_and_compare(platform, rounds=rounds, record_property=record_property)


async def _write_and_compare(platform: PlatformProcess, *, rounds: int, record_property: Record) -> None:
    app = f"writers-{uuid.uuid4().hex[:8]}"
    async with AsyncClient(platform.url, platform.operator_key) as operator:
        _, key = await operator.apps.create(app)
        space = await anext(base_model.space async for base_model in operator.base_models.list())
    clients = [AsyncClient(platform.url, key.secret, app, timeout=240) for _ in range(CONNECTIONS)]
    try:
        await clients[0].concepts.create(CONCEPTS)
        written, began = Written(), time.monotonic()
        async with feed_of(platform, app, space) as feed:
            await _write_while_reading(clients, written, feed, rounds)
            seconds = time.monotonic() - began
            # Vectors are changes too: with them every input has its last state.
            await clients[0].inputs.wait_until_ready(timeout=240)
            reads = feed.reads
            await feed.read()
        _assert_same(written, feed)
        record_property(
            "measured",
            f"{WRITERS} writers: {written.calls} writes in {seconds:.1f} s ({written.calls / seconds:.0f}/s), "
            f"{len(feed.inputs)} inputs in the feed, read {reads} times meanwhile",
        )
    finally:
        await asyncio.gather(*(client.close() for client in clients))


async def _write_while_reading(clients: list[AsyncClient], written: Written, feed: Feed, rounds: int) -> None:
    """Reads from cursor to cursor while transactions commit out of order: that is where a feed loses."""
    writing = asyncio.gather(*(_writer(clients[n % CONNECTIONS], n, rounds, written) for n in range(WRITERS)))
    try:
        while not writing.done():
            await feed.read()
            await asyncio.wait([writing], timeout=0.1)
        await writing
    finally:
        writing.cancel()


async def _writer(client: AsyncClient, number: int, rounds: int, written: Written) -> None:
    """Takes a picture in, says something about it, thinks better of it, and at times deletes it."""
    chance = random.Random(number)
    for turn in range(rounds):
        first, second, third = chance.sample(CONCEPTS, 3)
        picture = NewInput(image=_picture(number, turn), annotations=[Annotation(first)])
        [result] = [result async for result in client.inputs.create([picture])]
        assert result.input, result.error
        uid = result.input.uid
        written.labels[uid] = {first: True}
        said = [Annotation(second), Annotation(third, positive=False)]
        assert not await client.annotations.merge({uid: said})
        written.labels[uid] |= {second: True, third: False}
        assert not await client.annotations.remove({uid: [first]})
        del written.labels[uid][first]
        written.calls += 3
        if chance.random() < 0.2:
            assert await client.inputs.delete([uid]) == [None]
            written.deleted.add(uid)
            written.calls += 1


def _picture(number: int, turn: int) -> bytes:
    file = io.BytesIO()
    colour = (number % 256, turn % 256, turn // 256)
    Image.new("RGB", (32, 32), colour).save(file, "PNG")
    return file.getvalue()


def _assert_same(written: Written, feed: Feed) -> None:
    """What the feed told is what the writers did, to the last label."""
    alive = {uid: labels for uid, labels in written.labels.items() if uid not in written.deleted}
    told = {
        uid: {label.concept: label.positive for label in item.labels}
        for uid, item in feed.inputs.items()
        if not item.deleted
    }
    assert told == alive
    assert all(feed.inputs[uid].vector for uid in alive)
    assert {uid for uid, item in feed.inputs.items() if item.deleted} <= written.deleted
