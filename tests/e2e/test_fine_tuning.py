"""Whole networks learn on the whole platform, asked for by SDK and CLI; needs PyTorch."""

import re
from pathlib import Path

import pytest

import lensmith
from lensmith.types import Annotation, EvaluationMethod, ModelType, TrainingMode, TrainingSettings, VersionState
from lensmith_vision.materials import MATERIALS, render
from tests.platform_process import PlatformProcess

torch = pytest.importorskip("torch", reason="needs the extra lensmith[finetune]: run `make fine-tune`")
pytestmark = [pytest.mark.xdist_group("platform"), pytest.mark.timeout(300)]

APP = "whole-networks"
EACH = 12
CONCEPTS = tuple(sorted(MATERIALS)[:2])
NOT_BETTER = "FINE_TUNING_NOT_BETTER"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of materials."""
    folder = tmp_path_factory.mktemp("drawn")
    render(folder, EACH, seed=3)
    return folder


@pytest.fixture(scope="module")
def client(platform: PlatformProcess, drawn: Path) -> lensmith.Client:
    """An app with drawn materials: of some nobody said what they do not show, and all have a weight."""
    client = platform.new_app(APP)
    client.concepts.create([*CONCEPTS, "weight"])
    new = []
    for concept in CONCEPTS:
        for number in range(EACH):
            said = [Annotation(concept), Annotation("weight", number=10.0 + 20.0 * CONCEPTS.index(concept))]
            if number % 3:
                said.append(Annotation(*set(CONCEPTS) - {concept}, positive=False))
            file = drawn / concept / f"{number:03}.jpg"
            test = number % 6 == 0
            new.append(lensmith.NewInput(file, id=f"{concept}-{number}", annotations=said, test=test))
    assert not [result.error for result in client.inputs.create(new) if result.error]
    client.inputs.wait_until_ready()
    return client


def test_multi_label_network_learns_when_the_sdk_asks(client: lensmith.Client) -> None:
    client.models.create("materials", ModelType.MULTI_LABEL, concepts=CONCEPTS)
    settings = TrainingSettings(mode=TrainingMode.FINE_TUNE, max_epochs=1, evaluation=EvaluationMethod.TEST_SET)
    queued = client.models.train("materials", training=settings)
    assert queued.progress == "waiting for a trainer that can fine-tune"
    told = {one.progress for one in client.models.watch("materials", queued.number)}
    assert any("epoch 1 of 1" in text for text in told), told
    ready = client.models.get_version("materials", 1)
    assert ready.state is VersionState.READY, ready.error
    # Drawn materials are so easy that no network is surely better in one epoch.
    assert ready.network_space == ""
    (finding,) = (finding for finding in ready.findings if finding.reason == NOT_BETTER)
    figures = r"a chance of [\d.]+%, a head [\d.]+%, on the same \d+ held-out images"
    assert re.search(f"{figures}: .*head was kept", finding.message)
    assert "on the images of the evaluation it gives" in finding.message
    evaluation = client.models.evaluation("materials", 1)
    assert (evaluation.evaluation_method, evaluation.input_count) == (EvaluationMethod.TEST_SET, 4)
    assert ready.input_count == 2 * (EACH - 2)
    assert len(ready.thresholds) == 2


def test_regression_network_learns_when_the_cli_asks(
    client: lensmith.Client, platform: PlatformProcess, drawn: Path
) -> None:
    own = {"LENSMITH_KEY": client.keys.create(["All"]).secret, "LENSMITH_APP": APP, "COLUMNS": "400"}
    asked = "--type regression --concept weight --mode fine-tune --max-epochs 1 --test-on split --watch"
    done = platform.cli("train", "scale", *asked.split(), **own)
    said = done.stdout
    # Steps that follow each other within moments are not all told.
    assert "epoch 1 of 1: loss" in done.stderr
    figures = r"off by [\d.]+ on average, a head by [\d.]+, on the same \d+"
    assert re.search(f"{figures} held-out images", said), said
    assert re.search(f"on the images of the evaluation it is {figures} images", said), said
    evaluation = client.models.evaluation("scale", 1)
    assert evaluation.evaluation_method is EvaluationMethod.SPLIT
    assert client.models.get_version("scale", 1).input_count == len(CONCEPTS) * (EACH - 2)
    (answer,) = client.predict("scale", [drawn / CONCEPTS[0] / "000.jpg"]).items
    assert answer.number is not None
    assert answer.interval is not None
    assert answer.interval.low < answer.interval.high
