"""Datasets into the data folder, from a server that has them as their publishers do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import oodbench
from oodbench import files, register_dataset
from oodbench.data.samples import Samples
from oodbench.download import transfer
from oodbench.download.described import Download, HubFiles, RemoteFile
from oodbench.errors import (
    DataError,
    DownloadError,
    MissingDataError,
    NoNetworkError,
    UnknownNameError,
)
from oodbench.registry import DATASETS
from tests.helpers.datasets import images_of, write_parquet
from tests.helpers.downloads import NAMES, QUICK, birds, birds_of, fetched, packed, tree
from tests.helpers.publisher import Publisher, page, publish_on_hub, status, truncating

BIRDS = packed(*NAMES)


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


def test_no_network(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setattr(transfer, "Patience", lambda: QUICK)
    source = Download("birds", (RemoteFile("https://birds.example/birds.zip"),), inside="birds")
    with pytest.raises(NoNetworkError) as caught:
        fetched(birds_of(Download("birds", hub=HubFiles("some/birds")), source))
    assert "\n" not in str(caught.value)
    assert "Is there a network?" in str(caught.value)


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


def test_failures_are_told_together(
    publisher: Publisher, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DATASETS, "_objects", {})

    def gone(name: str) -> None:
        url = publisher.put(f"/{name}.zip", b"", *[status(404)] * 2)
        source = Download(name, (RemoteFile(url),))
        register_dataset(name)(oodbench.DatasetSpec(name, birds_of().load, downloads=(source,)))

    gone("fish")
    gone("frogs")
    register_dataset("toads")(birds_of())  # no address is known
    with pytest.raises(DownloadError, match=r"fish\.zip: it answers 404.*\n.*frogs\.zip"):
        oodbench.prepare(["fish", "frogs"], report=lambda _: None)
    with pytest.raises(DataError, match=r"fish\.zip: it answers 404.*\nno address") as caught:
        oodbench.prepare(["fish", "toads"], report=lambda _: None)
    assert type(caught.value) is DataError


def test_without_a_network_nothing_else_is_tried(
    publisher: Publisher, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DATASETS, "_objects", {})
    monkeypatch.setattr(transfer, "Patience", lambda: QUICK)
    source = Download("fish", (RemoteFile("http://127.0.0.1:9/fish.zip"),))
    register_dataset("fish")(oodbench.DatasetSpec("fish", birds_of().load, downloads=(source,)))
    register_dataset("birds")(birds(publisher.put("/birds.zip", BIRDS), BIRDS))
    with pytest.raises(NoNetworkError):
        oodbench.prepare(["fish", "birds"], report=lambda _: None)
    assert publisher.asked == []


def test_a_source_that_cannot_be_read_here_is_not_fetched(publisher: Publisher, data: Path) -> None:
    url = publisher.put("/birds.zip", BIRDS)
    source = Download("birds", (RemoteFile(url),), inside="birds", needs=("no_such_module",))
    with pytest.raises(MissingDataError, match=r"takes no_such_module.*pip install no_such_module"):
        fetched(birds_of(source))
    assert publisher.asked == []


def test_what_is_in_its_place_and_is_not_read_is_said(publisher: Publisher, data: Path) -> None:
    """It was read before it was put there: something in the data folder stands in its way."""

    def load(split: str) -> Samples:
        if files.data_dir() == data:
            raise MissingDataError("another folder comes first.")
        return birds_of().load(split)

    url = publisher.put("/birds.zip", BIRDS)
    source = Download("birds", (RemoteFile(url),), inside="birds")
    spec = oodbench.DatasetSpec("birds", load, downloads=(source,))
    told = f"{data / 'birds'} is there, but it is not read: another folder comes first"
    with pytest.raises(DataError, match=re.escape(told)):
        fetched(spec)


def test_what_another_process_brought_meanwhile_is_said(data: Path) -> None:
    waiting = [MissingDataError("it is not there.")]

    def load(split: str) -> Any:
        if waiting:
            raise waiting.pop()
        return None

    with pytest.raises(MissingDataError, match="birds is there by now"):
        fetched(oodbench.DatasetSpec("birds", load, ("test",)))
