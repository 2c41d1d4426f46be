"""A training run that was interrupted is the run that it would have been: its order, its weights.

An attempt notes each batch that the network is trained on, and kills itself at a moment that is
given, so that nothing depends on how fast the machine is.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench import Hardware, Method, Recipe, files
from oodbench.benchmark import get_benchmark
from oodbench.caching.fingerprint import code_digest
from oodbench.data.samples import ImageArrays
from oodbench.datasets.scenes import SceneBoxes, SceneMasks, scenes
from oodbench.registry import BACKBONES, BENCHMARKS, METHODS
from oodbench.training import train as training
from oodbench.training.run import Run, plan
from tests.helpers import distributed, jobs
from tests.helpers.attempts import Server
from tests.helpers.few import few_digits
from tests.helpers.runs import assert_equal, log_of, weights

WORKERS = (0, 2)
"""One data worker alone: below, where attempts differ in them, or workers live an epoch."""
EPOCHS = 3
BEFORE_CHECKPOINT, AFTER_CHECKPOINT = -1, -2
"""Moments at the end of an epoch; others are the number of a step."""


class Wild(Method):
    """Draws from all generators that there are, in its augmentation, its hooks and its steps."""

    recipes: ClassVar[Mapping[str, Recipe]] = {"quick": Recipe(lr=0.05)}

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: Recipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.linear = nn.Linear(int(backbone.num_features), num_classes)  # type: ignore[arg-type]
        self.shift = 0.0
        self.register_buffer("queue", torch.zeros(8))

    def augmentation(self, preprocess: Any) -> Any:
        def view(image: Any, _: random.Random) -> Tensor:
            drawn = random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002
            return preprocess(image) + 0.1 * drawn

        return view

    def on_train_epoch_start(self) -> None:
        self.shift = float(torch.rand(())) + random.random()

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        noise = self.shift + random.random() + np.random.rand()  # noqa: NPY002
        features = F.dropout(self.backbone(images[:, 0] + 0.1 * noise), 0.3)
        queue = torch.as_tensor(self.queue)
        logits = self.linear(features) + queue.mean()
        self.queue = torch.cat([queue[1:], logits.detach().mean()[None]])
        return {"loss": F.cross_entropy(logits, labels)}

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        return {"features": features, "logits": self.linear(features)}


def of_images(method: str) -> Run:
    recipe = "quick" if method in ("ce", "palm", "wild") else None
    overrides = {"epochs": EPOCHS, "batch_size": 16}
    return plan(jobs.tiny(), method, recipe=recipe, overrides=overrides)


def of_pairs() -> Run:
    return distributed.runs()[3]


def of_scenes(task: str) -> Run:
    kind = SceneMasks if task == "segmentation" else SceneBoxes
    whole = get_benchmark("scenes", None, task)
    run = plan(whole, "ce", overrides={"epochs": 2, "batch_size": 4})
    return dataclasses.replace(run, samples=kind("few", scenes("train", "id")[:12]))


RUNS: dict[str, Callable[[], Run]] = {
    "ce": lambda: of_images("ce"),
    "mixup": lambda: of_images("mixup"),
    "palm": lambda: of_images("palm"),
    "wild": lambda: of_images("wild"),
    "pairs": of_pairs,
    "segmentation": lambda: of_scenes("segmentation"),
    "detection": lambda: of_scenes("detection"),
}


def job_watched(
    what: str, log: str, workers: int, kill: list[int] | None = None, persistent: bool = True
) -> None:
    """Train, warnings_to each batch, and die once.

    Args:
        what: a key of ``RUNS``.
        log: file of lines ``epoch step digest-of-the-batch``.
        workers: data workers.
        kill: the signal, and epoch and moment when it comes; None for never.
        persistent: whether data workers outlive an epoch.
    """
    METHODS.register("wild")(Wild)
    BACKBONES.register("plain-pair")(
        lambda channels: distributed.MultimodalEncoders(
            {name: distributed.Plain() for name in channels}
        )
    )
    run = RUNS[what]()
    # not the method's own code, which is part of the run's key
    begun, logged = training._EveryEpoch.on_train_batch_start, training._EveryEpoch._log
    save, loader = training.SealedCheckpointIO.save_checkpoint, training.Loader

    def die_at(epoch: int, moment: int) -> None:
        if kill is not None and [epoch, moment] == kill[1:]:
            os.kill(os.getpid(), kill[0])

    def noted(self: Any, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        die_at(trainer.current_epoch, batch_idx)
        with Path(log).open("a") as handle:
            handle.write(f"{trainer.current_epoch} {batch_idx} {digest_of(batch)}\n")
        begun(self, trainer, module, batch, batch_idx)

    def ended(self: Any, figures: dict[str, Any]) -> None:
        logged(self, figures)
        die_at(figures["epoch"], BEFORE_CHECKPOINT)

    def saved(self: Any, checkpoint: dict[str, Any], *rest: Any, **named: Any) -> None:
        save(self, checkpoint, *rest, **named)
        die_at(checkpoint["epoch"], AFTER_CHECKPOINT)

    def loaded(*args: Any, **named: Any) -> Any:
        return loader(*args, **{**named, "persistent_workers": persistent and workers > 0})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._EveryEpoch, "on_train_batch_start", noted)
        patch.setattr(training._EveryEpoch, "_log", ended)
        patch.setattr(training.SealedCheckpointIO, "save_checkpoint", saved)
        patch.setattr(training, "Loader", loaded)
        training.train(run, Hardware(accelerator="cpu", workers=workers))


def _drawn() -> None:
    """Scenes are drawn once, not by each attempt at a run."""
    scenes("train", "id")


job_watched.before = _drawn  # type: ignore[attr-defined]


WORDS = (
    "eval --id digits --detector msp --recipe quick --epochs 1 --accelerator cpu --workers 1 "
    "--leaderboards boards"
)


def job_few(*words: str) -> None:
    """The command line, where there are few digits."""
    BENCHMARKS._objects["digits"] = few_digits
    jobs.command(*words)


def job_eval(moment: str, signals: list[int]) -> None:
    """The command line's ``eval``, which gets signals at a moment."""
    from oodbench.detectors.msp import MSP
    from oodbench.passes import Pass, Preprocessed

    def struck(*_: Any, **__: Any) -> Any:
        for signum in signals:
            os.kill(os.getpid(), signum)
        time.sleep(600)  # whoever is to end, ends within this time

    def stopped(*_: Any, **__: Any) -> Any:
        try:
            struck()
        finally:  # while the first one is dealt with
            struck()

    moments = {
        "reading": (ImageArrays, "__init__"),
        "extracting": (Pass, "predict_step"),
        "worker": (Preprocessed, "__getitem__"),
        "scoring": (MSP, "score"),
        "twice": (MSP, "score"),
    }
    owner, name = moments[moment]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, stopped if moment == "twice" else struck)
        job_few(*WORDS.split())


