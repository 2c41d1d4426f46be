"""Files: replaced whole or not at all; digests; where folders are."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oodbench import files
from oodbench.errors import StorageError

# Files: whole or not at all


def test_replacing_keeps_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    files.write_text(path, "old")
    with contextlib.suppress(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_what_is_new_is_on_disk_before_the_old_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a machine that loses its power would leave neither."""
    path, happened = tmp_path / "file.txt", []
    files.write_text(path, "old")
    monkeypatch.setattr(os, "fsync", lambda _: happened.append(path.read_text()))
    files.write_text(path, "new")
    assert happened == ["old"]
    assert path.read_text() == "new"


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    files.write_text(path, "old")
    with files.replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent, "a rename is atomic on one file system only"
    assert path.read_text() == "new"


def test_files_are_as_readable_as_any_other(tmp_path: Path) -> None:
    files.write_text(tmp_path / "ours", "x")
    (tmp_path / "plain").write_text("x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain")}
    assert len(modes) == 1


def test_the_same_text_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    files.write_text(path, "text – ü")
    before = path.stat()
    files.write_text(path, "text – ü")
    assert path.stat().st_ino == before.st_ino
    assert path.stat().st_mtime_ns == before.st_mtime_ns


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(value=st.dictionaries(st.text(), json_values, max_size=4))
def test_digest_does_not_depend_on_the_order_of_keys(value: dict) -> None:
    backwards = dict(reversed(value.items()))
    assert files.digest(value) == files.digest(backwards)
    assert files.digest(value) == files.digest(json.loads(json.dumps(value)))


@given(one=json_values, other=json_values)
def test_digest_tells_values_apart(one: object, other: object) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (files.digest(one) == files.digest(other)) == same


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert files.sha256(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_folders_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OODBENCH_DATA", str(tmp_path / "d"))
    monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path / "c"))
    assert files.data_dir() == tmp_path / "d"
    assert files.cache_dir() == tmp_path / "c"
    for empty in ("", None):
        for name in ("OODBENCH_DATA", "OODBENCH_CACHE"):
            monkeypatch.delenv(name) if empty is None else monkeypatch.setenv(name, empty)
        assert files.data_dir().is_absolute()
        assert files.data_dir().name == "oodbench"
        assert files.cache_dir().is_absolute()
        assert files.cache_dir() != files.data_dir()


@pytest.mark.parametrize("make", [True, False])
def test_a_folder_that_cannot_be_written_to(tmp_path: Path, make: bool) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "cache", tmp_path / "file", Path("/proc/oodbench")):
        with pytest.raises(StorageError, match="What to do") as error:
            files.writable_dir(path, "What to do.", make=make)
        assert str(path) in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_asking_whether_a_folder_is_writable_can_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er"
    assert files.writable_dir(path, "", make=False) == path
    assert not list(tmp_path.iterdir())
    assert files.writable_dir(path, "") == path
    assert path.is_dir()
    assert not list(path.iterdir())
