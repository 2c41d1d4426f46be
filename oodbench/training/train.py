"""Training a method on a benchmark's ID set: a run is made once, and goes on after a kill.

A run's folder is named by all that determines it (method, recipe, backbone, data, seed). The
Lightning checkpoint of the last finished epoch lies there while it trains; when it is done, the
weights alone do, as safetensors.
"""

from __future__ import annotations

import contextlib
import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from oodbench import files
from oodbench.checks.classes import check_classes
from oodbench.data.samples import Samples, positions
from oodbench.data.transforms import Preprocess
from oodbench.disk import full, leftovers
from oodbench.disk.locks import alone
from oodbench.errors import MissingDataError, OODBenchError, StorageError
from oodbench.extract import extract
from oodbench.hardware import (
    Hardware,
    barrier,
    is_first_process,
    quiet_lightning,
    rank_and_world,
)
from oodbench.method import Method, of_training
from oodbench.networks.compiled import check_compiler
from oodbench.networks.door import single_precision, size_errors_explained
from oodbench.networks.inputs import INPUTS, as_metadata
from oodbench.networks.memory_format import prefer_channels_last
from oodbench.outputs import Outputs
from oodbench.runtime.loading import Loader
from oodbench.tasks.task import task_of
from oodbench.training.best import BestEpoch
from oodbench.training.epochs import EpochSampler
from oodbench.training.frozen import FrozenMethod
from oodbench.training.processes import as_one
from oodbench.training.run import Run
from oodbench.training.weights import SealedCheckpointIO, read_weights, save_weights


def train(
    run: Run,
    hardware: Hardware | None = None,
    *,
    retrain: bool = False,
    on_forward: Callable[[int], None] | None = None,
) -> Method:
    """The run's trained network: from its folder if it is there, else trained now.

    A run that was killed goes on after its last finished epoch; the result is the same as without
    the interruption (bit by bit on the CPU with the same number of threads). What a frozen network
    was seen to say of the training images stays in the cache of outputs.

    Args:
        run: what is trained.
        hardware: where and how; its precision takes the place of the run's.
        retrain: train although it is in its folder.
        on_forward: called with the number of samples that a frozen network saw.

    Raises:
        StorageError: the cache cannot be written to.
        CheckpointError: its weights or its checkpoint are damaged, or another run's.
        OODBenchError: the loss became NaN or infinite.
    """
    hardware = hardware or Hardware()
    if run.precision != hardware.numbers:
        run = replace(run, precision=hardware.numbers)
    # a caller's random numbers are not ours to seed
    with isolate_rng(), single_precision(), contextlib.ExitStack() as held:
        if run.encoder is not None:
            return _learned(run, hardware, retrain, on_forward)
        stored = _finished(run, hardware, retrain, held)
        if stored is None:
            _fit(run, hardware)
            stored = _written(run)
        method = run.build()
    method.load_state_dict(stored[0])
    method.summary = _in_words(stored[1])
    return method.eval()


def _in_words(notes: dict[str, str]) -> str:
    """What a run found, for people; how its images are made is for who reads the file."""
    noted = sorted(name for name in notes if name not in INPUTS)
    return ", ".join(f"{name.replace('_', ' ')} {notes[name]}" for name in noted)


def _finished(
    run: Run, hardware: Hardware, retrain: bool, held: contextlib.ExitStack
) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """The run's weights and notes; or None, and it is ours alone to train until ``held`` ends."""
    stored = None
    if is_first_process(hardware):
        stored = None if retrain else read_weights(run.weights, run.key)
        if stored is None:
            lock = files.writable_cache() / "locks" / f"{run.key}.lock"
            held.enter_context(alone(lock, f"the training run {run.folder.name}"))
            if retrain:
                shutil.rmtree(run.folder, ignore_errors=True)
            stored = read_weights(run.weights, run.key)  # somebody may have been quicker
    barrier()
    return stored if is_first_process(hardware) else read_weights(run.weights, run.key)


def _written(run: Run) -> tuple[dict[str, Tensor], dict[str, str]]:
    stored = read_weights(run.weights, run.key)
    if stored is None:
        raise StorageError(
            f"{run.weights} is not here, though it was written just now. On several machines the "
            "cache must be one folder that all of them see: OODBENCH_CACHE names it."
            if rank_and_world()[0]
            else f"{run.weights} was removed while it was written. Train again."
        )
    return stored


