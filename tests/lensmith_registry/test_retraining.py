"""Training by itself after so many new annotations."""

import asyncpg
from google.protobuf.field_mask_pb2 import FieldMask

from lensmith_api.internal.v1 import serving_service_pb2 as serving_pb
from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_pb2 import Model
from lensmith_registry import retraining_store, store
from tests.lensmith_registry.conftest import MakeRig
from tests.lensmith_registry.rig import DIM, MULTI_CLASS, TRASH, Rig
from tests.polling import until

TWO = {"glass": 6, "metal": 6}


async def looked(rig: Rig, times: int = 3) -> None:
    """Wait until dataset was asked so many times more."""
    before = rig.dataset.calls["CountNewAnnotations"]

    async def asked() -> bool:
        return rig.dataset.calls["CountNewAnnotations"] >= before + times

    await until(asked)


async def indexed(rig: Rig) -> None:
    """Let the app have its space, as it has when dataset has embedded its first input."""
    request = serving_pb.ResolveSpaceRequest(app_id=TRASH)
    await rig.serving.ResolveSpace(request, metadata=rig.token("dataset", TRASH))


async def until_versions(rig: Rig, count: int) -> Model:
    async def there() -> Model | None:
        model = await rig.model("sorter")
        return model if model.latest_version >= count else None

    return await until(there)


async def test_training_by_itself_waits_when_as_many_versions_of_the_app_wait_as_may(make_rig: MakeRig):
    async with make_rig(retrain_seconds=0.05, max_queued_versions=1) as rig:
        waiting = await rig.queued("another")
        await rig.create("sorter", Model(type=MULTI_CLASS, retrain_after_annotations=10))
        counted = rig.dataset.calls["CountTrainingData"]
        await looked(rig)
        model = await rig.model("sorter")
        assert (model.latest_version, model.HasField("retrain_error")) == (0, False)
        assert rig.dataset.calls["CountTrainingData"] == counted, "nothing is judged that cannot be queued"
        await rig.models.CancelModelVersion(pb.CancelModelVersionRequest(name=waiting.name), metadata=rig.key())
        await until_versions(rig, 1)


async def test_version_is_queued_once_for_each_so_many_annotations_when_it_is_looked_often(make_rig: MakeRig):
    async with make_rig(retrain_seconds=0.05) as rig:
        rig.dataset.add_classes(TRASH, DIM, TWO)
        await indexed(rig)
        await rig.create("sorter", Model(type=MULTI_CLASS, retrain_after_annotations=10))
        # A model without any version learns from what is there.
        await until_versions(rig, 1)
        rig.dataset.add_classes(TRASH, DIM, {"glass": 20}, seed=1)
        first = await rig.version("apps/trash/models/sorter/versions/1")
        assert first.note == "by itself, after 12 new annotations"
        assert (await rig.model("sorter")).latest_version == 1, "never while a version is in training"
        await rig.complete(await rig.claim(first))
        model = await until_versions(rig, 2)
        assert model.latest_version == 2
        second = await rig.version("apps/trash/models/sorter/versions/2")
        assert second.note == "by itself, after 20 new annotations"
        await rig.complete(await rig.claim(second))
        await rig.until_state(second.name, "READY")
        rig.dataset.add_classes(TRASH, DIM, {"metal": 9}, seed=2)
        await looked(rig)
        assert (await rig.model("sorter")).latest_version == 2
        rig.dataset.pending = 1
        rig.dataset.add_classes(TRASH, DIM, {"metal": 1}, seed=3)
        await looked(rig)
        assert (await rig.model("sorter")).latest_version == 2, "what has no vector yet is nothing to learn from"
        rig.dataset.pending = 0
        await until_versions(rig, 3)


