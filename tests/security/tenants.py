"""Every public RPC as the contract has it, and two apps to try them with."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import grpc
import pytest
from google.api import annotations_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

import lensmith
from lensmith_api.v1.access_pb2 import Access, access
from lensmith_vision.materials import render
from lensmith_vision.pack import CARD_FILE, builtin_pack, load_card
from tests.platform_process import PlatformProcess

VARIABLE = re.compile(r"\{([a-z_.]+)=([^}]*)\}")


@dataclass(frozen=True)
class Rpc:
    """A public RPC."""

    path: str
    access: Access
    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool
    app_field: str
    template: str

    def build(self, names: Callable[[str], str]) -> Message:
        """A request whose resource name is made by `names` from the RPC's template; nothing else is set."""
        request = self.request()
        *parents, last = self.app_field.split(".")
        target: Message = request
        for parent in parents:
            target = getattr(target, parent)
        if self.app_field:
            setattr(target, last, names(self.template))
        return request

    def call(self, channel: grpc.Channel, secret: str, request: Message) -> list[Message]:
        """Calls it; returns what it answers."""
        kind = ("stream" if self.client_streaming else "unary") + "_" + ("stream" if self.server_streaming else "unary")
        method = getattr(channel, kind)(
            self.path, request_serializer=self.request.SerializeToString, response_deserializer=self.response.FromString
        )
        sent = iter([request]) if self.client_streaming else request
        answer = method(sent, metadata=(("authorization", f"Key {secret}"),), timeout=30)
        return list(answer) if self.server_streaming else [answer]


def rpcs() -> Iterator[Rpc]:
    descriptors = FileDescriptorSet.FromString((files("lensmith_api") / "descriptors.binpb").read_bytes())
    pool = DescriptorPool()
    for file in descriptors.file:
        pool.Add(file)
    for file in descriptors.file:
        if file.package != "lensmith.v1":
            continue
        for service in file.service:
            for method in service.method:
                http = method.options.Extensions[annotations_pb2.http]
                pattern = next(
                    (getattr(http, verb) for verb in ("get", "post", "patch", "delete") if getattr(http, verb)), ""
                )
                field, template = next(
                    (found for found in VARIABLE.findall(pattern) if found[1].startswith("apps/")), ("", "")
                )
                yield Rpc(
                    path=f"/lensmith.v1.{service.name}/{method.name}",
                    access=method.options.Extensions[access],
                    request=message_factory.GetMessageClass(pool.FindMessageTypeByName(method.input_type[1:])),
                    response=message_factory.GetMessageClass(pool.FindMessageTypeByName(method.output_type[1:])),
                    client_streaming=method.client_streaming,
                    server_streaming=method.server_streaming,
                    app_field=field,
                    template=template,
                )


RPCS = list(rpcs())
APP_RPCS = [rpc for rpc in RPCS if rpc.app_field]


@dataclass(frozen=True)
class Tenants:
    """Two apps, the first with one of everything, an upgrade too; and a read-only key of the first."""

    channel: grpc.Channel
    first: str
    second: str
    read_only: str
    ids: dict[str, str]
    secrets_of_first: tuple[str, ...]


@pytest.fixture(scope="session")
def tenants(platform: PlatformProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    first, second = platform.new_app("first"), platform.new_app("second")
    pictures = render(tmp_path_factory.mktemp("wall"), 3)
    first.concepts.create(["hidden-wood", "hidden-brick"])
    labels = {"wood": "hidden-wood", "brick": "hidden-brick"}
    created = list(
        first.inputs.create(
            lensmith.NewInput(path, annotations=[lensmith.Annotation(labels[path.parent.name])])
            for path in pictures
            if path.parent.name in labels
        )
    )
    first.inputs.wait_until_ready(timeout=120)
    first.models.create("hidden-model", lensmith.ModelType.MULTI_CLASS)
    first.models.wait("hidden-model", first.models.train("hidden-model").number)
    platform.cli("base-models", "import", str(_other_pack(tmp_path_factory.mktemp("pack") / "other-plain")))
    upgrade = first.upgrades.wait(first.upgrades.start("other-plain", force=True).number)
    assert upgrade.state is lensmith.UpgradeState.DONE, upgrade.message
    key = first.keys.create(["Predict", "Search"])
    uid = next(result.input.uid for result in created if result.input)
    ids = {
        "inputs": uid,
        "concepts": "hidden-wood",
        "models": "hidden-model",
        "versions": "1",
        "keys": key.key.uid,
        "upgrades": str(upgrade.number),
    }
    with grpc.insecure_channel(platform.url.removeprefix("http://")) as channel:
        yield Tenants(
            channel=channel,
            first=_secret(platform, "first"),
            second=_secret(platform, "second"),
            read_only=key.secret,
            ids=ids,
            secrets_of_first=("hidden", uid, key.key.uid, "apps/first"),
        )
    first.close()
    second.close()


def _other_pack(folder: Path) -> Path:
    """The plain pack under another name, for an app to move to; not a better one, lest other apps begin with it."""
    shutil.copytree(builtin_pack(), folder)
    card = load_card(folder)
    (folder / CARD_FILE).write_text(replace(card, id=folder.name, rank=card.rank - 1).to_json())
    return folder


def _secret(platform: PlatformProcess, app: str) -> str:
    with lensmith.Client(platform.url, platform.operator_key, app) as operator:
        return operator.keys.create(["All"]).secret


def names(app: str, ids: dict[str, str]) -> Callable[[str], str]:
    """Fills a template `apps/*/models/*` with the ids of real things."""

    def fill(template: str) -> str:
        parts = template.split("/")
        for index, part in enumerate(parts):
            if part == "*":
                parts[index] = app if index == 1 else ids[parts[index - 1]]
        return "/".join(parts)

    return fill
