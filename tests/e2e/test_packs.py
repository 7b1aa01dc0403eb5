"""Networks of other people, installed by command: base models to train on, and public models to ask."""

import base64
import json
from pathlib import Path

import httpx
import pytest

import lensmith
from lensmith_vision.pack import BUILTIN_PACKS, find_packs
from tests.platform_process import PlatformProcess

pytestmark = [pytest.mark.xdist_group("platform"), pytest.mark.timeout(300)]

NETWORKS = ("mobilenetv2-features", "mobilenetv2-imagenet", "nsfw-mobilenetv2")


@pytest.fixture(scope="module")
def installed(platform: PlatformProcess, shared: Path) -> list[str]:
    """Own ids of the base models, best first, once every given network is installed."""
    for name in NETWORKS:
        platform.cli("base-models", "import", str(shared / "models" / name))
    key = {"LENSMITH_KEY": platform.operator_key}
    return [base_model["id"] for base_model in json.loads(platform.cli("base-models", "list", "--json", **key).stdout)]


def test_the_best_network_stands_first(installed: list[str]) -> None:
    assert installed[0] == "mobilenetv2-features"
    assert {*NETWORKS, *(folder.name for folder in find_packs(BUILTIN_PACKS))} <= set(installed)


def test_an_import_changes_nothing_when_it_is_repeated(
    platform: PlatformProcess, installed: list[str], shared: Path
) -> None:
    again = platform.cli("base-models", "import", str(shared / "models" / NETWORKS[1]), "--json")
    assert json.loads(again.stdout)["id"] == NETWORKS[1]


def test_a_folder_that_is_no_network_is_refused(platform: PlatformProcess, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{}")
    done = platform.cli("base-models", "import", str(tmp_path), check=False)
    assert done.returncode == 1
    assert "PACK_INVALID" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_app_may_ask_a_public_model(platform: PlatformProcess, installed: list[str], shared: Path) -> None:
    photos = sorted((shared / "datasets" / "fruit-multilabel" / "test").glob("banana_*.jpg"))
    client = platform.new_app("asker")
    try:
        assert {"general", NETWORKS[2]} <= {model.id for model in client.models.list(public=True)}
        answer = client.predict("main/general", photos, select_concepts=["banana", "edible-fruit", "entity"])
        assert answer.model_version.startswith("apps/main/models/general/versions/")
        assert (
            client.models.get_version("main/general", int(answer.model_version.rpartition("/")[2])).base_model
            == (NETWORKS[1])
        )
        # A network whose pictures were prepared wrongly would hardly see one of them.
        seen = [{score.concept: score.predicted for score in item.concepts} for item in answer.items]
        assert sum(one["banana"] for one in seen) > 0.5 * len(seen)
        assert sum(one["edible-fruit"] for one in seen) > 0.6 * len(seen)
        assert all(one["entity"] for one in seen)
        with pytest.raises(lensmith.ForbiddenError):
            client.models.delete("main/general")
    finally:
        client.close()


def test_a_newcomer_asks_general_by_its_name(platform: PlatformProcess, installed: list[str], shared: Path) -> None:
    photo = str(shared / "datasets" / "fruit-multilabel" / "test" / "banana_79.jpg")
    made = json.loads(platform.cli("apps", "create", "newcomer", "--json").stdout)
    key = {"LENSMITH_KEY": made["secret"]}
    said = json.loads(platform.cli("predict", "general", photo, "--json", **key).stdout)
    concepts = said["predictions"][0]["prediction"]["concepts"]
    assert [one["concept"] for one in concepts][:1] == ["banana"]
    assert len(concepts) <= 3
    assert "banana" in platform.cli("predict", "general", photo, **key).stdout
    rest = httpx.post(
        f"{platform.url}/v1/apps/main/models/general:predict",
        headers={"Authorization": f"Key {made['secret']}"},
        json={"inputs": [{"image": {"content": base64.b64encode(Path(photo).read_bytes()).decode()}}], "minValue": 0.5},
        timeout=60,
    )
    assert rest.status_code == 200, rest.text
    assert "banana" in {one["concept"] for one in rest.json()["predictions"][0]["concepts"]}
    missing = platform.cli("predict", "generic", photo, check=False, **key)
    assert (missing.returncode, "generic" in missing.stderr) == (1, True)


def test_an_input_shows_what_general_saw(platform: PlatformProcess, installed: list[str], shared: Path) -> None:
    data = (shared / "datasets" / "fruit-multilabel" / "test" / "banana_79.jpg").read_bytes()
    key = json.loads(platform.cli("apps", "create", "shower", "--json").stdout)["secret"]
    with lensmith.Client(platform.url, key, "shower") as client:
        assert [result.error for result in client.inputs.create([lensmith.NewInput(data, id="fruit")])] == [None]
        client.inputs.wait_until_ready(timeout=120)
        item = client.inputs.get("fruit")
        seen = {score.concept: score.value for score in item.general_concepts}
        # The base model of the app cannot tell; which other network looks is the platform's choice.
        assert seen["entity"] == max(seen.values()) > 0.99
        assert 3 <= len(seen) <= 32
        assert item.general_version.startswith("apps/main/models/general/versions/")
        assert [one.general_concepts for one in client.inputs.list()] == [()]
        assert [one.general_concepts for one in client.inputs.list(general_concepts=True)] == [item.general_concepts]
        shown = platform.cli("inputs", "show", "fruit", LENSMITH_KEY=key).stdout
        assert item.uid in shown
