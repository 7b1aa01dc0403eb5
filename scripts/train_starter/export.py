"""Make the model pack `starter` of a checkpoint: preprocessing in the graph, weights stored in half precision.

Batch normalisation is folded into the convolutions, the throw-away projections stay behind, and General is calibrated
against the teacher on the pictures that were held out for it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import network
import numpy as np
import onnx
import pool
import torch
from distill import SIDE, Pupil
from numpy.typing import NDArray
from torch import Tensor, nn

from lensmith_vision import packing, resize
from lensmith_vision.decode import decode
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.general import LEAVES, TAXONOMY, Calibration, GeneralEvaluation, evaluate, hierarchy
from lensmith_vision.general.evaluation import DEEP
from lensmith_vision.general.fitting import calibrate
from lensmith_vision.pack import load_card, space_of
from lensmith_vision.pack_builder import PackSource, build_pack, read_source
from lensmith_vision.resize import ResizePolicy

DESTINATION = Path(__file__).resolve().parents[2] / "libs" / "lensmith_vision" / "packs" / "starter"
RANK = 100
_FOLDS = 5
_SCALE, _OFFSET = 1 / 64, -127.5 / 64
"""As `network.scaled`."""


class _Exported(nn.Module):
    """The student with the names of the contract's outputs."""

    def __init__(self, student: network.Starter) -> None:
        super().__init__()
        self.student = student

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps, features, logits = self.student(pictures)
        return features, maps, logits


def to_onnx(checkpoint: Path, destination: Path) -> int:
    """Write the student of a checkpoint as float32 NCHW graph; return how many steps it has learnt."""
    state = torch.load(checkpoint, weights_only=True)
    pupil = Pupil()
    pupil.load_state_dict(state["pupil"])
    torch.onnx.export(
        _Exported(pupil.student.eval()).eval(),
        (torch.zeros(1, 3, SIDE, SIDE),),
        destination,
        input_names=["input"],
        output_names=["features", "feature_map", "logits"],
        dynamic_axes={name: {0: "n"} for name in ("input", "features", "feature_map", "logits")},
        opset_version=17,
        dynamo=False,
    )
    model = packing.store_weights_as_fp16(onnx.load(destination))
    onnx.save(model, destination)
    return int(state["step"])


def leaf_logits(folder: Path, files: Sequence[Path]) -> NDArray[np.float32]:
    """Ask a pack about pictures: logits [n, 1000], the background left out."""
    engine, card = OnnxRuntimeEngine(threads=1), load_card(folder)
    space = space_of(card).id
    engine.load(space, folder)

    def ask(path: Path) -> NDArray[np.float32]:
        picture = resize.apply(decode(path.read_bytes()), card.resize)
        logits = engine.run(space, picture[None], logits=True).logits
        if logits is None:
            raise ValueError(f"{card.id} has no classifier")
        return logits[:, 1:]

    with ThreadPoolExecutor(2) as executor:
        return np.concatenate(list(executor.map(ask, files)))


def calibrated(own: NDArray[np.float32], teacher: NDArray[np.float32], precision: float) -> Calibration:
    """Fit the calibration that says most while as large a share is right on pictures that it was not fitted on.

    `calibrate` aims at a precision on the very pictures it sees; what comes out on others is found by five folds.

    Args:
        own: Logits of the network, [n, 1000].
        teacher: Logits of the teacher for the same pictures.
        precision: The share, 0 to 1.
    """
    folds = np.arange(len(own)) % _FOLDS
    for target in np.arange(0.70, 0.99, 0.01):
        right = given = 0.0
        for fold in range(_FOLDS):
            seen, new = folds != fold, folds == fold
            fitted = calibrate(own[seen], teacher[seen], target_precision=float(target))
            result = evaluate(own[new], teacher[new], temperature=fitted.temperature, thresholds=fitted.of_all())
            said = result.concepts_per_picture * result.pictures
            right, given = right + result.precision * said, given + said
        if right >= precision * given:
            return calibrate(own, teacher, target_precision=float(target))
    raise ValueError(f"no thresholds make {precision:.0%} of what General says right")


def export(checkpoint: Path, shared: Path, destination: Path, version: int, precision: float) -> GeneralEvaluation:
    """Replace the pack in a folder, and hold its General against the teacher on the pictures kept for that.

    Args:
        checkpoint: Of `distill.py anneal`.
        shared: Folder with distill/ and models/.
        destination: The pack's folder.
        version: Counts up whenever the network changes.
        precision: What share of what General says shall be right.
    """
    out = pool.held_out()
    files = {
        purpose: [shared / "distill" / file for file, why in out.items() if why == purpose]
        for purpose in set(out.values())
    }
    with tempfile.TemporaryDirectory() as scratch:
        onnx_file, teacher_folder = Path(scratch) / "student.onnx", Path(scratch) / "teacher"
        steps = to_onnx(checkpoint, onnx_file)
        teacher = read_source(shared / "models" / "mobilenetv2-imagenet")
        build_pack(teacher, teacher_folder)
        source = PackSource(
            id="starter",
            version=version,
            display_name="Starter",
            description="Small network of our own, distilled from two MobileNetV2 teachers; see docs/starter.md",
            licence="Apache-2.0",
            source=f"scripts/train_starter, {steps} steps",
            rank=RANK,
            model=onnx_file,
            resize=ResizePolicy("squash", SIDE, SIDE),
            scale=(_SCALE,) * 3,
            offset=(_OFFSET,) * 3,
            labels=("background", *(", ".join((one.name, *one.synonyms)) for one in hierarchy().concepts[-LEAVES:])),
            ignored=(0,),
            taxonomy=TAXONOMY,
        )
        build_pack(source, Path(scratch) / "uncalibrated")
        teacher_says = leaf_logits(teacher_folder, files["calibration"])
        own = leaf_logits(Path(scratch) / "uncalibrated", files["calibration"])
        calibration = calibrated(own, teacher_says, precision)
        shutil.rmtree(destination, ignore_errors=True)
        build_pack(replace(source, calibration=calibration), destination)
        return evaluate(
            leaf_logits(destination, files["general"]),
            leaf_logits(teacher_folder, files["general"]),
            temperature=calibration.temperature,
            thresholds=calibration.of_all(),
        )


def main() -> None:
    """Parse, export, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with distill/ and models/")
    parser.add_argument("--to", type=Path, default=DESTINATION, help="folder of the pack, which is replaced")
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument("--precision", type=float, default=0.80, help="share of what General says that shall be right")
    options = parser.parse_args()
    result = export(options.checkpoint, options.shared, options.to, options.version, options.precision)
    print(f"{sum(file.stat().st_size for file in options.to.iterdir()) / 1e6:.1f} MB in {options.to}")
    print(
        f"General on {result.pictures} pictures: precision {result.precision:.3f}, recall {result.recall:.3f}, "
        f"{result.concepts_per_picture:.1f} concepts a picture, {result.deep_per_picture:.2f} of depth {DEEP} or more "
        f"({result.pictures_with_deep:.0%} of pictures have one), top-1 agreement {result.top1_agreement:.3f}, "
        f"in the teacher's top five {result.top5_agreement:.3f}"
    )
    for depth, count in sorted(result.by_depth.items()):
        print(f"  depth {depth:2}: {count.right} of {count.given} right, {count.precision:.2f}")


if __name__ == "__main__":
    main()
