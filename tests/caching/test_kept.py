"""What lies in the cache is told by size, age and what it is; pruning removes whole things."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oodbench import Hardware, cli, files
from oodbench.caching import kept
from oodbench.caching.kept import Kept
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess
from oodbench.extract import extract

DAY = 86400.0


def images() -> ImageArrays:
    pixels = np.zeros((4, 8, 8, 3), np.uint8)
    return ImageArrays("toy/test", pixels, np.array([0, 1, 0, 1]), ("a", "b"))


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def look() -> None:
    preprocess = Preprocess(8, (0.5,) * 3, (0.5,) * 3)
    extract(network(), images(), preprocess, hardware=Hardware("cpu", workers=0))


def run_of(cache: Path, name: str, size: int, days: float, done: bool = True) -> Path:
    folder = cache / "runs" / name
    folder.mkdir(parents=True)
    path = folder / ("weights.safetensors" if done else "last.ckpt")
    path.write_bytes(b"x" * size)
    then = time.time() - days * DAY
    for one in (path, folder):
        os.utime(one, (then, then))
    return folder


def test_an_empty_cache_holds_nothing(cache: Path) -> None:
    assert kept.kept() == []


def test_outputs_say_what_they_are_of(cache: Path) -> None:
    torch.manual_seed(0)
    look()
    (one,) = [k for k in kept.kept() if k.kind == "outputs"]
    assert "on toy/test" in one.what
    assert "Sequential" in one.what
    assert one.size == sum(p.stat().st_size for p in one.path.iterdir())
    assert one.age < 60
    (one.path / kept.ABOUT).unlink()  # of before that was noted
    (other,) = [k for k in kept.kept() if k.kind == "outputs"]
    assert other.what == one.path.name[:16]


def test_runs_come_the_largest_first_and_say_if_they_are_unfinished(cache: Path) -> None:
    run_of(cache, "ce-digits-cnn-seed0-0123456789abcdef", 10, 3)
    run_of(cache, "palm-digits-cnn-seed0-fedcba9876543210", 1000, 0, done=False)
    found = kept.kept()
    assert [one.what for one in found] == [
        "palm-digits-cnn-seed0-fedcba9876543210 (unfinished)",
        "ce-digits-cnn-seed0-0123456789abcdef",
    ]
    assert found[1].age == pytest.approx(3 * DAY, abs=60)


def test_what_a_process_works_on_stays(cache: Path) -> None:
    folder = run_of(cache, "ce-digits-cnn-seed0-0123456789abcdef", 10, 3)
    (cache / "locks").mkdir()
    lock = cache / "locks" / f"0123456789abcdef{'0' * 48}.lock"
    lock.touch()
    (one,) = [k for k in kept.kept() if k.kind == "run"]
    assert one.is_in_use
    assert not kept.remove(one)
    assert folder.is_dir()
    lock.unlink()
    assert kept.remove(*[k for k in kept.kept() if k.kind == "run"])
    assert not folder.exists()
    assert list((cache / "runs").iterdir()) == [], "nothing is left beside it"


def test_removed_outputs_are_made_again(cache: Path) -> None:
    torch.manual_seed(0)
    look()
    (one,) = [k for k in kept.kept() if k.kind == "outputs"]
    assert kept.remove(one)
    assert not [k for k in kept.kept() if k.kind == "outputs"]
    torch.manual_seed(0)
    look()
    (again,) = [k for k in kept.kept() if k.kind == "outputs"]
    assert again.path == one.path


def test_a_note_that_cannot_be_written_harms_nothing(tmp_path: Path) -> None:
    kept.note(tmp_path / "no" / "such", "network", "samples")


# the command


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def command(*words: str) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.argv", ["oodbench", "cache", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return command


def test_list_shows_size_age_and_kind(cache: Path, run: Any) -> None:
    run_of(cache, "ce-digits-cnn-seed0-0123456789abcdef", 1_500_000, 3)
    status, out, _ = run("list")
    assert status == 0
    assert str(files.cache_dir()) in out
    line = next(line for line in out.splitlines() if "0123456789abcdef" in line)
    assert line.split()[:5] == ["1.5", "MB", "3", "days", "run"]
    (one,) = json.loads(run("list", "--json")[1])["kept"]
    assert one["bytes"] == 1_500_000


def test_prune_shows_first_and_removes_when_told(cache: Path, run: Any) -> None:
    old = run_of(cache, "ce-digits-cnn-seed0-0123456789abcdef", 2_000, 40)
    new = run_of(cache, "ce-digits-cnn-seed1-0123456789abcdee", 2_000, 1)
    status, out, _ = run("prune", "--older-than", "30d")
    assert status == 0
    assert "nothing was removed" in out
    assert old.is_dir()
    status, out, _ = run("prune", "--older-than", "30d", "--remove")
    assert "removed: 2.0 kB" in out
    assert not old.exists()
    assert new.is_dir()
    assert "nothing such is kept" in run("prune", "--larger-than", "2kB", "--remove")[1]
    run("prune", "--larger-than", "1.9kB", "--kind", "run", "--remove")
    assert not new.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prune",), "say what goes"),
        (("prune", "--older-than", "soon"), "write 30d, 12h or 2w"),
        (("prune", "--larger-than", "2 elephants"), "write 500MB or 2GB"),
        (("prune", "--larger-than", "2d"), "write 500MB or 2GB"),
        (("list", "--kind", "weights"), "outputs, run, other"),
    ],
)
def test_what_cannot_be_read_is_refused(
    cache: Path, run: Any, words: tuple[str, ...], said: str
) -> None:
    status, _, err = run(*words)
    assert status == 2
    assert said in err


def test_kept_is_what_its_fields_say() -> None:
    assert Kept("other", "stock", Path(), 0, time.time() + 99).age == 0.0