async def test_annotation_that_waits_for_its_vector_counts_for_the_version_after(make_rig: MakeRig):
    async with make_rig(retrain_seconds=0.05) as rig:
        rig.dataset.add_classes(TRASH, DIM, TWO)
        await indexed(rig)
        rig.dataset.pending = 2
        await rig.create("sorter", Model(type=MULTI_CLASS, retrain_after_annotations=10))
        await until_versions(rig, 1)
        first = await rig.version("apps/trash/models/sorter/versions/1")
        assert first.note == "by itself, after 10 new annotations"
        await rig.complete(await rig.claim(first))
        await rig.until_state(first.name, "READY")
        rig.dataset.pending = 0
        rig.dataset.add_classes(TRASH, DIM, {"glass": 7}, seed=1)
        await looked(rig)
        assert (await rig.model("sorter")).latest_version == 1
        rig.dataset.add_classes(TRASH, DIM, {"glass": 1}, seed=2)
        await until_versions(rig, 2)
        second = await rig.version("apps/trash/models/sorter/versions/2")
        assert second.note == "by itself, after 10 new annotations"


async def test_nothing_is_due_any_more_when_a_rival_learnt_from_pictures_that_had_waited(make_rig: MakeRig):
    async with make_rig(retrain_seconds=3600.0) as rig:
        rig.dataset.add_classes(TRASH, DIM, TWO)
        await indexed(rig)
        await rig.create("sorter", Model(type=MULTI_CLASS, retrain_after_annotations=2))

        async def trained(pending: int) -> None:
            rig.dataset.pending = pending
            version = await rig.train("sorter")
            await rig.complete(await rig.claim(version))
            await rig.until_state(version.name, "READY")

        await trained(pending=2)
        connection = await asyncpg.connect(rig.database_url, server_settings={"search_path": "registry,public"})
        try:
            await connection.execute("UPDATE models SET retrain_looked_at = '-infinity'")
            (due,) = await retraining_store.claim(connection, 0.0, 1)
            async with connection.transaction():
                model = await store.lock_model(connection, TRASH, "sorter")
                assert await retraining_store.still_due(connection, model, due)
            await trained(pending=0)
            # Nobody has annotated anything, so that the cursor stays.
            assert await connection.fetchval("SELECT annotations_cursor FROM models") == due.annotations_cursor
            async with connection.transaction():
                model = await store.lock_model(connection, TRASH, "sorter")
                assert not await retraining_store.still_due(connection, model, due)
        finally:
            await connection.close()


async def test_refusal_is_told_once_when_the_data_is_not_fit(make_rig: MakeRig):
    async with make_rig(retrain_seconds=0.05) as rig:
        rig.dataset.add_classes(TRASH, DIM, {"glass": 12})
        await indexed(rig)
        await rig.create("sorter", Model(type=MULTI_CLASS, retrain_after_annotations=10))

        async def refused() -> Model | None:
            model = await rig.model("sorter")
            return model if model.HasField("retrain_error") else None

        model = await until(refused)
        assert "two concepts" in model.retrain_error.message
        judged = rig.dataset.calls["CountTrainingData"]
        await looked(rig, 5)
        assert rig.dataset.calls["CountTrainingData"] == judged, "it is not judged in a loop"
        rig.dataset.add_classes(TRASH, DIM, {"metal": 10}, seed=1)
        model = await until_versions(rig, 1)
        assert not model.HasField("retrain_error")


async def test_counting_begins_anew_when_the_cursor_is_of_another_database(make_rig: MakeRig):
    async with make_rig(retrain_seconds=0.05) as rig:
        ready = await rig.trained()
        await rig.sql("UPDATE registry.models SET annotations_cursor = '99999999'")
        model = Model(name="apps/trash/models/sorter", retrain_after_annotations=5)
        mask = FieldMask(paths=["retrain_after_annotations"])
        await rig.models.UpdateModel(pb.UpdateModelRequest(model=model, update_mask=mask), metadata=rig.key())
        await looked(rig)
        assert (await rig.model("sorter")).latest_version == ready.number, "what is known already is nothing new"
        rig.dataset.add_classes(TRASH, DIM, {"glass": 5}, seed=1)
        await until_versions(rig, 2)
