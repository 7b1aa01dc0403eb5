"""Model packs: installed at start and by import, refused when they are not what they say."""

import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from lensmith_api.internal.v1 import serving_service_pb2 as serving_pb
from lensmith_api.v1 import base_model_service_pb2 as pb
from lensmith_api.v1 import model_service_pb2 as model_pb
from lensmith_registry.public_models import concept_ids
from lensmith_vision.pack import BUILTIN_PACKS, builtin_pack, find_packs, load_card
from tests.lensmith_registry.pack_variants import files_of, import_pack, variant
from tests.lensmith_registry.rig import OPERATOR_KEY, OTHER, PLAIN, SPACE, TRASH, Rig, refusal
from tests.polling import until

PACK = builtin_pack()


async def _list(rig: Rig, **fields: object):
    return await rig.base_models.ListBaseModels(pb.ListBaseModelsRequest(**fields), metadata=rig.key())


async def test_plain_is_installed_at_start(rig: Rig):
    (base,) = (await _list(rig)).base_models
    assert (base.name, base.space, base.dimensions) == ("baseModels/plain", SPACE, PLAIN.feature_dim)
    assert base.sha256 == PLAIN.sha256
    request = pb.GetBaseModelRequest(name="baseModels/plain")
    assert await rig.base_models.GetBaseModel(request, metadata=rig.token("inference")) == base
    request.name = "baseModels/none"
    assert (await refusal(rig.base_models.GetBaseModel(request, metadata=rig.key()))).reason == "BASE_MODEL_NOT_FOUND"


async def test_every_pack_that_ships_with_the_code_is_installed_at_start(make_rig):
    shipped = {f"baseModels/{folder.name}" for folder in find_packs(BUILTIN_PACKS)}
    async with make_rig(install_builtin_packs=True) as rig:
        listed = [base.name for base in (await _list(rig)).base_models]
    assert "baseModels/plain" in shipped
    assert set(listed) == shipped
    assert listed[-1] == "baseModels/plain"


async def test_service_starts_when_a_pack_folder_is_broken(make_rig, tmp_path: Path):
    packs = tmp_path / "packs"
    variant(packs / "good", id="good", rank=PLAIN.rank + 10)
    variant(packs / "wrong-hash", id="wrong-hash", sha256="0" * 64)
    broken = variant(packs / "no-json")
    (broken / "card.json").write_text("{")
    (packs / "not-a-pack").mkdir()
    async with make_rig(pack_folders=str(packs)) as rig:
        names = [base.name for base in (await _list(rig)).base_models]
        assert names == ["baseModels/good", "baseModels/plain"]
        first = await _list(rig, page_size=1)
        rest = await _list(rig, page_size=1, page_token=first.next_page_token)
        assert [first.base_models[0].name, rest.base_models[0].name, rest.next_page_token] == [*names, ""]


async def test_imported_pack_can_be_fetched_and_importing_again_changes_nothing(rig: Rig, tmp_path: Path):
    folder = variant(tmp_path / "pack", id="mine", rank=99, views=8)
    made = await import_pack(rig, files_of(folder))
    assert (made.name, made.views) == ("baseModels/mine", 8)
    assert await import_pack(rig, files_of(folder)) == made
    for name, content in files_of(folder):
        request = serving_pb.FetchArtefactRequest(pack_file=serving_pb.PackFile(space=made.space, file_name=name))
        stream = rig.serving.FetchArtefact(request, metadata=rig.token("inference"))
        chunks = [part.chunk async for part in stream]
        assert b"".join(chunks) == content
        assert max(map(len, chunks)) <= 1 << 20


async def test_import_is_refused_when_another_content_has_the_name_and_version(rig: Rig, tmp_path: Path):
    await import_pack(rig, files_of(variant(tmp_path / "one", id="mine")))
    refused = await refusal(import_pack(rig, files_of(variant(tmp_path / "two", id="mine", description="another"))))
    assert (refused.reason, refused.metadata["code"]) == ("BASE_MODEL_EXISTS", "ALREADY_EXISTS")
    newer = await import_pack(rig, files_of(variant(tmp_path / "three", id="mine", version=PLAIN.version + 1)))
    assert newer.version == str(PLAIN.version + 1)


