"""Networks of timm as a start, where timm is installed; nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lensmith_vision.errors import PackError
from lensmith_vision.pack import golden_images, verify

torch = pytest.importorskip("torch", reason="needs the extra lensmith[finetune]: run `make fine-tune`")
timm = pytest.importorskip("timm", reason="needs timm, which brings torchvision: pip install timm")

import safetensors.torch  # noqa: E402

from lensmith_vision.fine_tune.checking import check_start  # noqa: E402
from lensmith_vision.fine_tune.network import Network  # noqa: E402
from lensmith_vision.fine_tune.timm_start import timm_pack  # noqa: E402


def _drawn(name: str, folder: Path) -> Path:
    """A file with weights as they are published, drawn by chance, with a classifier that a start has no use for."""
    torch.manual_seed(3)
    network = timm.create_model(name, pretrained=False)
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2)
    safetensors.torch.save_file(network.state_dict(), folder / "drawn.safetensors")
    return folder / "drawn.safetensors"


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_network_of_timm_is_a_start_when_its_weights_lie_in_a_file(name: str, tmp_path: Path) -> None:
    weights = _drawn(name, tmp_path)
    card = timm_pack(name, tmp_path / "start", weights=weights, id="mine", rank=7)
    assert (card.id, card.rank, card.licence) == ("mine", 7, "unknown")
    assert card.source.startswith(f"timm:{name} (timm ")
    assert verify(tmp_path / "start").sha256 == card.sha256
    check_start(tmp_path / "start")
    blank = Network(tmp_path / "start", np.zeros((card.feature_dim, 1), np.float32), np.zeros(1, np.float32))
    pictures = torch.from_numpy(golden_images((4,), card.resize.height, card.resize.width))
    network = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    network.load_state_dict(safetensors.torch.load_file(weights), strict=False)
    known = network.pretrained_cfg
    scaled = (pictures / 255 - torch.tensor(known["mean"])) / torch.tensor(known["std"])
    with torch.inference_mode():
        expected = network.eval()(scaled.permute(0, 3, 1, 2)).mean((2, 3)).numpy()
        np.testing.assert_allclose(blank.features(pictures).numpy(), expected, rtol=1e-3, atol=1e-3)


def test_start_is_refused_when_file_or_network_will_not_do(tmp_path: Path) -> None:
    weights = _drawn("test_resnet", tmp_path)
    for name, said in (
        ("no_network", "knows no network 'no_network'"),
        ("test_efficientnet", "drawn.safetensors is not of test_efficientnet: it lacks"),
        ("test_vit", "drawn.safetensors is not of test_vit"),
    ):
        with pytest.raises(PackError, match=said):
            timm_pack(name, tmp_path / "start", weights=weights)
    with pytest.raises(PackError, match="and no map of it"):
        timm_pack("test_vit", tmp_path / "start", weights=_drawn("test_vit", tmp_path))
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(PackError, match=r"broken\.safetensors is no safetensors file"):
        timm_pack("test_resnet", tmp_path / "start", weights=tmp_path / "broken.safetensors")
    assert not (tmp_path / "start").exists()
