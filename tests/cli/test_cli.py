"""The command line: help, names, machine-readable results, errors; and what it costs to start."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import typer

import oodbench
from oodbench import cli, files
from oodbench.results.plain import visible
from oodbench.results.rows import COLUMNS
from oodbench.results.store import ResultStore
from oodbench.settings import HardwareSettings
from tests.conftest import write_images
from tests.helpers.attempts import Server
from tests.helpers.cli import CLI


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(cli.app)
    yield " ".join(path), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


# Help


def test_the_commands_are_those_that_were_promised() -> None:
    names = {name for name, _ in commands()}
    assert {"eval", "tune", "train", "leaderboard", "info", "data status"} <= names
    assert {f"list {kind}" for kind in ("detectors", "methods", "benchmarks", "datasets")} <= names


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_and_option_has_help(name: str, run: CLI) -> None:
    command = dict(commands())[name]
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{name or 'oodbench'}: {parameter.name} has no help"
        assert parameter.help.strip()[-1] in ".…", f"{name}: {parameter.name}"
    shown = run(*name.split(), "--help")
    assert shown.status == 0
    assert shown.err == ""
    for parameter in command.params:
        for option in parameter.opts:
            assert option in shown.out or not option.startswith("-")


def test_what_training_takes_is_passed_through() -> None:
    wanted = {"--devices", "--strategy", "--precision", "--epochs", "--batch-size", "--recipe"}
    for name in ("eval", "tune", "train"):
        options = {option for p in dict(commands())[name].params for option in p.opts}
        assert wanted <= options
    hardware = {
        f"--{name.replace('_', '-')}" for name in vars(HardwareSettings()) if name != "accelerator"
    }
    assert {"--devices", "--nodes", "--strategy", "--precision"} <= hardware
    for name in ("eval", "compare", "tune", "train", "fit", "check-network"):
        options = {option for p in dict(commands())[name].params for option in p.opts}
        assert hardware <= options
    options = {option for p in dict(commands())["eval"].params for option in p.opts}
    assert {"--id", "--benchmark", "--ood", "--detector", "--json", "--retrain"} <= options


@pytest.mark.parametrize("words", [[], ["list"], ["data"]])
def test_nothing_at_all_shows_the_help(run: CLI, words: list[str]) -> None:
    ran = run(*words)
    assert "Usage" in ran.both
    assert "error" not in ran.both


# Names


@pytest.mark.parametrize("kind", ["detectors", "methods", "benchmarks", "datasets"])
def test_list(run: CLI, kind: str) -> None:
    ran = run("list", kind)
    assert ran.status == 0
    names = getattr(oodbench, f"list_{kind}")()
    lines = ran.out.splitlines()
    assert [line.split()[0] for line in lines] == names
    if kind in ("detectors", "methods", "benchmarks"):
        assert all(len(line.split()) > 2 for line in lines), "each name with what it is"


@pytest.mark.parametrize("text", ["\x1b[31mred", "\x1b]0;owned\x07", "a\u202eb", "m\u200bsp\x08"])
def test_what_plug_ins_say_of_themselves_moves_no_cursor(text: str, run: CLI) -> None:
    from oodbench.registry import DETECTORS

    class Theirs(oodbench.Detector):
        paper: ClassVar = oodbench.Paper(text, text, text, 2026, text, text)

    Theirs.__doc__ = f"Does {text}.\n\nAt length, {text}."
    oodbench.register_detector("theirs")(Theirs)
    try:
        for words in (("list", "detectors"), ("info", "theirs")):
            ended = run(*words)
            assert ended.status == 0
            assert text not in ended.out
            assert visible(text) in ended.out
            assert not {"\x1b", "\x07", "\x08", "\u202e", "\u200b"} & set(ended.out)
            assert ended.out.count("\n") > 3
    finally:
        DETECTORS.unregister("theirs")


def test_list_shows_what_a_decorator_registered(run: CLI) -> None:
    from oodbench.registry import DETECTORS

    try:

        @oodbench.register_detector("mine-alone")
        class Mine(oodbench.Detector):
            """My own score. Higher = more OOD."""

        assert "mine-alone" in run("list", "detectors").out
        assert "My own score." in run("list", "detectors").out
        assert "My own score." in run("info", "mine-alone").out
    finally:
        DETECTORS.unregister("mine-alone")


# Start-up


HEAVY = ("torch", "pytorch_lightning", "timm", "torchvision", "pandas", "sklearn", "numpy")
LIGHT = (
    "--help",
    "eval --help",
    "tune --help",
    "list detectors",
    "list methods",
    "list benchmarks",
    "list datasets",
    "list backbones",
    "list tasks",
    "list measures",
    "list needs",
    "list preparations",
    "no-such-command",
)
"""Command lines that are answered at once."""


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    """What of the heavy libraries each of the light command lines imports, in one new process.

    A library that one of them imports stays, so the first that is named is the one to look at.
    """
    code = f"""
