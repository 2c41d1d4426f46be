"""What the commands that run a network share."""

from __future__ import annotations

import pytest

from oodbench.cli.session import command_of_rows


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
        ("eval --checkpoint /home/me/a.pt --set k=3 --detector knn", None),
        ("eval --detector knn --leaderboards", "eval --detector knn"),
    ],
)
def test_rows_keep_no_folder_that_was_written_to(
    typed: str, kept: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["oodbench", *typed.split()])
    expected = typed.replace(" --plot a.png", "") if kept is None else kept
    assert command_of_rows() == f"oodbench {expected}"
