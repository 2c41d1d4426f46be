"""One source into the data folder: whole or not at all, whatever happens on the way."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from oodbench.disk import full
from oodbench.download import placing
from oodbench.download.described import Download, HubFiles, RemoteFile
from oodbench.download.placing import Means, place, tidy
from oodbench.download.progress import Lines
from oodbench.errors import DataError, MissingDataError, StorageError
from tests.helpers.attempts import Server
from tests.helpers.downloads import NAMES, QUICK, birds, birds_of, fetched, packed, tree
from tests.helpers.publisher import Publisher

BIRDS = packed(*NAMES)
FEWER = packed(*NAMES[:2])


def nothing(*words: object) -> None:
    return


def source(url: str, **more) -> Download:
    return Download("birds", (RemoteFile(url, "birds.zip"),), inside="birds", **more)


def test_what_is_there_by_now_is_not_got(data: Path) -> None:
    """Another process was quicker: nobody is asked, and nothing is left."""
    means = Means(Lines(nothing), patience=QUICK)
    place(source("http://127.0.0.1:9/birds.zip"), "birds", lambda: True, pytest.fail, means)
    assert not (data / "birds").exists()
    assert all(name.endswith(".lock") for name in tree(data))


def test_it_is_checked_aside_and_then_put_in_its_place(publisher: Publisher, data: Path) -> None:
    """While it is checked nobody finds it in the data folder, but the check does."""
    seen: list[tuple[bool, list[str]]] = []

    def check() -> None:
        seen.append(((data / "birds").exists(), tree(placing.files.data_dir())))

    means = Means(Lines(nothing), patience=QUICK)
    download = source(publisher.put("/birds.zip", BIRDS))
    place(download, "birds", lambda: False, check, means)
    assert seen == [(False, sorted(NAMES))]
    assert [name for name in tree(data) if not name.endswith(".lock")] == sorted(NAMES)


def test_it_is_put_in_order_before_it_is_checked(publisher: Publisher, data: Path) -> None:
    def arrange(folder: Path) -> None:
        (folder / "birds" / "test" / "b").rename(folder / "birds" / "test" / "c")

    fetched(birds_of(source(publisher.put("/birds.zip", BIRDS), arrange=arrange)))
    assert tree(data)[-1] == "birds/test/c/1.png"


def test_files_that_are_no_archives_lie_at_their_paths(publisher: Publisher, data: Path) -> None:
    names = ("test/a/1.png", "test/b/2.png")
    remote = tuple(
        RemoteFile(publisher.put(f"/{number}", b"\x89PNG" + bytes([number])), f"{number}.png",
                   path=name)
        for number, name in enumerate(names)
    )  # fmt: skip
    means = Means(Lines(nothing), patience=QUICK)
    place(Download("birds", remote), "birds", lambda: False, nothing, means)
    assert [name for name in tree(data) if not name.endswith(".lock")] == [
        f"birds/{name}" for name in names
    ]
    assert (data / "birds/test/b/2.png").read_bytes() == b"\x89PNG\x01"


def test_an_empty_folder_is_no_set(publisher: Publisher, data: Path) -> None:
    (data / "birds").mkdir(parents=True)
    fetched(birds(publisher.put("/birds.zip", BIRDS), BIRDS))
    assert tree(data) == sorted(NAMES)


def test_what_a_killed_process_fetched_is_tidied_away(data: Path) -> None:
    """Only what it marked as fetched: a file without the mark is a person's."""
    download = source("https://birds.example/birds.zip")
    downloads = data / "downloads"
    downloads.mkdir(parents=True)
    (downloads / "birds.zip").write_bytes(BIRDS)
    marker = downloads / ".birds.zip.fetched"
    marker.touch()
    tidy(download, "birds")
    assert (downloads / "birds.zip").is_file()  # the set is not there yet, so it is of use
    (data / "birds").mkdir()
    tidy(download, "birds")
    assert not (downloads / "birds.zip").exists()
    assert not marker.exists()
    downloads.mkdir(exist_ok=True)
    (downloads / "birds.zip").write_bytes(BIRDS)
    tidy(download, "birds")
    assert (downloads / "birds.zip").read_bytes() == BIRDS


