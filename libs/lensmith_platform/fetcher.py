"""The guarded fetcher: reads a URL that a user gave, and nothing that the user could not read from the internet.

Every connection, of the first request and of each redirect, resolves the name once, checks all its addresses, and goes
to one of the checked ones: a name that answers differently a moment later changes nothing. TLS still checks the name.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

import httpcore

from lensmith_platform.errors import InvalidInputError

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Finds the addresses of a host name."""

_USER_AGENT = b"lensmith"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
_MAX_URL = 4096
_CONNECT_SECONDS = 3.0
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How far the fetcher goes.

    Attributes:
        max_bytes: most bytes of an answer.
        seconds: most time for everything, redirects included.
        max_redirects: most redirects to follow.
        allow_private: whether addresses that are not public may be read: for tests, and for platforms whose pictures
            lie on a network of their own.
    """

    max_bytes: int = 20 << 20
    seconds: float = 15.0
    max_redirects: int = 5
    allow_private: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was read.

    Attributes:
        data: the bytes.
        final_url: where they came from, after redirects.
        content_type: what the server called them; not to be trusted.
    """

    data: bytes
    final_url: str
    content_type: str


class Fetcher:
    """Reads URLs within limits.

    Args:
        limits: how far to go.
        resolver: finds addresses; the system's by default.
        ssl_context: which certificates to trust; the system's by default.
        public: which addresses may be read where private ones are not allowed; `is_public` by default.
    """

    def __init__(
        self,
        limits: FetchLimits,
        *,
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        public: Callable[[str], bool] | None = None,
    ) -> None:
        self._limits = limits
        allowed = _anything if limits.allow_private else public or is_public
        self._backend = _GuardedBackend(resolver or _resolve, allowed)
        self._ssl = ssl_context or ssl.create_default_context()

    async def fetch(self, url: str) -> Fetched:
        """Read a URL.

        Raises:
            InvalidInputError: `URL_INVALID`, `URL_SCHEME_NOT_ALLOWED`, `URL_CREDENTIALS_NOT_ALLOWED`,
                `URL_UNRESOLVABLE`, `URL_ADDRESS_NOT_PUBLIC`, `URL_UNREACHABLE`, `URL_TIMEOUT`, `URL_NOT_FOUND`,
                `URL_HTTP_ERROR` (both with the HTTP `status` in their metadata), `URL_TOO_LARGE` or
                `URL_TOO_MANY_REDIRECTS`; the message says what and why.
        """
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await self._follow(url)
        except TimeoutError as error:
            raise _refused("URL_TIMEOUT", f"the URL did not answer within {self._limits.seconds:g} s", url) from error

    async def _follow(self, url: str) -> Fetched:
        for _ in range(self._limits.max_redirects + 1):
            _check(url)
            answer = await self._read(url)
            if isinstance(answer, Fetched):
                return answer
            url = answer
        raise _refused("URL_TOO_MANY_REDIRECTS", f"the URL redirects more than {self._limits.max_redirects} times", url)

    async def _read(self, url: str) -> Fetched | str:
        """Read one answer; a redirect is returned as the URL that it leads to."""
        # Identity only: a small answer must not unpack into a large one.
        headers = [(b"User-Agent", _USER_AGENT), (b"Accept", b"image/*,*/*"), (b"Accept-Encoding", b"identity")]
        try:
            async with (
                httpcore.AsyncConnectionPool(ssl_context=self._ssl, network_backend=self._backend) as pool,
                pool.stream("GET", _ascii(url), headers=headers) as response,
            ):
                found = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
                if response.status in _REDIRECTS and "location" in found:
                    return _joined(url, found["location"])
                if response.status != 200:
                    raise _bad_status(url, response.status)
                data = await self._body(url, response, found.get("content-length", ""))
                return Fetched(data, url, found.get("content-type", ""))
        except _RefusedAddressError as error:
            raise _refused(error.reason, str(error), url) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            raise _refused(
                "URL_UNREACHABLE", f"the URL cannot be read: {error or type(error).__name__}", url
            ) from error

    async def _body(self, url: str, response: httpcore.Response, declared: str) -> bytes:
        most = self._limits.max_bytes
        if declared.isdecimal() and int(declared) > most:
            raise _refused("URL_TOO_LARGE", f"the URL holds {declared} bytes; at most {most} are read", url)
        data = bytearray()
        async for chunk in response.aiter_stream():
            data += chunk
            if len(data) > most:
                raise _refused("URL_TOO_LARGE", f"the URL holds more than {most} bytes, the most that are read", url)
        return bytes(data)


