"""Explain, asked as users ask: over gRPC, with a key, through every interceptor."""

import io
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from lensmith_api.v1.inference_service_pb2 import (
    HEAT_MAP_METHOD_CLASS_ACTIVATION,
    HEAT_MAP_METHOD_GRADIENT,
    ExplainRequest,
    ExplainResponse,
    ImageQuery,
    PredictRequest,
)
from lensmith_api.v1.input_pb2 import Image
from lensmith_inference.batcher import Seen
from lensmith_inference.reasons import HeadReasons
from lensmith_platform.errors import PreconditionError, from_status
from lensmith_vision.pack import builtin_pack
from tests.lensmith_inference.conftest import APP_A, OTHER_SECRET, Rig, make_head, rig_of
from tests.lensmith_inference.test_predict import MODEL, queries, refusal, values
from tests.pictures import picture

CURATOR = "secret-of-a-curator"


@pytest.fixture
async def rig(tmp_path: Path, nats_url: str) -> AsyncIterator[Rig]:
    """Inference on a pack with a feature map."""
    async with rig_of(tmp_path, nats_url, [builtin_pack("starter"), builtin_pack()]) as running_rig:
        yield running_rig


async def explain(rig: Rig, *contents: bytes, secret: str = "secret-of-app-a", **fields: object) -> ExplainResponse:
    request = ExplainRequest(**{"model": MODEL, **fields}, inputs=queries(*contents))
    return await rig.stub.Explain(request, metadata=rig.key(secret))


async def test_the_mean_of_a_map_is_the_logit_when_a_head_is_explained(rig: Rig) -> None:
    rig.add_model("sorter")
    pictures = [picture(1), picture(2)]
    predicted = await rig.stub.Predict(PredictRequest(model=MODEL, inputs=queries(*pictures)), metadata=rig.key())

    response = await explain(rig, *pictures, b"no picture", max_concepts=3)

    assert response.model_version == predicted.model_version
    assert response.method == HEAT_MAP_METHOD_CLASS_ACTIVATION
    assert [one.id for one in response.explanations] == ["q0", "q1", "q2"]
    assert from_status(response.explanations[2].status).reason == "IMAGE_NOT_AN_IMAGE"
    for index in range(2):
        found = response.explanations[index].concepts
        assert {one.concept.concept: one.concept.value for one in found} == pytest.approx(
            values(predicted, index), abs=1e-5
        )
        logits = np.asarray([one.logit for one in found])
        powers = np.exp(logits - logits.max())
        assert [one.concept.value for one in found] == pytest.approx((powers / powers.sum()).tolist(), abs=1e-5)
        for one in found:
            cells = one.heat_map
            assert len(cells.values) == cells.rows * cells.columns > 1
            assert np.mean(cells.values) == pytest.approx(one.logit, abs=1e-4)
            assert not cells.overlay
            assert (cells.region.left, cells.region.right) == (0, 1)


async def test_only_the_best_concept_is_explained_when_nothing_is_said(rig: Rig) -> None:
    rig.add_model("sorter")
    (all_of_them,) = (await explain(rig, picture(1), max_concepts=3)).explanations
    (best,) = (await explain(rig, picture(1))).explanations
    assert [one.concept.concept for one in best.concepts] == [all_of_them.concepts[0].concept.concept]
    (chosen,) = (await explain(rig, picture(1), select_concepts=["metal", "Paper"])).explanations
    assert {one.concept.concept for one in chosen.concepts} == {"metal", "paper"}
    request = ExplainRequest(model=MODEL, select_concepts=["x"], inputs=queries(picture(1)))
    error = await refusal(rig.stub.Explain(request, metadata=rig.key()))
    assert error.reason == "SELECT_CONCEPTS_UNKNOWN"


