"""A pack's network as a torch module, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.errors import TrainingError
from lensmith_vision.fine_tune.job import read_job
from lensmith_vision.pack import builtin_pack, golden_images, load_card, load_labels, space_of, verify
from lensmith_vision.pack_builder import build_pack, read_source

torch = pytest.importorskip("torch", reason="needs the extra lensmith[finetune]: run `make fine-tune`")

from lensmith_vision.fine_tune.export import write_network  # noqa: E402
from lensmith_vision.fine_tune.network import Network  # noqa: E402


def _blank(folder: Path, concepts: int = 2) -> Network:
    dim = load_card(folder).feature_dim
    return Network(folder, np.zeros((dim, concepts), np.float32), np.zeros(concepts, np.float32))


@pytest.mark.parametrize("name", ["starter", "mobilenetv2-features", "mobilenetv2-imagenet"])
def test_network_gives_golden_vectors_when_read_from_a_pack(name: str, shared: Path, tmp_path: Path) -> None:
    folder = builtin_pack(name) if name == "starter" else tmp_path / name
    if name != "starter":
        build_pack(read_source(shared / "models" / name), folder)
    card = load_card(folder)
    images = golden_images(card.golden.seeds, card.resize.height, card.resize.width)
    with torch.inference_mode():
        features = _blank(folder).features(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(features, card.golden.features, atol=1e-3)


def test_every_layer_learns_when_a_loss_flows_back() -> None:
    network = _blank(builtin_pack("starter"))
    with torch.no_grad():
        network.classifier.weight.normal_(generator=torch.Generator().manual_seed(0))
    bands = network.bands(6)
    assert sum(len(band) for band in bands) == len(network.weights) == 20
    network(torch.randint(0, 255, (2, 128, 128, 3), dtype=torch.uint8)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for band in bands for weight in band)


def test_pack_answers_as_torch_when_weights_have_changed(make_job, tmp_path: Path) -> None:
    job = read_job(make_job("job", each=2))
    start = builtin_pack("starter")
    network = _blank(start)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight += weight.std() * 0.1 * torch.randn(weight.shape, generator=generator) if weight.numel() > 1 else 0
        network.classifier.weight.normal_(std=0.05, generator=generator)
    card = write_network(network, network.kernel, network.bias, job, start, tmp_path / "pack")
    assert verify(tmp_path / "pack").sha256 == card.sha256
    assert card.feature_map == load_card(start).feature_map
    assert load_labels(tmp_path / "pack") == ["glass", "paper"]
    images = golden_images((5, 6, 7), 128, 128)
    engine = OnnxRuntimeEngine()
    engine.load(space_of(card).id, tmp_path / "pack")
    served = engine.run(space_of(card).id, images, feature_map=True, logits=True)
    with torch.inference_mode():
        logits = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(_softmax(served.logits), _softmax(logits), atol=1e-3)
    np.testing.assert_allclose(served.feature_map.mean(axis=(2, 3)), served.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(served.features @ network.kernel + network.bias, served.logits, atol=1e-3)


def test_network_is_refused_when_a_node_has_no_known_gradients() -> None:
    with pytest.raises(TrainingError) as refused:
        _blank(builtin_pack("plain"))
    assert refused.value.reason == "NETWORK_NOT_TRAINABLE"


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
