"""The checks that every training method passes.

    @pytest.mark.parametrize("check", method_checks(), ids=lambda check: check.__name__)
    def test_my_method(check):
        check(MyMethod)

A check builds the method on a small backbone and trains it for two steps on a few drawn samples of
its task. For a task of another package, or a backbone of another kind, give a benchmark as the
second argument: small, in memory, and with a registered backbone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from oodbench.benchmark import Benchmark
from oodbench.method import Method
from oodbench.networks.heads import head_gap
from oodbench.options import build
from oodbench.registry import METHODS, TASKS
from oodbench.testing.drawn import drawn_benchmark
from oodbench.testing.networks import closeness, count, inputs_of, rows, trained, untrained
from oodbench.testing.suite import checks_in, is_frozen, is_json
from oodbench.training.frozen import FrozenMethod
from oodbench.training.processes import has_idle_parameters

MethodCheck = Callable[..., None]
Cls = type[Method]


def _who(cls: Cls) -> str:
    return f"method {cls.name or cls.__name__}"


def _benchmark(cls: Cls, benchmark: Benchmark | None) -> Benchmark:
    """The one that was given, or drawn samples of the method's task."""
    is_usual = cls.backbone_gives in (None, "features")
    chosen = benchmark or drawn_benchmark(cls.task, gives=None if is_usual else cls.backbone_gives)
    return dataclasses.replace(chosen, standard_method=cls.name or "")


def _columns(method: Method, inputs: Any) -> dict[str, Tensor]:
    """What the network says of a batch in evaluation mode."""
    with torch.no_grad():
        return dict(method.eval().outputs(inputs))


def _test_inputs(benchmark: Benchmark) -> Any:
    return inputs_of(benchmark, benchmark.id.load("test"))


def check_described(cls: Cls, benchmark: Benchmark | None = None) -> None:
    """It has a docstring of its own, and its paper, if it has one, a title and an address."""
    text = vars(cls).get("__doc__") or ""
    assert text.strip(), f"{_who(cls)} has no docstring: say in one line what the loss is"
    if cls.paper is not None:
        assert cls.paper.title, f"{_who(cls)}: its paper has no title"
        assert cls.paper.url.startswith("https://"), (
            f"{_who(cls)}: its paper's url is {cls.paper.url!r}; give one that begins with https://"
        )


def check_task(cls: Cls, benchmark: Benchmark | None = None) -> None:
    """``task``, ``stands_for`` and ``fits_detectors_of`` name what is registered, and agree."""
    assert cls.task in TASKS, (
        f"{_who(cls)}: no task {cls.task!r} is registered; there are {', '.join(TASKS.names())}"
    )
    for name in (*cls.fits_detectors_of, *([cls.stands_for] if cls.stands_for else [])):
        assert name in METHODS, f"{_who(cls)} names the method {name!r}, which is not registered"
    if cls.stands_for is not None:
        other = METHODS.get(cls.stands_for)
        assert other.task != cls.task, (
            f"{_who(cls)} stands for {cls.stands_for}, which trains networks of {cls.task} itself; "
            "a method stands for one of another task"
        )


def check_recipes(cls: Cls, benchmark: Benchmark | None = None) -> None:
    """Recipes are frozen dataclasses of JSON values, one is the default of any ID set."""
    assert cls.recipes, f"{_who(cls)} has no recipes: give one, by the name 'quick'"
    default = cls.default_recipe("an ID set that no paper has")
    assert default in cls.recipes, (
        f"{_who(cls)}: the default recipe {default!r} is none of its own "
        f"({', '.join(cls.recipes)}). Name one 'quick'"
    )
    unknown = sorted(set(cls.recipe_ids) - set(cls.recipes))
    assert not unknown, f"{_who(cls)}: recipe_ids names no recipe: {', '.join(unknown)}"
    for name, recipe in cls.recipes.items():
        who = f"{_who(cls)}, recipe {name}"
        assert dataclasses.is_dataclass(recipe) and not isinstance(recipe, type), (
            f"{who} is no object of a dataclass, but {recipe!r}"
        )
        assert is_frozen(recipe), (
            f"{who} can be changed; declare its class with @dataclass(frozen=True)"
        )
        fields = dataclasses.asdict(recipe)
        assert is_json(fields), f"{who} has fields that rows cannot hold as JSON: {fields}"
        again = build(type(recipe), who, json.loads(json.dumps(fields)))
        assert again == recipe, f"{who} is another one when it is read back from JSON"


