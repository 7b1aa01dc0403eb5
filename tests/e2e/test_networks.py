"""A fine-tuned version on the whole platform: whatever a version can do, one with a network of its own does too.

The network comes from no trainer: the test hands it in over the trainer's own RPCs, so that nothing here needs PyTorch.
"""

import asyncio
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image

import lensmith
from lensmith.types import Annotation, ModelType, ModelVersion, VersionState
from lensmith_api.internal.v1 import training_job_service_pb2 as job_pb
from lensmith_api.internal.v1.key_resolver_service_pb2 import ResolveAppRequest
from lensmith_api.internal.v1.key_resolver_service_pb2_grpc import KeyResolverServiceStub
from lensmith_api.internal.v1.serving_service_pb2 import FetchArtefactRequest, NetworkFile, ResolveModelRequest
from lensmith_api.internal.v1.serving_service_pb2_grpc import ServingServiceStub
from lensmith_api.internal.v1.training_job_service_pb2_grpc import TrainingJobServiceStub
from lensmith_api.v1.model_service_pb2 import GetModelVersionRequest
from lensmith_api.v1.model_service_pb2_grpc import ModelServiceStub
from lensmith_api.v1.model_version_pb2 import EvaluationSummary
from lensmith_platform.service_auth import TokenSigner
from lensmith_vision import decode, heads, out_of_fold, resize
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.materials import MATERIALS, render
from lensmith_vision.networks import network_id
from lensmith_vision.pack import load_card, space_of
from lensmith_vision.training import Fitted, fit
from lensmith_vision.training_set import TrainingSet, TrainOptions
from lensmith_vision.transforms import transformed
from tests.platform_process import PlatformProcess
from tests.polling import until
from tests.tuned_packs import tuned_pack

pytestmark = [pytest.mark.xdist_group("platform"), pytest.mark.timeout(300)]

APP, MODEL = "tuner", "sorter"
TRAINED = 10
CHUNK = 1 << 20


@dataclass
class Internal:
    """The platform's services, asked as one of its own."""

    platform: PlatformProcess

    @contextmanager
    def channel(self, service: str) -> Iterator[grpc.Channel]:
        with grpc.insecure_channel(str(self.platform.parts()[service]["address"])) as channel:
            yield channel

    def token(self, caller: str, audience: str, app_id: int = 0) -> tuple[tuple[str, str], ...]:
        key = self.platform.data_dir / "secrets" / "keys" / "private" / f"{caller}.pem"
        return (("authorization", f"Service {TokenSigner(caller, key).token(audience, app_id)}"),)

    def app_id(self, app: str) -> int:
        with self.channel("auth") as channel:
            asked = ResolveAppRequest(app=app)
            return int(
                KeyResolverServiceStub(channel).ResolveApp(asked, metadata=self.token("registry", "auth")).app_id
            )

    @contextmanager
    def without_trainer(self) -> Iterator[None]:
        """Stop the trainer, so that a version waits for whoever claims it."""
        pid = int(str(self.platform.parts()["trainer"]["pid"]))
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@dataclass
class Tuned:
    """An app with a model: version 1 is a head, version 2 has a network of its own."""

    client: lensmith.Client
    platform: PlatformProcess
    internal: Internal
    app_id: int
    folder: Path
    fitted: Fitted
    unseen: list[Path]

    def looked(self, files: list[Path]) -> np.ndarray:
        """Features of pictures by the network, without the platform."""
        return features(self.folder, files)

    def values(self, files: list[Path], version: int = 0) -> list[dict[str, float]]:
        answer = self.client.predict(MODEL, files, version=version)
        assert answer.model_version.endswith(f"/{version or 2}")
        return [{one.concept: one.value for one in item.concepts} for item in answer.items]

    def expected(self, files: list[Path]) -> list[dict[str, float]]:
        head = self.fitted.head
        return [dict(zip(head.concepts, row.tolist(), strict=True)) for row in head.scores(self.looked(files))]


def features(folder: Path, files: list[Path]) -> np.ndarray:
    card = load_card(folder)
    engine = OnnxRuntimeEngine()
    engine.load(space_of(card).id, folder)
    pixels = [decode.decode(file.read_bytes(), min_side_hint=card.resize.min_side_hint) for file in files]
    return engine.run(space_of(card).id, np.stack([resize.apply(one, card.resize) for one in pixels])).features


