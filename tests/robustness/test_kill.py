"""Killed at any moment, the next run completes; nothing is lost, and nothing is counted twice.

An attempt is killed after a time, or just before it changes a file. Where this is done at each kind
of change, what such a kill leaves is copied while one run goes on (``Server.states``).
"""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oodbench import files
from oodbench.results.store import ResultStore
from tests.helpers.attempts import Server
from tests.helpers.jobs import numbered
from tests.helpers.runs import assert_equal, log_of, weights


def until_done(attempt: Callable[[int], int], most: int) -> int:
    """Attempts until one completes; how many were killed. The last one must be left alone."""
    for killed in range(most):
        if attempt(killed) == 0:
            return killed
    return most


# Training


def test_training_killed_at_random_moments(server: Server, tmp_path: Path) -> None:
    """Other methods are killed in training/test_resume.py, at moments that are known."""
    job = ("train", "ce", 14)
    _, seconds = server.run(*job, cache=tmp_path / "whole")
    rng = random.Random("ce")
    cache = tmp_path / "killed"

    def attempt(number: int) -> int:
        delay = rng.uniform(0, 0.4 * seconds)
        return server.run(*job, cache=cache, kill_after=delay)[0]

    assert until_done(attempt, most=4) >= 2
    server.run(*job, cache=cache)
    assert_equal(weights(cache), weights(tmp_path / "whole"))
    assert log_of(cache) == log_of(tmp_path / "whole")
    assert not list(cache.rglob("*.part"))


def test_training_killed_before_each_kind_of_change(server: Server, tmp_path: Path) -> None:
    """A run of one epoch begins, saves and ends; each of its steps is the last one once."""
    job = ("train", "ce", 1)
    whole = tmp_path / "whole"
    states = server.states(*job, cache=whole, watched=whole / "runs")
    expected = weights(whole)
    assert len(states) > 8, "too few changes of files were seen"
    for cache in states.values():
        server.run(*job, cache=cache)
        assert_equal(weights(cache), expected)
        assert not list(cache.rglob("*.part")), "finished, and nothing left over"


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
        lambda _: server.run(*job, cache=cache, kill_after=rng.uniform(0.02, 0.25))[0], most=5
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


def test_extraction_killed_before_each_kind_of_change(server: Server, tmp_path: Path) -> None:
    job = ("extract", 11, 0.0, str(tmp_path / "log"))
    whole = tmp_path / "whole"
    states = server.states(*job, cache=whole, watched=whole / "outputs")
    expected = outputs(whole)
    assert len(states) > 5, "too few changes of files were seen"
    for cache in states.values():
        server.run(*job, cache=cache)
        assert_equal(outputs(cache), expected)
        assert not list((cache / "outputs").glob("*/.*.part")), "finished, and nothing left over"


# Rows


def lines(folder: Path, name: str = "toy") -> list[dict[str, Any]]:
    """The rows of a store, read with nothing but JSON."""
    results = [json.loads(p.read_text()) for p in (folder / "results" / name).glob("*.json")]
    return [{**result["result"], **row} for result in results for row in result["rows"]]


def test_row_writing_killed_at_random_moments(server: Server, tmp_path: Path) -> None:
    folder, count = tmp_path / "leaderboards", 300
    job = ("append_rows", str(folder), count, 0.001)
    rng = random.Random(2)
    kills = until_done(
        lambda _: server.run(*job, cache=tmp_path / "c", kill_after=rng.uniform(0, 0.12))[0],
        most=10,
    )
    assert kills >= 2
    server.run(*job, cache=tmp_path / "c")
    assert sorted(line["number"] for line in lines(folder)) == list(range(count))


def test_result_writing_killed_before_each_kind_of_change(server: Server, tmp_path: Path) -> None:
    """What is there is whole; the next attempt completes it, and nothing is left over."""
    job = ("append_scored", str(tmp_path / "whole"))
    kinds = server.changes(*job, cache=tmp_path / "c", watched=tmp_path / "whole")
    assert len(kinds) >= 4, "of the scores and of the result: written beside, renamed"
    for number, kind in enumerate(kinds):
        folder = tmp_path / str(number)
        job = ("append_scored", str(folder))
        code, _ = server.run(*job, cache=tmp_path / "c", kill_at_change=kind, watched=folder)
        assert code == -signal.SIGKILL, kind
        assert [result.scores is not None for result in ResultStore(folder).results("toy")] in (
            [],
            [True],
        )
        server.run(*job, cache=tmp_path / "c")
        assert len(lines(folder)) == 2
        names = {path.suffix for path in (folder / "results" / "toy").iterdir()}
        assert names <= {".json", ".safetensors", ".part"}


def test_what_a_killed_write_leaves_is_not_read(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.append([numbered(0)])
    (whole,) = store.path("toy").iterdir()
    with files.replacing(whole.with_name("msp-0.json")) as temporary:
        temporary.write_bytes(whole.read_bytes()[:100])
        left = temporary.read_bytes()
        name = temporary.name
    (whole.with_name("msp-0.json")).rename(whole.with_name(name))
    assert whole.with_name(name).read_bytes() == left
    assert len(store.rows("toy")) == 1


def test_two_processes_append_at_once(server: Server, tmp_path: Path) -> None:
    """Every row once, whoever wrote it; rows 30 to 59 are both processes'."""
    orders = [(str(tmp_path), first, 60) for first in (0, 30)]
    server.together("append_one_by_one", *orders, cache=tmp_path / "cache")
    assert sorted(line["number"] for line in lines(tmp_path)) == list(range(90))


# All together


def test_evaluation_killed_before_changes_of_files(server: Server, tmp_path: Path) -> None:
    """Training, extraction, rows and page: killed at every turn, the page is that of one run.

    Training and extraction are killed at each kind of change above; here at one of sixteen.
    """
    whole = tmp_path / "whole"
    job = ("evaluate", str(whole / "boards"))
    kinds = server.changes(*job, cache=whole / "cache", watched=whole)
    killed = tmp_path / "killed"
    job = ("evaluate", str(killed / "boards"))
    turns = [kind for i, kind in enumerate(kinds) if i % 16 == 0 or "/boards" in kind]
    codes = [
        server.run(*job, cache=killed / "cache", kill_at_change=kind, watched=killed)[0]
        for kind in turns
    ]
    kills = codes.count(-signal.SIGKILL)
    assert kills >= 12, dict(zip(turns, codes, strict=True))
    assert kills > 3 * len(turns) // 4, "a later turn finds work done, most must not"
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
    begun = "runs/*/last.ckpt"
    code, _ = server.run(
        "command",
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
