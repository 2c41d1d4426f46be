r"""LoCoOp: prompts are learned, and kept away from the parts of images that show no class.

Paper: A. Miyai, Q. Yu, G. Irie, K. Aizawa, "LoCoOp: Few-Shot Out-of-Distribution Detection via
       Prompt Learning", NeurIPS 2023. arXiv:2306.01293
Code:  AtsuMiyai/LoCoOp; written anew from the mathematics

Both towers are frozen. In the place of "a photo of a" stand N vectors :math:`\omega`, which are all
that is learned (CoOp): :math:`g_c(\omega)` is the unit embedding of the vectors, the class's name
and a full stop. With f the unit embedding of an image, :math:`f_i` those of its patches and
:math:`\tau` the network's own temperature,

.. math:: p = \operatorname{softmax}(f^\top g / \tau), \quad
    p_i = \operatorname{softmax}(f_i^\top g / \tau), \quad
    J = \{i : \text{y is not among the K classes with the largest } p_i\}

A patch that has not the image's class among its K likeliest shows something else, which no prompt
should be near: its entropy is raised.

.. math:: L = -\log p_y - \lambda \frac{1}{|J|} \sum_{i \in J} H(p_i)

with J of all images of the batch together, and without the second term where it is empty. Scored by
``gl-mcm`` (in the paper the best with it) or ``mcm``.

Recipe ``published`` is that of the paper on ImageNet-1k (CLIP ViT-B/16; N = 16, K = 200, lambda =
0.25, SGD 0.002, batch 32, 50 epochs, cosine); it draws the ID set's images as they are, all of
them. For 16 of each class, as there, give an ID set that has no more.

Differs from the authors' code: (1) the first epoch's learning rate rises linearly, theirs is
constant at 1e-5; (2) the rate changes each step, theirs each epoch; (3) the entropy has no 1e-5
within its logarithm; (4) training images are cropped and flipped as ``SimCLR`` has it without
colours (area 0.08 to 1), bilinear, theirs bicubic; (5) the class stands at the end of the prompt
alone, of the three places that their code has; (6) weights and activations are float32, theirs
float16; (7) K is at most C - 1, and theirs may be all classes, which leaves J empty; (8) the kept
epoch is the last, as theirs.
Checked against: the loss in slow loops in double precision, gradients by differences, and learning
on two small towers that the tests train on the digits and their names; the prompts of OpenCLIP's
and Hugging Face's towers against the same words' own vectors (tests/detectors/test_locoop.py,
tests/networks/test_towers.py). No weights of CLIP were at hand, so the paper's figures have not
been repeated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.data.augmentation import SimCLR
from oodbench.data.transforms import Augmentation, Preprocess
from oodbench.errors import OptionError
from oodbench.method import BaseRecipe, Method, Recipe
from oodbench.networks.backbones import is_registered, starting_backbone
from oodbench.networks.clip import PREFIX, openclip
from oodbench.networks.given import load_network
from oodbench.networks.towers import ImageTower, Towers, spaced
from oodbench.outputs import Head
from oodbench.papers import Paper
from oodbench.registry import register_method
from oodbench.text import Text

STD = 0.02
"""Deviation of the vectors at the start."""
_MADE: WeakKeyDictionary[nn.Module, tuple[Any, Tensor]] = WeakKeyDictionary()
"""Embeddings of the classes by network; not in the network, which they say nothing new of."""


@dataclass(frozen=True)
class LoCoOpRecipe(Recipe):
    """How prompts are learned; the defaults are the paper's for ImageNet-1k.

    Args:
        context: how many vectors N stand in the place of words.
        by_class: whether each class has vectors of its own.
        top_k: K, among how many of a patch's likeliest classes the label counts as shown; at most
            C - 1, so that of fewer classes it is that.
        weight: lambda, of the entropy; 0 is CoOp.
        min_area: the smallest share of its area that a crop of a training image keeps.
        class_names: that stand in prompts, in the order of the labels; the ID set's without.
    """

    backbone: str | None = "openclip/ViT-B-16/openai"
    epochs: int = 50
    batch_size: int = 32
    lr: float = 0.002
    nesterov: bool = False
    warmup_epochs: float = 1
    context: int = 16
    by_class: bool = False
    top_k: int = 200
    weight: float = 0.25
    min_area: float = 0.08
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("context", "top_k"):
            if getattr(self, name) < 1:
                raise OptionError(f"recipe: {name} must be at least 1, not {getattr(self, name)}.")
        if not 0 <= self.weight < math.inf:
            raise OptionError(f"recipe: weight must not be negative, not {self.weight}.")
        if not 0 < self.min_area <= 1:
            raise OptionError(f"recipe: min_area must be in (0, 1], not {self.min_area}.")

    def for_classes(self, names: Sequence[str]) -> Self:
        """With the names of the ID classes, where no others are given."""
        return self if self.class_names else replace(self, class_names=tuple(names))


def entropy_outside(logits: Tensor, labels: Tensor, top_k: int) -> Tensor:
    """The mean entropy of patches whose likeliest classes do not have the image's; 0 for none.

    Args:
        logits: of patches, ``[B, P, C]``.
        labels: of their images, ``[B]``.
        top_k: how many classes count as likeliest, of equal ones those with a smaller number.

    Returns:
        A scalar, in nats.
    """
    own = logits.gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1))
    classes = torch.arange(logits.shape[2], device=logits.device)
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None, None]))
    is_outside = ahead.sum(dim=2) >= top_k  # [B, P]
    log_p = logits.log_softmax(dim=2)
    entropies = -(log_p.exp() * log_p).sum(dim=2)
    return (entropies * is_outside).sum() / is_outside.sum().clamp(min=1)


@register_method("locoop")
class LoCoOp(Method):
    """Learned prompts of a frozen network that reads text, unsure where no class is shown.

    The backbone is a :class:`~oodbench.networks.towers.Towers`: an OpenCLIP name, the folder or the
    name of a CLIP of Hugging Face's, ``package.module:function`` that gives towers, or a registered
    one. A run's weights hold the towers as well as the vectors.

    Raises:
        OptionError: a backbone that reads no text, or is without weights; class names for another
            number of classes.
    """

    backbone_gives: ClassVar[str | None] = "towers"
    names_backbones: ClassVar[bool] = True
    fits_detectors_of: ClassVar[tuple[str, ...]] = ("ce",)
    gives: ClassVar[frozenset[str] | None] = frozenset(
        {"features", "logits", "head", "text", "patches"}
    )
    given_if_asked: ClassVar[frozenset[str]] = frozenset({"patches"})
    recipes: ClassVar[Mapping[str, BaseRecipe]] = {
        "published": LoCoOpRecipe(),
        "digits": LoCoOpRecipe(
            backbone="digits-towers",
            epochs=10,
            batch_size=128,
            lr=0.1,
            context=4,
            top_k=2,
            min_area=0.7,
        ),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"digits": ("digits",)}
    paper: ClassVar[Paper | None] = Paper(
        title="LoCoOp: Few-Shot Out-of-Distribution Detection via Prompt Learning",
        authors="Miyai, Atsuyuki and Yu, Qing and Irie, Go and Aizawa, Kiyoharu",
        venue="NeurIPS",
        year=2023,
        url="https://arxiv.org/abs/2306.01293",
        formula="L = CE(softmax(cos(f, g) / t), y) - l mean_i H(softmax(cos(f_i, g) / t)), over "
        "patches i without y among the K likeliest",
    )
    recipe: LoCoOpRecipe

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: LoCoOpRecipe) -> None:
        if not isinstance(backbone, Towers):
            raise OptionError(
                f"locoop learns the prompts of a network that reads text, which a "
                f"{type(backbone).__name__} does not. Name one: `backbone=openclip/NAME/TAG`, or "
                "the folder of a CLIP of Hugging Face's."
            )
        if len(recipe.class_names) != num_classes:
            raise OptionError(
                f"recipe: class_names has {len(recipe.class_names)} names; there are {num_classes} "
                "classes. Leave it out for the ID set's."
            )
        super().__init__(backbone, num_classes, recipe)
        backbone.requires_grad_(False)
        self.names = spaced(recipe.class_names)
        shape = (recipe.context, backbone.tokens.embedding_dim)
        shape = (num_classes, *shape) if recipe.by_class else shape  # type: ignore[assignment]
        self.context = nn.Parameter(STD * torch.randn(shape))

    @classmethod
    def default_recipe(cls, id_name: str) -> str:
        """The small towers' for digits, else the paper's."""
        return next((name for name, ids in cls.recipe_ids.items() if id_name in ids), "published")

    @classmethod
    def make_backbone(
        cls, name: str, recipe: BaseRecipe, preprocess: Any, checkpoint: str | Path | None = None
    ) -> nn.Module:
        """The towers of that name.

        Raises:
            OptionError: it is none of the names, or no network that reads text.
            OODBenchError: what loading raises.
        """
        if is_registered(name):
            return starting_backbone(name, preprocess.channels, checkpoint)
        if name.startswith(PREFIX):
            return openclip(name, checkpoint, weightless=True)
        if checkpoint is not None:
            raise OptionError(
                f"{name} comes with its weights: leave out `checkpoint`, or name an architecture "
                "of OpenCLIP's (`backbone=openclip/NAME`)."
            )
        return load_network(name).network

    @property
    def towers(self) -> Towers:
        """The frozen network."""
        return cast(Towers, self.backbone)

    @property
    def trunk(self) -> ImageTower:
        """What need not see an image twice; see ``oodbench.extract``."""
        return ImageTower(self.towers.images, "patches" in self.asked)

    @property
    def own_preprocess(self) -> Preprocess | None:
        """What the image tower was trained to see; None for what the benchmark shows."""
        return self.towers.own_preprocess

    def augmentation(self, preprocess: Preprocess) -> Augmentation:
        """A resized crop of ``min_area`` or more, and a flip where the ID set allows it."""
        own = self.own_preprocess
        shown = preprocess if own is None else replace(own, flip=preprocess.flip)
        return SimCLR(shown, min_scale=self.recipe.min_area, colour=0.0)

    def train(self, mode: bool = True) -> Self:
        """Lightning's; the towers stay as they are when they are used."""
        super().train(mode)
        self.backbone.eval()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The vectors alone."""
        return [{"params": [self.context]}]

    def classes(self) -> Tensor:
        """Unit embeddings ``[C, D]`` of the prompts."""
        return self.towers.with_context(self.context, self.names)

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy less the weighted entropy of patches that show no class, and both.

        Raises:
            OptionError: the towers' weights are random, as none were named.
        """
        if self.towers.weightless:
            raise OptionError(
                "the network that reads text has no weights. Name them, "
                "`backbone=openclip/NAME/TAG`, or give a file: `checkpoint=FILE`."
            )
        with torch.no_grad():
            seen = ImageTower(self.towers.images, patches=True).outputs(images[:, 0])
        text, scale = self.classes(), self.towers.scale
        logits = scale * seen["features"] @ text.T
        top_k = min(self.recipe.top_k, self.num_classes - 1)
        outside = entropy_outside(scale * seen["patches"] @ text.T, labels, top_k)
        plain = F.cross_entropy(logits, labels)
        return {
            "loss": plain - self.recipe.weight * outside,
            "cross_entropy": plain.detach(),
            "entropy": outside.detach(),
            "accuracy": (logits.argmax(dim=1) == labels).float().mean(),
        }

    def head(self) -> Head:
        """The layer that the prompts make, with their embeddings as its ``text``.

        Embeddings are made once for the same vectors, as the text tower takes its time.
        """
        vectors = self.context
        state = (vectors._version, vectors.device, vectors.dtype, vectors.data_ptr())
        known = _MADE.get(self)
        if known is None or known[0] != state:
            # a caller may be in inference mode, whose tensors could not be used outside of it
            with torch.inference_mode(mode=False), torch.no_grad():
                known = _MADE[self] = (state, self.classes())
        text, scale = known[1], self.towers.scale
        return Head(scale * text, text=Text(text, scale))

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Unit ``features [B, D]``, ``logits [B, C]``; ``patches [B, P, D]`` where asked for."""
        columns = self.trunk.outputs(images)
        return {**columns, "logits": self.head()(columns["features"])}
