"""Scopes, resource names and update masks."""

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lensmith_platform import resource_names, scopes, update_mask
from lensmith_platform.errors import InvalidInputError


def test_scope_implies_others_when_it_adds_or_deletes():
    assert scopes.expand(["Inputs:Add"]) == {"Inputs:Add", "Inputs:Get"}
    assert scopes.expand(["Keys:Delete"]) == {"Keys:Delete", "Keys:Add", "Keys:Get"}
    assert scopes.expand(["Models:Train"]) == {"Models:Train"}
    assert scopes.expand(["All"]) == set(scopes.SCOPES)
    assert scopes.expand(["Predict", "Nonsense"]) == {"Predict"}


def test_patch_means_add_when_a_scope_is_named():
    assert scopes.expand(["Concepts:Patch"]) == {"Concepts:Add", "Concepts:Get"}
    assert scopes.validate(["Search", "Inputs:Patch", "Predict", "Inputs:Add"]) == ("Predict", "Search", "Inputs:Add")


@pytest.mark.parametrize("bad", ["all", "Inputs", "Inputs:Patched", "Predict:Patch", "", "Inputs:Add "])
def test_scope_is_refused_when_it_does_not_exist(bad):
    with pytest.raises(InvalidInputError, match="there is no scope") as caught:
        scopes.validate(["Predict", bad])
    assert caught.value.reason == "SCOPE_UNKNOWN"


def test_scopes_are_refused_when_there_are_none():
    with pytest.raises(InvalidInputError, match="at least one"):
        scopes.validate([])


def test_name_comes_apart_and_together_when_it_has_the_form():
    template = "apps/{app}/models/{model}/versions/{version}"
    parts = {"app": "trash", "model": "übung 1.β", "version": "3"}
    name = resource_names.build(template, **parts)
    assert name == "apps/trash/models/übung 1.β/versions/3"
    assert resource_names.parse(template, name) == parts


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "apps",
        "apps/",
        "apps//inputs/1",
        "apps/a/inputs/",
        "apps/a/inputs/1/2",
        "apps/a/inputs/1\n",
        "apps/a\x00/inputs/1",
        "apps/a/inputs/\u2028",
        "/apps/a/inputs/1",
        "Apps/a/inputs/1",
        f"apps/{'a' * 257}/inputs/1",
    ],
)
def test_name_is_refused_when_it_has_another_form(bad):
    with pytest.raises(InvalidInputError) as caught:
        resource_names.parse("apps/{app}/inputs/{input}", bad, field="input.name")
    assert caught.value.reason == "RESOURCE_NAME_INVALID"
    assert caught.value.field_violations[0][0] == "input.name"
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


def test_mask_gives_paths_once_when_they_are_allowed():
    mask = FieldMask(paths=["scopes", "description", "scopes"])
    assert update_mask.apply(mask, {"description", "scopes"}) == ["scopes", "description"]


@pytest.mark.parametrize(
    ("paths", "reason"), [([], "UPDATE_MASK_EMPTY"), (["uid"], "UPDATE_MASK_INVALID"), (["*"], "UPDATE_MASK_INVALID")]
)
def test_mask_is_refused_when_it_names_what_cannot_change(paths, reason):
    with pytest.raises(InvalidInputError, match="description") as caught:
        update_mask.apply(FieldMask(paths=paths), {"description"})
    assert caught.value.reason == reason
