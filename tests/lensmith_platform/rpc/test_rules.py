"""What the contract says of request fields is held."""

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.struct_pb2 import Struct

from lensmith_api.v1 import access_pb2, app_service_pb2, inference_service_pb2, input_service_pb2, key_service_pb2
from lensmith_platform.errors import InvalidInputError
from lensmith_platform.rules import MAX_VIOLATIONS, Planner, check


def violations(message, size=None):
    plan = Planner().plan(message.DESCRIPTOR)
    if plan is None:
        return []
    try:
        check(plan, message, message.ByteSize() if size is None else size)
    except InvalidInputError as error:
        return list(error.field_violations)
    return []


def predict(**fields):
    request = inference_service_pb2.PredictRequest(model="apps/a/models/m", **fields)
    if not request.inputs:
        request.inputs.add().image.content = b"x"
    return request


def test_nothing_is_said_when_the_request_is_good():
    assert violations(predict(version=3, min_value=0.5, max_concepts=10)) == []


@pytest.mark.parametrize(
    ("fields", "path", "why"),
    [
        ({"version": -1}, "version", "must be at least 0; it is -1"),
        ({"min_value": 1.5}, "min_value", "must be at most 1; it is 1.5"),
        ({"min_value": float("nan")}, "min_value", "must be at least 0; it is nan"),
        ({"max_concepts": 10001}, "max_concepts", "must be at most 10000; it is 10001"),
        ({"select_concepts": ["c"] * 1001}, "select_concepts", "must have at most 1000 items; it has 1001"),
    ],
)
def test_field_is_named_when_it_is_out_of_bounds(fields, path, why):
    assert violations(predict(**fields)) == [(path, why)]


def test_items_are_named_by_index_when_one_of_them_is_wrong():
    request = predict()
    request.inputs.add(id="x" * 300).image.content = b"x"
    request.inputs.add()
    assert violations(request) == [
        ("inputs[1].id", "must have at most 256 characters; it has 300"),
        ("inputs[2].image", "must be set"),
    ]


def test_required_fields_are_named_when_they_are_empty():
    assert violations(inference_service_pb2.PredictRequest()) == [
        ("model", "must not be empty"),
        ("inputs", "must not be empty"),
    ]
    assert violations(key_service_pb2.UpdateKeyRequest()) == [("key", "must be set"), ("update_mask", "must be set")]


def test_pattern_must_match_the_whole_text_when_it_is_given():
    assert violations(app_service_pb2.CreateAppRequest(app_id="good-1")) == []
    for bad in ("Bad", "good\n", "-good", "go od"):
        [(path, why)] = violations(app_service_pb2.CreateAppRequest(app_id=bad))
        assert (path, why.startswith("must be of small letters, digits and '-' only")) == ("app_id", True), bad


def test_characters_are_counted_when_text_is_not_ascii():
    assert violations(predict(inputs=[{"id": "ü" * 256, "image": {"content": b"x"}}])) == []


def test_bytes_are_measured_when_the_message_is_larger_than_their_limit():
    request = predict()
    request.inputs[0].image.content = b"x" * 100
    assert violations(request, size=(64 << 20) + 1) == []
    request.inputs[0].image.content = b"x" * ((64 << 20) + 1)
    [(path, why)] = violations(request)
    assert path == "inputs[0].image.content"
    assert why == f"must have at most {64 << 20} bytes; it has {(64 << 20) + 1}"


def test_text_is_refused_when_it_holds_nul():
    why = "must not hold the character NUL"
    key = key_service_pb2.UpdateKeyRequest(key={"description": "a\x00", "scopes": ["Predict", "\x00"], "etag": "\x00"})
    key.update_mask.paths.append("description\x00")
    assert violations(key) == [
        ("key.description", why),
        ("key.scopes[1]", why),
        ("key.etag", why),
        ("update_mask.paths[0]", why),
    ]
    assert violations(predict(inputs=[{"image": {"url": "http://x/\x00"}}])) == [("inputs[0].image.url", why)]
    assert violations(app_service_pb2.ListAppsRequest(page_token="\x00")) == [("page_token", why)]


def test_work_is_bounded_when_everything_is_wrong():
    request = input_service_pb2.CreateInputsRequest(parent="apps/a")
    for _ in range(100):
        request.inputs.add(input_id="\n")
    assert len(violations(request)) == MAX_VIOLATIONS
    many = predict(select_concepts=["c"] * 1001)
    many.inputs.extend([inference_service_pb2.ImageQuery(id="x" * 300)] * 200)
    # Items of a list that is too long are not looked at.
    assert [path for path, _ in violations(many)] == ["inputs", "select_concepts"]


def test_there_is_no_plan_when_a_type_has_no_rules():
    assert Planner().plan(Struct.DESCRIPTOR) is None


def test_rules_are_found_when_a_type_contains_itself():
    file = descriptor_pb2.FileDescriptorProto(
        name="lensmith/test/v1/tree.proto", package="lensmith.test.v1", syntax="proto3"
    )
    file.dependency.append("lensmith/v1/access.proto")
    for name, other in (("Tree", "Twig"), ("Twig", "Tree")):
        message = file.message_type.add(name=name)
        inner = message.field.add(name="inner", number=1, label=3, type=11, type_name=f".lensmith.test.v1.{other}")
        assert inner.number == 1
        if name == "Twig":
            leaf = message.field.add(name="leaf", number=2, label=1, type=9)
            leaf.options.Extensions[access_pb2.rules].max_length = 3
    pool = descriptor_pool.Default()
    pool.Add(file)
    tree = message_factory.GetMessageClass(pool.FindMessageTypeByName("lensmith.test.v1.Tree"))()
    twig = tree.inner.add()
    twig.leaf = "fine"[:3]
    assert violations(tree) == []
    twig.inner.add().inner.add().leaf = "long"
    assert violations(tree) == [("inner[0].inner[0].inner[0].leaf", "must have at most 3 characters; it has 4")]