import contextlib, io, json, sys
from oodbench.cli import main

found = {{}}
for line in {LIGHT!r}:
    sys.argv = ["oodbench", *line.split()]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            main()
    found[line] = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps(found))
"""
    words = [sys.executable, "-c", code]
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("line", LIGHT)
def test_nothing_heavy_is_imported_for_help_and_names(
    line: str, imported: dict[str, list[str]]
) -> None:
    assert imported[line] == []


def test_help_takes_at_most_a_third_of_importing_torch() -> None:
    def seconds(*words: str) -> float:
        """Of the processor, which a busy machine does not change much."""
        before = os.times()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        after = os.times()
        return sum(after[2:4]) - sum(before[2:4])

    # in turns, and the best of each: a cache may be cold
    ours = theirs = math.inf
    for _ in range(3):
        ours = min(ours, seconds("-m", "oodbench.cli", "--help"))
        theirs = min(theirs, seconds("-c", "import torch"))
        if ours <= theirs / 3:
            break
    assert ours <= theirs / 3, f"{ours:.2f} s against {theirs:.2f} s"


def test_the_installed_program_is_this_one() -> None:
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="oodbench")
    assert script.load() is cli.main


# eval


def test_eval_prints_a_table_and_stores_rows(run: CLI, digits: list) -> None:
    ran = run("eval", "--detector", "msp,energy", "--detector", "knn", *digits)
    assert ran.status == 0, ran.both
    assert ran.err == "", "advice of the libraries below is not for our user"
    for word in ("msp", "energy", "knn", "digits-6-9", "photo-patches", "near", "far"):
        assert word in ran.out
    for figure in ("AUROC", "FPR@95 ID+", "FPR@95 OOD+", "AUPR in", "AUPR out", "ID acc"):
        assert figure in ran.out
    rows = ResultStore("leaderboards").rows("digits")
    assert len(rows) == 3 * 4
    assert all(set(COLUMNS) >= set(row) for row in rows)
    page = Path("leaderboards/digits.md").read_text(encoding="utf-8")
    assert all(name in page for name in ("msp", "energy", "knn"))
    assert "leaderboards/digits.md" in ran.out
    command = rows[0]["command"]
    assert command.startswith("oodbench eval --detector msp,energy --detector knn --id digits")
    # what is printed is to be run here, a row's command anywhere: it has the file's name alone
    before, _, file = command.rpartition(" ")
    assert f"again: {before} {digits[-1]}" in ran.out
    assert file == Path(digits[-1]).name != digits[-1]
    # the same again: nothing is counted twice, and the page keeps its bytes
    assert run("eval", "--detector", "msp,energy,knn", *digits).status == 0
    assert len(ResultStore("leaderboards").rows("digits")) == len(rows)
    assert Path("leaderboards/digits.md").read_text(encoding="utf-8") == page


def test_json_is_json_alone(run: CLI, digits: list) -> None:
    chosen = ["--ood", "near=photo-patches,mnist", "--no-download"]
    ran = run("eval", "--json", "--detector", "msp", *digits, *chosen)
    assert ran.status == 0, ran.both
    assert ran.err == ""
    told = json.loads(ran.out)
    assert [row["ood"] for row in told["rows"]] == ["photo-patches", "near(photo-patches)"]
    for row in told["rows"]:
        assert row["group"] == "near"
        # a mean has no interval of its own except AUROC's
        absent = set(COLUMNS) - set(row)
        assert set(row) <= set(COLUMNS)
        assert not absent or (row["is_mean"] and all(n.endswith(("_low", "_high")) for n in absent))
        for figure in ("auroc", "fpr95_id", "fpr95_ood", "aupr_in", "aupr_out", "id_accuracy"):
            assert 0 <= row[figure] <= 1, "fractions"
    assert list(told["missing"]) == ["mnist"]
    assert all("near chance" in text for text in told["warnings"])  # the network is untrained
    assert told["rows"] == ResultStore("leaderboards").rows("digits")


def test_leaderboards_folder_from_option_or_environment(
    run: CLI, digits: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["eval", "--detector", "msp", *digits, "--ood", "photo-patches"]
    assert run(*words, "--leaderboards", tmp_path / "one").status == 0
    monkeypatch.setenv("OODBENCH_LEADERBOARDS", str(tmp_path / "two"))
    assert run(*words).status == 0
    for name in ("one", "two"):
        assert (tmp_path / name / "digits.md").is_file()
        assert (tmp_path / name / "results" / "digits").is_dir()
    assert not Path("leaderboards").exists()


def test_detector_options(run: CLI, digits: list) -> None:
    ran = run(
        "eval", "--json", "--detector", "knn,msp", "--set", "k=7", "--set",
        "knn.normalize=false", *digits, "--ood", "photo-patches",
    )  # fmt: skip
    assert ran.status == 0, ran.both
    options = {row["detector"]: row["detector_options"] for row in json.loads(ran.out)["rows"]}
    assert options["knn"] == {"k": 7, "normalize": False}
    assert "k" not in options["msp"]


def test_own_normalisation(run: CLI, digits: list) -> None:
    ran = run(
        "eval", "--json", "--detector", "msp", *digits, "--mean", "0.5", "--std", "0.25",
        "--ood", "photo-patches",
    )  # fmt: skip
    assert ran.status == 0, ran.both
    preprocess = json.loads(ran.out)["rows"][0]["preprocess"]
    assert (preprocess["mean"], preprocess["std"]) == ([0.5], [0.25])


def test_train_then_eval_of_several_seeds(run: CLI) -> None:
    quick = ["--id", "digits", "--recipe", "quick", "--epochs", "1", "--seed", "0,1"]
    trained = run("train", "--method", "ce", *quick)
    assert trained.status == 0, trained.both
    assert trained.err == ""
    weights = sorted((files.cache_dir() / "runs").glob("*/weights.safetensors"))
    assert len(weights) == 2
    assert all(str(path) in trained.out for path in weights)
    stamps = [path.stat().st_mtime_ns for path in weights]
    ran = run("eval", "--json", "--detector", "msp", *quick, "--ood", "photo-patches")
    assert ran.status == 0, ran.both
    rows = json.loads(ran.out)["rows"]
    assert [(row["seed"], row["ood"]) for row in rows] == [
        (seed, ood) for seed in (0, 1) for ood in ("photo-patches", "far")
    ]
    assert {row["recipe_options"]["epochs"] for row in rows} == {1}
    assert rows[0]["weights"] != rows[2]["weights"]
    assert [path.stat().st_mtime_ns for path in weights] == stamps, "a finished run is reused"
    page = Path("leaderboards/digits.md").read_text(encoding="utf-8")
    assert "| 0, 1 |" in page
    assert "interval over seeds and images together" in page


# leaderboard, info, data


def test_leaderboard(run: CLI, digits: list) -> None:
    empty = run("leaderboard", "--id", "digits")
    assert empty.status == 0
    assert empty.out.strip() == "leaderboards/digits.md"
    run("eval", "--detector", "msp", *digits)
    page = Path("leaderboards/digits.md")
    written = page.read_bytes()
    page.unlink()
    assert run("leaderboard", "--id", "digits").status == 0
    assert page.read_bytes() == written
    stamp = page.stat().st_mtime_ns
    assert run("leaderboard", "--benchmark", "digits").status == 0
    assert page.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("name", oodbench.list_detectors())
def test_info_on_a_detector(run: CLI, name: str) -> None:
    ran = run("info", name)
    assert ran.status == 0, ran.both
    for part in ("paper:", "formula:", "needs:", "options:", "bibtex:", "@"):
        assert part in ran.out
    detector = oodbench.create_detector(name)
    for option, value in detector.options().items():
        assert f"{option}: " in ran.out
        default = tuple(value) if isinstance(value, list) else value
        assert f"= {default!r}" in ran.out
    for option, values in detector.grid.items():
        assert f"grid:     {option} in {', '.join(map(str, values))}" in ran.out


@pytest.mark.parametrize(
    "name", [*oodbench.list_methods(), *oodbench.list_benchmarks(), *oodbench.list_datasets()]
)
def test_info_on_everything_else(run: CLI, name: str) -> None:
    ran = run("info", name)
    assert ran.status == 0, ran.both
    assert name in ran.out
    assert len(ran.out.splitlines()) >= 2
    assert "object at 0x" not in ran.out


def test_info_on_a_benchmark_says_what_is_chosen_on(run: CLI) -> None:
    for name in ("digits", "cifar10/held-out"):
        out = run("info", name).out
        (line,) = [line for line in out.splitlines() if line.startswith("chosen on:")]
        assert "-synthetic" in line
        assert "jigsaw" in line
        assert ("rgb-ghost" in line) == ("cifar" in name)


def test_info_on_palm_has_published_figures_and_its_recipe(run: CLI) -> None:
    out = run("info", "palm").out
    assert "detector palm" in out
    assert "method palm" in out
    assert "figure:" in out
    assert "arxiv.org/abs/2402.02653" in out
    assert "epochs = 500" in out


def test_data_status(run: CLI) -> None:
    write_images(files.data_dir() / "cifar10" / "test", {"cat": 2, "dog": 1})
    write_images(files.data_dir() / "mnist" / "test", {"0": 1, "1": 0})
    ran = run("data", "status")
    assert ran.status == 0, ran.both
    assert str(files.data_dir()) in ran.out
    assert str(files.cache_dir()) in ran.out
    shown = " ".join(ran.out.split())
    assert re.search(
        r"cifar10 0 of 8 \S+ GB to fetch part: cifar10; damaged: mnist; not here: ", shown
    )
    # every dataset is in a benchmark, or told by itself
    for name in set(oodbench.list_datasets()) - {
        "folder",
        "imagenet-without",
        "imagenet500-without",
    }:
        assert name in shown, name
    of_one = run("data", "status", "mnist")
    assert "holds no images" in of_one.out
    assert "Get it: torchvision.datasets.CIFAR10" in run("info", "cifar10").out


# Errors


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evaluate"], "'evaluate'"),
        (["eval"], "--detector"),
        (["eval", "--detector"], "--detector"),
        (["eval", "--detector", "msp", "--no-such-option"], "--no-such-option"),
        (["eval", "--detector", "msp", "--epoch", "3"], "--epochs"),
        (["eval", "--detector", "msp", "--epochs", "many"], "--epochs"),
        (["eval", "--detector", "msp", "--epochs", "0"], "--epochs"),
        (["eval", "--detector", "msp", "--lr", "fast"], "--lr"),
        (["eval", "--detector", "msp", "--workers", "-1"], "--workers"),
        (["eval", "--detector", "msp", "surplus"], "surplus"),
        (["train", "--id", "digits"], "--method"),
        (["info"], "name"),
        (["list", "detector"], "'detector'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line(run: CLI, words: list[str], told: str) -> None:
    message = run.refuses(*words)
    assert told in message
    assert "--help" in message


def test_a_traceback_only_with_debug(run: CLI, digits: list) -> None:
    for words in (["info", "no-such-thing"], ["eval", "--detector", "no-such-thing", *digits]):
        assert "no-such-thing" in run.refuses(*words)
        with pytest.raises(oodbench.errors.OODBenchError, match="no-such-thing"):
            run("--debug", *words)
    with pytest.raises(oodbench.errors.OODBenchError, match="no-such-thing"):
        run("eval", "--detector", "no-such-thing", *digits, "--debug")
    # and not in the next command of the same process
    run.refuses("info", "no-such-thing")


def test_debug_prints_the_traceback(server: Server) -> None:
    ran = server.command("--debug", "info", "no-such-thing")
    assert ran.status == 1
    assert "Traceback" in ran.err
    assert "UnknownNameError" in ran.err
    assert "no-such-thing" in ran.err.splitlines()[-1]
    assert "Traceback" not in server.command("info", "no-such-thing").err


def test_an_error_that_nobody_thought_of(run: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    info = importlib.import_module("oodbench.info")

    def fail(name: str) -> str:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(info, "describe", fail)
    ran = run("info", "msp")
    assert ran.status == 2
    assert len(ran.err.splitlines()) == 1
    assert "ZeroDivisionError: two lines" in ran.err
    assert "--debug" in ran.err
    with pytest.raises(ZeroDivisionError):
        run("--debug", "info", "msp")


def test_an_interruption_says_how_to_go_on(run: CLI, monkeypatch: pytest.MonkeyPatch) -> None:
    info = importlib.import_module("oodbench.info")

    def interrupt(name: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "describe", interrupt)
    ran = run("info", "msp")
    assert ran.status == 130
    assert ran.err.strip().splitlines() == [
        "interrupted; the same command goes on where it stopped."
    ]


def test_main_needs_no_arguments() -> None:
    assert not inspect.signature(cli.main).parameters


def test_one_failing_detector_does_not_lose_the_others(run: CLI, tmp_path: Path) -> None:
    """It is told at the end, with its reason; the others' rows are there; the status says so."""
    write_images(tmp_path / "in" / "train", {"ant": 12, "bee": 12})
    write_images(tmp_path / "in" / "test", {"ant": 4, "bee": 4}, seed=1)
    write_images(tmp_path / "out" / "test", {"x": 6}, seed=2)
    words = ["--id", f"folder:{tmp_path / 'in'}", "--ood", f"folder:{tmp_path / 'out'}"]
    words += ["--epochs", "1", "--batch-size", "8", "--leaderboards", str(tmp_path / "boards")]
    words += ["--set", "knn.k=1000"]
    ran = run("eval", "--detector", "knn,msp,energy", *words)
    assert ran.status == cli.SOME_FAILED
    last = ran.err.strip().splitlines()[-1]
    assert last.startswith("failed: knn: k=1000 exceeds the 24 training samples")
    stored = (tmp_path / "boards" / "results").glob("*/*.json")
    kept = [json.loads(path.read_text())["result"]["detector"] for path in stored]
    assert set(kept) == {"msp", "energy"}
    machine = run("eval", "--detector", "knn,msp", "--json", *words)
    assert machine.status == cli.SOME_FAILED
    assert list(json.loads(machine.out)["failures"]) == ["knn"]
    # where nothing is left, it is an error like any other
    alone = run("eval", "--detector", "knn", *words)
    assert alone.status == 2
    assert "exceeds the 24 training samples" in alone.err
