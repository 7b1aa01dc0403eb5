"""Pictures to label next, and labels that change only if nobody changed them before."""

import asyncpg
import grpc
import pytest

from lensmith_api.internal.v1 import curation_service_pb2 as pb
from lensmith_api.internal.v1.curation_service_pb2_grpc import CurationServiceStub
from lensmith_api.internal.v1.training_data_service_pb2 import TrainingLabel
from lensmith_api.v1.annotation_pb2 import Annotation
from lensmith_dataset.store.curation import Copied, copy_labels
from tests.lensmith_dataset.conftest import APP_IDS, Rig, new_input, reason_of
from tests.pictures import picture

ACTOR = "keys/somebody"
APP = APP_IDS["a"]


@pytest.fixture
async def labelled(rig: Rig) -> Rig:
    """An app with the concepts a, b, c and the inputs x (a), y (nothing), z (c) and a test picture."""
    await rig.create_concepts("a", "b", "c")
    await rig.create(
        new_input(picture(1), "x", annotations=[Annotation(concept="a")]),
        new_input(picture(2), "y"),
        new_input(picture(3), "z", annotations=[Annotation(concept="c")]),
        new_input(picture(4), "t", test=True),
    )
    return rig


async def _uid(rig: Rig, key: str) -> str:
    return str((await rig.get(f"apps/a/inputs/{key}")).uid)


async def _labels(rig: Rig, key: str) -> dict[str, object]:
    found = (await rig.get(f"apps/a/inputs/{key}")).annotations
    return {one.concept: (one.positive, one.actor) for one in found}


def _swap(uid: str, expected: dict[str, bool], desired: dict[str, bool]) -> pb.LabelSwap:
    return pb.LabelSwap(
        input_uid=uid,
        concepts=["a", "b"],
        expected=[TrainingLabel(concept=name, positive=value) for name, value in expected.items()],
        desired=[TrainingLabel(concept=name, positive=value) for name, value in desired.items()],
    )


async def _swap_labels(rig: Rig, *swaps: pb.LabelSwap) -> list[str]:
    stub = CurationServiceStub(rig.channel)
    request = pb.SwapLabelsRequest(app_id=APP_IDS["a"], actor=ACTOR, swaps=swaps)
    response = await stub.SwapLabels(request, metadata=rig.token("registry", APP_IDS["a"]))
    return [reason_of(status) for status in response.statuses]


async def test_labels_are_swapped_once_when_they_are_as_expected(labelled: Rig) -> None:
    x, y, z = [await _uid(labelled, key) for key in "xyz"]
    swaps = _swap(x, {"a": True}, {"b": True}), _swap(y, {}, {"a": False}), _swap(z, {}, {"b": True})

    assert await _swap_labels(labelled, *swaps) == ["", "", ""]
    assert await _swap_labels(labelled, *swaps) == ["", "", ""]

    assert await _labels(labelled, "x") == {"b": (True, ACTOR)}
    assert await _labels(labelled, "y") == {"a": (False, ACTOR)}
    # What is about other concepts is nobody's business here.
    assert (await _labels(labelled, "z")).keys() == {"b", "c"}


async def test_labels_stay_when_they_changed_or_the_input_is_gone(labelled: Rig) -> None:
    x = await _uid(labelled, "x")
    before = await _labels(labelled, "x")

    reasons = await _swap_labels(
        labelled,
        _swap(x, {"b": True}, {}),
        _swap(x, {}, {"b": True}),
        _swap("4be5ba9f-34c8-4cbb-8d8c-0d4c9ee0b2a5", {}, {"a": True}),
    )

    assert reasons == ["LABELS_CHANGED", "LABELS_CHANGED", "INPUT_NOT_FOUND"]
    assert await _labels(labelled, "x") == before


