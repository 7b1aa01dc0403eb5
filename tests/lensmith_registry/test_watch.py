"""Watching a version: now, at every change, and how it ended."""

import asyncio

from lensmith_api.v1 import model_service_pb2 as pb
from tests.lensmith_registry.rig import Rig, refusal

QUEUED, TRAINING, READY, CANCELLED = 1, 2, 3, 5


def _watch(rig: Rig, name: str):
    return rig.models.WatchModelVersion(pb.WatchModelVersionRequest(name=name), metadata=rig.key())


async def _collected(stream: object, first: asyncio.Event) -> list[pb.WatchModelVersionResponse]:
    messages = []
    async for message in stream:
        messages.append(message)
        first.set()
    return messages


async def test_watch_tells_every_state_and_ends_with_a_summary(make_rig):
    # So slow a poll that only news can have woken it.
    async with make_rig(watch_poll_seconds=600) as rig:
        version = await rig.queued()
        first = asyncio.Event()
        watching = asyncio.create_task(_collected(_watch(rig, version.name), first))
        await first.wait()
        job = await rig.claim(version)
        await rig.report(job, 0.7)
        await rig.complete(job)
        messages = await asyncio.wait_for(watching, 30)
    states = [message.item.state for message in messages[:-1]]
    assert states == sorted(states)
    assert states[0] == QUEUED
    assert messages[-1].summary.model_version.state == READY
    fractions = [message.item.progress.fraction for message in messages[:-1]]
    assert fractions == sorted(fractions)


async def test_watch_ends_at_once_when_the_version_has_ended(rig: Rig):
    version = await rig.trained()
    messages = await _collected(_watch(rig, version.name), asyncio.Event())
    assert [message.WhichOneof("event") for message in messages] == ["item", "summary"]


async def test_watch_says_in_band_why_it_failed_when_it_had_begun(make_rig):
    async with make_rig(watch_poll_seconds=600) as rig:
        version = await rig.queued()
        first = asyncio.Event()
        watching = asyncio.create_task(_collected(_watch(rig, version.name), first))
        await first.wait()
        await rig.models.DeleteModel(pb.DeleteModelRequest(name="apps/trash/models/sorter"), metadata=rig.key())
        messages = await asyncio.wait_for(watching, 30)
    assert messages[-1].WhichOneof("event") == "error"
    assert messages[-1].error.code == 5


async def test_watch_fails_as_a_call_when_there_is_nothing_to_watch(rig: Rig):
    await rig.create("sorter")
    stream = _watch(rig, "apps/trash/models/sorter/versions/1")
    refused = await refusal(_collected(stream, asyncio.Event()))
    assert refused.reason == "VERSION_NOT_FOUND"


async def test_many_watch_one_version(rig: Rig):
    version = await rig.queued()
    watchers = []
    for _ in range(20):
        first = asyncio.Event()
        watchers.append(asyncio.create_task(_collected(_watch(rig, version.name), first)))
        await first.wait()
    request = pb.CancelModelVersionRequest(name=version.name)
    await rig.models.CancelModelVersion(request, metadata=rig.key())
    for messages in await asyncio.wait_for(asyncio.gather(*watchers), 30):
        assert messages[-1].summary.model_version.state == CANCELLED


async def test_watch_is_refused_when_there_are_too_many(make_rig):
    async with make_rig(max_watches=1) as rig:
        version = await rig.queued()
        first = asyncio.Event()
        watching = asyncio.create_task(_collected(_watch(rig, version.name), first))
        await first.wait()
        refused = await refusal(_collected(_watch(rig, version.name), asyncio.Event()))
        assert (refused.reason, refused.metadata["code"]) == ("TOO_MANY_WATCHES", "RESOURCE_EXHAUSTED")
        request = pb.CancelModelVersionRequest(name=version.name)
        await rig.models.CancelModelVersion(request, metadata=rig.key())
        await asyncio.wait_for(watching, 30)
