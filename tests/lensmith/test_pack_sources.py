"""What is said and asked before a base network is installed; and what is told from its files without the platform."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from lensmith.cli.base_models import Consent, installable
from lensmith.errors import AlreadyExistsError, InvalidInputError, PreconditionError
from lensmith.packs.conversion import Wishes, own_id, settle_version
from lensmith.packs.sources import local_folder, without_suffix
from lensmith.packs.starts import timm_network
from lensmith.packs.summary import is_permissive, summary_of
from lensmith.types import BaseModel
from lensmith_vision.pack import Card, builtin_pack, load_card, space_of

SHA256 = load_card(builtin_pack()).sha256


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A copy of a pack, to be spoilt."""
    return Path(shutil.copytree(builtin_pack(), tmp_path / "pack"))


def installed(card: Card, **changes: object) -> BaseModel:
    """A base model as the platform tells of it."""
    told: dict[str, object] = {
        "id": card.id,
        "version": str(card.version),
        "display_name": card.display_name,
        "description": card.description,
        "space": space_of(card).id,
        "dimensions": card.feature_dim,
        "input_side": card.resize.height,
        "views": card.views,
        "licence": card.licence,
        "source": card.source,
        "sha256": card.sha256,
        "size_bytes": card.bytes,
        "rank": card.rank,
        "model": "",
        "created_at": None,
    }
    return BaseModel(**{**told, **changes})


@pytest.mark.parametrize("licence", ["Apache-2.0", "mit", " BSD-3-Clause ", "cc0-1.0"])
def test_nobody_is_asked_when_a_licence_is_permissive(licence: str) -> None:
    assert is_permissive(licence)
    Consent(given=False).ask(licence, "net")


@pytest.mark.parametrize(
    ("licence", "told"),
    [
        ("cc-by-nc-4.0", "cc-by-nc-4.0"),
        ("", "names no licence"),
        ("unknown", "names no licence"),
        ("mit, gpl-3.0", "gpl"),
    ],
)
def test_a_licence_is_refused_when_nobody_can_be_asked(licence: str, told: str) -> None:
    with pytest.raises(PreconditionError, match=told) as refused:
        Consent(given=False).ask(licence, "net")
    assert refused.value.reason == "LICENCE_NOT_ACCEPTED"
    Consent(given=True).ask(licence, "net")


def test_a_card_is_read_and_its_graph_checked(pack: Path) -> None:
    summary = summary_of(pack)
    assert (summary.id, summary.dimensions, summary.input_size) == ("plain", 824, (128, 128))
    assert installable(pack, pack.parent / "made") == pack
    (pack / "model.onnx").write_bytes(b"another")
    with pytest.raises(InvalidInputError) as refused:
        summary_of(pack)
    assert refused.value.reason == "PACK_HASH_MISMATCH"


@pytest.mark.parametrize("card", ["{}", "[]", "{", '{"format": 1, "id": "x"}', "[" * 100_000])
def test_a_folder_is_refused_when_its_card_is_none(card: str, pack: Path) -> None:
    (pack / "card.json").write_text(card)
    with pytest.raises(InvalidInputError) as refused:
        summary_of(installable(pack, pack.parent / "made"))
    assert refused.value.reason == "PACK_INVALID"


def test_a_pack_is_made_when_a_folder_has_weights_to_learn_on_from(shared: Path, tmp_path: Path) -> None:
    made = summary_of(installable(shared / "models" / "mobilenetv2-trainable", tmp_path / "made"))
    assert (made.id, made.dimensions, made.input_size) == ("mobilenetv2-trainable", 1280, (224, 224))
    assert made.licence == "Apache-2.0"


def test_a_network_of_timm_is_refused_when_it_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"a pickle")
    for source in ("timm:", f"timm:test_resnet:{tmp_path}/weights.bin", f"timm:test_resnet:{tmp_path}/no.safetensors"):
        with pytest.raises(InvalidInputError) as refused:
            timm_network(source, tmp_path / "made", "", Wishes())
        assert refused.value.reason == "SOURCE_INVALID"
    if find_spec("timm") is None:
        with pytest.raises(InvalidInputError, match=r'pip install "lensmith\[finetune\]" timm') as refused:
            timm_network("timm:test_resnet", tmp_path / "made", "", Wishes())
        assert refused.value.reason == "EXTRA_MISSING"


def test_a_demanded_checksum_is_that_of_the_graph_in_a_folder(pack: Path, tmp_path: Path) -> None:
    assert local_folder(str(pack), tmp_path / "out", SHA256) == pack
    with pytest.raises(InvalidInputError) as refused:
        local_folder(str(pack), tmp_path / "out", "0" * 64)
    assert refused.value.reason == "CHECKSUM_MISMATCH"
    for nothing in ("nowhere", str(pack / "card.json")):
        with pytest.raises(InvalidInputError) as refused:
            local_folder(nothing, tmp_path / "out")
        assert refused.value.reason == "SOURCE_NOT_FOUND"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/packs/My_Net-1.0", "my-net-1-0"),
        ("/packs/net.tar.gz", "net"),
        ("https://example.org/a/net.ZIP?x=1", "net"),
        ("https://example.org/a/card.json", "a"),
        ("/packs/…", "network"),
    ],
)
def test_a_network_is_called_as_where_it_comes_from(source: str, name: str) -> None:
    assert own_id(without_suffix(source)) == name


def test_a_pack_that_was_made_is_numbered_after_the_installed_one(pack: Path) -> None:
    card = load_card(pack)
    assert settle_version(pack, None)
    assert not settle_version(pack, installed(card))
    # A machine that made it again may differ in the last bits of the golden vectors: still the same network.
    document = json.loads((pack / "card.json").read_text())
    (pack / "card.json").write_text(json.dumps({**document, "description": "made elsewhere"}))
    assert not settle_version(pack, installed(card))
    with pytest.raises(AlreadyExistsError, match="--name"):
        settle_version(pack, installed(card, sha256="0" * 64, source="elsewhere"))
    assert settle_version(pack, installed(card, sha256="0" * 64, version="7"))
    assert load_card(pack).version == 8


def test_a_revision_of_a_hub_is_no_other_origin(pack: Path) -> None:
    card = load_card(pack)
    document = json.loads((pack / "card.json").read_text())
    (pack / "card.json").write_text(json.dumps({**document, "source": "hf:a/b@222:onnx/model.onnx"}))
    assert settle_version(pack, installed(card, sha256="0" * 64, source="hf:a/b@111"))
    with pytest.raises(AlreadyExistsError):
        settle_version(pack, installed(card, sha256="0" * 64, source="hf:else/b@222:onnx/model.onnx"))