def digest_of(batch: Any) -> str:
    from torch.utils._pytree import tree_leaves

    leaves = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor | np.ndarray)]
    return files.digest([np.asarray(leaf).tobytes().hex() for leaf in leaves])[:16]


class Attempts:
    """Attempts at one run, in one cache."""

    def __init__(self, server: Server, folder: Path, what: str, **options: Any) -> None:
        self.server, self.folder, self.what, self.options = server, folder, what, options
        self.cache, self.log = folder / "cache", folder / "steps.txt"

    def attempt(self, workers: int, *kill: int) -> int:
        """Exit status of one attempt, that is killed by a signal in an epoch, at a moment."""
        given = (self.what, str(self.log), workers, list(kill) or None, *self.options.values())
        self.folder.mkdir(parents=True, exist_ok=True)
        # the time is never reached: the attempt kills itself
        late = 100.0 if kill else None
        signum = kill[0] if kill else signal.SIGKILL
        return self.server.run(
            f"{__name__}:job_watched", *given, cache=self.cache, kill_after=late, with_signal=signum
        )[0]

    def steps(self) -> dict[str, str]:
        """What the network was trained on in the end, by epoch and step."""
        lines = [line.rsplit(" ", 1) for line in self.log.read_text().splitlines()]
        return dict(lines)


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Attempts]:
    """Uninterrupted runs, each made once, without data workers."""
    made: dict[str, Attempts] = {}

    def get(what: str) -> Attempts:
        if what not in made:
            made[what] = Attempts(server, tmp_path_factory.mktemp(what), what)
            made[what].attempt(0)
        return made[what]

    return get


