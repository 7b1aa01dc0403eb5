"""Networks of `timm` as packs: what an app learns on, and what fine-tuning begins from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith_vision.card import Card
from lensmith_vision.errors import PackError
from lensmith_vision.fine_tune.starts import torch_pack

if TYPE_CHECKING:  # torch comes with timm
    from torch import nn

__all__ = ["timm_id", "timm_pack"]

_WEIGHTS = "model.safetensors"
"""The only file that is fetched of a hub: weights of another kind would be pickles."""

_COUNTED = "num_batches_tracked"
"""What batch normalisation counts while it learns; nothing here depends on it."""


def timm_id(name: str) -> str:
    """Return how a pack of a network is called where nobody says."""
    return f"timm-{name}"


def timm_pack(
    name: str, destination: Path, *, weights: Path | None = None, id: str = "", rank: int | None = None
) -> Card:
    """Make a pack of a convolutional network of timm, without its classifier.

    Args:
        name: As timm calls it, such as ``resnet18.a1_in1k``.
        destination: The folder to make.
        weights: A safetensors file of the network; None: timm fetches the published one from its hub.
        id: Of the pack; empty: made of the name.
        rank: Of the pack; None: as imported networks have it.

    Raises:
        PackError: ``TIMM_NOT_INSTALLED``; ``PACK_SOURCE_INVALID``: timm does not know the network or cannot fetch
            it, or the file is not of this network; or the network is none that packs can hold.
    """
    try:
        import timm
    except ImportError as error:
        raise PackError(
            "TIMM_NOT_INSTALLED", f'networks of timm need `pip install "lensmith[finetune]" timm`: {error}'
        ) from error
    known = timm.get_pretrained_cfg(name)
    if known is None:
        raise PackError("PACK_SOURCE_INVALID", f"timm {timm.__version__} knows no network {name!r} with weights")
    network = _published(timm, name) if weights is None else _of_file(timm, name, weights)
    size = network.pretrained_cfg["input_size"]
    return torch_pack(
        network,
        destination,
        name=timm_id(name),
        size=(int(size[1]), int(size[2])),
        mean=network.pretrained_cfg["mean"],
        deviation=network.pretrained_cfg["std"],
        licence=str(network.pretrained_cfg.get("license") or "unknown") if weights is None else "unknown",
        source=f"timm:{name} (timm {timm.__version__}, {known.hf_hub_id if weights is None else weights.name})",
        id=id,
        rank=rank,
    )


def _published(timm: Any, name: str) -> Any:
    try:
        return timm.create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay={"hf_hub_filename": _WEIGHTS},
            num_classes=0,
            global_pool="",
        )
    except Exception as error:
        raise PackError("PACK_SOURCE_INVALID", f"the weights of {name!r} cannot be had: {error}") from error


def _of_file(timm: Any, name: str, weights: Path) -> Any:
    """Load weights ourselves: timm passes over those that are missing."""
    import safetensors.torch

    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
    try:
        given = safetensors.torch.load_file(weights)
    except (OSError, safetensors.SafetensorError) as error:
        raise PackError("PACK_SOURCE_INVALID", f"{weights.name} is no safetensors file: {error}") from error
    wanted = [key for key in network.state_dict() if not key.endswith(_COUNTED)]
    missing = [key for key in wanted if key not in given]
    if missing:
        raise PackError(
            "PACK_SOURCE_INVALID",
            f"{weights.name} is not of {name}: it lacks {len(missing)} of {len(wanted)} weights, such as {missing[0]}",
        )
    try:
        # A classifier that the file may have is not wanted.
        network.load_state_dict({key: given[key] for key in wanted}, strict=False)
    except RuntimeError as error:
        raise PackError("PACK_SOURCE_INVALID", f"{weights.name} is not of {name}: {error}") from error
    return network
