"""Link 8: whether the caller may do this, on this app."""

from google.protobuf.message import Message

from lensmith_platform.access_table import Method, Rule, app_name
from lensmith_platform.errors import ForbiddenError
from lensmith_platform.interceptors.chain import Exchange, Link
from lensmith_platform.key_cache import Authenticator
from lensmith_platform.principal import MAIN_APP, AppRef, Call, Principal, set_current_call


class Access(Link):
    """Holds the callers to the access that the contract declares, and tells the handler about the call."""

    name = "access"

    def __init__(self, authenticator: Authenticator) -> None:
        """Find apps through this authenticator."""
        self._authenticator = authenticator

    async def before(self, exchange: Exchange) -> None:
        """Decide what needs no request."""
        _check_rule(exchange.method, exchange.principal)
        _tell_handler(exchange)

    async def message(self, exchange: Exchange, request: Message, size: int) -> None:
        """Decide what depends on the app that the request names."""
        method, principal = exchange.method, exchange.principal
        if principal.service_app_id and method.has_app_id:
            _check_token_app(principal, int(getattr(request, "app_id", 0)))
        name = app_name(method, request)
        if name is None:
            return
        exchange.app = await self._addressed_app(method, principal, name)
        if principal.service_app_id:
            _check_token_app(principal, exchange.app.app_id)
        if principal.kind == "key" and method.rule is Rule.SCOPE:
            _check_scopes(method, principal)
        _tell_handler(exchange)

    async def _addressed_app(self, method: Method, principal: Principal, name: str) -> AppRef:
        if principal.kind != "key" or principal.app is None:
            return await self._authenticator.resolve_app(name)
        if name == MAIN_APP:
            if not method.public_app:
                raise ForbiddenError(
                    "MAIN_APP_READ_ONLY",
                    f"apps/{MAIN_APP} belongs to everybody; {method.name} on it is for the operator's key only",
                    metadata={"method": method.name},
                )
            return await self._authenticator.resolve_app(name)
        if name != principal.app.name:
            raise ForbiddenError(
                "KEY_NOT_FOR_APP",
                f"this key belongs to apps/{principal.app.name}, not to apps/{name}",
                metadata={"key_app": f"apps/{principal.app.name}", "app": f"apps/{name}"},
            )
        return principal.app


def _check_rule(method: Method, principal: Principal) -> None:
    if method.rule is Rule.PUBLIC:
        return
    if principal.kind == "service":
        if principal.service not in method.callers:
            raise ForbiddenError(
                "CALLER_NOT_ALLOWED",
                f"the service {principal.service} may not call {method.name}",
                metadata={"service": principal.service or "", "method": method.name},
            )
        return
    if method.rule is Rule.SERVICE:
        raise ForbiddenError(
            "SERVICES_ONLY", f"only services of the platform may call {method.name}", metadata={"method": method.name}
        )
    if method.rule is Rule.OPERATOR and principal.kind != "operator":
        raise ForbiddenError(
            "OPERATOR_ONLY", f"only the operator's key may call {method.name}", metadata={"method": method.name}
        )


def _check_scopes(method: Method, principal: Principal) -> None:
    for scope in (method.scope, *method.also_scopes):
        if not principal.has(scope):
            raise ForbiddenError(
                "SCOPE_MISSING",
                f"this key lacks the scope {scope}, which {method.name} needs",
                metadata={"scope": scope, "method": method.name},
            )


def _check_token_app(principal: Principal, app_id: int) -> None:
    if principal.service_app_id != app_id:
        raise ForbiddenError(
            "TOKEN_NOT_FOR_APP",
            f"the token of the service {principal.service} is for app {principal.service_app_id}, not for {app_id}",
        )


def _tell_handler(exchange: Exchange) -> None:
    set_current_call(Call(exchange.request_id, exchange.principal, exchange.app, exchange.deadline))
