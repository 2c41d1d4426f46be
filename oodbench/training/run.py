"""Training runs: what determines one, and where it lies. Nothing is trained here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from oodbench import files
from oodbench.benchmark import Benchmark
from oodbench.caching.fingerprint import code_digest, weights_digest
from oodbench.checks.classes import check_classes, id_samples
from oodbench.checks.unseen import auxiliary_set, check_unseen
from oodbench.data.samples import Samples
from oodbench.data.transforms import content_key
from oodbench.errors import OptionError
from oodbench.method import BaseRecipe, Method, told_fields
from oodbench.networks.backbones import check_backbone, is_registered, starting_backbone
from oodbench.networks.pretrained import PretrainedEncoder
from oodbench.options import build
from oodbench.registry import METHODS, STANDARD_METHOD
from oodbench.runtime.numbers import precision_name
from oodbench.tasks.task import method_of
from oodbench.training.frozen import FrozenMethod

VERSION = 2
"""Part of every run's key; raised when the same settings would train another network."""


@dataclass(frozen=True)
class Run:
    """One training run: what it is, and where.

    Args:
        method: its registered name.
        recipe_name: ``"published"``, ``"quick"`` …
        recipe: all hyper-parameters.
        backbone: the network's name.
        seed: of initialisation, order and augmentation.
        benchmark: whose ID training set and preprocessing.
        samples: the ID training set.
        checkpoint: weights that training starts from, or None.
        precision: ``Hardware.numbers`` of the training; others give another network.
    """

    method: str
    recipe_name: str
    recipe: BaseRecipe
    backbone: str
    seed: int
    benchmark: Benchmark
    samples: Samples
    checkpoint: str | None = None
    precision: str = "32-true"

    @cached_property
    def key(self) -> str:
        """Hex digest of all that determines the run's result."""
        return files.digest(
            {
                "version": VERSION,
                "method": self.method,
                "code": code_digest(METHODS.get(self.method)),
                "recipe": self._recipe(),
                "backbone": self.backbone,
                "seed": self.seed,
                "precision": self.precision,
                "samples": self.samples.fingerprint,
                **self._starts_from(),
                **self._after(),
            }
        )

    def _recipe(self) -> dict[str, Any]:
        """The recipe's fields; a set of images is told by its content, whatever it is called."""
        fields = told_fields(self.recipe)
        if self.auxiliary is not None:
            fields[METHODS.get(self.method).auxiliary] = self.auxiliary.fingerprint
        return fields

    @cached_property
    def auxiliary(self) -> Samples | None:
        """The further set of images that training sees beside the ID set; None for none.

        Raises:
            OptionError: the method wants one, and the recipe names none.
            UnknownNameError: there is no dataset of the name.
            MissingDataError: it is not on this machine.
        """
        field = METHODS.get(self.method).auxiliary
        return auxiliary_set(self.method, self.recipe, field) if field else None

    def _after(self) -> dict[str, Any]:
        """The run before it, and what an epoch is chosen on; nothing where there is neither."""
        parts: dict[str, Any] = {}
        if self.start is not None:
            parts["start"] = self.start.key
        if self.validation is not None:
            parts["validation"] = self.validation.fingerprint
        return parts

    @cached_property
    def start(self) -> Run | None:
        """The run whose trained backbone it starts from; None if it starts from other weights.

        It is of the same network, data, seed and precision. Recipes name it in ``start_from``, as
        ``METHOD/RECIPE``; a checkpoint takes its place.
        """
        source = self.recipe.start_from
        if source is None or self.checkpoint is not None:
            return None
        method, _, recipe_name = source.partition("/")
        recipe = METHODS.get(method).get_recipe(recipe_name)
        recipe = replace(recipe, backbone=self.backbone)
        return replace(self, method=method, recipe_name=recipe_name, recipe=recipe)

    @cached_property
    def validation(self) -> Samples | None:
        """The ID validation set that an epoch is chosen on; None where the last one is kept.

        Raises:
            OptionError: the recipe asks for the best epoch, and the ID set has no such split.
        """
        if self.recipe.keep != "best":
            return None
        if "val" not in self.benchmark.id.splits:
            raise OptionError(
                f"recipe {self.recipe_name} of {self.method} keeps the epoch that is best on a "
                f"validation split, which {self.benchmark.id.name} has not. Keep the last one: "
                "`recipe_options` keep=last."
            )
        val = self.benchmark.id.load("val")
        check_classes(val, self.samples)
        return val

    def _starts_from(self) -> dict[str, Any]:
        """The weights that it starts from, and what they see."""
        encoder = self.encoder
        if encoder is None:
            parts = {
                "preprocess": content_key(self.benchmark.preprocess),
                "flip": self.benchmark.preprocess.flip,
                "checkpoint": self.checkpoint and files.sha256(Path(self.checkpoint)),
            }
            return parts if self._named is None else {**parts, "named": self._named}
        # a name on a hub does not pin the weights
        return {
            "preprocess": content_key(encoder.own_preprocess),
            "encoder": weights_digest(encoder),
        }

    @cached_property
    def _named(self) -> str | None:
        """A digest of the weights that a method finds by a name of its own; None for others."""
        cls = METHODS.get(self.method)
        if not cls.names_backbones or is_registered(self.backbone):
            return None
        preprocess = self.benchmark.preprocess
        found = cls.make_backbone(self.backbone, self.recipe, preprocess, self.checkpoint)
        return None if found is None else weights_digest(found)

    @property
    def folder(self) -> Path:
        """The run's folder in the cache."""
        id_name = re.sub("[^A-Za-z0-9]", "-", self.benchmark.id.name)[-40:]
        backbone = re.sub("[^A-Za-z0-9_.-]", "-", self.backbone)[-60:]
        name = f"{self.method}-{id_name}-{backbone}-seed{self.seed}-{self.key[:16]}"
        return files.cache_dir() / "runs" / name

    @property
    def weights(self) -> Path:
        """The file of the finished weights."""
        return self.folder / "weights.safetensors"

    @cached_property
    def encoder(self) -> PretrainedEncoder | None:
        """The pre-trained network of a method that does not train it; made once per run."""
        cls = METHODS.get(self.method)
        if not issubclass(cls, FrozenMethod):
            return None
        preprocess = self.benchmark.preprocess
        encoder: PretrainedEncoder = cls.make_backbone(
            self.backbone, self.recipe, preprocess, self.checkpoint
        )
        return encoder

    def build(self) -> Method:
        """The untrained module; the random state must be set before."""
        return untrained(
            self.method,
            self.recipe,
            self.backbone,
            self.benchmark.preprocess,
            len(self.samples.classes),
            self.checkpoint,
            self.encoder,
        )


