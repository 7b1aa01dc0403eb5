"""Pulling the messages of a consumer, and telling an idle stream from a lost consumer."""

from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext

from lensmith_platform.cancellation import ending_when_cancelled

_WAIT_SECONDS = 2.0


async def pull(subscription: JetStreamContext.PullSubscription) -> Msg | None:
    """Wait up to two seconds for a message; none is an answer too.

    Raises:
        nats.errors.Error: the consumer is gone, or the server is.
    """
    try:
        # One by one: with several the client waits for the rest of them until the server says that there are none,
        # which it does not say while an earlier request, whose end crossed the client's own, is still open. A message
        # that was there would be handed over up to two seconds late.
        messages = await ending_when_cancelled(subscription.fetch(1, timeout=_WAIT_SECONDS))
    except (TimeoutError, NatsTimeoutError):
        # Nothing came. The consumer may be gone; asking for it raises then.
        await subscription.consumer_info()
        return None
    return messages[0]
