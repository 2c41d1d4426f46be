"""The registry: names from entry points and decorators, "did you mean", nothing imported early."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

import oodbench
from oodbench import cli, registry
from oodbench.errors import OODBenchError, UnknownNameError, nearest_names
from oodbench.registry import Registry

GROUP = "oodbench.detectors"
KINDS = (
    registry.DETECTORS,
    registry.METHODS,
    registry.BENCHMARKS,
    registry.DATASETS,
    registry.BACKBONES,
    registry.TASKS,
    registry.MEASURES,
    registry.NEEDS,
    registry.PREPARATIONS,
)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Lays out an installed package, as pip would: its module, and metadata with entry points."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def make(package: str, source: str, **points: str) -> None:
        (tmp_path / f"{package}.py").write_text(source)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))
        importlib.invalidate_caches()

    yield make
    for name in set(sys.modules) - before:
        del sys.modules[name]


def fresh() -> Registry:
    return Registry("detector", GROUP)


def test_own_plugins_are_found_by_entry_points() -> None:
    assert {"msp", "maxlogit", "energy", "knn", "mahalanobis", "palm"} <= set(
        oodbench.list_detectors()
    )
    assert {"ce", "palm"} <= set(oodbench.list_methods())
    assert {"digits", "cifar10", "cifar100", "cifar100/palm", "folder"} <= set(
        oodbench.list_benchmarks()
    )
    assert {"digits", "cifar10", "cifar100", "mnist", "svhn"} <= set(oodbench.list_datasets())


@pytest.mark.parametrize(
    "names",
    [
        oodbench.list_detectors,
        oodbench.list_methods,
        oodbench.list_benchmarks,
        oodbench.list_datasets,
    ],
)
def test_lists_are_sorted_and_without_repetition(names) -> None:
    assert names() == sorted(set(names()))


def test_another_packages_entry_point(install) -> None:
    install(
        "theirs",
        '"""Module."""\nclass Theirs:\n    """Their score.\n\n    More."""\n',
        their_detector="theirs:Theirs",
    )
    names = fresh()
    assert "their_detector" in names
    assert "their_detector" in names.names()
    assert names.summary("their_detector") == "Their score."
    assert "theirs" not in sys.modules, "listing and summaries must not import"
    assert names.get("their_detector").__name__ == "Theirs"
    assert names.get("their_detector") is names.get("their_detector")


def test_two_packages_with_the_same_name(install) -> None:
    install("one", "class A: ...\n", same="one:A")
    install("two", "class B: ...\n", same="two:B")
    names = fresh()
    assert {"same", "msp"} <= set(names.names()), "a conflict concerns one name, not the others"
    for _ in range(2):  # asking again must not hide it
        with pytest.raises(OODBenchError, match="'same'") as error:
            names.get("same")
        assert "one:A" in str(error.value)
        assert "two:B" in str(error.value)


def test_the_same_declaration_twice_is_no_conflict(install, tmp_path: Path) -> None:
    install("one", "class A: ...\n", same="one:A")
    # an editable install leaves an .egg-info beside the .dist-info
    other = tmp_path / "one.egg-info"
    other.mkdir()
    (other / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: one-again\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text(f"[{GROUP}]\nsame = one:A\n")
    importlib.invalidate_caches()
    assert "same" in fresh().names()


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("import no_such_module_at_all\n", "broken:A"),
        ("class A: ...\n", "broken:B"),
        ("class A: ...\n", "not_there_either:A"),
        ("class A: ...\n", "not_there_either.deep:A"),
        ("def (:\n", "broken:A"),
    ],
)
def test_a_broken_package_does_not_hide_the_others(install, source: str, value: str) -> None:
    install("broken", source, bad=value)
    names = fresh()
    assert {"bad", "msp"} <= set(names.names())
    assert names.summary("bad") == ""
    assert names.summary("msp")
    if "def (" not in source:
        with pytest.raises(OODBenchError, match="bad") as error:
            names.get("bad")
        assert value in str(error.value)


def test_decorator() -> None:
    names = fresh()

    @names.register("mine")
    class Mine:
        """My score.

        And more of it.
        """

    assert Mine.name == "mine"  # type: ignore[attr-defined]
    assert names.get("mine") is Mine
    assert "mine" in names.names()
    assert names.summary("mine") == "My score."
    names.unregister("mine")
    assert "mine" not in names.names()


def test_a_cell_that_runs_again_replaces_its_definition() -> None:
    names = fresh()

    def cell(version: int) -> type:
        @names.register("mine")
        class Mine:
            number = version

        return Mine

    first = cell(1)
    assert names.get("mine") is first
    cell(2)
    assert names.get("mine").number == 2


def test_a_taken_name_is_refused() -> None:
    names = fresh()

    @names.register("mine")
    class One: ...

    with pytest.raises(OODBenchError, match="taken") as error:

        @names.register("mine")
        class Two: ...

    assert "One" in str(error.value)
    assert "Two" in str(error.value)
    assert names.get("mine") is One


def test_the_name_of_an_installed_plugin_is_taken() -> None:
    names = fresh()
    with pytest.raises(OODBenchError, match="taken"):

        @names.register("msp")
        class Other: ...

    assert names.get("msp").__name__ == "MSP"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("enregy", "energy"), ("mahalanobi", "mahalanobis"), ("maxlogits", "maxlogit")],
)
def test_unknown_name_suggests_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        registry.DETECTORS.get(wrong)
    message = str(error.value)
    assert repr(wrong) in message
    assert repr(right) in message
    # an entry point that was just added is not seen before the editable install is repeated
    assert "pip install -e" in message


def test_unknown_name_without_a_near_one() -> None:
    with pytest.raises(UnknownNameError) as error:
        registry.METHODS.get("zzzzzzzz")
    assert "Did you mean" not in str(error.value)
    assert "oodbench list methods" in str(error.value)


@given(name=st.text(max_size=30).filter(lambda text: text not in oodbench.list_detectors()))
def test_any_other_text_is_a_clear_error(name: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        registry.DETECTORS.get(name)
    assert repr(name) in str(error.value)


def test_argument_after_a_colon() -> None:
    names = fresh()
    names.register("shout")(lambda text: text.upper())
    names.register("constant")(3)
    assert names.resolve("shout:./a:b") == "./A:B"  # only the first colon separates
    assert names.resolve("shout:") == ""
    assert names.resolve("constant") == 3
    with pytest.raises(UnknownNameError, match="'constant' takes nothing after a colon"):
        names.resolve("constant:x")
    with pytest.raises(UnknownNameError, match="'nothing'"):
        names.resolve("nothing:x")


def test_summaries_are_first_lines_of_docstrings() -> None:
    for names in (registry.DETECTORS, registry.METHODS, registry.BENCHMARKS):
        for name in names.names():
            thing = names.get(name)
            assert names.summary(name) == (thing.__doc__ or "").strip().partition("\n")[0]


def test_public_names_are_lazy_and_complete() -> None:
    assert {"Outputs", "Head", "Detector", "Method", "Benchmark", "Evaluator", "evaluate"} <= set(
        oodbench.__all__
    )
    assert {"list_detectors", "create_detector", "register_detector"} <= set(oodbench.__all__)
    for name in oodbench.__all__:
        assert getattr(oodbench, name) is not None
        assert name in dir(oodbench)
    assert oodbench.metrics.__name__ == "oodbench.metrics"
    with pytest.raises(AttributeError, match="no_such_thing"):
        getattr(oodbench, "no_such_thing")  # noqa: B009


# What a kind is called


def test_hints_name_a_command_and_a_decorator_that_exist() -> None:
    commands = typer.main.get_command(cli.app).commands["list"].commands  # type: ignore[attr-defined]
    for names in KINDS:
        with pytest.raises(UnknownNameError) as error:
            names.get("zzzzzzzz")
        told = str(error.value)
        assert f"no {names.kind} named" in told
        (command,) = re.findall(r"`oodbench list ([^`]*)`", told)
        assert command in commands
        (decorator,) = re.findall(r"@oodbench\.(\w+)", told)
        assert callable(getattr(oodbench, decorator))
        assert decorator in oodbench.__all__


def test_a_registry_of_things_with_an_irregular_plural() -> None:
    names: Registry = Registry(
        "matrix", "tests.matrices", plural="matrices", decorator="register_matrix_of_mine"
    )
    with pytest.raises(UnknownNameError) as error:
        names.get("x")
    assert "`oodbench list matrices`" in str(error.value)
    assert "@oodbench.register_matrix_of_mine" in str(error.value)


# Aliases


def test_an_alias_forwards_and_is_listed_once() -> None:
    names = fresh()

    @names.register("mine")
    class Mine:
        """My score."""

    names.alias("yours", "mine")
    names.alias("theirs", "yours")
    assert names.get("yours") is names.get("theirs") is Mine
    assert Mine.name == "mine"  # type: ignore[attr-defined]
    assert "yours" in names
    assert not {"yours", "theirs"} & set(names.names())
    assert names.aliases() == {"yours": "mine", "theirs": "mine"}
    assert names.canonical("theirs") == "mine"
    assert names.canonical("msp") == "msp"
    assert names.summary("theirs") == "My score."
    names.alias("yours", "mine")  # again, as in a notebook
    with pytest.raises(OODBenchError, match="taken"):
        names.alias("msp", "mine")
    with pytest.raises(OODBenchError, match="'mine', of which it is an alias"):
        names.register("yours")(object)
    with pytest.raises(UnknownNameError, match=r"'minne'.*'mine'"):
        names.alias("other", "minne")
    names.unregister("yours")
    assert "yours" not in names
    assert names.get("theirs") is Mine


def test_an_alias_among_entry_points(install) -> None:
    install(
        "theirs",
        'class Theirs:\n    """Their score."""\n',
        old_name="theirs:Theirs [alias]",
        new_name="theirs:Theirs",
    )
    names = fresh()
    assert "new_name" in names.names()
    assert "old_name" not in names.names()
    assert "old_name" in names
    assert names.summary("old_name") == "Their score."
    assert "theirs" not in sys.modules
    assert names.get("old_name") is names.get("new_name")


def test_an_alias_of_nothing_is_a_name(install) -> None:
    install("theirs", "class Theirs: ...\n", lonely="theirs:Theirs [alias]")
    assert "lonely" in fresh()
    assert "lonely" not in fresh().names() or fresh().get("lonely").__name__ == "Theirs"


# Descriptions of constants


def test_a_constant_is_described_by_what_it_was_made_with(install) -> None:
    install(
        "theirs",
        '"""Sets of theirs."""\n'
        "from no_such_module import Set, prose\n"
        'ONE = Set("one", description="The first of the two "\n    "sets.\\nMore of it.")\n'
        'TWO: Set = Set("two", description="The second.")\n'
        "OTHER = Set(description=prose)\n"
        'LATE = object()\n',
        one="theirs:ONE", two="theirs:TWO", other="theirs:OTHER", late="theirs:LATE",
    )  # fmt: skip
    names = fresh()
    assert names.summary("one") == "The first of the two sets."
    assert names.summary("two") == "The second."
    assert names.summary("other") == names.summary("late") == "Sets of theirs."
    assert "theirs" not in sys.modules


def test_a_registered_object_is_described_by_its_description() -> None:
    names = fresh()
    names.register("one")(SimpleNamespace(description="The first.\nMore."))
    names.register("two")(partial(documented, 3))
    assert names.summary("one") == "The first."
    assert names.summary("two") == "What a function does."


def documented(number: int) -> int:
    """What a function does.

    At length.
    """
    return number


# Nearest names


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("KNN", "knn"),  # whatever the case
        ("resnet02", "resnet20"),  # two characters in the wrong order
        ("scenes", "scenes-unet"),  # a beginning
        ("mahalanobi", "mahalanobis"),
    ],
)
def test_the_nearest_name_comes_first(typed: str, first: str) -> None:
    known = ["knn", "nnk-x", "resnet32", "resnet20", "resnet50", "scenes-unet", "mahalanobis"]
    assert nearest_names(typed, known)[0] == first


def test_preferred_names_come_first_where_others_are_as_near() -> None:
    assert nearest_names("resnet2", ["resnet26", "resnet50"], ["resnet20"])[0] == "resnet20"
    assert nearest_names("seresnet5", ["seresnet50"], ["resnet20"])[0] == "seresnet50"
    assert nearest_names("zzzzzz", ["resnet26"], ["resnet20"]) == []
    assert nearest_names("", ["a"], ["b"]) == []
    assert len(nearest_names("resnet", [f"resnet{i}" for i in range(9)], most=2)) == 2