async def test_the_picture_is_drawn_over_when_overlays_are_asked_for(rig: Rig) -> None:
    rig.add_model("sorter")
    rig.add_model("counter", kind="regression")
    large = picture(3, (2000, 1000))
    (one,) = (await explain(rig, large, overlay=True)).explanations
    drawn = PillowImage.open(io.BytesIO(one.concepts[0].heat_map.overlay))
    assert (drawn.format, drawn.size) == ("PNG", (768, 384))
    (number,) = (await explain(rig, large, model="apps/a/models/counter", overlay=True)).explanations
    assert number.number == pytest.approx(number.concepts[0].logit, abs=1e-3)
    request = ExplainRequest(model=MODEL, inputs=queries(*[large] * 8), overlay=True, max_concepts=32)
    assert len((await rig.stub.Explain(request, metadata=rig.key())).explanations) == 8
    request.inputs.append(request.inputs[0])
    error = await refusal(rig.stub.Explain(request, metadata=rig.key()))
    assert error.field_violations[0][0] == "inputs"


async def test_training_pictures_are_named_when_the_key_may_see_them(rig: Rig) -> None:
    rig.add_model("sorter")
    rig.auth.add_key(CURATOR, "a", ["Predict", "Inputs:Get"])
    request = ExplainRequest(model=MODEL, inputs=queries(picture(1)), nearest=1)
    error = await refusal(rig.stub.Explain(request, metadata=rig.key()))
    assert (error.reason, error.metadata["scope"]) == ("SCOPE_MISSING", "Inputs:Get")

    response = await explain(rig, picture(1), b"none", picture(2), secret=CURATOR, nearest=5)

    first, failed, second = response.explanations
    for one in (first, second):
        assert [near.input for near in one.nearest] == ["apps/a/inputs/like-it"]
        assert one.nearest[0].annotations[0].positive
        assert one.nearest_status.code == 0
    assert not failed.nearest
    (asked,) = rig.dataset.asked
    assert (asked.app_id, asked.count, len(asked.vectors)) == (7, 5, 2)
    assert len(asked.vectors[0]) == 2 * rig.base_model.dimensions

    await rig.dataset_peer.stop()
    (without,) = (await explain(rig, picture(1), secret=CURATOR, nearest=5)).explanations
    assert without.concepts[0].heat_map.values
    assert from_status(without.nearest_status).reason == "SERVICE_UNAVAILABLE"
    assert not without.nearest


async def test_nothing_is_explained_when_it_cannot_or_must_not_be(rig: Rig) -> None:
    rig.add_model("sorter")
    request = ExplainRequest(model=MODEL, inputs=queries(picture(1)))
    error = await refusal(rig.stub.Explain(request, metadata=rig.key(OTHER_SECRET)))
    assert error.reason == "KEY_NOT_FOR_APP"
    plain = rig.registry.base_models["baseModels/plain"]
    head = make_head(plain.space, plain.dimensions, ("glass", "metal"))
    rig.registry.add_version(APP_A, "a", "flat", plain, head)
    request.model = "apps/a/models/flat"
    error = await refusal(rig.stub.Explain(request, metadata=rig.key()))
    assert error.reason == "BASE_MODEL_HAS_NO_FEATURE_MAP"


async def test_general_says_where_its_concepts_are_when_its_network_has_a_map(rig: Rig) -> None:
    rig.registry.add_general(rig.base_model)
    rig.auth.add_key(CURATOR, "a", ["Predict", "Inputs:Get"])
    general = "apps/main/models/general"
    response = await explain(rig, picture(1), model=general, max_concepts=2, overlay=True)
    assert response.method == HEAT_MAP_METHOD_GRADIENT
    (one,) = response.explanations
    assert len(one.concepts) == 2
    assert one.concepts[0].heat_map.rows == 8
    assert one.concepts[0].heat_map.overlay
    request = ExplainRequest(model=general, inputs=[ImageQuery(image=Image(content=picture(1)))], nearest=1)
    error = await refusal(rig.stub.Explain(request, metadata=rig.key(CURATOR)))
    assert error.reason == "MODEL_IS_IMPORTED"


def test_no_map_is_given_when_features_are_not_its_mean() -> None:
    head = make_head("s", 4, ("glass", "metal"))
    feature_map = np.ones((4, 2, 2), np.float32)
    reasons = HeadReasons(head)
    assert reasons.maps(Seen("s", np.ones(4, np.float32), None, feature_map), [0]).shape == (1, 2, 2)
    with pytest.raises(PreconditionError, match="not the mean"):
        reasons.maps(Seen("s", np.full(4, 2, np.float32), None, feature_map), [0])
