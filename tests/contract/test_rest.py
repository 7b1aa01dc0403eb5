"""What REST callers may rely on: the traps of transcoding, each shut."""

import base64
import json
import random

import httpx
import pytest

from lensmith_api.v1 import input_service_pb2, key_service_pb2, model_pb2, model_service_pb2
from lensmith_gateway.envoy_settings import MEBIBYTE
from tests.contract.conftest import ORIGIN, Edge

PREDICT = "/v1/apps/x/models/m:predict"


def reason(response: httpx.Response) -> str:
    """The reason in an error body, whose form is checked on the way."""
    body = response.json()
    assert response.headers["content-type"] == "application/json"
    assert set(body) == {"code", "message", "details"}
    assert body["details"][0]["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert body["details"][0]["domain"] == "lensmith"
    return str(body["details"][0]["reason"])


@pytest.mark.parametrize(
    ("code", "status"),
    [(3, 400), (4, 504), (5, 404), (6, 409), (7, 403), (8, 429), (9, 400), (10, 409), (13, 500), (14, 503), (16, 401)],
)
def test_error_body_carries_code_message_and_details_when_call_fails(
    rest: httpx.Client, code: int, status: int
) -> None:
    response = rest.get(f"/v1/apps/code-{code}")
    assert response.status_code == status
    assert reason(response) == "TEST_REASON"
    assert response.json()["code"] == code
    assert response.json()["message"] == "No such thing “here”."
    assert response.json()["details"][0]["metadata"] == {"limit": "7"}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (PREDICT, {"inputs": [{"image": {}}, {"image": {"kontent": "aGk="}}]}, "inputs[1].image.kontent"),
        (PREDICT, {"nope": None}, "nope"),
        ("/v1/apps/x/models", {"model": {"type": "MODEL_TYPE_REGRESSION", "typo": 1}}, "model.typo"),
        ("/v1/apps/x/inputs", {"inputs": [{"annotations": [{"x": {"deep": [1]}}]}]}, "inputs[0].annotations[0].x"),
    ],
)
def test_unknown_field_is_refused_by_name_when_body_has_one(
    rest: httpx.Client, edge: Edge, path: str, body: object, field: str
) -> None:
    edge.received.request = model_pb2.Model()
    response = rest.post(path, json=body)
    assert response.status_code == 400
    assert reason(response) == "UNKNOWN_FIELD"
    assert field in response.json()["message"]
    assert response.json()["details"][1]["fieldViolations"][0]["field"] == field
    assert edge.received.request == model_pb2.Model()


def test_unknown_field_is_refused_when_body_is_one_field_of_the_request(rest: httpx.Client) -> None:
    response = rest.patch("/v1/apps/x?updateMask=displayName", json={"displayName": "d", "nope": 1})
    assert (response.status_code, reason(response)) == (400, "UNKNOWN_FIELD")


def test_any_key_is_accepted_when_field_is_the_users_own_json(rest: httpx.Client, edge: Edge) -> None:
    metadata = {"any": {"thing": [1, None, {"x": '\\"}'}]}, "": True}
    response = rest.post("/v1/apps/x/inputs", json={"inputs": [{"metadata": metadata}]})
    assert response.status_code == 200
    request = edge.received.request
    assert isinstance(request, input_service_pb2.CreateInputsRequest)
    assert request.inputs[0].metadata["any"]["thing"][2]["x"] == '\\"}'


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/apps/x/models", {"model": {"type": "NOPE"}}), ("/v1/apps/x/models", {"model": {"type": ""}})],
)
def test_unknown_enum_value_is_refused_when_body_has_one(rest: httpx.Client, path: str, body: object) -> None:
    response = rest.post(path, json=body)
    assert (response.status_code, reason(response)) == (400, "UNKNOWN_ENUM_VALUE")


