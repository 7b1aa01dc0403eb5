"""Lightning's checkpoints without pickle: tensors as safetensors, everything else as JSON in their metadata."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from torch import Tensor

from lensmith_vision.errors import TrainingError
from lensmith_vision.fine_tune.job import put_file

__all__ = ["SafeCheckpoints", "load_weights", "pack_state", "remove_damaged", "save_weights", "unpack_state"]

_KEY = "lensmith_checkpoint"


class SafeCheckpoints(CheckpointIO):
    """Writes what Lightning wants kept; a file appears complete or not at all, so a kill leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """See the base class."""
        put_file(Path(path), pack_state(checkpoint))

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See the base class; tensors come to the CPU, from where Lightning takes them.

        Raises:
            TrainingError: ``CHECKPOINT_INVALID``.
        """
        return unpack_state(Path(path).read_bytes())

    def remove_checkpoint(self, path: Any) -> None:
        """See the base class."""
        Path(path).unlink(missing_ok=True)


def pack_state(state: Mapping[str, Any]) -> bytes:
    """Write nested dicts, lists, tuples, numbers, texts and tensors.

    Raises:
        TypeError: There is something else in it, which only pickle could keep.
    """
    tensors: dict[str, Tensor] = {}
    document = _packed(state, tensors)
    return safetensors.torch.save(tensors, metadata={_KEY: json.dumps(document)})


def unpack_state(data: bytes) -> dict[str, Any]:
    """Read what `pack_state` wrote.

    Raises:
        TrainingError: ``CHECKPOINT_INVALID``.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        document = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_KEY])
        state = _unpacked(document, safetensors.torch.load(data))
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrainingError("CHECKPOINT_INVALID", f"the checkpoint cannot be read: {error!r}") from error
    if not isinstance(state, dict):
        raise TrainingError("CHECKPOINT_INVALID", "the checkpoint holds no state")
    return state


def _packed(value: Any, tensors: dict[str, Tensor]) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # A copy: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        # Pairs, because the keys of an optimiser's state are numbers.
        return {"pairs": [[_packed(key, tensors), _packed(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list):
        return [_packed(item, tensors) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_packed(item, tensors) for item in value]}
    raise TypeError(f"a checkpoint cannot keep {type(value).__name__} without pickle")


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "tuple" in value:
        return tuple(_unpacked(item, tensors) for item in value["tuple"])
    return {_unpacked(key, tensors): _unpacked(item, tensors) for key, item in value["pairs"]}


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights, complete or not at all."""
    put_file(
        path, safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    )


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read weights.

    Raises:
        TrainingError: ``CHECKPOINT_INVALID``.
    """
    try:
        return safetensors.torch.load(path.read_bytes())
    except (OSError, safetensors.SafetensorError) as error:
        raise TrainingError("CHECKPOINT_INVALID", f"the weights cannot be read: {error}") from error


def remove_damaged(state: Path) -> None:
    """Remove trainings of which a file is cut short or no longer what was written, and what was not written to its end.

    Args:
        state: With a folder for each training.
    """
    for path in sorted(state.glob("*/*")):
        if path.suffix != ".safetensors":
            path.unlink(missing_ok=True)
            continue
        try:
            with safetensors.safe_open(path, "pt"):
                continue
        except (OSError, safetensors.SafetensorError):
            shutil.rmtree(path.parent, ignore_errors=True)
