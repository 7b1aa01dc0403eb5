"""A web server for downloads: byte ranges, ETags, redirects, and transfers that break where a test says so."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Request:
    """What somebody asked."""

    path: str
    query: str
    headers: dict[str, str]


@dataclass
class Site:
    """What the server has, and what it was asked.

    Attributes:
        files: Content by path.
        redirects: Where else a path is to be had.
        statuses: Statuses to answer a path with instead, one a request.
        cuts: After how many bytes of a path to hang up, one a request.
        headers: More headers of the answers to a path.
        ranges: Whether parts may be asked for.
        etags: Whether files are told apart.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    ranges: bool = True
    etags: bool = True
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        site = self.site
        headers = {name.lower(): value for name, value in self.headers.items()}
        site.requests.append(Request(url.path, url.query, headers))
        if site.statuses.get(url.path):
            self._answer(site.statuses[url.path].pop(0), b"")
        elif url.path in site.redirects:
            self._answer(302, b"", {"Location": site.redirects[url.path]})
        elif url.path in site.files:
            self._send(url.path, site.files[url.path], headers)
        else:
            self._answer(404, b"no such thing")

    def _send(self, path: str, content: bytes, asked: dict[str, str]) -> None:
        etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
        more = {"ETag": etag} if self.site.etags else {}
        start = 0
        if self.site.ranges and "range" in asked and asked.get("if-range", etag) == etag:
            start = int(asked["range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            more["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.site.cuts[path].pop(0) if self.site.cuts.get(path) else None
        self._answer(206 if start else 200, content[start:], {**more, **self.site.headers.get(path, {})}, cut)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextmanager
def web_site(**fields: object) -> Iterator[Site]:
    """Runs a server."""
    site = Site(**fields)
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site})) as server:
        site.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def publish(
    hub: Site,
    storage: Site,
    repository: str,
    files: dict[str, bytes],
    *,
    licence: str | None = "apache-2.0",
    revision: str = "main",
    commit: str = COMMIT,
) -> None:
    """Puts a network on a hub as the public one shows it: large files lie in a storage of its own."""
    siblings = []
    for path, content in files.items():
        resolved = f"/{repository}/resolve/{commit}/{path}"
        item: dict[str, object] = {"rfilename": path, "size": len(content)}
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        if ".onnx" in path:
            digest = hashlib.sha256(content).hexdigest()
            item |= {"blobId": blob, "lfs": {"sha256": digest, "size": len(content), "pointerSize": 134}}
            storage.files[f"/blobs/{digest}"] = content
            hub.redirects[resolved] = f"{storage.url}/blobs/{digest}"
        else:
            item["blobId"] = blob
            hub.files[resolved] = content
        siblings.append(item)
    card = {"license": licence} if licence else {}
    tags = ["onnx", "image-classification"]
    document = {"id": repository, "sha": commit, "siblings": siblings, "cardData": card, "tags": tags}
    hub.files[f"/api/models/{repository}/revision/{revision}"] = json.dumps(document).encode()
