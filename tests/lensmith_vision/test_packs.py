"""Packs are served only when they are what their card says."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lensmith_vision.card import card_from_json
from lensmith_vision.engine import EngineError, OnnxRuntimeEngine
from lensmith_vision.errors import PackError
from lensmith_vision.pack import (
    Card,
    builtin_pack,
    find_packs,
    golden_images,
    is_space_id,
    load_card,
    load_labels,
    scores_of_logits,
    space_of,
    verify,
)
from lensmith_vision.pack_builder import build_pack, main, parse_normalisation, read_source
from lensmith_vision.resize import ResizePolicy

Document = dict[str, object]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A copy of the pack that ships with the code, to be spoilt."""
    folder = tmp_path / "plain"
    shutil.copytree(builtin_pack(), folder)
    return folder


@pytest.fixture
def engine() -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(threads=1)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A foreign network with its descriptive card: two convolution channels, pooled, and a classifier on them."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    weights = np.array([[1, 0, 0], [0, 1, -1]], np.float32).reshape(2, 3, 1, 1)
    classifier = np.array([[1, 0, 2], [0, 1, -1]], np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["feature_map"]),
        helper.make_node("GlobalAveragePool", ["feature_map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "c"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("feature_map", TensorProto.FLOAT, ["n", 2, 8, 8]),
        ],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(classifier, "c")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    card = {
        "name": "Foreign_Net",
        "file": "model.onnx",
        "input": {"size": [8, 8], "normalise": "(x/255 - [0.5,0.25,0.0]) / [0.5,0.5,1.0]"},
        "outputs": {"features": "", "probabilities": ""},
        "labels": ["background", "ant", "bee"],
        "licence": "MIT",
    }
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


def change_card(folder: Path, change: Callable[[Document], object]) -> None:
    path = folder / "card.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def _ask_for_large_golden_pictures(card: Document) -> None:
    dim = card["outputs"]["features"]["dim"]
    card["input"]["size"] = [4096, 4096]
    card["golden"] = {"seeds": list(range(9)), "features": base64.b64encode(bytes(9 * dim * 4)).decode()}


def test_verify_accepts_when_pack_ships_with_the_code() -> None:
    card = verify(builtin_pack())
    assert card.id == "plain"
    assert card.rank < 100
    size = sum(file.stat().st_size for file in builtin_pack().iterdir())
    assert size < 200_000
    assert is_space_id(space_of(card).id)
    assert space_of(card).dim == card.feature_dim
    with pytest.raises(PackError):
        builtin_pack("../../etc")


def test_card_is_the_same_when_written_and_read() -> None:
    card = load_card(builtin_pack())
    again = card_from_json(card.to_json())
    assert again.to_json() == card.to_json()
    assert (again.golden.features == card.golden.features).all()


def test_space_changes_when_anything_that_moves_vectors_does() -> None:
    card = load_card(builtin_pack())
    others: list[Card] = [
        replace(card, id="other"),
        replace(card, version=2),
        replace(card, numeric="int8"),
        replace(card, resize=ResizePolicy("squash", 128, 128, filter="bicubic")),
        replace(card, resize=ResizePolicy("short_side_crop", 128, 128, 144)),
        replace(card, resize=ResizePolicy("short_side_crop", 128, 128, 145)),
    ]
    ids = {space_of(other).id for other in [card, *others]}
    assert len(ids) == 7
    assert all(is_space_id(space_id) for space_id in ids)
    assert space_of(replace(card, rank=7, display_name="New")) == space_of(card)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda card: card.update(format=2), "PACK_FORMAT_UNKNOWN"),
        (lambda card: card.update(id="Has Space"), "PACK_CARD_INVALID"),
        (lambda card: card.update(id="../up"), "PACK_CARD_INVALID"),
        (lambda card: card.update(version=0), "PACK_CARD_INVALID"),
        (lambda card: card.update(version=True), "PACK_CARD_INVALID"),
        (lambda card: card.update(views=65), "PACK_CARD_INVALID"),
        (lambda card: card.update(numeric="fp4"), "PACK_CARD_INVALID"),
        (lambda card: card.update(surprise=1), "PACK_CARD_INVALID"),
        (lambda card: card.pop("licence"), "PACK_CARD_INVALID"),
        (lambda card: card["input"].update(size=[128]), "PACK_CARD_INVALID"),
        (lambda card: card["input"].update(size=[64, 64]), "PACK_GRAPH_INVALID"),
        (lambda card: card["input"]["resize"].update(policy="stretch"), "PACK_CARD_INVALID"),
        (lambda card: card["outputs"]["features"].update(dim=5), "PACK_CARD_INVALID"),
        (lambda card: card["outputs"].update(feature_map={"shape": [824, 7, 7]}), "PACK_GRAPH_INVALID"),
        (
            lambda card: card["outputs"].update(logits={"dim": 2, "activation": "softmax", "ignored": []}),
            "PACK_LABELS_INVALID",
        ),
        (lambda card: card.update(sha256="0" * 64), "PACK_HASH_MISMATCH"),
        (lambda card: card["golden"].update(seeds=[9, 8, 7]), "PACK_GOLDEN_MISMATCH"),
        (lambda card: card["golden"].update(features="AAAA"), "PACK_CARD_INVALID"),
        (lambda card: card["golden"].update(features="?"), "PACK_CARD_INVALID"),
        (lambda card: card["outputs"].update(feature_map={"shape": [824, 65_536, 65_536]}), "PACK_CARD_INVALID"),
        (_ask_for_large_golden_pictures, "PACK_CARD_INVALID"),
    ],
)
def test_verify_refuses_when_card_is_wrong(plain: Path, change: Callable[[Document], object], reason: str) -> None:
    change_card(plain, change)
    with pytest.raises(PackError) as refused:
        verify(plain)
    assert refused.value.reason == reason


