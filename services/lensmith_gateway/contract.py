"""The public API as the descriptor set tells it: which service owns which RPC, and how REST reaches it.

Envoy's configuration and the OpenAPI document are both derived from here, so they cannot tell different stories.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.resources import files
from typing import Literal

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FileDescriptor, ServiceDescriptor

from lensmith_api.v1 import access_pb2

PUBLIC_PACKAGE = "lensmith.v1"
INTERNAL_PACKAGE = "lensmith.internal.v1"

OWNERS: Mapping[str, str] = {
    "AppService": "auth",
    "KeyService": "auth",
    "ConceptService": "dataset",
    "InputService": "dataset",
    "AnnotationService": "dataset",
    "ModelService": "registry",
    "SuggestionService": "registry",
    "InferenceService": "inference",
    "BaseModelService": "registry",
    "UpgradeService": "registry",
    "UsageService": "auth",
}
"""Which of the platform's services answers which public proto service. The only place that says so.

In the order in which to tell of them.
"""

HttpVerb = Literal["get", "post", "put", "patch", "delete"]
_VERBS: tuple[HttpVerb, ...] = ("get", "post", "put", "patch", "delete")


class ContractError(Exception):
    """The descriptor set and this release do not fit together; the text says where."""


@dataclass(frozen=True, slots=True)
class HttpBinding:
    """How REST reaches an RPC.

    Attributes:
        verb: HTTP method in lower case.
        path: template as in the proto, `/v1/{parent=apps/*}/inputs:delete`.
        body: `*` (the whole request), the name of one field, or empty (no body).
    """

    verb: HttpVerb
    path: str
    body: str


@dataclass(frozen=True, slots=True)
class Rpc:
    """One public RPC.

    Attributes:
        service: full name of its proto service, `lensmith.v1.InputService`.
        name: its own name, `CreateInputs`.
        owner: the platform's service that answers it.
        request: descriptor of its request message.
        response: descriptor of its response message, or of each message of a stream.
        client_streaming: whether the request is a stream.
        server_streaming: whether the response is a stream.
        access: what a caller needs.
        binding: how REST reaches it; ``None`` where only gRPC does.
        comment: what the proto says about it.
    """

    service: str
    name: str
    owner: str
    request: Descriptor
    response: Descriptor
    client_streaming: bool
    server_streaming: bool
    access: access_pb2.Access
    binding: HttpBinding | None
    comment: str

    @property
    def grpc_path(self) -> str:
        """The HTTP/2 path of the RPC."""
        return f"/{self.service}/{self.name}"


class Contract:
    """The public API of one descriptor set.

    Args:
        descriptors: a serialised `FileDescriptorSet` with imports and source info.

    Raises:
        ContractError: a public service has no owner, or `OWNERS` names one that does not exist.
    """

    def __init__(self, descriptors: bytes) -> None:
        self._set = descriptor_pb2.FileDescriptorSet.FromString(descriptors)
        self._pool = descriptor_pool.DescriptorPool()
        for file in self._set.file:
            self._pool.Add(file)
        self._comments = _Comments(self._set)
        known = {service.name for file in self.public_files for service in file.services_by_name.values()}
        if known != set(OWNERS):
            odd = ", ".join(sorted(known ^ set(OWNERS)))
            raise ContractError(f"these public services have no owner, or owners no service: {odd}")

    @cached_property
    def public_files(self) -> tuple[FileDescriptor, ...]:
        """The files of the public package."""
        return tuple(self._pool.FindFileByName(file.name) for file in self._set.file if file.package == PUBLIC_PACKAGE)

    @cached_property
    def services(self) -> tuple[str, ...]:
        """Full names of the public proto services, in the order of `OWNERS`."""
        return tuple(f"{PUBLIC_PACKAGE}.{name}" for name in OWNERS)

    @cached_property
    def rpcs(self) -> tuple[Rpc, ...]:
        """Every public RPC, service by service, in the order of the protos."""
        return tuple(rpc for name in self.services for rpc in self._rpcs_of(self._pool.FindServiceByName(name)))

    def internal_service(self, name: str) -> ServiceDescriptor:
        """A service that only other services call.

        Raises:
            KeyError: there is none of that name.
        """
        return self._pool.FindServiceByName(f"{INTERNAL_PACKAGE}.{name}")

    def comment(self, full_name: str) -> str:
        """What the proto says about a service, method, message, field, enum or enum value; empty for no comment."""
        return self._comments.of(full_name)

    def transcoder_descriptors(self) -> bytes:
        """The part of the descriptor set that the transcoder needs: no internal API, no comments."""
        kept = descriptor_pb2.FileDescriptorSet()
        for file in self._set.file:
            if file.package != INTERNAL_PACKAGE:
                kept.file.add().CopyFrom(file)
                kept.file[-1].ClearField("source_code_info")
        return kept.SerializeToString(deterministic=True)

    def _rpcs_of(self, service: ServiceDescriptor) -> Iterator[Rpc]:
        for method in service.methods:
            options = method.GetOptions()
            yield Rpc(
                service=service.full_name,
                name=method.name,
                owner=OWNERS[service.name],
                request=method.input_type,
                response=method.output_type,
                client_streaming=method.client_streaming,
                server_streaming=method.server_streaming,
                access=options.Extensions[access_pb2.access],
                binding=_binding(options.Extensions[annotations_pb2.http]),
                comment=self.comment(method.full_name),
            )


def import_messages(contract: Contract) -> None:
    """Import the generated modules of the public API, so that reflection can describe all of it."""
    for file in contract.public_files:
        module = file.name.removeprefix("lensmith/").removesuffix(".proto").replace("/", ".")
        import_module(f"lensmith_api.{module}_pb2")


def load_contract() -> Contract:
    """The contract of this release, from the generated descriptor set."""
    return Contract((files("lensmith_api") / "descriptors.binpb").read_bytes())


def _binding(rule: http_pb2.HttpRule) -> HttpBinding | None:
    for verb in _VERBS:
        if path := str(getattr(rule, verb)):
            if rule.additional_bindings:
                raise ContractError(f"{path} has additional bindings, which are not supported")
            return HttpBinding(verb, path, rule.body)
    return None


class _Comments:
    """Leading comments of a descriptor set by full name of what they stand above."""

    def __init__(self, descriptors: descriptor_pb2.FileDescriptorSet) -> None:
        self._texts: dict[str, str] = {}
        for file in descriptors.file:
            locations = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
            for path, name in _names(file):
                if text := locations.get(path):
                    self._texts[name] = " ".join(text.split())

    def of(self, full_name: str) -> str:
        return self._texts.get(full_name, "")


_Path = tuple[int, ...]
_FILE = descriptor_pb2.FileDescriptorProto
_MESSAGE = descriptor_pb2.DescriptorProto


def _names(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[_Path, str]]:
    """Source paths of everything in a file that can carry a comment, with full names."""
    for number, message in enumerate(file.message_type):
        yield from _message_names((_FILE.MESSAGE_TYPE_FIELD_NUMBER, number), message, file.package)
    for number, enum in enumerate(file.enum_type):
        yield from _enum_names((_FILE.ENUM_TYPE_FIELD_NUMBER, number), enum, file.package)
    for number, service in enumerate(file.service):
        path, name = (_FILE.SERVICE_FIELD_NUMBER, number), f"{file.package}.{service.name}"
        yield path, name
        for inner, method in enumerate(service.method):
            yield (*path, descriptor_pb2.ServiceDescriptorProto.METHOD_FIELD_NUMBER, inner), f"{name}.{method.name}"


def _message_names(path: _Path, message: descriptor_pb2.DescriptorProto, scope: str) -> Iterator[tuple[_Path, str]]:
    name = f"{scope}.{message.name}"
    yield path, name
    for number, field in enumerate(message.field):
        yield (*path, _MESSAGE.FIELD_FIELD_NUMBER, number), f"{name}.{field.name}"
    for number, oneof in enumerate(message.oneof_decl):
        yield (*path, _MESSAGE.ONEOF_DECL_FIELD_NUMBER, number), f"{name}.{oneof.name}"
    for number, nested in enumerate(message.nested_type):
        yield from _message_names((*path, _MESSAGE.NESTED_TYPE_FIELD_NUMBER, number), nested, name)
    for number, enum in enumerate(message.enum_type):
        yield from _enum_names((*path, _MESSAGE.ENUM_TYPE_FIELD_NUMBER, number), enum, name)


def _enum_names(path: _Path, enum: descriptor_pb2.EnumDescriptorProto, scope: str) -> Iterator[tuple[_Path, str]]:
    # Values live in the scope of their enum's parent in protobuf; here the enum's own name keeps them apart.
    name = f"{scope}.{enum.name}"
    yield path, name
    for number, value in enumerate(enum.value):
        yield (*path, descriptor_pb2.EnumDescriptorProto.VALUE_FIELD_NUMBER, number), f"{name}.{value.name}"
