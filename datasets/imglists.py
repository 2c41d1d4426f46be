"""Sets that a list of files defines, as OpenOOD v1.5 does: exactly its images, in its order.

Paper: J. Zhang et al., "OpenOOD v1.5: Enhanced Benchmark for Out-of-Distribution Detection",
arXiv:2306.09301
Lists: ``benchmark_imglist.zip`` of Jingkang50/OpenOOD (MIT), 43 files, each line a path and a label
(-1 for OOD). They are in ``openood_lists.zip``, equal ones once, and are read only if their sha256
is the one below.

A list is resolved against the data folder: OpenOOD's own folders (``images_classic``,
``images_largescale``), then the layouts in which the images' publishers have them. A set of which
one image is missing is not there, as figures on the others would not be those of the list. Where
the images were at hand when this was written (the test splits of CIFAR-10 and CIFAR-100, the
validation split of TinyImageNet), ``openood_digests.npz`` knows each of them: a changed image is a
missing one, and any layout will do, as images are found by what they show.

CIFAR's files have numbers in these lists (``cifar10/test/cat/0298.png``), which its publisher's
archive has not. They are taken for those that cifar2png gives, which writes such names: the place
within the class, from 1 on, in the order of the archive.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from oodbench import files
from oodbench.data.content import pixel_digests
from oodbench.data.samples import ImageFiles, Samples, Subset
from oodbench.errors import DataError, MissingDataError

ARCHIVE = Path(__file__).with_name("openood_lists.zip")
DIGESTS = Path(__file__).with_name("openood_digests.npz")


_LISTS = {
    "cifar10": """
test_cifar10 9000 84559ec5225425e7f7363058d5f9442ed21a39c7c66b63c3f1bb8b1ddb935e13
test_cifar100 9000 f907cb13024ba0fd13099954064df8f2f1ab8e3369c27b95ab44f3c5fc87ad16
test_cifar10c 10000 92bf50253d3f030c4cf9c3acb2434688c3ce5cccd05a393d5a977c0c4974f601
test_mnist 70000 48f8055d7327cbe91bff3ab6b43f9b623c3983355c55c246207907841c2ccb92
test_places365 35195 fa127faa5c1bbc5b567e1cd2871b04b570f045d1676550f441ec5e7c91ab6cc7
test_svhn 26032 f0cb7b825a985af2a6bf803cf51d7ca004e24ee8d8051eb6805bf77c77621c1e
test_texture 5640 644fcaec364ee1ee440ff5285e1581d162b957378bb240ac4b7fc26e4f2f48e4
test_tin 7793 a44fd34e3c925d984063d2ad64969ff71e8fa6f5524fbe9da481c8b0c87b27cd
train_cifar10 50000 9317e18980f1b11df74bba9d64223e57e69bd08c2943adbc75aec393a4976d1b
val_cifar10 1000 6f64c4370bf3c61dab3308f7e8c5c94938b112b20d38cca77c1dfa0bcc5c1d89
val_tin 1000 39e22c5c6c2d95f95ab5ba43106f43ad7aa254ff62316104f406f7f10811f7c2
""",
    "cifar100": """
test_cifar10 10000 352dd98e85f2960921339ae8a9ef3c3cc5b7a165e2dab896650d7a822d5b591c
test_cifar100 9000 b80ec93f98001ff121131204d7c1a21c04ace146cbbe7c3f60a1a2c6b239f18f
test_mnist 70000 48f8055d7327cbe91bff3ab6b43f9b623c3983355c55c246207907841c2ccb92
test_places365 33773 72d284ba55265c8e160a2dd668d6270305684c07adc8ab1e5fb7f400d3647705
test_svhn 26032 f0cb7b825a985af2a6bf803cf51d7ca004e24ee8d8051eb6805bf77c77621c1e
test_texture 5640 644fcaec364ee1ee440ff5285e1581d162b957378bb240ac4b7fc26e4f2f48e4
test_tin 6526 8a85ed2203195cb70a2ddab2a6622ed5d091c868717976eb20661b49f6a82b16
train_cifar100 50000 50486e5eadbcfabc0f91d652c8c4ba4fd143e6d1b462df4daa7f3aef00b545a7
val_cifar100 1000 c3c7a4fdade23a3e61a0d7c938db0165a36eea26dfc89b32b1f5762ccd40350d
val_tin 972 b9b77628910bb860f0145e1670347efd6bfa1c6ff8c3e574d8f4bc438b420a8a
""",
    "imagenet": """
