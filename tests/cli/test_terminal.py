"""What cannot be printed costs nothing but the printing, and the exit status says it."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oodbench import ResultStore
from oodbench.cli import main
from oodbench.cli.terminal import guarded, plain, printable, wrapped
from oodbench.errors import OptionError
from oodbench.registry import BENCHMARKS
from tests.conftest import write_images
from tests.helpers.few import few_digits


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of all these tests: the network of ``EVAL`` is trained once."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(autouse=True)
def _quick(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_CACHE", str(kept))
    monkeypatch.setitem(BENCHMARKS._objects, "digits", few_digits)


class Raw(io.RawIOBase):
    """Takes some bytes, then fails."""

    def __init__(self, number: int, takes: int = 0) -> None:
        self.number, self.takes, self.taken = number, takes, b""

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        if self.takes <= 0:
            raise OSError(self.number, os.strerror(self.number))
        self.takes -= 1
        self.taken += bytes(content)
        return len(content)


def stream(raw: io.RawIOBase | io.BytesIO, encoding: str = "utf-8") -> io.TextIOWrapper:
    return io.TextIOWrapper(raw, encoding=encoding, write_through=True)  # type: ignore[type-var]


def run(monkeypatch: pytest.MonkeyPatch, *words: str, out: Any, err: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["oodbench", *words])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as ended:
            main()
        assert (sys.stdout, sys.stderr) == (out, err)
    assert isinstance(ended.value.code, int)
    return ended.value.code


EVAL = (
    "eval --id digits --detector msp --recipe quick --epochs 1 --accelerator cpu "
    "--leaderboards boards"
).split()
COMMANDS = {
    "eval": EVAL,
    "json": [*EVAL, "--json"],
    "list": ["list", "methods"],
    "info": ["info", "msp"],
    "page": ["leaderboard", "--id", "digits", "--leaderboards", "boards"],
    "help": ["--help"],
}
BROKEN: dict[str, tuple[Callable[[], Any], int, str]] = {
    "pipe": (lambda: stream(Raw(errno.EPIPE)), 141, ""),
    "pipe after a line": (lambda: stream(Raw(errno.EPIPE, takes=1)), 141, ""),
    "full": (lambda: stream(Raw(errno.ENOSPC)), 1, "No space left"),
    "closed": (lambda: None, 1, "Bad file descriptor"),
}


@pytest.mark.parametrize("command", ["eval", "json", "list", "info", "page", "help"])
@pytest.mark.parametrize("broken", ["pipe", "full", "closed"])
def test_output_that_is_lost(command: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, status, told = BROKEN[broken]
    err = stream(io.BytesIO())
    assert run(monkeypatch, *COMMANDS[command], out=make(), err=err) == status
    said = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert said.count("\n") == (told != "")
    assert told in said
    if "eval" in COMMANDS[command]:
        assert len(ResultStore("boards").rows("digits")) == 4
        assert Path("boards/digits.md").is_file()


@pytest.mark.parametrize("err", [lambda: None, lambda: stream(Raw(errno.EPIPE))])
def test_errors_that_are_lost(err: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    out = stream(io.BytesIO())
    assert run(monkeypatch, "info", "msp", out=out, err=err()) == 0
    assert run(monkeypatch, "info", "nothing", out=out, err=err()) == 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437", "utf-8"])
def test_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = stream(io.BytesIO(), encoding), stream(io.BytesIO(), encoding)
    assert run(monkeypatch, *EVAL, out=out, err=err) == 0
    said = out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert "photo-patches" in said
    assert "\\u" not in said
    assert err.buffer.getvalue() == b""  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["a[red]b", "[bold", "[!]", "caf\udce9", "\x1b[2Jx", "é–中"])
def test_names_of_folders(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name is printed as it is, or escaped; it is no markup and no command of a terminal."""
    write_images(tmp_path / name / "test", {"x": 4}, size=8, mode="L")
    out, err = stream(io.BytesIO()), stream(io.BytesIO())
    folder = f"folder:{tmp_path / name}"
    assert run(monkeypatch, *EVAL, "--ood", folder, out=out, err=err) in (0, 2)
    said = out.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert err.buffer.getvalue() == b""  # type: ignore[attr-defined]
    assert printable(name) in said
    assert "\x1b[2J" not in said
    assert len(ResultStore("boards").rows("digits")) > 0


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("49.56–58.68 …", "ascii", "49.56-58.68 ..."),
        ("┌─┬┐│ x", "ascii", "+-++| x"),
        ("é", "ascii", "e"),
        ("é", "cp1252", "é"),
        ("中\udce9", "ascii", "\\u4e2d\\udce9"),
        ("中", "utf-8", "中"),
    ],
)
def test_plain(text: str, encoding: str, shown: str) -> None:
    assert plain(text, encoding) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\u202eb\x07", "a\\u202eb\\x07"),
        ("\udcff", "\\udcff"),
        ("1\xa0000 é中\n\t", "1\xa0000 é中\n\t"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_streams_are_given_back() -> None:
    before = sys.stdout, sys.stderr
    with pytest.raises(OptionError), guarded():
        raise OptionError("x")
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize(
    ("shell", "status"),
    [
        ("{} list detectors | true; exit ${{PIPESTATUS[0]}}", 141),
        ("{} list detectors > /dev/full", 1),
        ("{} list detectors >&-", 1),
        ("{} list detectors 2>&- > out.txt", 0),
        ("{} list nothing >&- 2>&-", 2),
    ],
)
def test_a_real_shell(shell: str, status: int, tmp_path: Path) -> None:
    program = f"{sys.executable} -c 'from oodbench.cli import main; main()'"
    finished = subprocess.run(
        ["bash", "-c", shell.format(program)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=tmp_path,
    )
    assert finished.returncode == status, finished.stderr
    assert "Traceback" not in finished.stderr
    assert "Exception ignored" not in finished.stderr


def test_a_closed_stream_is_not_the_next_file(tmp_path: Path) -> None:
    """Else what a library prints would go into the middle of a result."""
    script = (
        "import os, sys; from oodbench.cli.terminal import guarded\n"
        "with guarded():\n"
        " handle = open('result.json', 'w'); assert handle.fileno() > 2\n"
        " os.write(1, b'noise'); handle.write('{}')\n"
    )
    subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "$0" >&- 2>&- <&-', script],
        check=True,
        cwd=tmp_path,
        timeout=600,
    )
    assert json.loads((tmp_path / "result.json").read_text()) == {}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [20, 40, 80])
def test_lines_of_a_terminal_end_between_words(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = (
        "training: palm, recipe quick, digits-cnn, 10 epochs on 649 images of digits/train\n"
        "again: oodbench eval \\\n    --id https://example.org/one/long/address/of/many/words.zip"
    )
    lines = wrapped(text, Terminal())
    assert lines.split() == text.split(), "no word is cut, none is lost"
    longest = max(map(len, text.split()))
    assert all(len(line) <= max(width, longest + 4) for line in lines.split("\n"))
    assert wrapped(text, io.StringIO()) == text, "what is no terminal gets lines as they are"
    assert wrapped("one\x1b[2J\n\ntwo", Terminal()) == printable("one\x1b[2J\n\ntwo")
