"""A pack's network as a torch module, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.errors import PackError, TrainingError
from lensmith_vision.fine_tune.job import read_job
from lensmith_vision.pack import builtin_pack, golden_images, load_card, load_labels, space_of, verify
from lensmith_vision.pack_builder import build_pack, read_source

torch = pytest.importorskip("torch", reason="needs the extra lensmith[finetune]: run `make fine-tune`")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from lensmith_vision.fine_tune.export import write_network  # noqa: E402
from lensmith_vision.fine_tune.network import Network  # noqa: E402
from lensmith_vision.fine_tune.starts import mobilenet_v2_pack, torch_pack  # noqa: E402


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


def test_published_mobilenet_is_a_start_when_its_normalisation_is_folded(shared: Path, tmp_path: Path) -> None:
    card = mobilenet_v2_pack(shared / "models" / "mobilenetv2-trainable", tmp_path / "start")
    assert (card.feature_dim, card.feature_map) == (1280, (1280, 7, 7))
    network = _blank(tmp_path / "start")
    weights = np.load(shared / "models" / "mobilenetv2-trainable" / "weights.npz")
    pictures = torch.from_numpy(golden_images((4,), 224, 224))
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        expected = _mobilenet_v2(weights, ((pictures / 255 - mean) / spread).permute(0, 3, 1, 2)).numpy()
        np.testing.assert_allclose(network.features(pictures).numpy(), expected, rtol=1e-3, atol=1e-3)


def test_torch_network_is_a_start_when_it_has_batch_normalisation(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(8)
    with torch.no_grad():
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), norm, nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 1))
    values = {"mean": (0.5, 0.4, 0.3), "deviation": (0.2, 0.2, 0.3), "licence": "MIT", "source": "here"}
    card = torch_pack(network, tmp_path / "start", name="tiny.v1", size=(64, 64), **values)
    assert (card.id, card.feature_dim, card.feature_map) == ("tiny-v1", 16, (16, 16, 16))
    pictures = torch.from_numpy(golden_images((4,), 64, 64))
    scaled = (pictures / 255 - torch.tensor(values["mean"])) / torch.tensor(values["deviation"])
    with torch.inference_mode():
        expected = network.eval()(scaled.permute(0, 3, 1, 2)).mean((2, 3)).numpy()
        np.testing.assert_allclose(_blank(tmp_path / "start").features(pictures).numpy(), expected, atol=1e-4)


def test_start_is_refused_when_it_is_something_else(tmp_path: Path) -> None:
    with pytest.raises(PackError) as refused:
        mobilenet_v2_pack(tmp_path, tmp_path / "start")
    assert refused.value.reason == "PACK_SOURCE_INVALID"


def _mobilenet_v2(weights: np.lib.npyio.NpzFile, tensor: torch.Tensor) -> torch.Tensor:
    """The published network with its batch normalisation as it is, in inference."""

    def layer(tensor: torch.Tensor, conv: str, norm: str, stride: int = 1, relu: bool = True) -> torch.Tensor:
        kernel = torch.from_numpy(weights[f"{conv}.weight"])
        groups = kernel.shape[0] if kernel.shape[1] == 1 else 1
        tensor = functional.conv2d(tensor, kernel, None, stride, kernel.shape[2] // 2, groups=groups)
        names = ("running_mean", "running_var", "weight", "bias")
        tensor = functional.batch_norm(tensor, *(torch.from_numpy(weights[f"{norm}.{name}"]) for name in names))
        return tensor.relu() if relu else tensor

    tensor = layer(tensor, "conv0", "batchnorm0", 2)
    for number in range(17):
        name = f"linearbottleneck{number}_"
        inside = layer(tensor, f"{name}conv0", f"{name}batchnorm0")
        inside = layer(inside, f"{name}conv1", f"{name}batchnorm1", 2 if number in (1, 3, 6, 13) else 1)
        inside = layer(inside, f"{name}conv2", f"{name}batchnorm2", relu=False)
        tensor = tensor + inside if tensor.shape == inside.shape else inside
    return layer(tensor, "conv1", "batchnorm1").mean((2, 3))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
