"""The command line in this process, as a user runs it."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from oodbench import cli, files
from oodbench.runtime import signals

HANDLED = signals.handled


@dataclass
class Ran:
    """What a command line did."""

    status: int
    out: str
    err: str

    @property
    def both(self) -> str:
        """All that a user sees."""
        return self.out + self.err


class CLI:
    """Runs the command line in this process, as the installed program does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capfd = monkeypatch, capfd

    def __call__(self, *words: str | Path) -> Ran:
        self.monkeypatch.setattr(sys, "argv", ["oodbench", *map(str, words)])
        self.capfd.readouterr()
        # a library's warnings are printed on a user's screen; pytest would keep them
        with warnings.catch_warnings(record=True) as caught:
            warnings.resetwarnings()
            for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning):
                warnings.simplefilter("ignore", kind)
            warnings.simplefilter("ignore", ResourceWarning)
            try:
                cli.main()
            except SystemExit as leaving:
                status = leaving.code
            else:
                status = 0
        out, err = self.capfd.readouterr()
        assert status is None or isinstance(status, int)
        printed = "".join(f"{w.category.__name__}: {w.message}\n" for w in caught)
        return Ran(status or 0, out, printed + err)

    def refuses(self, *words: str | Path) -> str:
        """The message of a command that must fail as errors fail, and change nothing on disk."""
        before = listing()
        ran = self(*words)
        lines = ran.err.splitlines()
        assert ran.status == 2, ran.both
        assert 1 <= len(lines) <= 2, ran.err
        assert lines[0].startswith("error: ")
        assert "Traceback" not in ran.both
        assert "did not expect" not in ran.err, ran.err
        assert listing() == before, ran.err
        return ran.err


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """A signal that comes while a command runs in this process ends the tests after this block.

    The command takes it for its own, says that it was interrupted and returns; the test would fail
    for no reason of its own, and the tests after it would go on.
    """
    came: list[int] = []

    @contextlib.contextmanager
    def noted(*, ends: bool) -> Iterator[None]:
        with HANDLED(ends=ends):
            try:
                yield
            finally:
                came.extend(signals._pending)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals, "handled", noted)
        yield
    if came:
        pytest.exit(f"{signal.Signals(came[0]).name} came from outside", 128 + came[0])


def listing() -> dict[str, str]:
    """All that oodbench could have left behind: leaderboards here, the cache, the data folder.

    What is finished in the cache is left out (outputs of a network, a trained network, fingerprints
    of image folders): it is keyed by content, and of use whether or not this command succeeds.
    """
    cache = files.cache_dir()
    finished = [cache / "fingerprints"]
    finished += [path.parent for path in cache.glob("outputs/*/outputs.json")]
    finished += [path.parent for path in cache.glob("runs/*/weights.safetensors")]
    found = {}
    for root in (Path.cwd(), cache, files.data_dir()):
        for path in sorted(root.rglob("*")) if root.is_dir() else ():
            if path in (cache, cache / "outputs", cache / "runs") or "__pycache__" in path.parts:
                continue
            if not any(path.is_relative_to(whole) for whole in finished):
                is_file = path.is_file()
                found[str(path)] = hashlib.sha256(path.read_bytes() if is_file else b"").hexdigest()
    return found
