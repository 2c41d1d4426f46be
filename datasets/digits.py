"""The embedded default: scikit-learn's 8x8 digits and its two photographs; nothing to download.

ID: handwritten digits 0-5 (stratified train/val/test). Near-OOD: the digits 6-9 of the same
writers. Far-OOD: 8x8 patches of photographs. Trains on a CPU in seconds, so it shows that a method
works, not how good it is.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import train_test_split

from oodbench.benchmark import Benchmark, Protocol
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.errors import OptionError

from .validation import synthetic_ood

ID_CLASSES = tuple(str(digit) for digit in range(6))
OOD_CLASSES = tuple(str(digit) for digit in range(6, 10))
PATCH = 32
"""Side of the photograph patches before they are area-resized to 8x8, in pixels."""
CITATION = "Alpaydin and Kaynak 1998, UCI optical recognition of handwritten digits"


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """``[1797, 8, 8]`` uint8 (16 grey levels spread over 0-255) and ``[1797]`` labels."""
    data = load_digits()
    return np.rint(data.images * (255 / 16)).astype(np.uint8), data.target.astype(np.int64)


def _load_id(split: str) -> ImageArrays:
    images, labels = _digits()
    known = np.flatnonzero(labels < len(ID_CLASSES))
    fit, test = train_test_split(known, test_size=0.25, stratify=labels[known], random_state=0)
    train, val = train_test_split(fit, test_size=0.2, stratify=labels[fit], random_state=0)
    parts = {"train": train, "val": val, "test": test}
    if split not in parts:
        raise OptionError(f"digits has the splits {', '.join(parts)}, not {split!r}.")
    chosen = np.sort(parts[split])
    return ImageArrays(f"digits/{split}", images[chosen], labels[chosen], ID_CLASSES)


def _load_near(split: str) -> ImageArrays:
    images, labels = _digits()
    unseen = labels >= len(ID_CLASSES)
    return ImageArrays(
        f"digits-6-9/{split}", images[unseen], labels[unseen] - len(ID_CLASSES), OOD_CLASSES
    )


@cache
def _patches() -> tuple[np.ndarray, np.ndarray]:
    patches, labels = [], []
    for label, photograph in enumerate(load_sample_images().images):
        grey = Image.fromarray(photograph).convert("L")
        for top in range(0, grey.height - PATCH + 1, PATCH):
            for left in range(0, grey.width - PATCH + 1, PATCH):
                patch = grey.crop((left, top, left + PATCH, top + PATCH))
                patches.append(np.asarray(patch.resize((8, 8), Image.Resampling.BOX)))
                labels.append(label)
    return np.stack(patches), np.asarray(labels)


def _load_far(split: str) -> ImageArrays:
    return ImageArrays(f"photo-patches/{split}", *_patches(), ("china", "flower"))


DIGITS = DatasetSpec(
    name="digits",
    load=_load_id,
    splits=("train", "val", "test"),
    description="handwritten digits 0-5, 8x8 grey",
    source="sklearn.datasets.load_digits",
    licence="CC BY 4.0",
    citation=CITATION,
)
DIGITS_6_9 = DatasetSpec(
    name="digits-6-9",
    load=_load_near,
    description="handwritten digits 6-9, 8x8 grey",
    source="sklearn.datasets.load_digits",
    licence="CC BY 4.0",
    citation=CITATION,
)
PHOTO_PATCHES = DatasetSpec(
    name="photo-patches",
    load=_load_far,
    description="8x8 area-resized patches of two photographs",
    source="sklearn.datasets.load_sample_images",
    licence="CC BY 2.0",
    citation="scikit-learn; photographs by Yinan Chen (china) and Dan Lindsay (flower)",
)


def digits() -> Benchmark:
    """Digits 0-5 against 6-9 (near) and photograph patches (far); embedded, no download."""
    preprocess = Preprocess(8, (0.304,), (0.377,), mode="L", flip=False)
    return Benchmark(
        name="digits",
        id=DIGITS,
        near=(DIGITS_6_9,),
        far=(PHOTO_PATCHES,),
        preprocess=preprocess,
        protocol=Protocol(),
        backbone="digits-cnn",
        citation="oodbench",
        validation=(synthetic_ood(DIGITS, preprocess),),
    )
