"""What fine-tuning came to, judged beside the head on the same held-out pictures. Needs no torch."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from lensmith_vision.errors import TrainingError
from lensmith_vision.familiarity import Familiarity
from lensmith_vision.fine_tune.job import RESULT_FOLDER, Floats, Ints

__all__ = ["PACK_FOLDER", "RESULT_FILE", "NetworkResult", "read_result"]

RESULT_FILE, PACK_FOLDER = "result.safetensors", "pack"
_KEY = "lensmith_fine_tuned"


@dataclass(frozen=True, eq=False)
class NetworkResult:
    """A fine-tuned network's classifier, and what networks that had not seen them said about held-out pictures.

    Attributes:
        rows: Rows of the job that were held out, [m].
        logits: [m, c], in the units of the truth, not calibrated.
        kernel: [d, c] of the network that learnt from everything.
        bias: [c].
        familiarity: Of its features; distances are those of held-out pictures.
        epochs: That each round took.
        tested: Rows of the job to evaluate on that were in no round, [t].
        tested_logits: [t, c], what a network that had not seen them said about them; by the same classifier.
    """

    rows: Ints
    logits: Floats
    kernel: Floats
    bias: Floats
    familiarity: Familiarity
    epochs: tuple[int, ...]
    tested: Ints
    tested_logits: Floats

    def to_bytes(self) -> bytes:
        """Write it as safetensors."""
        tensors: dict[str, npt.NDArray[np.generic]] = {
            "rows": self.rows,
            "logits": np.ascontiguousarray(self.logits),
            "tested": self.tested,
            "tested_logits": np.ascontiguousarray(self.tested_logits),
            "kernel": np.ascontiguousarray(self.kernel),
            "bias": self.bias,
            "mean": self.familiarity.mean,
            "axes": np.ascontiguousarray(self.familiarity.axes),
        }
        document = {"usual": self.familiarity.usual, "far": self.familiarity.far, "epochs": list(self.epochs)}
        return safetensors.numpy.save(tensors, metadata={_KEY: json.dumps(document)})


def read_result(folder: Path) -> NetworkResult:
    """Read the result of a job's folder.

    Raises:
        TrainingError: There is none, or it is damaged.
    """
    try:
        data = (folder / RESULT_FOLDER / RESULT_FILE).read_bytes()
        (size,) = struct.unpack_from("<Q", data)
        document = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_KEY])
        values = safetensors.numpy.load(data)
        familiarity = Familiarity(values["mean"], values["axes"], document["usual"], document["far"])
        return NetworkResult(
            values["rows"],
            values["logits"],
            values["kernel"],
            values["bias"],
            familiarity,
            tuple(document["epochs"]),
            values["tested"],
            values["tested_logits"],
        )
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError, struct.error) as error:
        raise TrainingError("FINE_TUNE_RESULT_INVALID", f"fine-tuning left no result: {error}") from error
