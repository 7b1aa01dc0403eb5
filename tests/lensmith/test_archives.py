"""Archives give up the files of a pack, and nothing else."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from lensmith.errors import InvalidInputError
from lensmith.packs import archives
from lensmith.packs.archives import extract

PACK = {"card.json": b'{"format": 1}', "model.onnx": b"graph", "labels.txt": b"ant\n"}


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes], *more: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
        for item in more:
            archive.addfile(item)
    return path


def link(kind: bytes, name: str = "model.onnx") -> tarfile.TarInfo:
    item = tarfile.TarInfo(name)
    item.type, item.linkname = kind, "/etc/passwd"
    return item


@pytest.mark.parametrize("top", ["", "pack-1.0/", "./", "a/b/"])
@pytest.mark.parametrize(("make", "name"), [(zipped, "p.zip"), (tarred, "p.tar.gz")])
def test_a_pack_comes_out_whether_or_not_it_lies_in_a_folder(make, name: str, top: str, tmp_path: Path) -> None:
    more = {"README.md": b"hello", "sub/model.onnx": b"another", "weights.bin": b"x"}
    archive = make(tmp_path / name, {top + path: content for path, content in {**PACK, **more}.items()})
    folder = extract(archive, tmp_path / "out")
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")} == PACK


def test_a_published_network_comes_out_with_its_graph(tmp_path: Path) -> None:
    files = {"preprocessor_config.json": b"{}", "config.json": b"{}", "onnx/model.onnx": b"graph"}
    folder = extract(zipped(tmp_path / "n.zip", files), tmp_path / "out")
    assert (folder / "onnx" / "model.onnx").read_bytes() == b"graph"


@pytest.mark.parametrize("name", ["../card.json", "/etc/card.json", "a/../../card.json", "..\\card.json"])
def test_an_archive_is_refused_when_a_path_leads_outside(name: str, tmp_path: Path) -> None:
    for archive in (
        zipped(tmp_path / "p.zip", {**PACK, name: b"{}"}),
        tarred(tmp_path / "p.tgz", {**PACK, name: b"{}"}),
    ):
        with pytest.raises(InvalidInputError, match="outside") as refused:
            extract(archive, tmp_path / "out")
        assert refused.value.reason == "ARCHIVE_INVALID"
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "card.json").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_an_archive_is_refused_when_it_has_a_link_or_device(kind: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="link or device"):
        extract(tarred(tmp_path / "p.tar.gz", PACK, link(kind, "x")), tmp_path / "out")


def test_a_zip_is_refused_when_it_has_a_link(tmp_path: Path) -> None:
    item = zipfile.ZipInfo("labels.txt")
    item.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("card.json", b"{}")
        archive.writestr(item, b"/etc/passwd")
    with pytest.raises(InvalidInputError, match="link or device"):
        extract(tmp_path / "p.zip", tmp_path / "out")


def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "p.zip", {"card.json": b"{}", "labels.txt": b""})
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("card.json", b" " * (archives.FILES["card.json"] + 1))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(InvalidInputError, match="more than"):
        extract(bomb, tmp_path / "out")
    many = zipped(tmp_path / "m.zip", {"card.json": b"{}", **{str(number): b"" for number in range(10_001)}})
    with pytest.raises(InvalidInputError, match="entries"):
        extract(many, tmp_path / "out2")


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04" + b"x" * 100])
def test_an_archive_is_refused_when_it_cannot_be_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.zip").write_bytes(content)
    with pytest.raises(InvalidInputError) as refused:
        extract(tmp_path / "p.zip", tmp_path / "out")
    assert refused.value.reason == "ARCHIVE_INVALID"


def test_an_archive_is_refused_when_it_holds_no_pack_or_one_twice(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="holds no pack"):
        extract(zipped(tmp_path / "p.zip", {"README": b"x"}), tmp_path / "out")
    with pytest.raises(InvalidInputError):
        extract(tarred(tmp_path / "p.tgz", {"card.json": b"{}", "./card.json": b"[]"}), tmp_path / "out2")
