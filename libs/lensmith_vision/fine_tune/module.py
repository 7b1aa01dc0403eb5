"""One training with Lightning: losses, rates by depth, early stopping, a checkpoint after every epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import functional

from lensmith_vision.fine_tune.augmentation import augmented
from lensmith_vision.fine_tune.batches import Batch
from lensmith_vision.fine_tune.checkpoints import save_weights
from lensmith_vision.fine_tune.job import Floats
from lensmith_vision.fine_tune.network import Network
from lensmith_vision.heads import HeadType
from lensmith_vision.losses import log_loss
from lensmith_vision.report import fit_temperature

__all__ = ["CHECKPOINT_FILE", "BEST_FILE", "EpochDone", "FineTuning", "Keeper", "Rates"]

CHECKPOINT_FILE, BEST_FILE = "checkpoint.safetensors", "best.safetensors"
_SMOOTHING = 0.1
_WARM_UP = 0.1
_LAST_RATE = 0.01
_BANDS = 6
_AVERAGING = 0.97


@dataclass(frozen=True)
class Rates:
    """How fast what learns.

    Attributes:
        classifier: Rate of the classifier, which begins where the best head on unchanged features ended.
        network: Rate of the last layers.
        decay: What the rate is multiplied with from one sixth of the depth to the sixth before: the first layers,
            which see edges and colours, need to change least.
        weight_decay: Of weights, not of biases.
    """

    classifier: float = 1e-3
    network: float = 3e-4
    decay: float = 0.7
    weight_decay: float = 0.02


class FineTuning(lightning.LightningModule):
    """Teaches a network.

    Args:
        network: With a classifier that was fitted on its features.
        type: What is learnt.
        size: Height and width of its pictures.
        rates: How fast.
        steps: For which the schedule is laid out.
        seed: Of the augmentation.
    """

    def __init__(
        self, network: Network, type: HeadType, size: tuple[int, int], rates: Rates, steps: int, seed: int
    ) -> None:
        super().__init__()
        self.network = network
        # What is judged and kept: the mean of the last steps is better than any of them, as if the rate had fallen.
        self.averaged = copy.deepcopy(network).requires_grad_(False)
        self._type, self._size, self._rates, self._steps, self._seed = type, size, rates, steps, seed
        self._seen: list[tuple[Floats, Floats]] = []
        self._losses: list[Tensor] = []
        self.held_out_loss = math.nan
        self.held_out_right: float | None = None

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute logits [n, c]."""
        logits: Tensor = self.network(pictures)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch, changed by a chance that depends on nothing but seed, epoch, step and process."""
        generator = torch.Generator()
        place = (self._seed, self.current_epoch, batch_idx, self.global_rank)
        generator.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]) >> 1)
        pictures = augmented(batch.pictures, *self._size, generator)
        loss = _loss(self._type, self.network(pictures), batch.truth)
        self._losses.append(loss.detach())
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Move the average towards what was just learnt, quickly at first."""
        share = max(1 - _AVERAGING, 1 / (self.global_step + 1))
        with torch.no_grad():
            for mean, value in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(value, share)

    def on_train_epoch_start(self) -> None:
        """Begin to count."""
        self._losses.clear()

    def on_validation_epoch_start(self) -> None:
        """Begin to collect."""
        self._seen.clear()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect what the network says about pictures that it does not learn from."""
        logits = self.averaged(batch.pictures).float().cpu().numpy()
        self._seen.append((logits, batch.truth.cpu().numpy()))

    def on_validation_epoch_end(self) -> None:
        """Judge it as the finished version will be: calibrated."""
        logits, truth = (np.concatenate(column) for column in zip(*self._seen, strict=True))
        self.held_out_loss = _judged(self._type, logits, truth)
        if self._type == "multi_class":
            self.held_out_right = float((logits.argmax(axis=1) == truth.argmax(axis=1)).mean())
        self.log("held_out_loss", self.held_out_loss, sync_dist=False)

    @property
    def mean_loss(self) -> float:
        """Mean loss of the epoch's batches so far."""
        return float(torch.stack(self._losses).mean().item()) if self._losses else math.nan

    def configure_optimizers(self) -> Any:
        """AdamW with one rate for each band of depth, warmed up, then falling to nearly zero."""
        rates = self._rates
        bands = self.network.bands(_BANDS)
        groups: list[dict[str, Any]] = []
        for number, band in enumerate(bands):
            rate = rates.network * rates.decay ** (len(bands) - 1 - number)
            for decay in (rates.weight_decay, 0.0):
                chosen = [weight for weight in band if (weight.ndim > 1) == (decay > 0)]
                if chosen:
                    groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
        groups.append({"params": list(self.network.classifier.parameters()), "lr": rates.classifier})
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _Schedule(self._steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Schedule:
    """Part of the rate at a step. Kept out of checkpoints: it follows from the number of steps."""

    def __init__(self, steps: int) -> None:
        self._steps, self._warm = steps, max(1, round(steps * _WARM_UP))

    def __call__(self, step: int) -> float:
        if step < self._warm:
            return (step + 1) / self._warm
        gone = min(1.0, (step - self._warm) / max(1, self._steps - self._warm))
        return _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * gone)) / 2


