"""Networks published on a hub: found by name, fetched file by file, each held against the hub's own hash.

Speaks the HTTP API of the Hugging Face hub: `/api/models/{id}/revision/{revision}?blobs=true` lists the files of a
commit with their hashes, `/{id}/resolve/{commit}/{path}` gives one. Why not through the hub's library stands in
docs/adr/0009-networks-from-hubs.md.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx

from lensmith.errors import ForbiddenError, InvalidInputError, LensmithError, NotFoundError, UnavailableError
from lensmith.packs.archives import FILES
from lensmith.packs.download import Expected, Report, download

SCHEME: Final = "hf:"
ENDPOINT: Final = "https://huggingface.co"
DEFAULT_GRAPHS: Final = ("onnx/model.onnx", "model.onnx")
_PACK: Final = ("card.json", "labels.txt", "calibration.json", "model.onnx")
_CONFIGURATION: Final = ("config.json", "preprocessor_config.json")
_NAME: Final = re.compile(
    r"(?P<repository>[\w.-]{1,96}/[\w.-]{1,96})(?:@(?P<revision>[\w./-]{1,200}))?(?::(?P<graph>[\w-][\w./-]{1,200}))?",
    re.ASCII,
)
_HEX: Final = {"sha256": re.compile(r"[0-9a-f]{64}"), "git": re.compile(r"[0-9a-f]{40}")}
_TIMEOUT: Final = httpx.Timeout(30, connect=10)


@dataclass(frozen=True)
class HubName:
    """`hf:OWNER/NAME[@REVISION][:FILE.onnx]`.

    Attributes:
        repository: `OWNER/NAME`.
        revision: Branch, tag or commit.
        graph: Path of the ONNX file; empty for the usual one.
    """

    repository: str
    revision: str = "main"
    graph: str = ""

    @property
    def own_name(self) -> str:
        """The name without its owner."""
        return self.repository.partition("/")[2]


@dataclass(frozen=True)
class Publication:
    """A published network at one commit.

    Attributes:
        licence: As its model card says, in the hub's spelling; empty where it says nothing.
        commit: Names exactly these files.
        graph: Path of the ONNX file; empty where it is a ready pack.
        files: Paths to fetch, with what each has to be.
    """

    name: HubName
    licence: str
    commit: str
    graph: str
    files: Mapping[str, Expected]

    @property
    def size(self) -> int:
        """Bytes of all files, as far as the hub tells."""
        return sum(expected.size or 0 for expected in self.files.values())

    def demanding(self, sha256: str) -> "Publication":
        """The same, with a hash that the ONNX file must have; what the hub says of it counts no more."""
        graph = self.graph or "model.onnx"
        return replace(self, files={**self.files, graph: replace(self.files[graph], sha256=sha256)})

    @property
    def source(self) -> str:
        """Where it comes from, for the card."""
        return f"{SCHEME}{self.name.repository}@{self.commit[:12]}" + (f":{self.graph}" if self.graph else "")


def parse_name(text: str) -> HubName:
    """Reads `hf:OWNER/NAME[@REVISION][:FILE.onnx]`.

    Raises:
        InvalidInputError: `HUB_NAME_INVALID`: it is something else.
    """
    match = _NAME.fullmatch(text.removeprefix(SCHEME))
    graph = (match["graph"] or "") if match else ""
    if match is None or ".." in text or (graph and not graph.endswith(".onnx")):
        raise InvalidInputError(
            "HUB_NAME_INVALID", f"{text} does not name a network: {SCHEME}OWNER/NAME[@REVISION][:FILE.onnx]"
        )
    return HubName(match["repository"], match["revision"] or "main", graph)


def look_up(name: HubName) -> Publication:
    """Asks the hub what a name stands for.

    The hub is `HF_ENDPOINT`, or the public one; a token comes from `HF_TOKEN` or where the hub's own tools save it.

    Raises:
        NotFoundError: There is no such network, or it has no ONNX file.
        ForbiddenError: It is to be had on terms that its owner sets.
        UnavailableError: The hub cannot be reached.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UnavailableError("HUB_OFFLINE", f"{SCHEME}{name.repository} is on a hub, and HF_HUB_OFFLINE forbids it")
    url = f"{endpoint()}/api/models/{name.repository}/revision/{quote(name.revision, safe='')}"
    try:
        with httpx.Client(follow_redirects=True, timeout=_TIMEOUT) as client:
            response = client.get(url, params={"blobs": "true"}, headers=_headers())
        _refuse(response, name)
        document = response.json()
        commit = str(document["sha"])
        listed = {str(item["rfilename"]): _expected(item) for item in document["siblings"]}
    except httpx.HTTPError as error:
        raise UnavailableError(
            "HUB_UNREACHABLE",
            f"the hub {endpoint()} cannot be reached ({error}); a folder or an archive can be imported without it",
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise UnavailableError("HUB_UNREACHABLE", f"{endpoint()} does not answer like a hub: {error!r}") from error
    if not _HEX["git"].fullmatch(commit):
        raise UnavailableError("HUB_UNREACHABLE", f"{endpoint()} does not answer like a hub: no commit")
    return _publication(name, commit, _licence(document), listed)


def fetch(publication: Publication, folder: Path, report: Report = lambda _done, _total: None) -> Path:
    """Fetches the files of a network into a folder; what is there already is not fetched again.

    Raises:
        InvalidInputError: `CHECKSUM_MISMATCH`: a file is not the one that the hub listed. `CHECKSUM_MISSING`: it lists
            no hash of one.
        UnavailableError: The hub cannot be reached, or not for long enough; what came is kept.
    """
    done = 0
    for path, expected in publication.files.items():
        if not expected.certain:
            raise InvalidInputError("CHECKSUM_MISSING", f"{endpoint()} lists no hash of {path}; --sha256 can tell it")
        url = f"{endpoint()}/{publication.name.repository}/resolve/{publication.commit}/{quote(path)}"
        limit = FILES.get(path, FILES["model.onnx"])
        told = _added(report, done, publication.size or None)
        target = download(url, folder / path, expected=expected, headers=_headers(), limit=limit, report=told)
        done += target.stat().st_size
    return folder


def endpoint() -> str:
    """Address of the hub."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT


def _added(report: Report, before: int, total: int | None) -> Report:
    """Reports one file as a part of all."""
    return lambda done, _total: report(before + done, total)


def _publication(name: HubName, commit: str, licence: str, listed: Mapping[str, Expected]) -> Publication:
    if "card.json" in listed and "model.onnx" in listed and not name.graph:
        files = [path for path in _PACK if path in listed]
        return Publication(name, licence, commit, "", {path: listed[path] for path in files})
    graphs = sorted(path for path in listed if path.endswith(".onnx"))
    graph = next((path for path in ((name.graph,) if name.graph else DEFAULT_GRAPHS) if path in listed), None)
    if graph is None:
        found = f"it has {', '.join(graphs[:10])}" if graphs else "it has no ONNX file at all"
        wanted = name.graph or " nor ".join(DEFAULT_GRAPHS)
        raise NotFoundError("HUB_GRAPH_NOT_FOUND", f"{name.repository} has no {wanted}: {found}")
    files = [path for path in _CONFIGURATION if path in listed]
    # Exporters put large weights into files of their own, beside the graph that names them.
    weights = sorted(path for path in listed if path.startswith((f"{graph}_data", f"{graph}.data")))
    return Publication(name, licence, commit, graph, {path: listed[path] for path in (*files, *weights, graph)})


def _expected(item: Mapping[str, object]) -> Expected:
    """What the hub says of a file: the SHA-256 of large ones, Git's SHA-1 of the others."""
    large = item.get("lfs")
    size = item.get("size")
    length = size if isinstance(size, int) else None
    if isinstance(large, dict):
        return Expected(sha256=_hex(large.get("sha256"), "sha256"), size=length)
    return Expected(git_blob=_hex(item.get("blobId"), "git"), size=length)


def _hex(value: object, kind: str) -> str:
    text = str(value or "").lower().removeprefix("sha256:")
    if text and not _HEX[kind].fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no {kind} hash")
    return text


def _licence(document: Mapping[str, object]) -> str:
    card = document.get("cardData")
    named: object = None
    if isinstance(card, dict):
        named = card.get("license")
        if named == "other":
            named = card.get("license_name") or "other"
    if isinstance(named, list):
        named = ", ".join(str(one) for one in named)
    tags = document.get("tags")
    tagged = (str(tag) for tag in tags) if isinstance(tags, list) else iter(())
    return str(named or next((tag.partition(":")[2] for tag in tagged if tag.startswith("license:")), ""))


def _refuse(response: httpx.Response, name: HubName) -> None:
    if response.is_success:
        return
    status = f"{response.status_code} {response.headers.get('X-Error-Message', response.reason_phrase)}"
    raise _refusal(response.status_code, name, status)


def _refusal(code: int, name: HubName, status: str) -> LensmithError:
    # The hub says 401 of what does not exist, so that nobody learns which private names do.
    if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND):
        return NotFoundError(
            "HUB_NETWORK_NOT_FOUND",
            f"the hub has no {name.repository} at {name.revision}, or it is private (HF_TOKEN): {status}",
        )
    if code == HTTPStatus.FORBIDDEN:
        return ForbiddenError(
            "HUB_NETWORK_GATED", f"{name.repository} is given to those who accept its terms on the hub: {status}"
        )
    return UnavailableError("HUB_UNREACHABLE", f"the hub {endpoint()} does not answer: {status}")


def _headers() -> dict[str, str]:
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
        try:
            token = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").read_text().strip()
        except (OSError, UnicodeDecodeError):
            return {}
    return {"Authorization": f"Bearer {token}"} if token else {}