async def test_unlabelled_inputs_come_with_vectors_and_no_others(labelled: Rig) -> None:
    await labelled.indexed()
    stub, token = CurationServiceStub(labelled.channel), labelled.token("trainer", APP_IDS["a"])

    async def uids(limit: int, seed: int = 0) -> list[str]:
        request = pb.StreamUnlabelledInputsRequest(
            app_id=APP_IDS["a"],
            space=labelled.registry.base_model.space,
            concepts=["a", "b"],
            limit=limit,
            seed=seed,
        )
        found = [one async for part in stub.StreamUnlabelledInputs(request, metadata=token) for one in part.inputs]
        assert all(one.vector for one in found)
        return [one.input_uid for one in found]

    expected = {await _uid(labelled, "y"), await _uid(labelled, "z")}
    assert set(await uids(10)) == expected
    assert set(await uids(10, seed=7)) == expected
    assert len(await uids(1)) == 1


async def test_labels_are_copied_and_kept_when_concepts_become_one(labelled: Rig) -> None:
    stub = CurationServiceStub(labelled.channel)
    token = labelled.token("registry", APP_IDS["a"])
    await labelled.create(
        new_input(picture(5), "v", annotations=[Annotation(concept="a"), Annotation(concept="b", positive=False)]),
        new_input(picture(6), "w", annotations=[Annotation(concept="a", positive=False)]),
        new_input(picture(8), "u", annotations=[Annotation(concept="a"), Annotation(concept="b", number=3)]),
    )

    async def copy(source: str, target: str, after: int = 0) -> pb.CopyLabelsResponse:
        request = pb.CopyLabelsRequest(app_id=APP, actor=ACTOR, from_concept=source, to_concept=target, after=after)
        return await stub.CopyLabels(request, metadata=token)

    first = await copy("a", "b")
    # Whoever goes on and whoever starts anew find that all is done.
    beyond, again = await copy("a", "b", first.after), await copy("a", "b")

    assert (beyond.copied_count, beyond.after) == (0, first.after)
    assert (first.copied_count, first.more, again.copied_count, again.more) == (2, False, 0, False)
    for key in ("x", "v"):
        found = await _labels(labelled, key)
        assert found.keys() == {"a", "b"}
        assert found["b"] == (True, ACTOR)
    # A number says more than that something is shown.
    assert (await _labels(labelled, "u"))["b"] != (True, ACTOR)
    # What does not show the one says nothing of the other.
    assert (await _labels(labelled, "w")).keys() == {"a"}
    for source, target, code in (
        ("a", "gone", grpc.StatusCode.NOT_FOUND),
        ("a", "a", grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await copy(source, target)
        assert refused.value.code() is code
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await copy("a", "b", -1)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_steps_of_copying_go_on_where_the_last_one_stopped(labelled: Rig) -> None:
    both = [Annotation(concept="a"), Annotation(concept="c")]
    await labelled.create(*(new_input(picture(20 + n), f"n{n}", annotations=both) for n in range(4)))
    ids = [row["id"] for row in await labelled.sql("SELECT id FROM dataset.inputs WHERE app_id = $1 ORDER BY id", APP)]
    connection = await asyncpg.connect(
        labelled.database.admin_url, server_settings={"search_path": "dataset,public", "lensmith.app": str(APP)}
    )

    async def step(after: int) -> Copied:
        async with connection.transaction():
            return await copy_labels(connection, APP, "c", "b", ACTOR, after, 2)

    try:
        # z and n0 to n3 show c. The second step sees n1 and n2 alone, though n0 waits again behind it.
        assert await step(0) == Copied(2, more=True, last=ids[-4])
        await labelled.sql(
            """DELETE FROM dataset.annotations WHERE input_id = $1 AND concept_id =
               (SELECT id FROM dataset.concepts WHERE app_id = $2 AND own_id = 'b')""",
            ids[-4],
            APP,
        )
        assert await step(ids[-4]) == Copied(2, more=True, last=ids[-2])
        assert await step(ids[-2]) == Copied(1, more=False, last=ids[-1])
        assert await step(ids[-1]) == Copied(0, more=False, last=ids[-1])
        # Begun anew, as after a crash, it does what is left.
        assert await step(0) == Copied(1, more=False, last=ids[-4])
    finally:
        await connection.close()
