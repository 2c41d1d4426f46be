"""Work that tests do in processes of their own (see ``attempts.py``), killed or side by side."""

from __future__ import annotations

import contextlib
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from oodbench.benchmark import Benchmark
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.results.rows import row_id
from oodbench.results.store import ResultStore
from tests.conftest import REPOSITORY

PREPROCESS = Preprocess(8, (0.3,), (0.4,), mode="L", flip=False)


class Slow(ImageArrays):
    """Takes its time for an image, and notes that it was read."""

    pause = 0.0
    log: Path | None = None

    def __getitem__(self, index: int) -> Image.Image:
        if self.log is not None:
            with self.log.open("a") as handle:
                handle.write(f"{index}\n")
        time.sleep(self.pause)
        return super().__getitem__(index)


def samples(name: str, n: int, seed: int) -> Slow:
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(seed // 10).uniform(60, 200, (3, 8, 8))
    labels = np.arange(n) % 3
    pixels = np.clip(patterns[labels] + rng.normal(0, 25, (n, 8, 8)), 0, 255).astype(np.uint8)
    return Slow(name, pixels, labels, ("a", "b", "c"))


def tiny() -> Benchmark:
    seeds = {"train": 0, "test": 1}
    return Benchmark(
        "tiny-kill",
        DatasetSpec("tiny", lambda s: samples(f"tiny/{s}", 48, seeds[s]), ("train", "test")),
        (DatasetSpec("like", lambda s: samples("like", 30, 11)),),
        (DatasetSpec("other", lambda s: samples("other", 30, 21)),),
        PREPROCESS,
        backbone="digits-cnn",
    )


def train(method: str, epochs: int) -> None:
    from oodbench.hardware import Hardware
    from oodbench.training.run import plan
    from oodbench.training.train import train

    overrides = {"epochs": epochs, "batch_size": 16}
    run = plan(tiny(), method, recipe="quick", overrides=overrides)
    train(run, Hardware(accelerator="cpu"))


def extract(n: int, pause: float, log: str) -> None:
    import torch
    from torch import nn

    from oodbench.extract import extract
    from oodbench.hardware import Hardware

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))
    images = samples("slow", n, 5)
    images.pause, images.log = pause, Path(log)
    extract(model, images, PREPROCESS, hardware=Hardware(accelerator="cpu", batch_size=4))


# some row that is right
TEMPLATE = next(row for row in ResultStore(REPOSITORY / "leaderboards").rows("digits"))


def numbered(number: int, **fields: Any) -> dict[str, Any]:
    made = {**TEMPLATE, "benchmark": "toy", "number": number, "text": "x" * 200, **fields}
    return {**made, "row_id": row_id(made)}


def append_rows(folder: str, count: int, pause: float = 0.0, first: int = 0) -> None:
    store = ResultStore(folder)
    for number in range(first, first + count, 3):
        store.append([numbered(number), numbered(number + 1), numbered(number + 2)])
        time.sleep(pause)


def append_scored(folder: str) -> None:
    rows = [numbered(0), numbered(1, ood="digits-8", ood_sets=["digits-8"])]
    kept = {"id": np.arange(9.0), "ood/digits-6-9": np.arange(3.0), "ood/digits-8": np.arange(2.0)}
    ResultStore(folder).append(rows, kept)


def append_one_by_one(folder: str, first: int, count: int) -> None:
    for number in range(first, first + count):
        ResultStore(folder).append([numbered(number)])


def evaluate(folder: str) -> None:
    import oodbench
    from oodbench.results import leaderboard

    benchmark = tiny()
    oodbench.evaluate(
        benchmark=benchmark,
        detectors=["msp", "palm"],
        recipe="quick",
        recipe_options={"epochs": 2, "batch_size": 16},
        hardware=oodbench.Hardware(accelerator="cpu", batch_size=16),
        leaderboards=folder,
    )
    leaderboard.write(benchmark, folder)


def script(path: str, printed: str, *words: str) -> None:
    """A program of Python; what it prints goes to a file."""
    sys.argv = [path, *words]
    with Path(printed).open("w") as stream, contextlib.redirect_stdout(stream):
        runpy.run_path(path, run_name="__main__")


def anew(code: str, *libraries: str) -> None:
    """A program that imports us, and these libraries, for the first time; the rest is there."""
    again = {"oodbench", "tests", "benchmarks", *libraries}
    for name in list(sys.modules):
        if name.partition(".")[0] in again:
            del sys.modules[name]
    sys.argv = ["-c"]
    signal.alarm(900)
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def program(path: str, *words: str) -> None:
    """The installed program, as far as whoever starts it again (Lightning) can tell."""
    from oodbench.cli import main

    signal.alarm(900)  # one that died would leave the other waiting for half an hour
    sys.modules["__main__"].__spec__ = None  # it was not started with -m
    sys.argv = [path, *words]
    main()


def command(*words: str) -> None:
    from oodbench.cli import main

    sys.argv = ["oodbench", *words]
    main()
