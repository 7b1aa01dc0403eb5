"""Why a model answers as it does, and taking it away: through the API, the clients and the command line."""

import base64
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import lensmith
from lensmith.errors import PreconditionError
from lensmith.types import Annotation, HeadTier, ModelType, TrainingSettings
from lensmith_vision.materials import MATERIALS, render
from tests.platform_process import PlatformProcess

pytestmark = [pytest.mark.xdist_group("platform"), pytest.mark.timeout(300)]

TRAINED = 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("materials")
    render(folder, TRAINED + 2, seed=5)
    return folder


@pytest.fixture(scope="module")
def unseen(photos: Path) -> list[Path]:
    """Pictures of each material that nothing was trained on, and odd ones of the first."""
    found = [photos / material / f"{TRAINED:03}.jpg" for material in MATERIALS]
    wide, sheer, printed = (photos / name for name in ("wide.png", "sheer.webp", "printed.jpg"))
    with Image.open(found[0]) as picture:
        picture.resize((700, 300)).save(wide)
        picture.convert("CMYK").save(printed)
        picture.putalpha(picture.getchannel("R"))
        picture.save(sheer)
    return [*found, wide, sheer, printed]


@pytest.fixture(scope="module")
def client(platform: PlatformProcess, photos: Path) -> lensmith.Client:
    """A client in an app with a linear, a kernel, a multi-label and a regression model, each trained."""
    client = platform.new_app("why")
    client.concepts.create([*MATERIALS, "rank"])
    new = [
        lensmith.NewInput(
            image=photos / material / f"{number:03}.jpg",
            id=f"{material}-{number}",
            annotations=[Annotation(material), Annotation("rank", number=float(rank))],
        )
        for rank, material in enumerate(MATERIALS)
        for number in range(TRAINED)
    ]
    assert not [result.error for result in client.inputs.create(new) if result.error]
    client.inputs.wait_until_ready()
    kinds = {
        "linear": (ModelType.MULTI_CLASS, list(MATERIALS), HeadTier.LINEAR),
        "kernel": (ModelType.MULTI_CLASS, list(MATERIALS), HeadTier.KERNEL),
        "labels": (ModelType.MULTI_LABEL, list(MATERIALS), None),
        "ranks": (ModelType.REGRESSION, ["rank"], None),
    }
    for model, (kind, concepts, tier) in kinds.items():
        bounds = {"min_value": 0.0, "max_value": float(len(MATERIALS))} if kind is ModelType.REGRESSION else {}
        client.models.create(model, kind, concepts=concepts, closed_environment=kind is ModelType.MULTI_LABEL, **bounds)
        version = client.models.train(model, training=TrainingSettings(tier=tier))
        assert client.models.wait(model, version.number).state is lensmith.VersionState.READY
    return client


