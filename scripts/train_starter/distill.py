"""Teach the student what its teachers say of random views.

`distill.py learn` runs until it is stopped, at a constant rate of learning, and goes on where it stopped; it writes a
checkpoint every few minutes and at SIGTERM. `distill.py anneal` copies a checkpoint and brings the rate down to zero
in a given number of steps: that is the network worth exporting, while `learn` can go on from its own checkpoint.
`distill.py keep` writes a checkpoint small enough to be kept beside the code: half precision, without the optimisers;
where a checkpoint is missing, learning begins from there (`--from none`: from random weights).

Views with what the teachers said of them lie in a ring in memory. A step replaces the oldest 32 of them and learns from
160 drawn at random, so that each is seen five times: the teachers are as dear as the student. Most of the steps may be
taken with smaller pictures (`--side 96`), which cost half (Touvron et al. 2019, arXiv:1906.06423; Tan & Le 2021,
arXiv:2104.00298); the last ones must not.
"""

from __future__ import annotations

import argparse
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread

import network
import numpy as np
import pool
import torch
from muon import Muon
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from teachers import Lesson, Teachers
from torch import Tensor, nn
from torch.nn import functional
from views import Views, for_student

SIDE = 128
"""Side of the student's picture when it serves, in pixels."""

KEPT = Path(__file__).with_name("learnt.safetensors")
"""What the starter that ships had learnt, with the projections that it was taught through."""

_FRESH, _BATCH = 32, 160
_COMPONENTS = 128
_WARM_UP = 100
_MUON_RATE = 10.0
"""Muon's rate over AdamW's."""
_SECONDS_BETWEEN_CHECKPOINTS = 300
_STEPS_BETWEEN_LINES = 50


@dataclass
class Norms:
    """What makes the teachers' outputs comparable, measured on the first views.

    Attributes:
        mean, scale: Of the square roots of each teacher's features, [2, 1280].
        map_mean: Of each teacher's map, [2, 1280].
        map_basis: Principal components of each teacher's map over their own spread, [2, 1280, 128].
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    map_mean: NDArray[np.float32]
    map_basis: NDArray[np.float32]

    @classmethod
    def measured(cls, lessons: list[Lesson]) -> Norms:
        """Measure on some lessons."""
        mean, scale, map_mean, map_basis = [], [], [], []
        for teacher in range(2):
            roots = np.sqrt(np.concatenate([lesson.features[teacher] for lesson in lessons]))
            mean.append(roots.mean(0))
            scale.append(roots.std(0) + 0.02)
            cells = np.concatenate(
                [lesson.maps[teacher].transpose(0, 2, 3, 1).reshape(-1, 1280)[::3] for lesson in lessons]
            )
            centre = cells.mean(0)
            values, vectors = np.linalg.eigh(np.cov((cells - centre).T))
            best = np.argsort(values)[::-1][:_COMPONENTS]
            map_mean.append(centre)
            # Half-way to whitening: strong components count more than weak ones, but not alone.
            map_basis.append(vectors[:, best] / np.sqrt(np.sqrt(values[best]) * np.sqrt(values[best[0]])))
        return cls(*(np.stack(part).astype(np.float32) for part in (mean, scale, map_mean, map_basis)))


class Ring:
    """Views for the student, with what its teachers said of them.

    Args:
        views: Where they come from.
        teachers: Who is asked.
        norms: Of the teachers' outputs; measured on the first views where there are none yet.
        size: How many are kept.
        side: Of the student's pictures, in pixels.
    """

    def __init__(self, views: Views, teachers: Teachers, norms: Norms | None, size: int, side: int) -> None:
        self._views, self._teachers, self._side = views, teachers, side
        first = [self._lesson() for _ in range(64)] if norms is None else []
        self.norms = norms or Norms.measured([lesson for _, lesson in first])
        self._pictures = torch.empty((size, side, side, 3), dtype=torch.uint8)
        self._features = torch.empty((size, 2, 1280), dtype=torch.float16)
        self._maps = torch.empty((size, 2 * _COMPONENTS, 7, 7), dtype=torch.float16)
        self._logits = torch.empty((size, network.CLASSES), dtype=torch.float16)
        self._next, self.filled = 0, 0
        for pictures, lesson in first:
            self._put(pictures, lesson)
        # Teachers work beside the student: neither waits for the other's threads on a machine that does other things.
        self._lessons: Queue[tuple[NDArray[np.uint8], Lesson]] = Queue(maxsize=4)
        Thread(target=self._prepare, daemon=True).start()

    def refresh(self) -> None:
        """Replace the oldest views."""
        self._put(*self._lessons.get())

    def _prepare(self) -> None:
        while True:
            self._lessons.put(self._lesson())

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return pictures, features, maps and logits of a random batch."""
        rows = torch.randint(self.filled, (_BATCH,), generator=generator)
        pictures, maps = self._pictures[rows], self._maps[rows]
        # What shows a thing shows it in the mirror too: twice as many views for nothing.
        mirrored = torch.rand(_BATCH, generator=generator) < 0.5
        pictures[mirrored], maps[mirrored] = pictures[mirrored].flip(2), maps[mirrored].flip(3)
        return pictures, self._features[rows].float(), maps.float(), self._logits[rows].float()

    def _lesson(self) -> tuple[NDArray[np.uint8], Lesson]:
        views = self._views.render(_FRESH)
        return for_student(views, self._side), self._teachers.teach(views)

    def _put(self, pictures: NDArray[np.uint8], lesson: Lesson) -> None:
        norms = self.norms
        features = [(np.sqrt(f) - norms.mean[t]) / norms.scale[t] for t, f in enumerate(lesson.features)]
        maps = []
        for teacher, values in enumerate(lesson.maps):
            cells = values.transpose(0, 2, 3, 1) - norms.map_mean[teacher]
            maps.append((cells @ norms.map_basis[teacher]).transpose(0, 3, 1, 2))
        rows = slice(self._next, self._next + _FRESH)
        self._pictures[rows] = torch.from_numpy(pictures)
        self._features[rows] = torch.from_numpy(np.stack(features, 1))
        self._maps[rows] = torch.from_numpy(np.concatenate(maps, 1))
        self._logits[rows] = torch.from_numpy(lesson.logits)
        self.filled = max(self.filled, rows.stop)
        self._next = rows.stop % len(self._pictures)


