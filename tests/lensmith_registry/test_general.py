"""General: a version for each base model that has its classes, the best of them in production, whatever the order."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lensmith_api.internal.v1 import serving_service_pb2 as serving_pb
from lensmith_api.v1 import base_model_service_pb2 as pb
from lensmith_api.v1 import model_service_pb2 as model_pb
from lensmith_api.v1.model_pb2 import Model
from lensmith_vision.general import Calibration, hierarchy
from lensmith_vision.pack import load_card
from tests.general_pack import build_general_pack
from tests.lensmith_registry.pack_variants import files_of, import_pack
from tests.lensmith_registry.rig import OPERATOR_KEY, SPACE, Rig, refusal

GENERAL = "apps/main/models/general"
CALIBRATION = Calibration(temperature=1.5, default_threshold=0.4, thresholds={"dog": 0.7})


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three packs: the best is the largest, the worst is calibrated."""
    folder = tmp_path_factory.mktemp("general")
    return {
        "best": build_general_pack(folder / "best", name="best", rank=300, side=64),
        "middle": build_general_pack(folder / "middle", name="middle", rank=200, side=32),
        "worst": build_general_pack(folder / "worst", name="worst", rank=10, side=16, calibration=CALIBRATION),
    }


async def _model(rig: Rig):
    return await rig.models.GetModel(model_pb.GetModelRequest(name=GENERAL), metadata=rig.key())


async def _served(rig: Rig, version: int = 0) -> serving_pb.ServedModel:
    request = serving_pb.ResolveModelRequest(app_id=1, model="general", version=version)
    return await rig.serving.ResolveModel(request, metadata=rig.token("inference"))


async def _resolved(rig: Rig, space: str) -> serving_pb.ServedModel:
    request = serving_pb.ResolveGeneralRequest(space=space)
    return await rig.serving.ResolveGeneral(request, metadata=rig.token("inference"))


@pytest.mark.parametrize(
    "order", [("best", "middle", "worst"), ("worst", "middle", "best"), ("middle", "best", "worst")]
)
async def test_best_base_model_answers_whatever_the_order(rig: Rig, packs: dict[str, Path], order: tuple[str, ...]):
    for name in order:
        base = await import_pack(rig, files_of(packs[name]))
        assert base.model == GENERAL
    model = await _model(rig)
    assert (model.display_name, model.type, model.imported, model.latest_version) == ("General", 2, True, 3)
    assert model.production_version == order.index("best") + 1
    served = await _served(rig)
    assert served.base_model.name == "baseModels/best"
    assert list(served.concepts) == [one.id for one in hierarchy().concepts]
    assert list(served.display_names) == [one.name for one in hierarchy().concepts]


async def test_calibration_comes_with_the_version_when_the_pack_has_one(rig: Rig, packs: dict[str, Path]):
    await import_pack(rig, files_of(packs["worst"]))
    served = await _served(rig)
    thresholds = dict(zip(served.concepts, served.thresholds, strict=True))
    assert (served.taxonomy, served.temperature) == ("imagenet-1k", 1.5)
    assert (thresholds["dog"], thresholds["animal"]) == (0.7, 0.4)
    await import_pack(rig, files_of(packs["best"]))
    served = await _served(rig)
    assert (served.temperature, set(served.thresholds)) == (1.0, {0.5})


async def test_import_is_refused_when_the_labels_are_in_another_order(rig: Rig, packs: dict[str, Path], tmp_path: Path):
    folder = tmp_path / "other"
    shutil.copytree(packs["best"], folder)
    background, *labels = (folder / "labels.txt").read_text().splitlines()
    (folder / "labels.txt").write_text("\n".join([background, *reversed(labels)]) + "\n")
    assert (await refusal(import_pack(rig, files_of(folder)))).reason == "PACK_TAXONOMY_MISMATCH"


