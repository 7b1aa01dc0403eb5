"""Makes the Lua script that refuses JSON bodies with unknown fields, which Envoy's transcoder would drop in silence."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from lensmith_gateway.contract import Contract, HttpBinding, Rpc


@dataclass(frozen=True, slots=True)
class _Route:
    """A REST call as the script knows it."""

    verb: str
    pattern: str
    bound: tuple[str, ...]
    body: str | None


def strict_json_script(contract: Contract) -> str:
    """Lua source for Envoy's Lua filter: the shapes of all REST requests, and the code that checks against them."""
    shapes = _Shapes()
    routes = [_route(rpc, rpc.binding, shapes) for rpc in contract.rpcs if rpc.binding is not None]
    code = (files("lensmith_gateway") / "strict_json.lua").read_text()
    return "\n".join([*_tables(routes, shapes), code])


def _route(rpc: Rpc, binding: HttpBinding, shapes: "_Shapes") -> _Route:
    body = None
    if binding.body == "*":
        body = shapes.add(rpc.request)
    elif binding.body:
        body = shapes.type_of(rpc.request.fields_by_name[binding.body])
    # The path binds single words only (`name`, `app.name`), which read the same in JSON.
    bound = tuple(re.findall(r"\{([\w.]+)", binding.path))
    return _Route(binding.verb.upper(), _lua_pattern(binding.path), bound, body)


def _lua_pattern(template: str) -> str:
    """Turn `/v1/{parent=apps/*}/inputs:delete` into a Lua pattern that matches the whole path."""
    plain = re.sub(r"\{[^=}]+=([^}]+)\}", r"\1", template)
    plain = re.sub(r"\{[^=}]+\}", "*", plain)
    escaped = re.sub(r"([^\w/:*])", r"%\1", plain)
    return "^" + escaped.replace("*", "[^/]+") + "$"


@dataclass(slots=True)
class _Shapes:
    """Messages and enums that request bodies are made of."""

    messages: dict[str, dict[str, str | None]] = field(default_factory=dict)
    enums: dict[str, list[str]] = field(default_factory=dict)

    def add(self, message: Descriptor) -> str:
        """Collect a message and what it holds; returns the name of its type."""
        if message.full_name not in self.messages:
            fields: dict[str, str | None] = {}
            self.messages[message.full_name] = fields
            for member in message.fields:
                # JSON may name a field either way.
                fields[member.name] = fields[member.json_name] = self.type_of(member)
        return message.full_name

    def type_of(self, member: FieldDescriptor) -> str | None:
        """Collect what a field holds; returns the name of its type, or ``None`` where anything goes."""
        enum, message = member.enum_type, member.message_type
        if enum is not None and enum.full_name != "google.protobuf.NullValue":
            self.enums[enum.full_name] = [value.name for value in enum.values]
            return f"enum:{enum.full_name}"
        if message is None or message.full_name.startswith("google.protobuf."):
            # Well-known types have JSON forms of their own, which the transcoder checks; Struct holds anything.
            return None
        if message.GetOptions().map_entry:
            return f"map:{self.type_of(message.fields_by_name['value']) or ''}"
        return self.add(message)


def _tables(routes: list[_Route], shapes: _Shapes) -> Iterator[str]:
    yield "local ROUTES = {"
    # A custom verb is more specific than the bare path it ends.
    for route in sorted(routes, key=lambda route: (":" not in route.pattern, route.pattern, route.verb)):
        bound = ", ".join(f'["{name}"] = true' for name in route.bound)
        yield f'  {{"{route.verb}", "{route.pattern}", {{{bound}}}, {_lua(route.body)}}},'
    yield "}"
    yield "local MESSAGES = {"
    for name, fields in sorted(shapes.messages.items()):
        inner = ", ".join(f'["{key}"] = {_lua(kind)}' for key, kind in sorted(fields.items()))
        yield f'  ["{name}"] = {{{inner}}},'
    yield "}"
    yield "local ENUMS = {"
    for name, values in sorted(shapes.enums.items()):
        yield f'  ["{name}"] = {{{", ".join(f"{value} = true" for value in sorted(values))}}},'
    yield "}"


def _lua(kind: str | None) -> str:
    return "false" if kind is None else f'"{kind}"'
