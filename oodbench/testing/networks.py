"""Networks of methods under check: untrained, or after a few steps on a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import default_collate

from oodbench.benchmark import Benchmark
from oodbench.data.samples import Samples
from oodbench.hardware import Hardware, quiet_lightning
from oodbench.method import Method
from oodbench.networks.backbones import create_backbone
from oodbench.networks.pretrained import PretrainedEncoder
from oodbench.outputs import Outputs
from oodbench.runtime.loading import Loader
from oodbench.tasks.task import task_of
from oodbench.training.epochs import EpochSampler
from oodbench.training.frozen import FrozenMethod

CPU = Hardware(accelerator="cpu", devices="1", workers=0)


def untrained(cls: type[Method], benchmark: Benchmark, seed: int = 0) -> Method:
    """A method's network on a benchmark's backbone, as it is before training."""
    recipe = cls.get_recipe(cls.default_recipe(benchmark.id.name))
    classes = benchmark.id.load("train").classes
    recipe = recipe.for_classes(classes)
    name, preprocess = benchmark.backbone, benchmark.preprocess
    with isolate_rng():
        pl.seed_everything(seed, verbose=False)
        if issubclass(cls, FrozenMethod):
            network = create_backbone(name, preprocess.channels)
            backbone: Any = PretrainedEncoder(name, network, preprocess)  # type: ignore[arg-type]
        else:
            backbone = cls.make_backbone(name, recipe, preprocess)
            backbone = backbone or create_backbone(name, preprocess.channels)
        return cls(backbone, len(classes), recipe)


def trained(
    cls: type[Method],
    benchmark: Benchmark,
    seed: int = 0,
    on_loss: Callable[[dict[str, Tensor]], None] | None = None,
) -> Method:
    """The same after two steps of training, or after ``learn`` of a method for frozen networks.

    Args:
        cls: the method.
        benchmark: whose ID training set is learned.
        seed: of initialisation, order and augmentation.
        on_loss: given what ``loss`` returns.
    """
    method = untrained(cls, benchmark, seed)
    if isinstance(method, FrozenMethod):
        method.learn(outputs_of(method, benchmark), seed=seed)
        return method.eval()
    samples = benchmark.id.load("train")
    task = task_of(benchmark)
    loss = method.loss
    if cls.auxiliary:
        method.beside = samples  # any images will do to take two steps

    def recorded(images: Any, labels: Any) -> dict[str, Tensor]:
        losses = loss(images, labels)
        if on_loss is not None:
            on_loss(losses)
        return losses

    method.loss = recorded  # type: ignore[method-assign]
    with isolate_rng(), quiet_lightning():
        pl.seed_everything(seed, verbose=False)
        data, collate = task.examples(method, samples, benchmark.preprocess, seed)
        loader = Loader(
            data,
            batch_size=len(samples) // 2,
            sampler=EpochSampler(len(samples), seed, len(samples) // 2),
            collate_fn=collate,
        )
        trainer = CPU.trainer(max_epochs=1, logger=False, enable_checkpointing=False)
        trainer.fit(method.train(), loader)
    del method.loss  # the class's own again
    return method.eval()


def inputs_of(benchmark: Benchmark, samples: Samples) -> Any:
    """All samples as a network sees them, as one batch."""
    transform: Any = benchmark.preprocess
    return default_collate([transform(samples[i]) for i in range(len(samples))])


@torch.no_grad()
def outputs_of(method: FrozenMethod, benchmark: Benchmark) -> Outputs:
    """What a frozen network says of the ID training set."""
    samples = benchmark.id.load("train")
    columns = method.trunk.eval().outputs(inputs_of(benchmark, samples))
    features = columns.pop("features")
    return Outputs(features, labels=torch.from_numpy(samples.labels), extra=columns)


def rows(inputs: Any, start: int, end: int) -> Any:
    """Some samples of a batch, which is a tensor or one by modality."""
    if isinstance(inputs, Tensor):
        return inputs[start:end]
    return {name: value[start:end] for name, value in inputs.items()}


def count(inputs: Any) -> int:
    """The number of samples of a batch."""
    return len(inputs) if isinstance(inputs, Tensor) else len(next(iter(inputs.values())))


def closeness(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors, over the size of the second; infinite by shape."""
    if one.shape != other.shape:
        return float("inf")
    if not one.numel():
        return 0.0
    one, other = one.double(), other.double()
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-6))
