"""Where image sets are published: each address is whole, and what is put in order is in order."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from oodbench import DatasetSpec
from oodbench.datasets import _sources
from oodbench.download.described import Download, HubFiles, RemoteFile
from oodbench.errors import DataError
from oodbench.registry import DATASETS


def every() -> Iterator[tuple[str, Download]]:
    for name, value in vars(_sources).items():
        if name.isupper() and not name.startswith("_"):
            found = value.values() if isinstance(value, dict) else value
            for one in (found,) if isinstance(found, Download) else found:
                yield f"{name}:{one.source}", one


SOURCES = dict(every())
FILES = {f"{name}:{file.name}": file for name, source in SOURCES.items() for file in source.files}
DIGITS = {"sha256": 64, "md5": 32, "git": 40}


@pytest.mark.parametrize("name", FILES)
def test_a_digest_has_its_length(name: str) -> None:
    for kind, length in DIGITS.items():
        digest = getattr(FILES[name], kind)
        assert re.fullmatch(rf"([0-9a-f]{{{length}}})?", digest), f"{kind} of {name}"


@pytest.mark.parametrize("name", FILES)
def test_what_has_no_digest_is_known_to_have_none(name: str) -> None:
    """Archives of Google Drive and Dropbox come without; all others are compared."""
    url = FILES[name].url
    is_without = url.startswith(("drive:", "https://www.dropbox.com/"))
    assert FILES[name].has_checksum is not is_without


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_only_a_person_gets_comes_with_steps(name: str) -> None:
    source = SOURCES[name.rpartition(":")[0]]
    assert bool(source.steps) is not bool(FILES[name].url)
    for step in source.steps:
        assert step.endswith(".")


def test_no_two_files_of_the_downloads_folder_share_a_name() -> None:
    """One would be taken for the other; ImageNet's development kit is one file of two sets."""
    by_name: dict[str, RemoteFile] = {}
    for file in FILES.values():
        assert by_name.setdefault(file.name, file) == file


def test_no_two_sources_share_a_target() -> None:
    targets = [source.target for source in SOURCES.values()]
    assert len(set(targets)) == len(targets)


def test_repositories_of_the_hub() -> None:
    found = [source for source in SOURCES.values() if source.hub is not None]
    assert len(found) >= 7
    for source in found:
        hub = source.hub
        assert isinstance(hub, HubFiles)
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", hub.repository)
        assert all(pattern.endswith(".parquet") for pattern in hub.patterns)
        assert source.needs == ("pyarrow",)
        assert source.bytes > 10**6
        assert bool(source.steps) is hub.is_gated


@pytest.mark.parametrize("name", _sources.OPENOOD)
def test_openoods_zips(name: str) -> None:
    """Ids of Google Drive have 33 signs; each is of one zip, which goes where OpenOOD puts it."""
    source = _sources.OPENOOD[name]
    (file,) = source.files
    assert re.fullmatch(r"drive:1[\w-]{32}", file.url)
    assert (file.name, file.is_unpacked) == (f"openood/{name}.zip", True)
    assert source.target in (f"images_classic/{name}", f"images_largescale/{name}")
    same = [one for one in _sources.OPENOOD.values() if one.files[0].url == file.url]
    assert same == [source]


def test_sets_name_their_sources() -> None:
    for name, sources in (
        ("cifar10", _sources.CIFAR10),
        ("cifar100", _sources.CIFAR100),
        ("mnist", _sources.MNIST),
        ("svhn", _sources.SVHN),
        ("textures", _sources.DTD),
        ("places365", _sources.PLACES365),
        ("tin", _sources.TIN),
        ("lsun-c", _sources.LSUN_C),
        ("isun", _sources.ISUN),
        ("imagenet", _sources.IMAGENET),
    ):
        spec = DATASETS.get(name)
        assert isinstance(spec, DatasetSpec)
        assert spec.downloads == sources


# Putting what was unpacked in order


def tarred(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as made:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_imagenets_training_images(tmp_path: Path) -> None:
    """A tar for each class becomes its folder, and the tars are gone."""
    for wnid in ("n01440764", "n04037443"):
        tarred(tmp_path / f"{wnid}.tar", {f"{wnid}_1.JPEG": wnid.encode(), f"{wnid}_2.JPEG": b"2"})
    (tmp_path / "labels.tar").write_bytes(b"no class")
    _sources._sort_training(tmp_path)
    assert tree(tmp_path) == {
        "labels.tar": b"no class",
        "train/n01440764/n01440764_1.JPEG": b"n01440764",
        "train/n01440764/n01440764_2.JPEG": b"2",
        "train/n04037443/n04037443_1.JPEG": b"n04037443",
        "train/n04037443/n04037443_2.JPEG": b"2",
    }


def test_a_tar_of_a_class_may_not_write_elsewhere(tmp_path: Path) -> None:
    tarred(tmp_path / "set" / "n01440764.tar", {"../../../evil.JPEG": b"evil"})
    with pytest.raises(DataError, match="refused"):
        _sources._sort_training(tmp_path / "set")
    assert not list(tmp_path.rglob("evil.JPEG"))


def test_imagenets_validation_images(tmp_path: Path) -> None:
    """The kit's ids go by its table, of which only synsets without children are classes."""
    from scipy.io import savemat

    data = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    synsets = np.zeros(3, dtype=[(name, "O") for name in ("id", "wnid", "words", "gloss", "kids")])
    for number, (wnid, kids) in enumerate((("n04037443", 0), ("n02084071", 2), ("n01440764", 0))):
        synsets[number] = (number + 1, wnid, "words", "gloss", kids)
    savemat(data / "meta.mat", {"synsets": synsets})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("3\n1\n3\n")
    for number in (1, 2, 3):
        (tmp_path / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(bytes([number]))
    _sources._sort_validation(tmp_path)
    assert tree(tmp_path / "val") == {
        "n01440764/ILSVRC2012_val_00000001.JPEG": b"\x01",
        "n04037443/ILSVRC2012_val_00000002.JPEG": b"\x02",
        "n01440764/ILSVRC2012_val_00000003.JPEG": b"\x03",
    }
    assert not list(tmp_path.glob("*.JPEG"))


def test_caltechs_images_are_an_archive_in_the_archive(tmp_path: Path) -> None:
    members = {"101_ObjectCategories/ant/image_0001.jpg": b"ant"}
    tarred(tmp_path / "caltech-101" / "101_ObjectCategories.tar.gz", members, "w:gz")
    (source,) = _sources.CALTECH101
    assert source.arrange is not None
    source.arrange(tmp_path)
    placed = tmp_path / source.inside
    assert tree(placed) == {"ant/image_0001.jpg": b"ant"}