async def test_import_is_refused_when_the_calibration_is_not_of_general(
    rig: Rig, packs: dict[str, Path], tmp_path: Path
):
    folder = tmp_path / "other"
    shutil.copytree(packs["worst"], folder)
    text = (folder / "calibration.json").read_text()
    (folder / "calibration.json").write_text(text.replace('"dog"', '"unicorn"'))
    assert (await refusal(import_pack(rig, files_of(folder)))).reason == "PACK_CALIBRATION_INVALID"


async def test_another_calibration_needs_a_new_version_of_the_pack(rig: Rig, packs: dict[str, Path], tmp_path: Path):
    await import_pack(rig, files_of(packs["worst"]))
    folder = tmp_path / "other"
    shutil.copytree(packs["worst"], folder)
    (folder / "calibration.json").write_text(replace(CALIBRATION, temperature=2.0).to_json())
    assert (await refusal(import_pack(rig, files_of(folder)))).reason == "BASE_MODEL_EXISTS"
    card = replace(load_card(folder), version=2)
    (folder / "card.json").write_text(card.to_json())
    await import_pack(rig, files_of(folder))
    assert (await _served(rig)).temperature == 2.0


async def test_next_best_answers_when_the_best_is_removed(rig: Rig, packs: dict[str, Path]):
    for name in ("best", "worst", "middle"):
        await import_pack(rig, files_of(packs[name]))
    for name, left in (("best", "middle"), ("middle", "worst")):
        request = pb.DeleteBaseModelRequest(name=f"baseModels/{name}")
        await rig.base_models.DeleteBaseModel(request, metadata=rig.key(OPERATOR_KEY))
        assert (await _served(rig)).base_model.name == f"baseModels/{left}"
    await rig.base_models.DeleteBaseModel(
        pb.DeleteBaseModelRequest(name="baseModels/worst"), metadata=rig.key(OPERATOR_KEY)
    )
    assert (await refusal(_model(rig))).reason == "MODEL_NOT_FOUND"
    await import_pack(rig, files_of(packs["worst"]))
    assert (await _served(rig)).base_model.name == "baseModels/worst"


async def test_operator_may_pin_a_version_and_let_go_of_it(rig: Rig, packs: dict[str, Path]):
    async def update(**fields: object) -> int:
        request = model_pb.UpdateModelRequest(
            model=Model(name=GENERAL, **fields), update_mask=FieldMask(paths=[*fields])
        )
        return (await rig.models.UpdateModel(request, metadata=rig.key(OPERATOR_KEY))).production_version

    for name in ("best", "worst"):
        await import_pack(rig, files_of(packs[name]))
    assert await update(production_version=2) == 2
    await import_pack(rig, files_of(packs["middle"]))
    assert (await _served(rig)).base_model.name == "baseModels/worst"
    assert await update(pinned=False) == 1
    assert (await _served(rig)).base_model.name == "baseModels/best"


async def test_pictures_of_a_space_are_seen_as_cheaply_as_can_be(rig: Rig, packs: dict[str, Path]):
    assert (await refusal(_resolved(rig, SPACE))).reason == "GENERAL_NOT_INSTALLED"
    spaces = {name: (await import_pack(rig, files_of(packs[name]))).space for name in ("best", "middle", "worst")}
    assert (await _resolved(rig, spaces["best"])).base_model.name == "baseModels/best"
    assert (await _resolved(rig, spaces["middle"])).base_model.name == "baseModels/middle"
    # The built-in pack names nothing: the smallest one that does looks at its pictures too.
    assert (await _resolved(rig, SPACE)).base_model.name == "baseModels/worst"


async def test_first_packs_make_one_model_when_they_come_at_once(rig: Rig, packs: dict[str, Path]):
    await asyncio.gather(*(import_pack(rig, files_of(folder)) for folder in packs.values()))
    model = await _model(rig)
    assert model.latest_version == 3
    assert (await _served(rig)).base_model.name == "baseModels/best"
