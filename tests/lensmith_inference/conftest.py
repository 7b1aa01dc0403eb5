"""Inference with all its interceptors, between real peers, on real packs."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest

from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_api.v1.inference_service_pb2_grpc import InferenceServiceStub
from lensmith_inference.app import build
from lensmith_inference.settings import InferenceSettings
from lensmith_platform.server import RunningService, running
from lensmith_platform.service_auth import TokenSigner, make_key_pair
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.heads import Head
from lensmith_vision.pack import builtin_pack, find_packs, load_card, space_of
from lensmith_vision.pack_builder import build_pack, read_source

if TYPE_CHECKING:
    from lensmith_api.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub

from tests.lensmith_inference.peers import Dataset, Registry
from tests.peers import Auth, Peer

SECRET = "secret-of-app-a"
OTHER_SECRET = "secret-of-app-b"
APP_A, APP_B = 7, 8


def make_head(space: str, dim: int, concepts: tuple[str, ...], *, kind: str = "multi_class", seed: int = 0) -> Head:
    """A head of random numbers, scaled so that its scores differ between pictures."""
    random = np.random.RandomState(seed)
    count = len(concepts)
    return Head(
        type=kind,
        space=space,
        concepts=concepts,
        weights=random.randn(dim, count).astype(np.float32),
        bias=random.randn(count).astype(np.float32),
        thresholds=np.full(count, 0.5, np.float32),
        value_range=(-1000.0, 1000.0) if kind == "regression" else None,
    )


@dataclass
class Rig:
    """A running inference service and its peers."""

    service: RunningService
    stub: "InferenceServiceAsyncStub"
    auth: Auth
    registry: Registry
    dataset: Dataset
    auth_peer: Peer
    registry_peer: Peer
    dataset_peer: Peer
    base_model: BaseModel
    directory: Path
    sockets: Path

    def key(self, secret: str = SECRET) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Key {secret}"),)

    def token(self, service: str, app_id: int = 0) -> tuple[tuple[str, str], ...]:
        signer = TokenSigner(service, self.directory / "private" / f"{service}.pem")
        return (("authorization", f"Service {signer.token('inference', app_id)}"),)

    def add_model(self, model: str, *, seed: int = 0, kind: str = "multi_class", app: str = "a") -> Head:
        """Add a version of a model with random numbers, and put it in production."""
        concepts = ("value",) if kind == "regression" else ("glass", "metal", "paper")
        head = make_head(self.base_model.space, self.base_model.dimensions, concepts, kind=kind, seed=seed)
        self.registry.add_version({"a": APP_A, "b": APP_B, "main": 1}[app], app, model, self.base_model, head)
        return head


@asynccontextmanager
async def rig_of(
    directory: Path,
    nats_url: str,
    packs: list[Path],
    *,
    registry_up: bool = True,
    corrupt: bool = False,
    **settings: object,
) -> AsyncIterator[Rig]:
    """Start everything; the first pack is the base model of the apps.

    Args:
        directory: Of the test.
        nats_url: Where the bus is, or is not.
        packs: What registry has.
        registry_up: Whether registry answers from the start.
        corrupt: Whether registry sends altered bytes.
        settings: Of inference.
    """
    for service in ("inference", "dataset", "registry", "auth"):
        make_key_pair(service, directory / "private" / f"{service}.pem", directory / "keys")
    auth, registry, dataset = Auth(), Registry(), Dataset()
    base_models = [registry.add_pack(pack) for pack in packs]
    for name, number, secret in (("a", APP_A, SECRET), ("b", APP_B, OTHER_SECRET)):
        auth.add_app(name, app_id=number)
        auth.add_key(secret, name, ["Predict"])
    # Paths of unix sockets are short, and pytest's directories are not.
    with tempfile.TemporaryDirectory(prefix="lens-") as sockets:
        auth_peer, registry_peer = Peer(Path(sockets) / "auth", auth), Peer(Path(sockets) / "registry", registry)
        dataset_peer = Peer(Path(sockets) / "dataset", dataset)
        await asyncio.gather(auth_peer.start(), dataset_peer.start())
        registry.corrupt = corrupt
        if registry_up:
            await registry_peer.start()
        chosen = InferenceSettings(
            service_key_file=directory / "private" / "inference.pem",
            service_keys_dir=directory / "keys",
            addresses={
                "auth": auth_peer.target,
                "registry": registry_peer.target,
                "dataset": dataset_peer.target,
            },
            nats_url=nats_url,
            cache_dir=directory / "cache",
            **settings,
        )
        try:
            async with running(chosen, build) as service, grpc.aio.insecure_channel(service.target) as channel:
                stub = InferenceServiceStub(channel)
                yield Rig(
                    service,
                    stub,
                    auth,
                    registry,
                    dataset,
                    auth_peer,
                    registry_peer,
                    dataset_peer,
                    base_models[0],
                    directory,
                    Path(sockets),
                )
        finally:
            await asyncio.gather(auth_peer.stop(), registry_peer.stop(), dataset_peer.stop())


@pytest.fixture
async def rig(tmp_path: Path, nats_url: str) -> AsyncIterator[Rig]:
    """Inference on the plain pack."""
    async with rig_of(tmp_path, nats_url, [builtin_pack()]) as running_rig:
        yield running_rig


@pytest.fixture(scope="session")
def shared_packs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Packs made of the given networks, by name."""
    folder = tmp_path_factory.mktemp("packs")
    for name in ("mobilenetv2-features", "mobilenetv2-imagenet"):
        build_pack(read_source(shared / "models" / name), folder / name)
    return {pack.name: pack for pack in find_packs(folder)}


@pytest.fixture(scope="session")
def plain_engine() -> tuple[OnnxRuntimeEngine, str]:
    """The plain pack in an engine of the test's own, and its space."""
    engine = OnnxRuntimeEngine()
    card = engine.load(_space(builtin_pack()), builtin_pack())
    return engine, space_of(card).id


def _space(folder: Path) -> str:
    return space_of(load_card(folder)).id
