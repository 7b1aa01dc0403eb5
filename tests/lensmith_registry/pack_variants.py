"""Packs that are the plain one with another card, and their way into registry."""

import shutil
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

from lensmith_api.v1 import base_model_service_pb2 as pb
from lensmith_vision.pack import builtin_pack, load_card
from tests.lensmith_registry.rig import OPERATOR_KEY, Rig

PACK = builtin_pack()


def variant(folder: Path, **changes: object) -> Path:
    """A copy of the plain pack with another card."""
    shutil.copytree(PACK, folder)
    card = replace(load_card(PACK), **changes)
    (folder / "card.json").write_text(card.to_json())
    return folder


async def _parts(files: Iterable[tuple[str, bytes]]) -> AsyncIterator[pb.ImportBaseModelRequest]:
    for name, content in files:
        yield pb.ImportBaseModelRequest(file_name=name)
        for start in range(0, len(content), 1 << 20):
            yield pb.ImportBaseModelRequest(chunk=content[start : start + (1 << 20)])


def files_of(folder: Path) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file()]


async def import_pack(rig: Rig, files: Iterable[tuple[str, bytes]], key: str = OPERATOR_KEY):
    return await rig.base_models.ImportBaseModel(_parts(files), metadata=rig.key(key))