def hand_in(internal: Internal, app_id: int, uid: str, folder: Path, files: dict[str, Path], known) -> Fitted:
    """Claim a version, and hand in a network and the head that was fitted on what it sees, as trainers do."""
    concepts = tuple(MATERIALS)
    space = space_of(tuned_pack(folder, network_id(uid), concepts)).id
    ids = [one.id for one in known]
    labels = np.asarray([[float(one.annotations[0].concept == name) for name in concepts] for one in known], np.float32)
    seen = features(folder, [files[one] for one in ids])
    uids, groups = tuple(one.uid for one in known), tuple(one.sha256 for one in known)
    fitted = fit(TrainingSet(space, concepts, uids, seen, groups, labels), TrainOptions("multi_class", tier="linear"))
    # Drawn materials are so easy that every head is sure of them; less sure, it is told from that of version 1.
    head = fitted.head
    sure = (transformed(seen, head.transform) @ head.weights + head.bias).std() / 2
    fitted = replace(fitted, head=replace(head, weights=head.weights / sure, bias=head.bias / sure))
    with internal.channel("registry") as channel:
        jobs, token = TrainingJobServiceStub(channel), internal.token("trainer", "registry", app_id)
        claim = job_pb.ClaimModelVersionRequest(app_id=app_id, version_uid=uid, trainer="test")
        job = jobs.ClaimModelVersion(claim, metadata=token)
        for path in folder.iterdir():
            jobs.PutNetworkFile(_parts(job, path), metadata=token)
        request = job_pb.CompleteModelVersionRequest(
            app_id=app_id,
            version_uid=uid,
            lease=job.lease,
            head=heads.save(fitted.head),
            evaluation_json=fitted.evaluation.to_json().encode(),
            concepts=concepts,
            thresholds=fitted.head.thresholds.tolist(),
            input_count=fitted.input_count,
            dataset_sha256=hashlib.sha256(b"the same data").hexdigest(),
            summary=EvaluationSummary(**fitted.evaluation.summary()),
            out_of_fold=out_of_fold.save(fitted.out_of_fold),
            network_space=space,
        )
        jobs.CompleteModelVersion(request, metadata=token)
    return fitted


def _parts(job: job_pb.TrainingJob, path: Path) -> Iterator[job_pb.PutNetworkFileRequest]:
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    header = job_pb.NetworkFileHeader(
        app_id=job.app_id, version_uid=job.version_uid, lease=job.lease, file_name=path.name, sha256=sha256
    )
    yield job_pb.PutNetworkFileRequest(header=header)
    for start in range(0, len(content), CHUNK):
        yield job_pb.PutNetworkFileRequest(chunk=content[start : start + CHUNK])


