"""What is counted, and who pays."""

import asyncio
from collections import Counter
from pathlib import Path

import nats

from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_api.v1.inference_service_pb2 import EmbedRequest, PredictRequest
from lensmith_vision.pack import builtin_pack
from tests.lensmith_inference.conftest import APP_A, APP_B, OTHER_SECRET, Rig, rig_of
from tests.lensmith_inference.test_predict import ask, queries
from tests.pictures import picture

Entry = tuple[int, str, str, str]


async def counted(rig: Rig, nats_url: str, expected: Counter[Entry]) -> Counter[Entry]:
    """Listen to usage until as much is counted as expected."""
    client = await nats.connect(nats_url)
    found: Counter[Entry] = Counter()
    seen: set[str] = set()
    try:
        jetstream = client.jetstream()
        subscription = await jetstream.subscribe("usage.recorded", ordered_consumer=True)
        while found.total() < expected.total():
            message = await subscription.next_msg(timeout=20)
            event = Event.FromString(message.data)
            if event.id not in seen:
                seen.add(event.id)
                for entry in event.usage_recorded.entries:
                    found[entry.app_id, entry.operation, entry.model, entry.key_uid] += entry.count
        await subscription.unsubscribe()
    finally:
        await client.close()
    return found


async def test_only_answered_pictures_are_paid_by_the_asking_app_when_models_are_asked(
    tmp_path: Path, nats_url: str
) -> None:
    async with rig_of(tmp_path, nats_url, [builtin_pack()]) as rig:
        rig.add_model("sorter")
        rig.add_model("general", app="main")
        await ask(rig, picture(1), b"broken", picture(2))
        await asyncio.gather(*(ask(rig, picture(1)) for _ in range(4)))
        public = PredictRequest(model="apps/main/models/general", inputs=queries(picture(1)))
        await rig.stub.Predict(public, metadata=rig.key(OTHER_SECRET))
        vectors = EmbedRequest(parent="apps/a", inputs=queries(picture(1), picture(2)))
        await rig.stub.Embed(vectors, metadata=rig.key())
        await rig.stub.Embed(vectors, metadata=rig.token("dataset", APP_A))
        expected = Counter(
            {
                (APP_A, "predict", "apps/a/models/sorter", "key-of-a"): 6,
                (APP_B, "predict", "apps/main/models/general", "key-of-b"): 1,
                (APP_A, "embed", "", "key-of-a"): 2,
            }
        )
        assert await counted(rig, nats_url, expected) == expected
