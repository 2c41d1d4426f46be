"""Datasets into the data folder, from a server that has them as their publishers do."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

import oodbench
from oodbench import files, register_dataset
from oodbench.disk import full
from oodbench.download import placing, transfer
from oodbench.download.described import Download, HubFiles, RemoteFile
from oodbench.errors import (
    DataError,
    DownloadError,
    MissingDataError,
    NoNetworkError,
    OptionError,
    StorageError,
    UnknownNameError,
)
from oodbench.registry import DATASETS
from tests.helpers.attempts import Server
from tests.helpers.datasets import images_of, write_parquet
from tests.helpers.downloads import NAMES, QUICK, birds, birds_of, fetched, packed
from tests.helpers.publisher import Publisher, page, publish_on_hub, status, truncating

BIRDS = packed(*NAMES)
FEWER = packed(*NAMES[:2])


@pytest.fixture
def data() -> Path:
    return files.data_dir()


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_set_is_fetched_once(publisher: Publisher, data: Path) -> None:
    spec = birds(publisher.put("/birds.zip", BIRDS), BIRDS)
    fetched(spec)
    assert tree(data) == sorted(NAMES)  # and nothing is left of the way there
    assert len(spec.load("test")) == 3
    fetched(spec)
    assert len(publisher.asked) == 1


def test_a_broken_download_goes_on(publisher: Publisher, data: Path) -> None:
    dead = [truncating(100)] * 4
    spec = birds(publisher.put("/birds.zip", BIRDS, *dead), BIRDS)
    with pytest.raises(DownloadError, match="goes on"):
        fetched(spec)
    assert not (data / "birds").exists()
    fetched(spec)
    assert publisher.asked[-1].first == 400
    assert tree(data) == sorted(NAMES)


def test_the_next_source_is_tried(publisher: Publisher, data: Path) -> None:
    gone = publisher.put("/old.zip", b"", status(404))
    worse = publisher.put("/page.zip", b"", page())
    urls = [gone, worse, publisher.put("/birds.zip", BIRDS)]
    sources = [Download("birds", (RemoteFile(url),), inside="birds") for url in urls]
    told: list[str] = []
    fetched(birds_of(*sources), told)
    assert tree(data) == sorted(NAMES)
    assert "404" in told[0]
    assert "web page" in told[1]


def test_all_sources_fail(publisher: Publisher, data: Path) -> None:
    urls = [publisher.put("/a.zip", b"", status(404)), publisher.put("/b.zip", b"", page())]
    sources = [Download("birds", (RemoteFile(url),), inside="birds") for url in urls]
    with pytest.raises(DownloadError, match=r"404.* Or: .*web page"):
        fetched(birds_of(*sources))
    assert tree(data) == []


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


def test_parquet_of_the_hub(
    publisher: Publisher, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", publisher.base + "/huggingface.co")
    monkeypatch.setenv("HF_TOKEN", "secret")
    for split, seed in (("train", 0), ("test", 1)):
        images = images_of(4, (8, 8, 3), seed)
        path = tmp_path / f"{split}-00000-of-00001.parquet"
        write_parquet(path, images, "img", "label", [0, 1, 0, 1], ["cat", "dog"])
    content = {
        f"plain_text/{path.name}": path.read_bytes() for path in sorted(tmp_path.glob("*.parquet"))
    }
    publish_on_hub(publisher, "uoft-cs/cifar10", {"README.md": b"cats", **content})
    assert oodbench.prepare("cifar10", report=lambda _: None) == ["cifar10"]
    assert tree(data / "cifar10") == [f"hub/{path}" for path in content]
    assert not list((data / "downloads").rglob("*.parquet"))
    samples = oodbench.get_benchmark("cifar10").id.load("test")
    assert samples.classes == ("cat", "dog")
    assert publisher.asked[-1].headers["authorization"] == "Bearer secret"
    before = len(publisher.asked)
    assert oodbench.prepare("cifar10", report=lambda _: None) == []
    assert len(publisher.asked) == before


def hub_source() -> Download:
    return Download("birds", hub=HubFiles("some/birds"), needs=("pyarrow",))


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (401, DownloadError, "hf auth login"),
        (403, DownloadError, "hf auth login"),
        (404, DownloadError, "answers 404"),
        (500, DownloadError, "does not answer well"),
    ],
)
def test_the_hub_refuses(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch, code: int, kind: type, text: str
) -> None:
    monkeypatch.setenv("OODBENCH_MIRROR", publisher.base)
    path = "/huggingface.co/api/datasets/some/birds/revision/main"
    refusal = status(code, json.dumps({"error": "no"}).encode(), Content_Type="application/json")
    publisher.put(path, b"", *[refusal] * 9)
    with pytest.raises(kind, match=text):
        fetched(birds_of(hub_source()))


def test_a_repository_that_was_changed(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_MIRROR", publisher.base)
    publish_on_hub(publisher, "some/birds", {"README.md": b"moved"})
    with pytest.raises(DownloadError, match="it was changed"):
        fetched(birds_of(hub_source()))


def test_a_file_of_the_hub_that_is_another(
    publisher: Publisher, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_MIRROR", publisher.base)
    publish_on_hub(publisher, "some/birds", {"test-00000-of-00001.parquet": b"one"})
    for path in publisher.files:
        if "resolve" in path:
            publisher.files[path] = b"two"
    with pytest.raises(DownloadError, match="not the published file"):
        fetched(birds_of(hub_source()))
    assert tree(data) == []


def test_no_network(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setattr(transfer, "Patience", lambda: QUICK)
    source = Download("birds", (RemoteFile("https://birds.example/birds.zip"),), inside="birds")
    with pytest.raises(NoNetworkError) as caught:
        fetched(birds_of(hub_source(), source))
    assert "\n" not in str(caught.value)
    assert "Is there a network?" in str(caught.value)


def test_the_hub_is_not_asked_where_that_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NoNetworkError, match=r"HF_HUB_OFFLINE|Is there a network"):
        fetched(birds_of(hub_source()))


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

    def words(number: int) -> tuple:
        return (*job, len(BIRDS), str(tmp_path / f"data{number}"))

    kinds = server.changes(*words(0), cache=tmp_path / "c0", watched=tmp_path / "data0")
    assert len(kinds) > 10
    want = {name: (tmp_path / "data0" / name).read_bytes() for name in NAMES}
    kills = 0
    for number, kind in enumerate(kinds, 1):
        data, cache = tmp_path / f"data{number}", tmp_path / f"c{number}"
        code, _ = server.run(*words(number), cache=cache, kill_at_change=kind, watched=data)
        kills += code != 0
        assert not (data / "birds").exists() or tree(data / "birds") == [
            name.removeprefix("birds/") for name in sorted(NAMES)
        ]
        server.run(*words(number), cache=cache)
        assert {name: (data / name).read_bytes() for name in NAMES} == want
        left = set(tree(data)).difference(NAMES)
        assert all(name.endswith(".lock") for name in left), kind  # nobody holds it
    assert kills > 10


def test_two_processes_at_once(publisher: Publisher, tmp_path: Path, server: Server) -> None:
    url = publisher.put("/birds.zip", BIRDS)
    data = tmp_path / "data"
    words = (url, hashlib.sha256(BIRDS).hexdigest(), len(BIRDS), str(data))
    job = "tests.helpers.downloads:fetch_birds"
    server.together(job, words, words, words, cache=tmp_path / "cache")
    assert tree(data) == sorted(NAMES)
    assert len(publisher.asked) == 1


def test_names(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'cifar10'"):
        oodbench.prepare("cifra10")
    with pytest.raises(MissingDataError, match="named as brought"):
        oodbench.prepare("cifar10", brought=tmp_path / "nothing")
    with pytest.raises(MissingDataError, match="no address is known"):
        oodbench.prepare("voc", report=lambda _: None)


def test_one_failure_does_not_keep_the_rest_away(
    publisher: Publisher, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DATASETS, "_objects", {})
    dead = Download("fish", (RemoteFile(publisher.put("/fish.zip", b"", status(404))),))
    fish = oodbench.DatasetSpec("fish", birds_of().load, downloads=(dead,))
    fetched_birds = birds(publisher.put("/birds.zip", BIRDS), BIRDS)
    register_dataset("fish-that-is-gone")(fish)
    register_dataset("birds-that-are-there")(fetched_birds)
    with pytest.raises(DownloadError, match="404"):
        oodbench.prepare(["fish-that-is-gone", "birds-that-are-there"], report=lambda _: None)
    assert tree(data / "birds") == [name.removeprefix("birds/") for name in sorted(NAMES)]


@pytest.mark.parametrize("target", ["../x", "/x", ""])
def test_a_target_lies_in_the_data_folder(target: str) -> None:
    with pytest.raises(OptionError):
        Download(target, (RemoteFile("https://a.org/x.zip"),))


def test_described() -> None:
    with pytest.raises(OptionError):
        RemoteFile("file:///etc/passwd")
    with pytest.raises(OptionError):
        RemoteFile("https://a.org/x", "../x")
    with pytest.raises(OptionError, match="either"):
        Download("x")
    assert RemoteFile("https://a.org/b%20c.tgz?dl=1").name == "b c.tgz"
    assert placing.addresses(Download("x", (RemoteFile("drive:ID", "x.zip"),))) == [
        "https://drive.google.com/file/d/ID"
    ]
