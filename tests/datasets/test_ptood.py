"""The benchmarks of pre-trained networks: groups of sets, the overlap with ImageNet, the gap."""

from __future__ import annotations

import dataclasses
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torchvision import transforms

import oodbench
from oodbench import Benchmark, DatasetSpec, Protocol, files, get_benchmark
from oodbench.data.samples import ImageArrays
from oodbench.dataset import resolve_dataset
from oodbench.datasets.imagenet import by_name, overlap
from oodbench.datasets.ptood import NATIVE
from oodbench.datasets.transfer import TEN
from oodbench.detectors.separability import separability
from oodbench.errors import OptionError
from oodbench.info import describe
from oodbench.networks.pretrained import create_pretrained
from oodbench.results import leaderboard
from oodbench.training.run import plan
from tests.conftest import SHARED, write_images
from tests.helpers.datasets import spec
from tests.helpers.datasets import toy as without_own_groups
from tests.helpers.ptood import CPU, NETWORK, OPTIONS, SIZE, benchmark, evaluated, of
from tests.helpers.transfer import (
    CLASSES,
    HEADER,
    IMAGENET,
    ROWS,
    contents,
    ids,
    load,
    reorder,
    splits,
)


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


# the gap


def test_rows_tell_familiar_from_unfamiliar(checkpoint: Path, tmp_path: Path) -> None:
    given = benchmark(measures=("separability",))
    results = evaluated(
        checkpoint, ["ptood", "msp"], benchmark=given, backbone=NETWORK, leaderboards=tmp_path
    )
    rows = {(row["detector"], row["ood"]): row for row in results.rows}
    for detector in ("ptood", "msp"):
        familiar, unfamiliar = rows[detector, "familiar"], rows[detector, "unfamiliar"]
        assert familiar["gap"] == pytest.approx(unfamiliar["auroc"] - familiar["auroc"])
        assert familiar["gap_low"] <= familiar["gap"] <= familiar["gap_high"]
        assert unfamiliar["gap"] is None
        alone = [rows[detector, name]["separability"] for name in ("unseen", "other")]
        assert unfamiliar["separability"] == pytest.approx(np.mean(alone))
        assert all(0.5 < value <= 1 for value in alone)
    assert rows["ptood", "seen"]["separability"] == rows["msp", "seen"]["separability"]
    page = leaderboard.write(given, tmp_path).read_text()
    assert "| Gap |" in page
    assert "### Linear separability of features" in page
    assert page.count("## familiar, unfamiliar") == 1


def test_rows_of_networks_with_other_sizes_share_a_table(checkpoint: Path, tmp_path: Path) -> None:
    for size in (32, 48):
        options = {"input_size": size}
        evaluated(
            checkpoint,
            ["ptood"],
            backbone=NETWORK,
            recipe_options=options,
            leaderboards=tmp_path,
        )
    page = leaderboard.write(benchmark(), tmp_path).read_text()
    assert page.count("## familiar, unfamiliar") == 1
    assert f"{NETWORK} (weights.safetensors), RGB, 32 px (crop)" in page
    assert f"{NETWORK} (weights.safetensors), RGB, 48 px (crop)" in page


def at(native: int | None) -> Benchmark:
    return benchmark(preprocess=dataclasses.replace(benchmark().preprocess, native=native))


def test_networks_see_all_images_at_the_native_size(checkpoint: Path) -> None:
    """Those that learn here, those that are given, and those with a transform of somebody's own."""
    run = plan(at(12), "linear-probe", overrides=OPTIONS, checkpoint=checkpoint)
    assert (run.encoder.own_preprocess.native, run.encoder.own_preprocess.size) == (12, SIZE)
    assert run.key != plan(at(None), "linear-probe", overrides=OPTIONS, checkpoint=checkpoint).key
    named = evaluated(checkpoint, ["knn"], benchmark=at(12), backbone=NETWORK, method="frozen")
    encoder = create_pretrained(NETWORK, checkpoint=checkpoint, input_size=SIZE)
    assert encoder.own_preprocess.native is None
    own = transforms.Compose(
        [
            transforms.Resize(
                encoder.input["pre_size"],
                transforms.InterpolationMode(encoder.input["interpolation"]),
            ),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize(encoder.input["mean"], encoder.input["std"]),
        ]
    )
    given = [
        oodbench.evaluate(encoder, benchmark=at(12), detectors="knn", hardware=CPU, **transform)
        for transform in ({}, {"preprocess": own})
    ]
    for found in (named, *given):
        assert found.rows[0]["preprocess"]["native"] == 12
        assert [row["auroc"] for row in found.rows] == pytest.approx(
            [row["auroc"] for row in named.rows], abs=1e-6
        )
    unlike = evaluated(checkpoint, ["knn"], benchmark=at(None), backbone=NETWORK, method="frozen")
    assert [row["auroc"] for row in unlike.rows] != [row["auroc"] for row in named.rows]


def test_rows_at_another_native_size_have_a_table_of_their_own(
    checkpoint: Path, tmp_path: Path
) -> None:
    for native in (None, 12):
        evaluated(
            checkpoint,
            ["ptood"],
            benchmark=at(native),
            backbone=NETWORK,
            leaderboards=tmp_path,
        )
    page = leaderboard.write(at(12), tmp_path).read_text()
    assert page.count("## familiar, unfamiliar") == 2
    assert page.count(", RGB, 32 px (crop, from 12 px)") == 1
    assert page.count(", RGB, 32 px (crop) |") == 1


