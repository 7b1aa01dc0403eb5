"""Multipart uploads through the real dataset."""

import asyncio
import json
import os
from collections.abc import AsyncIterator

import httpx
import pytest

from lensmith_api.v1.input_service_pb2 import GetInputRequest, ListInputsRequest
from tests.lensmith_gateway.conftest import MEBIBYTE, OPERATOR, Rig, picture

UPLOADS = "/v1/apps/trash/uploads"


def reason(response: httpx.Response) -> str:
    body = response.json()
    assert set(body) == {"code", "message", "details"}
    return str(body["details"][0]["reason"])


async def test_pictures_are_added_with_their_concept_when_uploaded(rig: Rig) -> None:
    files = [("image", ("a.jpg", picture(1))), ("anything", ("b.png", picture(2, kind="PNG")))]
    response = await rig.http.post(UPLOADS, headers=rig.headers, files=files, data={"concept": "glass"})
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert [result["status"]["code"] for result in results] == [0, 0]
    assert [result["input"]["mimeType"] for result in results] == ["image/jpeg", "image/png"]
    stored = await rig.inputs.GetInput(GetInputRequest(name=results[0]["input"]["name"]), metadata=rig.metadata)
    assert [annotation.concept for annotation in stored.annotations] == ["glass"]
    # Written by the key that uploaded, not by the gateway.
    assert stored.annotations[0].actor.startswith("keys/")


async def test_options_apply_by_file_name_when_given_as_json(rig: Rig) -> None:
    options = {
        "files": {
            "a.jpg": {
                "inputId": "bottle 1",
                "metadata": {"camera": {"line": 2}},
                "test": True,
                "annotations": [{"concept": "glass", "positive": False}],
            }
        }
    }
    files = [("image", ("a.jpg", picture(1))), ("image", ("b.jpg", picture(2)))]
    data = {"options": json.dumps(options), "concept": "glass"}
    response = await rig.http.post(UPLOADS, headers=rig.headers, files=files, data=data)
    assert [result["status"]["code"] for result in response.json()["results"]] == [0, 0], response.text
    stored = await rig.inputs.GetInput(GetInputRequest(name="apps/trash/inputs/bottle 1"), metadata=rig.metadata)
    assert stored.test
    assert stored.metadata["camera"]["line"] == 2
    assert [(one.concept, one.positive) for one in stored.annotations] == [("glass", False)]


async def test_bad_file_fails_alone_when_among_good_ones(rig: Rig) -> None:
    files = [
        ("image", ("good.jpg", picture(1))),
        ("image", ("text.jpg", b"this is no picture")),
        ("image", ("large.jpg", b"\xff" * (MEBIBYTE + 1))),
        ("image", ("empty.jpg", b"")),
        ("image", ("good2.jpg", picture(2))),
    ]
    response = await rig.http.post(UPLOADS, headers=rig.headers, files=files)
    assert response.status_code == 200
    codes = [result["status"]["code"] for result in response.json()["results"]]
    assert codes == [0, 3, 3, 3, 0]
    large = response.json()["results"][2]["status"]
    assert large["details"][0]["reason"] == "IMAGE_TOO_LARGE"
    assert str(MEBIBYTE) in large["message"]


async def test_every_file_is_added_when_upload_needs_several_calls(rig: Rig) -> None:
    # Noise hardly compresses: some 600 kB each, so that no two fit into one call.
    pictures = [picture(seed, (500, 400), "PNG") for seed in range(5)]
    assert min(map(len, pictures)) > MEBIBYTE // 2
    files = [("image", (f"{number}.png", data)) for number, data in enumerate(pictures)]
    options = json.dumps({"request_id": "once", "allow_duplicate": True})
    for _ in range(2):
        response = await rig.http.post(UPLOADS, headers=rig.headers, files=files, data={"options": options})
        assert [result["status"]["code"] for result in response.json()["results"]] == [0] * 5, response.text
    listed = await rig.inputs.ListInputs(ListInputsRequest(parent="apps/trash"), metadata=rig.metadata)
    assert len(listed.inputs) == 5


