"""The composition root of the gateway: what it is built from, and its life."""

import asyncio
from collections.abc import Mapping, Sequence

import grpc
import grpc.aio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from lensmith_api.v1.access_pb2 import Access
from lensmith_api.v1.inference_service_pb2_grpc import InferenceServiceStub
from lensmith_api.v1.input_service_pb2_grpc import InputServiceStub
from lensmith_api.v1.model_service_pb2_grpc import ModelServiceStub
from lensmith_api.v1.suggestion_service_pb2_grpc import SuggestionServiceStub
from lensmith_gateway.contract import Contract, import_messages, load_contract
from lensmith_gateway.docs_page import docs_page
from lensmith_gateway.health import PlatformHealth
from lensmith_gateway.http_access import HttpRoute, starlette_route
from lensmith_gateway.http_errors import TooLargeError, json_response, on_error, on_http_exception
from lensmith_gateway.http_server import HttpServer, RequestLog
from lensmith_gateway.images import ImageLinkReader, Images
from lensmith_gateway.multipart import UploadLimits
from lensmith_gateway.openapi import openapi_document, openapi_json
from lensmith_gateway.report import endpoint as report_endpoint
from lensmith_gateway.report.sources import Stubs
from lensmith_gateway.settings import GatewaySettings
from lensmith_gateway.uploads import Uploads
from lensmith_platform.blobs import Blobs
from lensmith_platform.errors import LensmithError
from lensmith_platform.listener import StartError
from lensmith_platform.platform import Platform
from lensmith_platform.settings import FRAMING_BYTES
from lensmith_platform.telemetry import REQUEST_ID_KEY, TRACEPARENT_KEY, current_trace

_PUBLIC = Access(public=True)
_CALLED = ("dataset", "registry", "inference")
"""Services that the gateway calls in the name of its own callers."""


class GatewayService:
    """Uploads, pictures by link, documentation, the platform's health; and reflection for the whole public API."""

    name = "gateway"
    service_names: Sequence[str] = ()

    def __init__(
        self, http: HttpServer, address: str, contract: Contract, channels: Sequence[grpc.aio.Channel]
    ) -> None:
        self.http_address = address
        """Where plain HTTP is served."""
        self.reflected_names: Sequence[str] = contract.services
        """Services that reflection tells of: Envoy sends every question here."""
        self._http = http
        self._channels = channels

    def add_to(self, server: grpc.aio.Server) -> None:
        """Nothing but the platform's own: health and reflection."""

    async def ready(self) -> None:
        """Ready as soon as it listens: what it cannot pass on it answers with the reason."""

    async def run(self) -> None:
        """Watch over the HTTP server."""
        await self._http.serve()

    async def close(self) -> None:
        """Finish requests in flight."""
        await self._http.stop()
        for channel in self._channels:
            await channel.close()


async def build(platform: Platform[GatewaySettings]) -> GatewayService:
    """Build the gateway and open its HTTP port.

    Raises:
        StartError: a port cannot be had, or an address is missing.
    """
    settings = platform.settings
    contract = load_contract()
    import_messages(contract)
    for service in _CALLED:
        if service not in settings.addresses:
            name = f"LENSMITH_GATEWAY_ADDRESSES__{service.upper()}"
            raise StartError(f"the gateway needs the address of {service}: set {name}")
    # Not the platform's channels, which sign calls as the gateway: what it asks for is the caller's own doing.
    limit = settings.max_message_bytes + FRAMING_BYTES
    options = [
        ("grpc.max_send_message_length", limit),
        ("grpc.max_receive_message_length", limit),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.enable_http_proxy", 0),
    ]
    channels = {name: grpc.aio.insecure_channel(settings.addresses[name], options=options) for name in _CALLED}
    blobs = await platform.enter(Blobs(settings.s3_url.get_secret_value()))
    http = HttpServer(_http_app(platform, contract, channels, blobs), settings.http_listen, settings.grace_seconds)
    return GatewayService(http, await http.start(), contract, list(channels.values()))


