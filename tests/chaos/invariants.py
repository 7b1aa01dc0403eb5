"""What must hold whatever died: everything that was acknowledged is there, whole, and of one mind."""

import asyncio
import hashlib
import re
from collections import Counter

import httpx

from lensmith import AsyncClient
from lensmith.types import Input, VersionState
from lensmith_vision.materials import MATERIALS
from tests.chaos.workload import BY_ITSELF, CHECKED, MODEL, RETRAIN_AFTER, Ledger, Workload
from tests.polling import until

_AT_ONCE = 8
_RECOVERY_SECONDS = 120
_REASON = re.compile("by itself, after ([0-9]+) new annotations")


async def assert_nothing_is_lost(workload: Workload) -> None:
    """Asserts that all acknowledged inputs, annotations and versions are there, and that the counts agree."""
    client, ledger = workload.client, workload.ledger
    counts = await client.inputs.wait_until_ready(timeout=_RECOVERY_SECONDS)
    inputs = {item.id: item async for item in client.inputs.list()}
    assert (counts.ready, counts.pending, counts.failed) == (len(inputs), 0, 0)
    assert not ledger.inputs.keys() - inputs.keys(), "acknowledged inputs are lost"
    assert {own_id: inputs[own_id].sha256 for own_id in ledger.inputs} == ledger.inputs
    await _assert_annotations(client, ledger, inputs)
    await _assert_bytes(client, ledger)
    await _assert_versions(client, ledger)
    await _assert_trained_by_itself(client)
    for model in (MODEL, BY_ITSELF):
        await _assert_looked_through(client, model)


async def _assert_annotations(client: AsyncClient, ledger: Ledger, inputs: dict[str, Input]) -> None:
    listed = {(own_id, annotation.concept) async for own_id, annotation in client.annotations.list()}
    assert not ledger.annotations - listed, "acknowledged annotations are lost"
    assert listed == {(item.id, said.concept) for item in inputs.values() for said in item.annotations}
    counted = {concept.id: concept.positive_count async for concept in client.concepts.list()}
    by_concept = Counter(concept for _, concept in listed)
    assert counted == {concept: by_concept[concept] for concept in (*MATERIALS, CHECKED)}


async def _assert_bytes(client: AsyncClient, ledger: Ledger) -> None:
    room = asyncio.Semaphore(_AT_ONCE)
    async with httpx.AsyncClient(base_url=client.url, timeout=30) as http:

        async def served(own_id: str) -> str:
            async with room:
                answer = await http.get(await client.inputs.image_path(own_id))
                assert answer.status_code == 200, f"{own_id}: {answer.status_code} {answer.text}"
                return hashlib.sha256(answer.content).hexdigest()

        digests = await asyncio.gather(*(served(own_id) for own_id in ledger.inputs))
    assert dict(zip(ledger.inputs, digests, strict=True)) == ledger.inputs, "acknowledged bytes are lost"


async def _assert_versions(client: AsyncClient, ledger: Ledger) -> None:
    async def all_ended() -> bool:
        return all([version.state.final async for version in client.models.list_versions(MODEL)])

    await until(all_ended, seconds=_RECOVERY_SECONDS)
    versions = {version.number: version async for version in client.models.list_versions(MODEL)}
    assert sorted(versions) == list(range(1, len(versions) + 1))
    by_note = {version.note: number for number, version in versions.items()}
    assert len(by_note) == len(versions), "one training made two versions"
    assert {note: by_note.get(note) for note in ledger.versions} == ledger.versions, "acknowledged versions are lost"
    ready = {version.name for version in versions.values() if version.state is VersionState.READY}
    for version in versions.values():
        if version.name not in ready:
            assert version.state is VersionState.FAILED
            assert version.error is not None
            assert version.error.reason.isupper()
    assert ledger.answered_by <= ready, "a version answered that is not ready"
    model = await client.models.get(MODEL)
    newest = max(number for number, version in versions.items() if version.name in ready)
    assert (model.production_version, model.latest_version) == (newest, max(versions))


async def _assert_trained_by_itself(client: AsyncClient) -> None:
    """Asserts that what is due is trained in the end, and that no annotation was the reason for two versions."""
    total = len([1 async for _, said in client.annotations.list() if said.concept in MATERIALS])

    async def all_trained() -> bool:
        versions = [version async for version in client.models.list_versions(BY_ITSELF)]
        seen = max((one.input_count for one in versions if one.state is VersionState.READY), default=0)
        return all(version.state.final for version in versions) and total - seen < RETRAIN_AFTER

    await until(all_trained, seconds=_RECOVERY_SECONDS)
    notes = [version.note async for version in client.models.list_versions(BY_ITSELF)]
    reasons = [int(found.group(1)) for note in notes if (found := _REASON.fullmatch(note))]
    assert len(reasons) == len(notes)
    assert min(reasons) >= RETRAIN_AFTER
    assert sum(reasons) <= total, f"an annotation was counted twice: {reasons} of {total}"


async def _assert_looked_through(client: AsyncClient, model: str) -> None:
    """Asserts that the data of the newest version is looked through, and once."""
    overview = await client.suggestions.wait(model, timeout=_RECOVERY_SECONDS)
    assert not overview.pending, f"{model} has no suggestions"
    found = [one async for one in client.suggestions.list(model)]
    assert [one.number for one in found] == list(range(1, len(found) + 1))
    said = {(one.kind, one.concept, one.other_concept, one.input, one.related_inputs) for one in found}
    assert len(said) == len(found), "a suggestion is doubled"
