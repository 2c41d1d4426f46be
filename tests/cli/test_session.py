"""What the commands that run a network share."""

from __future__ import annotations

import shlex
import sys

import pytest

from oodbench.cli.session import command_line, command_of_rows


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("eval --id cifar10 --detector knn", "eval --id cifar10 --detector knn"),
        (
            "eval --leaderboards /home/me/lb --id cifar10 --scores=/tmp/s --detector knn --json",
            "eval --id cifar10 --detector knn",
        ),
        ("eval --pictures out --wide --each-seed --detector knn", "eval --detector knn"),
        ("compare --detector knn --plot a.png --backbone resnet20", None),
        ("eval --checkpoint nets/a.pt --set k=3 --detector knn", None),
        (
            "eval --checkpoint /home/me/a.pt --network=~/b.pt --detector knn",
            "eval --checkpoint a.pt --network=b.pt --detector knn",
        ),
        (
            r"eval --checkpoint C:\me\a.pt --ood near=folder:/data/b --detector knn",
            "eval --checkpoint a.pt --ood near=folder:/data/b --detector knn",
        ),
        ("eval --detector knn --leaderboards", "eval --detector knn"),
    ],
)
def test_rows_keep_no_folder_that_was_written_to(
    typed: str, kept: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["oodbench", *typed.split()])
    expected = typed.replace(" --plot a.png", "") if kept is None else kept
    assert command_of_rows() == f"oodbench {expected}"


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_command_on_a_terminal_goes_on_after_a_backslash(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["eval", "--detector", "msp,energy", "--ood", "near=folder:my photos", "--id", "digits"]
    monkeypatch.setattr("sys.argv", ["oodbench", *words])
    whole = command_line("again: ")
    assert "\n" not in whole, "what is no terminal gets one line"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    broken = command_line("again: ")
    assert shlex.split(broken.replace("\\\n", " ")) == ["oodbench", *words]
    lines = f"again: {broken}".split("\n")
    assert (len(lines) == 1) == (width == 200)
    assert all(line.endswith(" \\") for line in lines[:-1])
    longest = max(len(shlex.quote(word)) for word in words)
    assert all(len(line) <= max(width, longest + 6) for line in lines)