def assert_same(found: Attempts, expected: Attempts) -> None:
    assert found.steps() == expected.steps()
    assert_equal(weights(found.cache), weights(expected.cache))
    assert log_of(found.cache) == log_of(expected.cache)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize(
    ("epoch", "moment"),
    [(1, 1), (1, BEFORE_CHECKPOINT), (0, AFTER_CHECKPOINT), (EPOCHS - 1, AFTER_CHECKPOINT)],
    ids=["middle", "before the checkpoint", "after the checkpoint", "at the very end"],
)
def test_killed_and_gone_on_with(
    epoch: int, moment: int, workers: int, server: Server, whole: Any, tmp_path: Path
) -> None:
    """The order too: an epoch's images are that epoch's, whenever the loader was asked."""
    run = Attempts(server, tmp_path, "ce")
    assert run.attempt(workers, signal.SIGKILL, epoch, moment) == -signal.SIGKILL
    assert run.attempt(workers) == 0
    assert_same(run, whole("ce"))


@pytest.mark.parametrize(
    ("what", "workers"),
    [
        ("mixup", 0),
        ("palm", 2),
        ("wild", 0),
        ("wild", 2),
        ("pairs", 0),
        ("pairs", 2),
        ("segmentation", 0),
        ("detection", 2),
    ],
)
def test_whatever_is_trained(
    what: str, workers: int, server: Server, whole: Any, tmp_path: Path
) -> None:
    """Random numbers of a step, hooks of an epoch, queues, several modalities, masks and boxes."""
    run = Attempts(server, tmp_path, what)
    assert run.attempt(workers, signal.SIGKILL, 1, 1) == -signal.SIGKILL
    assert run.attempt(workers) == 0
    assert_same(run, whole(what))


@pytest.mark.parametrize("what", ["ce", "wild"])
def test_interrupted_again_and_with_other_workers(
    what: str, server: Server, whole: Any, tmp_path: Path
) -> None:
    run = Attempts(server, tmp_path, what)
    run.attempt(2, signal.SIGKILL, 1, 0)
    run.attempt(0, signal.SIGKILL, 1, 2)
    run.attempt(1, signal.SIGKILL, 1, AFTER_CHECKPOINT)
    assert run.attempt(2) == 0
    assert_same(run, whole(what))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_live_an_epoch(
    workers: int, server: Server, whole: Any, tmp_path: Path
) -> None:
    run = Attempts(server, tmp_path, "wild", persistent=False)
    run.attempt(workers, signal.SIGKILL, 1, 1)
    assert run.attempt(workers) == 0
    assert_same(run, whole("wild"))


@pytest.mark.parametrize(
    ("signum", "workers"),
    [(signal.SIGINT, 0), (signal.SIGINT, 2), (signal.SIGTERM, 2), (signal.SIGHUP, 0)],
)
def test_signals_in_python(
    signum: int, workers: int, server: Server, whole: Any, tmp_path: Path
) -> None:
    """They do what they do to any program of Python: no word, but no success either."""
    run = Attempts(server, tmp_path, "ce")
    code = run.attempt(workers, signum, 1, 1)
    assert code == (1 if signum == signal.SIGINT else -signum)
    assert run.attempt(workers) == 0
    assert_same(run, whole("ce"))


def test_a_key_does_not_depend_on_what_was_drawn() -> None:
    """Else a method that draws from a generator of the process would begin again each time."""
    before = code_digest(Wild)
    random.random(), np.random.rand(), random.gauss(0, 1)  # noqa: NPY002
    assert code_digest(Wild) == before


TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


@pytest.fixture(scope="module")
def trained(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the network that ``eval`` needs."""
    cache = tmp_path_factory.mktemp("trained") / "cache"
    words = WORDS.replace("eval", "train").replace("--detector msp", "--method ce")
    words = words.partition(" --leaderboards")[0]
    server.run(f"{__name__}:job_few", *words.split(), cache=cache)
    return cache


@pytest.mark.parametrize(
    ("moment", "signals", "status"),
    [
        ("reading", [TERM], 143),
        ("extracting", [TERM], 143),
        ("extracting", [HUP], 129),
        ("worker", [TERM], 143),
        ("worker", [HUP], 129),
        ("scoring", [TERM], 143),
        ("scoring", [INT], 130),
        ("scoring", [TERM, TERM], 143),
        ("scoring", [TERM, INT], 143),
        ("twice", [TERM], 143),
        ("twice", [INT], 130),
        ("twice", [HUP], 129),
    ],
)
def test_signals_at_other_times(
    moment: str, signals: list[int], status: int, server: Server, trained: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(trained, cache)
    code, seconds = server.run(
        f"{__name__}:job_eval", moment, signals, cache=cache, kill_after=500.0, with_signal=TERM
    )
    said = (tmp_path / "cache.log").read_text()
    assert said.endswith("interrupted; the same command goes on where it stopped.\n")
    assert "Traceback" not in said
    assert "did not expect" not in said
    assert code == status
    assert seconds < 400
