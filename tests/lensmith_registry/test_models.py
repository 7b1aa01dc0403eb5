"""Creating, reading, changing and deleting models."""

import asyncio

from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.model_version_pb2 import ModelVersion
from tests.lensmith_registry.rig import (
    DIM,
    KEY,
    MULTI_CLASS,
    MULTI_LABEL,
    OTHER_KEY,
    READ_KEY,
    REGRESSION,
    TRASH,
    Rig,
    refusal,
)


async def test_model_comes_back_as_it_was_created(rig: Rig):
    made = await rig.create("sorter", Model(type=MULTI_CLASS, display_name="Sorter", concepts=["glass", "metal"]))
    assert made.name == "apps/trash/models/sorter"
    assert (made.production_version, made.latest_version, made.pinned, made.imported) == (0, 0, False, False)
    assert made.etag
    assert made.HasField("create_time")
    assert await rig.model("sorter") == made


async def test_multi_label_model_gets_a_negative_concept(rig: Rig):
    made = await rig.create("tagger", Model(type=MULTI_LABEL, closed_environment=True))
    assert made.negative_concept == "not-tagger"
    assert rig.dataset.concepts[TRASH] == {"not-tagger": "Not tagger"}


async def test_own_id_is_refused_when_it_is_taken(rig: Rig):
    await rig.create("sorter")
    refused = await refusal(rig.create("sorter", Model(type=MULTI_LABEL)))
    assert (refused.reason, refused.metadata["code"]) == ("MODEL_EXISTS", "ALREADY_EXISTS")
    # The refusal came before anything was made elsewhere.
    assert rig.dataset.calls["CreateConcepts"] == 0


async def test_repeated_create_returns_the_first_model_when_the_request_id_is_the_same(rig: Rig):
    model = Model(type=MULTI_LABEL)
    first = await rig.create("tagger", model, request_id="r-1")
    made = await asyncio.gather(*(rig.create("tagger", model, request_id="r-1") for _ in range(5)))
    assert {one.uid for one in made} == {first.uid}
    refused = await refusal(rig.create("another", model, request_id="r-1"))
    assert refused.reason == "REQUEST_ID_REUSED"
    await rig.models.DeleteModel(pb.DeleteModelRequest(name=first.name), metadata=rig.key())
    gone = await refusal(rig.create("tagger", model, request_id="r-1"))
    assert gone.reason == "MODEL_NOT_FOUND"
    assert "deleted" in gone.metadata["text"]


BROKEN = [
    (Model(), "model.type"),
    (Model(type=REGRESSION), "model.concepts"),
    (Model(type=REGRESSION, concepts=["a", "b"]), "model.concepts"),
    (Model(type=REGRESSION, concepts=["a"], min_value=3, max_value=3), "model.min_value"),
    (Model(type=REGRESSION, concepts=["a"], min_value=float("nan")), "model.min_value"),
    (Model(type=REGRESSION, concepts=["a"], max_value=1e16), "model.max_value"),
    (Model(type=MULTI_CLASS, concepts=["a", "a"]), "model.concepts"),
    (Model(type=MULTI_CLASS, concepts=["a/b"]), "model.concepts"),
    (Model(type=MULTI_CLASS, concepts=["a\n"]), "model.concepts"),
    (Model(type=MULTI_CLASS, concepts=["x" * 129]), "model.concepts"),
    (Model(type=MULTI_CLASS, closed_environment=True), "model.closed_environment"),
    (Model(type=MULTI_CLASS, max_value=1), "model.max_value"),
    (Model(type=MULTI_LABEL, concepts=["not-sorter"]), "model.concepts"),
]


async def test_definition_is_refused_when_it_breaks_a_rule(rig: Rig):
    for model, field in BROKEN:
        refused = await refusal(rig.create("sorter", model))
        assert (refused.metadata["code"], field in refused.metadata["text"]) == ("INVALID_ARGUMENT", True), model


async def test_models_are_listed_in_pages_of_their_own_ids(rig: Rig):
    for model_id in ("c", "a", "b-1", "b.1", "b_1"):
        await rig.create(model_id)
    seen, token = [], ""
    while True:
        page = await rig.models.ListModels(
            pb.ListModelsRequest(parent="apps/trash", page_size=2, page_token=token), metadata=rig.key()
        )
        assert len(page.models) <= 2
        seen += [model.name.rpartition("/")[2] for model in page.models]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["a", "b-1", "b.1", "b_1", "c"]
    forged = pb.ListModelsRequest(parent="apps/trash", page_token="Zm9yZ2Vk")
    assert (await refusal(rig.models.ListModels(forged, metadata=rig.key()))).metadata["code"] == "INVALID_ARGUMENT"


async def test_models_are_listed_in_smaller_pages_when_they_know_very_many_concepts(rig: Rig):
    names = [f"model-{number}" for number in range(6)]
    concepts = [f"{number:0100d}" for number in range(9000)]
    for name in names:
        await rig.create(name, Model(type=MULTI_CLASS, concepts=concepts))
    request = pb.ListModelsRequest(parent="apps/trash", page_size=1000)
    pages: list[list[str]] = []
    while not pages or request.page_token:
        # More than 4 MB in one answer would be refused by this very client.
        page = await rig.models.ListModels(request, metadata=rig.key())
        pages.append([model.name.rpartition("/")[2] for model in page.models])
        request.page_token = page.next_page_token
    assert len(pages) > 1
    assert [name for page in pages for name in page] == names


async def _update(rig: Rig, paths: list[str], **fields: object) -> Model:
    request = pb.UpdateModelRequest(model=Model(name="apps/trash/models/sorter", **fields))
    request.update_mask.paths[:] = paths
    return await rig.models.UpdateModel(request, metadata=rig.key())


