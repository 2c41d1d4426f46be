"""Checks that whatever uses somebody's network leaves it, and the process, as they were.

    from oodbench.testing import network_checks, untouched

    with untouched(network):
        oodbench.evaluate(network, id="cifar10", detectors="msp")

    @pytest.mark.parametrize("check", network_checks(), ids=lambda check: check.__name__)
    def test_mine(check):
        check(make_network, lambda network: evaluate_somehow(network))

What is looked at is taken down here anew, by other means than ``oodbench.runtime.restore`` has.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from oodbench.testing.suite import checks_in

Make = Callable[[], nn.Module]
Use = Callable[[nn.Module], Any]
NetworkCheck = Callable[[Make, Use], None]


def description(network: nn.Module) -> dict[str, Any]:
    """All of a network that a caller can see, by name: two of them differ where it changed."""
    state: dict[str, Any] = {"type": type(network)}
    for name, module in network.named_modules(remove_duplicate=False):
        of = name or "the network"
        state[f"mode of {of}"] = module.training
        state[f"tensors of {of}"] = {
            key: id(tensor)
            for table in (module._parameters, module._buffers)
            for key, tensor in table.items()
        }
        held = vars(module).items()
        state[f"hooks of {of}"] = {
            key: (id(table), {handle: id(hook) for handle, hook in table.items()})
            for key, table in held
            if "_hooks" in key and isinstance(table, dict)
        }
        state[f"attributes of {of}"] = {key: id(value) for key, value in held if key != "training"}
        own = {k: v for k, v in held if isinstance(v, Tensor)}
        for key, tensor in {**module._parameters, **module._buffers, **own}.items():
            if tensor is not None:
                for aspect, value in _aspects(tensor).items():
                    state[f"{aspect} of {name + '.' if name else ''}{key}"] = value
    return state


def _aspects(tensor: Tensor) -> dict[str, Any]:
    return {
        "device": tensor.device,
        "dtype": tensor.dtype,
        "strides": (tuple(tensor.shape), tensor.stride(), tensor.storage_offset()),
        "memory": tensor.data_ptr(),
        "requires_grad": tensor.requires_grad,
        "values": _digest(tensor),
        "gradient": None if tensor.grad is None else (id(tensor.grad), _digest(tensor.grad)),
    }


def _digest(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "nothing"
    flat = tensor.detach().cpu().contiguous().flatten()
    return hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()


def process_description() -> dict[str, Any]:
    """Random numbers and settings of this process that others can see, by name."""
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002
    cudnn = torch.backends.cudnn
    return {
        "random state of Python": random.getstate(),
        "random state of NumPy": repr(legacy) + str(legacy["state"]["key"].tobytes()),
        "random state of PyTorch": torch.get_rng_state().numpy().tobytes(),
        "random state of CUDA": [s.numpy().tobytes() for s in torch.cuda.get_rng_state_all()]
        if cuda
        else [],
        "default dtype": torch.get_default_dtype(),
        "number of threads": torch.get_num_threads(),
        "gradient mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": [torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")],
        "cuDNN's flags": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        "determinism": torch.are_deterministic_algorithms_enabled(),
    }


@contextlib.contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Check that the network and the process are after the block what they were before it.

    Mode, device, type, strides, memory, gradients and values of each tensor, hooks and attributes
    of each module, random numbers and global settings; also where the block ends with an error.

    Raises:
        AssertionError: names what changed.
    """
    before = {**description(network), **process_description()}
    try:
        yield
    finally:
        after = {**description(network), **process_description()}
        changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        assert not changed, f"changed: {', '.join(changed[:8])}{' …' * (len(changed) > 8)}"


class _OnPurposeError(Exception):
    pass


def _leaves(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if not list(m.children())]


def check_training_mode(make: Make, use: Use) -> None:
    """A network in training mode stays in it."""
    network = make().train()
    with untouched(network):
        use(network)