def check_loss(cls: Cls, benchmark: Benchmark | None = None) -> None:
    """``loss`` gives a finite scalar ``"loss"`` and scalars for the log, and gradients flow."""
    if issubclass(cls, FrozenMethod):
        return

    def examine(losses: dict[str, Tensor]) -> None:
        assert "loss" in losses, f"{_who(cls)}: loss() gives {sorted(losses)}, and no 'loss'"
        for name, value in losses.items():
            assert torch.as_tensor(value).ndim == 0, f"{_who(cls)}: {name!r} of loss() is no scalar"
            assert torch.as_tensor(value).isfinite(), f"{_who(cls)}: {name!r} of loss() is {value}"
        assert losses["loss"].requires_grad, f"{_who(cls)}: the loss is detached from all weights"

    method = trained(cls, _benchmark(cls, benchmark), on_loss=examine)
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert any(gradient.abs().max() > 0 for gradient in gradients), (
        f"{_who(cls)}: no parameter gets a gradient other than zero"
    )


def check_idle_parameters(cls: Cls, benchmark: Benchmark | None = None) -> None:
    """Every parameter gets a gradient, or the class says that some do not in some steps."""
    if issubclass(cls, FrozenMethod):
        return
    method = trained(cls, _benchmark(cls, benchmark))
    idle = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle or has_idle_parameters(method), (
        f"{_who(cls)}: the loss does not depend on {', '.join(idle[:5])}, and several processes "
        "wait for the gradients of all parameters. Say `has_idle_parameters = True` in the class"
    )


def check_training(cls: Cls, benchmark: Benchmark | None = None) -> None:
    """A few steps change weights, and leave them finite."""
    chosen = _benchmark(cls, benchmark)
    before, method = untrained(cls, chosen), trained(cls, chosen)
    if isinstance(method, FrozenMethod) and method.layer() is None:
        return
    old, new = before.state_dict(), method.state_dict()
    assert any(not torch.equal(old[name], value) for name, value in new.items() if name in old), (
        f"{_who(cls)}: training changes no weight"
    )
    wrong = [name for name, value in new.items() if not value.double().isfinite().all()]
    assert not wrong, f"{_who(cls)}: training makes {', '.join(wrong)} NaN or infinite"


def check_same_seed(cls: Cls, benchmark: Benchmark | None = None) -> None:
    """Two runs with one seed give the same weights, bit by bit."""
    chosen = _benchmark(cls, benchmark)
    one, other = (trained(cls, chosen, seed=3).state_dict() for _ in range(2))
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, (
        f"{_who(cls)}: two runs with one seed differ in {', '.join(different[:5])}. Draw from "
        "torch's default generator or the one that is handed over, not from one of its own"
    )


def check_state_dict(cls: Cls, benchmark: Benchmark | None = None) -> None:
    """All that outputs depend on is in ``state_dict``: a network that loads it is the same."""
    chosen = _benchmark(cls, benchmark)
    method, other = trained(cls, chosen), untrained(cls, chosen, seed=2)
    other.load_state_dict(method.state_dict())
    inputs = _test_inputs(chosen)
    expected, columns = _columns(method, inputs), _columns(other, inputs)
    for name, value in expected.items():
        assert torch.equal(columns[name], value), (
            f"{_who(cls)}: {name} are others after load_state_dict(). Keep what training learned "
            "in parameters or registered buffers"
        )