@pytest.mark.parametrize("model", ["linear", "kernel", "labels", "ranks"])
def test_an_exported_model_answers_as_the_platform_does(
    client: lensmith.Client, unseen: list[Path], tmp_path: Path, model: str
) -> None:
    saved = client.models.export(model, tmp_path / "model.zip")
    assert hashlib.sha256(saved.path.read_bytes()).hexdigest() == saved.sha256
    with zipfile.ZipFile(saved.path) as archive:
        archive.extractall(tmp_path)
    # A process that knows nothing of this project.
    command = [sys.executable, "-I", str(tmp_path / "predict.py"), *map(str, unseen)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    for own, answer in zip(said, client.predict(model, unseen).items, strict=True):
        assert answer.error is None
        if answer.number is not None:
            assert own["number"] == pytest.approx(answer.number, abs=1e-3)
        else:
            assert own["probabilities"] == pytest.approx({one.concept: one.value for one in answer.concepts}, abs=1e-3)
            clear = [one for one in answer.concepts if abs(own["probabilities"][one.concept] - one.value) < 1e-6]
            assert {one.concept: own["predicted"][one.concept] for one in clear} == {
                one.concept: one.predicted for one in clear
            }
        if answer.unfamiliar is not None:
            assert own["unfamiliar"] == pytest.approx(answer.unfamiliar.value, abs=1e-3)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["modelVersion"]["name"] == f"apps/why/models/{model}/versions/1"
    assert card["baseModel"]["licence"]
    assert card["evaluation"]
    assert not {"uri", "image"} & set(card)


def test_an_export_is_a_stream_of_base64_over_rest(platform: PlatformProcess, client: lensmith.Client) -> None:
    operator = platform.operator_key
    with httpx.stream(
        "GET",
        f"{platform.url}/v1/apps/why/models/linear/versions/1:export",
        headers={"Authorization": f"Key {operator}"},
        timeout=60,
    ) as answer:
        assert answer.status_code == 200
        parts = [json.loads(line) for line in answer.iter_lines() if line]
    data = base64.b64decode("".join(part["item"]["data"] for part in parts[:-1]))
    assert hashlib.sha256(data).hexdigest() == parts[-1]["summary"]["sha256"]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {"model.onnx", "labels.txt", "card.json", "sample.png", "predict.py"} <= set(archive.namelist())


@pytest.mark.parametrize("model", ["linear", "kernel", "labels", "ranks"])
def test_a_map_adds_up_to_the_answer(client: lensmith.Client, unseen: list[Path], model: str) -> None:
    answer = client.explain(model, unseen[:2], nearest=3, overlay=True)
    predicted = client.predict(model, unseen[:2])
    for why, what in zip(answer.items, predicted.items, strict=True):
        (one,) = why.concepts
        values = one.heat_map.values
        assert sum(values) / len(values) == pytest.approx(one.logit, abs=1e-3)
        if what.best is not None:
            assert one.concept.concept == what.best.concept
            assert one.concept.value == pytest.approx(what.best.value, abs=1e-5)
        else:
            assert why.number == pytest.approx(what.number)
        with Image.open(io.BytesIO(one.heat_map.overlay)) as drawn:
            assert drawn.size == (192, 192)
        assert why.nearest_error is None
        assert len(why.nearest) == 3
    material = next(iter(MATERIALS))
    assert sum(near.id.startswith(material) for near in answer.items[0].nearest) >= 2
    assert {one.concept for one in answer.items[0].nearest[0].annotations} <= {*MATERIALS, "rank"}


def test_training_pictures_stay_hidden_when_the_key_may_only_predict(
    platform: PlatformProcess, client: lensmith.Client, unseen: list[Path]
) -> None:
    made = client.keys.create(["Predict"])
    with lensmith.Client(platform.url, made.secret, "why") as browser:
        assert browser.explain("linear", unseen[:1]).items[0].concepts
        with pytest.raises(lensmith.ForbiddenError) as refused:
            browser.explain("linear", unseen[:1], nearest=1)
        assert refused.value.metadata["scope"] == "Inputs:Get"
        with pytest.raises(lensmith.ForbiddenError):
            browser.models.export("linear", version=1)
    answer = httpx.post(
        f"{platform.url}/v1/apps/why/models/linear:explain",
        headers={"Authorization": f"Key {made.secret}"},
        json={"inputs": [{"image": {"content": base64.b64encode(unseen[0].read_bytes()).decode()}}], "maxConcepts": 2},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["method"] == "HEAT_MAP_METHOD_SHARED_CONTRIBUTION"
    assert len(answer.json()["explanations"][0]["concepts"]) == 2


def test_the_command_line_explains_and_exports(
    platform: PlatformProcess, client: lensmith.Client, unseen: list[Path], tmp_path: Path
) -> None:
    key = client.keys.create(["All"]).secret
    own = {"LENSMITH_KEY": key, "LENSMITH_APP": "why"}
    heat = tmp_path / "heat.png"
    done = platform.cli("explain", "linear", str(unseen[0]), "--output", str(heat), "--nearest", "2", "--json", **own)
    said = json.loads(done.stdout)
    assert (said["error"], len(said["nearest"]), len(said["concepts"])) == (None, 2, 1)
    with Image.open(heat) as drawn:
        assert drawn.format == "PNG"
    shown = platform.cli("explain", "general", str(unseen[0]), **own)
    assert "apps/main/models/general" in shown.stdout
    saved = json.loads(platform.cli("export", "linear", "--output", str(tmp_path / "m.zip"), "--json", **own).stdout)
    assert Path(saved["path"]).stat().st_size == saved["size_bytes"]


def test_a_model_of_eight_views_is_trained_explained_and_exported_like_any_other(
    platform: PlatformProcess, photos: Path, unseen: list[Path], tmp_path: Path
) -> None:
    made = json.loads(platform.cli("base-models", "import", "starter", "--views", "8", "--json").stdout)
    assert (made["id"], made["views"], ".views8." in made["space"]) == ("starter-8-views", 8, True)
    assert json.loads(platform.cli("base-models", "import", "starter", "--views", "8", "--json").stdout) == made
    with platform.operator() as operator:
        assert [each.id for each in operator.base_models.list()].index("starter-8-views") > 0
        _, key = operator.apps.create("views", base_model="starter-8-views")
    with lensmith.Client(platform.url, key.secret, "views") as client:
        client.concepts.create(MATERIALS)
        new = [
            lensmith.NewInput(photos / material / f"{number:03}.jpg", annotations=[Annotation(material)])
            for material in MATERIALS
            for number in range(4)
        ]
        assert not [result.error for result in client.inputs.create(new) if result.error]
        client.inputs.wait_until_ready()
        client.models.create("views", ModelType.MULTI_CLASS, concepts=list(MATERIALS))
        assert client.models.wait("views", client.models.train("views").number).state is lensmith.VersionState.READY
        answers = client.predict("views", unseen).items
        seen = client.explain("views", unseen[:1]).items[0]
        saved = client.models.export("views", tmp_path / "model.zip")
    assert sum(answer.concepts[0].concept == one for answer, one in zip(answers, MATERIALS, strict=False)) > 1
    heat, logit = seen.concepts[0].heat_map, seen.concepts[0].logit
    assert (heat.rows, heat.columns) == (11, 11)
    assert sum(heat.values) / len(heat.values) == pytest.approx(logit, abs=1e-2)
    with zipfile.ZipFile(saved.path) as archive:
        archive.extractall(tmp_path)
    command = [sys.executable, "-I", str(tmp_path / "predict.py"), *map(str, unseen)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    for own, answer in zip(map(json.loads, done.stdout.splitlines()), answers, strict=True):
        assert own["probabilities"] == pytest.approx({one.concept: one.value for one in answer.concepts}, abs=1e-3)


def test_everything_can_be_asked_of_models_of_the_fewest_pictures(
    platform: PlatformProcess, photos: Path, unseen: list[Path], tmp_path: Path
) -> None:
    client = platform.new_app("fewest")
    client.concepts.create(["brick", "wood", "size"])
    pictures = {
        f"{name}-{number}": photos / name / f"{number:03}.jpg" for name in ("brick", "wood") for number in (0, 1)
    }
    new = [lensmith.NewInput(image=picture, id=own) for own, picture in pictures.items()]
    assert not [result.error for result in client.inputs.create(new) if result.error]
    client.inputs.wait_until_ready()
    kinds = {
        "classes": (ModelType.MULTI_CLASS, ["brick", "wood"]),
        "labels": (ModelType.MULTI_LABEL, ["brick"]),
        "sizes": (ModelType.REGRESSION, ["size"]),
    }
    for model, (kind, concepts) in kinds.items():
        client.models.create(model, kind, concepts=concepts)

    def say(number: int) -> None:
        brick = [Annotation("brick"), Annotation("size", number=float(number))]
        said = {f"brick-{number}": brick, f"wood-{number}": [Annotation("wood"), Annotation("brick", positive=False)]}
        assert not client.annotations.merge(said)

    say(0)
    for model in kinds:
        with pytest.raises(PreconditionError) as refused:
            client.models.train(model)
        assert refused.value.reason == "TRAINING_TOO_FEW_IMAGES"
        assert "at least 2 are needed" in str(refused.value)
    say(1)
    for model, (_, concepts) in kinds.items():
        for _ in range(2):
            version = client.models.train(model)
            assert client.models.wait(model, version.number).state is lensmith.VersionState.READY
        assert {one.reason for one in client.models.get_version(model, 2).findings} >= {"FEW_IMAGES"}
        told = json.loads(client.models.report(model, 2, as_json=True), parse_constant=pytest.fail)
        assert [row["concept"] for row in told["concepts"]] == (concepts if model != "sizes" else [])
        assert "<html" in client.models.report(model, 2)
        assert client.evaluations.compare(model, 1, 2).input_count == (2 if model == "sizes" else 4)
        curve = client.evaluations.wait_learning_curve(model, 2)
        assert curve.points or curve.error is not None, curve
        assert not client.suggestions.wait(model, 2).pending
        (answer,) = client.explain(model, unseen[:1], nearest=2, overlay=True).items
        assert np.isfinite(answer.concepts[0].heat_map.values).all()
        assert len(answer.nearest) == 2
        client.models.export(model, tmp_path / f"{model}.zip", version=2)