class Pupil(nn.Module):
    """The student with the projections that are thrown away after school."""

    def __init__(self) -> None:
        super().__init__()
        self.student = network.Starter()
        self.to_features = nn.Linear(network.FEATURES, 2 * 1280)
        self.to_maps = nn.Conv2d(network.FEATURES, 2 * _COMPONENTS, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features [n, 2, 1280], maps [n, 256, 7, 7] and logits [n, 1001] in the teachers' terms."""
        maps, features, logits = self.student(pictures)
        small = functional.interpolate(self.to_maps(maps).float(), (7, 7), mode="bilinear", align_corners=False)
        return self.to_features(features).unflatten(1, (2, 1280)).float(), small, logits.float()


def losses(pupil: Pupil, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return how far the pupil is from its teachers: features, maps (mean squares), classes (divergence, in nats)."""
    pictures, features, maps, logits = batch
    with torch.autocast("cpu", torch.bfloat16):
        own_features, own_maps, own_logits = pupil(
            network.scaled(pictures).contiguous(memory_format=torch.channels_last)
        )
    divergence = functional.kl_div(
        functional.log_softmax(own_logits, 1), functional.log_softmax(logits, 1), reduction="batchmean", log_target=True
    )
    spread = maps.pow(2).mean()
    return (own_features - features).pow(2).mean(), (own_maps - maps).pow(2).mean() / spread, divergence


class School:
    """A pupil with all that a checkpoint holds.

    Args:
        rate: Rate of learning at its highest.
        seed: Of weights, views and draws.
    """

    def __init__(self, rate: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.pupil = Pupil().to(memory_format=torch.channels_last).train()
        weights = list(self.pupil.named_parameters())
        convolutions = [p for name, p in weights if p.ndim == 4 and name.startswith("student.")]
        matrices = [p for name, p in weights if p.ndim > 1 and not (p.ndim == 4 and name.startswith("student."))]
        others = [p for _, p in weights if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98)),
            Muon(convolutions, lr=_MUON_RATE * rate),
        ]
        self.rate, self.step, self.norms = rate, 0, None
        self.generator = torch.Generator().manual_seed(seed)

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {
            "pupil": self.pupil.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "norms": {name: torch.from_numpy(value) for name, value in vars(self.norms).items()},
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def keep(self, path: Path) -> None:
        """Write what it has learnt in half precision, without the state of the optimisers."""
        tensors = {f"pupil.{name}": value for name, value in self.pupil.state_dict().items()}
        tensors |= {f"norms.{name}": torch.from_numpy(value) for name, value in vars(self.norms).items()}
        # Means and variances of the normalisation span more than half precision does, and are few.
        small = {name: value.half() if value.ndim > 1 else value for name, value in tensors.items()}
        save_file({name: value.contiguous() for name, value in small.items()}, path, {"step": str(self.step)})

    def begin_from(self, path: Path) -> None:
        """Begin with what `keep` wrote."""
        with safe_open(path, "pt") as file:
            self.step = int(file.metadata()["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
        self.pupil.load_state_dict({n.removeprefix("pupil."): t for n, t in tensors.items() if n.startswith("pupil.")})
        norms = {n.removeprefix("norms."): t.float().numpy() for n, t in tensors.items() if n.startswith("norms.")}
        self.norms = Norms(**norms)
        self.generator.manual_seed(self.step)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, weights_only=True)
        self.pupil.load_state_dict(state["pupil"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step = state["step"]
        self.norms = Norms(**{name: value.numpy() for name, value in state["norms"].items()})
        self.generator.manual_seed(self.step)

    def learn(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], rate: float) -> tuple[float, ...]:
        """Take one step; return the losses."""
        for optimiser, factor in zip(self.optimisers, (1.0, _MUON_RATE), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        parts = losses(self.pupil, batch)
        self.pupil.zero_grad(set_to_none=True)
        (parts[0] + 0.5 * parts[1] + 0.4 * parts[2]).backward()
        nn.utils.clip_grad_norm_(self.pupil.parameters(), 2.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        return tuple(float(part.detach()) for part in parts)


def run(school: School, ring: Ring, checkpoint: Path, last: int | None) -> None:
    """Learn until stopped, or until `last` steps with the rate falling to zero."""
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    begun, saved, lines = school.step, time.monotonic(), []
    clock = time.monotonic()
    while not stopping and (last is None or school.step < last):
        ring.refresh()
        rate = school.rate * min(1.0, (school.step + 1) / _WARM_UP)
        if last is not None:
            rate *= (last - school.step) / (last - begun)
        lines.append(school.learn(ring.draw(school.generator), rate))
        if len(lines) == _STEPS_BETWEEN_LINES:
            means = np.mean(lines, 0)
            speed = _BATCH * len(lines) / (time.monotonic() - clock)
            print(
                f"step {school.step}  features {means[0]:.3f}  maps {means[1]:.3f}  classes {means[2]:.3f}  "
                f"{speed:.0f} views/s  rate {rate:.5f}",
                flush=True,
            )
            lines, clock = [], time.monotonic()
        if time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
            school.save(checkpoint)
            saved = time.monotonic()
    school.save(checkpoint)


def main() -> None:
    """Parse, learn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("learn", "anneal", "keep"))
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with distill/ and models/")
    parser.add_argument("--checkpoint", type=Path, required=True, help="where it goes on and is kept")
    parser.add_argument("--from", dest="begin", default=str(KEPT), help="where there is no checkpoint; none: at random")
    parser.add_argument("--to", type=Path, help="anneal, keep: the file to write")
    parser.add_argument("--steps", type=int, default=2000, help="anneal: steps until the rate is zero")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--ring", type=int, default=32768, help="views kept in memory, 80 kB each")
    parser.add_argument("--side", type=int, default=SIDE, help="of the student's pictures, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of the student; the teachers have one of their own")
    options = parser.parse_args()
    if options.mode == "anneal" and options.to is None:
        parser.error("anneal needs --to, the checkpoint to write")
    torch.set_num_threads(options.threads)
    school = School(options.rate, options.seed)
    if options.checkpoint.exists():
        school.load(options.checkpoint)
    elif options.begin != "none":
        school.begin_from(Path(options.begin))
    if options.mode == "keep":
        school.keep(options.to or KEPT)
        return
    out = pool.held_out()
    files = [picture.file for picture in pool.manifest(options.shared / "distill") if picture.file not in out]
    views = Views(pool.load(options.shared / "distill", files), options.seed + school.step)
    ring = Ring(views, Teachers(options.shared / "models", _FRESH), school.norms, options.ring, options.side)
    school.norms = ring.norms
    while ring.filled < min(2048, options.ring):
        ring.refresh()
    print(
        f"{len(files)} pictures, {network.parameters(school.pupil.student):,} parameters, from step {school.step}",
        flush=True,
    )
    annealing = options.mode == "anneal"
    run(
        school,
        ring,
        options.to if annealing else options.checkpoint,
        school.step + options.steps if annealing else None,
    )


if __name__ == "__main__":
    main()
