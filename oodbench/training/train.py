"""Training a method on a benchmark's ID set: a run is made once, and goes on after a kill.

A run's folder is named by all that determines it (method, recipe, backbone, data, seed). The
Lightning checkpoint of the last finished epoch lies there while it trains; when it is done, the
weights alone do, as safetensors.
"""

from __future__ import annotations

import contextlib
import csv
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader

from oodbench import files
from oodbench.benchmark import Benchmark
from oodbench.caching.fingerprint import code_digest, weights_digest
from oodbench.checks.classes import check_classes, id_samples
from oodbench.data.samples import Samples, positions
from oodbench.data.transforms import content_key
from oodbench.disk import full, leftovers
from oodbench.disk.locks import alone
from oodbench.errors import (
    MissingDataError,
    OODBenchError,
    OptionError,
    StorageError,
)
from oodbench.extract import extract
from oodbench.hardware import (
    Hardware,
    barrier,
    is_first_process,
    precision_name,
    quiet_lightning,
    spare_cores,
)
from oodbench.method import (
    Method,
)
from oodbench.networks.backbones import starting_backbone
from oodbench.networks.door import single_precision, told_of_sizes
from oodbench.networks.memory_format import prefer_channels_last
from oodbench.networks.pretrained import PretrainedEncoder
from oodbench.options import build
from oodbench.outputs import Outputs
from oodbench.registry import METHODS
from oodbench.tasks.task import method_of, task_of
from oodbench.training.best import BestEpoch, keeps_best
from oodbench.training.epochs import EpochSampler
from oodbench.training.frozen import (
    FrozenMethod,
)
from oodbench.training.weights import SealedCheckpointIO, read_weights, save_weights

VERSION = 2
"""Part of every run's key; raised when the same settings would train another network."""


@dataclass(frozen=True)
class Run:
    """One training run: what it is, and where.

    Args:
        method: its registered name.
        recipe_name: ``"published"``, ``"quick"`` …
        recipe: all hyper-parameters.
        backbone: the network's name.
        seed: of initialisation, order and augmentation.
        benchmark: whose ID training set and preprocessing.
        samples: the ID training set.
        checkpoint: weights that training starts from, or None.
        precision: Lightning's, of the training; another precision gives another network.
    """

    method: str
    recipe_name: str
    recipe: Any
    backbone: str
    seed: int
    benchmark: Benchmark
    samples: Samples
    checkpoint: str | None = None
    precision: str = "32-true"

    @cached_property
    def key(self) -> str:
        """Hex digest of all that determines the run's result."""
        return files.digest(
            {
                "version": VERSION,
                "method": self.method,
                "code": code_digest(METHODS.get(self.method)),
                "recipe": asdict(self.recipe),
                "backbone": self.backbone,
                "seed": self.seed,
                "precision": self.precision,
                "samples": self.samples.fingerprint,
                **self._starts_from(),
                **self._after(),
            }
        )

    def _after(self) -> dict[str, Any]:
        """The run before it, and what an epoch is chosen on; nothing where there is neither."""
        found: dict[str, Any] = {}
        if self.start is not None:
            found["start"] = self.start.key
        if self.validation is not None:
            found["validation"] = self.validation.fingerprint
        return found

    @cached_property
    def start(self) -> Run | None:
        """The run whose trained backbone it starts from; None if it starts from other weights.

        It is of the same network, data, seed and precision. Recipes name it in ``start_from``, as
        ``METHOD/RECIPE``; a checkpoint takes its place.
        """
        named = getattr(self.recipe, "start_from", None)
        if named is None or self.checkpoint is not None:
            return None
        method, _, recipe_name = named.partition("/")
        recipe = METHODS.get(method).get_recipe(recipe_name)
        recipe = replace(recipe, backbone=self.backbone)
        return replace(self, method=method, recipe_name=recipe_name, recipe=recipe)

    @cached_property
    def validation(self) -> Samples | None:
        """The ID validation set that an epoch is chosen on; None where the last one is kept.

        Raises:
            OptionError: the recipe asks for the best epoch, and the ID set has no such split.
        """
        if not keeps_best(self.recipe):
            return None
        if "val" not in self.benchmark.id.splits:
            raise OptionError(
                f"recipe {self.recipe_name} of {self.method} keeps the epoch that is best on a "
                f"validation split, which {self.benchmark.id.name} has not. Keep the last one: "
                "`recipe_options` keep=last."
            )
        val = self.benchmark.id.load("val")
        check_classes(val, self.samples)
        return val

    def _starts_from(self) -> dict[str, Any]:
        """The weights that it starts from, and what they see."""
        encoder = self.encoder
        if encoder is None:
            return {
                "preprocess": content_key(self.benchmark.preprocess),
                "flip": self.benchmark.preprocess.flip,
                "checkpoint": self.checkpoint and files.sha256(Path(self.checkpoint)),
            }
        # a name on a hub does not pin the weights
        return {
            "preprocess": content_key(encoder.own_preprocess),
            "encoder": weights_digest(encoder),
        }

    @property
    def folder(self) -> Path:
        """Where it lies in the cache."""
        id_name = re.sub("[^A-Za-z0-9]", "-", self.benchmark.id.name)[-40:]
        backbone = re.sub("[^A-Za-z0-9_.-]", "-", self.backbone)[-60:]
        name = f"{self.method}-{id_name}-{backbone}-seed{self.seed}-{self.key[:16]}"
        return files.cache_dir() / "runs" / name

    @property
    def weights(self) -> Path:
        """The finished weights."""
        return self.folder / "weights.safetensors"

    @cached_property
    def encoder(self) -> PretrainedEncoder | None:
        """The pre-trained network of a method that does not train it; made once a run."""
        cls = METHODS.get(self.method)
        if not issubclass(cls, FrozenMethod):
            return None
        preprocess = self.benchmark.preprocess
        encoder: PretrainedEncoder = cls.make_backbone(
            self.backbone, self.recipe, preprocess, self.checkpoint
        )
        return encoder

    def build(self) -> Method:
        """The untrained module; the random state must be set before."""
        cls = METHODS.get(self.method)
        preprocess = self.benchmark.preprocess
        backbone = self.encoder or cls.make_backbone(
            self.backbone, self.recipe, preprocess, self.checkpoint
        )
        if backbone is None:
            backbone = starting_backbone(self.backbone, preprocess.channels, self.checkpoint)
        return cls(backbone, len(self.samples.classes), self.recipe)


