"""Routes without a usable access are not served."""

from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response

from lensmith_api.v1.access_pb2 import Access
from lensmith_gateway.http_access import HttpAccessError, HttpRoute, starlette_route
from lensmith_platform.auth_client import AuthClient
from lensmith_platform.clients import ServiceClients
from lensmith_platform.key_cache import Authenticator
from lensmith_platform.service_auth import TokenSigner, TokenVerifier, make_key_pair


async def answer(_: Request) -> Response:
    return Response()


@pytest.mark.parametrize(
    ("path", "access"),
    [
        ("/x", Access()),
        ("/x", Access(public=False)),
        ("/x", Access(scope="")),
        ("/x", Access(service=True)),
        ("/x", Access(scope="Inputs:Add")),
        ("/x", Access(public=True, also_scopes=["Inputs:Get"])),
    ],
)
def test_route_is_refused_when_its_access_cannot_be_held(tmp_path: Path, path: str, access: Access) -> None:
    make_key_pair("gateway", tmp_path / "gateway.pem", tmp_path / "keys")
    signer = TokenSigner("gateway", tmp_path / "gateway.pem")
    clients = ServiceClients({}, signer, max_message_bytes=1, default_deadline_seconds=1, tracer=None)
    authenticator = Authenticator(AuthClient(clients), TokenVerifier(tmp_path / "keys", "gateway"))
    with pytest.raises(HttpAccessError, match="GET /x"):
        starlette_route(HttpRoute("GET", path, answer, access), authenticator)
