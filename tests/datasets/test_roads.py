"""Street scenes: each dataset in the layout in which it is published, in miniature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import oodbench
from oodbench import DatasetSpec, Hardware, files, get_benchmark
from oodbench.data.samples import OOD, VOID, MaskedSamples
from oodbench.dataset import resolve_dataset
from oodbench.datasets.roads import (
    CITYSCAPES,
    FISHYSCAPES,
    LOST_AND_FOUND,
    ROAD_ANOMALY,
    STREETHAZARDS,
    STREETHAZARDS_OBJECTS,
    MaskFiles,
)
from oodbench.errors import DataError, MissingDataError, OptionError
from oodbench.tasks.pixels import segment

Array = np.ndarray[Any, np.dtype[Any]]
CPU = Hardware(accelerator="cpu")

# ids of the classes that Cityscapes is evaluated on, in the order of its train ids
TRAINED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

CITY = "aachen_000000_000019"
LAF = "04_Maurener_Weg_8_000000_000030"
LAF_TEST = "02_Hanns_Klemm_Str_44_000001_000200"


def save(relative: str, pixels: Array) -> Path:
    path = files.data_dir() / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, lossless=True)  # for .webp
    return path


def photograph(seed: int, shape: tuple[int, int] = (2, 8)) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def mask_of(values: Sequence[int]) -> Array:
    """A mask ``[2, n / 2]`` of values."""
    return np.array(values, np.uint8).reshape(2, -1)


def cityscapes(split: str, frame: str = CITY, values: Sequence[int] = range(16)) -> Path:
    mask = mask_of(values)
    town = frame.partition("_")[0]
    image = f"cityscapes/leftImg8bit/{split}/{town}/{frame}_leftImg8bit.png"
    truth = f"cityscapes/gtFine/{split}/{town}/{frame}_gtFine"
    save(image, photograph(len(frame) + len(split), mask.shape))
    # what comes with it, and must not be taken for the mask
    save(f"{truth}_color.png", photograph(0, mask.shape))
    save(f"{truth}_instanceIds.png", mask.astype(np.uint16) * 1000)
    save(f"{truth}_labelTrainIds.png", np.full(mask.shape, 3, np.uint8))
    return save(f"{truth}_labelIds.png", mask)


def lost_and_found(split: str, frame: str = LAF, values: Sequence[int] = range(16)) -> Path:
    mask = mask_of(values)
    place = frame.rsplit("_", 2)[0]
    save(
        f"lostandfound/leftImg8bit/{split}/{place}/{frame}_leftImg8bit.png",
        photograph(len(frame), mask.shape),
    )
    truth = f"lostandfound/gtCoarse/{split}/{place}/{frame}_gtCoarse"
    save(f"{truth}_labelTrainIds.png", np.zeros(mask.shape, np.uint8))
    return save(f"{truth}_labelIds.png", mask)


def fishyscapes(number: int, frame: str, values: Sequence[int] = (0, 1, 255, 0)) -> Path:
    return save(f"fishyscapes_lostandfound/{number:04}_{frame}_labels.png", mask_of(values))


def road_anomaly(
    stem: str, values: Sequence[int] = (0, 1, 2, 3), suffix: str = ".webp", seed: int = 0
) -> Path:
    mask = mask_of(values)
    save(f"RoadAnomaly/frames/{stem}{suffix}", photograph(seed, mask.shape))
    save(f"RoadAnomaly/frames/{stem}.labels/labels_semantic_color.png", photograph(1, mask.shape))
    return save(f"RoadAnomaly/frames/{stem}.labels/labels_semantic.png", mask)


def streethazards(
    archive: str, folder: str, town: str, number: int, values: Sequence[int] = range(16)
) -> Path:
    mask = mask_of(values)
    save(
        f"streethazards/{archive}/images/{folder}/{town}/{number}.png",
        photograph(100 + number, mask.shape),
    )
    return save(f"streethazards/{archive}/annotations/{folder}/{town}/{number}.png", mask)


def load(spec: DatasetSpec, split: str = "test") -> MaskedSamples:
    samples = spec.load(split)
    assert isinstance(samples, MaskedSamples)
    return samples


def values_of(samples: MaskedSamples, index: int = 0) -> list[int]:
    mask = samples.mask(index)
    assert mask.dtype == np.uint8
    assert mask.shape == (samples[index].height, samples[index].width)
    return mask.flatten().tolist()


# --- layouts and labels -----------------------------------------------------------------------


def test_cityscapes() -> None:
    known = [*range(34), 254, 255]
    cityscapes("train", values=known)
    cityscapes("train", "zurich_000000_000019")
    cityscapes("val", "munster_000000_000019", values=TRAINED[:4])
    cityscapes("test", "berlin_000000_000019", values=[0] * 4)  # its masks are not public
    train, test = load(CITYSCAPES, "train"), load(CITYSCAPES)
    assert (len(train), len(test)) == (2, 1)
    expected = [TRAINED.index(value) if value in TRAINED else VOID for value in known]
    assert values_of(train) == expected
    assert values_of(test) == [0, 1, 2, 3], "the public val split"
    assert len(train.classes) == 19
    assert (train.classes[0], train.classes[13], train.classes[18]) == ("road", "car", "bicycle")
    assert train.labels.tolist() == [0, 0]
    pixels = photograph(len(CITY) + len("train"), (2, 18))
    assert np.array_equal(np.asarray(train[0]), pixels)
    assert not train.in_memory


def test_lost_and_found() -> None:
    known = range(256)
    lost_and_found("test", LAF_TEST, values=known)
    lost_and_found("train")
    test = load(LOST_AND_FOUND)
    assert len(test) == 1
    found = values_of(test)
    no_hazard = {31, 33, 34, 36, 37, 38, 39}
    for value in known:
        is_object = 2 <= value <= 43 and value not in no_hazard
        assert found[value] == (0 if value == 1 else OOD if is_object else VOID), value
    assert len(load(LOST_AND_FOUND, "train")) == 1


def test_fishyscapes_has_images_of_lost_and_found() -> None:
    """Of both of its splits; in the order of the masks, with their own meaning."""
    lost_and_found("train", LAF, values=[1] * 4)
    lost_and_found("train", "05_Other_000000_000010", values=[1] * 6)
    lost_and_found("test", LAF_TEST, values=[1] * 4)
    fishyscapes(0, LAF_TEST, (0, 1, 255, 0))
    fishyscapes(1, LAF, (1, 1, 0, 7))
    samples = load(FISHYSCAPES)
    assert len(samples) == 2
    assert values_of(samples, 0) == [0, OOD, VOID, 0]
    assert values_of(samples, 1) == [OOD, OOD, 0, VOID]
    assert np.array_equal(np.asarray(samples[0]), photograph(len(LAF_TEST), (2, 2)))
    assert np.array_equal(np.asarray(samples[1]), photograph(len(LAF), (2, 2)))


def test_road_anomaly() -> None:
    road_anomaly("animals01_a", (0, 1, 2, 3), ".webp", seed=1)
    road_anomaly("tunnel_07.b", (2, 2, 0, 255), ".jpg", seed=2)
    samples = load(ROAD_ANOMALY)
    assert len(samples) == 2
    assert values_of(samples, 0) == [0, 0, OOD, VOID]
    assert values_of(samples, 1) == [OOD, OOD, 0, VOID]
    assert np.array_equal(np.asarray(samples[0]), photograph(1, (2, 2)))


def test_streethazards() -> None:
    streethazards("train", "training", "t1-3", 0)
    streethazards("train", "training", "t1-3", 1)
    streethazards("train", "validation", "t4", 0, values=[1, 2, 13, 14])
    streethazards("test", "test", "t5", 0, values=[14, 14, 8, 0])
    train, test = load(STREETHAZARDS, "train"), load(STREETHAZARDS)
    objects = load(STREETHAZARDS_OBJECTS)
    assert (len(train), len(test), len(objects)) == (2, 1, 1)
    assert values_of(train) == [VOID, *range(13), OOD, VOID]
    assert values_of(test) == [0, 1, 12, OOD]
    assert values_of(objects) == [OOD, OOD, 7, VOID]
    assert train.classes[7] == "road"
    assert len(train.classes) == 13


def test_masks_with_a_palette_are_their_values() -> None:
    path = lost_and_found("test", LAF_TEST, (0, 1, 2, 1))
    image = Image.fromarray(mask_of((0, 1, 2, 1)))
    palette = Image.new("P", image.size)
    palette.putdata([0, 1, 2, 1])
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 200])
    palette.save(path)
    with Image.open(path) as saved:
        assert saved.mode == "P"
    assert values_of(load(LOST_AND_FOUND)) == [VOID, 0, OOD, 0]


@pytest.mark.parametrize(
    "spec", [CITYSCAPES, LOST_AND_FOUND, FISHYSCAPES, ROAD_ANOMALY, STREETHAZARDS]
)
def test_known_by_name(spec: DatasetSpec) -> None:
    assert resolve_dataset(spec.name) is spec


# --- what is missing or damaged ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "folder", "archive"),
    [
        (CITYSCAPES, "cityscapes", "gtFine_trainvaltest.zip"),
        (LOST_AND_FOUND, "lostandfound", "gtCoarse.zip"),
        (FISHYSCAPES, "", "fishyscapes_lostandfound.zip"),
        (ROAD_ANOMALY, "RoadAnomaly", "RoadAnomaly.zip"),
        (STREETHAZARDS, "streethazards", "streethazards_train.tar"),
        (STREETHAZARDS_OBJECTS, "streethazards", "streethazards_test.tar"),
    ],
)
def test_missing_data(spec: DatasetSpec, folder: str, archive: str) -> None:
    """No folder, and a folder that has nothing of it: where it belongs and where to get it."""
    for _ in range(2):
        with pytest.raises(MissingDataError) as error:
            spec.load("test")
        message = str(error.value)
        assert message.startswith(f"{spec.name}: no test images with masks")
        assert str(files.data_dir() / folder) in message
        assert archive in message
        assert "OODBENCH_DATA" in message
        (files.data_dir() / folder / "leftImg8bit").mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize(
    ("spec", "make"),
    [
        (CITYSCAPES, lambda frame: cityscapes("val", f"munster_{frame}")),
        (LOST_AND_FOUND, lambda frame: lost_and_found("test", f"02_Hanns_{frame}")),
        (STREETHAZARDS, lambda frame: streethazards("train", "validation", "t4", int(frame[-1]))),
        (STREETHAZARDS_OBJECTS, lambda frame: streethazards("test", "test", "t5", int(frame[-1]))),
    ],
)
def test_an_image_without_a_mask(spec: DatasetSpec, make: Callable[[str], Path]) -> None:
    masks = [make(f"000000_00000{i}") for i in range(3)]
    assert len(spec.load("test")) == 3
    masks[1].unlink()
    with pytest.raises(DataError, match="1 of 3 images") as error:
        spec.load("test")
    assert str(masks[1]) in str(error.value)


def test_fishyscapes_without_its_images() -> None:
    fishyscapes(0, LAF)
    fishyscapes(1, LAF_TEST)
    lost_and_found("test", LAF_TEST)
    with pytest.raises(DataError, match="1 of 2 images") as error:
        FISHYSCAPES.load("test")
    assert f"{LAF}_leftImg8bit.png" in str(error.value)
    assert str(files.data_dir() / "lostandfound" / "leftImg8bit") in str(error.value)


def test_road_anomaly_without_an_image_or_a_mask() -> None:
    mask = road_anomaly("horse")
    mask.unlink()
    with pytest.raises(DataError, match=r"lacks .*horse\.labels/labels_semantic\.png"):
        ROAD_ANOMALY.load("test")
    (files.data_dir() / "RoadAnomaly/frames/horse.webp").unlink()
    with pytest.raises(DataError, match=r"lacks .*frames/horse\.webp"):
        ROAD_ANOMALY.load("test")


@pytest.mark.parametrize("shape", [(2, 8, 3), (2, 8, 4)])
def test_a_mask_of_colours_is_refused(shape: tuple[int, ...]) -> None:
    path = cityscapes("train")
    Image.fromarray(np.zeros(shape, np.uint8)).save(path)
    with pytest.raises(DataError, match="not the one with colours") as error:
        load(CITYSCAPES, "train").mask(0)
    assert str(path) in str(error.value)


def test_a_mask_of_16_bits_is_refused() -> None:
    path = cityscapes("train")
    Image.fromarray(np.full((2, 8), 7000, np.uint16)).save(path)
    with pytest.raises(DataError, match="8-bit") as error:
        load(CITYSCAPES, "train").mask(0)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("mode", ["1", "LA", "RGB", "I;16", "F"])
def test_a_mask_of_another_mode_is_refused(mode: str) -> None:
    path = cityscapes("train")
    image = Image.fromarray(np.full((2, 8), 7, np.uint8))
    if mode == "F":
        path.unlink()
        image.convert("F").save(path, format="TIFF")
    else:
        image.convert(mode).save(path)
    with pytest.raises(DataError, match="8-bit") as error:
        load(CITYSCAPES, "train").mask(0)
    assert str(path) in str(error.value)


def test_a_damaged_mask_is_named() -> None:
    path = cityscapes("train")
    path.write_bytes(path.read_bytes()[:40])
    samples = load(CITYSCAPES, "train")
    with pytest.raises(DataError, match="damaged") as error:
        samples.mask(0)
    assert str(path) in str(error.value)
    assert samples[0].size == (8, 2), "the image is whole"


@pytest.mark.parametrize(
    ("spec", "split"),
    [
        (CITYSCAPES, "val"),  # is what is tested on
        (STREETHAZARDS, "val"),
        (LOST_AND_FOUND, "val"),
        (ROAD_ANOMALY, "train"),
        (FISHYSCAPES, "train"),
    ],
)
def test_a_split_that_there_is_not(spec: DatasetSpec, split: str) -> None:
    cityscapes("val", "munster_000000_000019")
    with pytest.raises(OptionError, match=f"{spec.name} has the splits .*, not '{split}'"):
        spec.load(split)


# --- fingerprints -----------------------------------------------------------------------------


def test_fingerprint_is_of_images_and_masks() -> None:
    path = lost_and_found("test", LAF_TEST, (1, 1, 2, 2))
    lost_and_found("test", "03_Other_000000_000010", (1, 1, 2, 2))
    first = load(LOST_AND_FOUND)
    assert load(LOST_AND_FOUND).fingerprint == first.fingerprint
    save(path.relative_to(files.data_dir()).as_posix(), mask_of((1, 1, 2, 1)))
    masked = load(LOST_AND_FOUND)
    assert masked.fingerprint != first.fingerprint
    assert (masked.digests != first.digests).tolist() == [True, False]
    image = path.as_posix().replace("gtCoarse/", "leftImg8bit/").replace("gtCoarse", "leftImg8bit")
    image = image.replace("_labelIds", "")
    assert Path(image).is_file()
    Image.fromarray(photograph(77, (2, 2))).save(image)
    assert load(LOST_AND_FOUND).fingerprint not in (first.fingerprint, masked.fingerprint)


def test_fingerprint_is_of_what_the_values_mean() -> None:
    root = lost_and_found("test", LAF_TEST, (1, 1, 2, 2)).parents[3]
    pair = [
        (path.relative_to(root).as_posix(), mask.relative_to(root).as_posix())
        for path, mask in zip(
            root.rglob("*_leftImg8bit.png"), root.rglob("*_labelIds.png"), strict=True
        )
    ]
    table = np.zeros(256, np.uint8)
    other = table.copy()
    other[2] = OOD
    first, second = (MaskFiles("a", root, pair, one, ("a",)) for one in (table, other))
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint == MaskFiles("b", root, pair, table.copy(), ("a",)).fingerprint


# --- benchmarks -------------------------------------------------------------------------------


class Nineteen(nn.Module):
    """Logits of 19 classes that depend on the pixel's colour."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(3, 19, 1)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.mix(images)}

    def head(self) -> None:
        return None


