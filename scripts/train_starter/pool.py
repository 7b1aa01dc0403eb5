"""The pool of pictures without a task, and which of them distillation never sees.

`python pool.py POOL` writes `held_out.csv` anew; the rule depends on nothing but the manifest, so it never changes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

HELD_OUT_FILE = Path(__file__).with_name("held_out.csv")
"""Columns: file, purpose."""

_REPORT_PART = 0.05
_CALIBRATION_PART = 0.05
_FEWEST = 40
_SIDE = 176
"""Shorter side that pictures are kept at in memory, in pixels; the pool's are 160."""


@dataclass(frozen=True)
class Picture:
    """A row of the manifest.

    Attributes:
        file: Path below the pool.
        source: First folder of the path: the collection it comes from.
        label: What it shows; empty where nobody said.
        licence: Licence of its collection.
        provenance: What the licence is known from; `dataset-licence` is the strictest.
    """

    file: str
    source: str
    label: str
    licence: str
    provenance: str


def manifest(pool: Path) -> list[Picture]:
    """Read the manifest of a pool, in its order."""
    with (pool / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [
            Picture(row["file"], row["file"].split("/")[0], row["label"], row["license"], row["provenance"])
            for row in csv.DictReader(file)
        ]


def choose_held_out(pictures: Sequence[Picture]) -> dict[str, str]:
    """Choose what takes no part in distillation: purpose by file.

    Whole classes, so that the benchmark's labelled sets show things of which no picture was ever seen: every third of
    the animals and of the Caltech-101 categories with at least 40 pictures, by name. Then one in twenty of the rest to
    report General on, and one in twenty to calibrate it, by the hash of the name.
    """
    chosen: dict[str, str] = {}
    for source in ("animals", "caltech101"):
        counts = Counter(picture.label for picture in pictures if picture.source == source and picture.label)
        classes = sorted(label for label, count in counts.items() if count >= _FEWEST and "BACKGROUND" not in label)
        kept = set(classes[::3])
        chosen |= {p.file: source for p in pictures if p.source == source and p.label in kept}
    for picture in pictures:
        draw = int.from_bytes(hashlib.sha256(picture.file.encode()).digest()[:4], "big") / 2**32
        if draw < _REPORT_PART:
            chosen.setdefault(picture.file, "general")
        elif draw < _REPORT_PART + _CALIBRATION_PART:
            chosen.setdefault(picture.file, "calibration")
    return chosen


def held_out() -> dict[str, str]:
    """Read the frozen list: purpose by file."""
    with HELD_OUT_FILE.open(newline="", encoding="utf-8") as file:
        return {row["file"]: row["purpose"] for row in csv.DictReader(file)}


def load(pool: Path, files: Sequence[str], threads: int = 2) -> list[NDArray[np.uint8]]:
    """Decode pictures to RGB [h, w, 3], the shorter side at most 176 pixels.

    Raises:
        ValueError: One of them cannot be decoded.
    """

    def one(name: str) -> NDArray[np.uint8]:
        picture = cv2.imread(str(pool / name), cv2.IMREAD_COLOR)
        if picture is None:
            raise ValueError(f"{name} cannot be decoded")
        shorter = min(picture.shape[:2])
        if shorter > _SIDE:
            height, width = (round(side * _SIDE / shorter) for side in picture.shape[:2])
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(picture[:, :, ::-1], dtype=np.uint8)

    with ThreadPoolExecutor(threads) as executor:
        return list(executor.map(one, files))


def main() -> None:
    """Write the list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path, help="folder with manifest.csv")
    chosen = choose_held_out(manifest(parser.parse_args().pool))
    with HELD_OUT_FILE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "purpose"))
        writer.writerows(sorted(chosen.items()))
    print(dict(Counter(chosen.values())), "held out")


if __name__ == "__main__":
    main()
