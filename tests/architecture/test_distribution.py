"""What is handed out: everything that the code needs at run time is in the wheel, and nothing else."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from lensmith_vision.pack import BUILTIN_PACKS, find_packs, load_card, verify

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("libs", "services")
MAX_WHEEL_BYTES = 12_000_000
MAX_STARTER_BYTES = 8_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, capture_output=True
    )
    return folder


def tracked() -> set[str]:
    """Files of the source roots, as Git has them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", *SOURCE_ROOTS], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    return {path for path in listed if path and (ROOT / path).is_file()}


def test_the_wheel_holds_every_file_of_the_packages(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {path.partition("/")[2] for path in tracked()}
    assert sorted(wanted - names) == []
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {
        path.partition("/")[0] for path in wanted
    }
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


def test_the_source_distribution_holds_the_packs_too(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as sources:
        names = {name.partition("/")[2] for name in sources.getnames()}
    assert sorted(tracked() - names) == []


@pytest.mark.parametrize("folder", find_packs(BUILTIN_PACKS), ids=lambda folder: folder.name)
def test_a_pack_that_ships_with_the_code_is_small_and_proven(folder: Path, built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = f"lensmith_vision/packs/{folder.name}/"
        archive.extractall(tmp_path, [name for name in archive.namelist() if name.startswith(inside)])
    card = verify(tmp_path / inside)
    assert card.id == folder.name
    # Whoever imports a network expects it to be used.
    assert card.rank <= 100
    assert sum(file.stat().st_size for file in folder.iterdir()) < MAX_STARTER_BYTES


def test_what_sees_most_of_what_ships_is_not_plain_unless_there_is_nothing_else() -> None:
    ranks = {folder.name: load_card(folder).rank for folder in find_packs(BUILTIN_PACKS)}
    assert ranks["plain"] == min(ranks.values())