def test_verify_refuses_when_files_are_missing_or_altered(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(PackError):
        load_card(tmp_path / "nowhere")
    (plain / "card.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(PackError):
        load_card(plain)
    shutil.copy(builtin_pack() / "card.json", plain)
    with (plain / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(PackError, match="not the file of its card"):
        verify(plain)
    (plain / "model.onnx").unlink()
    with pytest.raises(PackError):
        verify(plain)


def test_find_packs_lists_folders_when_they_have_cards(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert find_packs(tmp_path) == [plain]
    assert find_packs(plain) == [plain]
    assert find_packs(tmp_path / "nowhere") == []


def test_golden_images_never_change_when_rendered_again() -> None:
    image = golden_images([1], 14, 14)[0]
    assert image[0, 0].tolist() == [37, 140, 72]
    assert (golden_images([5, 1], 14, 14)[1] == image).all()
    assert image.max() < 255


def test_engine_refuses_when_space_or_hash_is_another(engine: OnnxRuntimeEngine, plain: Path) -> None:
    space = space_of(load_card(plain)).id
    with pytest.raises(PackError) as other:
        engine.load("plain.v2", plain)
    assert other.value.reason == "PACK_OTHER_SPACE"
    change_card(plain, lambda card: card.update(sha256="0" * 64))
    with pytest.raises(PackError):
        engine.load(space, plain)
    assert engine.loaded() == ()


def test_engine_runs_what_is_loaded_and_nothing_else(engine: OnnxRuntimeEngine) -> None:
    folder = builtin_pack()
    card = load_card(folder)
    space = space_of(card).id
    batch = golden_images(range(11), 128, 128)
    with pytest.raises(EngineError) as missing:
        engine.run(space, batch)
    assert missing.value.reason == "SPACE_NOT_LOADED"
    engine.load(space, folder)
    engine.load(space, folder)
    assert engine.loaded() == (space,)
    outputs = engine.run(space, batch, feature_map=True, logits=True)
    assert outputs.features.shape == (11, card.feature_dim)
    assert outputs.feature_map is None
    assert outputs.logits is None
    alone = np.concatenate([engine.run(space, batch[row : row + 1]).features for row in range(11)])
    np.testing.assert_allclose(outputs.features, alone, atol=1e-5)
    assert engine.run(space, batch[:0]).features.shape == (0, card.feature_dim)
    for wrong in (batch[:, :64], batch[0], batch.astype(np.float32)):
        with pytest.raises(EngineError):
            engine.run(space, wrong)
    engine.unload(space)
    engine.unload(space)
    assert engine.loaded() == ()


def test_builder_wraps_preprocessing_when_network_is_foreign(
    foreign: Path, tmp_path: Path, engine: OnnxRuntimeEngine
) -> None:
    destination = tmp_path / "packs" / "foreign-net"
    card = build_pack(read_source(foreign), destination)
    assert (card.id, card.feature_dim, card.feature_map) == ("foreign-net", 2, (2, 8, 8))
    assert card.logits is not None
    assert card.logits.ignored == (0,)
    assert load_labels(destination) == ["background", "ant", "bee"]
    space = space_of(card).id
    engine.load(space, destination)
    pixel = np.array([255, 51, 102], np.uint8)
    batch = np.broadcast_to(pixel, (5, 8, 8, 3)).copy()
    outputs = engine.run(space, batch, feature_map=True, logits=True)
    red, green, blue = (1 - 0.5) / 0.5, (0.2 - 0.25) / 0.5, 0.4
    expected = np.array([red, green - blue], np.float32)
    np.testing.assert_allclose(outputs.features, np.tile(expected, (5, 1)), rtol=1e-4)
    assert outputs.feature_map is not None
    np.testing.assert_allclose(outputs.feature_map.mean(axis=(2, 3)), outputs.features, rtol=1e-4)
    assert outputs.logits is not None
    np.testing.assert_allclose(outputs.logits[0], [expected[0], expected[1], 2 * expected[0] - expected[1]], rtol=1e-4)
    scores = scores_of_logits(card, outputs.logits)
    odds = np.exp(outputs.logits[0, 1:])
    np.testing.assert_allclose(scores[0], odds / odds.sum(), rtol=1e-5)
    with pytest.raises(PackError):
        scores_of_logits(load_card(builtin_pack()), outputs.logits)
    assert engine.run(space, batch).feature_map is None
    with pytest.raises(PackError, match="exists already"):
        build_pack(read_source(foreign), destination)


def test_builder_leaves_nothing_behind_when_it_fails(foreign: Path, tmp_path: Path) -> None:
    source = replace(read_source(foreign), labels=("one",))
    with pytest.raises(PackError):
        build_pack(source, tmp_path / "packs" / "broken")
    assert list((tmp_path / "packs").iterdir()) == []
    (foreign / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(PackError):
        build_pack(read_source(foreign), tmp_path / "packs" / "broken")


def test_parse_normalisation_reads_the_usual_spellings() -> None:
    assert parse_normalisation("x / 127.5 - 1") == ((1 / 127.5,) * 3, (-1.0,) * 3)
    assert parse_normalisation("0..1 (x/255, no mean/std)") == ((1 / 255,) * 3, (0.0,) * 3)
    scale, offset = parse_normalisation("(x/255 - [0.5,0.25,0.1]) / [0.5,0.5,0.2]")
    assert scale == pytest.approx((1 / 127.5, 1 / 127.5, 1 / 51))
    assert offset == pytest.approx((-1, -0.5, -0.5))
    with pytest.raises(PackError):
        parse_normalisation("whiten, then sharpen")


def test_command_builds_every_pack_when_given_a_folder_of_networks(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(shared / "models"), str(tmp_path)]) == 0
    cards = {folder.name: load_card(folder) for folder in find_packs(tmp_path)}
    assert set(cards) == {"mobilenetv2-features", "mobilenetv2-imagenet", "nsfw-mobilenetv2"}
    ranks = [cards[name].rank for name in ("mobilenetv2-features", "mobilenetv2-imagenet")]
    assert ranks[0] > ranks[1] > load_card(builtin_pack()).rank > cards["nsfw-mobilenetv2"].rank
    assert len(load_labels(tmp_path / "mobilenetv2-imagenet")) == 1001
    assert load_labels(tmp_path / "nsfw-mobilenetv2") == ["Drawing", "Hentai", "Neutral", "Porn", "Sexy"]
    assert "no ONNX graph" in capsys.readouterr().err


def test_library_loads_neither_onnx_nor_transport_when_serving() -> None:

    script = (
        "import sys, lensmith_vision.engine, lensmith_vision.training, lensmith_vision.decode, lensmith_vision.resize\n"
        "banned = {'grpc', 'google.protobuf', 'asyncpg', 'nats', 'minio', 'onnx', 'torch', 'sklearn'}\n"
        "sys.exit(', '.join(sorted(banned & set(sys.modules))) or None)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_source_is_refused_when_card_is_not_understood(tmp_path: Path) -> None:
    with pytest.raises(PackError):
        read_source(tmp_path)
    (tmp_path / "card.json").write_text('{"name": "x", "input": {}}', encoding="utf-8")
    with pytest.raises(PackError):
        read_source(tmp_path)