async def test_import_is_refused_when_a_file_name_is_not_of_a_pack(rig: Rig):
    for name in ("../../etc/passwd", "/etc/passwd", "card.json\n", "weights.bin"):
        refused = await refusal(import_pack(rig, [*files_of(PACK), (name, b"x")]))
        assert (refused.reason, refused.metadata["code"]) == ("PACK_FILE_UNKNOWN", "INVALID_ARGUMENT")
    assert (await refusal(import_pack(rig, [*files_of(PACK), ("card.json", b"x")]))).reason == "PACK_FILE_REPEATED"


async def test_import_is_refused_when_the_pack_is_not_what_it_says(rig: Rig, tmp_path: Path):
    mine = variant(tmp_path / "mine", id="mine")
    card, model = (mine / "card.json").read_bytes(), (mine / "model.onnx").read_bytes()
    document = json.loads(card)
    cases = [
        ([("card.json", card)], "PACK_INCOMPLETE"),
        ([("model.onnx", model)], "PACK_INCOMPLETE"),
        ([("card.json", card), ("model.onnx", model[:-1])], "PACK_HASH_MISMATCH"),
        ([("card.json", b"[]"), ("model.onnx", model)], "PACK_CARD_INVALID"),
        ([("card.json", json.dumps({**document, "id": "../x"}).encode()), ("model.onnx", model)], "PACK_CARD_INVALID"),
        ([], "PACK_INCOMPLETE"),
    ]
    for files, reason in cases:
        refused = await refusal(import_pack(rig, [(name, content) for name, content in files]))
        assert (refused.reason, refused.metadata["code"]) == (reason, "INVALID_ARGUMENT")
    garbled = variant(tmp_path / "garbled", id="garbled")
    (garbled / "model.onnx").write_bytes(b"no graph at all")
    garbled_card = _hashed_card(garbled)
    refused = await refusal(import_pack(rig, [("card.json", garbled_card), ("model.onnx", b"no graph at all")]))
    assert refused.reason == "PACK_GRAPH_INVALID"
    assert [base.name for base in (await _list(rig)).base_models] == ["baseModels/plain"]