async def test_only_what_the_mask_names_changes(rig: Rig):
    made = await rig.create("sorter", Model(type=MULTI_CLASS, display_name="old", concepts=["a", "b"]))
    changed = await _update(rig, ["description", "concepts"], description="new", display_name="x", concepts=["b", "c"])
    assert (changed.display_name, changed.description, list(changed.concepts)) == ("old", "new", ["b", "c"])
    assert changed.etag != made.etag


async def test_update_is_refused_when_somebody_else_was_first(rig: Rig):
    made = await rig.create("sorter")
    await _update(rig, ["description"], description="one", etag=made.etag)
    refused = await refusal(_update(rig, ["description"], description="two", etag=made.etag))
    assert (refused.reason, refused.metadata["code"]) == ("ETAG_MISMATCH", "ABORTED")
    assert (await rig.model("sorter")).description == "one"


async def test_update_is_refused_when_the_mask_names_what_cannot_change(rig: Rig):
    await rig.create("sorter")
    assert (await refusal(_update(rig, ["type"], type=MULTI_LABEL))).metadata["code"] == "INVALID_ARGUMENT"
    assert (await refusal(_update(rig, ["production_version"], production_version=1))).reason == "VERSION_NOT_FOUND"
    assert (await refusal(_update(rig, ["pinned"], pinned=True))).reason == "MODEL_HAS_NO_TRAINED_VERSION"


async def test_deleted_model_is_gone_and_its_own_id_is_free(rig: Rig):
    version = await rig.trained()
    await rig.models.DeleteModel(pb.DeleteModelRequest(name="apps/trash/models/sorter"), metadata=rig.key())
    assert (await refusal(rig.model("sorter"))).reason == "MODEL_NOT_FOUND"
    assert (await refusal(rig.version(version.name))).reason == "VERSION_NOT_FOUND"
    again = await rig.create("sorter")
    assert again.latest_version == 0


async def test_delete_is_refused_when_the_model_changed_or_was_trained_since(rig: Rig):
    made = await rig.create("sorter")
    request = pb.DeleteModelRequest(name=made.name, etag=made.etag)
    rig.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
    await rig.train("sorter")
    refused = await refusal(rig.models.DeleteModel(request, metadata=rig.key()))
    assert (refused.reason, refused.metadata["code"]) == ("ETAG_MISMATCH", "ABORTED")
    request.etag = (await rig.model("sorter")).etag
    await rig.models.DeleteModel(request, metadata=rig.key())
    assert (await refusal(rig.model("sorter"))).reason == "MODEL_NOT_FOUND"


async def test_another_app_reaches_nothing_by_any_rpc(rig: Rig):
    version = await rig.trained()
    model, name = "apps/trash/models/sorter", version.name
    other = rig.key(OTHER_KEY)
    update = pb.UpdateModelRequest(model=Model(name=model, description="x"))
    update.update_mask.paths.append("description")
    note = pb.UpdateModelVersionRequest(
        model_version=ModelVersion(name=name, note="x"), update_mask={"paths": ["note"]}
    )
    calls = [
        rig.models.GetModel(pb.GetModelRequest(name=model), metadata=other),
        rig.models.ListModels(pb.ListModelsRequest(parent="apps/trash"), metadata=other),
        rig.models.UpdateModel(update, metadata=other),
        rig.models.DeleteModel(pb.DeleteModelRequest(name=model), metadata=other),
        rig.models.TrainModel(pb.TrainModelRequest(name=model), metadata=other),
        rig.models.GetModelVersion(pb.GetModelVersionRequest(name=name), metadata=other),
        rig.models.ListModelVersions(pb.ListModelVersionsRequest(parent=model), metadata=other),
        rig.models.CancelModelVersion(pb.CancelModelVersionRequest(name=name), metadata=other),
        rig.models.DeleteModelVersion(pb.DeleteModelVersionRequest(name=name), metadata=other),
        rig.models.GetEvaluation(pb.GetEvaluationRequest(name=f"{name}/evaluation"), metadata=other),
        rig.models.GetEvaluationCurves(pb.GetEvaluationCurvesRequest(name=f"{name}/evaluation"), metadata=other),
        rig.models.ListEvaluatedInputs(pb.ListEvaluatedInputsRequest(parent=name), metadata=other),
        rig.models.CompareModelVersions(pb.CompareModelVersionsRequest(name=name, other_version=1), metadata=other),
        rig.models.ListChangedInputs(pb.ListChangedInputsRequest(parent=name, other_version=1), metadata=other),
        rig.models.UpdateModelVersion(note, metadata=other),
        rig.models.ComputeLearningCurve(pb.ComputeLearningCurveRequest(name=name), metadata=other),
        rig.models.GetLearningCurve(pb.GetLearningCurveRequest(name=f"{name}/learningCurve"), metadata=other),
        rig.create("x", key=OTHER_KEY),
        _first(rig.models.WatchModelVersion(pb.WatchModelVersionRequest(name=name), metadata=other)),
    ]
    for call in calls:
        assert (await refusal(call)).metadata["code"] == "PERMISSION_DENIED"
    page = await rig.models.ListModels(pb.ListModelsRequest(parent="apps/other"), metadata=other)
    assert not page.models


async def test_read_only_key_may_do_nothing_here(rig: Rig):
    await rig.create("sorter")
    refused = await refusal(rig.model("sorter", key=READ_KEY))
    assert (refused.metadata["code"], refused.metadata["scope"]) == ("PERMISSION_DENIED", "Models:Get")
    assert await rig.model("sorter", key=KEY)


async def _first(stream: object) -> object:
    async for message in stream:
        return message
    raise AssertionError("the stream was empty")