async def test_duplicate_is_said_or_kept_when_same_bytes_come_again(rig: Rig) -> None:
    files = [("image", ("a.jpg", picture(1)))]
    await rig.http.post(UPLOADS, headers=rig.headers, files=files)
    for allowed, duplicate in (("false", True), ("true", False)):
        data = {"allow_duplicate": allowed}
        response = await rig.http.post(UPLOADS, headers=rig.headers, files=files, data=data)
        assert response.json()["results"][0]["duplicate"] is duplicate


@pytest.mark.parametrize("options", [r'{"request_id": "\ud800"}', r'{"\ud800": 1}'])
async def test_nothing_is_added_when_an_option_is_no_text(rig: Rig, options: str) -> None:
    files = [("image", ("a.jpg", picture(1)))]
    response = await rig.http.post(UPLOADS, headers=rig.headers, files=files, data={"options": options})
    assert (response.status_code, reason(response)) == (400, "UPLOAD_OPTIONS_INVALID")


async def test_nothing_is_added_when_an_option_is_wrong(rig: Rig) -> None:
    files = [("image", ("a.jpg", picture(1)))]
    response = await rig.http.post(UPLOADS, headers=rig.headers, files=files, data={"options": '{"nope": 1}'})
    assert (response.status_code, reason(response)) == (400, "UPLOAD_OPTIONS_INVALID")
    assert response.json()["details"][1]["fieldViolations"][0]["field"] == "options.nope"
    listed = await rig.inputs.ListInputs(ListInputsRequest(parent="apps/trash"), metadata=rig.metadata)
    assert not listed.inputs


async def test_upload_is_refused_when_it_says_that_it_is_too_large(rig: Rig) -> None:
    response = await rig.http.post(UPLOADS, headers=rig.headers, files=[("image", ("a", b"x" * 5 * MEBIBYTE))])
    assert (response.status_code, reason(response)) == (413, "UPLOAD_TOO_LARGE")


async def test_upload_is_forbidden_before_it_is_read_when_key_may_not(rig: Rig) -> None:
    headers = await rig.key("Predict")
    response = await rig.http.post(UPLOADS, headers=headers, content=b"never read")
    assert (response.status_code, reason(response)) == (403, "SCOPE_MISSING")
    assert response.json()["details"][0]["metadata"]["scope"] == "Inputs:Add"
    response = await rig.http.post("/v1/apps/other/uploads", headers=rig.headers, content=b"never read")
    assert (response.status_code, reason(response)) == (403, "KEY_NOT_FOR_APP")
    # Everybody may look at the public app, nobody may add to it.
    response = await rig.http.post("/v1/apps/main/uploads", headers=rig.headers, content=b"never read")
    assert (response.status_code, reason(response)) == (403, "MAIN_APP_READ_ONLY")


async def test_upload_is_unauthenticated_when_nobody_knows_the_caller(rig: Rig) -> None:
    for headers in ({}, {"Authorization": "Key nope"}, {"Authorization": "Service x.y.z"}):
        response = await rig.http.post(UPLOADS, headers=headers, files=[("image", ("a.jpg", picture(1)))])
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Key"


async def test_operator_may_upload_when_app_is_anybodys(rig: Rig) -> None:
    headers = {"Authorization": f"Key {OPERATOR}"}
    response = await rig.http.post(UPLOADS, headers=headers, files=[("image", ("a.jpg", picture(1)))])
    assert response.json()["results"][0]["status"]["code"] == 0, response.text


async def test_nothing_stays_on_disk_when_uploads_end(rig: Rig) -> None:
    async def broken_off() -> AsyncIterator[bytes]:
        yield b'--B\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + b"x" * 3 * MEBIBYTE
        raise ConnectionResetError

    headers = {**rig.headers, "content-type": "multipart/form-data; boundary=B"}
    with pytest.raises(ConnectionResetError):
        await rig.http.post(UPLOADS, headers=headers, content=broken_off())
    files = [("image", (f"{number}.jpg", picture(number))) for number in range(3)]
    answers = await asyncio.gather(*(rig.http.post(UPLOADS, headers=rig.headers, files=files) for _ in range(3)))
    assert {answer.status_code for answer in answers} == {200}
    assert not [name for name in os.listdir(rig.directory) if name.startswith("lensmith-upload-")]