def untrained(
    method: str,
    recipe: BaseRecipe,
    backbone: str,
    preprocess: Any,
    classes: int,
    checkpoint: str | None = None,
    encoder: PretrainedEncoder | None = None,
) -> Method:
    """The network that a method begins with; the random state must be set before.

    Args:
        method: its registered name.
        recipe: how it will be trained.
        backbone: the network's name.
        preprocess: of what it sees.
        classes: how many it tells apart.
        checkpoint: weights that it starts from, or None.
        encoder: the pre-trained network of a method that does not train it, where it is made.
    """
    cls = METHODS.get(method)
    body = encoder or cls.make_backbone(backbone, recipe, preprocess, checkpoint)
    if body is None:
        body = starting_backbone(backbone, preprocess.channels, checkpoint, cls.backbone_gives)
    return cls(body, classes, recipe)


def plan(
    benchmark: Benchmark,
    method: str = STANDARD_METHOD,
    *,
    recipe: str | None = None,
    backbone: str | None = None,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    precision: str = "32-true",
) -> Run:
    """The run that these words describe; nothing is trained.

    Args:
        benchmark: whose ID set is learned.
        method: registered name.
        recipe: the recipe's name; None for the method's default on this ID set.
        backbone: overrides the recipe's.
        seed: non-negative.
        overrides: recipe fields and their values, which may be text.
        checkpoint: weights that it starts from: of its pre-training, for a frozen network.
        precision: ``Hardware.numbers`` of the hardware that it will be trained on.

    Raises:
        UnknownNameError: no such method, recipe or backbone.
        OptionError: no such recipe field, or a value that it cannot take; or a backbone of other
            inputs, or one that gives something else than the method reads.
        DataError: fewer than two ID classes, or no training data.
        MissingDataError: no validation data, where the recipe chooses an epoch on it; or no
            further set of images, where the method sees one beside the ID set.
        DataError: that set has images that the benchmark tests on.
    """
    method = method_of(benchmark, method)
    cls = METHODS.get(method)
    recipe_name = recipe or cls.default_recipe(benchmark.id.name)
    base = cls.get_recipe(recipe_name)
    if overrides:
        fields = {**asdict(base), **overrides}
        base = build(type(base), f"recipe {recipe_name} of {method}", fields)
    name = backbone or base.backbone or benchmark.backbone
    if not cls.names_backbones:
        check_backbone(name, benchmark.preprocess.channels, cls.backbone_gives)
    samples = id_samples(benchmark, "train")
    run = Run(
        method,
        recipe_name,
        replace(base, backbone=name).for_classes(samples.classes),
        name,
        seed,
        benchmark,
        samples,
        None if checkpoint is None else str(files.user_path(checkpoint)),
        precision_name(precision),
    )
    _ = run.validation  # what it lacks is told before anything is trained
    if run.auxiliary is not None:
        check_unseen(run.auxiliary, benchmark, cls.auxiliary)
    return run


def is_frozen(method: str | None) -> bool:
    """Whether a method takes a pre-trained network as it is."""
    return method is not None and issubclass(METHODS.get(method), FrozenMethod)
