"""CreateInputs: what becomes of pictures that are given to the platform."""

import asyncio
import hashlib
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from lensmith_api.v1.annotation_pb2 import Annotation
from lensmith_api.v1.input_pb2 import Image
from lensmith_api.v1.input_service_pb2 import CreateInputsRequest, ListInputsRequest, NewInput
from tests.lensmith_dataset.conftest import PENDING, READY, Rig, Start, new_input, reason_of
from tests.pictures import picture
from tests.rpc_errors import failing


async def test_input_becomes_ready_when_bytes_are_sent(rig: Rig) -> None:
    data = picture(1, (64, 48))
    await rig.create_concepts("glass")
    metadata = Struct()
    metadata.update({"shelf": {"row": 3}})

    [result] = await rig.create(
        new_input(data, "bottle-1", metadata=metadata, annotations=[Annotation(concept="glass")])
    )

    assert (result.status.code, result.duplicate) == (0, False)
    created = result.input
    assert created.name == "apps/a/inputs/bottle-1"
    assert (created.width, created.height, created.mime_type) == (64, 48, "image/jpeg")
    assert (created.sha256, created.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert created.metadata["shelf"]["row"] == 3
    assert [(one.concept, one.positive, one.actor) for one in created.annotations] == [("glass", True, "keys/key-of-a")]
    await rig.indexed()
    for name in (created.name, f"apps/a/inputs/{created.uid}"):
        assert (await rig.get(name)).status == READY
    assert rig.objects() == {f"apps/{rig.auth.apps['a'].uid}/blobs/{created.sha256}"}


async def test_bad_item_fails_alone_when_others_are_good(rig: Rig) -> None:
    await rig.create_concepts("glass")
    data = picture(1)
    items = [
        new_input(data),
        new_input(b"no picture at all"),
        new_input(data[: len(data) // 2]),
        NewInput(input_id="empty", image=Image()),
        new_input(b""),
        new_input(picture(2), annotations=[Annotation(concept="unknown")]),
        new_input(picture(3), annotations=[Annotation(concept="glass", number=math.inf)]),
        new_input(picture(4)),
    ]

    results = await rig.create(*items)

    assert [reason_of(result.status) for result in results] == [
        "",
        "IMAGE_NOT_AN_IMAGE",
        "IMAGE_TRUNCATED",
        "IMAGE_MISSING",
        "IMAGE_EMPTY",
        "CONCEPT_NOT_FOUND",
        "NUMBER_NOT_FINITE",
        "",
    ]
    assert "unknown" in results[5].status.message
    assert len(rig.objects()) <= 3


async def test_limits_are_named_when_too_much_is_sent(start: Start) -> None:
    rig = await start(max_inputs=3, max_image_bytes=1500, max_metadata_bytes=100, max_annotations=2)
    metadata = Struct()
    metadata.update({"text": "x" * 100})

    big, fat = await rig.create(new_input(picture(1, (640, 480), "BMP")), new_input(picture(1), metadata=metadata))

    assert (reason_of(big.status), reason_of(fat.status)) == ("IMAGE_TOO_LARGE", "METADATA_TOO_LARGE")
    assert "1500" in big.status.message
    with failing(grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY_INPUTS"):
        await rig.create(*(new_input(picture(seed)) for seed in range(4)))
    with failing(grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY_ANNOTATIONS"):
        await rig.create(new_input(picture(1), annotations=[Annotation(concept=name) for name in "abc"]))


async def test_call_is_refused_when_it_has_more_than_128_inputs(rig: Rig) -> None:
    with failing(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"):
        await rig.create(*(new_input(b"x") for _ in range(129)))


@pytest.mark.parametrize("value", ["nan", "nul", "deep"])
async def test_metadata_is_refused_when_it_cannot_be_kept(rig: Rig, value: str) -> None:
    metadata = Struct()
    if value == "nan":
        metadata.fields["x"].number_value = math.nan
    elif value == "nul":
        metadata.update({"x": ["a\x00b"]})
    else:
        metadata.update({"x\x00": 1})

    [result] = await rig.create(new_input(picture(1), metadata=metadata))

    assert reason_of(result.status) == "METADATA_INVALID"


async def test_existing_input_comes_back_when_bytes_are_known(rig: Rig) -> None:
    await rig.create_concepts("glass", "metal")
    first, second = await rig.create(
        new_input(picture(1), annotations=[Annotation(concept="glass")]),
        new_input(picture(1), annotations=[Annotation(concept="metal", positive=False)]),
    )
    [third] = await rig.create(new_input(picture(1)))

    assert [one.duplicate for one in (first, second, third)] == [False, True, True]
    assert first.input.uid == second.input.uid == third.input.uid
    assert {(one.concept, one.positive) for one in third.input.annotations} == {("glass", True), ("metal", False)}
    assert len(rig.objects()) == 1


async def test_second_input_shares_the_bytes_when_it_is_asked_for(rig: Rig) -> None:
    first, own = await rig.create(new_input(picture(1)), new_input(picture(1), "mine"))
    [again] = await rig.create(new_input(picture(1)), allow_duplicate=True)

    assert len({first.input.uid, own.input.uid, again.input.uid}) == 3
    assert not any(one.duplicate for one in (first, own, again))
    assert len(rig.objects()) == 1
    await rig.indexed()
    assert (await rig.counts()).ready == 3


async def test_own_id_is_idempotent_with_equal_bytes_and_taken_with_others(rig: Rig) -> None:
    [first] = await rig.create(new_input(picture(1), "x"))

    same, other, repeated, stolen = await rig.create(
        new_input(picture(1), "x"),
        new_input(picture(2), "x"),
        new_input(picture(3), "y"),
        new_input(picture(4), "y"),
    )
    [uid] = await rig.create(new_input(picture(5), first.input.uid))

    assert (same.duplicate, same.input.uid) == (True, first.input.uid)
    assert repeated.status.code == 0
    assert {reason_of(one.status) for one in (other, stolen, uid)} == {"INPUT_EXISTS"}


async def test_repeated_call_adds_nothing_when_it_carries_the_same_request_id(rig: Rig) -> None:
    items = [new_input(picture(1)), new_input(b"bad"), new_input(picture(1)), new_input(picture(2))]
    once = await rig.create(*items, allow_duplicate=True, request_id="r1")
    twice = await rig.create(*items, allow_duplicate=True, request_id="r1")
    other = await rig.create(*items, allow_duplicate=True, request_id="r2")

    assert [one.input.uid for one in once] == [one.input.uid for one in twice]
    assert len({one.input.uid for one in once + other}) == 7  # one of them empty
    [reused] = await rig.create(new_input(picture(9)), request_id="r1")
    assert reason_of(reused.status) == "REQUEST_ID_REUSED"


async def test_one_input_is_made_when_equal_bytes_come_at_once(rig: Rig) -> None:
    answers = await asyncio.gather(*(rig.create(new_input(picture(1)), new_input(picture(2))) for _ in range(16)))

    for place in (0, 1):
        results = [answer[place] for answer in answers]
        assert len({result.input.uid for result in results}) == 1
        assert sum(not result.duplicate for result in results) == 1


async def test_one_request_wins_when_an_own_id_is_wanted_by_many(rig: Rig) -> None:
    answers = await asyncio.gather(
        *(rig.create(new_input(picture(seed), "x"), new_input(picture(100 - seed), "y")) for seed in range(12))
    )

    for place in (0, 1):
        outcomes = sorted(reason_of(answer[place].status) for answer in answers)
        assert outcomes == [""] + ["INPUT_EXISTS"] * 11


async def test_repeated_call_adds_nothing_when_both_run_at_once(rig: Rig) -> None:
    items = [new_input(picture(seed)) for seed in range(8)]
    answers = await asyncio.gather(*(rig.create(*items, allow_duplicate=True, request_id="same") for _ in range(6)))

    assert len({result.input.uid for answer in answers for result in answer}) == 8


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
async def test_format_is_taken_when_it_is_supported(rig: Rig, kind: str) -> None:
    [result] = await rig.create(new_input(picture(1, kind=kind)))

    assert result.input.mime_type == f"image/{kind.lower()}"
    await rig.indexed()
    assert (await rig.counts()).ready == 1


async def test_upload_is_counted_when_it_is_new(rig: Rig) -> None:
    await rig.create(new_input(picture(1)), new_input(picture(1)), new_input(picture(2)), new_input(b"bad"))

    text = await _metrics(rig)

    assert 'lensmith_created_inputs_total{outcome="created"} 2.0' in text
    assert 'lensmith_created_inputs_total{outcome="duplicate"} 1.0' in text
    assert 'lensmith_created_inputs_total{outcome="refused"} 1.0' in text


async def test_own_id_is_refused_when_it_would_break_names(rig: Rig) -> None:
    for bad in ("a/b", "a\x00b", "a\nb", "x" * 257):
        with failing(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"):
            await rig.create(new_input(picture(1), bad))


async def test_real_photographs_become_ready(rig: Rig, shared: Path) -> None:
    photos = sorted((shared / "datasets").rglob("*.jpg"))[:24]

    results = await rig.create(*(new_input(photo.read_bytes(), photo.name) for photo in photos))

    assert [result.status.code for result in results] == [0] * len(photos)
    await rig.indexed()
    assert (await rig.counts()).ready == len({photo.name for photo in photos})


class _Site(BaseHTTPRequestHandler):
    """A site of pictures: `/<seed>.jpg`."""

    def do_GET(self) -> None:
        if self.path == "/moved.jpg":
            self.send_response(302)
            self.send_header("Location", "/5.jpg")
            self.end_headers()
        elif self.path == "/missing.jpg":
            self.send_error(404)
        else:
            data = picture(int(self.path[1:].partition(".")[0]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    """URL of a web server with pictures."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_picture_is_fetched_when_a_url_is_given(start: Start, site: str) -> None:
    rig = await start(allow_private_urls=True)
    paths = ["1.jpg", "moved.jpg", "missing.jpg", *(f"{seed}.jpg" for seed in range(10, 25))]

    results = await rig.create(*(NewInput(image=Image(url=f"{site}/{path}")) for path in paths), new_input(picture(1)))

    assert [result.status.code == 0 for result in results] == [True, True, False, *[True] * 16]
    assert reason_of(results[2].status).startswith("URL_")
    assert results[0].input.source_url == f"{site}/1.jpg"
    assert (results[-1].duplicate, results[-1].input.uid) == (True, results[0].input.uid)
    await rig.indexed()
    assert (await rig.counts()).ready == 17


async def test_url_is_refused_when_its_address_is_private(rig: Rig, site: str) -> None:
    [result] = await rig.create(NewInput(image=Image(url=f"{site}/1.jpg")))

    assert result.status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert reason_of(result.status).startswith("URL_")


async def test_url_is_not_fetched_again_when_the_call_is_repeated(start: Start, site: str) -> None:
    rig = await start(allow_private_urls=True)
    item = NewInput(image=Image(url=f"{site}/1.jpg"))
    [once] = await rig.create(item, request_id="r")
    gone = NewInput(image=Image(url=f"{site}/missing.jpg"))
    [again] = await rig.create(gone, request_id="r")

    assert again.input.uid == once.input.uid


async def test_call_is_refused_when_the_scope_is_missing(rig: Rig) -> None:
    rig.auth.add_key("browser", "a", ["Predict", "Search"])
    browser = (("authorization", "Key browser"),)

    with failing(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"):
        await rig.inputs.CreateInputs(
            CreateInputsRequest(parent="apps/a", inputs=[new_input(picture(1))]), metadata=browser
        )
    with failing(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"):
        await rig.inputs.ListInputs(ListInputsRequest(parent="apps/a"), metadata=browser)


async def test_input_waits_when_inference_is_away_and_is_ready_after(start: Start) -> None:
    rig = await start()
    await rig.inference_peer.stop()
    [result] = await rig.create(new_input(picture(1)))

    assert result.input.status == PENDING
    assert (await rig.counts()).pending == 1
    await rig.inference_peer.start()
    await rig.indexed()
    assert (await rig.counts()).ready == 1


async def _metrics(rig: Rig) -> str:
    reader, writer = await asyncio.open_connection(*rig.running.metrics_address.rsplit(":", 1))
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return text
