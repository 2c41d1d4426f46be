"""Options: fields of dataclasses and text; choices; the nearest names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest

import oodbench
from oodbench.data.spectrograms import LogMel
from oodbench.data.transforms import Preprocess
from oodbench.detectors.abet import AbeTASH, AbeTRecipe
from oodbench.detectors.godin import GODIN, DecomposedHead
from oodbench.detectors.modality_discrepancy import ModalityDiscrepancy
from oodbench.detectors.palm import PALM
from oodbench.errors import OODBenchError, OptionError, did_you_mean
from oodbench.method import Recipe
from oodbench.networks.modalities import MultimodalRecipe
from oodbench.options import build, check_choices, either, option, option_types

if TYPE_CHECKING:
    from collections.abc import Sized


@dataclass
class Thing:
    """Fields of all simple types."""

    kind: ClassVar[str] = "thing"
    k: int = 1
    share: float | None = 0.5
    is_whole: bool = True
    sizes: tuple[int, ...] = ()
    metric: Literal["cosine", "euclidean"] = "cosine"
    held: str = option("h", "score")

    def __post_init__(self) -> None:
        check_choices(self, "thing")


def test_options_are_the_fields_by_their_names() -> None:
    assert list(option_types(Thing)) == ["k", "share", "is_whole", "sizes", "metric", "score"]


def test_values_are_read_from_text() -> None:
    text = {"k": "7", "share": "none", "is_whole": "false", "sizes": "1, 2", "score": "g"}
    assert build(Thing, "thing", text) == Thing(7, None, False, (1, 2), held="g")
    assert build(Thing, "thing", {"k": 7, "share": 1, "sizes": [3]}) == Thing(7, 1.0, sizes=(3,))


def test_tuples_are_read_from_text() -> None:
    assert build(Recipe, "recipe", {"milestones": "30, 60"}).milestones == (30, 60)
    assert build(Recipe, "recipe", {"milestones": (30,)}).milestones == (30,)
    with pytest.raises(OptionError, match="milestones"):
        build(Recipe, "recipe", {"milestones": "30,soon"})


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("k", "many", "must be int, not 'many'"),
        ("k", True, "must be int, not True"),
        ("share", "half", "must be float or NoneType, not 'half'"),
        ("is_whole", 1, "must be bool, not 1"),
        ("sizes", "1,x", "must be int, not 'x'"),
        ("metric", "l3", "is 'cosine' or 'euclidean', not 'l3'"),
        ("scor", "h", "no option 'scor'. Did you mean 'score'"),
        ("zzz", "h", "no option 'zzz'. Its options: k, share"),
    ],
)
def test_what_is_no_value_is_refused(name: str, value: object, told: str) -> None:
    with pytest.raises(OptionError) as error:
        build(Thing, "thing", {name: value})
    assert told in str(error.value)
    assert repr(name) in str(error.value)


grey: Any = partial(Preprocess, 8, (0.5,), (0.5,))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (partial(Thing, metric="l3"), "thing: metric is 'cosine' or 'euclidean', not 'l3'."),
        (partial(grey, mode="grey"), "preprocess: mode is 'RGB' or 'L', not 'grey'."),
        (partial(grey, mode="L", resize="no"), "resize is 'stretch', 'crop' or 'centre'"),
        (partial(grey, mode="L", interpolation="x"), "'bilinear' or 'bicubic', not 'x'"),
        (partial(LogMel, 16000, 1.0, pad="no"), "LogMel: pad is 'zero' or 'tile', not 'no'."),
        (partial(Recipe, schedule="no"), "recipe: schedule is 'cosine' or 'step', not 'no'."),
        (partial(MultimodalRecipe, keep="no"), "recipe: keep is 'best' or 'last', not 'no'."),
        (partial(MultimodalRecipe, optimizer="no"), "optimizer is 'adam' or 'sgd', not 'no'."),
        (partial(AbeTRecipe, augment="no"), "'trivial', 'crop-flip' or 'photographs', not 'no'."),
        (partial(AbeTASH, variant="no"), "abet-ash: variant is 'p' or 'b', not 'no'."),
        (partial(PALM, centring="no"), "palm: centring is 'clean' or 'paper', not 'no'."),
        (partial(GODIN, score_func="no"), "godin: score_func is 'h' or 'g', not 'no'."),
        (partial(DecomposedHead, 2, 2, similarity="no"), "'cosine', 'inner' or 'euclid', not"),
        (partial(ModalityDiscrepancy, distance="no"), "'hellinger', 'l1' or 'l2', not 'no'."),
    ],
)
def test_choices_are_those_of_the_annotation(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(OptionError) as error:
        make()
    assert told in str(error.value)


def test_annotations_that_only_a_type_checker_knows() -> None:
    @dataclass(frozen=True)
    class Theirs(Recipe):
        of: Sized = ()

    assert Theirs().epochs == Recipe().epochs


def test_either() -> None:
    assert either(["a"]) == "'a'"
    assert either(["a", "b", 3]) == "'a', 'b' or 3"


def test_the_nearest_names() -> None:
    assert did_you_mean("enregy", ["energy", "msp", "energy"]) == " Did you mean 'energy'?"
    assert did_you_mean("temp", ["temperature", "k"]) == " Did you mean 'temperature'?"
    assert did_you_mean("zzzz", ["energy"]) == ""
    with pytest.raises(OODBenchError, match="Did you mean 'knn'"):
        oodbench.create_detector("kn")
    with pytest.raises(OODBenchError, match="Did you mean 'temperature'"):
        oodbench.create_detector("energy", temp=2)
