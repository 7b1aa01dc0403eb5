"""Base networks by one command, from wherever they are: fetched in pieces, checked, shown with their licence, used."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lensmith
from lensmith_vision.materials import render
from lensmith_vision.pack import builtin_pack, load_card
from tests.lensmith.web import COMMIT, Site, publish, web_site
from tests.platform_process import PlatformProcess

pytestmark = [pytest.mark.xdist_group("platform"), pytest.mark.timeout(300)]

HALF = [0.5, 0.5, 0.5]


@pytest.fixture
def storage() -> Iterator[Site]:
    with web_site() as running:
        yield running


@pytest.fixture
def site() -> Iterator[Site]:
    with web_site() as running:
        yield running


def tiny_network(seed: int, tmp_path: Path) -> dict[str, bytes]:
    """A small network as hubs publish them: a convolution, pooled."""
    weights = np.random.default_rng(seed).normal(size=(16, 3, 4, 4)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["pixel_values", "w"], ["map"], strides=[4, 4]),
            helper.make_node("Relu", ["map"], ["relu"]),
            helper.make_node("GlobalAveragePool", ["relu"], ["pooler_output"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("pooler_output", TensorProto.FLOAT, ["batch", 16, 1, 1])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "tiny.onnx")
    preparation = {"size": {"height": 32, "width": 32}, "resample": 3, "image_mean": HALF, "image_std": HALF}
    return {
        "config.json": json.dumps({"architectures": ["TinyModel"]}).encode(),
        "preprocessor_config.json": json.dumps(preparation).encode(),
        "onnx/model.onnx": (tmp_path / "tiny.onnx").read_bytes(),
    }


def pack_of(folder: Path, **changes: object) -> Path:
    """A pack with another card than the one it is made of."""
    shutil.copytree(builtin_pack(), folder)
    (folder / "card.json").write_text(replace(load_card(folder), **changes).to_json())
    return folder


def listed(platform: PlatformProcess) -> dict[str, lensmith.types.BaseModel]:
    with platform.operator() as operator:
        return {each.id: each for each in operator.base_models.list()}


def forget(platform: PlatformProcess, base_model: str) -> None:
    platform.cli("base-models", "delete", base_model, "--yes")
    assert base_model not in listed(platform)


def test_a_published_network_is_fetched_in_pieces_and_models_learn_on_it(
    platform: PlatformProcess, site: Site, storage: Site, shared: Path, tmp_path: Path
) -> None:
    folder = shared / "models" / "mobilenetv2-features"
    graph = (folder / "model.onnx").read_bytes()
    preparation = {"size": 224, "resample": 2, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    config = {"architectures": ["MobileNetV2Model"]}
    files = {"preprocessor_config.json": json.dumps(preparation).encode(), "config.json": json.dumps(config).encode()}
    publish(site, storage, "somebody/MobileNet_V2", {**files, "onnx/model.onnx": graph}, licence="apache-2.0")
    blob = f"/blobs/{hashlib.sha256(graph).hexdigest()}"
    storage.cuts[blob] = [3_000_000, *[0] * 9]
    command = ("base-models", "import", "hf:somebody/MobileNet_V2", "--rank", "-5")

    broken = platform.cli(*command, check=False, HF_ENDPOINT=site.url)
    assert broken.returncode == 1
    assert "DOWNLOAD_FAILED" in broken.stderr
    assert "mobilenet-v2" not in listed(platform)

    storage.cuts.clear()
    storage.requests.clear()
    done = platform.cli(*command, HF_ENDPOINT=site.url)
    (request,) = storage.asked(blob)
    assert int(request.headers["range"][6:-1]) > 1_000_000
    assert "apache-2.0" in done.stdout
    assert f"hf:somebody/MobileNet_V2@{COMMIT[:12]}:onnx/model.onnx" in done.stdout
    found = listed(platform)["mobilenet-v2"]
    assert (found.dimensions, found.input_side, found.rank, found.version) == (1280, 224, -5, "1")

    again = platform.cli(*command, HF_ENDPOINT=site.url)
    assert "nothing was changed" in again.stdout
    assert listed(platform)["mobilenet-v2"] == found

    render(tmp_path / "photos", 12)
    platform.cli("apps", "create", "hubbed", "--base-model", "mobilenet-v2")
    platform.cli("import", str(tmp_path / "photos"), "--labels-from", "folders", "--json")
    trained = platform.cli("train", "sorter", "--type", "multi-class", "--watch", "--json")
    assert json.loads(trained.stdout)["version"]["base_model"] == "mobilenet-v2"
    assert json.loads(trained.stdout)["evaluation"]["accuracy"] > 0.8


def test_a_newer_revision_becomes_a_newer_version(
    platform: PlatformProcess, site: Site, storage: Site, tmp_path: Path
) -> None:
    publish(site, storage, "somebody/tiny", tiny_network(1, tmp_path))
    platform.cli("base-models", "import", "hf:somebody/tiny", HF_ENDPOINT=site.url)
    publish(site, storage, "somebody/tiny", tiny_network(2, tmp_path), commit="e" * 40)
    platform.cli("base-models", "import", "hf:somebody/tiny", HF_ENDPOINT=site.url)
    assert listed(platform)["tiny"].version == "2"
    publish(site, storage, "else/tiny", tiny_network(3, tmp_path))
    taken = platform.cli("base-models", "import", "hf:else/tiny", check=False, HF_ENDPOINT=site.url)
    assert "BASE_MODEL_EXISTS" in taken.stderr
    forget(platform, "tiny")


def test_a_licence_that_is_not_permissive_must_be_accepted(
    platform: PlatformProcess, site: Site, storage: Site, tmp_path: Path
) -> None:
    publish(site, storage, "somebody/limited", tiny_network(4, tmp_path), licence="cc-by-nc-4.0")
    command = ("base-models", "import", "hf:somebody/limited", "--name", "my-limited")
    refused = platform.cli(*command, check=False, HF_ENDPOINT=site.url)
    assert refused.returncode == 1
    assert "cc-by-nc-4.0" in refused.stderr
    assert "LICENCE_NOT_ACCEPTED" in refused.stderr
    # Nothing large is fetched before the licence is accepted.
    assert storage.requests == []
    done = json.loads(platform.cli(*command, "--yes", "--json", HF_ENDPOINT=site.url).stdout)
    assert (done["id"], done["licence"]) == ("my-limited", "cc-by-nc-4.0")
    forget(platform, "my-limited")


def test_a_pack_is_fetched_from_a_url(platform: PlatformProcess, site: Site, tmp_path: Path) -> None:
    pack = pack_of(tmp_path / "mine", id="mine", rank=-7, licence="MIT")
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for file in pack.iterdir():
            archive.write(file, f"mine-1.0/{file.name}")
    content = (tmp_path / "mine.zip").read_bytes()
    site.files["/mine.zip"] = content
    url = f"{site.url}/mine.zip"
    wrong = platform.cli("base-models", "import", url, "--sha256", "0" * 64, check=False)
    assert wrong.returncode == 1
    assert "CHECKSUM_MISMATCH" in wrong.stderr
    right = platform.cli("base-models", "import", url, "--sha256", hashlib.sha256(content).hexdigest(), "--json")
    assert json.loads(right.stdout)["id"] == "mine"
    assert "nothing was changed" in platform.cli("base-models", "import", str(tmp_path / "mine.zip")).stdout
    for file in pack.iterdir():
        site.files[f"/packs/mine/{file.name}"] = file.read_bytes()
    beside = platform.cli("base-models", "import", f"{site.url}/packs/mine/card.json")
    assert "nothing was changed" in beside.stdout
    shown = json.loads(platform.cli("base-models", "show", "mine", "--json").stdout)
    assert (shown["licence"], shown["sha256"]) == ("MIT", load_card(pack).sha256)
    assert "MIT" in platform.cli("base-models", "show", "mine").stdout
    forget(platform, "mine")


def test_a_pack_is_refused_when_its_graph_is_not_that_of_its_card(
    platform: PlatformProcess, site: Site, tmp_path: Path
) -> None:
    pack = pack_of(tmp_path / "spoilt", id="spoilt")
    with (pack / "model.onnx").open("ab") as file:
        file.write(b"x")
    for file in pack.iterdir():
        site.files[f"/{file.name}"] = file.read_bytes()
    local = platform.cli("base-models", "import", str(pack), check=False)
    assert "PACK_HASH_MISMATCH" in local.stderr
    fetched = platform.cli("base-models", "import", f"{site.url}/card.json", check=False)
    assert "CHECKSUM_MISMATCH" in fetched.stderr
    assert "Traceback" not in local.stderr + fetched.stderr
    assert "spoilt" not in listed(platform)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nowhere", "SOURCE_NOT_FOUND"),
        ("hf:nobody", "HUB_NAME_INVALID"),
        ("hf:somebody/net", "HUB_UNREACHABLE"),
        ("http://127.0.0.1:1/pack.zip", "DOWNLOAD_FAILED"),
        ("http://127.0.0.1:1/pack", "URL_INVALID"),
    ],
)
def test_a_source_is_refused_in_one_sentence(source: str, reason: str, platform: PlatformProcess) -> None:
    done = platform.cli("base-models", "import", source, check=False, HF_ENDPOINT="http://127.0.0.1:1")
    assert done.returncode == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_base_model_stays_when_an_app_uses_it(platform: PlatformProcess, tmp_path: Path) -> None:
    pack = pack_of(tmp_path / "used", id="used", rank=-9, licence="MIT")
    platform.cli("base-models", "import", str(pack))
    with platform.operator() as operator:
        operator.apps.create("user", base_model="used")
    render(tmp_path / "photos", 1)
    key = {"LENSMITH_KEY": platform.operator_key, "LENSMITH_APP": "user"}
    platform.cli("import", str(tmp_path / "photos"), **key)
    done = platform.cli("base-models", "delete", "used", "--yes", check=False)
    assert "BASE_MODEL_IN_USE" in done.stderr
    assert "used" in listed(platform)