def test_both_spellings_of_a_field_are_accepted_when_body_uses_them(rest: httpx.Client, edge: Edge) -> None:
    body = {"model_id": "m", "model": {"type": "MODEL_TYPE_REGRESSION", "minValue": 0, "max_value": 9}}
    assert rest.post("/v1/apps/x/models", json=body).status_code == 200
    assert edge.received.request == model_service_pb2.CreateModelRequest(
        parent="apps/x",
        model_id="m",
        model=model_pb2.Model(type=model_pb2.MODEL_TYPE_REGRESSION, min_value=0, max_value=9),
    )


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        "null",
        '"text"',
        "{'inputs': []}",
        "{inputs: []}",
        '{"inputs": [],}',
        '{"inputs": []} {}',
        '{"inputs": [}',
        '{"version": 1 2}',
        '{"version": nope}',
        '{"version" 1}',
        '{"unterminated',
        '{"inputs": ' + "[" * 200,
        "\x00",
        "\ufeff{}",
        "not json",
    ],
)
def test_error_body_is_json_when_body_is_not(rest: httpx.Client, body: str) -> None:
    response = rest.post(PREDICT, content=body)
    assert response.status_code == 400
    assert reason(response) in {"JSON_MALFORMED", "JSON_TOO_DEEP"}
    assert response.json()["code"] == 3


def test_unknown_field_is_refused_when_its_name_is_written_with_escapes(rest: httpx.Client) -> None:
    # The transcoder would read it as `inputs`; the check does not guess what else could be meant.
    response = rest.post(PREDICT, content='{"\\u0069nputs": []}')
    assert (response.status_code, reason(response)) == (400, "UNKNOWN_FIELD")


def test_body_is_refused_when_it_has_millions_of_values(rest: httpx.Client) -> None:
    for body in ("1," * 4_000_000, "[]," * 4_000_000):
        response = rest.post("/v1/apps/x/inputs", content='{"inputs":[{"metadata":{"a":[' + body + "1]}}]}")
        assert (response.status_code, reason(response)) == (400, "JSON_TOO_MANY_VALUES")


def test_nothing_passes_that_is_no_json_when_a_body_is_damaged(rest: httpx.Client) -> None:
    good = '{"inputs": [{"id": "a\\"b", "image": {"url": "http://x"}}, {}], "minValue": -0.5e0, "version": 3}'
    chance = random.Random(7)
    for _ in range(400):
        place = chance.randrange(len(good))
        damage = chance.choice(["", *'{}[]",:x0 '])
        body = good[:place] + damage + good[place + chance.randrange(3) :]
        status = rest.post(PREDICT, content=body).status_code
        assert status in {200, 400}, body
        if status == 200:
            json.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        '{"maxConcepts": "abc"}',
        '{"maxConcepts": 99999999999}',
        '{"maxConcepts": 1.5}',
        '{"inputs": "abc"}',
        '{"inputs": [{"image": {"content": "###"}}]}',
        '{"inputs": [{"image": {"content": "aGk=", "url": "both"}}]}',
        '{"selectConcepts": [true]}',
    ],
)
def test_value_is_refused_when_its_type_is_wrong(rest: httpx.Client, body: str) -> None:
    response = rest.post(PREDICT, content=body)
    assert (response.status_code, reason(response)) == (400, "REQUEST_MALFORMED")


@pytest.mark.parametrize("query", ["nope=1", "pageSize=abc", "status=NOPE", "page_size=99999999999"])
def test_query_is_refused_when_parameter_or_value_is_unknown(rest: httpx.Client, query: str) -> None:
    response = rest.get(f"/v1/apps/x/inputs?{query}")
    assert (response.status_code, reason(response)) == (400, "REQUEST_MALFORMED")


@pytest.mark.parametrize("query", ["parent=apps/other", "%70arent=apps/other", "pageSize=1&parent=apps%2Fother"])
def test_app_in_the_path_stands_when_query_names_another(rest: httpx.Client, query: str) -> None:
    response = rest.get(f"/v1/apps/x/inputs?{query}")
    assert (response.status_code, reason(response)) == (400, "FIELD_BOUND_BY_PATH")


def test_app_in_the_path_stands_when_body_names_another(rest: httpx.Client) -> None:
    response = rest.post("/v1/apps/x/inputs", json={"parent": "apps/other"})
    assert (response.status_code, reason(response)) == (400, "REQUEST_MALFORMED")
    response = rest.patch("/v1/apps/x?updateMask=displayName", json={"name": "apps/other"})
    assert (response.status_code, reason(response)) == (400, "REQUEST_MALFORMED")


def test_query_reaches_the_request_when_parameters_are_known(rest: httpx.Client, edge: Edge) -> None:
    assert rest.get("/v1/apps/x/inputs?page_size=5&concept=a+b&status=INPUT_STATUS_READY").status_code == 200
    assert edge.received.request == input_service_pb2.ListInputsRequest(
        parent="apps/x", page_size=5, concept="a b", status="INPUT_STATUS_READY"
    )


