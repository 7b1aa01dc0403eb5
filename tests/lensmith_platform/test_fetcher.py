"""The guarded fetcher against a real HTTP server on this machine, which plays the internet and the inside alike."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lensmith_platform.errors import InvalidInputError
from lensmith_platform.fetcher import Fetcher, FetchLimits, is_public

LIMITS = FetchLimits(max_bytes=10_000, seconds=5, max_redirects=3, allow_private=True)


def plain(status: int, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Server:
    """Serves fixed answers by path and remembers the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.hang = asyncio.Event()
        self.port = 0

    def url(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            path = head[0].split(" ")[1]
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            self.requests.append((path, headers))
            if path.startswith("/endless"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
                while True:
                    writer.write(b"x" * 1000)
                    await writer.drain()
            if path == "/hang":
                await self.hang.wait()
            writer.write(self.answers.get(path, plain(404)))
            await writer.drain()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    yield server
    server.hang.set()
    listener.close()
    await listener.wait_closed()


async def refused(fetcher: Fetcher, url: str) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as raised:
        await fetcher.fetch(url)
    return raised.value


def resolver(**addresses: Sequence[str]) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    async def resolve(host: str, _port: int) -> Sequence[str]:
        try:
            return addresses[host.replace(".", "_")]
        except KeyError:
            raise OSError(host) from None

    return resolve


async def test_the_bytes_are_read_when_the_server_answers(server: Server) -> None:
    server.answers["/a%20b.png?x=%C3%BC"] = plain(200, b"picture", Content_Type="image/png")
    fetched = await Fetcher(LIMITS).fetch(server.url("/a b.png?x=ü#part"))
    assert (fetched.data, fetched.content_type) == (b"picture", "image/png")
    headers = server.requests[0][1]
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert headers["accept-encoding"] == "identity"
    assert "authorization" not in headers
    assert "cookie" not in headers


async def test_no_proxy_of_the_environment_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.answers["/"] = plain(200, b"x")
    assert (await Fetcher(LIMITS).fetch(server.url("/"))).data == b"x"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "http://0.0.0.0:{port}/",
        "http://127.1:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f.0.0.1:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://[::]:{port}/",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "http://100.64.0.1/",
        "http://[64:ff9b::7f00:1]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "http://\uff11\uff12\uff17.0.0.1:{port}/",
    ],
)
async def test_an_inside_address_is_refused_however_it_is_written(server: Server, url: str) -> None:
    error = await refused(Fetcher(FetchLimits()), url.format(port=server.port))
    assert error.reason in ("URL_ADDRESS_NOT_PUBLIC", "URL_UNRESOLVABLE", "URL_INVALID")
    assert server.requests == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("0.0.0.0", False),
        ("0.1.2.3", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("100.127.255.255", False),
        ("127.8.8.8", False),
        ("169.254.1.1", False),
        ("172.16.0.1", False),
        ("172.31.255.255", False),
        ("192.0.0.1", False),
        ("192.0.2.1", False),
        ("192.168.1.1", False),
        ("198.18.0.1", False),
        ("203.0.113.5", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::7f00:1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b:1::1", False),
        ("2001:db8::1", False),
        ("2001::1", False),
        ("2002:7f00:1::", False),
        ("2002:808:808::", False),
        ("fc00::1", False),
        ("fd12::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("ff02::1", False),
    ],
)
def test_only_the_internets_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_a_name_is_refused_when_one_of_its_addresses_is_inside() -> None:
    fetcher = Fetcher(FetchLimits(), resolver=resolver(evil_test=["8.8.8.8", "10.0.0.1"]))
    error = await refused(fetcher, "http://evil.test/")
    assert error.reason == "URL_ADDRESS_NOT_PUBLIC"
    assert "10.0.0.1" not in str(error)


async def test_the_checked_address_is_connected_to_when_the_name_changes_its_answer(server: Server) -> None:
    """DNS rebinding: the second answer would lead inside, so there must be no second question."""
    questions: list[str] = []

    async def rebind(host: str, _port: int) -> Sequence[str]:
        questions.append(host)
        return ["127.0.0.1"] if len(questions) == 1 else ["10.0.0.1"]

    server.answers["/"] = plain(200, b"x")
    fetched = await Fetcher(LIMITS, resolver=rebind).fetch(server.url("/", "rebind.test"))
    assert fetched.data == b"x"
    assert questions == ["rebind.test"]
    assert server.requests[0][1]["host"] == f"rebind.test:{server.port}"


async def test_a_redirect_is_checked_when_it_leads_inside(server: Server) -> None:
    """The first host is public by decree of `public`, as a stand-in for the internet; the second one is not."""
    server.answers["/"] = plain(302, Location="http://inside.test/secret")
    names = resolver(first_test=["127.0.0.1"], inside_test=["127.0.0.2"])
    fetcher = Fetcher(FetchLimits(seconds=5), resolver=names, public=lambda address: address == "127.0.0.1")
    assert (await refused(fetcher, server.url("/", "first.test"))).reason == "URL_ADDRESS_NOT_PUBLIC"
    assert [path for path, _ in server.requests] == ["/"]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("file:///etc/passwd", "URL_SCHEME_NOT_ALLOWED"),
        ("gopher://x/", "URL_SCHEME_NOT_ALLOWED"),
        ("http://user:secret@x.test/", "URL_CREDENTIALS_NOT_ALLOWED"),
        ("http://[bad/", "URL_INVALID"),
        ("http://unknown.test/", "URL_UNRESOLVABLE"),
        ("http://x.test:99999/", "URL_INVALID"),
    ],
)
async def test_a_redirect_is_refused_when_its_target_would_be(server: Server, location: str, reason: str) -> None:
    server.answers["/"] = plain(302, Location=location)
    fetcher = Fetcher(LIMITS, resolver=resolver(first_test=["127.0.0.1"]))
    error = await refused(fetcher, server.url("/", "first.test"))
    assert error.reason == reason
    assert "secret" not in str(error)


