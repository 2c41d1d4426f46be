"""What it takes that several processes train what one would: batch norm, and idle parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from oodbench.errors import OODBenchError
from oodbench.hardware import rank_and_world
from oodbench.method import Method


@contextlib.contextmanager
def as_one(method: Method, trainer: pl.Trainer) -> Iterator[None]:
    """In the block, several processes train a method as one with the whole batch would.

    Args:
        method: which is trained.
        trainer: by which; one of a single process is left as it is.

    Raises:
        OODBenchError: processes wait for gradients that there are not, as the method does not say
            that it ``has_idle_parameters``.
    """
    if trainer.world_size == 1:
        yield
        return
    if has_idle_parameters(method) and isinstance(trainer.strategy, DDPStrategy):
        # A parameter that no process has a gradient of stays as it is, as in one process; zeros
        # would let weight decay shrink it. Whoever names such a strategy is not overruled.
        cast(Any, trainer.strategy)._ddp_kwargs.setdefault("find_unused_parameters", True)
    if any(isinstance(module, _BatchNorm) for module in method.modules()):
        method.training_step = _normalised(method.training_step)  # type: ignore[method-assign]
    try:
        yield
    except RuntimeError as error:
        if "Expected to have finished reduction" not in str(error):
            raise
        raise OODBenchError(
            f"the loss of {method.name or type(method).__name__} does not depend on all of its "
            "parameters in every step, and several processes wait for the gradients of all. Say "
            "`has_idle_parameters = True` in its class, or train on one device."
        ) from error
    finally:
        vars(method).pop("training_step", None)


def has_idle_parameters(method: Method) -> bool:
    """Whether in some steps the loss does not depend on some parameters at all.

    Its class says so by an attribute of that name; without one, all take part in each step.
    """
    return bool(getattr(method, "has_idle_parameters", False))


def _normalised(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def with_whole_batches(*args: Any, **options: Any) -> Tensor:
        with _WholeBatches():
            return step(*args, **options)

    return with_whole_batches


class _WholeBatches(TorchFunctionMode):
    """Batch norm by the statistics of all processes' samples, on any device.

    torch's ``SyncBatchNorm`` runs on few devices, and takes the place of layers: of one that does
    more (timm's, with an activation inside) the rest would be lost. So the function is replaced
    that all of them call.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any | None = None
    ) -> Any:
        """Do what was called, but for batch norm that looks at the batch."""
        function = _batch_norm if func is F.batch_norm and rank_and_world()[1] > 1 else func
        return function(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.batch_norm`` over the samples of all processes, ``[N, C, ...]``."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    others = [0, *range(2, x.ndim)]
    channels = [1, -1, *[1] * (x.ndim - 2)]
    own = x.new_full((1,), x.numel() / x.shape[1])
    summed = all_reduce(torch.cat([x.sum(others), own]))
    n = summed[-1].detach()
    mean = summed[:-1] / n
    centred = x - mean.view(channels)
    variance = all_reduce(centred.square().sum(others)) / n
    y = centred * (variance + eps).rsqrt().view(channels)
    if weight is not None:
        y = y * weight.view(channels)
    if bias is not None:
        y = y + bias.view(channels)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
        if running_var is not None:
            running_var.lerp_((variance * n / (n - 1)).to(running_var), momentum)
    back: Tensor = y.to(input.dtype)
    return back
