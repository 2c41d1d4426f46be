"""Validation data: the same images whatever file holds them, and no test image among them."""

from __future__ import annotations

import dataclasses
import io
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import oodbench
from oodbench import DatasetSpec, Preprocess, files, get_benchmark
from oodbench.data.samples import ImageArrays, Samples, Subset, image_folder
from oodbench.datasets._find import ParquetImages
from oodbench.datasets.validation import Synthetic, held_out, kinds_of, pixel_digests, synthetic_ood
from oodbench.errors import MissingDataError, OptionError
from oodbench.results.store import page_name
from tests.conftest import write_images
from tests.helpers.attempts import Server

RGB = Preprocess(32, (0.5,) * 3, (0.5,) * 3)
GREY = Preprocess(8, (0.5,), (0.5,), mode="L")


def arrays(
    n: int = 60, classes: int = 3, seed: int = 0, shape: tuple[int, ...] = (16, 16, 3)
) -> ImageArrays:
    rng = np.random.default_rng(seed)
    # smooth, as photographs are: what changes them would not show on noise
    coarse = rng.integers(0, 256, (n, *(side // 4 if side > 3 else side for side in shape)))
    images = coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    return ImageArrays("toy/val", images, np.arange(n) % classes, [str(c) for c in range(classes)])


def as_files(samples: ImageArrays, root: Path, suffix: str = "png") -> Samples:
    for i, label in enumerate(samples.labels):
        folder = root / samples.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        # names in another order than the rows
        samples[i].save(folder / f"{len(samples) - i:04}.{suffix}")
    return image_folder("toy/val", root)


def as_parquet(samples: ImageArrays) -> Samples:
    encoded = []
    for i in range(len(samples)):
        stream = io.BytesIO()
        samples[i].save(stream, format="bmp")
        encoded.append(stream.getvalue())
    return ParquetImages("toy/val", encoded, samples.labels.tolist(), samples.classes)


def shown(samples: Samples) -> list[tuple[int, bytes]]:
    """What the samples are: labels and pixels, in no order."""
    whole = range(len(samples))
    return sorted((int(samples.labels[i]), np.asarray(samples[i]).tobytes()) for i in whole)


# held_out


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(1, 25), min_size=1, max_size=4),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 100),
)
def test_each_class_is_split_in_its_share(counts: list[int], share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    images = rng.integers(0, 256, (len(labels), 4, 4)).astype(np.uint8)
    samples = ImageArrays("toy/train", images, labels, [str(c) for c in range(len(counts))])
    rest, held = held_out(samples, share)
    assert sorted([*rest.rows, *held.rows]) == list(range(len(samples)))
    assert rest.classes == held.classes == samples.classes
    for label, count in enumerate(counts):
        got = int((held.labels == label).sum())
        assert (rest.labels == label).any()
        if count > 1:
            assert got >= 1
            assert abs(got - share * count) <= 1
    assert np.array_equal(held.digests, samples.digests[held.rows])


def test_the_order_of_the_samples_does_not_matter() -> None:
    samples = arrays()
    order = np.random.default_rng(1).permutation(len(samples))
    shuffled = Subset(samples, order)
    assert shown(held_out(samples, 0.2)[1]) == shown(held_out(shuffled, 0.2)[1])
    assert (np.diff(held_out(shuffled, 0.2)[1].rows) > 0).all(), "in the order of the samples"


@pytest.mark.parametrize("shape", [(16, 16, 3), (16, 16)], ids=["RGB", "grey"])
def test_the_layout_of_the_files_does_not_matter(tmp_path: Path, shape: tuple[int, ...]) -> None:
    samples = arrays(shape=shape)
    layouts = [
        samples,
        as_files(samples, tmp_path / "png"),
        as_files(samples, tmp_path / "bmp", "bmp"),
        as_parquet(samples),
    ]
    assert len({one.fingerprint for one in layouts}) == 4
    assert len({tuple(sorted(pixel_digests(one).tolist())) for one in layouts}) == 1
    expected = shown(held_out(samples, 0.1)[1])
    assert len(expected) == 6
    for one in layouts[1:]:
        assert shown(held_out(one, 0.1)[1]) == expected


def test_how_pixels_are_written_down_does_not_matter() -> None:
    """Grey levels may stand in a grey file, in an RGB one, or in a palette."""
    grey = arrays(shape=(16, 16))
    rgb = ImageArrays("toy", grey.images[..., None].repeat(3, axis=3), grey.labels, grey.classes)
    assert np.array_equal(pixel_digests(grey), pixel_digests(rgb))
    for mode in ("P", "RGBA"):
        encoded = []
        for i in range(len(grey)):
            stream = io.BytesIO()
            grey[i].convert(mode).save(stream, format="png")
            encoded.append(stream.getvalue())
        written = ParquetImages("toy", encoded, grey.labels.tolist(), grey.classes)
        assert written[0].mode == mode
        assert np.array_equal(pixel_digests(written), pixel_digests(grey))


def test_equal_images_stay_together() -> None:
    images = np.arange(20, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    twice = ImageArrays("toy/train", np.concatenate([images, images]), [0] * 40, ["a"])
    for share in (0.1, 0.25, 0.5):
        rest, held = held_out(twice, share)
        assert not np.isin(rest.digests, held.digests).any()
        assert len(rest)
    same = ImageArrays("toy/train", images[[3] * 9], [0] * 9, ["a"])
    assert [len(part) for part in held_out(same, 0.5)] == [9, 0]


def test_the_digests_of_pixels_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = as_files(arrays(), tmp_path)
    first = pixel_digests(found)
    monkeypatch.setattr(type(found), "__getitem__", lambda *_: pytest.fail("decoded again"))
    assert np.array_equal(pixel_digests(image_folder("x", tmp_path)), first)
    assert np.array_equal(pixel_digests(Subset(found, [3, 1])), first[[3, 1]])


# The synthetic set


def synthetic(samples: Samples | None = None, preprocess: Preprocess = RGB) -> Synthetic:
    spec = DatasetSpec("toy", lambda split: samples or arrays(), ("train", "val", "test"))
    made = synthetic_ood(spec, preprocess).load("val")
    assert isinstance(made, Synthetic)
    return made


def of_kind(kind: str, source: Samples, preprocess: Preprocess = RGB) -> np.ndarray:
    """The pixels of the first image, made into that kind."""
    made = synthetic(source, preprocess)
    made.labels[:] = made.classes.index(kind)
    return np.asarray(made[0]).astype(int)


def test_one_image_of_each_and_all_kinds_alike_often() -> None:
    made = synthetic(arrays(50))
    assert len(made) == 50
    assert made.classes == kinds_of("RGB")
    assert len(made.classes) == 7
    counts = np.bincount(made.labels, minlength=7)
    assert counts.max() - counts.min() <= 1
    assert made.name == "toy-synthetic/val"


def test_grey_images_are_grey_and_not_ghosted() -> None:
    for shape in ((8, 8), (8, 8, 3)):
        made = synthetic(arrays(shape=shape), GREY)
        assert made.classes == tuple(kind for kind in kinds_of("RGB") if kind != "rgb-ghost")
        assert {made[i].mode for i in range(len(made))} == {"L"}
    assert {synthetic()[i].mode for i in range(60)} == {"RGB"}


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 17, 33, 100])
@pytest.mark.parametrize("preprocess", [RGB, GREY], ids=["RGB", "grey"])
def test_images_of_any_size(side: int, preprocess: Preprocess, tmp_path: Path) -> None:
    rng = np.random.default_rng(side)
    (tmp_path / "a").mkdir()
    sizes = [(side, side + 3), (side + 2, side), (side, side)] * 5
    for i, (height, width) in enumerate(sizes):
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{i:03}.png")
    source = image_folder("toy/val", tmp_path)
    made = synthetic(source, preprocess)
    for i, kind in enumerate(np.asarray(made.classes)[made.labels]):
        image, original = made[i], source[i]
        trimmed = 3 if kind == "jigsaw" else 0
        assert 0 <= original.width - image.width <= trimmed
        assert 0 <= original.height - image.height <= trimmed
        assert preprocess(image).isfinite().all()


