"""Does a job: a training for each round that holds something out, then one of everything, whose network is the result.

Killed anywhere and started again on the same folder, it goes on: finished trainings are kept, the one in progress goes
on from its last epoch and comes to the same weights. A training whose files cannot be read any more begins anew.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning
import numpy as np
import numpy.typing as npt
import safetensors.numpy
import torch

from lensmith_vision.errors import TrainingError
from lensmith_vision.familiarity import Familiarity, learn_familiarity, sample_of
from lensmith_vision.fine_tune.batches import Draw, balanced_weights, in_order, prior_shift, training_batches
from lensmith_vision.fine_tune.checkpoints import SafeCheckpoints, load_weights, remove_damaged, save_weights
from lensmith_vision.fine_tune.export import write_network
from lensmith_vision.fine_tune.first_head import first_head
from lensmith_vision.fine_tune.job import (
    RESULT_FOLDER,
    START_FOLDER,
    STATE_FOLDER,
    TESTED,
    Floats,
    Ints,
    Job,
    Pixels,
    Taught,
    put_file,
    read_job,
    read_taught,
)
from lensmith_vision.fine_tune.module import BEST_FILE, CHECKPOINT_FILE, EpochDone, FineTuning, Keeper, Rates
from lensmith_vision.fine_tune.network import Network
from lensmith_vision.fine_tune.outcome import RESULT_FILE, NetworkResult, read_result
from lensmith_vision.folds import stratified_group_folds

__all__ = ["Event", "run"]

_PASSES = 5400
_FEWEST_EPOCHS, _MOST_EPOCHS = 8, 30
_FEW = 500
_LEAST_PATIENCE = 4
_VALIDATION_PARTS = 6
_HEAD_FOLDS = 4
_EVALUATION_BATCH = 32
_TRIAL, _WHOLE = "trial", "whole"
_DONE_FILE, _WEIGHTS_FILE = "done.safetensors", "weights.safetensors"


@dataclass(frozen=True)
class Event:
    """How far a job is.

    Attributes:
        fraction: Part of the work done, 0 to 1.
        message: One sentence for people.
    """

    fraction: float
    message: str


@dataclass(frozen=True)
class _Training:
    """One training of a job.

    Attributes:
        name: Of its folder.
        title: For people.
        number: Place among all.
        held_out: Rows that it must not see, and is asked about.
        taught: Rows that it learns from.
        validated: Rows that tell when to stop; none where it is known.
        stop_after: Epochs to do of those that the schedule is laid out for; 0: early stopping decides.
    """

    name: str
    title: str
    number: int
    held_out: Ints
    taught: Ints
    validated: Ints
    stop_after: int = 0


def run(folder: Path, told: Callable[[Event], None]) -> None:
    """Do the job of a folder; the result lies in its folder `result` once this returns.

    Args:
        folder: With a job as `lensmith_vision.fine_tune.job` describes it.
        told: Told after every epoch, by the first process only.

    Raises:
        TrainingError: The job cannot be done.
        PackError: The start is no network that can be read, or the result not one that serves.
    """
    _Runner(folder, told).run()


class _Runner:
    def __init__(self, folder: Path, told: Callable[[Event], None]) -> None:
        self._folder, self._told = folder, told
        self._job: Job = read_job(folder)
        self._taught: Taught = read_taught(folder)
        self._pixels = Pixels(folder, self._job.resize, len(self._taught))
        # Of pictures that the version is evaluated on nothing is known here, but where they are asked about.
        learnt = self._taught.rows(self._taught.folds != TESTED)
        self._trainings = len(self._job.rounds) + (2 if self._job.method == "split" else 1)
        self._epochs = self._job.max_epochs or int(np.clip(_PASSES // len(learnt), _FEWEST_EPOCHS, _MOST_EPOCHS))
        self._batch = self._job.batch_size or (16 if len(learnt) < _FEW else 32)
        targets = learnt.targets
        # Numbers are learnt in units of their spread, so that rates suit every range.
        self._middle = 0.0 if targets is None else float(targets.mean())
        self._spread = 1.0 if targets is None else max(float(targets.std()), 1e-6)

    def run(self) -> None:
        if _is_done(self._folder):
            return
        if self._job.threads:
            torch.set_num_threads(self._job.threads)
        _join_processes()
        if _is_first():
            remove_damaged(self._folder / STATE_FOLDER)
        _wait_for_all()
        rows, folds, rounds = np.arange(len(self._taught)), self._taught.folds, self._job.rounds
        learnt, tested, none = rows[folds != TESTED], rows[folds == TESTED], rows[:0]
        for number, fold in enumerate(rounds):
            others = learnt[folds[learnt] != fold]
            parts = _parts(self._taught, others, _VALIDATION_PARTS, self._job.seed + number)
            taught, validated = others[parts > 0], others[parts == 0]
            title = f"round {number + 1} of {len(rounds)}"
            self._train(_Training(f"round-{fold}", title, number, rows[folds == fold], taught, validated))
        epochs = round(float(np.median([self._done(f"round-{fold}").epochs for fold in rounds])))
        last = self._trainings - 1
        if self._job.method == "split":
            self._train(_Training(_TRIAL, "the network to evaluate", last - 1, tested, learnt, none, epochs))
            whole = _Training(_WHOLE, "the whole set", last, none, rows, none, epochs)
        else:
            whole = _Training(_WHOLE, "the whole set", last, tested, learnt, none, epochs)
        network = self._train(whole)
        if _is_first():
            self._finish(network, whole.taught)
        _wait_for_all()

    def _train(self, training: _Training) -> Network:
        folder = self._folder / STATE_FOLDER / training.name
        folder.mkdir(parents=True, exist_ok=True)
        network = self._started(folder, training)
        if (folder / _DONE_FILE).is_file():
            network.load_state_dict(load_weights(folder / _WEIGHTS_FILE))
            return network
        epochs = self._fit(network, training, folder)
        if _is_first():
            save_weights(folder / _WEIGHTS_FILE, network.state_dict())
            self._keep(network, training, epochs, folder)
        _wait_for_all()
        return network

    def _started(self, folder: Path, training: _Training) -> Network:
        """The start with the best head on its features: what is learnt first, and exactly, since nothing else moves."""
        classifier = folder / "classifier.safetensors"
        size = (len(self._job.concepts),)
        blank = Network(
            self._folder / START_FOLDER, np.zeros((_width(self._folder), *size), np.float32), np.zeros(size, np.float32)
        )
        if not classifier.is_file():
            if _is_first():
                kernel, bias = self._first_head(self._features(blank, training.taught), training.taught)
                put_file(classifier, safetensors.numpy.save({"kernel": kernel, "bias": bias}))
            _wait_for_all()
        values = safetensors.numpy.load(classifier.read_bytes())
        return Network(self._folder / START_FOLDER, values["kernel"], values["bias"])

    def _first_head(self, features: Floats, rows: Ints) -> tuple[Floats, Floats]:
        folds = _parts(self._taught, rows, _HEAD_FOLDS, self._job.seed)
        groups = self._taught.groups[rows]
        return first_head(self._job.type, features, self._truth()[rows], groups, folds, self._job.seed)

    def _fit(self, network: Network, training: _Training, folder: Path) -> int:
        """Train, and leave the network with the weights that count; returns the epochs that made them."""
        taught, validated = training.taught, training.validated
        seed = int(np.random.SeedSequence((self._job.seed, training.number)).generate_state(1)[0])
        size = (self._job.resize.height, self._job.resize.width)
        # Much of what is won is won late, while the rate falls.
        patience = max(_LEAST_PATIENCE, self._epochs // 2)
        keeper = Keeper(folder, patience, lambda done: self._tell(training, done))
        trainer = _trainer(training.stop_after or self._epochs, keeper)
        truth = self._truth()
        draw = Draw(taught, balanced_weights(self._taught, taught), seed, trainer.global_rank, trainer.world_size)
        batches = training_batches(self._pixels.roomy, truth, draw, self._batch)
        # Where early stopping has told the epochs, the rate falls within them.
        steps = len(batches) * (training.stop_after or self._epochs)
        module = FineTuning(network, self._job.type, size, Rates(), steps, seed)
        checkpoint = folder / CHECKPOINT_FILE
        trainer.fit(
            module,
            batches,
            in_order(self._pixels.exact, truth, validated, _EVALUATION_BATCH) if len(validated) else None,
            ckpt_path=str(checkpoint) if checkpoint.is_file() else None,
        )
        if training.stop_after:
            epochs, weights = training.stop_after, module.averaged.cpu().state_dict()
        else:
            epochs, weights = keeper.best_epoch, load_weights(folder / BEST_FILE)
        if not all(bool(torch.isfinite(weight).all()) for weight in weights.values()):
            raise TrainingError("FINE_TUNING_DIVERGED", "the weights grew without bounds: nothing was learnt")
        network.cpu().load_state_dict(weights)
        return epochs

    def _keep(self, network: Network, training: _Training, epochs: int, folder: Path) -> None:
        """Store what the network says about pictures that it has not seen, and how far they lie from the others."""
        sample = training.taught[sample_of(len(training.taught), self._job.seed)]
        known = learn_familiarity(self._features(network, sample), np.zeros(len(sample), np.int64))
        held_out = training.held_out
        features = self._features(network, held_out)
        kernel, bias = self._classifier(network, training.taught)
        distances = known.distances(features) if len(features) else np.empty(0, np.float32)
        done: dict[str, npt.NDArray[np.generic]] = {
            "rows": held_out,
            "logits": (features @ kernel + bias).astype(np.float32),
            "distances": distances.astype(np.float32),
            "epochs": np.asarray([epochs]),
            "mean": known.mean,
            "axes": known.axes,
        }
        put_file(folder / _DONE_FILE, safetensors.numpy.save(done))

    def _classifier(self, network: Network, rows: Ints) -> tuple[Floats, Floats]:
        """The classifier in the units of the truth, with the share of concepts that the pictures have."""
        kernel, bias = network.kernel, network.bias
        if self._job.type == "regression":
            return kernel * np.float32(self._spread), bias * np.float32(self._spread) + np.float32(self._middle)
        return kernel, bias + prior_shift(self._taught, rows) if self._job.type == "multi_class" else bias

    def _done(self, name: str) -> _Done:
        values = safetensors.numpy.load((self._folder / STATE_FOLDER / name / _DONE_FILE).read_bytes())
        return _Done(values["rows"], values["logits"], values["distances"], int(values["epochs"][0]))

    def _finish(self, network: Network, taught: Ints) -> None:
        rounds = [self._done(f"round-{fold}") for fold in self._job.rounds]
        asked = self._done(_TRIAL if self._job.method == "split" else _WHOLE)
        kernel, bias = self._classifier(network, taught)
        last = safetensors.numpy.load((self._folder / STATE_FOLDER / _WHOLE / _DONE_FILE).read_bytes())
        distances = np.concatenate([one.distances for one in rounds])
        usual, far = np.maximum(np.quantile(distances, [0.5, 0.95]), 1e-9)
        result = NetworkResult(
            rows=np.concatenate([one.rows for one in rounds]),
            logits=np.concatenate([one.logits for one in rounds]),
            kernel=kernel,
            bias=bias.astype(np.float32),
            familiarity=Familiarity(last["mean"], last["axes"], float(usual), float(far)),
            epochs=tuple(one.epochs for one in rounds),
            tested=asked.rows,
            tested_logits=asked.logits,
        )
        destination = self._folder / RESULT_FOLDER
        shutil.rmtree(destination, ignore_errors=True)
        write_network(network, kernel, bias, self._job, self._folder / START_FOLDER, destination / "pack")
        put_file(destination / RESULT_FILE, result.to_bytes())

    def _features(self, network: Network, rows: Ints) -> Floats:
        device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
        network.eval().to(device)
        found = []
        with torch.inference_mode():
            for start in range(0, len(rows), _EVALUATION_BATCH):
                pictures = np.asarray(self._pixels.exact[rows[start : start + _EVALUATION_BATCH]])
                found.append(network.features(torch.from_numpy(pictures).to(device)).float().cpu().numpy())
        network.cpu()
        return np.concatenate(found) if found else np.empty((0, network.kernel.shape[0]), np.float32)

    def _truth(self) -> Floats:
        """Labels [n, c], or numbers [n, 1] in units of their spread."""
        if self._taught.labels is not None:
            return self._taught.labels.astype(np.float32)
        targets = np.asarray(self._taught.targets, np.float32)
        return ((targets - np.float32(self._middle)) / np.float32(self._spread)).reshape(-1, 1)

    def _tell(self, training: _Training, done: EpochDone) -> None:
        judged = (
            "" if done.held_out_loss is None else f", {done.held_out_loss:.3f} on {len(training.validated)} held out"
        )
        right = "" if done.held_out_right is None else f", {done.held_out_right:.1%} of them right"
        message = f"{training.title}, epoch {done.epoch} of {done.epochs}: loss {done.loss:.3f}{judged}{right}"
        self._told(Event((training.number + done.epoch / done.epochs) / self._trainings, message))


@dataclass(frozen=True)
class _Done:
    rows: Ints
    logits: Floats
    distances: Floats
    epochs: int


def _trainer(epochs: int, keeper: Keeper) -> lightning.Trainer:
    """One process on one device, or those that `torchrun` started."""
    world, local = _world(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    return lightning.Trainer(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=local if world > 1 else 1,
        num_nodes=max(1, world // local),
        strategy="ddp" if world > 1 else "auto",
        precision=_precision(),
        max_epochs=epochs,
        gradient_clip_val=1.0,
        callbacks=[keeper],
        plugins=[SafeCheckpoints()],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _precision() -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    """Half precision where the hardware is made for it; processors compute in full."""
    if not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


def _parts(taught: Taught, rows: Ints, count: int, seed: int) -> Ints:
    """Deal rows into parts, near copies together and concepts evenly."""
    some = taught.rows(np.isin(np.arange(len(taught)), rows))
    groups = np.unique(some.groups, return_inverse=True)[1].astype(np.int64)
    if some.targets is not None:
        edges = np.quantile(some.targets, [0.25, 0.5, 0.75])
        strata = np.eye(4, dtype=np.float32)[np.searchsorted(edges, some.targets, side="left")]
    else:
        strata = (np.asarray(some.labels) == 1).astype(np.float32)
    parts = max(2, min(count, int(groups.max()) + 1))
    if int(groups.max()) < 1:
        raise TrainingError("TOO_FEW_IMAGES", "all images are copies of one picture; nothing can be held out")
    return stratified_group_folds(strata, groups, parts, seed)


def _is_done(folder: Path) -> bool:
    try:
        read_result(folder)
    except TrainingError:
        return False
    return True


def _width(folder: Path) -> int:
    card = json.loads((folder / START_FOLDER / "card.json").read_text(encoding="utf-8"))
    return int(card["outputs"]["features"]["dim"])


def _is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _join_processes() -> None:
    """Let the processes that `torchrun` started wait for one another, from before the first training on."""
    if _world() > 1 and not torch.distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _wait_for_all() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
