"""The teachers, at their best speed on a CPU: OpenVINO in bfloat16, normalisation inside the graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino.preprocess import PrePostProcessor

NAMES = ("mobilenetv2-features", "mobilenetv2-imagenet")
"""Teachers in the order of their features."""

_NORMALISE = {
    "mobilenetv2-features": ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    "mobilenetv2-imagenet": ([127.5] * 3, [127.5] * 3),
}
"""Mean and scale of raw RGB, from the teachers' cards."""


@dataclass(frozen=True)
class Lesson:
    """What the teachers say of some views.

    Attributes:
        maps: Last feature map of each teacher, [n, 1280, 7, 7] float32; features are its mean over space.
        logits: [n, 1001] float32.
    """

    maps: tuple[NDArray[np.float32], ...]
    logits: NDArray[np.float32]

    @property
    def features(self) -> tuple[NDArray[np.float32], ...]:
        """Features of each teacher, [n, 1280]."""
        return tuple(maps.mean((2, 3)) for maps in self.maps)


class Teachers:
    """Two networks compiled for this machine.

    Args:
        models: Folder with a folder for each teacher.
        batch: Views of one call.
    """

    def __init__(self, models: Path, batch: int) -> None:
        core = ov.Core()
        self._requests = []
        for name in NAMES:
            model = core.read_model(models / name / "model.onnx")
            steps = PrePostProcessor(model)
            mean, scale = _NORMALISE[name]
            steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
            steps.input().model().set_layout(ov.Layout("NCHW"))
            steps.input().preprocess().convert_element_type(ov.Type.f32).mean(mean).scale(scale)
            model = steps.build()
            model.reshape([batch, 224, 224, 3])
            settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 1}
            self._requests.append(core.compile_model(model, "CPU", settings).create_infer_request())

    def teach(self, views: NDArray[np.uint8]) -> Lesson:
        """Ask both about views [batch, 224, 224, 3]."""
        for request in self._requests:
            request.infer({0: views})
        maps = tuple(request.get_tensor("feature_map").data.copy() for request in self._requests)
        return Lesson(maps, self._requests[1].get_tensor("logits").data.copy())
