"""UsageService: what an app has used."""

from datetime import UTC, date, datetime, timedelta

from grpc.aio import ServicerContext

from lensmith_api.v1 import usage_service_pb2 as pb
from lensmith_api.v1.usage_service_pb2_grpc import UsageServiceServicer
from lensmith_auth.usage_store import UsageStore
from lensmith_platform import timestamps
from lensmith_platform.db import Database
from lensmith_platform.errors import InvalidInputError
from lensmith_platform.principal import addressed_app

DEFAULT_DAYS = 30
MOST_DAYS = 366


class UsageServicer(UsageServiceServicer):
    """Serves usage."""

    def __init__(self, tenant: Database) -> None:
        self._tenant = tenant

    async def QueryUsage(
        self, request: pb.QueryUsageRequest, context: ServicerContext[pb.QueryUsageRequest, pb.QueryUsageResponse]
    ) -> pb.QueryUsageResponse:
        """Sum the operations of an app by day, kind, model and key."""
        app_id = addressed_app().app_id
        first, last = _days(request)
        async with self._tenant.transaction(app_id) as connection:
            counts = await UsageStore(connection).query(app_id, first, last)
        return pb.QueryUsageResponse(
            rows=[
                pb.UsageRow(
                    day=row.day.isoformat(),
                    operation=row.operation,
                    model=row.model,
                    key_uid=row.key_uid,
                    count=row.count,
                )
                for row in counts
            ],
            total=sum(row.count for row in counts),
        )


def _days(request: pb.QueryUsageRequest) -> tuple[date, date]:
    """First and last day asked for, both included."""
    end = timestamps.from_proto(request.end_time, "end_time") if request.HasField("end_time") else datetime.now(UTC)
    if request.HasField("start_time"):
        start = timestamps.from_proto(request.start_time, "start_time")
    else:
        # Python's time begins with the year 1.
        start = end - min(timedelta(days=DEFAULT_DAYS), end - datetime.min.replace(tzinfo=UTC))
    if start >= end:
        raise _bad_period("start_time", "must be before end_time")
    if end - start > timedelta(days=MOST_DAYS):
        raise _bad_period("start_time", f"lies more than {MOST_DAYS} days before end_time")
    # end_time itself does not count: midnight belongs to the day that begins.
    return start.date(), (end - timedelta(microseconds=1)).date()


def _bad_period(field: str, why: str) -> InvalidInputError:
    return InvalidInputError("PERIOD_INVALID", f"{field} {why}", field_violations=[(field, why)])
