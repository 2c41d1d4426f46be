"""Google Drive asks before it sends a large file; the address behind its question."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench.download import drive
from oodbench.download.described import RemoteFile
from oodbench.download.transfer import fetch
from oodbench.errors import DownloadError
from tests.helpers.downloads import QUICK
from tests.helpers.publisher import Publisher, page, truncating, well

CONTENT = bytes(range(256)) * 4000


def test_address() -> None:
    assert drive.address("ID7") == "https://drive.google.com/uc?id=ID7"


def test_the_form_leads_to_the_file() -> None:
    form = (
        '<form id="download-form" action="https://drive.usercontent.google.com/download">'
        '<input type="hidden" name="id" value="ID7"><input type="hidden" name="confirm" value="t">'
        '<input type="hidden" name="uuid" value="a-b"></form>'
    )
    base, _, query = drive.confirmed(f"<html><body>{form}</body></html>").partition("?")
    assert base == "https://drive.usercontent.google.com/download"
    assert sorted(query.split("&")) == ["confirm=t", "id=ID7", "uuid=a-b"]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ('<p class="uc-error-subcaption">Too many users have viewed it.</p>', "Too many users"),
        ("<html><body>Sign in</body></html>", "Google Drive does not give the file"),
        ("", "Google Drive does not give the file"),
    ],
)
def test_a_page_that_says_something_else(page: str, text: str) -> None:
    with pytest.raises(DownloadError, match=text):
        drive.confirmed(page)


def test_google_drive_asks_before_it_sends(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_MIRROR", publisher.base)
    form = (
        b'<!DOCTYPE html><html><body><form id="download-form" '
        b'action="https://drive.usercontent.google.com/download" method="get">'
        b'<input type="hidden" name="id" value="ID7"><input type="hidden" name="confirm" value="t">'
        b"</form></body></html>"
    )
    publisher.put("/drive.google.com/uc", b"", page(form), page(form))
    publisher.put("/drive.usercontent.google.com/download", CONTENT, truncating(400_000), well)
    fetch(RemoteFile("drive:ID7", "a.zip"), tmp_path / "a.zip", patience=QUICK)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert publisher.asked[1].path.endswith("?id=ID7&confirm=t")
    quota = b'<html><p class="uc-error-subcaption">Too many users have viewed this.</p></html>'
    publisher.put("/drive.google.com/uc", b"", page(quota))
    with pytest.raises(DownloadError, match="Too many users"):
        fetch(RemoteFile("drive:ID8", "b.zip"), tmp_path / "b.zip", patience=QUICK)


def test_google_drive_that_asks_again_is_not_asked_for_ever(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_MIRROR", publisher.base)
    form = (
        b'<html><form id="download-form" action="https://drive.google.com/uc" method="get">'
        b'<input type="hidden" name="id" value="ID7"></form></html>'
    )
    publisher.put("/drive.google.com/uc", b"", *[page(form)] * 9)
    with pytest.raises(DownloadError, match="Google Drive asks again and again"):
        fetch(RemoteFile("drive:ID7", "a.zip"), tmp_path / "a.zip", patience=QUICK)
    assert len(publisher.asked) == 2
    assert list(tmp_path.iterdir()) == []
