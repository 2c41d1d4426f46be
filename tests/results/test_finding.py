"""Stored results that are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench import ResultStore
from oodbench.errors import OptionError
from oodbench.results import finding
from tests.helpers.results import drawn, stored_result


def test_results_that_lie_together_are_found_as_files_are(tmp_path: Path) -> None:
    fields = {"weights": "3" * 64, "modality": "image"}
    whole = stored_result(tmp_path, "a", *drawn(1, 1.0))
    image = stored_result(tmp_path, "a", *drawn(2, 1.0), **fields)
    stored_result(tmp_path, "ab", *drawn(3, 1.0))
    folders = finding.folders_of(tmp_path, "toy")
    for _ in range(2):
        found = {result.path.stem for result in finding.find("a", folders)}
        assert found == {whole.path.stem, image.path.stem}
        assert [r.path.stem for r in finding.find("a (image)", folders)] == [image.path.stem]
        assert finding.find(str(image.path), [])[0].rows == image.rows
        assert finding.find(image.path.stem, folders)[0].rows == image.rows
        ResultStore(tmp_path).pack("toy")
    with pytest.raises(OptionError, match="Did you mean ab"):
        finding.find("abc", folders)
    with pytest.raises(OptionError, match="there are no results of other"):
        finding.folders_of(tmp_path, "other")


def test_folders_of_all_benchmarks(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"there are no results in .*results\. Name another"):
        finding.folders_of(tmp_path, None)
    stored_result(tmp_path, "a", *drawn(1, 1.0))
    (tmp_path / "results" / "note.txt").write_text("no folder")
    assert finding.folders_of(tmp_path, None) == [tmp_path / "results" / "toy"]


def test_what_is_nowhere_is_told_with_the_first_places(tmp_path: Path) -> None:
    folders = [tmp_path / f"place{number}" for number in range(5)]
    with pytest.raises(OptionError) as told:
        finding.find("a", folders)
    named = [number for number in range(5) if f"place{number}" in str(told.value)]
    assert named == [0, 1, 2]
