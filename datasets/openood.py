"""OpenOOD v1.5's benchmarks, by its lists: CIFAR-10, CIFAR-100, ImageNet-200, ImageNet-1k.

Paper: J. Zhang et al., "OpenOOD v1.5: Enhanced Benchmark for Out-of-Distribution Detection",
arXiv:2306.09301; full spectrum: J. Yang et al., "Full-Spectrum Out-of-Distribution Detection",
IJCV 2023, arXiv:2204.05306
Code:  Jingkang50/OpenOOD (``openood/evaluation_api``); written anew

ID ``val`` and ``test`` and every OOD set are those of the lists (``datasets/imglists.py``), options
are chosen on the lists for validation, and the short side is resized before a central crop. With
``/full-spectrum`` the covariate-shifted sets count as ID: OOD sets are compared with the ID test
set and them together. CIFAR-100 has no such set there.

Differs from OpenOOD: (1) ``train`` is the whole official training split; for ImageNet its list
could not be read; (2) the list of ImageNet-ES could not be read either: it is taken from the data
folder, as ``benchmark_imglist/imagenet/test_imagenet_es.txt``, and its digest is in the set's
fingerprint; (3) with ImageNet-1k a pre-trained network sees images as it was trained to, and the
row says how, where OpenOOD gives all the same 256 and 224 pixels; (4) MNIST and SVHN are JPEG files
in OpenOOD's release, and only these are taken: the publishers' own images are others.
ImageNet-C's images are neither resized nor cropped, as in OpenOOD; a network of another size than
224 sees them resized whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from oodbench import files
from oodbench.benchmark import Benchmark, Protocol
from oodbench.data.content import Content
from oodbench.data.samples import ImageFiles, Samples
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.download.described import Download
from oodbench.errors import MissingDataError

from . import _sources
from ._bounds import bounded
from .cifar import CIFAR10, CIFAR10_CROPPED, CIFAR100, CIFAR100_CROPPED, OPENOOD
from .images import MNIST, PLACES365, SVHN, TEXTURES, TIN
from .imglists import LISTS, ImageList, Listed, listed_cifar, listed_files, own_list, published

YANG = "Yang et al. 2023, Full-Spectrum Out-of-Distribution Detection, IJCV, arXiv:2204.05306"
IMAGENET_PREPROCESS = Preprocess(
    224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize="crop", pre_size=256
)


def on_drive(folder: str) -> tuple[Download, ...]:
    """OpenOOD's archive of a folder, ``images_classic/tin``; none where it has none."""
    return tuple(one for one in _sources.OPENOOD.values() if one.target == folder)


def _how(folder: str) -> str:
    archive = on_drive(folder)
    where = f"{archive[0].source}, unpacked into {folder}" if archive else f"its files in {folder}"
    return f"OpenOOD's own archive ({where})"


def _listed(
    name: str,
    lists: str | dict[str, str],
    folder: str,
    classes: Callable[[], Sequence[str]] = lambda: ("all",),
    *,
    known: str = "",
    is_prepared: bool = False,
    **about: Any,
) -> DatasetSpec:
    """A dataset of files that lists name, one for each split, or one for ``test``."""
    by_split = {"test": lists} if isinstance(lists, str) else lists

    def load(split: str) -> Samples:
        return listed_files(
            f"{name}/{split}",
            published(by_split[split]),
            classes(),
            _how(folder),
            known=known,
            is_prepared=is_prepared,
        )

    contents = {split: Content(LISTS[one][0]) for split, one in by_split.items()}
    about.setdefault("downloads", on_drive(folder))
    return DatasetSpec(name, load, tuple(by_split), contents=contents, **about)


def _like(spec: DatasetSpec, lists: str | dict[str, str], folder: str, **how: Any) -> DatasetSpec:
    """A known dataset, of which the images are those of a list."""
    name = how.pop("name", spec.name)
    count = sum(LISTS[one][0] for one in ([lists] if isinstance(lists, str) else lists.values()))
    return _listed(
        name,
        lists,
        folder,
        description=f"{spec.description.partition(',')[0]}, {count:,} images by OpenOOD's list",
        source=spec.source,
        licence=spec.licence,
        citation=spec.citation,
        **how,
    )


# CIFAR