def test_kinds_are_what_they_say() -> None:
    source = arrays()
    x = source.images[0].astype(int)
    partner = int(synthetic(source).partners[0])
    y = source.images[partner].astype(int)
    assert partner != 0
    assert np.abs(of_kind("arithmetic-mean", source) - (x + y) / 2).max() <= 0.5 + 1e-3
    assert np.abs(of_kind("geometric-mean", source) - np.sqrt(x * y)).max() <= 0.5 + 1e-3
    assert np.array_equal(
        of_kind("inverted", source),
        np.stack([x[..., 0], 255 - x[..., 1], 255 - x[..., 2]], axis=2),
    )
    assert np.array_equal(
        of_kind("rgb-ghost", source), np.stack([x[:, ::-1, 1], x[..., 2], x[..., 0]], axis=2)
    )
    jigsaw = of_kind("jigsaw", source)

    def patches(image: np.ndarray) -> list[bytes]:
        return [
            image[r : r + 4, c : c + 4].tobytes() for r in range(0, 16, 4) for c in (0, 4, 8, 12)
        ]

    assert sorted(patches(jigsaw)) == sorted(patches(x))
    assert patches(jigsaw) != patches(x)
    assert (of_kind("uniform", source) != x).mean() > 0.95
    speckle = of_kind(
        "speckle", ImageArrays("toy/val", np.full((9, 64, 64, 3), 51, np.uint8), [0] * 9, ["a"])
    )
    # 51 + 51 n, cut off below zero, with n normal: mean 51 + 51 E[max(n, -1)] = 51 * 1.0833
    assert speckle.mean() == pytest.approx(51 * 1.0833, abs=1.5)
    # of four patches, one order in 24 is that of the image
    noise = np.random.default_rng(0).integers(0, 256, (300, 8, 8)).astype(np.uint8)
    made = synthetic(ImageArrays("toy/val", noise, [0] * 300, ["a"]), GREY)
    made.labels[:] = made.classes.index("jigsaw")
    assert all((np.asarray(made[i]) != noise[i]).any() for i in range(300))
    grey = arrays(shape=(8, 8))
    assert np.array_equal(of_kind("inverted", grey, GREY), 255 - grey.images[0].astype(int))


