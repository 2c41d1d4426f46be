"""Data of the PT-OOD benchmarks: ID sets, ImageNet without them, spectrograms, and the groups."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from timm.data import ImageNetInfo

import oodbench
from oodbench import Benchmark, Protocol, files, get_benchmark
from oodbench.benchmark import resolve_dataset
from oodbench.data.samples import Samples, content_digest
from oodbench.datasets.imagenet import OVERLAP, by_name, overlap
from oodbench.datasets.ptood import NATIVE
from oodbench.datasets.transfer import TEN
from oodbench.errors import DataError, MissingDataError, OptionError, UnknownNameError
from oodbench.evaluator import Evaluator
from oodbench.info import describe
from tests.conftest import write_images
from tests.helpers.datasets import images_of, spec, write_parquet
from tests.helpers.datasets import toy as without_own_groups

# ID sets: where torchvision unpacks them, a line of a list and its image, lists by split
SPLITS = ("train", "val", "test")
FOOD = {"train": "meta/train.txt", "test": "meta/test.txt"}
PET = {"train": "annotations/trainval.txt", "test": "annotations/test.txt"}
LISTS = {
    "dtd": ("dtd/dtd", "{c}/{i}.jpg", "{c}/{i}.jpg", {s: f"labels/{s}1.txt" for s in SPLITS}),
    "food101": ("food-101", "{c}/{i}", "{c}/{i}.jpg", FOOD),
    "pets": ("oxford-iiit-pet", "{c}_{i} 7 1 2", "{c}_{i}.jpg", PET),
}


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


def unpack(name: str, place: str | None = None) -> Path:
    """As torchvision leaves it: lists, the images in them, and one that is in none."""
    usual, line, image, lists = LISTS[name]
    base = files.data_dir() / (place or usual)
    picture(base / "images" / image.format(c="A_b", i="unlisted"))
    for split, path in lists.items():
        listed = [(c, f"{split}{i}") for i in range(2) for c in ("c-d", "A_b")]
        for c, i in listed:
            picture(base / "images" / image.format(c=c, i=i))
        (base / path).parent.mkdir(exist_ok=True)
        (base / path).write_text("\n".join(line.format(c=c, i=i) for c, i in listed) + "\n\n")
    return base


@pytest.mark.parametrize(
    ("name", "place"), [*((name, LISTS[name][0]) for name in LISTS), ("dtd", "dtd"),
    ("food101", "food101/food-101"), ("pets", "pets/oxford-iiit-pet")],
)  # fmt: skip
def test_lists_say_what_is_in_a_split(name: str, place: str) -> None:
    base, (_, _, image, lists) = unpack(name, place), LISTS[name]
    assert resolve_dataset(name).splits == tuple(lists)
    for split in lists:
        samples = load(name, split)
        assert (samples.name, samples.classes) == (f"{name}/{split}", ("A_b", "c-d"))
        assert samples.labels.tolist() == [1, 0, 1, 0]
        for i, label in enumerate(samples.labels):
            path = image.format(c=samples.classes[label], i=f"{split}{i // 2}")
            assert samples[i].tobytes() == Image.open(base / "images" / path).tobytes()


@pytest.mark.parametrize(
    ("name", "published"), [("dtd", "test"), ("pets", "test"), ("caltech101", "test"),
    ("food101", "validation")],  # ethz/food101 calls the test images so
)  # fmt: skip
def test_class_folders_and_parquet_files(name: str, published: str) -> None:
    root = files.data_dir() / name
    write_images(root / "train", {"b": 3, "A": 1}, size=8)
    shard = root / "data" / f"{published}-00000-of-00001.parquet"
    write_parquet(shard, images_of(2), "image", "label", [1, 0], ["A", "b"])
    for split, labels in (("train", [0, 1, 1, 1]), ("test", [1, 0])):
        samples = load(name, split)
        assert (samples.name, samples.classes) == (f"{name}/{split}", ("A", "b"))
        assert samples.labels.tolist() == labels
    assert samples[1].tobytes() == images_of(2)[1].tobytes()


@pytest.mark.parametrize(
    ("name", "content"), [("dtd", b"A_b/11.jpg\nbanded\n"), ("dtd", b"A_b/\n"), ("dtd", b"\n \n"),
    ("dtd", b"/11.jpg\n"), ("dtd", b"\xff\xfe\x00"), ("food101", b"apple_pie\n"),
    ("pets", b"Abyssinian 1 1 1\n"), ("pets", b"_10 1 1 1\n"), ("pets", b"# Image CLASS-ID\n")],
)  # fmt: skip
def test_a_list_that_is_none_is_named(name: str, content: bytes) -> None:
    path = unpack(name) / LISTS[name][-1]["test"]
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load(name)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("name", "split"), [(n, split) for n in LISTS for split in LISTS[n][-1]])
def test_the_list_that_is_missing_is_named(name: str, split: str) -> None:
    path = LISTS[name][-1][split]
    (unpack(name) / path).unlink()
    with pytest.raises(MissingDataError, match=f"{name}: no {split} images.*download") as error:
        load(name, split)
    assert f"{LISTS[name][0]}/{path}" in str(error.value)


def caltech(place: str = "caltech101") -> Path:
    counts = {"BACKGROUND_Google": 3, "Faces": 34, "accordion": 31}
    return write_images(files.data_dir() / place / "101_ObjectCategories", counts, size=8)


@pytest.mark.parametrize("place", ["caltech101", "caltech-101", "."])
def test_thirty_images_of_each_class_of_caltech_are_for_training(place: str) -> None:
    with pytest.raises(MissingDataError, match="caltech101/101_ObjectCategories"):
        load("caltech101")
    root, counts = caltech(place), {"train": [30, 30], "test": [4, 1]}
    before = splits("caltech101", counts)
    classes = load("caltech101").classes
    assert classes == load("caltech101", "train").classes == ("Faces", "accordion")
    shown = [(i, path) for i, c in enumerate(classes) for path in (root / c).iterdir()]
    assert set.union(*before.values()) == {(i, Image.open(path).tobytes()) for i, path in shown}
    reorder(root)
    assert splits("caltech101", counts) == before


def test_an_image_that_caltech_has_twice_is_in_one_split() -> None:
    """The last training image and the first test image, by digest, are made the same."""
    faces = (caltech() / "Faces").iterdir()
    order = sorted(faces, key=lambda path: content_digest(path.read_bytes()))
    order[30].write_bytes(order[29].read_bytes())
    assert not np.isin(load("caltech101", "train").digests, load("caltech101").digests).any()


def textures() -> Path:
    return write_images(files.data_dir() / "textures10" / "test", dict.fromkeys(TEN, 40), size=8)


def test_half_of_textures10_is_for_training_whatever_the_files() -> None:
    root, counts = textures(), {"train": [20] * 10, "test": [20] * 10}
    before = splits("textures10-halves", counts)
    assert load("textures10-halves").classes == TEN
    assert len(set.union(*before.values())) == 400
    reorder(root)
    assert splits("textures10-halves", counts) == before
    moved = root.rename(files.data_dir() / "moved")
    root.parent.rmdir()
    root = moved.rename(root.parent)  # textures10/<class>, without test
    assert splits("textures10-halves", counts) == before
    (root / "banded").rename(root / "dotted")
    with pytest.raises(DataError, match=r"has the classes banded, blotchy.*not blotchy"):
        load("textures10-halves")


@pytest.mark.parametrize(
    ("name", "make"), [("caltech101", caltech), ("textures10-halves", textures)]
)
def test_there_is_no_val_split_made_of_others(name: str, make: Callable[[], Path]) -> None:
    make()  # what is chosen on must not be tested on, nor unknowingly trained on
    with pytest.raises((DataError, OptionError), match="val"):
        get_benchmark(f"ptood/{name.removesuffix('-halves')}").without_test().id.load("val")


def test_cifar10_small_is_a_part_of_cifar10_by_content() -> None:
    root = files.data_dir() / "cifar10"
    write_images(root / "train", {"cat": 100, "dog": 50}, size=8, seed=1)
    write_images(root / "test", {"cat": 20, "dog": 10}, size=8, seed=2)
    counts = {"train": [10, 5], "val": [1, 1], "test": [4, 2]}
    before = splits("cifar10-small", counts)
    assert before["val"] < before["train"] < contents(load("cifar10", "train"))
    assert before["test"] < contents(load("cifar10", "test"))
    reorder(root)
    assert splits("cifar10-small", counts) == before


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


def test_the_table_is_sorted_and_its_names_are_those_of_the_sets() -> None:
    assert (HEADER, sorted(ROWS)) == (["dataset", "class", "wnid", "imagenet_class"], ROWS)
    assert len({tuple(row[:3]) for row in ROWS}) == len(ROWS)
    assert {row[0] for row in ROWS} == {*CLASSES, "food101", "caltech101", "pets"}
    for *_, wordnet_id, name in ROWS:
        assert name == IMAGENET[wordnet_id].split(",")[0]
    for dataset, text in CLASSES.items():
        classes = text.split()
        assert len(set(classes)) == {"cifar10": 10, "cifar100": 100, "dtd": 47}[dataset]
        assert {row[1] for row in ROWS if row[0] == dataset} <= set(classes)
        for label, same in by_name(classes).items():
            assert set(same) <= ids(dataset), f"{label} bears an ImageNet name"
    assert set(TEN) < set(classes)


def test_what_a_person_would_look_up() -> None:
    places = [("tabby, tabby cat", "cifar10", "cat"), ("Persian cat", "pets", "Persian"),
              ("spider web, spider's web", "dtd", "cobwebbed"), ("airliner", "cifar10", "airplane"),
              ("pizza, pizza pie", "food101", "pizza"), ("honeycomb", "dtd", "honeycombed"),
              ("goldfish, Carassius auratus", "cifar100", "aquarium_fish")]  # fmt: skip
    for name, dataset, label in places:
        (wordnet_id,) = (key for key, text in IMAGENET.items() if text == name)
        assert wordnet_id in ids(dataset, label), f"{name} is {label} of {dataset}"
        assert (wordnet_id in ids("cifar10")) == (label in ("cat", "airplane", "Persian"))
    dogs = {wordnet_id for wordnet_id in IMAGENET if "n02085620" <= wordnet_id <= "n02113978"}
    assert len(dogs) == len(dogs & ids("cifar10", "dog")) == 118


FEW = ("n01440764_tench", "n01443537", "n02085620_Chihuahua", "n02123045-tabby", "n02123394_x")


def imagenet(place: str = "imagenet500/test", classes: tuple[str, ...] = FEW) -> Path:
    return write_images(files.data_dir() / place, dict.fromkeys(classes, 1), size=8)


def left(name: str) -> list[str]:
    """WordNet ids of the classes whose images are there."""
    samples = load(name)
    assert samples.name == f"{name}/test"
    return sorted({samples.classes[label][:9] for label in samples.labels})


@pytest.mark.parametrize(
    "place", ["imagenet/val", "imagenet/test", "ILSVRC2012/val",
    "imagenet/ILSVRC/Data/CLS-LOC/val", "imagenet500/test"],
)  # fmt: skip
def test_folders_of_imagenet_begin_with_a_wordnet_id(place: str) -> None:
    name = "imagenet500" if "500" in place else "imagenet"
    with pytest.raises(MissingDataError, match=place):
        load(f"{name}-without:pets")
    imagenet(place)
    assert load(name).classes == FEW


@pytest.mark.parametrize("strange", [".", "tench", "n0144076", "n014407640", "x_n01440764"])
def test_what_is_no_folder_of_imagenet(strange: str) -> None:
    imagenet("imagenet/val", (*FEW, strange) if strange != "." else (".",))
    with pytest.raises(DataError, match=r"WordNet id.*Sort them into class folders") as error:
        load("imagenet-without:cifar10")
    assert repr(strange.replace(".", "all")) in str(error.value)


def test_exactly_the_tables_classes_are_left_out(tmp_path: Path) -> None:
    one = picture(tmp_path / "one.png")
    for wordnet_id in IMAGENET:
        folder = files.data_dir() / "imagenet" / "val" / wordnet_id
        folder.mkdir(parents=True)
        (folder / "one.png").hardlink_to(one)
    for name in (*CLASSES, "pets", "food101", "caltech101", *PARTS):
        assert left(f"imagenet-without:{name}") == sorted(set(IMAGENET) - ids(name))


def test_imagenet_without_what_nobody_knows_or_all() -> None:
    for name in ("imagenet-without", "imagenet500-without:", "imagenet-without:cifar11"):
        with pytest.raises(UnknownNameError) as error:
            resolve_dataset(name)
    assert "cifar10, cifar10-small" in str(error.value)
    imagenet(classes=FEW[2:])
    with pytest.raises(DataError, match="every class that is there is also in cifar10"):
        load("imagenet500-without:cifar10")


def test_folders_are_matched_by_name(tmp_path: Path) -> None:
    imagenet()
    for split in ("train", "test"):
        for label in ("Goldfish", "tench", "n02123045_x", "Persian-Cats", "my own thing"):
            picture(tmp_path / split / label / "0.png")
    nested = f"imagenet500-without:folder:{tmp_path}"
    assert left(nested) == ["n02085620"]
    for path in (f"folder:{tmp_path}", f"folder:{tmp_path}@64"):
        found = get_benchmark(benchmark=f"ptood/{path}")
        assert found.name == f"ptood/{path}"
        assert [part.name for part in found.groups["familiar"]] == [f"imagenet-without:{path}"]
        known = found.caveats.names
        assert set(known) == {"Goldfish", "tench", "n02123045_x", "Persian-Cats"}
        assert known["Goldfish"] == ("goldfish",)
    with pytest.raises(OptionError, match="ptood/folder:PATH"):
        get_benchmark(benchmark="ptood/folder")
    assert by_name(["n01440764_x"]) == {"n01440764_x": {"n01440764": "tench"}}
    assert len(by_name(["crane"])["crane"]) == 2, "the bird and the machine"
    assert by_name(["x_n01440764", "n99999999", "goldfish bowl"]) == {}
    ood = ["near=imagenet500-without:cifar10", f"near={nested}", "imagenet500-without:pets"]
    evaluator = Evaluator(get_benchmark(f"folder:{tmp_path}"), ood=ood)
    chosen = [(one.group, len(one.samples)) for one in evaluator.ood]
    assert chosen == [("near", 2), ("near", 1), ("far", 2)]
    with pytest.raises(OptionError, match="'near', 'far', 'shifted', not 'familiar'"):
        get_benchmark(f"folder:{tmp_path}").choose(["familiar=imagenet500-without:cifar10"])


def record(name: str, *tones: tuple[float, float], rate: int = 8000) -> Path:
    """0.6 seconds of tones, each a frequency and how loud it is."""
    path = files.data_dir() / "fsdd" / "recordings" / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(0, 0.6, 1 / rate)
    soundfile.write(path, sum(loud * np.sin(2 * np.pi * hertz * t) for hertz, loud in tones), rate)
    return path


def test_spectrograms_are_grey_pictures() -> None:
    record("0_theo_0", (150, 0.8), (3000, 0.008))
    record("3_theo_0", (150, 0.008), (3000, 0.8), rate=16000)
    record("7_theo_1", (440, 0))
    samples = load("fsdd-spectrograms")
    assert (samples.name, samples.classes) == ("fsdd-spectrograms/test", tuple("0123456789"))
    assert samples.labels.tolist() == [0, 3, 7]
    for i in range(3):
        assert (samples[i].mode, samples[i].size) == ("L", (101, 64))
        assert samples[i].tobytes() == load("fsdd-spectrograms")[i].tobytes()
    low, high, silence = (np.asarray(samples[i]) for i in range(3))
    assert low[48:, :60].max() > low[:16, :60].max() > low[24:40, :60].max()
    assert high[:16, :60].max() > high[48:, :60].max()
    assert low[48:, :60].mean() > low[48:, 65:].mean(), "after the tone there is silence"
    assert len(np.unique(silence)) == 1


def test_recordings_are_part_of_the_fingerprint_of_spectrograms() -> None:
    record("0_theo_0", (200, 0.5))
    record("1_theo_0", (200, 0.5))
    before, again = load("fsdd-spectrograms"), load("fsdd-spectrograms")
    assert again.fingerprint == before.fingerprint
    record("1_theo_0", (200, 0.6))
    after = load("fsdd-spectrograms")
    assert (after.digests == before.digests).tolist() == [True, False]


def test_recordings_that_are_missing_are_named() -> None:
    record("theo", (200, 0.5))
    with pytest.raises(MissingDataError, match=r"fsdd-spectrograms.*no recordings.*git clone"):
        load("fsdd-spectrograms")


PTOOD = {name for name in oodbench.list_benchmarks() if name.startswith("ptood/")}


@pytest.mark.parametrize("name", sorted(PTOOD - {"ptood/folder"}))
def test_every_benchmark_is_whole_without_any_data(name: str) -> None:
    found = get_benchmark(benchmark=name)
    table = name.removeprefix("ptood/")
    assert found.name == name
    assert found.id.name == {"textures10": "textures10-halves"}.get(table, table)
    assert [part.name.partition("-without:")[2] for part in found.groups["familiar"]] == [table]
    signs = {"mnist", "fsdd-spectrograms"}  # which are no photographs
    if table in ("dtd", "textures10"):
        assert (signs <= {part.name for part in found.groups["unfamiliar"]}, found.far) == (
            True,
            (),
        )
    else:
        (unfamiliar,) = found.groups["unfamiliar"]
        small = table == "cifar10-small"
        assert unfamiliar.name == ("textures10-without-imagenet" if small else "textures")
        assert signs <= {part.name for part in found.far}
    assert (found.near, found.standard_method) == ((), "linear-probe")
    assert found.preprocess.native == NATIVE[table]
    assert any(f"{NATIVE[table]} x {NATIVE[table]} pixels" in text for text in found.remarks)
    protocol = found.protocol
    assert (protocol.rank_group, protocol.group_of_others) == ("familiar", "unfamiliar")
    assert protocol.contrast == ("unfamiliar", "familiar")
    assert found.measures == ("separability",)
    assert found.own_inputs
    assert bool(found.validation) == ("val" in found.id.splits)
    known = overlap(table)
    assert {key for same in known.values() for key in same} == ids(table) != set()
    named = {c: tuple(dict.fromkeys(same.values())) for c, same in known.items()}
    assert found.caveats.names == named
    for part in (found.id, *(chosen.spec for chosen in found.ood)):
        assert resolve_dataset(part.name).name == part.name
        assert all([part.description, part.source, part.licence, part.citation])


def test_textures_that_no_imagenet_class_shows() -> None:
    write_images(files.data_dir() / "textures10", dict.fromkeys(TEN, 2), size=8)
    found = load("textures10-without-imagenet")
    shown = {found.classes[label] for label in found.labels}
    assert shown == set(TEN) - set(overlap("textures10")) == {"blotchy", "cracked", "crystalline"}
    assert len(found) == 6
    with pytest.raises(OptionError, match="train"):
        load("textures10-without-imagenet", "train")


def test_your_own_images_have_the_native_size_of_most(tmp_path: Path) -> None:
    for name, size in (("small", 8), ("middle", 24), ("large", 40)):
        write_images(tmp_path / "train" / name, {"": 2}, size=size)
    preprocess = get_benchmark(benchmark=f"ptood/folder:{tmp_path}").preprocess
    assert preprocess.native == 24


def test_groups_are_told() -> None:
    assert "unfamiliar" in describe("ptood/cifar10")


def toy(*groups: str) -> Benchmark:
    sets = {group: (spec(f"{group}1"), spec(f"{group}2")) for group in groups}
    others = "unfamiliar" if "unfamiliar" in groups else "far"
    return replace(without_own_groups((), ()), protocol=Protocol(group_of_others=others), **sets)


ORDER = ("near", "far", "familiar", "unfamiliar", "shifted")
ALL_GROUPS = toy("shifted", "far", "familiar", "near", "unfamiliar")


def test_groups_are_in_their_order() -> None:
    expected = [(f"{group}{i}", group) for group in ORDER for i in "12"]
    assert [(one.spec.name, one.group) for one in ALL_GROUPS.ood] == expected
    assert ALL_GROUPS.choose(None) == ALL_GROUPS.ood
    picked = ["mnist", "familiar=unfamiliar2", "familiar1", "near=familiar2", "unfamiliar=near2"]
    groups = ["unfamiliar", "familiar", "familiar", "near", "unfamiliar"]
    assert [one.group for one in ALL_GROUPS.choose(picked)] == groups
    with pytest.raises(OptionError, match="'unfamiliar', 'shifted', not 'known'"):
        ALL_GROUPS.choose(["known=near1"])
    for there, group in (((), "far"), (("familiar",), "far"), (("unfamiliar",), "unfamiliar")):
        assert [one.group for one in toy(*there).choose(["mnist", "near=svhn"])] == [group, "near"]


@pytest.mark.parametrize("group", ORDER)
def test_each_group_is_whole_with_all_its_sets_and_out_of_reach_of_choices(group: str) -> None:
    assert ALL_GROUPS.is_complete(group, [f"{group}2", f"{group}1"])
    for other in ([f"{group}1"], [f"{group}1", f"{group}2", "mnist"], []):
        assert not ALL_GROUPS.is_complete(group, other)
    assert not toy(*set(ORDER) - {group}).is_complete(group, ["mnist"])
    assert toy().is_complete(group, ["mnist"])
    with pytest.raises(OptionError, match=f"{group}1 is among the sets"):
        replace(ALL_GROUPS, validation=(spec(f"{group}1"),))
    chosen_on = replace(ALL_GROUPS, validation=(spec("v"),)).without_test()
    sets = {**chosen_on.groups, "shifted": chosen_on.shifted}
    assert chosen_on.ood == sets[group] == ()
    assert [one.name for one in chosen_on.validation] == ["v"]
    assert chosen_on.id.splits == ("train",)
    with pytest.raises(OptionError, match="toy/test is tested on"):
        chosen_on.id.load("test")
