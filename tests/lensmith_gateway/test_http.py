"""Image links, health, documentation and reflection of a running gateway."""

import time
import uuid
from pathlib import Path

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from lensmith_api.v1.input_service_pb2 import GetImageRequest
from lensmith_gateway.contract import OWNERS
from lensmith_gateway.images import ImageLinkReader
from lensmith_platform.clock import SystemClock
from lensmith_platform.errors import UnauthenticatedError
from lensmith_platform.service_auth import TokenSigner, make_key_pair
from tests.lensmith_gateway.conftest import Rig, picture


async def link_to(rig: Rig, data: bytes) -> str:
    """Upload a picture and ask dataset for its link."""
    answer = await rig.http.post("/v1/apps/trash/uploads", headers=rig.headers, files={"image": ("a", data)})
    name = answer.json()["results"][0]["input"]["name"]
    return str((await rig.inputs.GetImage(GetImageRequest(name=name), metadata=rig.metadata)).path)


async def test_bytes_are_served_for_looking_only_when_link_is_good(rig: Rig) -> None:
    data = picture(1, kind="PNG")
    path = await link_to(rig, data)
    response = await rig.http.get(path)
    assert (response.status_code, response.content) == (200, data)
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert response.headers["content-disposition"].startswith("inline; filename=")
    assert response.headers["cache-control"].startswith("private, max-age=")
    again = await rig.http.get(path, headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def forged(directory: Path, key: object = None, **claims: object) -> str:
    """A link like dataset's, with something wrong."""
    private = key or (directory / "dataset.pem").read_bytes()
    good = {
        "iss": "dataset",
        "aud": "gateway",
        "sub": f"apps/{uuid.uuid4()}/blobs/{'0' * 64}",
        "mime": "image/png",
        "exp": int(time.time()) + 60,
    }
    merged = {name: value for name, value in (good | claims).items() if value is not None}
    return jwt.encode(merged, private, algorithm="EdDSA")  # type: ignore[arg-type]  # a key in either form


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Keys of dataset and gateway."""
    for service in ("dataset", "gateway"):
        make_key_pair(service, tmp_path / f"{service}.pem", tmp_path / "keys")
    return tmp_path


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": 1}, "LINK_EXPIRED"),
        ({"exp": None}, "LINK_INVALID"),
        ({"aud": "dataset"}, "LINK_INVALID"),
        ({"iss": "auth"}, "LINK_INVALID"),
        ({"sub": "models/secret.bin"}, "LINK_INVALID"),
        ({"sub": "apps/../../etc/passwd"}, "LINK_INVALID"),
        ({"mime": None}, "LINK_INVALID"),
    ],
)
def test_link_is_refused_when_a_claim_is_wrong(keys: Path, claims: dict[str, object], reason: str) -> None:
    with pytest.raises(UnauthenticatedError) as refusal:
        ImageLinkReader(keys / "keys", SystemClock()).read(forged(keys, **claims))
    assert refusal.value.reason == reason


def test_link_is_refused_when_somebody_else_signed_it(keys: Path) -> None:
    links = ImageLinkReader(keys / "keys", SystemClock())
    assert links.read(forged(keys)).seconds_left > 0
    unsigned = {"iss": "dataset", "aud": "gateway", "sub": "x", "exp": 2**33}
    for token in (
        forged(keys, Ed25519PrivateKey.generate()),
        forged(keys, (keys / "gateway.pem").read_bytes()),
        jwt.encode(unsigned, "secret" * 8, algorithm="HS256"),
        jwt.encode(unsigned, None, algorithm="none"),
        TokenSigner("dataset", keys / "dataset.pem").token("gateway"),
        "nonsense",
    ):
        with pytest.raises(UnauthenticatedError) as refusal:
            links.read(token)
        assert refusal.value.reason == "LINK_INVALID"


async def test_image_is_gone_when_its_bytes_are(rig: Rig) -> None:
    response = await rig.http.get(f"/images/{forged(rig.directory)}")
    assert (response.status_code, response.json()["details"][0]["reason"]) == (404, "IMAGE_GONE")


async def test_bytes_are_handed_out_as_a_file_when_they_are_no_picture_type(rig: Rig) -> None:
    path = await link_to(rig, picture(1))
    claims = jwt.decode(path.rpartition("/")[2], options={"verify_signature": False})
    response = await rig.http.get(f"/images/{forged(rig.directory, sub=claims['sub'], mime='text/html')}")
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"].startswith("attachment")


async def test_health_names_every_service_when_asked(rig: Rig) -> None:
    response = await rig.http.get("/healthz")
    assert response.status_code == 200, response.text
    assert response.json() == {
        "status": "SERVING",
        "services": dict.fromkeys(("gateway", "auth", "dataset", "registry", "inference"), "SERVING"),
    }


async def test_pages_are_served_when_visited(rig: Rig) -> None:
    page = await rig.http.get("/", follow_redirects=True)
    assert page.url.path == "/docs"
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'sha256-" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert (await rig.http.get("/openapi.json")).json()["openapi"].startswith("3.1")
    for method, path in (("GET", "/nope"), ("DELETE", "/docs"), ("GET", "/v1/apps/x/uploads"), ("GET", "/docs/")):
        response = await rig.http.request(method, path)
        assert response.status_code in {404, 405}
        assert response.json()["details"][0]["reason"] == "ROUTE_NOT_FOUND"


async def test_reflection_tells_of_the_whole_public_api_when_asked(rig: Rig) -> None:
    request = reflection_pb2.ServerReflectionRequest
    async with grpc.aio.insecure_channel(rig.target) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([request(list_services=""), request(file_containing_symbol="lensmith.v1.ModelService")])
        )
        listed, described = [answer async for answer in call]
    names = {service.name for service in listed.list_services_response.service}
    assert {f"lensmith.v1.{name}" for name in OWNERS} <= names
    assert not any("internal" in name for name in names)
    assert described.file_descriptor_response.file_descriptor_proto
