"""Exports: the archive's own program gives the platform's numbers, in a process that knows nothing of the platform."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from lensmith_vision.decode import decode
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.export import Exported, NativeAnswer, _write_kernel, _Writer
from lensmith_vision.export_archive import _program, write_archive
from lensmith_vision.familiarity import learn_familiarity
from lensmith_vision.general import hierarchy
from lensmith_vision.heads import Head
from lensmith_vision.kernel import KernelPart
from lensmith_vision.pack import builtin_pack, golden_images, load_card, space_of
from lensmith_vision.resize import ResizePolicy, apply
from lensmith_vision.transforms import transformed
from tests.lensmith_vision.test_decode import linear_profile

PACK = builtin_pack("starter")
CARD = load_card(PACK)
SPACE = space_of(CARD).id


@pytest.fixture(scope="module")
def engine() -> OnnxRuntimeEngine:
    engine = OnnxRuntimeEngine()
    engine.load(SPACE, PACK)
    return engine


@pytest.fixture(scope="module")
def photos(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photographs of several shapes, formats, depths and colour profiles, some turned by EXIF or seen through."""
    folder = tmp_path_factory.mktemp("photos")
    found = sorted((shared / "datasets" / "trashnet").rglob("*.jpg"))[::500]
    found += sorted((shared / "datasets" / "bccd" / "JPEGImages").glob("*.jpg"))[:2]
    with Image.open(found[0]) as photo:
        exif = photo.getexif()
        exif[0x0112] = 6
        photo.resize((1700, 1100)).save(folder / "turned.jpg", exif=exif)
        photo.resize((333, 500)).save(folder / "lossless.png")
        photo.convert("L").save(folder / "grey.webp")
        photo.save(folder / "of-other-colours.jpg", icc_profile=linear_profile())
        photo.save(folder / "with-a-broken-profile.jpg", icc_profile=b"no profile at all" * 9)
        photo.save(folder / "with-broken-exif.jpg", exif=b"Exif\0\0garbage that is none")
        photo.resize((1400, 1300)).convert("CMYK").save(folder / "for-print.jpg")
        photo.quantize(64).save(folder / "of-a-palette.png", icc_profile=linear_profile())
        photo.quantize(64).save(folder / "of-a-palette-with-a-hole.gif", transparency=7)
        deep = np.asarray(photo.convert("L")).astype(np.uint16) * 250
        Image.fromarray(deep).save(folder / "of-sixteen-bits.png", exif=exif)
        photo.putalpha(photo.getchannel("R"))
        photo.resize((900, 1400)).save(folder / "seen-through.png", exif=exif, icc_profile=linear_profile())
        photo.resize((50, 1250)).save(folder / "narrow.webp")
        photo.resize((1, 1)).convert("RGB").save(folder / "tiny.jpg")
    return [*found, *sorted(folder.iterdir())]


def head_of(kind: str, transform: str, *, kernel: bool) -> Head:
    random = np.random.default_rng(3)
    count = 1 if kind == "regression" else 3
    features = random.gamma(1.0, 0.5, (12, CARD.feature_dim)).astype(np.float32)
    inputs = transformed(features, transform)
    part = None
    if kernel:
        landmarks = inputs[:8].astype(np.float16).astype(np.float32)
        part = KernelPart(landmarks, random.normal(0, 3, (8, count)).astype(np.float32), 1.5)
    scale = 0.05 if transform == "none" else 3.0
    return Head(
        type=kind,
        space=SPACE,
        concepts=("count",) if kind == "regression" else ("glass", "métal", "paper"),
        weights=random.normal(0, scale, (CARD.feature_dim, count)).astype(np.float32),
        bias=random.normal(size=count).astype(np.float32),
        thresholds=np.full(count, 0.4, np.float32),
        value_range=(-50.0, 50.0) if kind == "regression" else None,
        transform=transform,
        kernel=part,
        familiarity=learn_familiarity(inputs, np.arange(12) % 3),
    )


def unpacked(exported: Exported, folder: Path) -> Path:
    names = [concept.title() for concept in exported.concepts]
    write_archive(PACK / "model.onnx", exported, names, '{"name": "card"}', folder / "model.zip")
    with zipfile.ZipFile(folder / "model.zip") as archive:
        archive.extractall(folder)
    return folder


def ask(folder: Path, *photos: Path) -> list[dict[str, object]]:
    """Run the archive's own program as a user would: elsewhere, isolated from this project."""
    command = [sys.executable, "-I", str(folder / "predict.py"), *map(str, photos)]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("kind", "transform", "kernel"),
    [
        ("multi_class", "none", False),
        ("multi_class", "root", True),
        ("multi_label", "unit", False),
        ("regression", "root", True),
    ],
)
def test_the_exported_program_gives_the_platforms_numbers_when_asked_about_photographs(
    engine: OnnxRuntimeEngine, photos: list[Path], tmp_path: Path, kind: str, transform: str, kernel: bool
) -> None:
    head = head_of(kind, transform, kernel=kernel)
    exported = Exported("apps/a/models/m/versions/1", CARD, head, head.concepts, np.full(len(head.concepts), 0.4))
    folder = unpacked(exported, tmp_path)

    answers = ask(folder, *photos)

    for photo, answer in zip(photos, answers, strict=True):
        data = photo.read_bytes()
        pixels = apply(decode(data, min_side_hint=CARD.resize.min_side_hint), CARD.resize)
        features = engine.run(SPACE, pixels[np.newaxis]).features
        expected = head.scores(features)[0].tolist()
        if kind == "regression":
            assert answer["number"] == pytest.approx(expected[0], abs=1e-3)
        else:
            assert answer["probabilities"] == pytest.approx(dict(zip(head.concepts, expected, strict=True)), abs=1e-3)
            assert answer["predicted"] == {name: value >= 0.4 for name, value in answer["probabilities"].items()}
        unfamiliar = head.unfamiliar(features)
        assert unfamiliar is not None
        assert answer["unfamiliar"] == pytest.approx(float(unfamiliar[0]), abs=1e-3)


