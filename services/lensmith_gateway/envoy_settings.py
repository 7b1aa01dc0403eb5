"""What may be chosen about Envoy; everything else follows from the API itself."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lensmith_gateway.contract import OWNERS

MEBIBYTE = 1024 * 1024
TYPES = "type.googleapis.com/envoy"
"""Beginning of the names of Envoy's configuration types."""

Config = dict[str, object]
"""A part of Envoy's configuration as plain data."""

GATEWAY = "gateway"
TARGETS = (*sorted(set(OWNERS.values())), GATEWAY)
"""The gRPC servers that Envoy must know: one for each owner of a public service, and the gateway's own."""


class EnvoySettingsError(Exception):
    """A setting makes no usable or no safe Envoy; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where something listens: a host and port, or a unix socket."""

    host: str = ""
    port: int = 0
    socket: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `unix:/path`, `host:port` or `[::1]:port`.

        Raises:
            EnvoySettingsError: it is none of these.
        """
        if text.startswith("unix:/"):
            return cls(socket=text.removeprefix("unix:"))
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise EnvoySettingsError(f"{text!r} is not an address: write unix:/path or host:port.")
        return cls(host=host.strip("[]"), port=int(port))

    @property
    def is_ip(self) -> bool:
        """Whether the host is an address rather than a name."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    @property
    def is_private(self) -> bool:
        """Whether only this machine can reach it."""
        return bool(self.socket) or (self.is_ip and ipaddress.ip_address(self.host).is_loopback)


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of the certificate that the public port shows."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class EnvoySettings:
    """What an Envoy in front of the platform is told.

    Attributes:
        public: where it listens to everybody.
        targets: gRPC address of each of `TARGETS`.
        gateway_http: where the gateway answers plain HTTP.
        admin: Envoy's own administration, which must not be reachable from other machines.
        cors_origins: origins whose pages may call from a browser; `*` is everybody's; empty switches CORS off.
        max_body_bytes: largest request body and largest answer over REST.
        max_connections: clients connected at once.
        max_heap_bytes: memory at which Envoy turns requests away rather than die.
        access_log: a JSON line per request on stdout, or none (the services log each call themselves).
        tls: certificate of the public port; none: plain text, for loopback or behind a load balancer.
        predict_seconds: time limit of a prediction.
        call_seconds: time limit of any other call that is not a stream.

    Raises:
        EnvoySettingsError: a target is missing or unknown, or the admin address is public.
    """

    public: Address
    targets: Mapping[str, Address]
    gateway_http: Address
    admin: Address
    cors_origins: Sequence[str] = field(default=())
    max_body_bytes: int = 64 * MEBIBYTE
    max_connections: int = 10_000
    max_heap_bytes: int = 1024 * MEBIBYTE
    access_log: Literal["off", "json"] = "off"
    tls: Tls | None = None
    predict_seconds: int = 60
    call_seconds: int = 120

    def __post_init__(self) -> None:
        if missing := sorted(set(TARGETS) - set(self.targets)):
            raise EnvoySettingsError(f"No target is given for {', '.join(missing)}.")
        if unknown := sorted(set(self.targets) - set(TARGETS)):
            raise EnvoySettingsError(f"Nothing is routed to {', '.join(unknown)}: targets are {', '.join(TARGETS)}.")
        if not self.admin.is_private:
            raise EnvoySettingsError("The admin address must be a unix socket or on loopback: it can stop Envoy.")
        for origin in self.cors_origins:
            if origin != "*" and "://" not in origin:
                raise EnvoySettingsError(f"{origin!r} is not an origin: write https://example.org or *.")