def _cifar_id(spec: DatasetSpec) -> DatasetSpec:
    """An ID set with ``val`` and ``test`` of OpenOOD's lists, and the whole training split."""
    name = spec.name

    def load(split: str) -> Samples:
        if split == "train":
            whole = spec.load("train")
            rows, digest = np.arange(len(whole)), LISTS[f"{name}/train_{name}.txt"][1]
            # images are told by their pixels in all splits, so that common ones are found
            return Listed(
                whole, rows, whole.name, whole.labels, whole.classes, digest, by_pixels=True
            )
        return _cifar_part(spec, name, f"{name}/openood/{split}", f"{name}/{split}_{name}.txt")

    counts = {split: LISTS[f"{name}/{split}_{name}.txt"][0] for split in spec.splits}
    return replace(
        spec,
        load=load,
        contents={split: Content(count) for split, count in counts.items()},
        description=f"{spec.description}; 1,000 test images are for validation, by OpenOOD's list",
    )


def _cifar_part(spec: DatasetSpec, official: str, name: str, one: str) -> Samples:
    try:
        whole = spec.load("test")
    except MissingDataError as error:
        raise MissingDataError(f"{name} is a part of the test split. {error}") from error
    is_id = one.endswith(f"_{official}.txt") and one.startswith(f"{official}/")
    classes = sorted(whole.classes) if is_id else ("all",)
    return listed_cifar(name, published(one), whole, official, classes)


def _cifar_ood(spec: DatasetSpec, one: str) -> DatasetSpec:
    """The test images of the other CIFAR that a list names."""
    name, count = spec.name, LISTS[one][0]

    def load(split: str) -> Samples:
        return _cifar_part(spec, name, f"{name}/{split}", one)

    return replace(
        spec,
        load=load,
        splits=("test",),
        contents={"test": Content(count)},
        description=f"{spec.description}, {count:,} test images by OpenOOD's list",
    )


def _cifar(id_set: DatasetSpec, other: DatasetSpec, preprocess: Preprocess) -> Benchmark:
    name = id_set.name

    def of(spec: DatasetSpec, folder: str, listed: str) -> DatasetSpec:
        return _like(spec, f"{name}/test_{listed}.txt", f"images_classic/{folder}")

    tin = f"{name}/test_tin.txt"
    return Benchmark(
        name=f"{name}/openood",
        version=2,
        id=_cifar_id(id_set),
        near=(
            _cifar_ood(other, f"{name}/test_{other.name}.txt"),
            _like(TIN, tin, "images_classic/tin", known="tin"),
        ),
        far=(
            of(MNIST, "mnist", "mnist"),
            of(SVHN, "svhn", "svhn"),
            of(TEXTURES, "texture", "texture"),
            of(PLACES365, "places365", "places365"),
        ),
        preprocess=preprocess,
        protocol=bounded(Protocol(fpr="fpr95_ood", seeds=3), id_set.name),
        citation=OPENOOD,
        validation=(
            _like(
                TIN,
                {"val": f"{name}/val_tin.txt"},
                "images_classic/tin",
                name="tin-validation",
                known="tin",
            ),
        ),
    )


CIFAR10_C = _listed(
    "cifar10-c",
    "cifar10/test_cifar10c.txt",
    "images_classic/cifar10c",
    lambda: sorted(
        {path.split("/")[2] for path, _ in published("cifar10/test_cifar10.txt").rows()}
    ),
    description="CIFAR-10's test images, each corrupted in one way, 10,000 by OpenOOD's list",
    source="https://zenodo.org/record/2535967",
    licence="CC BY 4.0",
    citation="Hendrycks and Dietterich 2019, Robustness to Common Corruptions, ICLR",
)


def cifar10_openood() -> Benchmark:
    """CIFAR-10 as in OpenOOD v1.5, by its lists: 9,000 ID test images, near and far OOD sets."""
    return _cifar(CIFAR10, CIFAR100, CIFAR10_CROPPED)


def cifar100_openood() -> Benchmark:
    """CIFAR-100 as in OpenOOD v1.5, by its lists: 9,000 ID test images, near and far OOD sets."""
    return _cifar(CIFAR100, CIFAR10, CIFAR100_CROPPED)


def cifar10_full_spectrum() -> Benchmark:
    """CIFAR-10 as in OpenOOD v1.5, with CIFAR-10-C counted as ID."""
    return _full_spectrum(cifar10_openood(), (CIFAR10_C,))