@pytest.fixture(scope="module")
def tuned(platform: PlatformProcess, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    photos, internal = tmp_path_factory.mktemp("materials"), Internal(platform)
    render(photos, TRAINED + 1, seed=7)
    client = platform.new_app(APP)
    client.concepts.create(list(MATERIALS))
    files = {f"{name}-{n}": photos / name / f"{n:03}.jpg" for name in MATERIALS for n in range(TRAINED)}
    new = [lensmith.NewInput(file, id=own, annotations=[Annotation(own.split("-")[0])]) for own, file in files.items()]
    assert not [result.error for result in client.inputs.create(new) if result.error]
    client.inputs.wait_until_ready()
    client.models.create(MODEL, ModelType.MULTI_CLASS, concepts=list(MATERIALS))
    assert client.models.wait(MODEL, client.models.train(MODEL).number).state is VersionState.READY
    known = list(client.models.list_version_inputs(MODEL, 1))
    app_id, folder = internal.app_id(APP), tmp_path_factory.mktemp("network") / "pack"
    with internal.without_trainer():
        name = client.models.train(MODEL).name
        with internal.channel("registry") as channel:
            metadata = (("authorization", f"Key {platform.operator_key}"),)
            uid = ModelServiceStub(channel).GetModelVersion(GetModelVersionRequest(name=name), metadata=metadata).uid
        fitted = hand_in(internal, app_id, uid, folder, files, known)
        assert client.models.wait(MODEL, 2).state is VersionState.READY
    unseen = [photos / name / f"{TRAINED:03}.jpg" for name in MATERIALS]
    return Tuned(client, platform, internal, app_id, folder, fitted, unseen)


def version_of(tuned: Tuned, number: int) -> ModelVersion:
    return tuned.client.models.get_version(MODEL, number)


def test_network_is_loaded_before_anybody_asks_when_its_version_is_ready(tuned: Tuned) -> None:
    port = json.loads((tuned.platform.data_dir / "ports.json").read_text())["ports"]["metrics_inference"]

    async def loaded() -> bool:
        async with httpx.AsyncClient() as http:
            text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
        return "\nlensmith_inference_networks 1.0\n" in text

    assert asyncio.run(until(loaded))


def test_version_answers_with_its_own_network_and_says_so(tuned: Tuned) -> None:
    head, own = version_of(tuned, 1), version_of(tuned, 2)
    card = load_card(tuned.folder)
    assert (head.network_space, head.network_size_bytes) == ("", 0)
    assert (own.network_space, own.network_size_bytes) == (space_of(card).id, card.bytes)
    assert own.production
    for said, truth in zip(tuned.values(tuned.unseen), tuned.expected(tuned.unseen), strict=True):
        assert said == pytest.approx(truth, abs=1e-4)
    before = tuned.values(tuned.unseen, version=1)
    assert before != tuned.values(tuned.unseen)
    # The network lays its features out otherwise: each head sees with its own eyes, and both see well.
    for item, name in zip(tuned.client.predict(MODEL, tuned.unseen).items, MATERIALS, strict=True):
        assert item.best is not None
        assert item.unfamiliar is not None
        assert item.best.concept == name
    own_key = {"LENSMITH_KEY": tuned.client.keys.create(["All"]).secret, "LENSMITH_APP": APP, "COLUMNS": "200"}
    assert "its own network, 3.2 MB" in tuned.platform.cli("models", "versions", MODEL, **own_key).stdout
    assert "its own network" in tuned.platform.cli("models", "card", MODEL, **own_key).stdout
    assert "fine-tuned from it" in tuned.client.models.report(MODEL, 2)


def test_production_goes_back_to_the_head_and_forward_again(tuned: Tuned) -> None:
    async def answers() -> bool:
        answer = tuned.client.predict(MODEL, tuned.unseen)
        number = int(answer.model_version.rpartition("/")[2])
        said = [{one.concept: one.value for one in item.concepts} for item in answer.items]
        # Whichever answers, it is never one version's head with the other one's eyes.
        assert said == tuned.values(tuned.unseen, version=number)
        return number == expected

    for expected, switched in ((1, tuned.client.models.rollback(MODEL)), (2, None)):
        changed = switched or tuned.client.models.promote(MODEL, 2)
        assert changed.production_version == expected
        asyncio.run(until(answers))


def test_evaluation_is_asked_and_compared_as_that_of_a_head(tuned: Tuned) -> None:
    evaluations, models = tuned.client.evaluations, tuned.client.models
    assert models.evaluation(MODEL, 2).input_count == len(MATERIALS) * TRAINED
    strict = evaluations.get(MODEL, 2, thresholds={name: 0.99 for name in MATERIALS})
    assert strict.macro_recall is not None
    compared = evaluations.compare(MODEL, 1, 2)
    assert compared.input_count == len(MATERIALS) * TRAINED
    # The data is looked through in the base model's space, with the scores of the network.
    assert not tuned.client.suggestions.wait(MODEL, 2).pending
    assert evaluations.wait_learning_curve(MODEL, 2).points


def test_export_contains_the_own_network_and_answers_as_the_platform(tuned: Tuned, tmp_path: Path) -> None:
    saved = tuned.client.models.export(MODEL, tmp_path / "model.zip", version=2)
    with zipfile.ZipFile(saved.path) as archive:
        archive.extractall(tmp_path)
    command = [sys.executable, "-I", str(tmp_path / "predict.py"), *map(str, tuned.unseen)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line)["probabilities"] for line in done.stdout.splitlines()]
    for own, answer, other in zip(said, tuned.values(tuned.unseen), tuned.values(tuned.unseen, version=1), strict=True):
        assert own == pytest.approx(answer, abs=1e-3)
        assert own != pytest.approx(other, abs=1e-3)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["modelVersion"]["networkSpace"] == version_of(tuned, 2).network_space
    assert card["baseModel"]["licence"]


