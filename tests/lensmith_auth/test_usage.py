"""Usage: what services report is counted once, and each app sees its own."""

import uuid
from datetime import UTC, datetime

import grpc

from lensmith_api.internal.v1.events_pb2 import Event, UsageEntry, UsageRecorded
from lensmith_api.v1.usage_service_pb2 import QueryUsageRequest, QueryUsageResponse
from lensmith_platform.bus import connect
from tests.conftest import Database
from tests.lensmith_auth.conftest import Caller
from tests.polling import until
from tests.rows import fetch
from tests.rpc_errors import failing


async def test_a_repeated_report_counts_once(operator: Caller, database: Database, nats_url: str) -> None:
    owner = operator.with_secret((await operator.create_app("trash")).secret)
    app_id = (await fetch(database.admin_url, "SELECT app_id FROM auth.apps WHERE name = 'trash'"))[0]["app_id"]
    day = datetime.now(UTC).date().isoformat()
    entry = UsageEntry(app_id=app_id, operation="predict", model="apps/trash/models/m", key_uid="k", count=7, day=day)
    event = Event(id=str(uuid.uuid4()), usage_recorded=UsageRecorded(entries=[entry]))
    other = Event(id=str(uuid.uuid4()), usage_recorded=UsageRecorded(entries=[entry]))
    async with await connect(nats_url, wait_seconds=10) as bus:
        await bus.publish_message("usage.recorded", event.SerializeToString(), "first")
        # Another message with the same event, as a publisher sends it whose first acknowledgement was lost.
        await bus.publish_message("usage.recorded", event.SerializeToString(), "again")
        await bus.publish_message("usage.recorded", other.SerializeToString(), "other")

    async def usage() -> QueryUsageResponse:
        return await owner.usage.QueryUsage(QueryUsageRequest(parent="apps/trash"), metadata=owner.metadata)

    async def drained() -> bool:
        return len(await fetch(database.admin_url, "SELECT 1 FROM auth.processed_events")) == 2

    await until(drained)
    answer = await usage()
    assert answer.total == 14
    assert [(row.day, row.operation, row.count) for row in answer.rows] == [(day, "predict", 14)]


async def test_a_period_that_ends_before_it_begins_is_refused(operator: Caller) -> None:
    owner = operator.with_secret((await operator.create_app("trash")).secret)
    request = QueryUsageRequest(parent="apps/trash")
    request.start_time.GetCurrentTime()
    request.end_time.FromDatetime(datetime(2020, 1, 1))
    with failing(grpc.StatusCode.INVALID_ARGUMENT, "PERIOD_INVALID"):
        await owner.usage.QueryUsage(request, metadata=owner.metadata)