@dataclass(frozen=True)
class EpochDone:
    """How far one training is.

    Attributes:
        epoch: Epochs done.
        epochs: Epochs at most.
        loss: Mean loss of the last one.
        held_out_loss: Calibrated loss on pictures held out for early stopping; None without any.
        held_out_right: Part of them that is told right; None without any, and where concepts do not exclude each other.
    """

    epoch: int
    epochs: int
    loss: float
    held_out_loss: float | None
    held_out_right: float | None


class Keeper(Callback):
    """After every epoch: keeps the best weights, stops when nothing gets better, writes a checkpoint, tells.

    Args:
        folder: Where checkpoint and best weights lie.
        patience: Epochs without a gain after which to stop.
        told: Told of every epoch, by the first process only.
    """

    def __init__(self, folder: Path, patience: int, told: Callable[[EpochDone], None]) -> None:
        self._folder, self._patience, self._told = folder, patience, told
        self.best_loss, self.best_epoch = math.inf, 0
        self._stopped = False

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"best_loss": self.best_loss, "best_epoch": self.best_epoch, "stopped": self._stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best_loss, self.best_epoch = state_dict["best_loss"], state_dict["best_epoch"]
        self._stopped = state_dict["stopped"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Do not begin another epoch where the checkpoint is of a training that had stopped."""
        trainer.should_stop = self._stopped

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """See the class."""
        if not isinstance(pl_module, FineTuning):
            raise TypeError("only FineTuning is kept")
        done = trainer.current_epoch + 1
        judged = bool(trainer.num_val_batches and sum(trainer.num_val_batches))
        if judged and (pl_module.held_out_loss < self.best_loss or not self.best_epoch):
            self.best_loss, self.best_epoch = pl_module.held_out_loss, done
            if trainer.is_global_zero:
                save_weights(self._folder / BEST_FILE, pl_module.averaged.state_dict())
        # Every process sees the same held-out pictures, so all stop at once.
        self._stopped = judged and done - self.best_epoch >= self._patience
        trainer.should_stop = self._stopped
        trainer.save_checkpoint(self._folder / CHECKPOINT_FILE)
        if trainer.is_global_zero:
            held_out = pl_module.held_out_loss if judged else None
            right = pl_module.held_out_right if judged else None
            self._told(EpochDone(done, trainer.max_epochs or done, pl_module.mean_loss, held_out, right))


def _loss(type: HeadType, logits: Tensor, truth: Tensor) -> Tensor:
    if type == "multi_class":
        return functional.cross_entropy(logits, truth.argmax(1), label_smoothing=_SMOOTHING)
    if type == "regression":
        return functional.smooth_l1_loss(logits, truth)
    known = torch.isfinite(truth)
    losses = functional.binary_cross_entropy_with_logits(logits, torch.nan_to_num(truth), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def _judged(type: HeadType, logits: Floats, truth: Floats) -> float:
    if type == "regression":
        return float(((logits - truth) ** 2).mean())
    temperature = fit_temperature(type, logits, truth)
    return log_loss(type, (logits / temperature).astype(np.float32), truth)