def plan(
    benchmark: Benchmark,
    method: str = "ce",
    *,
    recipe: str | None = None,
    backbone: str | None = None,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    precision: str = "32-true",
) -> Run:
    """The run that these words describe; nothing is trained.

    Args:
        benchmark: whose ID set is learned.
        method: registered name.
        recipe: the recipe's name; None for the method's default on this ID set.
        backbone: overrides the recipe's.
        seed: non-negative.
        overrides: recipe fields and their values, which may be text.
        checkpoint: weights that it starts from: of its pre-training, for a frozen network.
        precision: Lightning's, as of the hardware that it will be trained on.

    Raises:
        UnknownNameError: no such method, recipe or backbone.
        OptionError: no such recipe field, or a value that it cannot take.
        DataError: fewer than two ID classes, or no training data.
        MissingDataError: no validation data, where the recipe chooses an epoch on it.
    """
    method = method_of(benchmark, method)
    cls = METHODS.get(method)
    recipe_name = recipe or cls.default_recipe(benchmark.id.name)
    base = cls.get_recipe(recipe_name)
    if overrides:
        fields = {**asdict(base), **overrides}
        base = build(type(base), f"recipe {recipe_name} of {method}", fields)
    name = backbone or base.backbone or benchmark.backbone
    samples = id_samples(benchmark, "train")
    run = Run(
        method,
        recipe_name,
        replace(base, backbone=name),
        name,
        seed,
        benchmark,
        samples,
        None if checkpoint is None else str(files.user_path(checkpoint)),
        precision_name(precision),
    )
    _ = run.validation  # what it lacks is told before anything is trained
    return run


def is_frozen(method: str | None) -> bool:
    """Whether a method takes a pre-trained network as it is."""
    return method is not None and issubclass(METHODS.get(method), FrozenMethod)


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
    if run.precision != hardware.precision:
        run = replace(run, precision=hardware.precision)
    # a caller's random numbers are not ours to seed
    with isolate_rng(), single_precision(), contextlib.ExitStack() as held:
        if run.encoder is not None:
            return _learned(run, hardware, retrain, on_forward)
        found = _finished(run, hardware, retrain, held)
        if found is None:
            _fit(run, hardware)
            found = _written(run)
        method = run.build()
    method.load_state_dict(found[0])
    method.summary = _in_words(found[1])
    return method.eval()


