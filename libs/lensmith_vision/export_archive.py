"""The archive of an exported version: everything that is needed to ask it without the platform, and to trust it.

Needs the extra ``lensmith[packs]``.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from string import Template

import numpy as np
import numpy.typing as npt
import onnx
from PIL import Image

from lensmith_vision.card import Card
from lensmith_vision.decode import decode
from lensmith_vision.export import Exported, ExportError, export_graph
from lensmith_vision.graph_parts import load_graph
from lensmith_vision.heads import Head
from lensmith_vision.pack import golden_images, kept_logits, scores_of_logits
from lensmith_vision.resize import ResizePolicy, apply
from lensmith_vision.session import Session, open_session

__all__ = ["EXPORT_TOLERANCE", "write_archive"]

Floats = npt.NDArray[np.float32]

EXPORT_TOLERANCE = 1e-3
"""How far an export's probabilities may be from the platform's; of numbers, how far relative to the number."""

_ANSWERS = {
    "probabilities": "dict(zip(labels, probabilities))",
    "predicted": "dict(zip(labels, predicted))",
    "number": "number[0]",
    "unfamiliar": "unfamiliar[0]",
}
_TEMPLATES = Path(__file__).parent / "export_files"
_SAMPLE_SEED = 20
_SAMPLE_SIZE = 480, 640
_GOLDEN_SEEDS = (1, 2)
_EPOCH = 1980, 1, 1, 0, 0, 0
"""Equal versions give equal bytes, so the time of the export stands nowhere."""


def write_archive(
    base_graph: Path, exported: Exported, display_names: Sequence[str], card_json: str, target: Path
) -> None:
    """Write the archive of a version, after its numbers have come out right.

    Args:
        base_graph: Graph of the base network's pack.
        exported: The version.
        display_names: Names for people of its concepts.
        card_json: The card of the version, as JSON.
        target: The file to write.

    Raises:
        ExportError: The exported graph gives other numbers than the platform.
        VisionError: The base network cannot be read or run.
    """
    sample = _sample()
    policy = exported.card.resize
    pixels = apply(decode(sample, min_side_hint=policy.min_side_hint), policy)
    pictures = np.concatenate([pixels[np.newaxis], golden_images(_GOLDEN_SEEDS, policy.height, policy.width)])
    graph = export_graph(load_graph(base_graph), exported)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        onnx.save(graph, path)
        answers = open_session(path, threads=1).run(list(exported.outputs), {"image": pictures})
        _check(exported, answers[0], _of_platform(open_session(base_graph, threads=1), exported, pictures))
        named = {name: values[0] for name, values in zip(exported.outputs, answers, strict=True)}
        files = {
            "README.md": _readme(exported),
            "predict.py": _program(exported),
            "labels.txt": "".join(f"{concept}\n" for concept in exported.concepts),
            "names.json": _json(dict(zip(exported.concepts, display_names, strict=True))),
            "card.json": card_json,
            "sample.json": _json(_expected(exported, named)),
        }
        with zipfile.ZipFile(target, "w") as archive:
            for name, text in files.items():
                _add(archive, name, text.encode())
            _add(archive, "sample.png", sample)
            _add(archive, "model.onnx", path.read_bytes())


def _of_platform(session: Session, exported: Exported, pictures: npt.NDArray[np.uint8]) -> Floats:
    """What the platform answers about pictures of the right size."""
    if isinstance(exported.answer, Head):
        (features,) = session.run(["features"], {"image": pictures})
        return exported.answer.scores(features)
    (logits,) = session.run(["logits"], {"image": pictures})
    if exported.answer.sums is None:
        return scores_of_logits(exported.card, logits)
    return exported.answer.sums.probabilities(kept_logits(exported.card, logits), exported.answer.temperature)


def _check(exported: Exported, actual: Floats, expected: Floats) -> None:
    scale = np.maximum(1.0, np.abs(expected)) if exported.outputs[0] == "number" else 1.0
    if actual.shape != expected.shape or not (np.abs(actual - expected) <= EXPORT_TOLERANCE * scale).all():
        raise ExportError(
            "EXPORT_DIFFERS", f"the exported graph of {exported.name} gives other numbers than the platform"
        )


def _sample() -> bytes:
    """A drawn picture: training pictures are their owner's, and must not travel with the model."""
    stream = io.BytesIO()
    Image.fromarray(golden_images([_SAMPLE_SEED], *_SAMPLE_SIZE)[0]).save(stream, "PNG")
    return stream.getvalue()


def _expected(exported: Exported, answers: dict[str, Floats]) -> dict[str, object]:
    """The numbers to expect of the sample, as `predict.py` prints them."""
    found: dict[str, object] = {"picture": "sample.png"}
    if "number" in answers:
        found["number"] = float(answers["number"][0])
    else:
        found["probabilities"] = dict(zip(exported.concepts, answers["probabilities"].tolist(), strict=True))
        found["predicted"] = dict(zip(exported.concepts, answers["predicted"].tolist(), strict=True))
    if "unfamiliar" in answers:
        found["unfamiliar"] = float(answers["unfamiliar"][0])
    return found


def _program(exported: Exported) -> str:
    policy = exported.card.resize
    return Template((_TEMPLATES / "predict.py.txt").read_text(encoding="utf-8")).substitute(
        size=f"{policy.width}, {policy.height}",
        least=policy.min_side_hint,
        filter=policy.filter.upper(),
        seen=_seen(policy),
        outputs=", ".join(exported.outputs) + ("," if len(exported.outputs) == 1 else ""),
        answer=", ".join(f'"{name}": {_ANSWERS[name]}' for name in exported.outputs),
    )


def _seen(policy: ResizePolicy) -> str:
    """Write down the width and height of the part that the network sees, as `seen_box` computes them."""
    if policy.kind == "squash":
        return "image.size"
    if policy.kind == "short_side_crop":
        share = f"{policy.width} / {policy.short_side}, {policy.height} / {policy.short_side}"
        return f"[min(image.size) * share for share in ({share})]"
    sides = f"(image.width, {policy.width} / {policy.height}), (image.height, {policy.height} / {policy.width})"
    return f"[min(side, round((image.width * image.height * by) ** 0.5, 6)) for side, by in ({sides})]"


def _readme(exported: Exported) -> str:
    card: Card = exported.card
    outputs = {
        "probabilities": f"float32 [n, {len(exported.concepts)}], one for each line of `labels.txt`",
        "predicted": f"bool [n, {len(exported.concepts)}], whether the probability reaches the concept's threshold",
        "number": "float32 [n, 1]",
        "unfamiliar": "float32 [n, 1], how unlike the training pictures a picture is; more than 0.5 is unlike them",
    }
    return Template((_TEMPLATES / "README.md.txt").read_text(encoding="utf-8")).substitute(
        version=exported.name,
        size=f"{card.resize.height}, {card.resize.width}",
        outputs="\n".join(f"- `{name}`: {outputs[name]}" for name in exported.outputs),
        base=f"{card.display_name} ({card.id}, version {card.version})",
        licence=card.licence,
        source=card.source,
    )


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    # Weights hardly shrink, so little time is spent on it.
    archive.writestr(info, data, zipfile.ZIP_DEFLATED, compresslevel=1)