def check_mixed_modes(make: Make, use: Use) -> None:
    """Frozen parts stay in evaluation mode, the others in training mode, and so the reverse."""
    for first in (True, False):
        network = make()
        for i, module in enumerate(network.modules()):
            module.training = (i % 2 == 0) is first
        with untouched(network):
            use(network)


def check_gradients(make: Make, use: Use) -> None:
    """Gradients, and which tensors want them."""
    network = make()
    for i, parameter in enumerate(network.parameters()):
        parameter.grad = torch.ones_like(parameter)
        parameter.requires_grad_(i % 2 == 0)
    with untouched(network):
        use(network)


def check_memory_formats(make: Make, use: Use) -> None:
    """Strides: every other weight of four axes channels last, or a view of something larger."""
    network = make()
    for i, parameter in enumerate(network.parameters()):
        if parameter.ndim == 4 and i % 2:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
        elif parameter.ndim:
            larger = torch.cat([parameter.data, parameter.data])
            parameter.data = larger[: len(parameter)]
    with untouched(network):
        use(network)


def check_hooks(make: Make, use: Use) -> None:
    """Hooks stay, run, and can be taken off."""
    network, calls = make(), []
    modules = list(network.modules())
    handles = [m.register_forward_hook(lambda *_: calls.append(1)) for m in modules]
    handles += [m.register_forward_pre_hook(lambda *_: None) for m in modules]
    handles += [m.register_full_backward_hook(lambda *_: None) for m in modules]
    with untouched(network):
        use(network)
    assert calls, "the network's hooks did not run"
    for handle in handles:
        handle.remove()
    hooks = [h for m in modules for h in (*m._forward_hooks, *m._forward_pre_hooks)]
    assert not hooks, "hooks cannot be taken off any more"


def check_buffers(make: Make, use: Use) -> None:
    """Buffers that a forward pass changes, in place or by a new one."""
    network = make()
    leaf = _leaves(network)[0]
    leaf.register_buffer("calls", torch.zeros(3))
    leaf.register_buffer("last", torch.zeros(1), persistent=False)

    def count(module: Any, *_: Any) -> None:
        module.calls += 1
        module.last = module.last + 1

    leaf.register_forward_pre_hook(count)
    with untouched(network):
        use(network)


def check_random_numbers(make: Make, use: Use) -> None:
    """A network that draws random numbers, of each kind."""
    network = make()

    def draw(*_: Any) -> None:
        random.random()  # noqa: S311
        np.random.rand()  # noqa: NPY002
        torch.rand(1)

    _leaves(network)[0].register_forward_pre_hook(draw)
    with untouched(network):
        use(network)


def check_parametrizations(make: Make, use: Use) -> None:
    """Weights that are computed from others."""
    network = make()
    for leaf in _leaves(network):
        if isinstance(leaf, nn.Conv2d):
            parametrizations.weight_norm(leaf)
    with untouched(network):
        use(network)


def check_shared_weights(make: Make, use: Use) -> None:
    """A tensor that two modules hold stays one."""
    network = make()
    leaf = next(m for m in _leaves(network) if list(m.parameters()))
    network.register_parameter("shared", next(leaf.parameters()))
    with untouched(network):
        use(network)


def check_double(make: Make, use: Use) -> None:
    """A network in float64, used or refused."""
    network = make().double()
    with untouched(network), contextlib.suppress(Exception):
        use(network)


def check_after_an_error(make: Make, use: Use) -> None:
    """An error in the middle of a forward pass, at the first and at a later one."""
    for at in (1, 2):
        network = make().train()
        calls: list[int] = []

        def fail(*_: Any, at: int = at, calls: list[int] = calls) -> None:
            calls.append(1)
            if len(calls) >= at:
                raise _OnPurposeError("on purpose")

        leaves = _leaves(network)
        leaves[len(leaves) // 2].register_forward_hook(fail)
        with untouched(network), contextlib.suppress(Exception):
            use(network)
        assert calls, "the network did not run"


def network_checks() -> list[NetworkCheck]:
    """All checks; each takes what makes a network, and what uses it."""
    return checks_in(globals())