def test_noise_does_not_vanish_when_a_large_image_is_resized() -> None:
    large = ImageArrays("toy/val", np.full((3, 500, 400, 3), 128, np.uint8), [0] * 3, ["a"])
    for kind, least in (("uniform", 0.15), ("speckle", 0.15)):
        pixels = of_kind(kind, large).astype(np.uint8)
        assert pixels.shape == (500, 400, 3)
        seen = np.asarray(RGB.fit_image(Image.fromarray(pixels))) / 255
        assert seen.std() > least


def test_the_set_is_a_function_of_the_pixels(tmp_path: Path) -> None:
    """Neither order, layout nor global state matters."""
    samples = arrays()
    expected = shown(synthetic(samples))
    digests = sorted(synthetic(samples).digests.tolist())
    np.random.seed(5)  # noqa: NPY002 - the global state is what must not matter
    order = np.random.default_rng(2).permutation(60)
    for other in (
        samples,
        Subset(samples, order),
        as_files(samples, tmp_path),
        as_parquet(samples),
    ):
        made = synthetic(other)
        assert shown(made) == expected
        assert sorted(made.digests.tolist()) == digests
        assert shown(made) == expected, "the same each time it is read"
    assert synthetic(samples).fingerprint == synthetic(samples).fingerprint


def test_the_fingerprint_is_of_sources_kinds_and_settings() -> None:
    base = synthetic().fingerprint
    others = [
        synthetic(arrays(seed=1)),
        synthetic(arrays(59)),
        synthetic(preprocess=dataclasses.replace(RGB, size=16)),
        synthetic(preprocess=GREY),
    ]
    assert len({base, *(one.fingerprint for one in others)}) == 5
    # its mean and deviation are of the network's input, not of the images
    assert synthetic(preprocess=dataclasses.replace(RGB, mean=(0.1,) * 3)).fingerprint == base
    assert not np.isin(synthetic().digests, arrays().digests).any()


def test_nothing_is_made_before_it_is_asked_for() -> None:
    loads: list[str] = []

    def load(split: str) -> Samples:
        loads.append(split)
        return arrays()

    spec = synthetic_ood(DatasetSpec("toy", load, ("train", "val", "test")), RGB)
    assert loads == []
    assert spec.splits == ("val",)
    made = spec.load("val")
    assert loads == ["val"], "the other splits are never read"
    assert made.fingerprint
    assert spec.name == "toy-synthetic"
    assert "Outlier Exposure" in spec.citation


def test_another_process_makes_the_same_images(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import hashlib, numpy as np\n"
        "from oodbench import get_benchmark\n"
        "made = get_benchmark('digits').validation[0].load('val')\n"
        "pixels = b''.join(np.asarray(made[i]).tobytes() for i in range(len(made)))\n"
        "print(made.fingerprint, hashlib.sha256(pixels).hexdigest())"
    )
    there = server.prints(script)
    runpy.run_path(str(script), run_name="__main__")
    assert len(there.split()) == 2
    assert capsys.readouterr().out == there


# In the benchmarks


def write_cifar(train: int = 20, test: int = 20) -> None:
    for name in ("cifar10", "cifar100"):
        write_images(files.data_dir() / name / "train", {"cat": train, "dog": train}, seed=1)
        write_images(files.data_dir() / name / "test", {"cat": test, "dog": test}, seed=2)


