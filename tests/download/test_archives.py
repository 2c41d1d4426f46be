"""Archives that strangers made, some of them in bad faith."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from oodbench.disk import full
from oodbench.download.archives import Limits, unpack
from oodbench.errors import DataError, StorageError

GOOD = {"set/a/1.png": b"one", "set/a/2.png": b"two", "set/b/1.png": b"three"}


def tar(path: Path, *members: tarfile.TarInfo | tuple[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def special(name: str, kind: bytes, to: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar(tmp_path: Path, mode: str) -> None:
    unpack(tar(tmp_path / "x.tar", *GOOD.items(), mode=mode), tmp_path / "out")
    assert contents(tmp_path / "out") == GOOD


def test_zip_and_gzip(tmp_path: Path) -> None:
    seen: list[int] = []
    unpack(zipped(tmp_path / "x.zip", *GOOD.items()), tmp_path / "out", at=seen.append)
    assert contents(tmp_path / "out") == GOOD
    assert seen[-1] == sum(map(len, GOOD.values()))
    (tmp_path / "digest").write_bytes(gzip.compress(b"images"))
    unpack(tmp_path / "digest", tmp_path / "raw", name="raw/train-images.gz")
    assert contents(tmp_path / "raw") == {"train-images": b"images"}


BAD_NAMES = [
    "../out.png",
    "a/../../out.png",
    "/etc/out.png",
    "~/out.png",
    "C:/out.png",
    "a\\..\\out.png",
    "a/line\nbreak.png",
    "a/\x1b[2Jred.png",
    "a/bidi\u202egnp.png",
    "a/nul.png",
    "a/dot.",
    "a/what?.png",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_elsewhere_or_hide(tmp_path: Path, name: str) -> None:
    outside = set(tmp_path.parent.iterdir())
    for made in (
        tar(tmp_path / "x.tar", ("a/1.png", b"1"), (name, b"bad")),
        zipped(tmp_path / "x.zip", ("a/1.png", b"1"), (name, b"bad")),
    ):
        with pytest.raises(DataError, match="is refused") as caught:
            unpack(made, tmp_path / "in" / "out")
        assert str(caught.value).isprintable()
    assert set(tmp_path.parent.iterdir()) == outside
    assert not (tmp_path / "in" / "out.png").exists()
    assert b"bad" not in contents(tmp_path / "in").values()


@pytest.mark.parametrize(
    ("kind", "to"),
    [
        (tarfile.SYMTYPE, "/etc"),
        (tarfile.SYMTYPE, "1.png"),
        (tarfile.LNKTYPE, "a/1.png"),
        (tarfile.LNKTYPE, "../../secret"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_links_and_devices(tmp_path: Path, kind: bytes, to: str) -> None:
    made = tar(tmp_path / "x.tar", ("a/1.png", b"1"), special("a/2", kind, to), ("a/2/x", b"bad"))
    with pytest.raises(DataError, match="link or a device"):
        unpack(made, tmp_path / "out")
    assert contents(tmp_path / "out") == {"a/1.png": b"1"}


def test_a_link_in_a_zip(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/2")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with pytest.raises(DataError, match="link or a device"):
        unpack(zipped(tmp_path / "x.zip", ("a/1", b"1"), (link, b"/etc")), tmp_path / "out")
    assert contents(tmp_path / "out") == {}  # nothing is written before all were looked at


@pytest.mark.parametrize(
    "names",
    [
        ("a/1.png", "A/2.png"),
        ("a/x.png", "a/X.PNG"),
        ("a/x.png", "a/x.png"),
        ("a/\u00e9.png", "a/e\u0301.png"),
        ("a", "a/x.png"),
        ("a/stra\u00dfe", "a/STRASSE"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_with_one_name(tmp_path: Path, names: tuple[str, str]) -> None:
    members = [(name, name.encode()) for name in names]
    for made in (tar(tmp_path / "x.tar", *members), zipped(tmp_path / "x.zip", *members)):
        with pytest.raises(DataError, match="in the way of"):
            unpack(made, tmp_path / made.suffix)


def test_folders_may_be_named_again(tmp_path: Path) -> None:
    folder = special("a", tarfile.DIRTYPE)
    unpack(tar(tmp_path / "x.tar", folder, ("a/1", b"1"), folder, ("./a/2", b"2")), tmp_path / "o")
    assert contents(tmp_path / "o") == {"a/1": b"1", "a/2": b"2"}


def test_a_bomb(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "x.zip", *((f"{i}", bytes(14_000_000)) for i in range(5)))
    assert bomb.stat().st_size < 200_000
    with pytest.raises(DataError, match=r"more than 67.1 MB"):
        unpack(bomb, tmp_path / "out")
    assert contents(tmp_path / "out") == {}
    packed = tar(tmp_path / "x.tgz", ("a", bytes(70_000_000)), mode="w:gz")
    with pytest.raises(DataError, match="more than"):
        unpack(packed, tmp_path / "out")
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(70_000_000)))
    with pytest.raises(DataError, match="more than"):
        unpack(tmp_path / "x.gz", tmp_path / "gz")
    assert sum(path.stat().st_size for path in (tmp_path / "gz").iterdir()) <= 2**26


def test_a_zip_that_understates_itself(tmp_path: Path) -> None:
    made = zipped(tmp_path / "x.zip", ("a", bytes(50_000)))
    raw = bytearray(made.read_bytes())
    at = raw.rindex(b"PK\x01\x02")
    raw[at + 24 : at + 28] = (10).to_bytes(4, "little")  # the size that the index gives
    made.write_bytes(raw)
    with pytest.raises(DataError):
        unpack(made, tmp_path / "out", Limits(1000))


def test_too_many(tmp_path: Path) -> None:
    members = [(f"{i}", b"") for i in range(11)]
    for made in (tar(tmp_path / "x.tar", *members), zipped(tmp_path / "x.zip", *members)):
        with pytest.raises(DataError, match="10"):
            unpack(made, tmp_path / made.suffix, Limits(1000, 10))


@pytest.mark.parametrize("keep", [0.3, 0.9])
@pytest.mark.parametrize("suffix", [".zip", ".tgz", ".tar"])
def test_damaged_archives(tmp_path: Path, keep: float, suffix: str) -> None:
    noise = bytes(range(251)) * 400
    if suffix == ".zip":
        made = zipped(tmp_path / "x.zip", ("a", noise))
    else:
        made = tar(tmp_path / f"x{suffix}", ("a", noise), mode="w:gz" if "g" in suffix else "w")
    content = made.read_bytes()
    if suffix == ".tar" and keep == 0.9:
        keep = 0.8  # behind the data there are only zeros
    made.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError):
        unpack(made, tmp_path / "out")


def test_a_tar_that_is_cut_between_two_members(tmp_path: Path) -> None:
    made = tar(tmp_path / "x.tar", ("a", b"x" * 512), ("b", b"2"))
    made.write_bytes(made.read_bytes()[:1024])
    with pytest.raises(DataError, match="has no end"):
        unpack(made, tmp_path / "out")


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.zip", "x.gz", "x.bin"])
def test_what_is_no_archive(tmp_path: Path, name: str) -> None:
    for number, content in enumerate((b"", b"GIF89a" * 200, bytes(2048))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            unpack(tmp_path / name, tmp_path / f"out{number}")


def test_encrypted(tmp_path: Path) -> None:
    made = zipped(tmp_path / "x.zip", ("a", b"content"))
    raw = bytearray(made.read_bytes())
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1
    made.write_bytes(raw)
    with pytest.raises(DataError, match="encrypted"):
        unpack(made, tmp_path / "out")


def test_the_disk_fills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(handle, content) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(full, "write_all", write)
    with pytest.raises(StorageError, match="No space left"):
        unpack(tar(tmp_path / "x.tar", *GOOD.items()), tmp_path / "out")
