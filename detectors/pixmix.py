r"""PixMix: cross-entropy on images mixed with pictures that are structurally complex.

Paper: D. Hendrycks, A. Zou, M. Mazeika, L. Tang, B. Li, D. Song, J. Steinhardt, "PixMix: Dreamlike
Pictures Comprehensively Improve Safety Measures", CVPR 2022, section 3, figure 4. arXiv:2112.05135
Code:  andyzoujm/pixmix; OpenOOD @ 3c35632; written anew from the published description

An image x is cropped and flipped, augmented half the time, and then up to k times mixed with
another augmented copy of it or with a picture of the mixing set, half the time each:

.. math::
    \text{add: } a (2 x - 1) + b (2 u - 1) \text{ back in } [0, 1], \quad
    \text{multiply: } \tfrac{1}{2} (2 x)^a (2 u)^b

one of the two at random, with :math:`a \sim \mathrm{Beta}(\beta, 1), b \sim \mathrm{Beta}(1,
\beta)` or, half the time, :math:`a \sim 1 + \mathrm{Beta}(1, \beta), b \sim -\mathrm{Beta}(1,
\beta)`; the result is cut to [0, 1] each time. The number of rounds is uniform in 0 … k.

**The mixing set has to be given**, ``mixing_set``, a dataset or ``folder:PATH`` (``--recipe-set
mixing_set=folder:PATH``): the paper's are 14,230 fractals and feature visualisations
(github.com/andyzoujm/pixmix), and other pictures give other figures. Pictures that are tested on
are refused, and rows are marked with the set. No picture is learned as OOD.

Recipe ``published`` is OpenOOD v1.5's (k 4, beta 3, severity 3, all operations, and for the rest
that of cross-entropy), as the paper's for CIFAR.

Differs from the reference code: (1) an augmented copy is made by one operation of torchvision's
AugMix space, whose strength is one of ``severity`` steps of a tenth from none on, theirs is uniform
up to ``severity`` tenths; (2) a picture of the mixing set is resized to 9/8 of the side
and cropped at random, as theirs are for CIFAR; (3) the last checkpoint is kept; (4) bases are at
least 1e-37 under both powers, theirs under the second alone.
Checked against: both mixings by hand, pixel by pixel, and the draws of a and b.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import AugMix as Mixed

from oodbench.data.images import in_mode
from oodbench.data.transforms import Augmentation, CropFlip, Preprocess, to_tensor
from oodbench.errors import OptionError
from oodbench.method import Recipe
from oodbench.papers import Paper
from oodbench.registry import register_method

from ._outliers import check_positive
from .ce import CrossEntropy

if TYPE_CHECKING:
    from oodbench.data.samples import Samples


def added(x: Tensor, u: Tensor, a: float, b: float) -> Tensor:
    """``(a (2x - 1) + b (2u - 1) + 1) / 2`` of images in [0, 1]."""
    return (a * (2 * x - 1) + b * (2 * u - 1) + 1) / 2


def multiplied(x: Tensor, u: Tensor, a: float, b: float) -> Tensor:
    """``(2x)^a (2u)^b / 2`` of images in [0, 1]."""
    return (2 * x).clamp(min=1e-37) ** a * (2 * u).clamp(min=1e-37) ** b / 2


def weights(beta: float, rng: random.Random) -> tuple[float, float]:
    """A and b of a mixing."""
    if rng.random() < 0.5:
        return rng.betavariate(beta, 1), rng.betavariate(1, beta)
    return 1 + rng.betavariate(1, beta), -rng.betavariate(1, beta)


class OneOperation(Mixed):  # type: ignore[misc]  # torchvision has no types
    """One operation of AugMix's, alone: none of the image as it was is mixed in."""

    def _sample_dirichlet(self, params: Tensor) -> Tensor:
        """All of the share for the last: the operation's chain, of the image and the chains."""
        shares = torch.zeros(params.shape, dtype=params.dtype)
        shares[:, -1] = 1
        return shares


