"""The OpenAPI document: valid, complete, honest, and the same as the committed one."""

from pathlib import Path

import pytest
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from lensmith_gateway.contract import Contract, Rpc, load_contract
from lensmith_gateway.docs_page import docs_page
from lensmith_gateway.openapi import openapi_document, openapi_json
from lensmith_gateway.openapi_examples import EXAMPLES

ROOT = Path(__file__).parents[2]
CONTRACT = load_contract()
DOCUMENT = openapi_document(CONTRACT)


def rpc(name: str) -> Rpc:
    return next(rpc for rpc in CONTRACT.rpcs if rpc.name == name)


def operations() -> dict[str, dict[str, object]]:
    """Operations of the document by id."""
    found: dict[str, dict[str, object]] = {}
    for item in DOCUMENT["paths"].values():  # type: ignore[attr-defined]  # plain JSON
        for operation in item.values():
            assert operation["operationId"] not in found
            found[operation["operationId"]] = operation
    return found


def test_document_is_valid_openapi_when_generated() -> None:
    validate(DOCUMENT)  # type: ignore[arg-type]  # plain JSON


def test_document_is_the_committed_one_when_protos_are_unchanged() -> None:
    committed = ROOT / "docs" / "api" / "openapi.json"
    assert committed.read_text() == openapi_json(DOCUMENT), "run `make gen`"


def test_every_rpc_with_a_path_is_told_of_when_generated() -> None:
    told = operations()
    for one in CONTRACT.rpcs:
        assert (one.name in told) == (one.binding is not None)
        if one.binding is not None:
            assert told[one.name].get("x-lensmith-scope", "") == one.access.scope
            assert (told[one.name].get("security") == []) == one.access.public


def test_everything_has_a_description_when_it_comes_from_the_protos() -> None:
    for name, operation in operations().items():
        assert operation["description"], name
        for parameter in operation.get("parameters", []):  # type: ignore[attr-defined]  # plain JSON
            assert parameter["description"], f"{name}: {parameter['name']}"
    for name, schema in DOCUMENT["components"]["schemas"].items():  # type: ignore[index]  # plain JSON
        assert schema["description"], name


def test_limits_stand_in_the_schema_when_the_protos_have_them() -> None:
    schemas = DOCUMENT["components"]["schemas"]  # type: ignore[index]  # plain JSON
    app_id = schemas["CreateAppRequest"]["properties"]["appId"]
    assert (app_id["maxLength"], app_id["pattern"]) == (63, "^(?:[a-z0-9][a-z0-9-]*)$")
    assert schemas["PredictRequest"]["properties"]["inputs"]["maxItems"] == 128
    assert schemas["PredictRequest"]["properties"]["minValue"]["maximum"] == 1
    assert schemas["PredictRequest"]["required"] == ["inputs"]
    assert schemas["Input"]["properties"]["uid"]["readOnly"] is True
    # The path gives the app; the body need not.
    assert "parent" not in schemas["CreateInputsRequest"]["properties"]


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_example_is_what_the_api_takes_and_gives_when_shown(name: str) -> None:
    example, one = EXAMPLES[name], rpc(name)
    assert one.binding is not None
    if example.request is not None:
        body = one.request if one.binding.body == "*" else one.request.fields_by_name[one.binding.body].message_type
        assert body is not None
        json_format.ParseDict(example.request, GetMessageClass(body)())
        content = operations()[name]["requestBody"]["content"]["application/json"]  # type: ignore[index]  # plain JSON
        resolver = {"$ref": content["schema"]["$ref"], "components": DOCUMENT["components"]}
        Draft202012Validator(resolver).validate(example.request)
    json_format.ParseDict(example.response, GetMessageClass(one.response)())


def test_page_asks_no_other_host_for_anything_when_shown() -> None:
    page = docs_page(DOCUMENT)
    for attribute in ('src="', "@import", "url("):
        assert attribute not in page.html
    assert "default-src 'none'" in page.policy
    for one in CONTRACT.rpcs:
        if one.binding is not None:
            assert f'id="{one.name}"' in page.html


def test_page_escapes_what_comments_say_when_they_hold_markup() -> None:
    document = openapi_document(CONTRACT)
    document["info"] |= {"description": "<script>alert(1)</script> & `<b>`"}  # type: ignore[operator]  # plain JSON
    html = docs_page(document).html
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; <code>&lt;b&gt;</code>" in html


def test_contract_knows_every_comment_when_loaded() -> None:
    contract = Contract((ROOT / "libs" / "lensmith_api" / "descriptors.binpb").read_bytes())
    assert contract.comment("lensmith.v1.InputService").startswith("Pictures of an app")
    assert contract.comment("lensmith.v1.Image.url").startswith("Where the platform fetches it")
