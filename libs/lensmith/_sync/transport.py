# Generated from lensmith._async by scripts/generate_sync_client.py; do not edit.
"""One connection to the platform: credentials, timeouts, and retries where they are safe."""

import random
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar
from urllib.parse import urlsplit

import grpc

from lensmith.config import DEFAULT_URL
from lensmith.errors import (
    ConflictError,
    InvalidInputError,
    LensmithError,
    QuotaExceededError,
    UnavailableError,
    from_http,
    from_rpc_error,
)

Request = TypeVar("Request")
Response = TypeVar("Response")


# Slightly above what the platform takes, so that the platform, not this library, says that something is too large.
MESSAGE_BYTES: Final = 65 * 1024 * 1024
FIRST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 5.0


class Transport:
    """Calls methods of the platform with a key.

    Args:
        url: `http://host:port`, or `https://…` for TLS.
        key: Secret of a key; empty for public methods only.
        timeout: Seconds that one call may take, its retries included.
        retries: Most repetitions of a call that failed because the platform could not be reached.
    """

    def __init__(self, url: str, key: str, timeout: float, retries: int) -> None:
        self._timeout = timeout
        self._retries = retries
        self._metadata = (("authorization", f"Key {key}"),) if key else ()
        self._url = url
        self.channel = _channel(url)

    def close(self) -> None:
        """Closes the connection."""
        self.channel.close()

    def call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        *,
        timeout: float | None = None,
        repeatable: bool = True,
    ) -> Response:
        """Calls a method.

        Args:
            method: Method of a stub.
            request: Its request.
            timeout: Seconds for this call; the client's own when None.
            repeatable: Whether doing it twice does no harm, as with reads, and writes that carry a request_id. A delete
                that succeeded unheard would be told that there is nothing to delete.

        Raises:
            LensmithError: The call failed; its class says how.
        """
        deadline = time.monotonic() + (timeout or self._timeout)
        attempt = 0
        while True:
            left = max(deadline - time.monotonic(), 0.001)
            try:
                return method(request, timeout=left, metadata=self._metadata)
            except grpc.RpcError as cause:
                error = from_rpc_error(cause)
                wait = _wait_before_retry(error, attempt)
                left = deadline - time.monotonic()
                if not repeatable or attempt >= self._retries or wait is None or wait >= left:
                    raise error from cause
            attempt += 1
            time.sleep(wait)

    def download(self, path: str, query: Mapping[str, str], *, timeout: float) -> str:
        """Reads a document that the platform serves over plain HTTP.

        Args:
            path: Path on the platform.
            query: Of the address.
            timeout: Seconds for the whole, repetitions included.

        Raises:
            LensmithError: The platform refused, or cannot be reached.
        """
        # Few commands need it, and every one would wait for it.
        import httpx

        deadline = time.monotonic() + timeout
        attempt = 0
        with httpx.Client(base_url=self._url, headers=dict(self._metadata)) as client:
            while True:
                left = max(deadline - time.monotonic(), 0.001)
                try:
                    answer = client.get(path, params=dict(query), timeout=left)
                    if answer.is_success:
                        return answer.text
                    error = from_http(answer.status_code, answer.content)
                except httpx.TransportError as cause:
                    error = UnavailableError("UNAVAILABLE", f"the platform cannot be reached: {cause}")
                wait = _wait_before_retry(error, attempt)
                if attempt >= self._retries or wait is None or wait >= deadline - time.monotonic():
                    raise error
                attempt += 1
                time.sleep(wait)

    def stream(
        self, method: "grpc.UnaryStreamMultiCallable[Request, Response]", request: Request, *, timeout: float
    ) -> Iterator[Response]:
        """Calls a method that answers with a stream.

        Raises:
            LensmithError: The call failed; its class says how.
        """
        messages = method(request, timeout=timeout, metadata=self._metadata)
        try:
            for message in messages:
                yield message
        except grpc.RpcError as cause:
            raise from_rpc_error(cause) from cause
        finally:
            messages.cancel()

    def send(
        self,
        method: "grpc.StreamUnaryMultiCallable[Request, Response]",
        requests: Iterator[Request],
        *,
        timeout: float,
    ) -> Response:
        """Calls a method that takes a stream.

        Raises:
            LensmithError: The call failed; its class says how.
        """
        try:
            return method(requests, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as cause:
            raise from_rpc_error(cause) from cause


def new_request_id() -> str:
    """An id that makes a create repeatable."""
    return str(uuid.uuid4())


def _channel(url: str) -> grpc.Channel:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise InvalidInputError("URL_INVALID", f"{url!r} is not the address of a platform, such as {DEFAULT_URL}")
    secure = parts.scheme == "https"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    target = f"{host}:{parts.port or (443 if secure else 80)}"
    options = [
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        # A platform that restarts is found again within a second rather than minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    if secure:
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
    return grpc.insecure_channel(target, options=options)


def _wait_before_retry(error: LensmithError, attempt: int) -> float | None:
    """Seconds to wait before another try; None where trying again is of no use."""
    if isinstance(error, QuotaExceededError):
        return error.retry_after
    if isinstance(error, UnavailableError | ConflictError) and error.reason != "ETAG_MISMATCH":
        backoff = min(FIRST_WAIT_SECONDS * 2.0**attempt, LONGEST_WAIT_SECONDS)
        # Jitter keeps many clients from coming back at the same moment.
        return error.retry_after or backoff * random.uniform(0.5, 1.0)  # noqa: S311  no secret depends on it
    return None
