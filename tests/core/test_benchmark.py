"""Benchmarks and datasets: what is in them, how they are split, and where they are found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import oodbench
from oodbench import files, get_benchmark
from oodbench.errors import MissingDataError, OptionError, UnknownNameError
from tests.helpers.datasets import names, toy


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100", "cifar100/palm"])
def test_every_benchmark_is_whole(name: str) -> None:
    found = get_benchmark(benchmark=name)
    assert found.name == name
    assert {"train", "test"} <= set(found.id.splits)
    assert found.ood
    assert any(chosen.group == found.protocol.rank_group for chosen in found.ood)
    assert found.citation
    for part in (found.id, *(chosen.spec for chosen in found.ood)):
        assert part.name in oodbench.list_datasets()
        assert part.splits
        assert all([part.description, part.source, part.licence, part.citation])


def test_get_benchmark() -> None:
    assert get_benchmark("cifar100").name == "cifar100"
    assert get_benchmark("cifar100", "cifar100/palm").name == "cifar100/palm"
    assert get_benchmark(benchmark="cifar100/palm").id.name == "cifar100"
    with pytest.raises(OptionError, match=r"'cifar100', not 'cifar10'"):
        get_benchmark("cifar10", "cifar100/palm")
    with pytest.raises(OptionError, match=r'`id="cifar10"`'):
        get_benchmark()
    with pytest.raises(UnknownNameError, match="'cifar100/palm'"):
        get_benchmark(benchmark="cifar100/plam")
    with pytest.raises(OptionError, match="folder:PATH"):
        get_benchmark("folder")


def test_a_registered_benchmark_may_be_a_value_or_a_function() -> None:
    from oodbench.registry import BENCHMARKS

    try:
        oodbench.register_benchmark("toy-value")(toy())
        oodbench.register_benchmark("toy-function")(toy)
        oodbench.register_benchmark("toy-wrong")(lambda: 3)
        assert get_benchmark("toy-value").name == "toy"
        assert get_benchmark("toy-function").name == "toy"
        with pytest.raises(OptionError, match=r"toy-wrong.*int"):
            get_benchmark("toy-wrong")
    finally:
        for name in ("toy-value", "toy-function", "toy-wrong"):
            BENCHMARKS.unregister(name)


def test_choose_nothing_is_all() -> None:
    assert names(toy().choose(None)) == [("n1", "near"), ("n2", "near"), ("f1", "far")]


@given(
    picked=st.lists(st.sampled_from(["n1", "n2", "f1", "mnist", "svhn"]), min_size=1, unique=True)
)
def test_choose_keeps_order_and_groups(picked: list[str]) -> None:
    groups = {"n1": "near", "n2": "near", "f1": "far", "mnist": "far", "svhn": "far"}
    assert names(toy().choose(picked)) == [(name, groups[name]) for name in picked]


def test_choose_a_group() -> None:
    assert names(toy().choose(["near=mnist", "far=n1", "near=n2"])) == [
        ("mnist", "near"),
        ("n1", "far"),
        ("n2", "near"),
    ]


@pytest.mark.parametrize(
    ("picked", "error", "told"),
    [
        (["n1", "n1"], OptionError, "'n1' twice"),
        (["n1", "far=n1"], OptionError, "'n1' twice"),
        (["middle=n1"], OptionError, "not 'middle'"),
        (["=n1"], OptionError, "not ''"),
        ([], OptionError, "no dataset"),
        (["n3"], UnknownNameError, "'n1'"),
        (["mnits"], UnknownNameError, "'mnist'"),
        (["near=svnh"], UnknownNameError, "'svhn'"),
        (["mnist:x"], UnknownNameError, "mnist"),
        (["folder"], UnknownNameError, "folder:PATH"),
        (["folder:"], OptionError, "folder:PATH"),
        (["folder:/no/such/place"], MissingDataError, "/no/such/place"),
        (["../etc"], UnknownNameError, "folder:PATH"),
        ([".."], UnknownNameError, "folder:PATH"),
        ([""], UnknownNameError, "folder:PATH"),
    ],
)
def test_choose_what_is_not_there(picked: list[str], error: type[Exception], told: str) -> None:
    files.data_dir().mkdir(parents=True)
    with pytest.raises(error, match=told):
        toy().choose(picked)


def test_a_mean_bears_its_groups_name_only_over_the_whole_group() -> None:
    bench = toy()
    assert bench.is_complete("near", ["n2", "n1"])
    assert not bench.is_complete("near", ["n1"])
    assert not bench.is_complete("near", ["n1", "n2", "mnist"])
    assert bench.is_complete("far", ["f1"])
    # a benchmark that has no near sets has no near mean that others could compare with
    assert not toy(near=()).is_complete("near", ["n1"])
    # one that defines no sets at all: whatever was chosen is whole
    assert toy(near=(), far=()).is_complete("far", ["mnist"])