class PixMixed(CropFlip):
    """Crop, flip, and mixing with augmented copies and pictures.

    Args:
        preprocess: the ID set's.
        pictures: the mixing set.
        recipe: how they are mixed.
    """

    def __init__(self, preprocess: Preprocess, pictures: Samples, recipe: PixMixRecipe) -> None:
        super().__init__(preprocess)
        self.pictures, self.recipe = pictures, recipe
        self.one = OneOperation(recipe.severity, 1, 1, all_ops=recipe.all_ops)

    def __call__(self, image: Image.Image, rng: random.Random) -> Tensor:
        """``[C, size, size]`` float32; ``rng`` is the only source of randomness."""
        preprocess, size, pad = self.preprocess, self.preprocess.size, self.preprocess.size // 8
        image = preprocess.fit_image(image)
        left, top = rng.randint(-pad, pad), rng.randint(-pad, pad)
        image = image.crop((left, top, left + size, top + size))
        if preprocess.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        picture = self._picture(rng)
        mixed = to_tensor(self._augmented(image, rng) if rng.random() < 0.5 else image)
        for _ in range(rng.randint(0, self.recipe.k)):
            copy = self._augmented(image, rng) if rng.random() < 0.5 else picture
            mix = rng.choice((added, multiplied))
            mixed = mix(mixed, to_tensor(copy), *weights(self.recipe.beta, rng)).clamp(0, 1)
        return preprocess.normalize(mixed)

    def _augmented(self, image: Image.Image, rng: random.Random) -> Image.Image:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(rng.getrandbits(63))
            changed: Image.Image = self.one(image)
            return changed

    def _picture(self, rng: random.Random) -> Image.Image:
        size = self.preprocess.size
        picture = in_mode(self.pictures[rng.randrange(len(self.pictures))], self.preprocess.mode)
        short = size * 9 // 8
        scale = short / min(picture.size)
        width, height = (max(short, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = rng.randint(0, width - size), rng.randint(0, height - size)
        return picture.crop((left, top, left + size, top + size))


@dataclass(frozen=True)
class PixMixRecipe(Recipe):
    """How PixMix is trained; the defaults are the paper's for CIFAR.

    Args:
        mixing_set: the dataset of pictures, a name or ``folder:PATH``; it has to be given.
        k: the largest number of rounds of mixing.
        beta: of the Beta distributions; the higher, the more of the image stays.
        severity: of the operations, 1 to 10.
        all_ops: whether operations on colour and brightness are among them.
    """

    mixing_set: str | None = None
    k: int = 4
    beta: float = 3.0
    severity: int = 3
    all_ops: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "k", zero=True)
        check_positive(self, "beta")
        if not 1 <= self.severity <= 10:
            raise OptionError(f"recipe: severity is from 1 to 10, not {self.severity}.")


@register_method("pixmix")
class PixMix(CrossEntropy):
    """Cross-entropy on images mixed with augmented copies and with complex pictures."""

    auxiliary: ClassVar[str] = "mixing_set"
    recipe: PixMixRecipe
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": PixMixRecipe(backbone="resnet18-cifar"),
        "quick": PixMixRecipe(epochs=15, lr=0.1, warmup_epochs=1),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = {"published": ("cifar10", "cifar100")}
    paper: ClassVar[Paper | None] = Paper(
        title="PixMix: Dreamlike Pictures Comprehensively Improve Safety Measures",
        authors="Hendrycks, Dan and Zou, Andy and Mazeika, Mantas and Tang, Leonard and Li, Bo and "
        "Song, Dawn and Steinhardt, Jacob",
        venue="CVPR",
        year=2022,
        url="https://arxiv.org/abs/2112.05135",
        formula="L = CE(f(x'), y), x' mixed k times of x, its augmented copies and other pictures "
        "by sums or products",
        figures=(
            "OpenOOD v1.5, ResNet-18 + MSP, CIFAR-10: near-OOD AUROC 93.07, far-OOD AUROC 95.65, "
            "ID accuracy 95.15",
            "OpenOOD v1.5, ResNet-18 + MSP, CIFAR-100: near-OOD AUROC 79.86, far-OOD AUROC 84.06, "
            "ID accuracy 77.63",
        ),
    )

    def augmentation(self, preprocess: Preprocess) -> Augmentation:
        """Crop, flip and mixing.

        Raises:
            OptionError: there is no mixing set.
        """
        if self.beside is None:
            raise OptionError(
                "pixmix mixes images with pictures of a set; the recipe names it: mixing_set."
            )
        return PixMixed(preprocess, self.beside, self.recipe)
