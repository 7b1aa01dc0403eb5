"""Pulling messages of a consumer, and telling an idle stream from a lost consumer."""

from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext

from lensmith_platform.cancellation import ending_when_cancelled

_WAIT_SECONDS = 2.0


async def pull(subscription: JetStreamContext.PullSubscription, most: int) -> list[Msg]:
    """Wait up to two seconds for messages; none is an answer too.

    Raises:
        nats.errors.Error: the consumer is gone, or the server is.
    """
    try:
        # Without heartbeats: the client's second request lasts for what is left of the wait, and once that is less
        # than two heartbeats the server refuses it, which loses what it has just sent until `ack_wait` is over.
        return await ending_when_cancelled(subscription.fetch(most, timeout=_WAIT_SECONDS))
    except (TimeoutError, NatsTimeoutError):
        # Nothing came. The consumer may be gone; asking for it raises then.
        await subscription.consumer_info()
        return []