def _hashed_card(folder: Path) -> bytes:
    """The card of a folder, made to agree with whatever its graph is."""
    content = (folder / "model.onnx").read_bytes()
    card = replace(load_card(folder), sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    return card.to_json().encode()


async def test_import_is_refused_when_it_begins_with_a_chunk(rig: Rig):
    async def parts() -> AsyncIterator[pb.ImportBaseModelRequest]:
        yield pb.ImportBaseModelRequest(chunk=b"x")

    refused = await refusal(_awaited(rig.base_models.ImportBaseModel(parts(), metadata=rig.key(OPERATOR_KEY))))
    assert refused.reason == "PACK_INVALID"


async def _awaited(call: object) -> object:
    return await call


async def test_import_is_refused_when_it_is_too_large(make_rig):
    async with make_rig(max_pack_bytes=1 << 20) as rig:
        refused = await refusal(import_pack(rig, [("card.json", b"{}"), ("model.onnx", b"x" * (1 << 20))]))
        assert (refused.reason, refused.metadata["max"]) == ("PACK_TOO_LARGE", str(1 << 20))


async def test_import_is_refused_when_the_key_is_an_apps(rig: Rig):
    refused = await refusal(import_pack(rig, files_of(PACK), key="key-of-trash"))
    assert refused.metadata["code"] == "PERMISSION_DENIED"


async def test_space_of_an_app_is_decided_once(rig: Rig, tmp_path: Path):
    async def resolve(app_id: int, wanted: str = "") -> str:
        request = serving_pb.ResolveSpaceRequest(app_id=app_id, base_model=wanted)
        answer = await rig.serving.ResolveSpace(request, metadata=rig.token("dataset", app_id))
        return answer.base_model.name

    assert await resolve(TRASH) == "baseModels/plain"
    await import_pack(rig, files_of(variant(tmp_path / "pack", id="better", rank=PLAIN.rank + 100)))
    assert await resolve(TRASH) == "baseModels/plain"
    assert await resolve(OTHER) == "baseModels/better"
    assert await resolve(9, "plain") == "baseModels/plain"
    refused = await refusal(resolve(10, "none"))
    assert (refused.reason, refused.metadata["name"]) == ("BASE_MODEL_NOT_INSTALLED", "none")
    assert await resolve(10, "better") == "baseModels/better"


async def test_base_model_is_deleted_unless_an_app_uses_it(rig: Rig, tmp_path: Path, s3):
    made = await import_pack(rig, files_of(variant(tmp_path / "pack", id="mine")))
    request = pb.DeleteBaseModelRequest(name=made.name)
    resolve = serving_pb.ResolveSpaceRequest(app_id=TRASH, base_model="plain")
    await rig.serving.ResolveSpace(resolve, metadata=rig.token("dataset", TRASH))
    await rig.base_models.DeleteBaseModel(request, metadata=rig.key(OPERATOR_KEY))
    assert not list(s3.client.list_objects(s3.name, f"packs/{made.space}/", recursive=True))
    refused = await refusal(rig.base_models.DeleteBaseModel(request, metadata=rig.key(OPERATOR_KEY)))
    assert refused.reason == "BASE_MODEL_NOT_FOUND"
    request.name = "baseModels/plain"
    refused = await refusal(rig.base_models.DeleteBaseModel(request, metadata=rig.key(OPERATOR_KEY)))
    assert refused.reason == "BASE_MODEL_IN_USE"


async def test_classifier_of_a_pack_becomes_a_public_model(make_rig, shared: Path, tmp_path: Path):
    builder = pytest.importorskip("lensmith_vision.pack_builder")
    packs = tmp_path / "packs"
    builder.build_pack(builder.read_source(shared / "models" / "nsfw-mobilenetv2"), packs / "nsfw")
    async with make_rig(pack_folders=str(packs)) as rig:
        base = (await _list(rig)).base_models[-1]
        assert base.model.startswith("apps/main/models/")
        own_id = base.model.rpartition("/")[2]
        model = await until(lambda: _model_of_main(rig, base.model))
        assert (model.imported, model.type, model.production_version) == (True, 1, 1)
        request = serving_pb.ResolveModelRequest(app_id=1, model=own_id)
        served = await rig.serving.ResolveModel(request, metadata=rig.token("inference"))
        card = load_card(packs / "nsfw")
        assert served.head_artefact == ""
        assert len(served.concepts) == len(set(served.concepts)) == card.logits.dim - len(card.logits.ignored)
        train = model_pb.TrainModelRequest(name=base.model)
        refused = await refusal(rig.models.TrainModel(train, metadata=rig.key(OPERATOR_KEY)))
        assert refused.reason == "MODEL_IS_IMPORTED"
        delete = pb.DeleteBaseModelRequest(name=base.name)
        await rig.base_models.DeleteBaseModel(delete, metadata=rig.key(OPERATOR_KEY))
        assert (await refusal(_model_of_main(rig, base.model))).reason == "MODEL_NOT_FOUND"


async def _model_of_main(rig: Rig, name: str):
    """Any key reads the public app."""
    return await rig.models.GetModel(model_pb.GetModelRequest(name=name), metadata=rig.key())


def test_concept_ids_are_unique_and_safe_when_labels_are_not():
    ids = concept_ids(["crane", "crane", "a/b", "x" * 300, "x" * 301, "\n", "crane-2"])
    assert len(set(ids)) == 7
    assert ids[:3] == ["crane", "crane-2", "a-b"]
    assert all(0 < len(one) <= 128 and "/" not in one for one in ids)
