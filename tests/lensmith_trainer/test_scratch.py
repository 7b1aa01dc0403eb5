"""Folders of fine-tuning: held by one, bounded, and kept only as long as somebody may want them."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lensmith_platform.errors import PreconditionError
from lensmith_trainer.holding import Row, TrainingRows
from lensmith_trainer.kept_rows import keep_rows, kept_rows
from lensmith_trainer.learning_process import is_checked
from lensmith_trainer.scratch import Scratch
from lensmith_vision.pack import builtin_pack, load_card

MIB = 1 << 20


@pytest.fixture
async def scratch(tmp_path: Path) -> Scratch:
    scratch = Scratch(tmp_path, 10 * MIB)
    await scratch.prepare()
    return scratch


async def _filled(scratch: Scratch, version: str, size: int, age: float) -> Path:
    async with scratch.held(version) as folder:
        path = folder / "pixels"
        path.write_bytes(bytes(size))
        for touched in (path, folder):
            os.utime(touched, (touched.stat().st_atime, touched.stat().st_mtime - age))
    return folder


async def test_folder_is_held_by_one_and_left_to_the_next(scratch: Scratch) -> None:
    async with scratch.held("a") as folder:
        waiting = asyncio.create_task(_filled(scratch, "a", 1, 0))
        await asyncio.wait({waiting}, timeout=0.3)
        assert not waiting.done()
        # Whoever holds it keeps it, whatever another process thinks of the version.
        await scratch.discard("a")
        assert folder.is_dir()
    await waiting
    await scratch.discard("a")
    assert not folder.exists()


async def test_work_goes_on_when_everything_was_deleted_meanwhile(scratch: Scratch, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path)
    await scratch.discard("a")
    async with scratch.held("a") as folder:
        await scratch.make_room(folder, MIB)
        assert folder.is_dir()


async def test_oldest_folders_give_way_when_room_is_needed(scratch: Scratch) -> None:
    old = await _filled(scratch, "old", 4 * MIB, 200)
    young = await _filled(scratch, "young", 4 * MIB, 100)
    async with scratch.held("new") as folder:
        await scratch.make_room(folder, 5 * MIB)
        assert (old.exists(), young.exists()) == (False, True)
        async with scratch.held("young"):
            with pytest.raises(PreconditionError, match=r"FINE_TUNING_TOO_LARGE.*others take 4 MiB"):
                await scratch.make_room(folder, 8 * MIB)
        with pytest.raises(PreconditionError, match=r"takes 11 MiB of scratch space.*at most 10 MiB"):
            await scratch.make_room(folder, 11 * MIB)
        assert young.exists()


async def test_room_that_was_given_is_given_to_nobody_else(scratch: Scratch) -> None:
    async with scratch.held("first") as first, scratch.held("second") as second:
        await scratch.make_room(first, 6 * MIB)
        with pytest.raises(PreconditionError, match="others take 6 MiB of 10 MiB already"):
            await scratch.make_room(second, 6 * MIB)
    # Nobody holds it any more: what it may yet have written is no reason to keep it.
    async with scratch.held("second") as second:
        await scratch.make_room(second, 6 * MIB)
    assert not first.exists()


async def test_version_is_told_when_the_disk_gets_full(scratch: Scratch) -> None:
    taken = TrainingRows([Row("a", "0" * 64, {"glass": True})], np.ones((1, 4), np.float32))

    async def keep() -> None:
        async with scratch.held("a") as folder:
            (folder / ".rows.safetensors").symlink_to("/dev/full")
            keep_rows(folder, taken)

    with pytest.raises(PreconditionError, match=r"FINE_TUNING_TOO_LARGE.*the disk of the trainer is full"):
        await keep()


def test_base_network_is_fetched_again_unless_it_is_whole(tmp_path: Path) -> None:
    pack = tmp_path / "plain"
    shutil.copytree(builtin_pack("plain"), pack)
    assert not is_checked(pack)
    (pack / "checked").write_text(load_card(pack).sha256)
    assert is_checked(pack)
    # Its bytes had not reached the disk when the power went.
    (pack / "model.onnx").write_bytes(b"")
    assert not is_checked(pack)


async def test_room_is_refused_when_the_disk_lacks_it(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, 1 << 60)
    await scratch.prepare()
    async with scratch.held("new") as folder:
        with pytest.raises(PreconditionError, match="are free on the disk"):
            await scratch.make_room(folder, 1 << 59)


async def test_forgotten_folders_go_when_a_trainer_starts_or_begins_another(scratch: Scratch, tmp_path: Path) -> None:
    kept = await _filled(scratch, "kept", 1, 6 * 86400.0)
    forgotten = await _filled(scratch, "forgotten", 1, 8 * 86400.0)
    await Scratch(tmp_path, MIB).prepare()
    assert (forgotten.exists(), kept.exists()) == (False, True)
    forgotten = await _filled(scratch, "forgotten", 1, 8 * 86400.0)
    async with scratch.held("new") as folder:
        await scratch.make_room(folder, 1)
    assert (forgotten.exists(), kept.exists()) == (False, True)


def test_training_data_is_the_same_again_when_it_was_kept(tmp_path: Path) -> None:
    rows = [Row("a", "0" * 64, {"glass": True, "size": 2.5}), Row("b", "1" * 64, {"glass": False}, test=True)]
    taken = TrainingRows(rows, np.asarray([[1.5, 2], [3, 4]], np.float32))
    assert kept_rows(tmp_path) is None
    keep_rows(tmp_path, taken)
    again = kept_rows(tmp_path)
    assert again is not None
    assert list(again.rows) == rows
    np.testing.assert_array_equal(again.features, taken.features)
    (tmp_path / "rows.safetensors").write_bytes((tmp_path / "rows.safetensors").read_bytes()[:-3])
    assert kept_rows(tmp_path) is None
