"""Lists, sheets and the state of the data: grouped on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console

import oodbench
from oodbench import files, registry
from oodbench.cli import catalogue, listing
from oodbench.cli.data import stocks_of
from oodbench.errors import UnknownNameError
from oodbench.info import State, describe, sheets, states
from oodbench.registry import BACKBONES, BENCHMARKS, DATASETS, DETECTORS, Registry
from tests.conftest import write_images
from tests.helpers.cli import CLI

# published figures have a command of their own
REGISTRIES = [
    kind
    for kind in vars(registry).values()
    if isinstance(kind, Registry) and kind is not registry.PUBLISHED
]
ADDRESS = re.compile(r"https?://|\bwww\.|\.(com|org|edu|ca|ch)\b")


@pytest.fixture
def forget() -> Iterator[Callable[[Registry, str], None]]:
    """Has names forgotten after the test."""
    names: list[tuple[Registry, str]] = []
    yield lambda kind, name: names.append((kind, name))
    for kind, name in names:
        kind.unregister(name)


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch, run: CLI) -> Callable[..., str]:
    """What a command prints where somebody looks, at 80 columns and without colours."""

    def printed(*words: str | Path, width: int = 80) -> str:
        monkeypatch.setattr(catalogue, "is_terminal", lambda: True)
        monkeypatch.setenv("COLUMNS", str(width))
        ran = run(*words)
        assert ran.status == 0, ran.both
        return ran.out

    return printed


def rows(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if re.match(r" {2}\S", line)]


# Lists


def test_each_kind_has_a_list() -> None:
    assert set(listing.KINDS) == {kind.plural for kind in REGISTRIES}
    for plural in listing.KINDS:
        assert f"list_{plural}" in oodbench.__all__


@pytest.mark.parametrize("plural", listing.KINDS)
def test_a_pipe_has_a_line_for_each_name(run: CLI, plural: str) -> None:
    ran = run("list", plural)
    assert ran.status == 0, ran.both
    lines = ran.out.splitlines()
    assert [line.split()[0] for line in lines] == getattr(oodbench, f"list_{plural}")()
    assert all(len(line.split()) > 2 for line in lines), "each name with what it is"
    assert len({line.partition(" ")[2] for line in lines}) == len(lines), "and with that alone"


def test_lists_and_groups_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from rich.console import Console\n"
        "from oodbench import registry\n"
        "from oodbench.cli import catalogue, listing\n"
        "catalogue.is_terminal = lambda: True\n"
        "for kind in listing.KINDS:\n"
        "    listing._list(kind)()\n"
        "heavy = {'torch', 'torchvision', 'timm', 'pandas', 'numpy'} & set(sys.modules)\n"
        "print('HEAVY', *heavy)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "HEAVY"
    assert "knn" in ran.stdout


@pytest.mark.parametrize("plural", listing.KINDS)
@pytest.mark.parametrize("width", [80, 60])
def test_a_terminal_has_each_name_once_and_whole(
    on_terminal: Callable[..., str], plural: str, width: int
) -> None:
    text = on_terminal("list", plural, width=width)
    assert sorted(rows(text)) == getattr(oodbench, f"list_{plural}")()
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    assert "`oodbench info NAME` says more" in " ".join(text.split())


def test_names_are_whole_even_where_there_is_no_room(on_terminal: Callable[..., str]) -> None:
    text = on_terminal("list", "detectors", width=40)
    assert sorted(rows(text)) == oodbench.list_detectors()


def test_detectors_are_grouped_by_what_they_read() -> None:
    groups = catalogue.list_groups(DETECTORS)
    assert next(iter(groups)) == "From logits"
    assert {"msp", "energy"} <= set(groups["From logits"])
    assert "knn" in groups["From features"]
    assert "vim" in groups["From features, head and logits"]
    assert "odin" in groups["From the network itself"]
    assert {"palm", "abet", "godin"} <= set(
        groups["For networks that a method of their own trains"]
    )
    for heading, members in groups.items():  # read without import, and right
        for name in members:
            cls = DETECTORS.get(name)
            assert (cls.method != "ce") == ("of their own" in heading), name
            if cls.method == "ce" and "itself" not in heading and heading != "Others":
                assert all(need in heading for need in cls.needs), name


@pytest.mark.parametrize("kind", [BENCHMARKS, DATASETS, BACKBONES])
def test_families_are_grouped(kind: Registry) -> None:
    groups = catalogue.list_groups(kind)
    assert len(groups) > 3
    assert all(len(members) > 1 for heading, members in groups.items() if heading != "Others")
    assert sorted(name for members in groups.values() for name in members) == kind.names()
    assert all(heading and not heading.endswith(".") for heading in groups)


def test_a_kind_without_families_has_no_headings() -> None:
    alone: Registry = Registry("thing", "tests.things")
    assert catalogue.list_groups(alone) == {"": []}
    alone.register("mine")(State)
    assert catalogue.list_groups(alone) == {"": ["mine"]}


def test_strangers_texts_are_no_markup(
    on_terminal: Callable[..., str], forget: Callable[[Registry, str], None]
) -> None:
    class Theirs(oodbench.Detector):
        """Does [red]nothing[/red] [/] \x1b[31m of [link=x]use[/link]."""

        needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    oodbench.register_detector("theirs[bold]")(Theirs)
    forget(DETECTORS, "theirs[bold]")
    for words in (["list", "detectors"], ["info", "theirs[bold]"]):
        text = " ".join(on_terminal(*words, width=200).split())
        assert "theirs[bold]" in text
        assert "Does [red]nothing[/red] [/] \\x1b[31m of [link=x]use[/link]." in text
        assert "\x1b" not in text


# info


def test_a_shared_paper_is_told_once() -> None:
    text = describe("palm")
    for label in ("paper:", "formula:", "bibtex:"):
        assert sum(line.startswith(label) for line in text.splitlines()) == 1, label
    figures = [line for line in text.splitlines() if line.startswith("figure:")]
    assert figures
    assert len(set(figures)) == len(figures)
    assert text.index("detector palm") < text.index("method palm") < text.index("paper:")


def test_different_papers_of_one_name_say_whose_they_are(
    forget: Callable[[Registry, str], None],
) -> None:
    papers = [oodbench.Paper(title, "A", "V", 2020, "u") for title in ("First", "Second")]

    class Score(oodbench.Detector):
        """A score."""

        paper: ClassVar = papers[0]

    class Training(oodbench.Method):
        """A training."""

        paper: ClassVar = papers[1]

    oodbench.register_detector("two-papers")(Score)
    forget(DETECTORS, "two-papers")
    oodbench.register_method("two-papers")(Training)
    forget(registry.METHODS, "two-papers")
    text = describe("two-papers")
    assert "paper of detector two-papers\npaper:    First." in text
    assert "paper of method two-papers\npaper:    Second." in text


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet20", ["backbone resnet20", "takes:    images", "features: 64", "269,072 param"]),
        ("avdigits-cnn", ["backbone avdigits-cnn", "takes:    modalities"]),
        ("scenes-unet", ["gives:    feature maps"]),
        ("clips-r3d-18-kinetics", ["pre-trained on Kinetics-400"]),
        (
            "segmentation",
            ["task segmentation", "counts:   pixels", "quality:  ID mIoU", "  backgr"],
        ),
        ("separability", ["measure separability"]),
        ("multiood", ["preparation multiood"]),
        ("resnet50", ["backbone resnet50 (timm)", "features: 2,048"]),
    ],
)
def test_every_kind_has_a_sheet(name: str, told: list[str]) -> None:
    text = describe(name)
    assert all(part in text for part in told), text


@pytest.mark.parametrize("name", ["palm", "cifar10", "multiood", "resnet20", "segmentation"])
def test_a_sheet_on_a_terminal_has_what_the_plain_one_has(
    on_terminal: Callable[..., str], name: str
) -> None:
    text = " ".join(on_terminal("info", name).replace("`", "").split())
    for sheet in sheets(name):
        assert sheet.title in text
        for entry in sheet.entries:
            for line in entry.lines:
                assert " ".join(line.replace("`", "").split()) in text


def test_bibtex_is_not_folded(on_terminal: Callable[..., str]) -> None:
    (sheet,) = [s for s in sheets("palm") if any(e.is_code for e in s.entries)]
    (bibtex,) = [entry for entry in sheet.entries if entry.is_code]
    lines = on_terminal("info", "palm", width=60).splitlines()
    assert all(f"  {line}" in [shown.rstrip() for shown in lines] for line in bibtex.lines)


def test_docstrings_are_folded_by_paragraphs() -> None:
    text = "A line\nthat goes on.\n\nArgs:\n    one: the first\n        of them.\n    two: more."
    text += "\n- a\n- b"
    assert list(catalogue.paragraphs(text)) == [
        (0, "A line that goes on."),
        (0, ""),
        (0, "Args:"),
        (4, "one: the first of them."),
        (4, "two: more."),
        (0, "- a"),
        (0, "- b"),
    ]
    assert list(catalogue.paragraphs("")) == []


def test_an_alias_is_described_under_its_name(forget: Callable[[Registry, str], None]) -> None:
    DETECTORS.alias("nearest", "knn")
    forget(DETECTORS, "nearest")
    text = describe("nearest")
    assert text.startswith("detector knn ")
    assert "also:     nearest" in text
    assert "also:" not in describe("vim")


def test_an_unknown_name_says_where_to_look() -> None:
    with pytest.raises(UnknownNameError) as error:
        describe("scenes-unett")
    told = str(error.value)
    assert "Did you mean 'scenes-unet'" in told
    assert "`oodbench list detectors`" in told
    assert all(plural in told for plural in listing.KINDS)


# data status


def test_status_of_all_has_each_benchmark_and_each_dataset_of_none(run: CLI) -> None:
    write_images(files.data_dir() / "svhn" / "test", {"0": 2, "1": 2})
    write_images(files.data_dir() / "mnist" / "test", {"0": 1, "1": 0})
    ran = run("data", "status")
    assert ran.status == 0
    lines = ran.out.splitlines()
    assert all(len(line) <= 100 for line in lines[2:])
    table, _, others = ran.out.partition("in no benchmark:")
    starts = [line.split()[0] for line in table.splitlines() if line and line[0].isalnum()]
    assert set(BENCHMARKS.names()) <= {start.rstrip(":") for start in starts}
    (cifar100,) = [block for block in table.split("\ncifar100 ") if " part: svhn" in block[:400]]
    shown = " ".join(cifar100[:600].split("\ncifar100/")[0].split())
    head, _, sets = shown.partition(" to fetch ")
    assert head.startswith("0 of 8 ")
    assert head.endswith(" GB")
    assert sets.startswith(
        "part: svhn; damaged: mnist; not here: cifar100, cifar10, tin, textures,"
    )
    in_some = {
        split.name for stock in stocks_of(BENCHMARKS.names(), False)[0] for split in stock.splits
    }
    told = [line.partition("/")[0].partition(":")[0] for line in others.splitlines() if line]
    expected = {state.name for state in states()} - in_some
    assert expected <= set(told)
    assert run("data", "status").out == ran.out, "as it was remembered"


def test_status_on_a_terminal_is_grouped(on_terminal: Callable[..., str]) -> None:
    write_images(files.data_dir() / "imagenet500" / "test", {"n01440764": 2, "n01443537": 1})
    text = on_terminal("data", "status", width=100)
    assert "cifar10/openood" in text
    _, _, others = text.partition("in no benchmark:")
    groups = dict(re.findall(r"^(\w[\w ]+) \(\d+\)\n((?: .*\n)+)", others, re.MULTILINE))
    assert "imagenet500" in rows(groups["Here"])
    assert "food101" not in others, "it is in a benchmark"
    assert not ADDRESS.search(text)
    assert all(len(line.rstrip()) <= 100 for line in text.splitlines()[2:])
    for heading, count in re.findall(r"^(\w[\w ]+) \((\d+)\)$", others, re.MULTILINE):
        assert len(rows(groups[heading])) == int(count)


def test_info_says_how_to_get_a_set() -> None:
    write_images(files.data_dir() / "cifar10" / "test", {"cat": 2, "dog": 1})
    text = describe("cifar10")
    assert "here:     test: 3 images" in text
    assert "missing:  train, val" in text
    assert "Get it: torchvision.datasets.CIFAR10" in text
    assert text.count("Get it") == 1


def test_a_damaged_set_is_told_in_full() -> None:
    write_images(files.data_dir() / "mnist" / "test", {"0": 1, "1": 0})
    text = describe("mnist")
    assert "damaged:  " in text
    assert "holds no images" in text


def test_counts_name_their_unit_once() -> None:
    here = [State("x", "train", "1,000 images"), State("x", "test", "10 images")]
    console = Console(file=io.StringIO(), width=80)
    catalogue.print_status(here, lambda name: "", console)
    assert "train 1,000, test 10 images" in console.file.getvalue()  # type: ignore[attr-defined]
    mixed = [State("x", "train", "1 sample"), State("x", "test", "10 images")]
    catalogue.print_status(mixed, lambda name: "", console)
    assert "train 1 sample, test 10 images" in console.file.getvalue()  # type: ignore[attr-defined]
