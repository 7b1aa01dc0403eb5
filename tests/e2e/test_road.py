"""The main road, as a newcomer walks it: a folder of pictures, a trained model, answers in every way of asking."""

import base64
import json
from pathlib import Path

import httpx
import pytest

import lensmith
from lensmith_vision.materials import render
from tests.platform_process import PlatformProcess

pytestmark = [pytest.mark.xdist_group("platform"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a subfolder for each of six materials."""
    folder = tmp_path_factory.mktemp("photos")
    render(folder, 14)
    return folder


@pytest.fixture(scope="module")
def key(platform: PlatformProcess, photos: Path) -> str:
    """Key of an app in which `sorter` is trained on the pictures, all by the command line."""
    made = json.loads(platform.cli("apps", "create", "road", "--json").stdout)
    report = json.loads(platform.cli("import", str(photos), "--labels-from", "folders", "--json").stdout)
    assert report == {"created": 84, "duplicates": 0, "skipped": 0, "failed": []}
    trained = json.loads(platform.cli("train", "sorter", "--type", "multi-class", "--watch", "--json").stdout)
    assert trained["version"]["state"] == "ready"
    assert trained["evaluation"]["accuracy"] > 0.8
    return str(made["secret"])


def test_the_command_line_predicts(platform: PlatformProcess, key: str, photos: Path) -> None:
    pictures = [str(photos / material / "000.jpg") for material in ("wood", "water", "brick")]
    answers = json.loads(platform.cli("predict", "sorter", *pictures, "--json").stdout)
    assert answers["model_version"] == "apps/road/models/sorter/versions/1"
    said = [item["prediction"]["concepts"][0]["concept"] for item in answers["predictions"]]
    assert said == ["wood", "water", "brick"]


def test_one_bad_picture_fails_alone(platform: PlatformProcess, key: str, photos: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    done = platform.cli("predict", "sorter", str(bad), str(photos / "wood" / "000.jpg"), "--json", check=False)
    assert done.returncode == 1
    first, second = (item["prediction"] for item in json.loads(done.stdout)["predictions"])
    assert first["error"]["reason"].startswith("IMAGE_")
    assert second["concepts"][0]["concept"] == "wood"


def test_rest_answers_as_grpc_does(platform: PlatformProcess, key: str, photos: Path) -> None:
    picture = (photos / "marble" / "001.jpg").read_bytes()
    rest = httpx.post(
        f"{platform.url}/v1/apps/road/models/sorter:predict",
        headers={"Authorization": f"Key {key}"},
        json={"inputs": [{"image": {"content": base64.b64encode(picture).decode()}}]},
        timeout=60,
    )
    assert rest.status_code == 200, rest.text
    body = rest.json()
    with lensmith.Client(platform.url, key) as client:
        grpc_answer = lensmith.Client(platform.url, key, "road").predict("sorter", [picture])
        assert client.whoami().app == "road"
    assert body["modelVersion"] == grpc_answer.model_version
    concepts = body["predictions"][0]["concepts"]
    assert [item["concept"] for item in concepts] == [item.concept for item in grpc_answer.items[0].concepts]
    assert concepts[0]["value"] == pytest.approx(grpc_answer.items[0].concepts[0].value, abs=1e-6)
    assert concepts[0]["predicted"] is True


async def test_the_asynchronous_client_walks_the_same_road(platform: PlatformProcess, key: str, photos: Path) -> None:
    async with lensmith.AsyncClient(platform.url, key, "road") as client:
        counts = await client.inputs.counts()
        assert (counts.ready, counts.pending, counts.failed) == (84, 0, 0)
        assert [concept.id async for concept in client.concepts.list("OO")] == ["wood"]
        answer = await client.predict("sorter", [photos / "grass" / "002.jpg"])
        assert answer.items[0].best is not None
        assert answer.items[0].best.concept == "grass"


def test_an_import_that_was_broken_off_goes_on_where_it_stopped(
    platform: PlatformProcess, key: str, photos: Path
) -> None:
    report = json.loads(platform.cli("import", str(photos), "--json").stdout)
    assert report == {"created": 0, "duplicates": 84, "skipped": 0, "failed": []}


def test_a_picture_is_served_by_a_signed_link_with_safe_headers(platform: PlatformProcess, key: str) -> None:
    with lensmith.Client(platform.url, key, "road") as client:
        item = next(iter(client.inputs.list()))
        path = client.inputs.image_path(item.id)
    answer = httpx.get(platform.url + path)
    assert answer.status_code == 200
    assert len(answer.content) == item.size_bytes
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert httpx.get(platform.url + path[:-4] + "AAAA").status_code in (401, 403, 404)


def test_a_multipart_upload_takes_pictures_in(platform: PlatformProcess, key: str, tmp_path: Path) -> None:
    drawn = render(tmp_path, 1, seed=99)
    with drawn[0].open("rb") as first, drawn[1].open("rb") as second:
        answer = httpx.post(
            f"{platform.url}/v1/apps/road/uploads",
            headers={"Authorization": f"Key {key}"},
            files=[("file", (drawn[0].name, first)), ("file", (drawn[1].name, second))],
            timeout=60,
        )
    assert answer.status_code == 200, answer.text
    assert [result["input"]["mimeType"] for result in answer.json()["results"]] == ["image/jpeg"] * 2


def test_the_api_tells_of_itself(platform: PlatformProcess) -> None:
    document = httpx.get(f"{platform.url}/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert "/v1/apps/{app}/models/{model}:predict" in document["paths"]
    assert "https://" not in httpx.get(f"{platform.url}/docs").text.split("<body", 1)[0]
    assert httpx.get(f"{platform.url}/healthz").status_code == 200


def test_predictions_are_metered(platform: PlatformProcess, key: str) -> None:
    with lensmith.Client(platform.url, key, "road") as client:
        rows = client.usage.query()
    assert any(row.operation == "predict" and row.model.endswith("/sorter") and row.count >= 1 for row in rows)


def test_status_shows_each_part(platform: PlatformProcess) -> None:
    parts = platform.parts()
    assert {"postgres", "nats", "s3", "envoy"} <= set(parts)
    assert {"auth", "dataset", "registry", "inference", "trainer", "gateway"} <= set(parts)
    assert all(part["healthy"] for part in parts.values())