def _full_spectrum(benchmark: Benchmark, shifted: tuple[DatasetSpec, ...]) -> Benchmark:
    return replace(
        benchmark,
        name=f"{benchmark.id.name}/full-spectrum",
        version=1,
        shifted=shifted,
        protocol=replace(benchmark.protocol, full_spectrum=True),
        citation=f"{OPENOOD}; {YANG}",
    )


# ImageNet

_large = "images_largescale"


@cache
def wordnet_ids(id_name: str) -> tuple[str, ...]:
    """The WordNet ids of the classes of ``imagenet1k`` or ``imagenet200``, in order of labels."""
    if id_name == "imagenet200":  # ImageNet-R has its classes, in folders called by their ids
        rows = published("imagenet200/test_imagenet200_r.txt").rows()
        by_label = {label: path.split("/")[1] for path, label in rows}
        return tuple(by_label[label] for label in range(len(by_label)))
    from timm.data.imagenet_info import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


_TRAIN = (
    "images_largescale/imagenet_1k/train",
    "imagenet/train",
    "imagenet/ILSVRC/Data/CLS-LOC/train",
    "ILSVRC2012/train",
)


def training_images(name: str, classes: Sequence[str]) -> ImageFiles:
    """ImageNet's training images of some classes, each a folder called by its WordNet id.

    Raises:
        MissingDataError: no folder of them, or a class without images.
    """
    data = files.data_dir()
    root = next((data / place for place in _TRAIN if (data / place).is_dir()), None)
    if root is None:
        raise MissingDataError(
            f"{name}: no training images in {data} (OODBENCH_DATA; looked in {', '.join(_TRAIN)}). "
            "Get it: "
            "ILSVRC2012_img_train.tar of https://image-net.org, unpacked into one folder per class "
            "(<wordnet id>/*.JPEG)."
        )
    paths: list[str] = []
    labels: list[int] = []
    for label, wordnet_id in enumerate(classes):
        images = sorted(_images_in(root / wordnet_id))
        if not images:
            raise MissingDataError(
                f"{name}: no images in {root / wordnet_id}, the class {label}. Unpack "
                f"ILSVRC2012_img_train.tar again, one folder per class."
            )
        paths += [f"{wordnet_id}/{image}" for image in images]
        labels += [label] * len(images)
    return ImageFiles(name, root, paths, labels, classes)


def _images_in(folder: os.PathLike[str]) -> Iterable[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.name.lower().endswith(".jpeg")]
    except FileNotFoundError:
        return []


def _imagenet_id(name: str, folder: str, count: int | None, *, description: str) -> DatasetSpec:
    ids = "imagenet" if folder == "imagenet" else name
    lists = {split: f"{folder}/{split}_{ids}.txt" for split in ("val", "test")}

    def classes() -> tuple[str, ...]:
        return wordnet_ids(name)

    listed = _listed(
        name,
        lists,
        "images_largescale/imagenet_1k",
        classes,
        description=description,
        source="https://image-net.org",
        licence="non-commercial research",
        citation="Deng et al. 2009, ImageNet: A Large-Scale Hierarchical Image Database, CVPR",
        downloads=(
            *(replace(one, splits=("val", "test")) for one in on_drive(f"{_large}/imagenet_1k")),
            *_sources.imagenet_validation(("val", "test")),
            *_sources.IMAGENET_TRAIN,
        ),
    )

    def load(split: str) -> Samples:
        is_train = split == "train"
        return training_images(f"{name}/train", classes()) if is_train else listed.load(split)

    contents = {**listed.contents, **({"train": Content(count)} if count else {})}
    return replace(listed, load=load, splits=("train", "val", "test"), contents=contents)


IMAGENET1K = _imagenet_id(
    "imagenet1k",
    "imagenet",
    1_281_167,
    description="1,000 classes of photographs, tested on 45,000 by OpenOOD's list",
)
IMAGENET200 = _imagenet_id(
    "imagenet200",
    "imagenet200",
    None,
    description="200 classes of ImageNet's photographs, tested on 9,000 by OpenOOD's list",
)

