"""What a download is described by: wrong descriptions are refused where they are written."""

from __future__ import annotations

import pytest

from oodbench.download.described import Download, HubFiles, RemoteFile, archive, hub
from oodbench.errors import OptionError

ZIP = "https://a.org/x.zip"


@pytest.mark.parametrize("target", ["../x", "/x", ""])
def test_a_target_lies_in_the_data_folder(target: str) -> None:
    with pytest.raises(OptionError):
        Download(target, (RemoteFile(ZIP),))


@pytest.mark.parametrize("inside", ["../x", "a/../../x", "/x"])
def test_so_does_what_becomes_the_target(inside: str) -> None:
    with pytest.raises(OptionError, match="no path below"):
        Download("x", (RemoteFile(ZIP),), inside=inside)


def test_there_are_files_or_a_repository() -> None:
    with pytest.raises(OptionError, match="either"):
        Download("x")
    with pytest.raises(OptionError, match="either"):
        Download("x", (RemoteFile(ZIP),), HubFiles("some/birds"))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a.org/x", "x.zip", "HTTPS:x"])
def test_an_address_is_one_of_the_web(url: str) -> None:
    with pytest.raises(OptionError, match="no address"):
        RemoteFile(url, "x.zip")


@pytest.mark.parametrize("name", ["../x", "/x", "a\\b", "a/../../b"])
def test_a_name_stays_in_its_folder(name: str) -> None:
    with pytest.raises(OptionError, match="wants a name"):
        RemoteFile("https://a.org/x", name)
    with pytest.raises(OptionError, match="wants a name"):
        RemoteFile("https://a.org/x", path=name)


@pytest.mark.parametrize("url", ["", "https://a.org/", "https://a.org"])
def test_a_file_without_a_name_is_refused(url: str) -> None:
    with pytest.raises(OptionError, match="wants a name"):
        RemoteFile(url)


def test_a_name_is_the_last_part_of_the_address() -> None:
    assert RemoteFile("https://a.org/b%20c.tgz?dl=1").name == "b c.tgz"
    assert RemoteFile("https://a.org/x.zip", "set/y.zip").name == "set/y.zip"
    assert RemoteFile("https://a.org/x.zip", "set/y.zip").path == "y.zip"
    assert RemoteFile("https://a.org/x.png", path="test/1.png").path == "test/1.png"


@pytest.mark.parametrize(
    ("name", "is_unpacked"),
    [
        ("x.zip", True),
        ("x.TAR", True),
        ("x.tar.gz", True),
        ("x.tgz", True),
        ("x-ubyte.gz", True),
        ("x.mat", False),
        ("x.parquet", False),
        ("zip", False),
    ],
)
def test_what_is_unpacked(name: str, is_unpacked: bool) -> None:
    assert RemoteFile(f"https://a.org/{name}").is_unpacked is is_unpacked
    for is_archive in (True, False):  # what is said goes before the name
        assert RemoteFile(f"https://a.org/{name}", is_archive=is_archive).is_unpacked is is_archive


def test_any_digest_is_a_checksum() -> None:
    assert not RemoteFile(ZIP, size=3).has_checksum  # a size is none
    for kind in ("sha256", "md5", "git"):
        assert RemoteFile(ZIP, **{kind: "0"}).has_checksum


def test_how_much_is_fetched() -> None:
    files = (RemoteFile(ZIP, size=3), RemoteFile("https://a.org/y.zip", size=4))
    assert Download("x", files).bytes == 7
    assert Download("x", files, size=8).bytes == 8
    assert Download("x", (RemoteFile(ZIP),)).bytes == 0


def test_where_it_comes_from() -> None:
    assert Download("x", (RemoteFile(ZIP),)).source == ZIP
    drive = Download("x", (RemoteFile("drive:ID", "x.zip"),))
    assert drive.source == "https://drive.google.com/file/d/ID"
    on_hub = Download("x", hub=HubFiles("some/birds"))
    assert on_hub.source == "https://huggingface.co/datasets/some/birds"
    assert Download("x", (RemoteFile(name="x.zip"),)).source == "by hand"


def test_one_archive() -> None:
    made = archive(ZIP, "set/x", "x", md5="0", about=9, splits=("test",), licence="CC0")
    file = RemoteFile(ZIP, md5="0")
    assert made == Download("set/x", (file,), splits=("test",), inside="x", size=9, licence="CC0")
    assert archive(ZIP, "x", size=5).bytes == 5


def test_a_snapshot_of_the_hub() -> None:
    made = hub("some/birds", "birds", ("test-*.parquet",), size=9, is_gated=True, steps=("Ask.",))
    assert made.target == "birds/hub"
    assert made.hub == HubFiles("some/birds", ("test-*.parquet",), is_gated=True)
    assert (made.bytes, made.steps, made.needs) == (9, ("Ask.",), ("pyarrow",))
