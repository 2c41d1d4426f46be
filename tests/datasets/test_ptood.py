"""The benchmarks of pre-trained networks: groups of sets, and the overlap with ImageNet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import oodbench
from oodbench import Benchmark, Protocol, files, get_benchmark
from oodbench.dataset import resolve_dataset
from oodbench.datasets.imagenet import by_name, overlap
from oodbench.datasets.ptood import NATIVE
from oodbench.datasets.transfer import TEN
from oodbench.errors import OptionError
from oodbench.info import describe
from tests.conftest import write_images
from tests.helpers.datasets import spec
from tests.helpers.datasets import toy as without_own_groups
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
