"""Paths that users give, and names that become files: told apart anywhere, never too long."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oodbench import cli, evaluate, files
from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec, resolve_dataset
from oodbench.errors import StorageError
from oodbench.hardware import Hardware
from oodbench.networks.checkpoints import read_checkpoint
from oodbench.registry import BENCHMARKS, list_benchmarks
from oodbench.results import compare, leaderboard
from oodbench.results.store import ResultStore, page_name
from tests.conftest import REPOSITORY, write_images

GREY = Preprocess(8, (0.5,), (0.25,), mode="L")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    where = tmp_path / "home"
    where.mkdir()
    monkeypatch.setenv("HOME", str(where))
    monkeypatch.setenv("USERPROFILE", str(where))
    return where


def bench(name: str) -> Benchmark:
    def spec(called: str, seed: int) -> DatasetSpec:
        def load(split: str) -> ImageArrays:
            rng = np.random.default_rng(seed + (split == "train"))
            images = rng.integers(0, 256, (12, 8, 8), dtype=np.uint8)
            return ImageArrays(f"{called}/{split}", images, np.arange(12) % 2, ("a", "b"))

        return DatasetSpec(called, load, ("train", "test"))

    return Benchmark(name, spec("toy", 0), (spec("other", 3),), (), GREY)


def run(name: str, where: str | Path, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    return evaluate(
        model,
        detectors="msp",
        benchmark=bench(name),
        hardware=Hardware(accelerator="cpu"),
        leaderboards=where,
        preprocess="benchmark",
    )


# --- ~ -----------------------------------------------------------------------------------------


def test_environment_variables_with_a_tilde(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", "~/c")
    monkeypatch.setenv("OODBENCH_DATA", "~/d")
    assert files.cache_dir() == home / "c"
    assert files.data_dir() == home / "d"
    write_images(home / "d" / "mine" / "test", {"x": 2})
    assert len(resolve_dataset("mine").load("test")) == 2
    run("toy-known", "~/boards")
    assert (home / "c" / "outputs").is_dir()
    assert (home / "boards" / "results" / "toy-known").is_dir()
    assert leaderboard.write(bench("toy-known"), "~/boards") == home / "boards" / "toy-known.md"
    assert not list(Path().glob("*~*")), "no folder called ~"


def test_files_with_a_tilde(home: Path) -> None:
    torch.save({"a": torch.ones(1)}, home / "w.pt")
    assert read_checkpoint("~/w.pt")[0]["a"] == 1
    write_images(home / "set" / "test", {"x": 2})
    assert len(resolve_dataset("folder:~/set").load("test")) == 2
    (home / "a file").write_text("")
    with pytest.raises(StorageError, match="a file"):  # before any work
        evaluate(
            torch.nn.Linear(1, 1),
            benchmark=bench("x"),
            pictures="~/a file/p",
            preprocess="benchmark",
        )


@pytest.mark.parametrize("how", ["option", "variable"])
def test_the_command_line_with_a_tilde(
    home: Path, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["oodbench", "leaderboard", "--id", "digits"]
    if how == "option":
        argv += ["--leaderboards", "~/boards"]
    else:
        monkeypatch.setenv("OODBENCH_LEADERBOARDS", "~/boards")
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code
    assert (home / "boards" / "digits.md").is_file()
    assert str(home / "boards") in capsys.readouterr().out


def test_a_plot_that_cannot_be_written_is_told_before_the_work(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "file").write_text("")
    monkeypatch.setattr(compare, "compare", lambda *a, **k: pytest.fail("it worked"))
    argv = "oodbench compare --detector msp --backbone x --id digits --plot ~/file/p.png"
    monkeypatch.setattr("sys.argv", argv.split())
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert "--plot" in capsys.readouterr().err


# --- names -------------------------------------------------------------------------------------

ALIKE = [
    "folder:x/y", "folder:x-y", "folder:x y", "folder:x_y", "folder:x.y", "folder:x/y/",
    "folder:X/y", "folder:x//y", "folder:./x/y", "folder:x/y.", "folder:x\\y", "folder:x/y@64",
    "folder:é", unicodedata.normalize("NFD", "folder:é"), "folder:-", "folder:--", "folder:日本",
    "folder:日木", "folder-x-y", "folder/x/y", "folder x y", "Folder-x-y", "folder-x-y.", "a/b",
    "a-b", "A-b", "a b", " a-b", "a-b-", "nul", "con.x", "nul/x", "CON", "cifar100-palm",
    "cifar100/palm", "cifar100//palm", "ptood/folder:x/y", "ptood/folder:x-y", "x" * 300,
    "x" * 301, "folder:" + "y" * 5000, "folder:" + "日" * 90, "folder:" + "日" * 91, ":", "/", ".",
    "..", "", page_name("folder:x/y"), page_name("folder:x-y"),
]  # fmt: skip


def test_names_do_not_share_a_file() -> None:
    pages = {name: page_name(name) for name in ALIKE}
    folded = [page.casefold() for page in pages.values()]
    assert len(set(folded)) == len(set(ALIKE)), sorted(folded)
    for name, page in pages.items():
        assert page.isascii(), name
        assert 0 < len(page.encode()) <= 100
        assert page.strip("-. ") == page, name
        assert not set(page) & set('<>:"/\\|?*\n ')
        assert page.partition(".")[0].casefold() not in ("con", "nul")


def test_registered_benchmarks_keep_their_files() -> None:
    assert page_name("cifar100/palm") == "cifar100-palm"
    for name in list_benchmarks():
        assert page_name(name) == name.replace("/", "-")
    stores = (REPOSITORY / "leaderboards" / "results").glob("*/*.json")
    for store in stores:
        result = json.loads(store.read_text())["result"]
        assert page_name(result["benchmark"]) == store.parent.name


def test_a_name_that_another_benchmark_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BENCHMARKS._objects, "toy/one", object())
    assert page_name("toy/one") == "toy-one"
    assert page_name("toy-one") not in ("toy-one", page_name("toy one"))


def test_rows_of_similar_names_are_apart(tmp_path: Path) -> None:
    names = ("folder:x/y", "folder:x-y", "x" * 400)
    for seed, name in enumerate(names):
        run(name, tmp_path, seed)
    store = ResultStore(tmp_path)
    for name in names:
        assert {row["benchmark"] for row in store.rows(name)} == {name}
        page = leaderboard.write(bench(name), tmp_path)
        assert page.read_text().startswith(f"# {name}\n")
        assert page.with_name("results").joinpath(page.stem).is_dir()


def test_stores_under_the_former_name_are_read(tmp_path: Path) -> None:
    run("folder:x/y", tmp_path)
    store = ResultStore(tmp_path)
    rows = store.rows("folder:x/y")
    former = tmp_path / "results" / "folder-x-y.jsonl"
    former.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.rmtree(store.path("folder:x/y"))
    assert store.rows("folder:x/y") == rows
    assert store.rows("folder:x-y") == [], "they are another's"
    run("folder:x/y", tmp_path)
    assert store.rows("folder:x/y") == rows, "nothing is written twice"
    run("folder:x/y", tmp_path, seed=1)
    assert len(store.rows("folder:x/y")) == 2 * len(rows)


def test_what_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file" / "boards", tmp_path / ("x" * 300)):
        with pytest.raises(StorageError, match="leaderboards"):
            run("toy-known", where)
    assert not (files.cache_dir() / "outputs").exists()


def test_a_very_long_folder_is_evaluated(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(6):
        deep = deep / ("d" * 200)
    for split in ("train", "test"):
        write_images(deep / "id" / split, {"a": 3, "b": 3}, size=8)
    write_images(deep / "ood", {"c": 4}, size=8, seed=5)
    benchmark = get_benchmark(benchmark=f"folder:{deep / 'id'}")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))
    found = evaluate(
        model,
        detectors="msp",
        benchmark=benchmark,
        ood=[f"folder:{deep / 'ood'}"],
        hardware=Hardware(accelerator="cpu"),
        leaderboards=tmp_path / "boards",
        preprocess="benchmark",
    )
    assert len(ResultStore(tmp_path / "boards").rows(benchmark.name)) == len(found.rows) > 0
    assert leaderboard.write(benchmark, tmp_path / "boards").is_file()


def test_names_of_pictures() -> None:
    assert files.file_name("scenes-6-9/test") == "scenes-6-9-test"
    names = ("folder:x/y/test", "folder:x-y/test", "folder:x y/test", "é/test", "x" * 400)
    assert len({files.file_name(name) for name in names}) == len(names)
    assert max(len(files.file_name(name).encode()) for name in names) <= 100