def test_modules_that_reading_takes() -> None:
    assert placing.lacking_module(Download("x", hub=HubFiles("a/x"))) == ""
    assert placing.lacking_module(source("https://a.org/x.zip", needs=("json", "numpy"))) == ""
    needs = ("json", "no_such_module", "nor_this_one")
    assert placing.lacking_module(source("https://a.org/x.zip", needs=needs)) == "no_such_module"


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files come from on this machine, with its mirror."""
    both = (RemoteFile("https://a.org/x.zip"), RemoteFile(name="by-hand.zip"))
    drive = Download("x", (RemoteFile("drive:ID", "x.zip"),))
    on_hub = Download("x", hub=HubFiles("some/birds"))
    assert placing.addresses(Download("x", both)) == ["https://a.org/x.zip", "by-hand.zip"]
    assert placing.addresses(drive) == ["https://drive.google.com/file/d/ID"]
    monkeypatch.setenv("OODBENCH_MIRROR", "https://mirror.example/")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert placing.addresses(Download("x", both[:1])) == ["https://mirror.example/a.org/x.zip"]
    assert placing.addresses(on_hub) == [
        "https://mirror.example/huggingface.co/datasets/some/birds"
    ]


def test_what_is_no_such_set_is_not_kept(publisher: Publisher, data: Path) -> None:
    """Without a digest the finished set is looked at, before anybody sees it."""
    other = packed("fish/test/a/1.png")
    with pytest.raises(DataError, match="has no birds"):
        fetched(birds(publisher.put("/birds.zip", other), other, is_checked=False))
    empty = packed("birds/train/a/1.png")
    with pytest.raises(DataError, match="is not the published set, and was not kept") as caught:
        fetched(birds(publisher.put("/birds.zip", empty), empty, is_checked=False))
    assert ".placing" not in str(caught.value)
    assert not (data / "birds").exists()


def test_a_bad_archive_leaves_nothing(publisher: Publisher, data: Path) -> None:
    bad = packed("birds/test/a/1.png", "../evil.png")
    with pytest.raises(DataError, match="refused"):
        fetched(birds(publisher.put("/birds.zip", bad), bad))
    assert not (data / "birds").exists()
    assert not (data.parent / "evil.png").exists()
    assert not list(data.rglob("*.placing"))


def test_what_is_there_is_not_written_over(publisher: Publisher, data: Path) -> None:
    (data / "birds").mkdir(parents=True)
    (data / "birds" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="Move it away"):
        fetched(birds(publisher.put("/birds.zip", BIRDS), BIRDS))
    assert (data / "birds" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("is_named", [True, False])
def test_by_hand(data: Path, tmp_path: Path, is_named: bool) -> None:
    digest = hashlib.sha256(BIRDS).hexdigest()
    source = Download(
        "birds",
        (RemoteFile(name="birds.zip", sha256=digest),),
        inside="birds",
        steps=("Make an account at https://birds.example.", "Download birds.zip."),
    )
    spec = birds_of(source)
    with pytest.raises(MissingDataError, match=r"1\. Make an account .* 2\. Download") as caught:
        fetched(spec)
    assert str(data / "downloads") in str(caught.value)
    place = (tmp_path / "renamed.zip") if is_named else data / "downloads" / "birds.zip"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(FEWER)
    with pytest.raises(DataError, match="is not the published file: its sha256"):
        fetched(spec, brought=place if is_named else None)
    place.write_bytes(BIRDS)
    fetched(spec, brought=place if is_named else None)
    assert len(spec.load("test")) == 3
    assert place.is_file()  # it is a person's


def test_a_folder_of_files_that_were_brought(
    publisher: Publisher, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "birds.zip").write_bytes(BIRDS)
    fetched(birds(publisher.base + "/birds.zip", BIRDS), brought=tmp_path)
    assert publisher.asked == []
    assert tree(data) == sorted(NAMES)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(publisher: Publisher, data: Path) -> None:
    data.mkdir()
    data.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="OODBENCH_DATA"):
            fetched(birds(publisher.put("/birds.zip", BIRDS), BIRDS))
    finally:
        data.chmod(0o700)


def test_a_data_folder_that_is_none(publisher: Publisher, data: Path) -> None:
    data.write_text("a file")
    with pytest.raises(StorageError, match="OODBENCH_DATA"):
        fetched(birds(publisher.put("/birds.zip", BIRDS), BIRDS))


def test_the_target_is_read_only(
    publisher: Publisher, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = birds(publisher.put("/birds.zip", BIRDS), BIRDS)
    rename = Path.rename

    def refuse(path: Path, to: Path) -> Path:
        if Path(to) == data / "birds":
            raise OSError(30, "Read-only file system")
        return rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(StorageError, match="Read-only"):
            fetched(spec)
    fetched(spec)
    assert len(publisher.asked) == 1  # what was fetched is still there
    assert tree(data) == sorted(NAMES)


def test_there_is_no_room(
    publisher: Publisher, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = birds(publisher.put("/birds.zip", BIRDS), BIRDS)
    with monkeypatch.context() as patch:
        patch.setattr(full, "free_space", lambda _: 10)
        with pytest.raises(StorageError, match=r"birds takes .* are free"):
            fetched(spec)
    assert publisher.asked == []


def test_the_disk_fills_while_it_is_unpacked(
    publisher: Publisher, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = birds(publisher.put("/birds.zip", BIRDS), BIRDS)
    write = full.write_all

    def fill(handle, content) -> None:
        if ".placing" in str(handle.name):
            raise OSError(28, "No space left on device")
        write(handle, content)

    with monkeypatch.context() as patch:
        patch.setattr(full, "write_all", fill)
        with pytest.raises(StorageError, match="No space left"):
            fetched(spec)
    assert not list(data.rglob("*.placing"))
    fetched(spec)
    assert len(publisher.asked) == 1


def test_killed_before_every_kind_of_change(
    publisher: Publisher, tmp_path: Path, server: Server
) -> None:
    """Whenever it is killed, there is the right set or none, and the next run makes it."""
    url = publisher.put("/birds.zip", BIRDS)
    job = ("tests.helpers.downloads:fetch_birds", url, hashlib.sha256(BIRDS).hexdigest())

    def words(data: Path) -> tuple:
        return (*job, len(BIRDS), str(data))

    whole, cache = tmp_path / "whole", tmp_path / "cache"
    states = server.states(*words(whole), cache=cache, watched=whole, copied=whole)
    assert len(states) > 10
    want = {name: (whole / name).read_bytes() for name in NAMES}
    for kind, data in states.items():
        assert not (data / "birds").exists() or tree(data / "birds") == [
            name.removeprefix("birds/") for name in sorted(NAMES)
        ]
        server.run(*words(data), cache=data.with_name("cache"))
        assert {name: (data / name).read_bytes() for name in NAMES} == want
        left = set(tree(data)).difference(NAMES)
        assert all(name.endswith(".lock") for name in left), kind  # nobody holds it


def test_two_processes_at_once(publisher: Publisher, tmp_path: Path, server: Server) -> None:
    url = publisher.put("/birds.zip", BIRDS)
    data = tmp_path / "data"
    words = (url, hashlib.sha256(BIRDS).hexdigest(), len(BIRDS), str(data))
    job = "tests.helpers.downloads:fetch_birds"
    server.together(job, words, words, words, cache=tmp_path / "cache")
    assert tree(data) == sorted(NAMES)
    assert len(publisher.asked) == 1