SSB_HARD = _listed(
    "ssb-hard",
    "imagenet/test_ssb_hard.txt",
    f"{_large}/ssb_hard",
    description="980 classes of ImageNet-21k that are near those of ImageNet-1k, 49,000 images",
    source="https://github.com/sgvaze/SSB",
    licence="non-commercial research",
    citation="Vaze et al. 2022, Open-Set Recognition: a Good Closed-Set Classifier is All You Need",
)
NINCO = _listed(
    "ninco",
    "imagenet/test_ninco.txt",
    f"{_large}/ninco",
    description="64 classes without any object of ImageNet-1k's classes, checked one by one, 5,879",
    source="https://zenodo.org/record/8013288",
    licence="see source",
    citation="Bitterwolf et al. 2023, In or Out? Fixing ImageNet OOD Detection Evaluation, ICML",
)
INATURALIST = _listed(
    "inaturalist",
    "imagenet/test_inaturalist.txt",
    f"{_large}/inaturalist",
    description="plants of 110 classes of iNaturalist that ImageNet-1k lacks, 10,000 images",
    source="http://pages.cs.wisc.edu/~huangrui/imagenet_ood_dataset/iNaturalist.tar.gz",
    licence="see source",
    citation="Huang and Li 2021, MOS, CVPR",
    downloads=(*on_drive(f"{_large}/inaturalist"), _sources.of_mos("iNaturalist")),
)
OPENIMAGE_O = _listed(
    "openimage-o",
    {"val": "imagenet/val_openimage_o.txt", "test": "imagenet/test_openimage_o.txt"},
    f"{_large}/openimage_o",
    description="images of OpenImages without ImageNet-1k's classes, picked one by one, 15,869",
    source="https://github.com/haoqiwang/vim",
    licence="CC BY 4.0",
    citation="Wang et al. 2022, ViM: Out-of-Distribution with Virtual-logit Matching, CVPR",
)
OPENIMAGE_O_VALIDATION = replace(
    OPENIMAGE_O,
    name="openimage-o-validation",
    splits=("val",),
    description="the images of OpenImage-O that OpenOOD chooses options on, 1,763",
)
TEXTURES_5160 = _like(
    TEXTURES, "imagenet/test_textures.txt", "images_classic/texture", name="textures"
)


def _shifted(
    name: str, folder: str, listed: str, about: str, **more: Any
) -> dict[str, DatasetSpec]:
    """A covariate-shifted set with the classes of ImageNet-1k, and one with those of 200."""
    places = {"imagenet1k": "imagenet/test_imagenet", "imagenet200": "imagenet200/test_imagenet200"}
    specs = {}
    for id_name, start in places.items():
        one = f"{start}_{listed}.txt"
        specs[id_name] = _listed(
            name,
            one,
            f"{_large}/{folder}",
            partial(wordnet_ids, id_name),
            description=f"{about}, {LISTS[one][0]:,} images by OpenOOD's list",
            **more,
        )
    return specs


IMAGENET_V2 = _shifted(
    "imagenet-v2",
    "imagenet_v2",
    "v2",
    "new photographs of ImageNet's classes",
    source="https://github.com/modestyachts/ImageNetV2",
    licence="MIT",
    citation="Recht et al. 2019, Do ImageNet Classifiers Generalize to ImageNet?, ICML",
)
IMAGENET_C = _shifted(
    "imagenet-c",
    "imagenet_c",
    "c",
    "ImageNet's validation images, each corrupted in one way",
    is_prepared=True,
    source="https://zenodo.org/record/2235448",
    licence="CC BY 4.0",
    citation="Hendrycks and Dietterich 2019, Robustness to Common Corruptions, ICLR",
)
IMAGENET_R = _shifted(
    "imagenet-r",
    "imagenet_r",
    "r",
    "drawings and other renditions of 200 of ImageNet's classes",
    source="https://github.com/hendrycks/imagenet-r",
    licence="MIT",
    citation="Hendrycks et al. 2021, The Many Faces of Robustness, ICCV",
)
_ES_LIST = "benchmark_imglist/imagenet/test_imagenet_es.txt"


def _load_es(split: str) -> Samples:
    path = files.data_dir() / _ES_LIST
    if not path.is_file():
        raise MissingDataError(
            f"imagenet-es: there is no list {path} (OODBENCH_DATA). Get it: "
            "benchmark_imglist.zip of OpenOOD (https://github.com/Jingkang50/OpenOOD), unpacked "
            "there, and "
            f"{_how(f'{_large}/imagenet_es')}."
        )
    one: ImageList = own_list(path)
    classes = wordnet_ids("imagenet1k")
    return listed_files(f"imagenet-es/{split}", one, classes, _how(f"{_large}/imagenet_es"))