def test_answer_is_explained_by_the_own_network_and_neighbours_of_the_base(tuned: Tuned) -> None:
    answer = tuned.client.explain(MODEL, tuned.unseen, nearest=3, overlay=True)
    head = tuned.fitted.head
    logits = transformed(tuned.looked(tuned.unseen), head.transform) @ head.weights + head.bias
    for item, row, name in zip(answer.items, logits, MATERIALS, strict=True):
        (one,) = item.concepts
        assert one.concept.concept == name
        assert one.logit == pytest.approx(row[head.concepts.index(name)], abs=1e-2)
        assert np.mean(one.heat_map.values) == pytest.approx(one.logit, abs=1e-2)
        with Image.open(io.BytesIO(one.heat_map.overlay)) as drawn:
            assert drawn.size == (192, 192)
        assert item.nearest_error is None
        assert sum(near.id.startswith(f"{name}-") for near in item.nearest) >= 2
    first = tuned.client.explain(MODEL, tuned.unseen[:1], version=1, nearest=3).items[0]
    assert [near.id for near in first.nearest] == [near.id for near in answer.items[0].nearest]


def test_network_stays_its_apps_own(tuned: Tuned) -> None:
    key = tuned.platform.new_app("stranger").keys.create(["All"]).secret
    with pytest.raises(lensmith.ForbiddenError), lensmith.Client(tuned.platform.url, key, APP) as thief:
        thief.predict(MODEL, tuned.unseen[:1])
    answer = httpx.get(
        f"{tuned.platform.url}/v1/apps/{APP}/models/{MODEL}/versions/2:export",
        headers={"Authorization": f"Key {key}"},
    )
    assert answer.status_code == 403
    internal, other = tuned.internal, tuned.internal.app_id("stranger")
    with internal.channel("registry") as channel:
        serving = ServingServiceStub(channel)
        asked = ResolveModelRequest(app_id=tuned.app_id, model=MODEL)
        served = serving.ResolveModel(asked, metadata=internal.token("inference", "registry", tuned.app_id))
        assert served.base_model.space == version_of(tuned, 2).network_space
        assert served.network_artefact

        def fetched(app_id: int, caller: str = "inference", file_name: str = "model.onnx") -> list[bytes]:
            network = NetworkFile(network=served.network_artefact, file_name=file_name)
            token = internal.token(caller, "registry", app_id)
            stream = serving.FetchArtefact(FetchArtefactRequest(network_file=network), metadata=token)
            return [part.chunk for part in stream]

        def head(app_id: int) -> bytes:
            token = internal.token("inference", "registry", app_id)
            stream = serving.FetchArtefact(FetchArtefactRequest(head=served.head_artefact), metadata=token)
            return b"".join(part.chunk for part in stream)

        assert head(tuned.app_id) == heads.save(tuned.fitted.head)
        with pytest.raises(grpc.RpcError) as refused:
            head(other)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        chunks = fetched(tuned.app_id)
        assert b"".join(chunks) == (tuned.folder / "model.onnx").read_bytes()
        assert max(map(len, chunks)) <= CHUNK
        assert fetched(tuned.app_id, "trainer", "card.json") == [(tuned.folder / "card.json").read_bytes()]
        for app_id, caller, name in (
            (other, "inference", "model.onnx"),
            (0, "inference", "model.onnx"),
            (tuned.app_id, "dataset", "model.onnx"),
            (tuned.app_id, "inference", "../1/model.onnx"),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                fetched(app_id, caller, name)
            expected = grpc.StatusCode.PERMISSION_DENIED if caller == "dataset" else grpc.StatusCode.NOT_FOUND
            assert refused.value.code() is expected


def test_network_is_loaded_again_when_inference_was_killed(tuned: Tuned) -> None:
    before = tuned.values(tuned.unseen)
    os.kill(int(str(tuned.platform.parts()["inference"]["pid"])), signal.SIGKILL)
    # The client waits for a server that is starting, so this is the first answer of the new process.
    assert tuned.values(tuned.unseen) == before


def test_network_answers_on_when_its_app_moves_to_another_base_model(tuned: Tuned) -> None:
    before = tuned.values(tuned.unseen)
    upgrades = tuned.client.upgrades
    done = upgrades.wait(upgrades.start("plain", force=True).number)
    assert done.state is lensmith.UpgradeState.DONE
    assert tuned.values(tuned.unseen, version=2) == before
    # Training pictures have vectors of the new base model only, so that is where neighbours are looked for.
    answer = tuned.client.explain(MODEL, tuned.unseen[:2], version=2, nearest=3)
    for item in answer.items:
        assert item.concepts[0].heat_map.values
        assert item.nearest_error is None
        assert len(item.nearest) == 3
