"""Small copies of the sets of transfer learning."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from timm.data import ImageNetInfo

from oodbench import files
from oodbench.data.samples import Samples
from oodbench.dataset import resolve_dataset
from oodbench.datasets.imagenet import OVERLAP
from oodbench.datasets.transfer import TEN
from tests.conftest import write_images


def load(name: str, split: str = "test") -> Samples:
    return resolve_dataset(name).load(split)


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(str(path).encode()))
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return path


def contents(samples: Samples) -> set[tuple[int, bytes]]:
    """Of each image, its label and what it shows, whatever file holds it."""
    found = {(int(samples.labels[i]), samples[i].tobytes()) for i in range(len(samples))}
    assert len(found) == len(samples)
    return found


def splits(name: str, counts: dict[str, list[int]]) -> dict[str, set[tuple[int, bytes]]]:
    """Contents of splits that have so many images of each class."""
    found = {}
    for split, expected in counts.items():
        samples = load(name, split)
        assert samples.name == f"{name}/{split}"
        assert np.bincount(samples.labels).tolist() == expected
        found[split] = contents(samples)
    return found


def reorder(root: Path) -> None:
    for path in sorted(root.rglob("*.png")):
        path.rename(path.with_name(f"image{999 - int(path.stem)}.png"))


def textures() -> Path:
    return write_images(files.data_dir() / "textures10" / "test", dict.fromkeys(TEN, 40), size=8)


CLASSES = {
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "cifar100": """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy
        bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud
        cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl
        hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
        motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
        pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal
        shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper
        table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
        willow_tree wolf woman worm""",
    "dtd": """banded blotchy braided bubbly bumpy chequered cobwebbed cracked crosshatched
        crystalline dotted fibrous flecked freckled frilly gauzy grid grooved honeycombed interlaced
        knitted lacelike lined marbled matted meshed paisley perforated pitted pleated polka-dotted
        porous potholed scaly smeared spiralled sprinkled stained stratified striped studded swirly
        veined waffled woven wrinkled zigzagged""",
}

INFO = ImageNetInfo("imagenet-1k")

IMAGENET = dict(zip(INFO.label_names(), INFO.label_descriptions(), strict=True))

PARTS = {"cifar10-small": ("cifar10", None), "textures10": ("dtd", TEN)}

HEADER, *ROWS = (row.split("\t") for row in OVERLAP.read_text(encoding="utf-8").splitlines())


def ids(name: str, label: str | None = None) -> set[str]:
    """WordNet ids that the table has for an ID set, or for one of its classes."""
    name, classes = PARTS.get(name, (name, None))
    rows = [row for row in ROWS if row[0] == name and label in (None, row[1])]
    return {row[2] for row in rows if classes is None or row[1] in classes}
