"""Networks as hubs publish them become packs that see what their publisher meant them to see, or are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.shape_inference
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.errors import PackError
from lensmith_vision.pack import golden_images, load_card, load_labels, space_of
from lensmith_vision.pack_builder import build_pack
from lensmith_vision.published import Provenance, read_published
from lensmith_vision.resize import ResizePolicy

PROVENANCE = Provenance("net", "Net", "apache-2.0", "hf:somebody/net", 150)
CONFIG: dict[str, object] = {
    "architectures": ["NetForImageClassification"],
    "id2label": {"0": "ant", "1": "bee", "2": "cat"},
}
PREPARATION: dict[str, object] = {
    "do_resize": True,
    "size": {"height": 8, "width": 8},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.25, 0.0],
    "image_std": [0.5, 0.5, 1.0],
}
GENERATOR = np.random.default_rng(7)
CONV = GENERATOR.normal(size=(5, 3, 1, 1)).astype(np.float32)
HEAD = GENERATOR.normal(size=(3, 5)).astype(np.float32)
TOKENS = GENERATOR.normal(size=(3, 3, 2, 2)).astype(np.float32)


def tensor(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[str],
    *,
    inputs: Sequence[onnx.ValueInfoProto] = (),
    opset: int = 17,
) -> onnx.ModelProto:
    constants = {"conv": CONV, "head": HEAD, "headT": np.ascontiguousarray(HEAD.T), "bias": np.ones(3, np.float32)}
    constants |= {"patch": TOKENS, "cls": np.ones((1, 3, 1), np.float32), "conv1x1": HEAD.reshape(3, 5, 1, 1)}
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    stored.append(numpy_helper.from_array(np.array([0, 3, -1]), "shape"))
    given = inputs or [tensor("pixel_values", ["batch", 3, "height", "width"])]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    for value in results:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph(nodes, "net", given, results, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


BACKBONE = [node("Conv", "pixel_values conv", "map"), node("GlobalAveragePool", "map", "pool")]
TRANSFORMER = [
    node("Conv", "pixel_values patch", "grid", kernel_shape=[2, 2], strides=[2, 2]),
    node("Reshape", "grid shape", "rows"),
]


def publish(
    folder: Path,
    model: onnx.ModelProto,
    config: dict[str, object] = CONFIG,
    preparation: dict[str, object] = PREPARATION,
) -> Path:
    (folder / "onnx").mkdir(parents=True)
    onnx.save(model, folder / "onnx" / "model.onnx")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    return folder


def expected_of(model: onnx.ModelProto, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
    """What the network gives by itself, its pictures prepared as PREPARATION says."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    known = {value.name for value in probed.graph.output}
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in known)
    session = ort.InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = (images / 255 - np.array([0.5, 0.25, 0.0])) / np.array([0.5, 0.5, 1.0])
    return session.run(list(outputs), {"pixel_values": pixels.transpose(0, 3, 1, 2).astype(np.float32)})