def check_outputs(cls: Cls, benchmark: Benchmark | None = None) -> None:
    """``outputs`` has what the method promises, finite, with one logit per class."""
    chosen = _benchmark(cls, benchmark)
    method, inputs = untrained(cls, chosen), _test_inputs(chosen)
    method.asked = cls.given_if_asked
    columns = _columns(method, inputs)
    whole = {"head", "text"}  # of the network, not of a sample
    promised = {"features", "logits"} if cls.gives is None else set(cls.gives) - whole
    missing = sorted(promised - set(columns))
    assert not missing, (
        f"{_who(cls)}: outputs() lacks {', '.join(missing)}. Give them, or say what there is in "
        f"`gives`; it has {', '.join(sorted(columns))}"
    )
    assert "head" not in (cls.gives or ()) or method.head() is not None, (
        f"{_who(cls)} says in `gives` that there is a head, but head() is None"
    )
    for name, value in columns.items():
        assert value.isfinite().all(), f"{_who(cls)}: {name} are NaN or infinite"
    if "logits" in columns:
        width = columns["logits"].shape[1]
        assert width == method.num_classes, (
            f"{_who(cls)}: logits are {width} wide, not as many as there are classes "
            f"({method.num_classes})"
        )
    lengths = {name: len(value) for name, value in columns.items()}
    assert len(set(lengths.values())) == 1, (
        f"{_who(cls)}: outputs() gives columns of different lengths: {lengths}"
    )
    if TASKS.get(cls.task).rows_are_samples:
        n = count(inputs)
        assert set(lengths.values()) == {n}, f"{_who(cls)}: {n} samples give {lengths} rows"


def check_batch_size(cls: Cls, benchmark: Benchmark | None = None) -> None:
    """In evaluation mode a sample's outputs do not depend on those beside it, and are in order."""
    chosen = _benchmark(cls, benchmark)
    method, inputs = untrained(cls, chosen), _test_inputs(chosen)
    whole = _columns(method, inputs)
    each = [_columns(method, rows(inputs, i, i + 1)) for i in range(count(inputs))]
    for name, value in whole.items():
        if value.is_floating_point():
            gap = closeness(torch.cat([one[name] for one in each]), value)
            assert gap < 1e-4, (
                f"{_who(cls)}: {name} of a sample depend on the batch that it is in ({gap:.2g} of "
                "their size off), or are in another order"
            )


def check_deterministic(cls: Cls, benchmark: Benchmark | None = None) -> None:
    """In evaluation mode outputs are the same each time, and looking changes no weight."""
    chosen = _benchmark(cls, benchmark)
    method, inputs = untrained(cls, chosen), _test_inputs(chosen)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    one, other = _columns(method, inputs), _columns(method, inputs)
    for name, value in one.items():
        assert torch.equal(other[name], value), f"{_who(cls)}: {name} are others the second time"
    changed = [n for n, value in method.state_dict().items() if not torch.equal(state[n], value)]
    assert not changed, f"{_who(cls)}: outputs() changes {', '.join(changed)} in evaluation mode"


def check_head(cls: Cls, benchmark: Benchmark | None = None) -> None:
    """``head()``, where there is one, turns the features into the logits."""
    chosen = _benchmark(cls, benchmark)
    method = trained(cls, chosen)
    columns, head = _columns(method, _test_inputs(chosen)), method.head()
    if head is None or not {"features", "logits"} <= set(columns):
        return
    gap = head_gap(head, columns["features"], columns["logits"])
    assert gap < 1e-3, (
        f"{_who(cls)}: head() does not give the logits of the features ({gap:.2g} of their size "
        "off). Let it be that layer, or None"
    )


def method_checks() -> list[MethodCheck]:
    """All checks, in the order of this file; each takes the method's class."""
    return checks_in(globals())
