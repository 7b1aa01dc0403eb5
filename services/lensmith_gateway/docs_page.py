"""The API's documentation as one page that needs nothing but itself: no other host is asked for anything."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import cast

from lensmith_gateway.openapi_schemas import Schema

_VERBS = ("get", "post", "put", "patch", "delete")
_UNCOUNTED = frozenset({"Gateway", "Inference", "Usage"})
_BOUNDS = (("minimum", "from"), ("maximum", "to"), ("maxLength", "at most"), ("maxItems", "at most"))
_MAX_DEPTH = 4
_HOST = "http://localhost:8080"
_MARK = (
    '<svg viewBox="0 0 32 32" fill="none" stroke="currentColor" stroke-width="2.4" aria-hidden="true">'
    '<circle cx="16" cy="16" r="13"/><circle cx="16" cy="16" r="5.5"/>'
    '<path d="M16 3v7.5M27.3 22.5l-6.5-3.7M4.7 22.5l6.5-3.7"/></svg>'
)
_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|(-?\b\d+(?:\.\d+)?\b|\btrue\b|\bfalse\b|\bnull\b)')
_EXAMPLE_PARTS = {"app": "trash", "model": "sorter", "version": "1", "input": "bottle-1", "concept": "glass"}


@dataclass(frozen=True, slots=True)
class DocsPage:
    """A page and the policy under which a browser may show it.

    Attributes:
        html: the page.
        policy: value of Content-Security-Policy: its own script and style, and nothing else.
    """

    html: str
    policy: str


@dataclass(frozen=True, slots=True)
class _Operation:
    verb: str
    path: str
    spec: Mapping[str, object]

    def text(self, key: str) -> str:
        return str(self.spec.get(key, ""))


def docs_page(document: Schema) -> DocsPage:
    """Render an OpenAPI document of this API."""
    style = (files("lensmith_gateway") / "docs_page.css").read_text()
    script = (files("lensmith_gateway") / "docs_page.js").read_text()
    renderer = _Renderer(document)
    html = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(renderer.title)}</title><style>{style}</style></head>\n<body>"
        f'<a class="skip" href="#content">Skip to the calls</a>\n{renderer.side()}\n'
        f'<main id="content">{renderer.intro()}{renderer.groups()}{renderer.footer()}</main>\n'
        f"<script>{script}</script></body></html>\n"
    )
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return DocsPage(html, policy)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class _Renderer:
    def __init__(self, document: Schema) -> None:
        info = _map(document["info"])
        self.title = str(info["title"])
        self._version = str(info["version"])
        self._about = str(info["description"])
        self._schemas = _map(_map(document["components"])["schemas"])
        self._tags = [_map(tag) for tag in _list(document["tags"])]
        self._operations: dict[str, list[_Operation]] = {str(tag["name"]): [] for tag in self._tags}
        for path, item in _map(document["paths"]).items():
            for verb, spec in _map(item).items():
                if verb in _VERBS:
                    operation = _Operation(verb, path, _map(spec))
                    self._operations[str(_list(operation.spec["tags"])[0])].append(operation)

    def side(self) -> str:
        groups = "".join(self._side_group(tag, operations) for tag, operations in self._operations.items())
        return (
            f'<nav class="side" aria-label="Calls"><a class="brand" href="#top">{_MARK}Lensmith'
            f"<small>{escape(self._version)}</small></a>"
            '<input id="filter" type="search" placeholder="Find a call  ( / )" aria-label="Find a call">'
            f"{groups}</nav>"
        )

    def _side_group(self, tag: str, operations: list[_Operation]) -> str:
        items = "".join(
            f'<li><a href="#{operation.text("operationId")}" data-find="{escape(_search_text(operation))}">'
            f"{_verb(operation.verb)}{escape(operation.text('operationId'))}</a></li>"
            for operation in operations
        )
        return f"<h2>{escape(_spaced(tag))}</h2><ul>{items}</ul>"

    def intro(self) -> str:
        return (
            f'<section class="intro" id="top"><h1>{escape(self.title)}</h1>{_prose(self._about)}'
            '<div class="links"><a href="/openapi.json">OpenAPI 3.1 document</a><a href="/healthz">Health</a></div>'
            "</section>"
        )

    def groups(self) -> str:
        return "".join(
            f'<section class="group"><h2 id="{escape(str(tag["name"]))}">{escape(_spaced(str(tag["name"])))}</h2>'
            f'<div class="about">{_prose(str(tag.get("description", "")))}</div>'
            + "".join(map(self._operation, self._operations[str(tag["name"])]))
            + "</section>"
            for tag in self._tags
        )

    def footer(self) -> str:
        return "<footer>Made from the protos of this installation. Apache-2.0.</footer>"

    def _operation(self, operation: _Operation) -> str:
        identity = escape(operation.text("operationId"))
        route = re.sub(r"\{(\w+)\}", r"<var>{\1}</var>", escape(operation.path))
        about = operation.text("description").partition("\n\nNeeds ")[0]
        parts = [
            f'<article class="operation" id="{identity}"><div>',
            f'<h3><a href="#{identity}">{identity}</a></h3>',
            f'<div class="route">{_verb(operation.verb)}<code>{route}</code></div>',
            f'<span class="needs">needs {_inline(operation.text("x-lensmith-access"))}</span>{_prose(about)}',
            *self._inputs(operation),
            *self._outputs(operation),
            "</div><div>",
            *_samples(operation),
            "</div></article>",
        ]
        return "".join(parts)

    def _inputs(self, operation: _Operation) -> Iterator[str]:
        parameters = [_map(parameter) for parameter in _list(operation.spec.get("parameters", []))]
        for place, title in (("path", "In the path"), ("query", "Query parameters")):
            rows = "".join(
                self._field(
                    str(given["name"]),
                    _map(given["schema"]) | {"description": given.get("description", "")},
                    bool(given.get("required")) and place == "query",
                    0,
                )
                for given in parameters
                if given["in"] == place
            )
            if rows:
                yield f'<h4>{title}</h4><ul class="fields">{rows}</ul>'
        if body := _content(operation.spec.get("requestBody")):
            kind, media = body
            yield f"<h4>Body{'' if kind == 'application/json' else f' ({escape(kind)})'}</h4>"
            yield self._fields(_map(media["schema"]), 0)

    def _outputs(self, operation: _Operation) -> Iterator[str]:
        ok = _map(operation.spec["responses"]).get("200")
        if answer := _content(ok):
            kind, media = answer
            yield f"<h4>Answer{'' if kind == 'application/json' else f' ({escape(kind)})'}</h4>"
            note = str(_map(ok).get("description", ""))
            if note != "OK":
                yield _prose(note)
            yield self._fields(_map(media["schema"]), 0)

    def _fields(self, schema: Schema, depth: int) -> str:
        resolved = self._resolve(schema)
        required = set(map(str, _list(resolved.get("required", []))))
        rows = "".join(
            self._field(name, _map(member), name in required, depth)
            for name, member in _map(resolved.get("properties", {})).items()
        )
        return f'<ul class="fields">{rows}</ul>' if rows else "<p>Nothing.</p>"

    def _field(self, name: str, schema: Schema, required: bool, depth: int) -> str:
        resolved = self._resolve(schema)
        inner = self._resolve(_map(resolved["items"])) if "items" in resolved else resolved
        must = '<span class="must">required</span>' if required else ""
        text = str(schema.get("description") or "")
        nested = ""
        if inner.get("properties") and depth < _MAX_DEPTH and _type_name(inner) != "Status":
            nested = f"<details><summary>Fields</summary>{self._fields(inner, depth + 1)}</details>"
        elif values := _list(inner.get("enum", [])):
            about = (
                _prose(str(inner["description"]))
                if "description" in inner and inner is not schema
                else ("<p>" + ", ".join(f"<code>{escape(str(value))}</code>" for value in values) + "</p>")
            )
            nested = f"<details><summary>Values</summary>{about}</details>"
        return (
            f'<li><code class="name">{escape(name)}</code><span class="kind">{escape(self._kind(schema))}</span>{must}'
            f"{_prose(text) if text else ''}{nested}</li>"
        )

    def _resolve(self, schema: Schema) -> Schema:
        reference = schema.get("$ref")
        return _map(self._schemas[str(reference).rpartition("/")[2]]) if reference else schema

    def _kind(self, schema: Schema) -> str:
        if reference := schema.get("$ref"):
            return str(reference).rpartition("/")[2]
        if schema.get("type") == "array":
            kind = f"list of {self._kind(_map(schema['items']))}"
        else:
            kind = str(schema.get("format") or schema.get("contentEncoding") or schema.get("type", "any"))
        bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS if key in schema]
        return ", ".join([kind, *bounds])


def _samples(operation: _Operation) -> Iterator[str]:
    path = re.sub(r"\{(\w+)\}", lambda match: _EXAMPLE_PARTS.get(match[1], f"${match[1].upper()}"), operation.path)
    lines = ["curl" if operation.verb == "get" else f"curl -X {operation.verb.upper()}"]
    if operation.spec.get("security") != []:
        lines.append('-H "Authorization: Key $KEY"')
    body = _content(operation.spec.get("requestBody"))
    if body and body[0] == "multipart/form-data":
        lines += ["-F image=@bottle.jpg", "-F image=@can.png", "-F concept=glass"]
    elif body:
        example = json.dumps(_map(body[1]).get("example", {}), indent=2, ensure_ascii=False)
        lines.append(f"-d '{example}'")
    mask = "?updateMask=…" if operation.verb == "patch" else ""
    lines.append(f'"{_HOST}{path}{mask}"')
    yield _code("curl", escape(" \\\n  ".join(lines)), "curl")
    if (answer := _content(_map(operation.spec["responses"]).get("200"))) and "example" in answer[1]:
        yield _code("answer", _coloured(json.dumps(answer[1]["example"], indent=2, ensure_ascii=False)), "json")


def _code(title: str, html: str, kind: str) -> str:
    return (
        f'<div class="code"><span>{title}</span><button type="button">copy</button>'
        f'<pre class="{kind}" tabindex="0">{html}</pre></div>'
    )


def _coloured(text: str) -> str:
    def paint(match: re.Match[str]) -> str:
        if match[1]:
            kind = "k" if match[2] else "s"
            return f'<span class="{kind}">{match[1]}</span>{match[2] or ""}'
        return f'<span class="n">{match[3]}</span>'

    return _TOKEN.sub(paint, escape(text, quote=False))


def _prose(text: str) -> str:
    blocks = [block.strip() for block in text.split("\n\n") if block.strip()]
    return "".join(_block(block) for block in blocks)


def _block(block: str) -> str:
    if block.startswith("- "):
        items = "".join(f"<li>{_inline(line.removeprefix('- '))}</li>" for line in block.splitlines())
        return f"<ul>{items}</ul>"
    return f"<p>{_inline(block)}</p>"


def _inline(text: str) -> str:
    html = escape(text, quote=False)
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", html)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", html)


def _verb(verb: str) -> str:
    return f'<span class="verb {verb}">{verb.upper()}</span>'


def _spaced(tag: str) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", tag.removesuffix("Service"))
    return words if words in _UNCOUNTED else f"{words}s"


def _search_text(operation: _Operation) -> str:
    return " ".join([operation.text("operationId"), operation.path, operation.text("summary")]).lower()


def _content(holder: object) -> tuple[str, Schema] | None:
    """Media type and content of a request body or an answer; ``None`` where there is none."""
    content = _map(holder).get("content") if isinstance(holder, dict) else None
    for kind, media in _map(content or {}).items():
        return kind, _map(media)
    return None


def _type_name(schema: Schema) -> str:
    return "Status" if "details" in _map(schema.get("properties", {})) and "code" in _map(schema["properties"]) else ""


def _map(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value)


def _list(value: object) -> list[object]:
    return cast("list[object]", value)