class _RefusedAddressError(Exception):
    """A host that must not be connected to, or cannot be found."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only."""

    def __init__(self, resolver: Resolver, allowed: Callable[[str], bool]) -> None:
        self._resolver = resolver
        self._allowed = allowed
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, check all addresses, and connect to the first that answers."""
        try:
            addresses = await self._resolver(host, port)
        except OSError as error:
            raise _RefusedAddressError("URL_UNRESOLVABLE", f"the host {host} cannot be found") from error
        if not addresses:
            raise _RefusedAddressError("URL_UNRESOLVABLE", f"the host {host} has no address")
        if not all(map(self._allowed, addresses)):
            # The address itself is not told: it would map the platform's network.
            raise _RefusedAddressError("URL_ADDRESS_NOT_PUBLIC", f"the host {host} has an address that is not public")
        failure: Exception | None = None
        for address in addresses:
            try:
                # Not all the time for the first one: a host may have an address of a network that does not work here.
                return await self._network.connect_tcp(
                    address, port, min(timeout or _CONNECT_SECONDS, _CONNECT_SECONDS), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise httpcore.ConnectError(f"{host} refuses connections") from failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: no URL leads to a socket."""
        raise _RefusedAddressError("URL_ADDRESS_NOT_PUBLIC", "sockets are not read")

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts."""
        await asyncio.sleep(seconds)


def is_public(address: str) -> bool:
    """Tell whether an address belongs to the internet at large."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # An IPv4 address in IPv6 clothes is judged as what it is.
        if ip.ipv4_mapped or ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        # Tunnels end where the embedded address says; nobody's pictures lie behind one.
        if ip.sixtofour or ip.teredo or ip in _NAT64_LOCAL or ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback)


def _anything(_address: str) -> bool:
    return True


async def _resolve(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise _refused("URL_INVALID", "the URL redirects to something that is no URL", url) from error


def _bad_status(url: str, status: int) -> InvalidInputError:
    reason = "URL_NOT_FOUND" if status in (404, 410) else "URL_HTTP_ERROR"
    error = _refused(reason, f"the URL answered with HTTP status {status}", url)
    error.metadata["status"] = str(status)
    return error


def _check(url: str) -> None:
    """Refuse what is no plain web address."""
    if len(url) > _MAX_URL:
        raise _refused("URL_INVALID", f"the URL is longer than {_MAX_URL} characters", url)
    parts = _split(url)
    if parts.scheme.lower() not in _PORTS:
        raise _refused("URL_SCHEME_NOT_ALLOWED", "only http and https URLs are read", url)
    if parts.username is not None or parts.password is not None:
        raise _refused("URL_CREDENTIALS_NOT_ALLOWED", "a URL must not hold a user name or password", url)
    if not parts.hostname:
        raise _refused("URL_INVALID", "the URL names no host", url)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise _refused("URL_INVALID", f"this is no URL: {error}", url) from error
    return parts


def _ascii(url: str) -> str:
    """The URL as it is sent: host names in Punycode, other letters percent-encoded."""
    parts = _split(url)
    try:
        host = str(parts.hostname).encode("idna").decode()
    except UnicodeError as error:
        raise _refused("URL_INVALID", "the URL names no valid host", url) from error
    host = f"[{host}]" if ":" in host else host
    path = "".join(_quoted(char) for char in (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    return f"{parts.scheme.lower()}://{host}{f':{parts.port}' if parts.port else ''}{path}"


def _quoted(char: str) -> str:
    if "!" <= char <= "~":
        return char
    return "".join(f"%{byte:02X}" for byte in char.encode())


def _refused(reason: str, message: str, url: str) -> InvalidInputError:
    # Without user, password, query and fragment, which may hold secrets.
    shown = re.split("[?#]", re.sub("//[^/?#]*@", "//", url))[0][:200]
    return InvalidInputError(reason, f"{message} ({shown})", metadata={"url": shown})
