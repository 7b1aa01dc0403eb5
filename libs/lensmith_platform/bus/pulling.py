"""Pulling messages of a consumer, and telling an idle stream from a lost consumer."""

from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.errors import FetchTimeoutError

from lensmith_platform.bus.cancellation import heeding_cancellation

_WAIT_SECONDS = 2.0
_HEARTBEAT_SECONDS = 0.5


async def pull(subscription: JetStreamContext.PullSubscription, most: int) -> list[Msg]:
    """Wait up to two seconds for messages; none is an answer too.

    Raises:
        nats.errors.Error: the consumer is gone, or the server is.
    """
    try:
        with heeding_cancellation():
            return await subscription.fetch(most, timeout=_WAIT_SECONDS, heartbeat=_HEARTBEAT_SECONDS)
    except FetchTimeoutError:
        return []  # Heartbeats came: there was nothing to send.
    except (TimeoutError, NatsTimeoutError):
        # Not even a heartbeat. The consumer may be gone; asking for it raises then.
        with heeding_cancellation():
            await subscription.consumer_info()
        return []