@pytest.mark.parametrize(
    "name",
    ["digits", "cifar10", "cifar10/held-out", "cifar100", "cifar100/held-out", "cifar100/palm"],
)
def test_every_benchmark_has_validation_data_apart_from_its_test_data(name: str) -> None:
    write_cifar()
    found = get_benchmark(benchmark=name)
    assert found.id.splits == ("train", "val", "test")
    val, test = found.id.load("val"), found.id.load("test")
    assert val.classes == test.classes
    assert not np.isin(val.digests, test.digests).any()
    (spec,) = found.validation
    made = spec.load("val")
    assert len(made) == len(val)
    assert spec.name not in {chosen.spec.name for chosen in found.ood}
    assert all([spec.description, spec.source, spec.licence, spec.citation])


def test_cifars_val_is_a_tenth_of_the_training_split() -> None:
    write_cifar(train=30)
    for name in ("cifar10", "cifar100", "cifar100/palm"):
        found = get_benchmark(benchmark=name)
        train, val, test = (found.id.load(split) for split in found.id.splits)
        assert (len(train), len(val), len(test)) == (60, 6, 40)
        assert np.isin(val.digests, train.digests).all()
        assert val.name == f"{found.id.name}/val"
        assert np.bincount(val.labels).tolist() == [3, 3]


def test_openoods_val_and_test_are_the_official_test_split() -> None:
    write_cifar(test=30)
    for name in ("cifar10", "cifar100"):
        whole = get_benchmark(name)
        found = get_benchmark(benchmark=f"{name}/held-out")
        train, val, test = (found.id.load(split) for split in found.id.splits)
        assert train.fingerprint == whole.id.load("train").fingerprint
        assert (len(val), len(test)) == (6, 54)
        assert shown(whole.id.load("test")) == sorted(shown(val) + shown(test))
        assert (val.name, test.name) == (f"{name}/held-out/val", f"{name}/held-out/test")
        assert found.id.name == name, "options and recipes of the ID set hold"
        assert (found.near, found.far) == (whole.near, whole.far)
        assert get_benchmark(name, f"{name}/held-out").name == f"{name}/held-out"


def test_pages_of_benchmarks_are_not_confused() -> None:
    names = sorted(set(oodbench.list_benchmarks()) - {"folder", "ptood/folder"})
    pages = {page_name(get_benchmark(benchmark=name).name) for name in names}
    assert len(pages) == len(names)
    write_cifar()
    tests = {
        get_benchmark(benchmark=name).id.load("test").fingerprint
        for name in ("cifar10", "cifar10/held-out")
    }
    assert len(tests) == 2, "rows on them never share a table"


@pytest.mark.parametrize("name", ["cifar10", "cifar10/held-out"])
def test_missing_data_is_named_by_what_it_is_drawn_from(name: str) -> None:
    found = get_benchmark(benchmark=name)
    part = "test" if "/" in name else "train"
    for load in (lambda: found.id.load("val"), lambda: found.validation[0].load("val")):
        with pytest.raises(
            MissingDataError, match=f"{name}/val is a part of the {part} split"
        ) as error:
            load()
        assert "Get it:" in str(error.value)


def test_a_folders_val_is_its_own_or_an_error_says_what_to_make(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"jay": 4, "owl": 4})
    found = get_benchmark(f"folder:{tmp_path}")
    assert found.id.splits == ("train", "val", "test")
    for load in (lambda: found.id.load("val"), lambda: found.validation[0].load("val")):
        with pytest.raises(MissingDataError, match="Make it: move a tenth") as error:
            load()
        assert str(tmp_path / "val") in str(error.value)
    write_images(tmp_path / "val", {"jay": 2, "owl": 3}, size=11)
    assert len(found.id.load("val")) == 5
    made = found.validation[0].load("val")
    assert len(made) == 5
    assert made[0].mode == "RGB"


def test_no_set_is_both_chosen_on_and_tested_on() -> None:
    digits = get_benchmark("digits")
    with pytest.raises(OptionError, match="digits-6-9"):
        dataclasses.replace(digits, validation=digits.near)


def test_layouts_of_cifar_have_the_same_validation_images(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real images: as PNG folders and in memory, as torchvision reads its archive."""
    monkeypatch.setenv("OODBENCH_DATA", str(shared_data))
    found = get_benchmark("cifar10").id
    train, val = found.load("train"), found.load("val")
    assert (len(train), len(val)) == (5000, 500)
    assert np.bincount(val.labels).tolist() == [50] * 10
    order = np.random.default_rng(0).permutation(len(train))
    pixels = np.stack([np.asarray(train[int(i)]) for i in order])
    in_memory = ImageArrays("cifar10/train", pixels, train.labels[order], train.classes)
    assert shown(held_out(in_memory, 0.1)[1]) == shown(val)
