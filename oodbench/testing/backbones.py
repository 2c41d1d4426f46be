"""The checks that every backbone passes.

    @pytest.mark.parametrize("check", backbone_checks(), ids=lambda check: check.__name__)
    def test_my_backbone(check):
        check(my_backbone)

A check takes what was registered: what makes the network when it is called with ``channels=``. By
default it sees images ``[3, 3, 32, 32]``; give other inputs as the second argument, a tensor
``[B, C, ...]``, or for a backbone of several modalities a mapping from their names to tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from oodbench.registry import backbone_kind
from oodbench.testing.networks import closeness, count, rows
from oodbench.testing.suite import checks_in

Make = Callable[..., Any]
Inputs = Tensor | Mapping[str, Tensor]
BackboneCheck = Callable[..., None]


def _who(make: Make) -> str:
    return f"backbone {getattr(make, '__name__', None) or make!r}"


def _inputs(make: Make, inputs: Inputs | None) -> Inputs:
    if inputs is not None:
        return inputs
    assert backbone_kind(make).takes != "modalities", (
        f"{_who(make)} takes modalities: give the check their tensors, by name"
    )
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _network(make: Make, inputs: Inputs, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, for such inputs."""
    if isinstance(inputs, Tensor):
        channels: Any = inputs.shape[1]
    else:
        channels = {name: value.shape[1] for name, value in inputs.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = make(channels=channels)
    assert isinstance(network, nn.Module), f"{_who(make)} makes no torch.nn.Module: {network!r}"
    return network.eval()


def _columns(network: Any, inputs: Inputs) -> dict[str, Tensor]:
    """What the network gives, by name; ``features`` where it gives one tensor."""
    call = network.outputs if hasattr(network, "outputs") else network
    outputs = call(tree_map(torch.clone, inputs))
    columns = {"features": outputs} if isinstance(outputs, Tensor) else dict(outputs)
    return {name: value for name, value in columns.items() if value.is_floating_point()}


def check_described(make: Make, inputs: Inputs | None = None) -> None:
    """It has a docstring or a description, one line for ``oodbench list backbones``."""
    text = getattr(make, "description", None) or getattr(make, "__doc__", None) or ""
    assert text.strip(), f"{_who(make)} has no docstring: say in one line what network it is"


def check_declared(make: Make, inputs: Inputs | None = None) -> None:
    """What it takes, where that is said, is a word that is known, and is what it is given."""
    takes = backbone_kind(make).takes
    assert takes in (None, "images", "modalities"), (
        f"{_who(make)} says that it takes {takes!r}; say 'images' or 'modalities', or nothing"
    )
    kind = "images" if isinstance(_inputs(make, inputs), Tensor) else "modalities"
    assert takes in (None, kind), f"{_who(make)} says that it takes {takes}, but is given {kind}"
    gives = backbone_kind(make).gives
    assert gives is None or (isinstance(gives, str) and gives), (
        f"{_who(make)} says that it gives {gives!r}; say 'features', or another word"
    )


def check_channels(make: Make, inputs: Inputs | None = None) -> None:
    """It is made for as many channels as it is told."""
    inputs = _inputs(make, inputs)
    try:
        network = _network(make, inputs)
    except TypeError as error:
        raise AssertionError(
            f"{_who(make)} cannot be made with channels=, the input channels: {error}"
        ) from error
    with torch.no_grad():
        try:
            _columns(network, inputs)
        except RuntimeError as error:
            raise AssertionError(
                f"{_who(make)} was made for these inputs' channels, but cannot take them: {error}"
            ) from error


def check_width(make: Make, inputs: Inputs | None = None) -> None:
    """``num_features`` is the width of what it gives; of features ``[B, D]`` there are B."""
    inputs = _inputs(make, inputs)
    network = _network(make, inputs)
    width = getattr(network, "num_features", None)
    assert isinstance(width, int), (
        f"{_who(make)} does not say how wide its features are: set num_features, an int"
    )
    with torch.no_grad():
        columns = _columns(network, inputs)
    parts = [columns["features"]] if "features" in columns else list(columns.values())
    there = sum(part.shape[1] for part in parts)
    assert there == width, f"{_who(make)} says num_features {width}, but gives {there}"
    if backbone_kind(make).gives in (None, "features"):
        n = count(inputs)
        for part in parts:
            assert part.ndim == 2 and len(part) == n, (
                f"{_who(make)} gives features of the shape {list(part.shape)}; pool them to "
                f"[{n}, {part.shape[1]}], or declare with `gives` what they are"
            )


def check_finite(make: Make, inputs: Inputs | None = None) -> None:
    """What it gives is finite, and in float32 of float32 inputs."""
    inputs = _inputs(make, inputs)
    with torch.no_grad():
        columns = _columns(_network(make, inputs), inputs)
    assert columns, f"{_who(make)} gives nothing that is a float"
    for name, value in columns.items():
        assert value.isfinite().all(), f"{_who(make)} gives {name} that are NaN or infinite"
        assert value.dtype == torch.float32, f"{_who(make)} gives {name} in {value.dtype}"


def check_batch_size(make: Make, inputs: Inputs | None = None) -> None:
    """In evaluation mode a sample's features do not depend on those beside it."""
    inputs = _inputs(make, inputs)
    network = _network(make, inputs)
    with torch.no_grad():
        whole = _columns(network, inputs)
        each = [_columns(network, rows(inputs, i, i + 1)) for i in range(count(inputs))]
    for name, value in whole.items():
        gap = closeness(torch.cat([one[name] for one in each]), value)
        assert gap < 1e-4, (
            f"{_who(make)}: {name} of a sample depend on the batch that it is in ({gap:.2g} of "
            "their size off), or are in another order"
        )


def check_deterministic(make: Make, inputs: Inputs | None = None) -> None:
    """In evaluation mode it gives the same each time, and looking changes no weight."""
    inputs = _inputs(make, inputs)
    network = _network(make, inputs)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        one, other = _columns(network, inputs), _columns(network, inputs)
    for name, value in one.items():
        assert torch.equal(other[name], value), f"{_who(make)}: {name} differ the second time"
    changed = [n for n, value in network.state_dict().items() if not torch.equal(state[n], value)]
    assert not changed, f"{_who(make)} changes {', '.join(changed)} in evaluation mode"


def check_inputs_untouched(make: Make, inputs: Inputs | None = None) -> None:
    """It leaves its inputs as they are."""
    inputs = _inputs(make, inputs)
    network: Any = _network(make, inputs)
    before = [value.clone() for value in tree_leaves(inputs)]
    with torch.no_grad():
        (network.outputs if hasattr(network, "outputs") else network)(inputs)
    assert all(map(torch.equal, tree_leaves(inputs), before)), (
        f"{_who(make)} changes the images that it is given. Is its first layer in place?"
    )


def check_gradients(make: Make, inputs: Inputs | None = None) -> None:
    """Gradients reach the first layer: the network can be trained."""
    inputs = _inputs(make, inputs)
    network = _network(make, inputs)
    first = next(network.parameters(), None)
    assert first is not None, f"{_who(make)} has no parameters"
    values = _columns(network, inputs).values()
    total = sum(value.square().sum() for value in values if value.requires_grad)
    assert isinstance(total, Tensor), f"{_who(make)} gives what is detached from its weights"
    total.backward()
    assert first.grad is not None and first.grad.abs().max() > 0, (
        f"{_who(make)}: no gradient reaches its first weight. Is something detached or frozen?"
    )


def check_same_seed(make: Make, inputs: Inputs | None = None) -> None:
    """Made twice from one seed it has the same weights, bit by bit."""
    inputs = _inputs(make, inputs)
    one, other = (_network(make, inputs, seed=5).state_dict() for _ in range(2))
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, (
        f"{_who(make)}: {', '.join(different[:5])} differ between two networks from one seed. Draw "
        "from torch's default generator"
    )


def check_state_dict(make: Make, inputs: Inputs | None = None) -> None:
    """Another network that loads its ``state_dict`` gives the same."""
    inputs = _inputs(make, inputs)
    network, other = _network(make, inputs, seed=1), _network(make, inputs, seed=2)
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        expected, columns = _columns(network, inputs), _columns(other, inputs)
    for name, value in expected.items():
        assert torch.equal(columns[name], value), (
            f"{_who(make)}: {name} are others after load_state_dict(). Keep all that was drawn in "
            "parameters or registered buffers"
        )


def backbone_checks() -> list[BackboneCheck]:
    """All checks, in the order of this file; each takes what makes the network."""
    return checks_in(globals())
