"""A linear head trained with PyTorch Lightning, for comparison; needs the extra `finetune`."""

import logging
import warnings

import lightning
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 60
BATCH = 64
RATE = 2e-3
DECAY = 0.05
DROPPED = 0.3

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class LinearHead(lightning.LightningModule):
    """Features scaled as in training, some of them dropped, one layer, cross-entropy."""

    def __init__(self, features: Tensor, width: int, steps: int) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(dim=0))
        self.register_buffer("deviation", features.std(dim=0) + 1e-3)
        self.layer = nn.Linear(features.shape[1], width)
        nn.init.zeros_(self.layer.weight)
        self._steps = steps

    def forward(self, features: Tensor) -> Tensor:
        """Give logits [n, width]."""
        scaled = (features - self.mean) / self.deviation
        return self.layer(functional.dropout(scaled, DROPPED, self.training))

    def training_step(self, batch: tuple[Tensor, Tensor], place: int) -> Tensor:
        """Give the loss of a batch."""
        features, classes = batch
        return functional.cross_entropy(self(features), classes)

    def configure_optimizers(self) -> dict[str, object]:
        """AdamW, its rate falling along half a cosine."""
        optimiser = torch.optim.AdamW(self.parameters(), RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self._steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def lightning_head(train: Floats, classes: Ints, test: Floats) -> Floats:
    """Train with AdamW and a falling rate; gives the probabilities of the test pictures."""
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    lightning.seed_everything(0, verbose=False)
    features = torch.from_numpy(np.ascontiguousarray(train))
    loader = DataLoader(TensorDataset(features, torch.from_numpy(classes)), BATCH, shuffle=True)
    module = LinearHead(features, int(classes.max()) + 1, EPOCHS * len(loader))
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader)
    module.eval()
    with torch.no_grad():
        scores: Floats = functional.softmax(module(torch.from_numpy(np.ascontiguousarray(test))), dim=1).numpy()
    return scores
