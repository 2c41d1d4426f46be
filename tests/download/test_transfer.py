"""One file over HTTP, from servers that misbehave."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import pytest
import requests

from oodbench.disk import full
from oodbench.download import transfer
from oodbench.download.described import RemoteFile
from oodbench.download.transfer import Patience, fetch
from oodbench.errors import DownloadError, NoNetworkError, StorageError
from tests.helpers.publisher import (
    Answer,
    Asked,
    Handler,
    Publisher,
    page,
    redirect,
    stalling,
    status,
    truncating,
    well,
    whole,
)

CONTENT = bytes(range(256)) * 4000  # about a megabyte
OTHER = CONTENT[::-1]
QUICK = Patience(connect=5, silence=0.3, window=0.3, tries=4, pause=0.001)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def of(url: str, content: bytes = CONTENT) -> RemoteFile:
    return RemoteFile(url, size=len(content), sha256=sha256(content))


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_and_nothing_else_stays(publisher: Publisher, tmp_path: Path) -> None:
    seen: list[int] = []
    file = of(publisher.put("/a.bin", CONTENT))
    fetch(file, tmp_path / "a.bin", patience=QUICK, at=seen.append)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert left(tmp_path) == ["a.bin"]
    assert seen[-1] == len(CONTENT)
    assert seen == sorted(seen)


def test_a_truncated_answer_goes_on_where_it_ended(publisher: Publisher, tmp_path: Path) -> None:
    url = publisher.put("/a.bin", CONTENT, truncating(300_000), truncating(400_000))
    fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [asked.first for asked in publisher.asked] == [0, 300_000, 700_000]
    assert publisher.asked[1].headers["if-range"].startswith('"')


def test_a_server_that_always_truncates_is_given_up(publisher: Publisher, tmp_path: Path) -> None:
    url = publisher.put("/a.bin", CONTENT, *[truncating(10)] * 20)
    with pytest.raises(DownloadError, match=r"the connection broke, 4 times in a row"):
        fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    assert not (tmp_path / "a.bin").exists()
    fetch_again = publisher.put("/a.bin", CONTENT)
    fetch(of(fetch_again), tmp_path / "a.bin", patience=QUICK)
    assert publisher.asked[-1].first == 40  # what came is not thrown away
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_stalled_answer_is_left(publisher: Publisher, tmp_path: Path) -> None:
    url = publisher.put("/a.bin", CONTENT, stalling(500_000))
    told: list[str] = []
    fetch(of(url), tmp_path / "a.bin", patience=QUICK, say=told.append)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert "silent" in told[0]


def test_a_trickle_is_left(publisher: Publisher, tmp_path: Path) -> None:
    def trickle(handler, asked, content) -> None:
        handler.answer(200, b"", len(content))
        for byte in content[:40]:
            if handler.publisher.released.wait(0.05):
                return
            handler.wfile.write(bytes([byte]))

    url = publisher.put("/a.bin", CONTENT, trickle)
    told: list[str] = []
    fetch(of(url), tmp_path / "a.bin", patience=QUICK, say=told.append)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert "bytes a second" in told[0]


def test_500_and_then_well(publisher: Publisher, tmp_path: Path) -> None:
    url = publisher.put("/a.bin", CONTENT, status(500), status(503, Retry_After="0"), well)
    fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("code", [401, 403, 404, 410, 418])
def test_what_will_not_change_is_not_asked_again(
    publisher: Publisher, tmp_path: Path, code: int
) -> None:
    url = publisher.put("/a.bin", CONTENT, *[status(code)] * 5)
    with pytest.raises(DownloadError, match=str(code)):
        fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    assert len(publisher.asked) == 1
    assert left(tmp_path) == []


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_web_page_is_no_data(publisher: Publisher, tmp_path: Path, is_checked: bool) -> None:
    url = publisher.put("/a.bin", CONTENT, page())
    file = of(url) if is_checked else RemoteFile(url)
    with pytest.raises(DownloadError, match=r"web page|bytes"):
        fetch(file, tmp_path / "a.bin", patience=QUICK)
    assert left(tmp_path) == []


def test_a_web_page_that_says_it_is_data_is_none(publisher: Publisher, tmp_path: Path) -> None:
    text = b"\n<!doctype HTML><title>Sign in</title>"
    url = publisher.put("/a.bin", CONTENT, status(200, text, Content_Type="application/zip"))
    with pytest.raises(DownloadError, match="web page"):
        fetch(RemoteFile(url), tmp_path / "a.bin", patience=QUICK)


def test_a_web_page_does_not_cost_what_is_there(publisher: Publisher, tmp_path: Path) -> None:
    url = publisher.put("/a.bin", CONTENT, truncating(300_000), page())
    with pytest.raises(DownloadError):
        fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    assert publisher.asked[-1].first == 300_000


def test_a_server_that_ignores_ranges(publisher: Publisher, tmp_path: Path) -> None:
    def cut(handler, asked, content) -> None:
        whole(handler, asked, content, 600_000)

    url = publisher.put("/a.bin", CONTENT, cut, whole)
    fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    assert publisher.asked[1].first == 600_000
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("is_checked", [True, False])
@pytest.mark.parametrize("is_honest", [True, False], ids=["if-range", "no if-range"])
def test_the_file_changes_between_two_ranges(
    publisher: Publisher, tmp_path: Path, is_checked: bool, is_honest: bool
) -> None:
    def change(handler, asked, content) -> None:
        well(handler, asked, content, 300_000)
        publisher.files["/a.bin"] = OTHER

    def careless(handler, asked, content) -> None:
        asked.headers.pop("if-range", None)
        well(handler, asked, content)

    answers = [change, well if is_honest else careless]
    url = publisher.put("/a.bin", CONTENT, *answers)
    file = RemoteFile(url, sha256=sha256(OTHER)) if is_checked else RemoteFile(url)
    fetch(file, tmp_path / "a.bin", patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == OTHER


def test_without_anything_to_tell_versions_apart_nothing_is_put_together(
    publisher: Publisher, tmp_path: Path
) -> None:
    def blind(handler, asked, content) -> None:
        body = content[asked.first :]
        headers = {"Content-Range": f"bytes {asked.first}-{len(content) - 1}/{len(content)}"}
        if not asked.first:
            publisher.files["/a.bin"] = OTHER
            handler.answer(200, body[:300_000], len(body))
        else:
            handler.answer(206, body, **headers)

    url = publisher.put("/a.bin", CONTENT, blind, well)
    fetch(RemoteFile(url), tmp_path / "a.bin", patience=QUICK)
    assert publisher.asked[1].first == 0
    assert (tmp_path / "a.bin").read_bytes() == OTHER
    # with a digest it may be tried, since the whole is compared with it
    url = publisher.put("/a.bin", CONTENT, blind, blind, well)
    publisher.asked.clear()
    fetch(of(url, OTHER), tmp_path / "b.bin", patience=QUICK)
    assert [asked.first for asked in publisher.asked] == [0, 300_000, 0]
    assert (tmp_path / "b.bin").read_bytes() == OTHER


def test_a_wrong_file_of_the_right_length(publisher: Publisher, tmp_path: Path) -> None:
    url = publisher.put("/a.bin", OTHER)
    with pytest.raises(DownloadError, match=r"not the published file: its sha256 is"):
        fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    assert left(tmp_path) == []


def test_a_file_of_another_length_is_not_fetched(publisher: Publisher, tmp_path: Path) -> None:
    url = publisher.put("/a.bin", CONTENT + b"!")
    with pytest.raises(DownloadError, match=r"1,024,001 bytes, the published file 1,024,000"):
        fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("md5", hashlib.md5(CONTENT).hexdigest()),
        ("git", hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()),
    ],
)
def test_other_digests(publisher: Publisher, tmp_path: Path, kind: str, digest: str) -> None:
    url = publisher.put("/a.bin", CONTENT)
    fetch(RemoteFile(url, **{kind: digest}), tmp_path / "a.bin", patience=QUICK)
    publisher.put("/a.bin", OTHER)
    with pytest.raises(DownloadError, match=kind):
        fetch(RemoteFile(url, **{kind: digest}), tmp_path / "b.bin", patience=QUICK)


@pytest.mark.parametrize("to", ["file:///etc/hostname", "ftp://example.org/a", "data:,x"])
def test_a_redirect_off_the_web_is_refused(publisher: Publisher, tmp_path: Path, to: str) -> None:
    url = publisher.put("/a.bin", CONTENT, redirect(to))
    with pytest.raises(DownloadError, match="refused"):
        fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    assert left(tmp_path) == []


def test_a_redirect_is_followed_and_a_circle_is_not(publisher: Publisher, tmp_path: Path) -> None:
    publisher.put("/b.bin", CONTENT)
    url = publisher.put("/a.bin", b"", redirect("/b.bin"))
    fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    url = publisher.put("/c.bin", b"", *[redirect("/c.bin")] * 30)
    with pytest.raises(DownloadError, match="redirected"):
        fetch(of(url), tmp_path / "c.bin", patience=QUICK)


def test_a_token_does_not_go_to_another_host(publisher: Publisher, tmp_path: Path) -> None:
    publisher.put("/b.bin", CONTENT)
    elsewhere = publisher.base.replace("127.0.0.1", "localhost") + "/b.bin"
    url = publisher.put("/a.bin", b"", redirect(elsewhere))
    fetch(of(url), tmp_path / "a", headers={"Authorization": "Bearer x"}, patience=QUICK)
    assert [asked.headers.get("authorization") for asked in publisher.asked] == ["Bearer x", None]


def test_no_network(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.bin"
    with pytest.raises(NoNetworkError, match=r"cannot be reached .* Is there a network\?"):
        fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    assert left(tmp_path) == []
    with pytest.raises(NoNetworkError):
        fetch(of("http://nowhere.invalid/a.bin"), tmp_path / "a.bin", patience=QUICK)


def test_the_disk_fills(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(handle, content) -> None:
        if handle.tell() > 300_000:
            raise OSError(28, "No space left on device")
        handle.write(content)

    url = publisher.put("/a.bin", CONTENT)
    with monkeypatch.context() as patch:
        patch.setattr(full, "write_all", write)
        with pytest.raises(StorageError, match="No space left"):
            fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    assert publisher.asked[-1].first > 0
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_killed_between_the_last_byte_and_its_name(publisher: Publisher, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def at(count: int) -> None:
        if count == len(CONTENT):
            raise Killed

    url = publisher.put("/a.bin", CONTENT)
    with pytest.raises(Killed):
        fetch(of(url), tmp_path / "a.bin", patience=QUICK, at=at)
    fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    assert len(publisher.asked) == 1  # all was there
    assert left(tmp_path) == ["a.bin"]


def test_a_part_of_another_address_is_not_gone_on_with(
    publisher: Publisher, tmp_path: Path
) -> None:
    url = publisher.put("/a.bin", CONTENT, *[truncating(10)] * 20)
    with pytest.raises(DownloadError):
        fetch(of(url), tmp_path / "a", patience=QUICK)
    other = publisher.put("/b.bin", OTHER)
    fetch(RemoteFile(other), tmp_path / "a", patience=QUICK)
    assert publisher.of("/b.bin")[0].first == 0
    assert (tmp_path / "a").read_bytes() == OTHER


def test_a_mirror(publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher.put("/example.org/~me/a.bin", CONTENT)
    monkeypatch.setenv("OODBENCH_MIRROR", publisher.base + "/")
    fetch(of("https://example.org/~me/a.bin?x=1"), tmp_path / "a.bin", patience=QUICK)
    assert publisher.asked[0].path == "/example.org/~me/a.bin?x=1"


def test_a_secure_address_does_not_lead_to_an_insecure_one() -> None:
    one = transfer.Transfer(
        RemoteFile("https://a.org/x"), Path("x"), {}, QUICK, lambda _: None, lambda _: None
    )
    with pytest.raises(DownloadError, match="not secure"):
        one._redirected("https://a.org/x", "http://a.org/x", {})
    assert one._redirected("https://a.org/x", "https://b.org/x", {}) == "https://b.org/x"


def test_a_server_that_has_less_than_before(publisher: Publisher, tmp_path: Path) -> None:
    url = publisher.put("/a.bin", CONTENT, truncating(300_000), status(416))
    told: list[str] = []
    fetch(of(url), tmp_path / "a.bin", patience=QUICK, say=told.append)
    assert "it has not as many bytes as before" in told[1]
    assert [asked.first for asked in publisher.asked] == [0, 300_000, 0]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def part(first: int, last: int, total: int) -> Answer:
    """A part of the file, whatever was asked for."""
    return lambda handler, asked, content: handler.answer(
        206, content[first : last + 1], Content_Range=f"bytes {first}-{last}/{total}"
    )


@pytest.mark.parametrize(("first", "total"), [(200_000, len(CONTENT)), (300_000, 2_000_000)])
def test_another_part_than_was_asked_for_is_not_put_together(
    first: int, total: int, publisher: Publisher, tmp_path: Path
) -> None:
    url = publisher.put("/a.bin", CONTENT, truncating(300_000), part(first, total - 1, total))
    told: list[str] = []
    fetch(of(url), tmp_path / "a.bin", patience=QUICK, say=told.append)
    assert "it sends another part than was asked for" in told[1]
    assert [asked.first for asked in publisher.asked] == [0, 300_000, 0]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_range_of_no_said_length_that_breaks_off_is_gone_on_with(
    publisher: Publisher, tmp_path: Path
) -> None:
    def answer(handler: Handler, asked: Asked, content: bytes) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 300000-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        handler.wfile.write(content[300_000:500_000])

    url = publisher.put("/a.bin", CONTENT, truncating(300_000), answer)
    told: list[str] = []
    fetch(of(url), tmp_path / "a.bin", patience=QUICK, say=told.append)
    assert "it ends after 500,000 of 1,024,000 bytes" in told[1]
    assert [asked.first for asked in publisher.asked] == [0, 300_000, 500_000]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_slow_enough_is_not_too_slow(publisher: Publisher, tmp_path: Path) -> None:
    url = publisher.put("/a.bin", CONTENT)
    fetch(of(url), tmp_path / "a.bin", patience=Patience(5, 5, window=0, slowest=1))
    assert len(publisher.asked) == 1
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (requests.exceptions.SSLError("bad certificate"), "the connection is not secure"),
        (requests.exceptions.InvalidURL("no host"), "cannot be asked for"),
        (requests.exceptions.ReadTimeout("slow"), "it does not answer, 4 times in a row"),
    ],
)
def test_questions_that_fail(
    error: Exception, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def get(self: object, url: str, **options: object) -> None:
        asked.append(url)
        raise error

    monkeypatch.setattr(requests.Session, "get", get)
    with pytest.raises(DownloadError, match=told):
        fetch(of("https://a.org/a.bin"), tmp_path / "a.bin", patience=QUICK)
    assert len(asked) == (4 if "times" in told else 1)
    assert left(tmp_path) == []


@pytest.mark.parametrize("name", ["replace", "unlink"])
def test_a_disk_that_refuses_what_a_file_needs_at_its_end_or_beginning(
    name: str, publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = publisher.put("/a.bin", CONTENT)
    does = getattr(Path, name)

    def refused(path: Path, *args: object, **options: object) -> object:
        if path.name == "a.bin.partial":
            raise OSError(30, "Read-only file system")
        return does(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, name, refused)
        with pytest.raises(StorageError, match="Read-only file system"):
            fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    assert not (tmp_path / "a.bin").exists()
    fetch(of(url), tmp_path / "a.bin", patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_file_that_cannot_be_read_is_not_said_to_differ(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"cannot read .*gone \(No such file"):
        transfer.difference(RemoteFile("https://a.org/x"), tmp_path / "gone")
