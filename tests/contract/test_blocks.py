"""Every code block of the texts runs in a test, or it is said why not; commands can be given."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from oodbench import cli
from oodbench.evaluation import evaluate
from oodbench.metrics import paired
from tests.conftest import REPOSITORY

TEXTS = ("README.md", "CONTRIBUTING.md", "leaderboards/SUBMITTING.md")
PAGES = [*(REPOSITORY / name for name in TEXTS), *sorted((REPOSITORY / "docs").glob("*.md"))]
RUN = {
    # a word of the block, by page, and the file of the test that runs it
    ("README.md", "pip install -e '.[test]'"): ".ci/run",
    ("README.md", "# yours, trained"): "tests/contract/test_docs.py",
    ("README.md", 'register_detector("mine")'): "tests/contract/test_docs.py",
    ("CONTRIBUTING.md", 'register_detector("halo")'): "tests/contract/test_docs.py",
    ("CONTRIBUTING.md", "check(drawn_benchmark"): "tests/contract/test_blocks.py",
    ("CONTRIBUTING.md", 'register_task("centre")'): "tests/contract/test_docs.py",
    ("CONTRIBUTING.md", 'register_backbone("two-layers"'): "tests/contract/test_docs.py",
    ("CONTRIBUTING.md", "outlined-digits"): "tests/contract/test_docs.py",
    ("docs/own-network.md", "# yours, trained"): "tests/contract/test_blocks.py",
    ("docs/own-network.md", "class Remote"): "tests/contract/test_blocks.py",
    ("docs/comparing.md", "paired.measured"): "tests/contract/test_blocks.py",
    ("docs/own-data.md", "COLUMNS = ("): "tests/testing/test_samples.py",
    ("docs/using-a-detector.md", ""): "tests/deploy/test_guide.py",
}
NOT_RUN = {
    (
        "docs/text.md",
        "towers = Towers(",
    ): "CIFAR-10 and two towers: tests/networks/test_towers.py makes towers in the same way",
    ("docs/text.md", "import wn"): "fetches a word list of a hundred megabytes",
    (
        "README.md",
        "pip install . &&",
    ): "installs torch, which takes minutes: test_wheel runs `eval` "
    "from an installed wheel instead",
    (
        "docs/checking.md",
        "load_network",
    ): "the network is released with the results, and wants CIFAR-10",
    (
        "docs/own-data.md",
        "folder:clips@32",
    ): "wants a folder of videos; test_recordings evaluates one",
    (
        "docs/own-data.md",
        "def test_my_samples",
    ): "test_samples runs these checks over the same class",
}
"""Blocks that no test runs, and why. The commands in them are tried below like all others."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the fenced blocks of a page that are code."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(kind, block) for kind, block in found if kind not in ("text", "latex", "bibtex")]


def named(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_block_runs_or_says_why_not(page: Path) -> None:
    known = {
        word: where for (name, word), where in {**RUN, **NOT_RUN}.items() if name == named(page)
    }
    unused = set(known)
    for kind, block in blocks(page):
        fitting = [word for word in known if word in block]
        assert fitting, f"nothing runs this block of {named(page)}, and nothing says why:\n{block}"
        unused -= set(fitting)
        if kind == "python":
            compile(block, named(page), "exec")
    assert not unused, f"{named(page)} has no such blocks"


def test_the_tests_that_are_named_read_the_pages() -> None:
    for (page, _), file in RUN.items():
        source = (REPOSITORY / file).read_text(encoding="utf-8")
        assert Path(page).name in source, (page, file)


def commands(page: Path) -> list[str]:
    """The commands of oodbench on a page, in blocks that are fenced and that are indented."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    text = re.sub(r"^```(?!bash).*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = re.findall(r"^(?:    |.*&& )?(oodbench [a-z].*)$", text, re.MULTILINE)
    return [re.sub(r"\s+#.*", "", line) for line in lines]


COMMANDS = [(page, line) for page in PAGES for line in commands(page)]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 40


@pytest.mark.parametrize(
    ("page", "line"), COMMANDS, ids=lambda x: x if isinstance(x, str) else None
)
def test_every_command_can_be_given(page: Path, line: str) -> None:
    """Its options are there, and take what stands behind them; it is not started."""
    words = shlex.split(line.replace("…", "x"))[1:]
    group: Any = typer.main.get_command(cli.app)
    while words and words[0] in getattr(group, "commands", {}):
        group = group.commands[words.pop(0)]
    assert not getattr(group, "commands", None), f"{named(page)}: no such command: {line}"
    with group.make_context(group.name, words) as context:
        assert context.params is not None


def block(page: str, word: str) -> str:
    return next(text for _, text in blocks(REPOSITORY / page) if word in text)


def test_own_network_is_the_readmes() -> None:
    word = "# yours, trained"
    assert block("docs/own-network.md", word) == block("README.md", word)


def test_any_object_with_two_methods_is_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def predict(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :6]

        embed = predict

    code, _, call = block("docs/own-network.md", "class Remote").partition("oodbench.evaluate")
    names: dict[str, Any] = {"torch": torch, "client": Client()}
    exec(code, names)
    assert "digest=" in call
    results = evaluate(
        names["Remote"](), id="digits", detectors=["msp"], preprocess="digits", digest="one of May"
    )
    assert {row["detector"] for row in results} == {"msp"}


def test_two_scores_are_compared() -> None:
    draws = torch.Generator().manual_seed(0)
    scores = [torch.randn(50, generator=draws).numpy() for _ in range(4)]
    names: dict[str, Any] = dict(
        zip(
            ("id_scores", "ood_scores", "id_scores_of_other", "ood_scores_of_other"),
            scores,
            strict=True,
        )
    )
    code = block("docs/comparing.md", "paired.measured")
    *lines, last = code.strip().splitlines()
    exec("\n".join(lines), names)
    difference = eval(last.partition("#")[0], names)
    assert all(hasattr(difference, name) for name in ("value", "low", "high", "p"))
    assert isinstance(difference, type(paired.difference_of(names["one"], names["other"])))


def test_checks_in_another_package() -> None:
    names: dict[str, Any] = {}
    text = block("CONTRIBUTING.md", "check(drawn_benchmark")
    exec(text, names)
    assert len(names["task_checks"]()) > 3
    assert names["test_centre"].pytestmark[0].name == "parametrize"