async def test_redirects_are_followed_so_far(server: Server) -> None:
    for number in range(5):
        server.answers[f"/{number}"] = plain(301 + number % 2, Location=f"/{number + 1}")
    server.answers["/5"] = plain(200, b"end")
    fetched = await Fetcher(LIMITS).fetch(server.url("/2"))
    assert (fetched.data, fetched.final_url) == (b"end", server.url("/5"))
    assert (await refused(Fetcher(LIMITS), server.url("/1"))).reason == "URL_TOO_MANY_REDIRECTS"


@pytest.mark.parametrize(
    ("status", "reason"),
    [(404, "URL_NOT_FOUND"), (410, "URL_NOT_FOUND"), (403, "URL_HTTP_ERROR"), (500, "URL_HTTP_ERROR")],
)
async def test_the_status_is_told_when_it_is_no_success(server: Server, status: int, reason: str) -> None:
    server.answers["/?token=secret"] = plain(status)
    error = await refused(Fetcher(LIMITS), server.url("/?token=secret"))
    assert (error.reason, error.metadata["status"]) == (reason, str(status))
    assert "secret" not in str(error) + str(error.metadata)


async def test_an_answer_is_refused_when_it_is_too_large(server: Server) -> None:
    server.answers["/declared"] = plain(200, b"x" * 10_001)
    server.answers["/fits"] = plain(200, b"x" * 10_000)
    assert (await refused(Fetcher(LIMITS), server.url("/declared"))).reason == "URL_TOO_LARGE"
    assert (await refused(Fetcher(LIMITS), server.url("/endless"))).reason == "URL_TOO_LARGE"
    assert len((await Fetcher(LIMITS).fetch(server.url("/fits"))).data) == 10_000


async def test_a_compressed_answer_is_not_unpacked(server: Server) -> None:
    bomb = gzip.compress(b"\0" * 5_000_000)
    server.answers["/"] = plain(200, bomb, Content_Encoding="gzip")
    assert (await Fetcher(LIMITS).fetch(server.url("/"))).data == bomb


