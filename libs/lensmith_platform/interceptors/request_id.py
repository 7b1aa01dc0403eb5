"""Link 1: gives every request an id, which stands in every log line and in the answer."""

from lensmith_platform.interceptors.chain import Exchange, Link
from lensmith_platform.telemetry import REQUEST_ID_KEY, request_id_from


class RequestId(Link):
    """Takes over the caller's id where it is fit to be logged; else makes one."""

    name = "request_id"

    async def before(self, exchange: Exchange) -> None:
        """Choose the id and send it back in the trailing metadata."""
        exchange.request_id = request_id_from(exchange.metadata.get(REQUEST_ID_KEY))
        exchange.context.set_trailing_metadata(((REQUEST_ID_KEY, exchange.request_id),))
