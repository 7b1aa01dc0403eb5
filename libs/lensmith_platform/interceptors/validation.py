"""Link 9: whether the request holds what the contract allows. Innermost: strangers learn nothing from it."""

from google.protobuf.message import Message

from lensmith_platform.interceptors.chain import Exchange, Link
from lensmith_platform.rules import check


class Validation(Link):
    """Checks each message of a request by the plan of its type."""

    name = "validation"

    async def message(self, exchange: Exchange, request: Message, size: int) -> None:
        """Check one message."""
        if exchange.method.plan is not None:
            check(exchange.method.plan, request, size)
