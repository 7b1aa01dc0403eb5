"""Which RPCs each scope allows, as the protos declare it."""

from importlib.resources import files

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from lensmith_api.v1.access_pb2 import access
from lensmith_platform.scopes import SCOPES, expand

PUBLIC_PACKAGE = "lensmith.v1"


def methods_by_scope() -> dict[str, list[str]]:
    """The public RPCs (`lensmith.v1.KeyService/GetKey`) that a key with one scope may call, implied ones too."""
    needed: dict[str, set[str]] = {}
    for file in FileDescriptorSet.FromString((files("lensmith_api") / "descriptors.binpb").read_bytes()).file:
        if file.package != PUBLIC_PACKAGE:
            continue
        for service in file.service:
            for method in service.method:
                declared = method.options.Extensions[access]
                if declared.scope:
                    name = f"{PUBLIC_PACKAGE}.{service.name}/{method.name}"
                    needed[name] = {declared.scope, *declared.also_scopes}
    return {scope: sorted(name for name, scopes in needed.items() if scopes <= expand([scope])) for scope in SCOPES}