IMAGENET_ES = DatasetSpec(
    "imagenet-es",
    _load_es,
    description="ImageNet's images, photographed again under other light and camera settings",
    source="https://github.com/Edw2n/ImageNet-ES",
    licence="see source",
    citation="Baek et al. 2024, Unexplored Faces of Robustness and OOD, CVPR",
    downloads=on_drive(f"{_large}/imagenet_es"),
)

OVERLAP = (
    "OOD images may show classes of ImageNet-1k. In samples of each set, drawn at random, "
    "Bitterwolf et al. 2023 (arXiv:2306.00826, the authors' published annotations) found them in "
    "{found}; a detector that calls these ID is counted as wrong."
)
FOUND = {
    "inaturalist": "10 of 400 images of iNaturalist (2.5 %)",
    "places": "227 of 410 of Places (55 %)",
    "textures": "99 of 400 of Textures (25 %)",
    "openimage-o": "19 of 400 of OpenImage-O (5 %)",
}
"""What ``data/cleaning_annotations`` of j-cb/NINCO counts as "i", by OOD set."""


def warn_of_overlap(*names: str, more: str = "") -> Callable[[Samples], list[str]]:
    """The warning of ImageNet classes in some OOD sets, for :attr:`Benchmark.caveats`."""
    text = OVERLAP.format(found=", ".join(FOUND[name] for name in names)) + more
    return lambda _: [text]


def _imagenet(id_set: DatasetSpec, *, own_inputs: bool) -> Benchmark:
    return Benchmark(
        name=f"{id_set.name}/openood",
        id=id_set,
        near=(SSB_HARD, NINCO),
        far=(INATURALIST, TEXTURES_5160, OPENIMAGE_O),
        preprocess=IMAGENET_PREPROCESS,
        protocol=bounded(Protocol(fpr="fpr95_ood", seeds=1 if own_inputs else 3), id_set.name),
        backbone="resnet18",
        citation=OPENOOD,
        validation=(OPENIMAGE_O_VALIDATION,),
        own_inputs=own_inputs,
        caveats=warn_of_overlap(
            "inaturalist",
            "openimage-o",
            "textures",
            more=" The Textures here are 5,160 of the 5,640, from which such classes were taken "
            "out.",
        ),
    )


def imagenet1k_openood() -> Benchmark:
    """ImageNet-1k as in OpenOOD v1.5, by its lists; the default of ``imagenet1k``."""
    return _imagenet(IMAGENET1K, own_inputs=True)


def imagenet200_openood() -> Benchmark:
    """200 classes of ImageNet as in OpenOOD v1.5, by its lists; the default of ``imagenet200``."""
    return _imagenet(IMAGENET200, own_inputs=False)


def imagenet1k_full_spectrum() -> Benchmark:
    """ImageNet-1k as in OpenOOD v1.5, with ImageNet-V2, -C, -R and -ES counted as ID."""
    by_list = (IMAGENET_V2["imagenet1k"], IMAGENET_C["imagenet1k"], IMAGENET_R["imagenet1k"])
    return _full_spectrum(imagenet1k_openood(), (*by_list, IMAGENET_ES))


def imagenet200_full_spectrum() -> Benchmark:
    """200 classes of ImageNet as in OpenOOD v1.5, with ImageNet-V2, -C and -R counted as ID."""
    by_list = (IMAGENET_V2["imagenet200"], IMAGENET_C["imagenet200"], IMAGENET_R["imagenet200"])
    return _full_spectrum(imagenet200_openood(), by_list)


def imagenet1k_ssb_hard() -> Benchmark:
    """ImageNet-1k against SSB-hard alone."""
    return _alone(SSB_HARD)


def imagenet1k_ninco() -> Benchmark:
    """ImageNet-1k against NINCO alone."""
    return _alone(NINCO)


def _alone(spec: DatasetSpec) -> Benchmark:
    name = f"imagenet1k/{spec.name}"
    citation = spec.citation
    whole = imagenet1k_openood()
    return replace(
        whole,
        name=name,
        groups={"near": (spec,), "far": ()},
        citation=citation,
        caveats=None,
    )
