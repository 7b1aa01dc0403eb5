"""Exports: READY versions leave as one archive, the same each time; others do not leave."""

import hashlib
import io
import json
import zipfile

from lensmith_api.v1 import model_service_pb2 as pb
from tests.lensmith_registry.rig import KEY, OTHER_KEY, READ_KEY, Rig, refusal


async def exported(rig: Rig, name: str, key: str = KEY) -> tuple[bytes, pb.ExportSummary]:
    """The whole archive, and what the last message says of it."""
    request = pb.ExportModelVersionRequest(name=name)
    parts = [part async for part in rig.models.ExportModelVersion(request, metadata=rig.key(key))]
    assert [part.WhichOneof("event") for part in parts] == ["item"] * (len(parts) - 1) + ["summary"]
    assert all(len(part.item.data) % 3 == 0 for part in parts[:-2])
    return b"".join(part.item.data for part in parts), parts[-1].summary


async def test_an_archive_is_the_same_each_time_when_the_version_is_ready(rig: Rig):
    version = await rig.trained()
    data, summary = await exported(rig, version.name)
    assert (summary.size_bytes, summary.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert summary.file_name == "trash-sorter-1.zip"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        card = json.loads(archive.read("card.json"))
        assert archive.read("labels.txt").decode().split() == ["glass", "metal"]
        expected = json.loads(archive.read("sample.json"))
    assert card["modelVersion"]["name"] == version.name
    assert card["baseModel"]["name"] == "baseModels/plain"
    assert set(expected["probabilities"]) == {"glass", "metal"}
    assert (await exported(rig, version.name))[0] == data


async def test_nothing_leaves_when_the_version_is_not_ready_or_not_the_callers(rig: Rig):
    version = await rig.queued()

    async def refused(name: str, key: str = KEY) -> str:
        request = pb.ExportModelVersionRequest(name=name)
        call = rig.models.ExportModelVersion(request, metadata=rig.key(key))
        return (await refusal(anext(aiter(call)))).reason

    assert await refused(version.name) == "VERSION_NOT_READY"
    assert await refused("apps/trash/models/sorter/versions/9") == "VERSION_NOT_FOUND"
    assert await refused(version.name, OTHER_KEY) == "KEY_NOT_FOR_APP"
    assert await refused(version.name, READ_KEY) == "SCOPE_MISSING"