def waves(name: str, size: int, noise: float, seed: int) -> ImageArrays:
    """The same stripes at another size, with noise in each pixel."""
    rng = np.random.default_rng(seed)
    labels = np.arange(60) % 2
    phase = rng.uniform(0, 7, (60, 1, 1))
    y, x = np.mgrid[:size, :size] * 12 / size
    stripes = np.sin(np.where(labels[:, None, None], x, y) + phase)[..., None]
    pixels = 128 + 60 * stripes + rng.normal(0, noise, (60, size, size, 3))
    return ImageArrays(name, pixels.clip(0, 255).astype(np.uint8), labels, ("across", "along"))


def test_sharpness_alone_tells_no_ood_image(checkpoint: Path) -> None:
    """Images of the ID set's kind at four times its size are the same at its own."""
    known = {"train": waves("w/train", 24, 8, 0), "test": waves("w/test", 24, 8, 1)}
    own = DatasetSpec("waves", known.__getitem__, ("train", "test"))
    large = DatasetSpec("large", lambda split: waves("large", 96, 39, 2))

    def auroc(native: int | None) -> float:
        given = dataclasses.replace(at(native), id=own, familiar=(large,), unfamiliar=())
        options = {"benchmark": given, "recipe_options": {"input_size": 96}, "backbone": NETWORK}
        found: float = evaluated(checkpoint, ["ptood"], **options).rows[0]["auroc"]
        return found

    assert auroc(None) > 0.95
    assert 0.35 < auroc(24) < 0.7


def test_the_page_counts_where_familiar_ood_is_harder(checkpoint: Path, tmp_path: Path) -> None:
    results = evaluated(checkpoint, ["ptood", "knn"], backbone=NETWORK, leaderboards=tmp_path)
    gaps = [row for row in results.rows if row["gap"] is not None]
    above = sum(row["gap_low"] > 0 for row in gaps)
    below = sum(row["gap_high"] < 0 for row in gaps)
    page = leaderboard.write(benchmark(), tmp_path).read_text()
    wanted = (
        f"Its interval lies above zero in {above} of {len(gaps)} measurements here, below it in"
    )
    assert f"{wanted} {below}." in page


def test_benchmarks_that_ask_for_no_measure_have_none(checkpoint: Path) -> None:
    near = (of("near-by", 20, 3, 1.0),)
    given = benchmark(familiar=(), unfamiliar=(), near=near)
    rows = evaluated(checkpoint, ["ptood"], benchmark=given, backbone=NETWORK).rows
    assert {(row.get("separability"), row["gap"]) for row in rows} == {(None, None)}


def test_an_id_class_that_was_pre_trained_on_is_warned_of(checkpoint: Path) -> None:
    told: list[str] = []
    results = evaluated(checkpoint, ["ptood"], backbone=NETWORK, report=told.append)
    wanted = "1 of the 3 ID classes of toy are also in the pre-training set: a (tabby, tiger cat"
    assert any(wanted in text for text in results.warnings)
    assert any(wanted in line for line in told)


def test_rows_and_warnings_tell_that_the_gap_has_no_interval(checkpoint: Path) -> None:
    given = benchmark(familiar=(of("seen", 1, 2, 0.4),))
    results = evaluated(checkpoint, ["ptood"], benchmark=given, backbone=NETWORK)
    row = next(row for row in results.rows if row["gap"] is not None)
    assert (row["gap_low"], row["gap_high"]) == (None, None)
    assert any("the gap has no interval: of seen there is one image" in t for t in row["notes"])
    results = evaluated(checkpoint, ["ptood"], backbone=NETWORK)
    assert all(row["gap_low"] < row["gap_high"] for row in results.rows if row["gap"] is not None)
    assert not any("no interval" in text for text in results.warnings)


# the real thing


def test_photographs_are_not_told_from_enlarged_images_by_their_sharpness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIFAR-10 against photographs: through 32 pixels they are no longer all told apart."""
    if not (SHARED / "data" / "cifar10.zip").is_file():
        pytest.skip("the folder with real data is not at hand")
    for name, step in (("cifar10", 10), ("imagenet500", 10)):
        with zipfile.ZipFile(SHARED / "data" / f"{name}.zip") as archive:
            pictures = [one for one in archive.namelist() if one.endswith((".jpg", ".png"))]
            archive.extractall(tmp_path, pictures[::step])
    monkeypatch.setenv("OODBENCH_DATA", str(tmp_path))
    given = oodbench.get_benchmark(benchmark="ptood/cifar10-small")
    monkeypatch.setattr(separability, "__defaults__", (2,))  # folds, each of which takes a second
    found = {}
    for native in (32, None):
        preprocess = dataclasses.replace(given.preprocess, native=native)
        found[native] = oodbench.evaluate(
            benchmark=dataclasses.replace(given, preprocess=preprocess),
            detectors="ptood",
            ood="imagenet500-without:cifar10-small",
            recipe_options={"input_size": 112},
            hardware=CPU,
        ).rows[0]
    assert found[None]["auroc"] - found[32]["auroc"] > 0.1
    assert found[32]["separability"] < found[None]["separability"]