def test_cityscapes_benchmark_with_what_is_there() -> None:
    benchmark = get_benchmark("cityscapes", task="segmentation")
    assert [chosen.spec.name for chosen in benchmark.ood] == [
        "fishyscapes-laf",
        "lostandfound",
        "roadanomaly",
    ]
    with pytest.raises(MissingDataError, match="cityscapes: no test images"):
        oodbench.evaluate(
            Nineteen(), benchmark=benchmark, detectors="msp", hardware=CPU, preprocess="benchmark"
        )
    cityscapes("val", "munster_000000_000019", values=[7, 8, 11, 0])
    lost_and_found("test", LAF_TEST, values=[0, 1, 1, 2, 31, 43])
    results = oodbench.evaluate(
        Nineteen(), benchmark=benchmark, detectors="msp", hardware=CPU, preprocess="benchmark"
    )
    assert set(results.missing) == {"fishyscapes-laf", "roadanomaly"}
    rows = {row["ood"]: row for row in results}
    assert set(rows) == {"lostandfound", "near(lostandfound)"}, "no whole group"
    assert (rows["lostandfound"]["n_id"], rows["lostandfound"]["n_ood"]) == (2, 2)


def test_streethazards_benchmark() -> None:
    benchmark = get_benchmark("streethazards", task="segmentation")
    assert [(c.spec.name, c.group) for c in benchmark.ood] == [("streethazards-objects", "near")]
    assert benchmark.id.splits == ("train", "test")


def test_an_image_of_another_size_than_its_mask_is_named() -> None:
    cityscapes("val", "munster_000000_000018")
    path = cityscapes("val", "munster_000000_000019")
    Image.fromarray(np.zeros((2, 4), np.uint8)).save(path)
    preprocess = get_benchmark("cityscapes", task="segmentation").preprocess
    with pytest.raises(DataError, match=r"cityscapes/test, image 1: .* 2 x 8 .* 2 x 4") as e:
        list(segment(Nineteen(), load(CITYSCAPES), preprocess, CPU))
    assert str(path) in str(e.value)