CASES: dict[str, tuple[onnx.ModelProto, Callable[[list[np.ndarray]], np.ndarray], list[str], bool, bool]] = {
    # name: (graph, features of the probed tensors, tensors, has a map, has logits)
    "pooler-and-logits": (
        graph_of(
            [
                *BACKBONE,
                node("Flatten", "pool", "pooler_output"),
                node("Gemm", "pooler_output head bias", "logits", transB=1),
            ],
            ["logits", "pooler_output"],
        ),
        lambda found: found[0],
        ["pooler_output"],
        True,
        True,
    ),
    "pooler-not-flat": (
        graph_of([*BACKBONE, node("Identity", "pool", "pooler_output")], ["pooler_output"]),
        lambda found: found[0].reshape(len(found[0]), -1),
        ["pooler_output"],
        True,
        False,
    ),
    "logits-only": (
        graph_of(
            [
                *BACKBONE,
                node("Flatten", "pool", "flat"),
                node("MatMul", "flat headT", "dot"),
                node("Add", "bias dot", "logits"),
            ],
            ["logits"],
        ),
        lambda found: found[0],
        ["flat"],
        True,
        True,
    ),
    "probabilities-only": (
        graph_of(
            [
                *BACKBONE,
                node("Flatten", "pool", "flat"),
                node("Gemm", "flat head bias", "dense", transB=1),
                node("Softmax", "dense", "answer"),
            ],
            ["answer"],
        ),
        lambda found: found[0],
        ["flat"],
        True,
        True,
    ),
    "classifier-before-pooling": (
        graph_of(
            [
                node("Conv", "pixel_values conv", "map"),
                node("Conv", "map conv1x1", "scores"),
                node("GlobalAveragePool", "scores", "pool"),
                node("Flatten", "pool", "logits"),
            ],
            ["logits"],
        ),
        lambda found: found[0].mean(axis=(2, 3)),
        ["map"],
        True,
        True,
    ),
    "hidden-map": (
        graph_of([node("Conv", "pixel_values conv", "last_hidden_state")], ["last_hidden_state"]),
        lambda found: found[0].mean(axis=(2, 3)),
        ["last_hidden_state"],
        True,
        False,
    ),
    "hidden-tokens": (
        graph_of([*TRANSFORMER, node("Transpose", "rows", "last_hidden_state", perm=[0, 2, 1])], ["last_hidden_state"]),
        lambda found: found[0].mean(axis=1),
        ["last_hidden_state"],
        False,
        False,
    ),
    "names-of-the-contract-inside": (
        graph_of(
            [
                node("Conv", "pixel_values conv", "features"),
                node("GlobalAveragePool", "features", "image"),
                node("Flatten", "image", "feature_map"),
                node("Gemm", "feature_map head", "logits", transB=1),
            ],
            ["logits"],
        ),
        lambda found: found[0],
        ["feature_map"],
        True,
        True,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_pack_gives_what_the_network_gives(name: str, tmp_path: Path) -> None:
    model, features_of, probed, has_map, has_logits = CASES[name]
    folder = publish(tmp_path / "net", model, CONFIG if has_logits else {"architectures": ["NetModel"]})
    card = build_pack(read_published(folder, PROVENANCE), tmp_path / "pack")
    assert (card.licence, card.source, card.rank) == (PROVENANCE.licence, PROVENANCE.source, 150)
    assert (card.feature_map is not None, card.logits is not None) == (has_map, has_logits)
    engine = OnnxRuntimeEngine(threads=1)
    space = space_of(card).id
    engine.load(space, tmp_path / "pack")
    images = golden_images([4, 5, 6, 7, 8], 8, 8)
    outputs = engine.run(space, images, feature_map=True, logits=True)
    expected = features_of(expected_of(model, images, probed))
    np.testing.assert_allclose(outputs.features, expected, rtol=1e-3, atol=1e-4)
    if has_map:
        assert outputs.feature_map is not None
        np.testing.assert_allclose(outputs.feature_map.mean(axis=(2, 3)), expected, rtol=1e-3, atol=1e-4)
    if has_logits:
        assert outputs.logits is not None
        assert load_labels(tmp_path / "pack") == ["ant", "bee", "cat"]
        (answer,) = expected_of(model, images, [model.graph.output[0].name])
        assert (outputs.logits.argmax(axis=1) == answer.argmax(axis=1)).all()


def test_the_first_token_stands_for_the_picture_when_there_is_one_more_than_patches(tmp_path: Path) -> None:
    nodes = [
        *TRANSFORMER,
        node("ReduceMean", "rows", "mean", axes=[2], keepdims=1),
        node("Mul", "mean cls", "class"),
        node("Concat", "class rows", "together", axis=2),
        node("Transpose", "together", "last_hidden_state", perm=[0, 2, 1]),
    ]
    model = graph_of(nodes, ["last_hidden_state"])
    folder = publish(tmp_path / "net", model, {})
    card = build_pack(read_published(folder, PROVENANCE), tmp_path / "pack")
    engine = OnnxRuntimeEngine(threads=1)
    engine.load(space_of(card).id, tmp_path / "pack")
    images = golden_images([4, 5], 8, 8)
    (tokens,) = expected_of(model, images, ["last_hidden_state"])
    assert tokens.shape[1] == 17
    features = engine.run(space_of(card).id, images).features
    np.testing.assert_allclose(features, tokens[:, 0], rtol=1e-3, atol=1e-4)


LOGITS = CASES["logits-only"][0]


@pytest.mark.parametrize(
    ("model", "config", "told"),
    [
        (graph_of([node("Relu", "pixel_values", "strange")], ["strange"]), {}, "gives strange"),
        (graph_of([*BACKBONE, node("Flatten", "pool", "pooler_output")], ["pooler_output"]), CONFIG, "names 3 labels"),
        (LOGITS, {**CONFIG, "id2label": {"0": "ant", "1": "bee"}}, "gives 3 logits"),
        (LOGITS, {**CONFIG, "id2label": {"0": "ant", "2": "bee"}}, "count from 0"),
        (LOGITS, {**CONFIG, "id2label": {"ant": "0"}}, "no numbers"),
        (
            graph_of(
                BACKBONE, ["pool"], inputs=[tensor("pixel_values", ["n", 3, 8, 8]), tensor("input_ids", ["n", 7])]
            ),
            {},
            "2 inputs",
        ),
        (graph_of(BACKBONE, ["pool"], inputs=[tensor("pixel_values", ["n", 8, 8, 3])]), {}, "not float32"),
        (graph_of(BACKBONE, ["pool"], inputs=[tensor("pixel_values", ["n", 3, 9, 9])]), {}, "a side of 9"),
        (
            graph_of(
                [node("ReduceMean", "pixel_values", "pooler_output", axes=[0, 2, 3], keepdims=0)], ["pooler_output"]
            ),
            {},
            "company",
        ),
        (
            graph_of(
                [
                    helper.make_node("DynamicQuantizeLinear", ["pixel_values"], ["q", "scale", "zero"]),
                    node("DequantizeLinear", "q scale zero", "last_hidden_state"),
                ],
                ["last_hidden_state"],
            ),
            {},
            "quantised",
        ),
    ],
)
def test_a_network_is_refused_when_no_pack_can_be_made_of_it(
    model: onnx.ModelProto, config: dict[str, object], told: str, tmp_path: Path
) -> None:
    folder = publish(tmp_path / "net", model, config)
    with pytest.raises(PackError, match=told) as refused:
        build_pack(read_published(folder, PROVENANCE), tmp_path / "pack")
    assert refused.value.reason == "PACK_SOURCE_INVALID"
    assert not (tmp_path / "pack").exists()


@pytest.mark.parametrize(
    ("preparation", "labelled", "expected"),
    [
        # ViT, old and new; CLIP; DINOv2; DeiT; ConvNeXT small and large
        ({"size": 224, "resample": 2}, True, ResizePolicy("squash", 224, 224)),
        ({"size": {"height": 256, "width": 192}, "resample": 3}, True, ResizePolicy("squash", 256, 192, 0, "bicubic")),
        (
            {
                "size": {"shortest_edge": 224},
                "crop_size": {"height": 224, "width": 224},
                "do_center_crop": True,
                "resample": 3,
            },
            True,
            ResizePolicy("short_side_crop", 224, 224, 224, "bicubic"),
        ),
        (
            {
                "size": {"shortest_edge": 256},
                "crop_size": {"height": 224, "width": 224},
                "do_center_crop": True,
                "resample": 3,
            },
            False,
            ResizePolicy("squash", 224, 224, 0, "bicubic"),
        ),
        ({"size": 256, "crop_size": 224, "do_center_crop": True}, True, ResizePolicy("short_side_crop", 224, 224, 256)),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, True, ResizePolicy("short_side_crop", 224, 224, 256)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, True, ResizePolicy("squash", 384, 384)),
    ],
)
def test_pictures_are_prepared_as_the_publisher_says(
    preparation: dict[str, object], labelled: bool, expected: ResizePolicy, tmp_path: Path
) -> None:
    mean = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    folder = publish(tmp_path / "net", LOGITS, CONFIG if labelled else {}, {**mean, **preparation})
    source = read_published(folder, PROVENANCE)
    assert source.resize == expected
    assert source.scale == pytest.approx((2 / 255,) * 3)
    assert source.offset == pytest.approx((-1.0,) * 3)


def test_pixels_stay_as_they_are_when_the_publisher_says_so(tmp_path: Path) -> None:
    folder = publish(tmp_path / "net", LOGITS, CONFIG, {"do_rescale": False, "do_normalize": False})
    source = read_published(folder, PROVENANCE)
    assert (source.scale, source.offset) == ((1.0,) * 3, (0.0,) * 3)


@pytest.mark.parametrize(
    "change",
    [
        {"do_resize": False},
        {"do_pad": True},
        {"do_flip_channel_order": True},
        {"rescale_offset": True},
        {"resample": 1},
        {"resample": "bilinear"},
        {"size": {"shortest_edge": 8}},
        {"size": {"height": 8}},
        {"size": True},
        {"size": 10**9},
        {"size": 8, "do_center_crop": True, "crop_size": 9},
        {"image_mean": None},
        {"image_std": [0, 1, 1]},
        {"image_std": ["a", 1, 1]},
        {"rescale_factor": float("nan")},
        {"crop_pct": 7},
    ],
)
def test_a_network_is_refused_when_its_preparation_is_nothing_a_pack_can_do(
    change: dict[str, object], tmp_path: Path
) -> None:
    folder = publish(tmp_path / "net", LOGITS, CONFIG, {**PREPARATION, **change})
    with pytest.raises(PackError, match=r"preprocessor_config\.json") as refused:
        read_published(folder, PROVENANCE)
    assert refused.value.reason == "PACK_SOURCE_INVALID"


def test_a_folder_is_refused_when_it_is_incomplete(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="no ONNX file"):
        read_published(tmp_path, PROVENANCE)
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(PackError, match=r"preprocessor_config\.json"):
        read_published(tmp_path, PROVENANCE)
    (tmp_path / "preprocessor_config.json").write_text("[]")
    with pytest.raises(PackError, match="no object"):
        read_published(tmp_path, PROVENANCE)


def test_weights_beside_the_graph_come_into_the_pack(tmp_path: Path) -> None:
    whole, split = publish(tmp_path / "whole", LOGITS), publish(tmp_path / "split", LOGITS)
    model = onnx.load(split / "onnx" / "model.onnx")
    beside = {"save_as_external_data": True, "location": "model.onnx_data", "size_threshold": 0}
    onnx.save(model, split / "onnx" / "model.onnx", **beside)
    assert (split / "onnx" / "model.onnx_data").is_file()
    cards = [build_pack(read_published(each, PROVENANCE), tmp_path / f"{each.name}-pack") for each in (whole, split)]
    np.testing.assert_array_equal(cards[0].golden.features, cards[1].golden.features)
    (split / "onnx" / "model.onnx_data").unlink()
    with pytest.raises(PackError, match="no valid ONNX graph"):
        build_pack(read_published(split, PROVENANCE), tmp_path / "none")


def test_labels_that_nobody_named_are_no_concepts(tmp_path: Path) -> None:
    config = {**CONFIG, "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}
    folder = publish(tmp_path / "net", LOGITS, config)
    card = build_pack(read_published(folder, PROVENANCE), tmp_path / "pack")
    assert card.logits is None
    several = {**CONFIG, "problem_type": "multi_label_classification"}
    assert read_published(publish(tmp_path / "many", LOGITS, several), PROVENANCE).activation == "sigmoid"


def test_a_real_network_gives_its_own_vectors_when_only_its_logits_are_published(shared: Path, tmp_path: Path) -> None:
    model = onnx.load(shared / "models" / "mobilenetv2-imagenet" / "model.onnx")
    del model.graph.output[:]
    model.graph.output.append(tensor("logits", ["n", 1001]))
    labels = (shared / "models" / "mobilenetv2-imagenet" / "labels.txt").read_text().splitlines()
    config = {**CONFIG, "id2label": {str(index): label for index, label in enumerate(labels)}}
    half = [0.5, 0.5, 0.5]
    preparation = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}
    folder = publish(tmp_path / "net", model, config, {**preparation, "image_mean": half, "image_std": half})
    card = build_pack(read_published(folder, PROVENANCE), tmp_path / "pack")
    assert (card.feature_dim, card.feature_map) == (1280, (1280, 7, 7))
    assert card.logits is not None
    assert card.logits.ignored == (0,)
    assert load_card(tmp_path / "pack").resize == ResizePolicy("short_side_crop", 224, 224, 256)