def test_similarities_are_told_apart_inside_and_outside_a_graph_when_pictures_look_much_the_same() -> None:
    random = np.random.default_rng(0)
    features = random.gamma(1.0, 0.5, 256) * (1 + 0.01 * random.standard_normal((60, 256)))
    inputs = transformed(features.astype(np.float32), "unit")
    landmarks = inputs[:40].astype(np.float16).astype(np.float32)
    distances = ((inputs[:, None].astype(np.float64) - landmarks) ** 2).sum(axis=2)
    kernel = KernelPart(landmarks, random.normal(0, 3, (40, 3)).astype(np.float32), float(2 / np.median(distances)))
    expected = np.exp(-kernel.sharpness * distances) @ kernel.weights
    writer = _Writer()
    output = _write_kernel(writer, kernel, "inputs")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("inputs", output)]
    graph = onnx.helper.make_graph(writer.nodes, "kernel", ends[:1], ends[1:], writer.constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (inside,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"inputs": inputs})
    np.testing.assert_allclose(inside, expected, atol=1e-3)
    np.testing.assert_allclose(kernel.logits(inputs), expected, atol=1e-3)


def test_the_sample_gives_its_numbers_when_no_photograph_is_named(tmp_path: Path) -> None:
    head = head_of("multi_class", "root", kernel=False)
    exported = Exported("apps/a/models/m/versions/7", CARD, head, head.concepts, np.full(3, 0.5))
    folder = unpacked(exported, tmp_path)
    (answer,) = ask(folder)
    expected = json.loads((folder / "sample.json").read_text())
    assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-4)
    assert answer["predicted"] == expected["predicted"]
    assert (folder / "labels.txt").read_text(encoding="utf-8").split() == ["glass", "métal", "paper"]
    assert len((folder / "predict.py").read_text(encoding="utf-8").splitlines()) <= 20
    graph = onnx.load(folder / "model.onnx")
    assert [output.name for output in graph.graph.output] == ["probabilities", "predicted", "unfamiliar"]
    assert {entry.key: entry.value for entry in graph.metadata_props}["lensmith.model_version"] == exported.name
    first = (tmp_path / "model.zip").read_bytes()
    unpacked(exported, tmp_path)
    assert (tmp_path / "model.zip").read_bytes() == first


def test_general_gives_its_concepts_when_it_is_exported(
    engine: OnnxRuntimeEngine, photos: list[Path], tmp_path
) -> None:
    concepts = tuple(concept.id for concept in hierarchy().concepts)
    exported = Exported(
        "apps/main/models/general/versions/1",
        CARD,
        NativeAnswer(hierarchy().sums, 1.4),
        concepts,
        np.full(len(concepts), 0.5),
    )
    (answer,) = ask(unpacked(exported, tmp_path), photos[0])
    pixels = apply(decode(photos[0].read_bytes(), min_side_hint=CARD.resize.min_side_hint), CARD.resize)
    logits = engine.run(SPACE, pixels[np.newaxis], logits=True).logits
    assert logits is not None
    kept = np.setdiff1d(np.arange(logits.shape[1]), CARD.logits.ignored if CARD.logits else ())
    expected = hierarchy().sums.probabilities(logits[:, kept], 1.4)[0].tolist()
    assert answer["probabilities"] == pytest.approx(dict(zip(concepts, expected, strict=True)), abs=1e-3)


@pytest.mark.parametrize("size", [(640, 480), (301, 977), (128, 128), (90, 50)])
@pytest.mark.parametrize(
    "policy",
    [
        ResizePolicy("squash", 128, 160, filter="bicubic"),
        ResizePolicy("short_side_crop", 112, 128, 144),
        ResizePolicy("half_crop", 128, 128),
    ],
    ids=lambda policy: policy.kind,
)
def test_the_program_resizes_as_the_platform_does_when_the_policy_is_another(
    tmp_path: Path, policy: ResizePolicy, size: tuple[int, int]
) -> None:
    head = head_of("multi_class", "none", kernel=False)
    card = type(CARD)(**{**vars(CARD), "resize": policy})
    program = _program(Exported("v", card, head, head.concepts, np.full(3, 0.5)))
    own: dict[str, object] = {}
    exec(program[: program.index("here =")], own)
    path = tmp_path / "picture.png"
    Image.fromarray(golden_images([5], size[1], size[0])[0]).save(path)
    expected = apply(decode(path.read_bytes(), min_side_hint=policy.min_side_hint), policy)
    np.testing.assert_array_equal(own["pixels"](path)[0], expected)
