"""The epoch that a training run keeps: of those it went through, the best on ID validation data.

A recipe asks for it with a field ``keep`` that is ``"best"``. Nothing but the ID validation split
is looked at, and a run that was killed goes on with what it had found.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset

from oodbench.data.samples import Samples
from oodbench.data.transforms import Transform
from oodbench.feeding import Arrival, sent_by, to_device
from oodbench.networks.memory_format import laid_out
from oodbench.runtime.loading import Loader


class BestEpoch(pl.Callback):
    """Keeps the weights of the epoch with the highest accuracy on validation data.

    Of several epochs that are equally good the latest is kept. What was found is part of the
    Lightning checkpoint, so that a run which goes on after a kill ends with the same weights. With
    several processes the first one looks, with its own statistics of batch normalisation, which
    are those that are saved.

    Args:
        samples: the ID validation set.
        preprocess: what a network sees of them where it is tested.
        batch_size: samples per forward pass.
        workers: processes that read them.

    Attributes:
        accuracy: the best so far, in [0, 1]; below zero before the first epoch.
        epoch: whose it is, from 0.
        weights: the whole state of the method then, on the CPU.
        latest: the accuracy after the epoch that ended last.
    """

    def __init__(
        self, samples: Samples, preprocess: Transform, batch_size: int, workers: int = 0
    ) -> None:
        self.accuracy, self.latest, self.epoch = -1.0, -1.0, -1
        self.weights: dict[str, Tensor] = {}
        self.n = len(samples)
        self.arrival = Arrival(preprocess)
        self.loader = Loader(
            _Plain(samples, sent_by(preprocess)),
            batch_size=batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # so that looking draws nothing from the process's own
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look, and keep the weights if they are the best."""
        accuracy = self._look(trainer, pl_module) if trainer.is_global_zero else 0.0
        self.latest = float(trainer.strategy.broadcast(accuracy))
        if self.latest >= self.accuracy:
            self.accuracy, self.epoch = self.latest, trainer.current_epoch
            state = pl_module.state_dict().items()
            self.weights = {name: value.detach().cpu().clone() for name, value in state}

    def _look(self, trainer: pl.Trainer, method: Any) -> float:
        was = [(module, module.training) for module in method.modules()]
        right = torch.zeros((), dtype=torch.long, device=method.device)
        try:
            method.eval()
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                for batch in self.loader:
                    sent, labels = to_device(batch, method.device)
                    inputs = self.arrival(sent)
                    inputs = laid_out(inputs, getattr(method, "channels_last", False))
                    logits = method.outputs(inputs)["logits"]
                    right += (logits.argmax(dim=1) == labels).sum()
        finally:
            for module, training in was:
                module.training = training
        return int(right) / self.n

    def notes(self, epochs: int) -> dict[str, str]:
        """What the file of weights says of its epoch, of a run of so many epochs."""
        return {
            "best_epoch": f"{self.epoch + 1} of {epochs}",
            "validation_accuracy": f"{100 * self.accuracy:.2f} %",
        }

    def state_dict(self) -> dict[str, Any]:
        """The best epoch and its weights, for the checkpoint."""
        return {"accuracy": self.accuracy, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best epoch and its weights from a checkpoint."""
        self.accuracy, self.epoch = state_dict["accuracy"], state_dict["epoch"]
        self.weights = state_dict["weights"]


class _Plain(Dataset[tuple[Any, int]]):
    """Samples as they are tested, and their labels."""

    def __init__(self, samples: Samples, preprocess: Transform) -> None:
        self.samples, self.preprocess = samples, preprocess

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.preprocess(self.samples[index]), int(self.samples.labels[index])