def _http_app(
    platform: Platform[GatewaySettings], contract: Contract, channels: Mapping[str, grpc.aio.Channel], blobs: Blobs
) -> RequestLog:
    routes = [starlette_route(route, platform.authenticator) for route in _routes(platform, contract, channels, blobs)]
    app = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: on_http_exception,
            ClientDisconnect: _on_disconnect,
            LensmithError: on_error,
            Exception: on_error,
        },
    )
    app.router.redirect_slashes = False
    return RequestLog(app, platform.registry)


def _routes(
    platform: Platform[GatewaySettings], contract: Contract, channels: Mapping[str, grpc.aio.Channel], blobs: Blobs
) -> list[HttpRoute]:
    settings = platform.settings
    uploads = _UploadEndpoint(settings, channels["dataset"])
    links = ImageLinkReader(settings.service_keys_dir, platform.clock)
    images = Images(links, blobs)
    registry, dataset, inference = (channels[name] for name in ("registry", "dataset", "inference"))
    stubs = Stubs(
        ModelServiceStub(registry),
        SuggestionServiceStub(registry),
        InputServiceStub(dataset),
        InferenceServiceStub(inference),
    )
    report = report_endpoint.ReportEndpoint(stubs, links, blobs, _passed_on)
    health = PlatformHealth(platform.clients, settings.addresses, settings.health_seconds)
    document = openapi_document(contract)
    page = docs_page(document)
    policy = {"Content-Security-Policy": page.policy, "Referrer-Policy": "no-referrer"}
    return [
        HttpRoute("POST", "/v1/apps/{app}/uploads", uploads.post, Access(scope="Inputs:Add")),
        HttpRoute("GET", report_endpoint.ROUTE, report.get, report_endpoint.ACCESS),
        HttpRoute("GET", "/images/{token}", images.get, _PUBLIC),
        HttpRoute("GET", "/healthz", health.get, _PUBLIC),
        HttpRoute("GET", "/openapi.json", _Fixed(openapi_json(document), "application/json").get, _PUBLIC),
        HttpRoute("GET", "/docs", _Fixed(page.html, "text/html; charset=utf-8", policy).get, _PUBLIC),
        HttpRoute("GET", "/", _to_docs, _PUBLIC),
    ]


class _Fixed:
    """A document that does not change while the process lives."""

    def __init__(self, text: str, media_type: str, headers: Mapping[str, str] | None = None) -> None:
        self._body = text.encode()
        self._media_type = media_type
        self._headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", **(headers or {})}

    async def get(self, _: Request) -> Response:
        return Response(self._body, media_type=self._media_type, headers=self._headers)


class _UploadEndpoint:
    """`POST /v1/apps/{app}/uploads`."""

    def __init__(self, settings: GatewaySettings, dataset: grpc.aio.Channel) -> None:
        self._limits = UploadLimits(settings.max_upload_files, settings.max_upload_bytes, settings.max_file_bytes)
        self._uploads = Uploads(
            InputServiceStub(dataset),
            self._limits,
            batch_bytes=settings.batch_bytes,
            batch_seconds=settings.batch_seconds,
            directory=settings.upload_temp_dir,
        )
        self._room = asyncio.Semaphore(settings.uploads_at_once)

    async def post(self, request: Request) -> Response:
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self._limits.total_bytes:
            raise TooLargeError(
                "UPLOAD_TOO_LARGE",
                f"The upload is larger than the {self._limits.total_bytes >> 20} MiB allowed in one call; "
                "send the files in several.",
                metadata={"limit": "max_upload_bytes", "max": str(self._limits.total_bytes)},
            )
        async with self._room:
            response = await self._uploads.add(
                f"apps/{request.path_params['app']}",
                request.headers.get("content-type", ""),
                request.stream(),
                _passed_on(request),
            )
        return json_response(response)


def _passed_on(request: Request) -> list[tuple[str, str]]:
    """Metadata for a service: the caller's own credentials, so that the service decides and notes who did it."""
    passed = [("authorization", request.headers.get("authorization", ""))]
    if trace := current_trace():
        passed += [(REQUEST_ID_KEY, trace.request_id), (TRACEPARENT_KEY, trace.traceparent)]
    return passed


async def _to_docs(_: Request) -> Response:
    return RedirectResponse("/docs", 307)


async def _on_disconnect(_: Request, __: Exception) -> Response:
    """The client is gone; nobody reads this."""
    return Response(status_code=499)
