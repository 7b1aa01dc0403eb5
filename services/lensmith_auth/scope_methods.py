"""Which RPCs each scope allows, as the protos declare it."""

from collections import defaultdict
from importlib.resources import files

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from lensmith_api.v1.access_pb2 import access

PUBLIC_PACKAGE = "lensmith.v1"


def methods_by_scope() -> dict[str, list[str]]:
    """The public RPCs (`lensmith.v1.KeyService/GetKey`) that each scope allows by itself, implied scopes left out."""
    methods: dict[str, list[str]] = defaultdict(list)
    for file in FileDescriptorSet.FromString((files("lensmith_api") / "descriptors.binpb").read_bytes()).file:
        if file.package != PUBLIC_PACKAGE:
            continue
        for service in file.service:
            for method in service.method:
                if scope := method.options.Extensions[access].scope:
                    methods[scope].append(f"{PUBLIC_PACKAGE}.{service.name}/{method.name}")
    return dict(methods)