def test_defaults_are_printed_when_value_is_zero(rest: httpx.Client) -> None:
    answer = rest.post(PREDICT, json={"inputs": [{"id": "1"}]}).json()
    score = answer["predictions"][0]["concepts"][0]
    assert score == {"concept": "dog", "displayName": "", "value": 0, "predicted": False}
    assert answer["predictions"][0]["status"] == {"code": 0, "message": "", "details": []}


def test_long_integers_are_strings_and_bytes_base64_when_in_json(rest: httpx.Client, edge: Edge) -> None:
    assert rest.get("/v1/apps/x/concepts/dog").json()["positiveCount"] == str(1 << 60)
    content = bytes(range(256))
    image = {"content": base64.b64encode(content).decode()}
    assert rest.post("/v1/apps/x/inputs", json={"inputs": [{"image": image}]}).status_code == 200
    request = edge.received.request
    assert isinstance(request, input_service_pb2.CreateInputsRequest)
    assert request.inputs[0].image.content == content


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a%20b", "a b"),
        ("a%23%3F%26%2B%25b", "a#?&+%b"),
        ("caf%C3%A9", "café"),
        ("a:b", "a:b"),
        ("a%3Adelete", "a:delete"),
        ("100%25", "100%"),
    ],
)
def test_own_id_arrives_whole_when_path_is_percent_encoded(rest: httpx.Client, path: str, name: str) -> None:
    assert rest.get(f"/v1/apps/x/concepts/{path}").json()["name"] == f"apps/x/concepts/{name}"


def test_escaped_slash_is_refused_when_in_a_path(rest: httpx.Client) -> None:
    response = rest.get("/v1/apps/x/concepts/a%2Fb")
    assert (response.status_code, reason(response)) == (400, "REQUEST_MALFORMED")


def test_custom_verb_finds_its_call_when_path_ends_with_one(rest: httpx.Client, edge: Edge) -> None:
    assert rest.post("/v1/apps/x/inputs:delete", json={"inputIds": ["a"]}).status_code == 200
    assert edge.received.request == input_service_pb2.DeleteInputsRequest(parent="apps/x", input_ids=["a"])


@pytest.mark.parametrize(
    "path",
    [
        "/v1/apps/x/%6dodels",
        "/v1/apps/x/./models",
        "/v1/apps/x/y/../models",
        "/v1/apps/x/models#part",
        "/v1/apps/x/models/a:b:predict",
        "/v1/apps/x/models?update_mask",
    ],
)
def test_body_is_checked_when_path_is_written_oddly(rest: httpx.Client, path: str) -> None:
    response = rest.post(path, json={"nope": 1})
    assert (response.status_code, reason(response)) == (400, "UNKNOWN_FIELD")


def test_body_of_curl_is_read_as_json_when_content_type_is_a_form(rest: httpx.Client) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert rest.post(PREDICT, content='{"inputs":[{}]}', headers=headers).status_code == 200
    response = rest.post(PREDICT, content='{"nope":1}', headers=headers)
    assert reason(response) == "UNKNOWN_FIELD"