async def test_an_answer_is_refused_when_it_breaks_off_or_is_no_http(server: Server) -> None:
    server.answers["/short"] = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"
    server.answers["/noise"] = b"\xff\xfe\r\n\r\n"
    for path in ("/short", "/noise"):
        assert (await refused(Fetcher(LIMITS), server.url(path))).reason == "URL_UNREACHABLE"


async def test_the_time_is_limited_as_a_whole(server: Server) -> None:
    fetcher = Fetcher(FetchLimits(seconds=0.2, allow_private=True))
    assert (await refused(fetcher, server.url("/hang"))).reason == "URL_TIMEOUT"
    endless = Fetcher(FetchLimits(max_bytes=10**12, seconds=0.2, allow_private=True))
    assert (await refused(endless, server.url("/endless"))).reason == "URL_TIMEOUT"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://x.test/a", "URL_SCHEME_NOT_ALLOWED"),
        ("file:///etc/passwd", "URL_SCHEME_NOT_ALLOWED"),
        ("data:image/png;base64,xx", "URL_SCHEME_NOT_ALLOWED"),
        ("", "URL_SCHEME_NOT_ALLOWED"),
        ("x.test/a.png", "URL_SCHEME_NOT_ALLOWED"),
        ("http://", "URL_INVALID"),
        ("http://user@x.test/", "URL_CREDENTIALS_NOT_ALLOWED"),
        ("http://good.test\\@127.0.0.1/", "URL_CREDENTIALS_NOT_ALLOWED"),
        ("http://[::1/", "URL_INVALID"),
        ("http://x.test:0x50/", "URL_INVALID"),
        (f"http://{'a' * 64}.test/", "URL_INVALID"),
        ("http://a..b/", "URL_INVALID"),
        (f"http://x.test/{'a' * 5000}", "URL_INVALID"),
        ("http://unknown.test/", "URL_UNRESOLVABLE"),
        ("http://nothing.test/", "URL_UNRESOLVABLE"),
        ("http://closed.test:1/", "URL_UNREACHABLE"),
        ("http://x.test/\r\nHost: inside", "URL_UNREACHABLE"),
    ],
)
async def test_the_reason_is_told_when_a_url_cannot_be_read(url: str, reason: str) -> None:
    addresses = resolver(nothing_test=[], closed_test=["127.0.0.1"], x_test=["127.0.0.1"])
    assert (await refused(Fetcher(LIMITS, resolver=addresses), url)).reason == reason


async def test_another_address_is_tried_when_the_first_refuses(server: Server) -> None:
    server.answers["/"] = plain(200, b"x")
    fetcher = Fetcher(LIMITS, resolver=resolver(two_test=["127.0.0.2", "127.0.0.1"]))
    assert (await fetcher.fetch(server.url("/", "two.test"))).data == b"x"


async def test_a_certificate_is_checked_against_the_name_when_the_address_is_pinned(tmp_path: Path) -> None:
    server = Server()
    server.answers["/"] = plain(200, b"secure")
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=_certificate(tmp_path, "right.test"))
    server.port = listener.sockets[0].getsockname()[1]
    trust = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
    names = resolver(right_test=["127.0.0.1"], wrong_test=["127.0.0.1"])
    fetcher = Fetcher(LIMITS, resolver=names, ssl_context=trust)
    assert (await fetcher.fetch(server.url("/", "right.test", "https"))).data == b"secure"
    assert (await refused(fetcher, server.url("/", "wrong.test", "https"))).reason == "URL_UNREACHABLE"
    untrusting = Fetcher(LIMITS, resolver=names)
    assert (await refused(untrusting, server.url("/", "right.test", "https"))).reason == "URL_UNREACHABLE"
    listener.close()
    await listener.wait_closed()


def _certificate(directory: Path, name: str) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "certificate.pem", directory / "key.pem")
    return context
