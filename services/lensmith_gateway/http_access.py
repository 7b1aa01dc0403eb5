"""Who may call which of the gateway's HTTP routes, declared as the RPCs of the protos declare it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lensmith_api.v1.access_pb2 import Access
from lensmith_gateway.http_server import PRINCIPAL_KEY, ROUTE_KEY
from lensmith_platform.errors import ForbiddenError
from lensmith_platform.key_cache import Authenticator
from lensmith_platform.principal import MAIN_APP, Principal

Endpoint = Callable[[Request], Awaitable[Response]]


class HttpAccessError(Exception):
    """A route cannot be served safely; the text names it."""


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """A route of the gateway.

    Attributes:
        verb: HTTP method.
        path: Starlette's template; the app it is about is the variable `app`.
        endpoint: answers it.
        access: what a caller needs; `scope` needs an `app` in the path.
    """

    verb: str
    path: str
    endpoint: Endpoint
    access: Access


def starlette_route(route: HttpRoute, authenticator: Authenticator) -> Route:
    """A route that lets in only those whom its access names.

    Raises:
        HttpAccessError: it declares no access, or one that this cannot hold.
    """
    rule = route.access.WhichOneof("rule")
    if rule not in {"scope", "any_key", "public", "operator"} or not getattr(route.access, rule):
        raise HttpAccessError(f"{route.verb} {route.path} declares no access that HTTP routes can hold")
    if route.access.also_scopes and rule != "scope":
        raise HttpAccessError(f"{route.verb} {route.path} asks for more scopes, but for none first")
    if rule == "scope" and "{app}" not in route.path:
        raise HttpAccessError(f"{route.verb} {route.path} asks for a scope but names no app")

    async def guarded(request: Request) -> Response:
        request.scope[ROUTE_KEY] = route.path
        if rule != "public":
            principal = await authenticator.authenticate(request.headers.get("authorization"))
            _check(route, principal, request.path_params.get("app"))
            request.scope[PRINCIPAL_KEY] = principal.actor
        return await route.endpoint(request)

    return Route(route.path, guarded, methods=[route.verb])


def _check(route: HttpRoute, principal: Principal, app: str | None) -> None:
    if principal.kind == "operator":
        return
    if principal.kind != "key" or principal.app is None or route.access.operator:
        raise ForbiddenError("OPERATOR_ONLY", f"Only the operator's key may use {route.verb} {route.path}.")
    if app == MAIN_APP and principal.app.name != MAIN_APP and not route.access.public_app:
        raise ForbiddenError(
            "MAIN_APP_READ_ONLY",
            f"apps/{MAIN_APP} belongs to everybody; {route.verb} {route.path} on it is for the operator's key only.",
            metadata={"method": f"{route.verb} {route.path}"},
        )
    if app is not None and app not in (principal.app.name, MAIN_APP):
        raise ForbiddenError(
            "KEY_NOT_FOR_APP",
            f"This key belongs to apps/{principal.app.name}, not to apps/{app}.",
            metadata={"key_app": f"apps/{principal.app.name}", "app": f"apps/{app}"},
        )
    needed = [scope for scope in (route.access.scope, *route.access.also_scopes) if scope]
    for scope in needed:
        if principal.has(scope):
            continue
        raise ForbiddenError(
            "SCOPE_MISSING",
            f"This key lacks the scope {scope}, which {route.verb} {route.path} needs.",
            metadata={"scope": scope, "method": f"{route.verb} {route.path}"},
        )
