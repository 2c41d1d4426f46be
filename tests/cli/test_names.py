"""Names on a command line that have commas, @, =, quotes and brackets; what contradicts itself."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import oodbench
from oodbench import cli, files, get_benchmark
from oodbench.cli.names import split_names
from oodbench.dataset import name_is_there
from oodbench.errors import OODBenchError, OptionError
from oodbench.results import stored
from oodbench.results.compare import compare
from tests.conftest import write_images


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["mnist,svhn"], ["mnist", "svhn"]),
        (["mnist", " svhn , tin ,"], ["mnist", "svhn", "tin"]),
        ([",", ""], []),
        (['"folder:a,b"'], ["folder:a,b"]),
        (['mnist,"folder:a, b",near="folder:c,d"'], ["mnist", "folder:a, b", "near=folder:c,d"]),
        (['folder:"a,b",mnist'], ["folder:a,b", "mnist"]),
        (['"folder:say ""x"",y"'], ['folder:say "x",y']),
        (['folder:say "x"'], ['folder:say "x"']),
        ([r"folder:C:\birds\new,mnist"], [r"folder:C:\birds\new", "mnist"]),
        (["folder:my birds,mnist"], ["folder:my birds", "mnist"]),
        (['" a"'], [" a"]),
        (['mnist, "a,b" , near="c,d"'], ["mnist", "a,b", "near=c,d"]),
    ],
)
def test_split_names(values: list[str], names: list[str]) -> None:
    assert split_names(values, "--ood") == names


@given(names=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=4))
def test_quoted_names_are_any_text(names: list[str]) -> None:
    quoted = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    assert split_names([quoted], "--ood") == names


def test_a_quote_that_is_open() -> None:
    with pytest.raises(OptionError, match="not closed"):
        split_names(['mnist,"folder:a'], "--ood")


def sets(*values: str) -> list[str]:
    return split_names(list(values), "--ood", name_is_there)


def test_a_folder_that_is_there_is_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    (tmp_path / "x, y,z").mkdir()
    (files.data_dir() / "p,q").mkdir(parents=True)
    assert sets("folder:a,b") == ["folder:a,b"]
    assert sets(f"near=folder:{tmp_path}/a,b,mnist") == [f"near=folder:{tmp_path}/a,b", "mnist"]
    assert sets("mnist,folder:x, y,z") == ["mnist", "folder:x, y,z"]
    assert sets("mnist,p,q,far=p,q") == ["mnist", "p,q", "far=p,q"]
    assert sets("imagenet-without:folder:a,b") == ["imagenet-without:folder:a,b"]
    assert sets("folder:c,d") == ["folder:c", "d"]


def test_what_can_be_read_in_two_ways_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "a,mnist"):
        (tmp_path / name).mkdir()
    with pytest.raises(OptionError, match="both folder:a and folder:a,mnist") as error:
        sets("folder:a,mnist")
    for word in shlex.split(str(error.value).partition("quotes: ")[2].rstrip(".")):
        if word.startswith('"'):
            assert sets(word.rstrip(",.")) == [word.strip('",.')], "what is advised works"
    assert sets('"folder:a,mnist"') == ["folder:a,mnist"]
    assert sets('"folder:a",mnist') == ["folder:a", "mnist"]
    assert sets("folder:a", "mnist") == ["folder:a", "mnist"]


# PATH@SIZE


def insects(root: Path) -> Path:
    for split in ("train", "test"):
        write_images(root / split, {"ant": 2, "bee": 2})
    return root


def test_a_folder_with_an_at(tmp_path: Path) -> None:
    root = insects(tmp_path / "birds@2")
    found = get_benchmark(f"folder:{root}")
    assert (found.preprocess.size, found.id.name) == (32, f"folder:{root}")
    found = get_benchmark(f"folder:{root}@8")
    assert (found.preprocess.size, found.id.name) == (8, f"folder:{root}")
    assert len(found.id.load("test")) == 4
    assert get_benchmark(f"ptood/folder:{root}").id.name == f"folder:{root}"
    assert [len(c.spec.load("test")) for c in found.choose([f"folder:{root}"])] == [4]


def test_a_folder_with_an_at_beside_one_without(tmp_path: Path) -> None:
    root = insects(tmp_path / "birds")
    both = insects(tmp_path / "birds@2")
    with pytest.raises(OptionError) as error:
        get_benchmark(f"folder:{both}")
    first, second = f"folder:{both}@32", f"folder:{root}/@2"
    assert first in str(error.value)
    assert second in str(error.value)
    assert (get_benchmark(first).id.source, get_benchmark(first).preprocess.size) == (str(both), 32)
    assert get_benchmark(second).id.source == str(root)
    assert get_benchmark(second).preprocess.size == 2


@pytest.mark.parametrize("size", ["0", "²", "x", ""])
def test_what_is_no_size(tmp_path: Path, size: str) -> None:
    root = insects(tmp_path / "birds")
    with pytest.raises(OODBenchError):
        get_benchmark(f"folder:{root}@{size}")


# The whole way


@pytest.mark.parametrize(
    "name", ["a,b", "birds@2", "x=y", "c:d", "my birds", "st*r", "[new]", "it's", "a,b@2 = [c]"]
)
def test_names_on_the_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    insects(tmp_path / "id" / name)
    write_images(tmp_path / "ood" / name, {".": 3}, seed=5)
    words = ["eval", "--id", f"folder:id/{name}", "--detector", "msp", "--backbone", "digits-cnn",
             "--recipe", "quick", "--epochs", "1", "--ood", f"near=folder:ood/{name}",
             "--accelerator", "cpu"]  # fmt: skip
    printed = []
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["oodbench", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out = capsys.readouterr().out
        assert left.value.code in (0, None), out
        printed.append(out)
        (again,) = [line for line in out.splitlines() if line.startswith("again: ")]
        words = shlex.split(again.removeprefix("again: "))[1:]
    (path,) = (tmp_path / "leaderboards" / "results").glob("*/*.json")
    rows = stored.read(path).rows
    assert [row["ood"] for row in rows][:2] == [f"folder:ood/{name}", "near"]
    assert rows[0]["id"] == f"folder:id/{name}"
    assert shlex.split(rows[0]["command"])[1:] == words
    assert rows[0]["n_ood"] == 3


# What contradicts itself


MODEL = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"id": "cifar10"}, ["'digits'", "'cifar10'"]),
        ({"task": "segmentation"}, ["classification", "segmentation"]),
        ({"id": "digits", "task": "detection"}, ["classification", "detection"]),
        ({"id": "cifar10", "task": "classification"}, ["'digits'", "'cifar10'"]),
        ({"task": "pixels"}, ["'pixels'"]),
    ],
)
def test_what_contradicts_a_benchmark_is_refused(given_: dict[str, str], told: list[str]) -> None:
    for benchmark in ("digits", get_benchmark("digits")):
        for call in (oodbench.evaluate, lambda model, **more: oodbench.get_benchmark(**more)):
            with pytest.raises(OptionError) as error:
                call(MODEL, benchmark=benchmark, **given_)
            for word in told:
                assert word in str(error.value)


def test_compare_refuses_it_too() -> None:
    with pytest.raises(OptionError, match="cifar10"):
        compare("cifar10", ["digits-cnn"], benchmark=get_benchmark("digits"))


@pytest.mark.parametrize(
    ("id_name", "benchmark"), [("cifar10", "cifar100/palm"), ("cifar100", "cifar10/openood")]
)
def test_names_that_contradict(id_name: str, benchmark: str) -> None:
    with pytest.raises(OptionError) as error:
        oodbench.evaluate(MODEL, id=id_name, benchmark=benchmark, preprocess="benchmark")
    assert repr(id_name) in str(error.value)
    assert repr(benchmark) in str(error.value)


def test_what_agrees_passes() -> None:
    digits = get_benchmark("digits")
    own = replace(digits, name="mine")
    for given_ in ({}, {"id": "digits"}, {"task": "classification"}):
        assert get_benchmark(benchmark=digits, **given_) is digits
    assert get_benchmark("mine", own) is own
    assert get_benchmark("digits", own, "classification") is own
    assert len(oodbench.evaluate(MODEL, "digits", benchmark=own, task="classification",
                                 ood=["digits-6-9"], preprocess="benchmark")) == 2  # fmt: skip
    assert get_benchmark("cifar100", "cifar100/palm").name == "cifar100/palm"
    assert get_benchmark("scenes", None, "detection").name == "scenes/detection"
