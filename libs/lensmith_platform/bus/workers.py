"""Whether any process does the work of a durable consumer."""

import asyncio

import nats.js.errors

from lensmith_platform.bus.connection import UNREACHABLE, Bus
from lensmith_platform.bus.streams import stream_of
from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.errors import DependencyUnavailableError

_LOOK_SECONDS = 0.1


async def is_worked(bus: Bus, durable: str, subject: str, wait_seconds: float) -> bool:
    """Tell whether a process waits for the work of a `WorkConsumer`, or has some of it in hand.

    One that died with work in hand counts until that work is given to another.

    Args:
        bus: the connection.
        durable: name of the consumer.
        subject: of its work.
        wait_seconds: how long to look for somebody, who may be about to ask for more.

    Raises:
        DependencyUnavailableError: NATS is away, so nobody knows (`NATS_UNAVAILABLE`).
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_seconds
    while True:
        heed_cancellation()
        try:
            info = await bus.jetstream().consumer_info(stream_of(subject), durable)
        except nats.js.errors.NotFoundError:
            pass  # Nobody ever was.
        except UNREACHABLE as error:
            raise DependencyUnavailableError("NATS_UNAVAILABLE", "The bus does not say who works.") from error
        else:
            if info.num_waiting or info.num_ack_pending:
                return True
        if loop.time() >= until:
            return False
        await asyncio.sleep(_LOOK_SECONDS)