test_imagenet 45000 7e0e05f8aa8e312992bfe342d57b8513dd4e62b68fedb5a1c63b6bca662d047c
test_imagenet_c 10000 d31f2b2fb1b242e8e200b94be5de3405ba9165eaa16a260632ba2c9200acdabe
test_imagenet_r 30000 a9668e25fa5c7d291af4c0ebed6a6b718b87770a45b34121e95be3baf7b43c1c
test_imagenet_v2 10000 44f4322a5a44f1ccdb9449eae9c26bf12d831c459c23f726e5aabedcd8b0a0bf
test_inaturalist 10000 86a19665f968eecf17383bafa15dea3aeb53db96c305d08f026cdb6438376ecb
test_ninco 5879 28450babf7d8d7389b75989a3af15346be0d514f048eac3711694045fdf40dd8
test_openimage_o 15869 cbfb3ab73257f2d1523e1358e3c55d9589844194447cbad737248835cceb2ffc
test_ssb_hard 49000 e2dc7ba6c1e2bd2179a06038598344d5d8716be3bbc9409c45b0c3de95431510
test_textures 5160 9cf1ff7e97ce67ea61a8bb1ffc17bb845ae06e1d22bfebc74c3c0aa284a408c9
val_imagenet 5000 b352c357d25ca94aae787ff7a65aaee0a4c219ab4021481ce3ccc97b88904fea
val_openimage_o 1763 3bb1227701775c3893fedd5268f61a17dbfc15e3ec70ea195e3cc827c6b741d1
""",
    "imagenet200": """
test_imagenet200 9000 2f367e0d8bc4373bd1894fa0246c6edf5e483419ead758f25c5bad631a9ada55
test_imagenet200_c 2000 60146e21759e33be41084bf61891b0e0666159fb84d0f1e10dd95a42ff16781b
test_imagenet200_r 30000 73f9a85e9757dccbcacf6316e54456bcf7520e377d7f03672a2ca2ce4f205ea7
test_imagenet200_v2 2000 4f6b3544130fdc5615a55182b09294c59cd3396b3d183241f3e5bbc01d999cd8
test_inaturalist 10000 86a19665f968eecf17383bafa15dea3aeb53db96c305d08f026cdb6438376ecb
test_ninco 5879 28450babf7d8d7389b75989a3af15346be0d514f048eac3711694045fdf40dd8
test_openimage_o 15869 cbfb3ab73257f2d1523e1358e3c55d9589844194447cbad737248835cceb2ffc
test_ssb_hard 49000 e2dc7ba6c1e2bd2179a06038598344d5d8716be3bbc9409c45b0c3de95431510
test_textures 5160 9cf1ff7e97ce67ea61a8bb1ffc17bb845ae06e1d22bfebc74c3c0aa284a408c9
val_imagenet200 1000 4ae10c9e93512fb445e9c5c9267b57a046d212da5e97a1b592bea6a094147275
val_openimage_o 1763 3bb1227701775c3893fedd5268f61a17dbfc15e3ec70ea195e3cc827c6b741d1
""",
}
LISTS: dict[str, tuple[int, str]] = {
    f"{folder}/{name}.txt": (int(count), sha256)
    for folder, lines in _LISTS.items()
    for name, count, sha256 in map(str.split, lines.split("\n")[1:-1])
}
"""Number of lines and sha256 of each list, by its place in OpenOOD's release."""


@dataclass(frozen=True)
class ImageList:
    """A list of images and labels, which is checked when it is read.

    Args:
        name: of it in the archive, ``"cifar10/test_tin.txt"``.
        count: how many images it names.
        sha256: hex digest of it, with LF line ends.
        read: gives its bytes, by its name and digest.
    """

    name: str
    count: int
    sha256: str
    read: Callable[[ImageList], bytes]

    def lines(self) -> list[str]:
        """Its lines, as they were published.

        Raises:
            DataError: it is not the list of that digest.
        """
        content = self.read(self).replace(b"\r\n", b"\n")
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise DataError(
                f"the list {self.name} is not the published one: its sha256 is {digest[:12]}…, not "
                f"{self.sha256[:12]}…. Install oodbench again, or restore the list."
            )
        return content.decode("utf-8").splitlines()

    def rows(self) -> list[tuple[str, int]]:
        """Paths and labels, in order.

        Raises:
            DataError: it is not the list of that digest; or a line is no path and label.
        """
        rows = []
        for number, line in enumerate(self.lines(), start=1):
            path, _, label = line.rpartition(" ")
            if not path or path.startswith("/") or ".." in path.split("/"):
                raise DataError(f"the list {self.name}, line {number}: {line!r} is no path, label.")
            rows.append((path, int(label)))
        return rows


