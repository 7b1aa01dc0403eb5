"""Networks are found on a hub by name, and each of their files is held against the hub's own hash."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensmith.errors import ForbiddenError, InvalidInputError, LensmithError, NotFoundError, UnavailableError
from lensmith.packs import hub
from lensmith.packs.hub import HubName, parse_name
from tests.lensmith.web import COMMIT, Site, publish, web_site

GRAPH = bytes(range(256)) * 2000
FILES = {
    "README.md": b"# A network",
    "config.json": b'{"id2label": {}}',
    "preprocessor_config.json": b'{"size": 224}',
    "onnx/model.onnx": GRAPH,
    "onnx/model_quantized.onnx": b"small",
    "model.safetensors": b"not for us",
}
API = "/api/models/somebody/net/revision/main"


@pytest.fixture
def storage() -> Iterator[Site]:
    with web_site() as running:
        yield running


@pytest.fixture
def site(storage: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    """A hub with one network, and a token for it."""
    with web_site() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        publish(running, storage, "somebody/net", FILES)
        yield running


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:a/b", HubName("a/b")),
        ("hf:Xenova/vit-base_p16.224@refs/pr/1", HubName("Xenova/vit-base_p16.224", "refs/pr/1")),
        ("hf:a/b:onnx/m.onnx", HubName("a/b", "main", "onnx/m.onnx")),
        ("hf:a/b@v1.0:m.onnx", HubName("a/b", "v1.0", "m.onnx")),
    ],
)
def test_a_name_says_network_revision_and_file(text: str, expected: HubName) -> None:
    assert parse_name(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:a",
        "hf:a/b/c",
        "hf:../b",
        "hf:a/b:model.bin",
        "hf:a/b:../m.onnx",
        "hf:a/b:/m.onnx",
        "hf:a/b@",
        "hf:a b/c",
    ],
)
def test_a_name_is_refused_when_it_is_none(text: str) -> None:
    with pytest.raises(InvalidInputError, match="OWNER/NAME") as refused:
        parse_name(text)
    assert refused.value.reason == "HUB_NAME_INVALID"


def test_what_a_pack_needs_is_fetched_at_one_commit(site: Site, storage: Site, tmp_path: Path) -> None:
    found = hub.look_up(parse_name("hf:somebody/net"))
    assert (found.commit, found.graph, found.licence) == (COMMIT, "onnx/model.onnx", "apache-2.0")
    assert found.source == "hf:somebody/net@0123456789ab:onnx/model.onnx"
    told: list[tuple[int, int | None]] = []
    folder = hub.fetch(found, tmp_path / "net", lambda *at: told.append(at))
    wanted = ("config.json", "preprocessor_config.json", "onnx/model.onnx")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} == set(wanted)
    assert (folder / "onnx" / "model.onnx").read_bytes() == GRAPH
    assert told[-1] == (found.size, found.size) == (sum(len(FILES[path]) for path in wanted),) * 2
    site.requests.clear()
    storage.requests.clear()
    hub.fetch(found, tmp_path / "net")
    assert site.requests == storage.requests == []


def test_the_token_goes_to_the_hub_and_not_to_its_storage(site: Site, storage: Site, tmp_path: Path) -> None:
    hub.fetch(hub.look_up(parse_name("hf:somebody/net")), tmp_path / "net")
    assert {request.headers["authorization"] for request in site.requests} == {"Bearer hf_secret"}
    assert all("authorization" not in request.headers for request in storage.requests)
    assert site.requests[0].query == "blobs=true"


def test_another_file_and_revision_are_fetched_when_the_name_says_so(site: Site, storage: Site, tmp_path: Path) -> None:
    commit = "f" * 40
    publish(site, storage, "somebody/net", FILES, revision="v2", commit=commit)
    found = hub.look_up(parse_name("hf:somebody/net@v2:onnx/model_quantized.onnx"))
    assert found.commit == commit
    assert (hub.fetch(found, tmp_path) / "onnx" / "model_quantized.onnx").read_bytes() == b"small"


def test_weights_beside_the_graph_are_fetched_too(site: Site, storage: Site, tmp_path: Path) -> None:
    files = {"onnx/model.onnx": b"graph", "onnx/model.onnx_data": GRAPH, "onnx/model_fp16.onnx_data": b"others"}
    publish(site, storage, "somebody/large", files)
    folder = hub.fetch(hub.look_up(parse_name("hf:somebody/large")), tmp_path / "net")
    assert sorted(path.name for path in (folder / "onnx").iterdir()) == ["model.onnx", "model.onnx_data"]
    assert (folder / "onnx" / "model.onnx_data").read_bytes() == GRAPH


def test_a_ready_pack_is_fetched_as_it_is(site: Site, storage: Site, tmp_path: Path) -> None:
    pack = {"card.json": b"{}", "model.onnx": GRAPH, "labels.txt": b"ant", "calibration.json": b"{}"}
    publish(site, storage, "somebody/pack", {**pack, "README.md": b"x"}, licence=None)
    found = hub.look_up(parse_name("hf:somebody/pack"))
    assert (found.graph, found.licence) == ("", "")
    folder = hub.fetch(found, tmp_path / "pack")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == pack


@pytest.mark.parametrize("path", ["onnx/model.onnx", "config.json"])
def test_a_file_is_refused_when_it_is_not_the_one_that_the_hub_lists(
    path: str, site: Site, storage: Site, tmp_path: Path
) -> None:
    spoilt = FILES[path][:-1] + b"!"
    site.files[f"/somebody/net/resolve/{COMMIT}/{path}"] = spoilt
    storage.files[f"/blobs/{hashlib.sha256(GRAPH).hexdigest()}"] = GRAPH[:-1] + b"!"
    with pytest.raises(InvalidInputError) as refused:
        hub.fetch(hub.look_up(parse_name("hf:somebody/net")), tmp_path / "net")
    assert refused.value.reason == "CHECKSUM_MISMATCH"


def test_the_next_call_goes_on_when_a_transfer_broke(site: Site, storage: Site, tmp_path: Path) -> None:
    blob = f"/blobs/{hashlib.sha256(GRAPH).hexdigest()}"
    storage.cuts[blob] = [200_000, *[0] * 9]
    found = hub.look_up(parse_name("hf:somebody/net"))
    with pytest.raises(UnavailableError):
        hub.fetch(found, tmp_path / "net")
    storage.cuts.clear()
    storage.requests.clear()
    assert (hub.fetch(found, tmp_path / "net") / "onnx" / "model.onnx").read_bytes() == GRAPH
    (request,) = storage.requests
    assert int(request.headers["range"][6:-1]) > 0


def test_a_demanded_checksum_counts_more_than_the_hubs(site: Site, tmp_path: Path) -> None:
    found = hub.look_up(parse_name("hf:somebody/net")).demanding("0" * 64)
    with pytest.raises(InvalidInputError) as refused:
        hub.fetch(found, tmp_path / "net")
    assert refused.value.reason == "CHECKSUM_MISMATCH"


def test_a_hub_without_hashes_is_refused(site: Site, tmp_path: Path) -> None:
    document = json.loads(site.files[API])
    document["siblings"] = [{"rfilename": item["rfilename"]} for item in document["siblings"]]
    site.files[API] = json.dumps(document).encode()
    with pytest.raises(InvalidInputError) as refused:
        hub.fetch(hub.look_up(parse_name("hf:somebody/net")), tmp_path / "net")
    assert refused.value.reason == "CHECKSUM_MISSING"


@pytest.mark.parametrize(
    ("change", "licence"),
    [
        ({"cardData": {"license": "other", "license_name": "my-terms"}}, "my-terms"),
        ({"cardData": {"license": "other"}}, "other"),
        ({"cardData": {"license": ["mit", "gpl-3.0"]}}, "mit, gpl-3.0"),
        ({"cardData": None, "tags": ["x", "license:cc-by-nc-4.0"]}, "cc-by-nc-4.0"),
        ({"cardData": {}, "tags": []}, ""),
    ],
)
def test_the_licence_is_that_of_the_model_card(change: dict[str, object], licence: str, site: Site) -> None:
    site.files[API] = json.dumps({**json.loads(site.files[API]), **change}).encode()
    assert hub.look_up(parse_name("hf:somebody/net")).licence == licence


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (401, NotFoundError, "HUB_NETWORK_NOT_FOUND"),
        (404, NotFoundError, "HUB_NETWORK_NOT_FOUND"),
        (403, ForbiddenError, "HUB_NETWORK_GATED"),
        (500, UnavailableError, "HUB_UNREACHABLE"),
    ],
)
def test_a_refusal_of_the_hub_is_told(status: int, error: type[LensmithError], reason: str, site: Site) -> None:
    site.statuses[API] = [status]
    with pytest.raises(error, match=str(status)) as refused:
        hub.look_up(parse_name("hf:somebody/net"))
    assert refused.value.reason == reason


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"sha": 1}', b'{"sha": "main", "siblings": []}'])
def test_a_server_is_refused_when_it_is_no_hub(answer: bytes, site: Site) -> None:
    site.files[API] = answer
    with pytest.raises(UnavailableError, match="like a hub"):
        hub.look_up(parse_name("hf:somebody/net"))


def test_a_network_without_a_graph_says_what_there_is(site: Site, storage: Site) -> None:
    with pytest.raises(NotFoundError, match=r"onnx/model_quantized\.onnx"):
        hub.look_up(parse_name("hf:somebody/net:other.onnx"))
    publish(site, storage, "somebody/torch", {"config.json": b"{}", "model.safetensors": b"x"})
    with pytest.raises(NotFoundError, match="no ONNX file at all"):
        hub.look_up(parse_name("hf:somebody/torch"))


def test_nobody_is_asked_when_the_hub_is_away_or_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1/")
    with pytest.raises(UnavailableError, match="cannot be reached") as away:
        hub.look_up(parse_name("hf:somebody/net"))
    assert "\n" not in str(away.value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnavailableError) as forbidden:
        hub.look_up(parse_name("hf:somebody/net"))
    assert forbidden.value.reason == "HUB_OFFLINE"


def test_the_token_is_read_where_the_hubs_tools_save_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    hub.look_up(parse_name("hf:somebody/net"))
    (tmp_path / "token").write_text("hf_saved\n")
    hub.look_up(parse_name("hf:somebody/net"))
    assert [request.headers.get("authorization") for request in site.requests] == [None, "Bearer hf_saved"]