def test_body_of_62_mebibytes_arrives_when_limit_is_64(rest: httpx.Client, edge: Edge) -> None:
    content = b"\xff" * (46 * MEBIBYTE + MEBIBYTE // 2)
    image = b'{"inputs":[{"image":{"content":"' + base64.b64encode(content) + b'"}}]}'
    assert rest.post("/v1/apps/x/inputs", content=image).status_code == 200
    request = edge.received.request
    assert isinstance(request, input_service_pb2.CreateInputsRequest)
    assert request.inputs[0].image.content == content


def test_limit_is_named_when_body_is_larger(rest: httpx.Client) -> None:
    body = b'{"inputs":[{"image":{"content":"' + b"A" * (64 * MEBIBYTE) + b'"}}]}'
    response = rest.post("/v1/apps/x/inputs", content=body)
    assert (response.status_code, reason(response)) == (413, "REQUEST_TOO_LARGE")
    assert "64 MiB" in response.json()["message"]


@pytest.mark.parametrize("mebibytes", [2, 60])
def test_answer_arrives_whole_when_larger_than_a_mebibyte(rest: httpx.Client, mebibytes: int) -> None:
    response = rest.get(f"/v1/apps/x/concepts?contains={mebibytes}")
    assert response.status_code == 200
    assert len(response.content) > mebibytes * MEBIBYTE


def test_stream_is_one_json_a_line_when_over_rest(rest: httpx.Client) -> None:
    with rest.stream("GET", "/v1/apps/x/models/good/versions/1:watch") as response:
        events = [json.loads(line) for line in response.iter_lines()]
    assert [list(event) for event in events] == [["item"], ["summary"]]
    assert events[0]["item"]["progress"]["fraction"] == 0


def test_stream_ends_with_an_error_message_when_it_fails_after_it_began(rest: httpx.Client) -> None:
    with rest.stream("GET", "/v1/apps/x/models/broken/versions/1:watch") as response:
        events = [json.loads(line) for line in response.iter_lines()]
    assert response.status_code == 200
    assert [list(event) for event in events] == [["item"], ["error"]]
    assert events[1]["error"] == {"code": 14, "message": "lost", "details": []}


def test_stream_is_an_ordinary_error_when_it_fails_before_its_first_message(rest: httpx.Client) -> None:
    response = rest.get("/v1/apps/x/models/refused/versions/1:watch")
    assert (response.status_code, reason(response)) == (404, "TEST_REASON")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nope"),
        ("GET", "/v1/nope"),
        ("POST", "/v1/whoami"),
        ("GET", "/v1/apps/x/concepts/"),
        ("POST", "/v1/apps/x/models/"),
        ("POST", "/v1/apps/x/models//?x=1"),
        ("POST", "/v1/apps//models"),
        ("POST", "//v1/apps/x/models"),
        ("POST", "/v1/apps/x/inputs:delete/"),
        ("POST", "/v1/apps/x/inputs:nope"),
        ("POST", "/v1/apps/x/models/m%3Apredict"),
        ("POST", "/lensmith.internal.v1.ServingService/ResolveModel"),
        ("POST", "/lensmith.internal.v1.KeyResolverService/ResolveKey"),
        ("POST", "/lensmith.v1.KeyService/WhoAmI"),
        ("GET", "/docs/../nope"),
    ],
)
def test_path_is_not_found_when_nothing_is_served_there(rest: httpx.Client, method: str, path: str) -> None:
    response = rest.request(method, path)
    assert (response.status_code, reason(response)) == (404, "ROUTE_NOT_FOUND")


def test_service_is_unavailable_in_json_when_its_server_is_away(rest: httpx.Client, edge: Edge) -> None:
    edge.backends.run(edge.backends.stop("auth"))
    try:
        response = rest.get("/v1/whoami")
    finally:
        edge.backends.run(edge.backends.start("auth"))
    assert (response.status_code, reason(response)) == (503, "SERVICE_UNAVAILABLE")
    assert "127.0.0.1" not in response.text
    assert "sock" not in response.text
    assert rest.get("/v1/whoami").status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/healthz", "/images/token"])
def test_gateway_is_asked_when_path_is_its_own(rest: httpx.Client, path: str) -> None:
    # Nobody listens there in these tests, and only these paths lead there.
    assert rest.get(path).status_code == 503


def test_uploads_go_to_the_gateway_when_posted(rest: httpx.Client) -> None:
    assert rest.post("/v1/apps/x/uploads", files={"image": b"x"}).status_code == 503


def test_internal_headers_are_stripped_when_client_sends_them(rest: httpx.Client, edge: Edge) -> None:
    headers = {"X-Lensmith-App": "1", "X-Envoy-Original-Path": "/x", "Authorization": "Key secret"}
    response = rest.get("/v1/whoami", headers={**headers, "X-Request-Id": "mine"})
    assert "x-lensmith-app" not in edge.received.metadata
    assert edge.received.metadata["x-envoy-original-path"] == "/v1/whoami"
    assert edge.received.metadata["authorization"] == "Key secret"
    # The id of a request is made here, so that nobody can write into another's log lines.
    assert edge.received.metadata["x-request-id"] == response.headers["x-request-id"] != "mine"
    assert edge.received.request == key_service_pb2.WhoAmIRequest()


@pytest.mark.parametrize("path", [PREDICT, "/lensmith.v1.InferenceService/Predict", "/v1/apps/x/uploads"])
def test_preflight_is_answered_when_origin_is_allowed(rest: httpx.Client, path: str) -> None:
    asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
    answer = rest.options(path, headers=asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in answer.headers


def test_preflight_is_not_answered_when_origin_is_unknown(rest: httpx.Client) -> None:
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in rest.options(PREDICT, headers=asked).headers