def _learned(
    run: Run, hardware: Hardware, retrain: bool, on_forward: Callable[[int], None] | None
) -> FrozenMethod:
    """A frozen network with the layer that was learned on its outputs, or is now."""
    method = cast(FrozenMethod, run.build())
    layer = method.layer()
    if layer is None:
        return method.eval()

    def see(samples: Samples) -> Outputs:
        preprocess = method.own_preprocess
        return extract(method.trunk, samples, preprocess, hardware=hardware, on_forward=on_forward)

    with contextlib.ExitStack() as held:
        finished = _finished(run, hardware, retrain, held)
        if finished is None:
            train = see(run.samples)
            fitted, val = _validation(run, train, see)
            if is_first_process(hardware):
                notes = method.learn(train, fitted, val, run.seed)
                save_weights(run.weights, layer.state_dict(), run.key, notes)
            barrier()
            finished = _written(run)
    state, notes = finished
    layer.load_state_dict(state)
    method.summary = _in_words(notes)
    return method.eval()


def _validation(
    run: Run, train: Outputs, see: Callable[[Samples], Outputs]
) -> tuple[Tensor | None, Outputs | None]:
    """Which training rows are not validation images, and what was seen of the validation split."""
    if "val" not in run.benchmark.id.splits:
        return None, None
    try:
        val = run.benchmark.id.load("val")
    except MissingDataError:
        return None, None
    check_classes(val, run.samples)
    rows = torch.from_numpy(positions(val, run.samples))
    held = torch.zeros(len(train), dtype=torch.bool)
    held[rows[rows >= 0]] = True
    if held.all():
        return None, None
    return ~held, train[rows] if (rows >= 0).all() else see(val)


def _fit(run: Run, hardware: Hardware) -> None:
    folder, recipe = run.folder, of_training(run.recipe)
    last = folder / "last.ckpt"
    before = None
    if run.start is not None and not last.is_file():
        before = train(run.start, hardware)
    workers = hardware.workers
    if workers is None:  # augmentation keeps a core busy even where no image is read from disk
        small = recipe.epochs * len(run.samples) < 5000
        workers = 0 if small else hardware.cores_for_data
    preprocess: Any = run.benchmark.preprocess
    best = None
    if run.validation is not None:
        best = BestEpoch(run.validation, preprocess, recipe.batch_size, workers)
    callbacks: list[pl.Callback] = [
        ModelCheckpoint(folder, filename="last", save_top_k=1, enable_version_counter=False),
        *([best] if best else []),
        _EveryEpoch(run.seed, folder / "csv" / "metrics.csv", hardware, best),
    ]
    with quiet_lightning():
        pl.seed_everything(run.seed, verbose=False)
        method = run.build()
        method.beside = run.auxiliary
        if before is not None:
            method.backbone.load_state_dict(before.backbone.state_dict())
        trainer = hardware.trainer(
            what=f"{run.method}, seed {run.seed}",
            default_root_dir=folder,
            max_epochs=recipe.epochs,
            logger=TensorBoardLogger(folder, name="", version="tensorboard"),
            log_every_n_steps=1_000_000_000,  # epoch means are logged; steps would be noise
            num_sanity_val_steps=0,
            callbacks=callbacks,
            plugins=[SealedCheckpointIO(run.key)],
        )
        size = recipe.batch_size
        if size % trainer.world_size:
            raise OODBenchError(
                f"the batch of {size} samples cannot be shared by {trainer.world_size} processes; "
                "choose a `batch_size` that is a multiple of that."
            )
        task = task_of(run.benchmark)
        data, collate = task.examples(method, run.samples, preprocess, run.seed)
        loader = Loader(
            data,
            collate_fn=collate,
            batch_size=size // trainer.world_size,
            sampler=EpochSampler(
                len(run.samples),
                run.seed,
                size,
                _next_epoch(run, last),
                drop_last=recipe.drop_last,
            ),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
        )
        for part in (folder, folder / "tensorboard", folder / "csv"):
            files.make_dir(part)
        resumed = last if last.is_file() else None
        try:
            explained = size_errors_explained(method, loader)
            with explained, full.telling(folder), as_one(method, trainer):
                trainer.fit(method, loader, ckpt_path=resumed, weights_only=True)
        except OODBenchError:
            if not last.is_file():  # nothing to go on with
                shutil.rmtree(folder, ignore_errors=True)
            raise
    barrier()
    if is_first_process(hardware):
        inputs = as_metadata(preprocess) if isinstance(preprocess, Preprocess) else {}
        if best is None:
            save_weights(run.weights, method.state_dict(), run.key, inputs)
        else:
            notes = {**inputs, **best.notes(recipe.epochs)}
            save_weights(run.weights, best.weights, run.key, notes)
        last.unlink(missing_ok=True)
        for part in (folder, folder / "tensorboard", folder / "csv"):
            leftovers.sweep(part)  # of writers that were killed
    barrier()