def _in_words(told: dict[str, str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {told[name]}" for name in sorted(told))


def _finished(
    run: Run, hardware: Hardware, retrain: bool, held: contextlib.ExitStack
) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """The run's weights and notes; or None, and it is ours alone to train until ``held`` ends."""
    found = None
    if is_first_process(hardware):
        found = None if retrain else read_weights(run.weights, run.key)
        if found is None:
            lock = files.writable_cache() / "locks" / f"{run.key}.lock"
            held.enter_context(alone(lock, f"the training run {run.folder.name}"))
            if retrain:
                shutil.rmtree(run.folder, ignore_errors=True)
            found = read_weights(run.weights, run.key)  # somebody may have been quicker
    barrier()
    return found if is_first_process(hardware) else read_weights(run.weights, run.key)


def _written(run: Run) -> tuple[dict[str, Tensor], dict[str, str]]:
    found = read_weights(run.weights, run.key)
    if found is None:
        raise StorageError(f"{run.weights} was removed while it was written. Train again.")
    return found


def _learned(
    run: Run, hardware: Hardware, retrain: bool, on_forward: Callable[[int], None] | None
) -> FrozenMethod:
    """A frozen network with the layer that was learned on its outputs, or is now."""
    method = cast(FrozenMethod, run.build())
    layer = method.layer()
    if layer is None:
        return method.eval()

    def see(samples: Samples) -> Outputs:
        own = method.own_preprocess
        return extract(method.trunk, samples, own, hardware=hardware, on_forward=on_forward)

    with contextlib.ExitStack() as held:
        finished = _finished(run, hardware, retrain, held)
        if finished is None:
            train = see(run.samples)
            fitted, val = _validation(run, train, see)
            if is_first_process(hardware):
                found = method.learn(train, fitted, val, run.seed)
                save_weights(run.weights, layer.state_dict(), run.key, found)
            barrier()
            finished = _written(run)
    state, told = finished
    layer.load_state_dict(state)
    method.summary = _in_words(told)
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
    folder = run.folder
    last = folder / "last.ckpt"
    before = None
    if run.start is not None and not last.is_file():
        before = train(run.start, hardware)
    workers = hardware.workers
    if workers is None:  # augmentation keeps a core busy even where no image is read from disk
        small = run.recipe.epochs * len(run.samples) < 5000
        workers = 0 if small else spare_cores()
    preprocess: Any = run.benchmark.preprocess
    best = None
    if run.validation is not None:
        best = BestEpoch(run.validation, preprocess, run.recipe.batch_size, workers)
    callbacks: list[pl.Callback] = [
        ModelCheckpoint(folder, filename="last", save_top_k=1, enable_version_counter=False),
        *([best] if best else []),
        _EveryEpoch(run.seed, folder / "csv" / "metrics.csv", best),
    ]
    with quiet_lightning():
        pl.seed_everything(run.seed, verbose=False)
        method = run.build()
        if before is not None:
            method.backbone.load_state_dict(before.backbone.state_dict())
        trainer = hardware.trainer(
            default_root_dir=folder,
            max_epochs=run.recipe.epochs,
            logger=TensorBoardLogger(folder, name="", version="tensorboard"),
            log_every_n_steps=1_000_000_000,  # epoch means are logged; steps would be noise
            num_sanity_val_steps=0,
            callbacks=callbacks,
            plugins=[SealedCheckpointIO(run.key)],
        )
        size = run.recipe.batch_size
        if size % trainer.world_size:
            raise OODBenchError(
                f"the batch of {size} samples cannot be shared by {trainer.world_size} processes; "
                "choose a `batch_size` that is a multiple of that."
            )
        task = task_of(run.benchmark)
        data, collate = task.examples(method, run.samples, preprocess, run.seed)
        loader = DataLoader(
            data,
            collate_fn=collate,
            batch_size=size // trainer.world_size,
            sampler=EpochSampler(
                len(run.samples),
                run.seed,
                size,
                _next_epoch(run, last),
                drop_last=run.recipe.drop_last,
            ),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
        )
        for part in (folder, folder / "tensorboard", folder / "csv"):
            files.make_dir(part)
        resumed = last if last.is_file() else None
        try:
            with told_of_sizes(method, loader), full.telling(folder):
                trainer.fit(method, loader, ckpt_path=resumed, weights_only=True)
        except OODBenchError:
            if not last.is_file():  # nothing to go on with
                shutil.rmtree(folder, ignore_errors=True)
            raise
    barrier()
    if is_first_process(hardware):
        if best is None:
            save_weights(run.weights, method.state_dict(), run.key)
        else:
            save_weights(run.weights, best.weights, run.key, best.told(run.recipe.epochs))
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

    def __init__(self, seed: int, table: Path, best: BestEpoch | None = None) -> None:
        self.seed, self.table, self.best = seed, table, best
        self.loss: Tensor | None = None
        self.begun = -1

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        prefer_channels_last(pl_module)

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
                f"{trainer.current_epoch}. Try a smaller learning rate (`lr`), or full precision."
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
