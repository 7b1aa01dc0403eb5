"""Which path leads where, within what time, and which pages may call from a browser."""

from collections.abc import Iterator

from lensmith_gateway.contract import Contract, Rpc
from lensmith_gateway.envoy_settings import GATEWAY, TYPES, Config, EnvoySettings

GATEWAY_HTTP = "gateway-http"
"""Name of the cluster of the gateway's plain HTTP."""
CORS = "envoy.filters.http.cors"
LUA = "envoy.filters.http.lua"
TRANSCODER = "envoy.filters.http.grpc_json_transcoder"

_NO_TIMEOUT = "0s"
# Both of gRPC's generic services are answered by the gateway, for the whole platform.
_GATEWAY_GRPC = ("/grpc.reflection.v1.", "/grpc.reflection.v1alpha.", "/grpc.health.v1.")


def virtual_host(contract: Contract, settings: EnvoySettings) -> Config:
    """The one virtual host: gRPC by path, the gateway's own paths, then REST.

    Only RPCs of the contract's public services are routed; what is not in it is answered 404 by Envoy itself.
    """
    host: Config = {
        "name": "public",
        "domains": ["*"],
        # JSON bodies are checked whole before they are transcoded.
        "request_body_buffer_limit": settings.max_body_bytes,
        "routes": [*_grpc_routes(contract, settings), *_http_routes(), *_remaining_routes()],
    }
    if settings.cors_origins:
        host["typed_per_filter_config"] = {CORS: _cors_policy(settings)}
    return host


def _grpc_routes(contract: Contract, settings: EnvoySettings) -> Iterator[Config]:
    """Routes by gRPC path, which transcoded REST requests have by then too: streams and predictions, then the rest."""
    for rpc in contract.rpcs:
        if rpc.client_streaming or rpc.server_streaming or rpc.owner == "inference":
            yield _route({"path": rpc.grpc_path}, rpc.owner, _seconds(rpc, settings), streaming=_is_stream(rpc))
    for service in contract.services:
        owner = next(rpc.owner for rpc in contract.rpcs if rpc.service == service)
        yield _route({"prefix": f"/{service}/"}, owner, f"{settings.call_seconds}s")
    for prefix in _GATEWAY_GRPC:
        yield _route({"prefix": prefix}, GATEWAY, _NO_TIMEOUT, streaming=True)


def _is_stream(rpc: Rpc) -> bool:
    return rpc.client_streaming or rpc.server_streaming


def _seconds(rpc: Rpc, settings: EnvoySettings) -> str:
    return _NO_TIMEOUT if _is_stream(rpc) else f"{settings.predict_seconds}s"


def _http_routes() -> Iterator[Config]:
    """What the gateway answers itself; the transcoder and the check before it keep out."""
    for path in ("/", "/docs", "/openapi.json", "/healthz"):
        yield _plain({"path": path}, "30s")
    yield _plain({"path_separated_prefix": "/images"}, "60s")
    yield _plain({"safe_regex": {"regex": "/v1/apps/[^/]+/models/[^/]+/versions/[^/]+/report"}}, "120s")
    # The gateway has limits of its own; uploads stream through without being kept here.
    yield _plain({"safe_regex": {"regex": "/v1/apps/[^/]+/uploads"}}, "300s")


def _plain(match: Config, timeout: str) -> Config:
    route = _route(match, GATEWAY_HTTP, timeout)
    route["typed_per_filter_config"] = {
        name: {"@type": f"{TYPES}.config.route.v3.FilterConfig", "disabled": True} for name in (LUA, TRANSCODER)
    }
    return route


def _remaining_routes() -> Iterator[Config]:
    """Where REST requests stand until the transcoder has given them a gRPC path, and where the rest ends."""
    not_grpc = {"name": "content-type", "string_match": {"prefix": "application/grpc"}, "invert_match": True}
    # Limits and CORS of a request that is not transcoded yet are those of this route. Nothing gets through it: what
    # the filters do not know they refuse.
    yield _route(
        {"prefix": "/v1/", "headers": [{**not_grpc, "treat_missing_header_as_empty": True}]}, GATEWAY_HTTP, "30s"
    )
    yield {"match": {"prefix": "/"}, "direct_response": {"status": 404}}


def _route(match: Config, cluster: str, timeout: str, *, streaming: bool = False) -> Config:
    action: Config = {
        "cluster": cluster,
        "timeout": timeout,
        # Only what certainly reached nobody is sent again, so that no write happens twice.
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream",
            "num_retries": 3,
            "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"},
        },
    }
    if streaming:
        # Between two changes of a version there may be silence for long.
        action["idle_timeout"] = _NO_TIMEOUT
    return {"match": match, "route": action}


def _cors_policy(settings: EnvoySettings) -> Config:
    everybody = "*" in settings.cors_origins
    origins: list[Config] = (
        [{"safe_regex": {"regex": ".*"}}] if everybody else [{"exact": origin} for origin in settings.cors_origins]
    )
    return {
        "@type": f"{TYPES}.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": origins,
        "allow_methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
        "allow_headers": "authorization, content-type, x-grpc-web, x-user-agent, grpc-timeout, traceparent, tracestate",
        "expose_headers": "grpc-status, grpc-message, grpc-status-details-bin, x-request-id",
        # Keys travel in a header that a page must set itself; there are no cookies to lend.
        "allow_credentials": False,
        "max_age": "3600",
    }