def _next_epoch(run: Run, checkpoint: Path) -> int:
    """The epoch that a run goes on with; 0 without a checkpoint."""
    if not checkpoint.is_file():
        return 0
    progress = SealedCheckpointIO(run.key).load_checkpoint(checkpoint)["loops"]["fit_loop"]
    return int(progress["epoch_progress"]["current"]["processed"])


class _EveryEpoch(pl.Callback):
    """Seeds each epoch, so a resumed run equals an uninterrupted one; logs; stops divergence.

    The log is written whole after each epoch, from the rows of the epochs before it: Lightning's
    CSVLogger deletes the log of the run that it resumes.
    """

    def __init__(
        self, seed: int, table: Path, hardware: Hardware, best: BestEpoch | None = None
    ) -> None:
        self.seed, self.table, self.hardware, self.best = seed, table, hardware, best
        self.loss: Tensor | None = None
        self.begun = -1

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        cast(Method, pl_module).channels_last = prefer_channels_last(
            pl_module, self.hardware.channels_last
        )
        if self.hardware.compile:
            check_compiler(pl_module.device.type)
            cast(Method, pl_module).backbone.compile()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begun = trainer.current_epoch
        self._seed(trainer.current_epoch)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx > 0:
            return
        if self.begun != trainer.current_epoch:
            # Lightning leaves out the hooks of the first epoch after a checkpoint's.
            self.on_train_epoch_start(trainer, pl_module)
            pl_module.on_train_epoch_start()
        # Again, as starting the data loader draws a number: in a resumed run before the epoch
        # starts, else after it.
        self._seed(trainer.current_epoch)

    def _seed(self, epoch: int) -> None:
        pl.seed_everything((self.seed * 1_000_003 + epoch) % 2**32, verbose=False)

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        self.loss = loss.detach()
        if trainer.global_step % 20 == 0:  # reading the loss waits for the device
            self._check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check(trainer)
        figures = {name: value.item() for name, value in trainer.callback_metrics.items()}
        if self.best is not None:  # it has looked just before
            figures["val/accuracy"] = self.best.latest
        if trainer.is_global_zero:
            self._log({"epoch": trainer.current_epoch, "step": trainer.global_step, **figures})

    def _check(self, trainer: pl.Trainer) -> None:
        if self.loss is not None and not self.loss.isfinite():
            raise OODBenchError(
                f"training diverged: the loss is {self.loss.item()} in epoch "
                f"{trainer.current_epoch}. Try a smaller learning rate (`lr`), or full precision "
                "(`precision=32-true`)."
            )

    def _log(self, figures: dict[str, Any]) -> None:
        rows: list[dict[str, Any]] = []
        try:
            with self.table.open(newline="", encoding="utf-8") as handle:
                rows = [
                    row for row in csv.DictReader(handle) if int(row["epoch"]) < figures["epoch"]
                ]
        except (OSError, ValueError, KeyError, TypeError, csv.Error):  # none yet, or damaged
            pass
        rows.append(figures)
        with files.replacing(self.table) as temporary, temporary.open("w", newline="") as handle:
            writer = csv.DictWriter(
                handle, list(dict.fromkeys(name for row in rows for name in row))
            )
            writer.writeheader()
            writer.writerows(rows)
