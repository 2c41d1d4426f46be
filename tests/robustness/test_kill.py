"""Killed at any moment, the next run completes; nothing is lost, and nothing is counted twice.

Started as a program, this file is a server that has imported everything once, forks a child for
each attempt, and kills it at the given moment: after a time, or just before the n-th time that it
changes a file. So an attempt costs milliseconds, and there can be many.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oodbench import files
from oodbench.benchmark import Benchmark, DatasetSpec
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess
from oodbench.results.rows import row_id
from oodbench.results.store import ResultStore

PREPROCESS = Preprocess(8, (0.3,), (0.4,), mode="L", flip=False)


# What the killed processes do


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


def job_train(method: str, epochs: int) -> None:
    from oodbench.hardware import Hardware
    from oodbench.training.train import plan, train

    overrides = {"epochs": epochs, "batch_size": 16}
    run = plan(tiny(), method, recipe="quick", overrides=overrides)
    train(run, Hardware(accelerator="cpu"))


def job_extract(n: int, pause: float, log: str) -> None:
    import torch
    from torch import nn

    from oodbench.extract import extract
    from oodbench.hardware import Hardware

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))
    images = samples("slow", n, 5)
    images.pause, images.log = pause, Path(log)
    extract(model, images, PREPROCESS, hardware=Hardware(accelerator="cpu", batch_size=4))


# some row that is right; this file is also a program, which cannot import the tests' own helpers
TEMPLATE = json.loads(
    (Path(__file__).resolve().parents[2] / "leaderboards" / "results" / "digits.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()[0]
)


def row(number: int, **fields: Any) -> dict[str, Any]:
    made = {**TEMPLATE, "benchmark": "toy", "number": number, "text": "x" * 200, **fields}
    return {**made, "row_id": row_id(made)}


def job_rows(folder: str, count: int, pause: float = 0.0, first: int = 0) -> None:
    store = ResultStore(folder)
    for number in range(first, first + count, 3):
        store.append([row(number), row(number + 1), row(number + 2)])
        time.sleep(pause)


def job_evaluate(folder: str) -> None:
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


def job_cli(*words: str) -> None:
    from oodbench.cli import main

    sys.argv = ["oodbench", *words]
    main()


# The server


def _child(job: dict[str, Any], jobs: Mapping[str, Any]) -> None:
    """Runs a job in this process, and ends it."""
    os.environ.update(job["env"])
    with Path(job["log"]).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if job["kill_at_change"] is not None:
        _die_at_change(job["kill_at_change"], [Path(job["watched"])])
    code = 0
    try:
        jobs[f"job_{job['name']}"](*job["args"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _die_at_change(count: int, below: list[Path]) -> None:
    """Kill this process just before it changes files for the ``count``-th time."""
    left = count
    roots = tuple(str(path) for path in below)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        if event == "open":
            # args: path, mode, flags
            changes = bool(args[2] & (os.O_WRONLY | os.O_RDWR))
        else:
            changes = event in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate")
        if changes and isinstance(args[0], str | bytes | os.PathLike):
            path = os.fsdecode(args[0])
            if path.startswith(roots):
                left -= 1
                if left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def serve(jobs: Mapping[str, Any]) -> None:
    """Answers a :class:`Server`; ``jobs`` has a function ``job_NAME`` for each name."""
    # what the jobs import when they run
    import torch.utils.tensorboard

    import oodbench.cli
    import oodbench.datasets.digits
    import oodbench.detectors.ce
    import oodbench.detectors.msp
    import oodbench.detectors.palm
    import oodbench.evaluator
    import oodbench.results.leaderboard  # noqa: F401

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _child(job, jobs)
        if job["kill_after"] is not None:
            start = None if job["once"] else began
            while start is None or time.monotonic() - start < job["kill_after"]:
                if start is None and any(Path(job["watched"]).glob(job["once"])):
                    start = time.monotonic()
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                    break
                time.sleep(0.002)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, job["signal"])
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"code": code, "seconds": time.monotonic() - began}), flush=True)


class Server:
    """Starts attempts and says how they ended."""

    def __init__(self, *program: str) -> None:
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *(program or [__file__])],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one_thread},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def run(
        self,
        name: str,
        *args: Any,
        cache: Path,
        kill_after: float | None = None,
        kill_at_change: int | None = None,
        watched: Path | None = None,
        once: str | None = None,
        with_signal: int = signal.SIGKILL,
    ) -> tuple[int, float]:
        """Exit code (minus the signal's number) and seconds of one attempt.

        With ``once``, a pattern, the seconds of ``kill_after`` count from when the cache has such.
        """
        log = cache.parent / f"{cache.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        job = {
            "name": name,
            "args": args,
            "env": {"OODBENCH_CACHE": str(cache)},
            "kill_after": kill_after,
            "kill_at_change": kill_at_change,
            "watched": str(watched or cache),
            "once": once,
            "signal": int(with_signal),
            "log": str(log),
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if kill_after is None and kill_at_change is None:
            assert answer["code"] == 0, log.read_text()
        elif with_signal == signal.SIGKILL:
            assert answer["code"] in (0, -signal.SIGKILL), log.read_text()
        return answer["code"], answer["seconds"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def until_done(attempt: Callable[[int], int], most: int) -> int:
    """Attempts until one completes; how many were killed. The last one must be left alone."""
    for killed in range(most):
        if attempt(killed) == 0:
            return killed
    return most


# Training


def weights(cache: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    (path,) = (cache / "runs").glob("*/weights.safetensors")
    return load_file(path)


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not one[name].equal(other[name])] == []


def log_of(cache: Path) -> list[str]:
    (path,) = (cache / "runs").glob("*/csv/metrics.csv")
    return path.read_text().splitlines()


@pytest.mark.parametrize("method", ["ce", "palm"])
def test_training_killed_at_random_moments(method: str, server: Server, tmp_path: Path) -> None:
    job = ("train", method, 14)
    _, seconds = server.run(*job, cache=tmp_path / "whole")
    rng = random.Random(method)
    cache = tmp_path / "killed"

    def attempt(number: int) -> int:
        delay = rng.uniform(0, 0.4 * seconds)
        return server.run(*job, cache=cache, kill_after=delay)[0]

    assert until_done(attempt, most=8) >= 2
    server.run(*job, cache=cache)
    assert_equal(weights(cache), weights(tmp_path / "whole"))
    assert log_of(cache) == log_of(tmp_path / "whole")
    assert not list(cache.rglob("*.part"))


def test_training_killed_before_each_change_of_a_file(server: Server, tmp_path: Path) -> None:
    """A run of one epoch begins, saves and ends; each of its steps is the last one once."""
    job = ("train", "ce", 1)
    server.run(*job, cache=tmp_path / "whole")
    expected = weights(tmp_path / "whole")
    number, killed = 1, True
    while killed:
        cache = tmp_path / str(number)
        code, _ = server.run(*job, cache=cache, kill_at_change=number)
        killed = code != 0
        if killed:
            server.run(*job, cache=cache)
        assert_equal(weights(cache), expected)
        assert not list(cache.rglob("*.part")), "finished, and nothing left over"
        number += 1 if number < 6 else 2
    assert number > 10, "too few changes of files were seen"


# Extraction


def outputs(cache: Path) -> dict[str, Any]:
    from oodbench import Outputs

    (path,) = (cache / "outputs").glob("*/outputs.json")
    found = Outputs.load(path.parent)
    assert found.head is not None
    return {
        "features": found.features,
        "logits": found.logits,
        "labels": found.labels,
        "weight": found.head.weight,
        "bias": found.head.bias,
    }


def test_extraction_killed_at_random_moments(server: Server, tmp_path: Path) -> None:
    n, pause = 90, 0.006
    server.run("extract", n, 0.0, str(tmp_path / "whole.txt"), cache=tmp_path / "whole")
    job = ("extract", n, pause, str(tmp_path / "read.txt"))
    cache = tmp_path / "killed"
    rng = random.Random(1)
    kills = until_done(
        lambda _: server.run(*job, cache=cache, kill_after=rng.uniform(0.02, 0.25))[0], most=9
    )
    assert kills >= 2
    server.run(*job, cache=cache)
    assert_equal(outputs(cache), outputs(tmp_path / "whole"))

    read = [int(line) for line in (tmp_path / "read.txt").read_text().splitlines()]
    assert set(read) == set(range(n))
    # a shard has 4 images; of each attempt one may be unfinished, and one read ahead
    assert len(read) <= n + kills * 8, "finished shards were done again"

    server.run(*job, cache=cache)
    again = [int(line) for line in (tmp_path / "read.txt").read_text().splitlines()]
    assert again == read, "a complete extraction is not done again"


def test_extraction_killed_before_each_change_of_a_file(server: Server, tmp_path: Path) -> None:
    server.run("extract", 11, 0.0, str(tmp_path / "log"), cache=tmp_path / "whole")
    expected = outputs(tmp_path / "whole")
    number, killed = 1, True
    while killed:
        cache = tmp_path / str(number)
        job = ("extract", 11, 0.0, str(tmp_path / "log"))
        code, _ = server.run(*job, cache=cache, kill_at_change=number)
        killed = code != 0
        if killed:
            server.run(*job, cache=cache)
        assert_equal(outputs(cache), expected)
        assert not list((cache / "outputs").glob("*/.*.part")), "finished, and nothing left over"
        number += 1 if number < 16 else 3
    assert number > 10, "too few changes of files were seen"


# Rows


def lines(folder: Path, name: str = "toy") -> list[dict[str, Any]]:
    """The rows of a store, read with nothing but JSON."""
    content = (folder / "results" / f"{name}.jsonl").read_text()
    assert content.endswith("\n")
    return [json.loads(line) for line in content.splitlines()]


def test_row_writing_killed_at_random_moments(server: Server, tmp_path: Path) -> None:
    folder, count = tmp_path / "leaderboards", 300
    job = ("rows", str(folder), count, 0.001)
    rng = random.Random(2)
    kills = until_done(
        lambda _: server.run(*job, cache=tmp_path / "c", kill_after=rng.uniform(0, 0.12))[0],
        most=10,
    )
    assert kills >= 2
    server.run(*job, cache=tmp_path / "c")
    assert [line["number"] for line in lines(folder)] == list(range(count))


def test_torn_at_any_byte_the_next_append_completes(tmp_path: Path) -> None:
    """A full disk, or a kill in the middle of a write, ends the file anywhere."""
    store = ResultStore(tmp_path)
    rows = [row(number, text="é\n" * 5) for number in range(5)]
    store.append(rows[:2])
    path = store.path("toy")
    kept = path.stat().st_size
    store.append(rows[2:])
    whole = path.read_bytes()
    for cut in range(kept, len(whole)):
        path.write_bytes(whole[:cut])
        readable = store.rows("toy")
        assert [r["number"] for r in readable] == list(range(len(readable)))
        assert len(readable) >= 2
        assert store.append(rows) == 5 - len(readable)
        assert path.read_bytes() == whole


def test_two_processes_append_at_once(tmp_path: Path) -> None:
    """Every row once, whoever wrote it; rows 100 to 199 are both processes'."""
    script = """
import json, sys
from oodbench.results.store import ResultStore
print("ready", flush=True)
for rows in json.loads(sys.stdin.read()):
    ResultStore(sys.argv[1]).append(rows)
"""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for writer, first in zip(writers, (0, 100), strict=True):
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        writer.stdin.write(json.dumps([[row(n)] for n in range(first, first + 200)]))
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert sorted(line["number"] for line in lines(tmp_path)) == list(range(300))


def test_the_lock_of_a_killed_writer_is_gone(tmp_path: Path) -> None:
    path = ResultStore(tmp_path).path("toy")
    child = os.fork()
    if child == 0:
        with files.locked(path):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert ResultStore(tmp_path).append([row(0)]) == 1


# All together


def test_evaluation_killed_before_changes_of_files(server: Server, tmp_path: Path) -> None:
    """Training, extraction, rows and page: killed a dozen times, the page is that of one run."""
    whole = tmp_path / "whole"
    server.run("evaluate", str(whole / "boards"), cache=whole / "cache")
    killed = tmp_path / "killed"
    job = ("evaluate", str(killed / "boards"))
    rng = random.Random(3)
    kills = until_done(
        lambda _: server.run(
            *job, cache=killed / "cache", kill_at_change=rng.randint(2, 25), watched=killed
        )[0],
        most=12,
    )
    assert kills >= 6
    for number in (1, 2, 3, 4):  # the last changes: rows and page
        (killed / "boards" / "tiny-kill.md").unlink(missing_ok=True)
        server.run(*job, cache=killed / "cache", kill_at_change=number, watched=killed / "boards")
    server.run(*job, cache=killed / "cache")

    expected, found = (lines(folder / "boards", "tiny-kill") for folder in (whole, killed))
    assert len({r["row_id"] for r in found}) == len(found)
    assert {r["row_id"] for r in found} == {r["row_id"] for r in expected}
    pages = [(f / "boards" / "tiny-kill.md").read_text() for f in (whole, killed)]
    tables = [page.partition("### How the rows were made")[0] for page in pages]
    assert tables[0] == tables[1]
    for pattern in ("outputs/*/outputs.json", "runs/*/weights.safetensors"):
        names = [{p.parent.name for p in (f / "cache").glob(pattern)} for f in (whole, killed)]
        assert names[0] == names[1]


# Ctrl-C


@pytest.mark.parametrize(
    ("signum", "workers"),
    [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGTERM, 2), (signal.SIGHUP, 1)],
)
def test_interrupt_says_that_the_same_command_goes_on(
    signum: int, workers: int, server: Server, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    words = ("train", "--method", "ce", "--id", "digits", "--epochs", "400", "--accelerator", "cpu")
    # not before: Python loses an interrupt that comes while a data worker is forked
    begun = "runs/*/csv/metrics.csv"
    code, _ = server.run(
        "cli",
        *words,
        f"--workers={workers}",
        cache=cache,
        kill_after=0.3,
        once=begun,
        with_signal=signum,
    )
    assert code == 128 + signum
    said = (tmp_path / "cache.log").read_text()
    assert said == "interrupted; the same command goes on where it stopped.\n"
    assert list((cache / "runs").glob("*/last.ckpt"))
    assert not list((cache / "runs").glob("*/weights.safetensors"))


if __name__ == "__main__":
    serve(globals())
