"""Networks of other people, installed by command: base models to train on, and public models to ask."""

import json
from pathlib import Path

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
    assert set(installed) == {*NETWORKS, *(folder.name for folder in find_packs(BUILTIN_PACKS))}


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
        assert NETWORKS[1] in {model.id for model in client.models.list(public=True)}
        answer = client.predict(f"main/{NETWORKS[1]}", photos, max_concepts=5)
        assert answer.model_version == f"apps/main/models/{NETWORKS[1]}/versions/1"
        # A network whose pictures were prepared wrongly would hardly see one of them.
        seen = ["banana" in {score.display_name for score in item.concepts} for item in answer.items]
        assert sum(seen) > 0.7 * len(seen)
        with pytest.raises(lensmith.ForbiddenError):
            client.models.delete(f"main/{NETWORKS[1]}")
    finally:
        client.close()
