"""What detectors that look into a network share: its input's scale, its layers' outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from oodbench.errors import MissingOutputError, OptionError
from oodbench.networks.models import outputs_of


def input_std(model: nn.Module, batch: Tensor) -> Tensor | float:
    """The deviation that inputs were divided by, ``[1, C, 1, 1]``; 1 where that is not known."""
    std = getattr(getattr(model, "preprocess", None), "std", None)
    if std is None or len(std) != batch.shape[1]:
        return 1.0
    return torch.tensor(std, dtype=batch.dtype, device=batch.device).view(1, -1, 1, 1)


@contextlib.contextmanager
def hooked(
    modules: Mapping[str, nn.Module], hook: Callable[[str, Tensor], Tensor | None]
) -> Iterator[None]:
    """Calls ``hook(name, output)`` after each of the modules; what it returns replaces the output.

    Modules whose output is no tensor are passed over.
    """

    def on(name: str) -> Callable[[nn.Module, object, object], Tensor | None]:
        def call(_module: nn.Module, _inputs: object, output: object) -> Tensor | None:
            return hook(name, output) if isinstance(output, Tensor) else None

        return call

    handles = [module.register_forward_hook(on(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def modules_of(model: nn.Module, names: Sequence[str], who: str) -> dict[str, nn.Module]:
    """The modules of those names.

    Raises:
        OptionError: the network has no such module.
    """
    modules = dict(model.named_modules())
    unknown = [name for name in names if name not in modules]
    if unknown:
        raise OptionError(
            f"{who}: the network has no layer {unknown[0]!r}. Its layers: "
            f"{', '.join(list(modules)[1:12])} …"
        )
    return {name: modules[name] for name in names}


def last_maps(model: nn.Module, batch: Tensor, who: str) -> tuple[str, ...]:
    """Names of the modules that end the last two stages; see :func:`stage_maps`.

    Their outputs are the last map ``[C, H, W]`` of the network, and the last map of another shape
    before it.

    Raises:
        MissingOutputError: no module gives maps.
    """
    return stage_maps(model, batch, who)[-2:]


def stage_maps(model: nn.Module, batch: Tensor, who: str) -> tuple[str, ...]:
    """Names of the modules that end the stages: the last one of each shape of map ``[C, H, W]``.

    Stages are looked for among the children of the backbone, and inside one of them
    where it gives the only map. Neither pooled features ``[C, 1, 1]`` nor tokens ``[N, D]`` are
    maps, and what gives tokens is not looked into: a convolution there cuts the image into patches.

    Raises:
        MissingOutputError: no module gives maps.
    """
    parent, prefix = model, ""
    while True:
        children = {f"{prefix}{name}": child for name, child in parent.named_children()}
        shapes: dict[str, torch.Size] = {}
        tokens: set[str] = set()

        def note(
            name: str,
            output: Tensor,
            shapes: dict[str, torch.Size] = shapes,
            tokens: set[str] = tokens,
        ) -> None:
            if output.ndim == 3:
                tokens.add(name)
            if output.ndim == 4 and output.shape[2:].numel() > 1:
                shapes.pop(name, None)
                shapes[name] = output.shape[1:]

        with torch.no_grad(), hooked(children, note):
            outputs_of(model)(batch[:1])
        if len(set(shapes.values())) == 1 or (not shapes and len(children) > 0):
            inner = list(shapes) or [n for n, child in children.items() if list(child.children())]
            deeper = [n for n in inner if n not in tokens and list(children[n].children())]
            if deeper:
                parent, prefix = children[deeper[0]], f"{deeper[0]}."
                continue
        if not shapes:
            raise MissingOutputError(
                f"{who} needs a network with feature maps [C, H, W]; none of its layers gives one. "
                "Name its layers (its option `layers`), or choose another detector."
            )
        ends = {shape: name for name, shape in shapes.items()}  # the last name of each shape
        return tuple(name for name, shape in shapes.items() if ends[shape] == name)
