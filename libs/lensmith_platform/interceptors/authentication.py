"""Link 7: who calls."""

from lensmith_platform.access_table import Rule
from lensmith_platform.interceptors.chain import Exchange, Link
from lensmith_platform.key_cache import Authenticator


class Authentication(Link):
    """Finds the principal of every call that is not public."""

    name = "authentication"

    def __init__(self, authenticator: Authenticator) -> None:
        """Ask this authenticator."""
        self._authenticator = authenticator

    async def before(self, exchange: Exchange) -> None:
        """Find out who calls."""
        # Public RPCs answer also while auth is away.
        if exchange.method.rule is not Rule.PUBLIC:
            exchange.principal = await self._authenticator.authenticate(exchange.metadata.get("authorization"))
