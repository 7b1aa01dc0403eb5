"""Who may call which RPC, read from the descriptors when a service starts.

An RPC that declares no access, or asks for a scope without naming an app, is a defect of the contract: the service does
not start.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from google.api import annotations_pb2
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from lensmith_api.v1 import access_pb2
from lensmith_platform import resource_names
from lensmith_platform.rules import Plan, Planner
from lensmith_platform.scopes import SCOPES

HEALTH = "grpc.health.v1.Health"
"""Full name of the health service."""

BUILTIN_SERVICES = frozenset(
    {HEALTH, "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
)
"""Services of gRPC itself, which everybody may ask."""

_VARIABLE = re.compile(r"\{([A-Za-z0-9_.]+)=([^}]*)\}")


class AccessError(Exception):
    """The contract of a service cannot be served; the message names the RPC and what it lacks."""


class Rule(Enum):
    """Who may call an RPC."""

    SCOPE = "scope"
    ANY_KEY = "any_key"
    PUBLIC = "public"
    OPERATOR = "operator"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class AppField:
    """A request field whose resource name begins with the app.

    Attributes:
        path: names of the fields that lead to it (`app`, `name`).
        template: form of the resource name, `apps/{app}/keys/{key}`.
    """

    path: tuple[str, ...]
    template: str

    @property
    def field(self) -> str:
        """The path as errors name it."""
        return ".".join(self.path)

    def read(self, request: Message) -> str:
        """Return the resource name in a request; empty where it has none."""
        value: object = request
        for name in self.path:
            value = getattr(value, name)
        return str(value)


@dataclass(frozen=True, slots=True)
class Method:
    """What is known of an RPC before anybody calls it.

    Attributes:
        path: `/lensmith.v1.KeyService/GetKey`, as gRPC names it.
        name: `lensmith.v1.KeyService/GetKey`, as people and metrics name it.
        rule: who may call it.
        scope: the scope that `Rule.SCOPE` asks for.
        also_scopes: scopes that it asks for besides.
        callers: services that may call it besides.
        public_app: whether a key of any app may call it on `apps/main`.
        app_fields: where the request names its app; more than one where HTTP bindings differ.
        has_app_id: whether the request names its app by number, as between services.
        request: class of the request; None: gRPC's own services, whose messages are parsed where they are handled.
        plan: what the request's fields may hold; None: anything.
    """

    path: str
    name: str
    rule: Rule
    scope: str = ""
    also_scopes: tuple[str, ...] = ()
    callers: frozenset[str] = frozenset()
    public_app: bool = False
    app_fields: tuple[AppField, ...] = ()
    has_app_id: bool = False
    request: type[Message] | None = None
    plan: Plan | None = None

    @property
    def is_health(self) -> bool:
        """Whether this asks for health, which nobody wants to read of in logs."""
        return self.name.startswith(HEALTH)


def access_table(services: Iterable[str]) -> Mapping[str, Method]:
    """Read the access of all RPCs of some services.

    Args:
        services: full names, `lensmith.v1.KeyService`; their generated modules must be imported.

    Returns:
        The methods by path.

    Raises:
        AccessError: a service is unknown, or an RPC declares no access or no app.
    """
    pool = descriptor_pool.Default()
    planner = Planner()
    table: dict[str, Method] = {}
    for service in services:
        try:
            descriptor = pool.FindServiceByName(service)
        except KeyError:
            raise AccessError(f"no service {service} is defined") from None
        for rpc in descriptor.methods:
            method = _method(service, rpc, planner)
            table[method.path] = method
    return table


def builtin_method(path: str) -> Method:
    """Describe an RPC of gRPC's own services."""
    return Method(path=path, name=path.removeprefix("/"), rule=Rule.PUBLIC)


def _method(service: str, rpc: MethodDescriptor, planner: Planner) -> Method:
    name = f"{service}/{rpc.name}"
    options = rpc.GetOptions()
    if not options.HasExtension(access_pb2.access):
        raise AccessError(f"{name} declares no access: give it `option (lensmith.v1.access)`")
    access = options.Extensions[access_pb2.access]
    chosen = access.WhichOneof("rule")
    if chosen is None or not getattr(access, chosen):
        raise AccessError(f"{name} declares an access without a rule")
    rule = Rule(chosen)
    if rule is not Rule.SCOPE and access.also_scopes:
        raise AccessError(f"{name} asks for more scopes but not for a first one")
    for scope in (access.scope, *access.also_scopes) if rule is Rule.SCOPE else ():
        if scope not in SCOPES:
            raise AccessError(f"{name} asks for {scope!r}, and there is no such scope")
    app_fields = tuple(_app_fields(rpc))
    if rule is Rule.SCOPE and (not app_fields or rpc.client_streaming):
        raise AccessError(f"{name} asks for the scope {access.scope} but its request names no app")
    if rule is Rule.SERVICE and not access.callers:
        raise AccessError(f"{name} is for services but names no callers")
    app_id = rpc.input_type.fields_by_name.get("app_id")
    return Method(
        path=f"/{name}",
        name=name,
        rule=rule,
        scope=access.scope,
        also_scopes=tuple(access.also_scopes),
        callers=frozenset(access.callers),
        public_app=access.public_app,
        app_fields=app_fields,
        has_app_id=app_id is not None and app_id.type == FieldDescriptor.TYPE_INT64,
        request=message_factory.GetMessageClass(rpc.input_type),
        plan=planner.plan(rpc.input_type),
    )


def _app_fields(rpc: MethodDescriptor) -> Iterable[AppField]:
    http = rpc.GetOptions().Extensions[annotations_pb2.http]
    seen: set[AppField] = set()
    for binding in (http, *http.additional_bindings):
        pattern = getattr(binding, binding.WhichOneof("pattern") or "get")
        path = pattern.path if binding.WhichOneof("pattern") == "custom" else pattern
        for field, form in _VARIABLE.findall(path):
            if form == "apps/*" or form.startswith("apps/*/"):
                found = AppField(tuple(field.split(".")), _template(form))
                if found not in seen:
                    seen.add(found)
                    yield found


def _template(form: str) -> str:
    """Name the wildcards of `apps/*/keys/*` after the collections before them: `apps/{app}/keys/{key}`."""
    parts = form.split("/")
    return "/".join(
        f"{{{parts[index - 1].removesuffix('s')}}}" if part == "*" else part for index, part in enumerate(parts)
    )


def app_name(method: Method, request: Message) -> str | None:
    """Return the own id of the app that a request names; None where the RPC is about no app.

    Raises:
        InvalidInputError: RESOURCE_NAME_INVALID.
    """
    if not method.app_fields:
        return None
    chosen = next((field for field in method.app_fields if field.read(request)), method.app_fields[0])
    return resource_names.parse(chosen.template, chosen.read(request), field=chosen.field)["app"]