def _of_archive(one: ImageList) -> bytes:
    """A list's bytes; of equal ones the archive has the first alone."""
    same = min(name for name, (_, sha256) in LISTS.items() if sha256 == one.sha256)
    try:
        with zipfile.ZipFile(ARCHIVE) as archive:
            return archive.read(same)
    except (OSError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(
            f"{ARCHIVE} is damaged ({error}), so the list {one.name} cannot be read. "
            "Install oodbench again."
        ) from error


def published(name: str) -> ImageList:
    """A list of OpenOOD's release, ``"cifar10/test_tin.txt"``."""
    return ImageList(name, *LISTS[name], _of_archive)


def own_list(path: str | Path) -> ImageList:
    """A list of one's own, as it is now, in OpenOOD's format."""
    content = Path(path).read_bytes().replace(b"\r\n", b"\n")
    digest = hashlib.sha256(content).hexdigest()
    return ImageList(Path(path).name, content.count(b"\n"), digest, lambda _: content)


class Listed(Subset):
    """The images that a list names, in its order; its digest is part of the fingerprint.

    Args:
        samples: what they were found among.
        rows: positions in it, in the order of the list.
        name: what messages call the set.
        labels: ``[N]``, of the list.
        classes: class names.
        digest: the list's.
        by_pixels: whether images are told by their pixels, not by their files, so that all layouts
            have one fingerprint.
    """

    def __init__(
        self,
        samples: Samples,
        rows: Sequence[int] | np.ndarray,
        name: str,
        labels: np.ndarray,
        classes: Sequence[str],
        digest: str,
        *,
        by_pixels: bool = False,
    ) -> None:
        super().__init__(samples, rows, name)
        self.labels, self.classes = np.asarray(labels, dtype=np.int64), tuple(classes)
        self.digest, self.by_pixels = digest, by_pixels

    def _digests(self) -> np.ndarray:
        return pixel_digests(self) if self.by_pixels else super()._digests()

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over the list, contents, labels and class names."""
        return hashlib.sha256(f"{self.digest} {super().fingerprint}".encode()).hexdigest()


@cache
def known_digests(name: str) -> np.ndarray:
    """``[C, n]`` uint64: digests of the images of ``cifar10``, ``cifar100``, ``tin``, by number.

    Of CIFAR's test splits they are of pixels, by class and place within it; of TinyImageNet's
    validation split ``[1, 10000]`` of files, by the number in their names.
    """
    with np.load(DIGESTS, allow_pickle=False) as arrays:
        digests: np.ndarray = arrays[name]
    return digests


def listed_cifar(
    name: str, one: ImageList, whole: Samples, official: str, classes: Sequence[str]
) -> Listed:
    """The images of a list that names CIFAR's by class and number, found in any layout by pixels.

    Args:
        name: of the set, for messages.
        one: the list.
        whole: the whole test split as it lies on disk.
        official: ``"cifar10"`` or ``"cifar100"``.
        classes: of the ID set, where the list has labels of it; else ``("all",)``.

    Raises:
        MissingDataError: not all of the images are there; says how many, and which is the first.
    """
    rows = one.rows()
    known = known_digests(official)
    classes_of_list = sorted({path.split("/")[2] for path, _ in rows})
    numbers = {cls: i for i, cls in enumerate(classes_of_list)}
    places: dict[tuple[str, int], list[int]] = defaultdict(list)
    for i, (label, digest) in enumerate(zip(whole.labels, pixel_digests(whole), strict=True)):
        places[whole.classes[label], int(digest)].insert(0, i)
    chosen: list[int] = []
    missing: list[str] = []
    for path, _ in rows:
        _, _, cls, file = path.split("/")
        there = places[cls, int(known[numbers[cls], int(file[:-4]) - 1])]
        if there:  # an image that is there twice in its class is taken once for each
            chosen.append(there.pop())
        else:
            missing.append(path)
    _refuse(name, one, missing, f"among the {len(whole):,} of {whole.name}")
    return Listed(whole, chosen, name, _labels(rows), classes, one.sha256, by_pixels=True)


PLACES: Mapping[str, tuple[str, ...]] = {
    "cifar10c": ("images_classic/cifar10c/{rest}",),
    "imagenet_1k": (
        "images_largescale/imagenet_1k/{rest}",
        "imagenet/val/{class}/{file}",
        "imagenet/val/{file}",
        "imagenet/ILSVRC/Data/CLS-LOC/val/{class}/{file}",
        "imagenet/ILSVRC/Data/CLS-LOC/val/{file}",
        "ILSVRC2012/val/{class}/{file}",
        "ILSVRC2012/val/{file}",
    ),
    "imagenet_c": (
        "images_largescale/imagenet_c/{rest}",
        "imagenet-c/{folder}/{class}/{file}",
    ),
    "imagenet_r": ("images_largescale/imagenet_r/{rest}", "imagenet-r/{rest}"),
    "imagenet_v2": (
        "images_largescale/imagenet_v2/{rest}",
        "imagenetv2-matched-frequency-format-val/{rest}",
    ),
    "inaturalist": ("images_largescale/inaturalist/{rest}", "iNaturalist/{rest}"),
    "mnist": ("images_classic/mnist/{rest}",),
    "ninco": ("images_largescale/ninco/{rest}", "NINCO/NINCO_OOD_classes/{rest}"),
    "openimage_o": ("images_largescale/openimage_o/{rest}", "openimage_o/{rest}"),
    "places365": ("images_classic/places365/{rest}",),
    "ssb_hard": ("images_largescale/ssb_hard/{rest}",),
    "svhn": ("images_classic/svhn/{rest}",),
    "texture": (
        "images_classic/texture/{rest}",
        "dtd/dtd/images/{rest}",
        "dtd/images/{rest}",
        "textures/{rest}",
    ),
    "tin": ("images_classic/tin/{rest}", "tin/{rest}", "tiny-imagenet-200/{rest}"),
}
"""Where files may be below the data folder, by the first part of their paths in a list.

``rest`` is the path after that part, ``file`` its last part and ``folder`` what is between;
``class`` is the name of the image's class.
"""
_TOPS = ("images_largescale/", "images_classic/", "")
"""Where others may be."""


def listed_files(
    name: str,
    one: ImageList,
    classes: Sequence[str],
    how_to_get: str,
    *,
    places: Mapping[str, tuple[str, ...]] = PLACES,
    known: str = "",
    is_prepared: bool = False,
) -> Listed:
    """The files that a list names, in the first layout that has them all.

    Args:
        name: of the set, for messages.
        one: the list.
        classes: of the ID set, where the list has labels of it; else ``("all",)``.
        how_to_get: ends a sentence that begins with "Get it: ".
        places: where files may be.
        known: the name of digests in :func:`known_digests`, which files must have.
        is_prepared: whether the images have been resized and cropped by their publisher.

    Raises:
        MissingDataError: not all of the files are there; says how many, and which is the first.
    """
    root, first = files.data_dir(), one.lines()[0].partition("/")[0]
    candidates = places.get(first, tuple(f"{top}{first}/{{rest}}" for top in _TOPS))
    there = [place for place in candidates if (root / place.split("{")[0]).is_dir()]
    rows = one.rows() if there else []  # most often nothing is, and a list is long
    labels = _labels(rows)
    best: tuple[list[str], list[str]] | None = None
    for place in there:
        paths = [_at(place, path, classes[i]) for (path, _), i in zip(rows, labels, strict=True)]
        absent = [row[0] for row, at in zip(rows, paths, strict=True) if not (root / at).is_file()]
        if len(absent) < (len(best[1]) if best else len(rows)):
            best = paths, absent
        if not absent:
            break
    if best is None:
        looked = ", ".join(place.partition("{")[0] for place in candidates)
        raise MissingDataError(
            f"{name}: none of the {one.count:,} images of the list {one.name} is in {root} (looked "
            f"in {looked}). Get it: {how_to_get}, or set OODBENCH_DATA to the folder that has it."
        )
    _refuse(name, one, best[1], "")
    images = ImageFiles(name, root, best[0], labels, classes)
    if known:
        numbers = [int(Path(path).stem.rpartition("_")[2]) for path, _ in rows]
        others = images.digests != known_digests(known)[0, numbers]
        _refuse(name, one, [rows[i][0] for i in np.flatnonzero(others)], "as published")
    listed = Listed(images, np.arange(len(rows)), name, labels, classes, one.sha256)
    listed.is_prepared = is_prepared
    return listed


def _labels(rows: Sequence[tuple[str, int]]) -> np.ndarray:
    """``[N]``: labels of ID classes; zero for OOD, which has one class."""
    return np.maximum(np.array([label for _, label in rows], dtype=np.int64), 0)


def _at(place: str, path: str, cls: str) -> str:
    _, *between, file = path.split("/")
    folder = "/".join(between)
    rest = f"{folder}/{file}" if folder else file
    return place.format_map({"rest": rest, "file": file, "folder": folder, "class": cls})


def _refuse(name: str, one: ImageList, missing: Sequence[str], where: str) -> None:
    """Raise if images of a list are missing.

    Raises:
        MissingDataError: they are.
    """
    if missing:
        count = " ".join(filter(None, [f"found {one.count - len(missing):,}", where]))
        raise MissingDataError(
            f"{name}: {one.count:,} images expected, those of list {one.name} "
            f"({one.sha256[:12]}…), {count}: {len(missing):,} missing or changed, first "
            f"{missing[0]}. What a list defines is scored whole or not at all: get the set again "
            f"below {files.data_dir()}."
        )
