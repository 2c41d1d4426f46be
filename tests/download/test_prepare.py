"""Datasets into the data folder, from a server that has them as their publishers do."""

from __future__ import annotations

from pathlib import Path

import pytest

import oodbench
from oodbench import register_dataset
from oodbench.download import transfer
from oodbench.download.described import Download, HubFiles, RemoteFile
from oodbench.errors import DownloadError, MissingDataError, NoNetworkError, UnknownNameError
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
