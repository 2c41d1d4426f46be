r"""PT-OOD: pre-trained networks as they are, a linear probe on them, and instance-wise scores.

Paper: A. Miyai, Q. Yu, G. Irie, K. Aizawa, "Can Pre-trained Networks Detect Familiar
Out-of-Distribution Data?", 2023. arXiv:2310.00847
Code:  none was published (AtsuMiyai/PT-OOD holds a README and two figures)

OOD inputs that a network knows from its pre-training (PT-OOD) are told from ID worse where they are
not linearly separable from ID in feature space, most with self-supervised networks; a score that
rests on the frozen network's discrimination of single instances, not on the ID decision boundary,
repairs it. Here:

- ``frozen``: the network as it is; features, and no classifier.
- ``linear-probe``: a linear layer on the frozen features (``oodbench.networks.linear``), whose
  weight decay is chosen on ID validation data:

.. math:: \min_{W, b}\ \frac1n \sum_i -\log \operatorname{softmax}(W \tilde z_i + b)_{y_i}
    + \frac{\lambda}{2} \lVert W \rVert_2^2

  with :math:`\tilde z` the features less their mean, over the root of their mean variance
  (``oodbench.networks.linear``); W is that of :math:`\tilde z`

- ``ptood``: the mean cosine distance to the k nearest ID training instances,

.. math:: s(x) = 1 - \frac1k \sum_{j=1}^{k} \cos\bigl(z, z_{(j)}\bigr), \quad z = f(x)

with :math:`z_{(j)}` the j-th nearest of the training features.

What of it is the paper's: the setting, that the probe is linear, and that scores are taken in
feature space, instance by instance, independent of the boundary (abstract and figures). The full
text was not at hand, so all else is ours: (1) the cosine and the mean over k = 5 neighbours; (2)
whitening, layers and tokens; (3) the solver of the probe, its objective (no augmentation, all
training images in each step) and how its weight decay is chosen; (4) the benchmarks ``ptood/<id>``.
With ``k = 1`` the score is half the square of ``knn``'s with ``k = 1``: the same order.
Checked against: the formulas in NumPy; scikit-learn's LogisticRegression
(tests/detectors/test_ptood.py, benchmarks/probe.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from oodbench import metrics
from oodbench.detector import Detector, learned
from oodbench.errors import DataError, OptionError
from oodbench.networks import linear
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector, register_method
from oodbench.training.frozen import FrozenMethod, FrozenRecipe

from ._covariance import warn_of_span
from ._neighbours import MANY, Kept, bank_of, check_k, most_similar
from ._numerics import blocks, moments, normalize

PAPER = Paper(
    title="Can Pre-trained Networks Detect Familiar Out-of-Distribution Data?",
    authors="Miyai, Atsuyuki and Yu, Qing and Irie, Go and Aizawa, Kiyoharu",
    venue="arXiv",
    year=2023,
    url="https://arxiv.org/abs/2310.00847",
    formula="s(x) = 1 - mean_j cos(z, z_(j)), z = f(x) frozen, z_(j) its k nearest ID instances",
)

FOLDS = 5
MANY_SAMPLES = 10_000
"""From here on one fold of five is held out, not each in turn."""


@register_method("frozen")
class Frozen(FrozenMethod):
    """A pre-trained network as it is: features, no classifier, no training."""

    paper: ClassVar[Paper | None] = PAPER
    recipes: ClassVar[Mapping[str, Any]] = {"default": FrozenRecipe()}
    fits_detectors_of: ClassVar[tuple[str, ...]] = ("ce",)
    gives: ClassVar[frozenset[str] | None] = frozenset({"features"})


@dataclass(frozen=True)
class ProbeRecipe(FrozenRecipe):
    """What determines a linear probe, besides the network.

    Args:
        weight_decays: that are tried, from the strongest to the weakest.
        iterations: of L-BFGS, at most, for each.
    """

    weight_decays: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    iterations: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weight_decays or not all(0 <= v < float("inf") for v in self.weight_decays):
            raise OptionError(
                f"recipe: weight_decays must be non-negative numbers, not {self.weight_decays}."
            )
        if self.iterations < 1:
            raise OptionError(f"recipe: iterations must be at least 1, not {self.iterations}.")

    def effort(self, samples: str) -> str:
        """What training takes, for messages, on that many samples of a split."""
        return f"a linear layer on the features of {samples}"


@register_method("linear-probe")
class LinearProbe(FrozenMethod):
    """A linear layer on the frozen features of a pre-trained network.

    The weight decay is the one with the highest accuracy on the ID validation split, the strongest
    of equals; training images that are in it are left out while it is chosen, and all training
    images are fitted on in the end. Where there is no validation split, a fifth of each class of
    the training split is held out, each fifth in turn below 10,000 images. Going from strong to
    weak, each fit starts from the one before, and two that are worse than the best end the search.
    """

    paper: ClassVar[Paper | None] = PAPER
    compares: ClassVar[bool] = True
    recipes: ClassVar[Mapping[str, Any]] = {"default": ProbeRecipe()}
    fits_detectors_of: ClassVar[tuple[str, ...]] = ("ce", "frozen")
    recipe: ProbeRecipe

    def __init__(self, backbone: nn.Module, num_classes: int, recipe: ProbeRecipe) -> None:
        super().__init__(backbone, num_classes, recipe)
        self.linear = nn.Linear(self.trunk.num_features, num_classes)

    def layer(self) -> nn.Linear:
        """The linear layer on the encoder's features."""
        return self.linear

    def learn(
        self,
        train: Outputs,
        fitted: Tensor | None = None,
        val: Outputs | None = None,
        seed: int = 0,
    ) -> dict[str, str]:
        """Choose the weight decay and fit the layer; see :class:`FrozenMethod`.

        Raises:
            DataError: a class without a training image.
        """
        counts = torch.bincount(train.labels, minlength=self.num_classes)
        if (counts == 0).any():
            empty = (counts == 0).nonzero().flatten().tolist()
            raise DataError(f"linear-probe: no training image of the classes {empty[:5]}.")
        decays = sorted(set(self.recipe.weight_decays), reverse=True)
        accuracy: dict[float, list[float]] = {decay: [] for decay in decays}
        last: linear.Fit | None = None
        for rows, held in self._splits(train, fitted, val, seed):
            fits = self._path(self._data(train, rows), held, accuracy)
            last = fits[max(fits)]
        means = {
            decay: sum(reached) / len(reached) for decay, reached in accuracy.items() if reached
        }
        best = max(means, key=lambda decay: (means[decay], decay))
        fit = linear.fit(self._data(train), best, last, self.recipe.iterations)
        with torch.no_grad():
            self.linear.weight.copy_(fit.head.weight)
            self.linear.bias.copy_(fit.head.bias)
        return {"weight_decay": f"{best:g}", "val_accuracy": f"{means[best]:.4f}"}

    def _data(self, train: Outputs, rows: Tensor | None = None) -> linear.Regression:
        return linear.Regression(train.features, train.labels, self.num_classes, rows)

    def _path(
        self, data: linear.Regression, held: Outputs, accuracy: dict[float, list[float]]
    ) -> dict[float, linear.Fit]:
        """Fits from strong to weak decay, whose accuracies on what was held out are noted."""
        fits: dict[float, linear.Fit] = {}
        last, worse, best = None, 0, -1.0
        for decay, reached in accuracy.items():
            last = fits[decay] = linear.fit(data, decay, last, self.recipe.iterations)
            reached.append(metrics.accuracy(last.head(held.features.float()), held.labels))
            worse = worse + 1 if reached[-1] < best else 0
            best = max(best, reached[-1])
            if worse == 2:
                break
        return fits

    def _splits(
        self, train: Outputs, fitted: Tensor | None, val: Outputs | None, seed: int
    ) -> Iterator[tuple[Tensor | None, Outputs]]:
        """Rows to fit on and what is held out, once or for each fold."""
        if val is not None:
            yield fitted, val
            return
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        order = order[train.labels[order].argsort(stable=True)]  # class by class, at random within
        counts = torch.bincount(train.labels, minlength=self.num_classes)
        rank = torch.arange(len(train)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        fold = torch.empty(len(train), dtype=torch.int64)
        fold[order] = rank % FOLDS
        if (counts < 2).any():
            raise DataError(
                "linear-probe: a class with one training image leaves none to choose the weight "
                "decay on. Give the ID set a val split, or that class more images."
            )
        for held in range(FOLDS if len(train) < MANY_SAMPLES else 1):
            rows = fold == held
            if rows.any() and not rows.all():
                yield ~rows, train[rows.nonzero().flatten()]


@register_detector("ptood")
@dataclass
class PTOOD(Detector):
    """Mean cosine distance to the k nearest ID training instances. Higher = more OOD; in [0, 2].

    Does not stream: it keeps the training features, ``[N, D]`` float32; of features in half
    precision that are not whitened these as they came, from which the bank is made anew in each
    call. Warns where k is more than the smallest class has.

    Args:
        k: how many instances.
        layer: ``"last"``, or one of the inner layers that the network gives (``"blocks.5"``).
        token: of the last layer: ``"pooled"`` as the network pools them, the class token
            (``"cls"``), or the mean of the ``"patches"``; of vision transformers.
        whiten: whether features are centred and whitened by the training features' covariance.
        shrinkage: share of the mean variance that is added to each, when whitening.

    Raises:
        OptionError: k below 1 or more than there are training samples; a token of an inner layer.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    method: ClassVar[str] = "frozen"
    grid: ClassVar = {"k": (1, 5, 10, 20, 50, 200), "whiten": (False, True)}
    paper: ClassVar[Paper | None] = PAPER

    k: int = 5
    layer: str = "last"
    token: Literal["pooled", "cls", "patches"] = "pooled"  # noqa: S105
    whiten: bool = False
    shrinkage: float = 0.01
    bank_: Tensor = learned()  # [N, D], prepared unless it is in half precision
    mean_: Tensor = learned()  # [D]
    whitening_: Tensor = learned()  # [D, D]

    def __post_init__(self) -> None:
        if self.k < 1:
            raise OptionError(f"ptood: k must be at least 1, not {self.k}.")
        if not 0 <= self.shrinkage < float("inf"):
            raise OptionError(f"ptood: shrinkage must not be negative, not {self.shrinkage}.")
        if self.layer != "last" and self.token != "pooled":  # noqa: S105
            raise OptionError(
                f"ptood: of the inner layer {self.layer!r} there is the mean over positions alone; "
                "leave token at 'pooled'."
            )
        part = self.layer if self.layer != "last" else self.token
        self.column = "features" if part == "pooled" else f"features/{part}"
        vars(self)["needs"] = frozenset({self.column})  # an object's own, by its options

    def _view(self, outputs: Outputs) -> Outputs:
        """The features that are scored, as such."""
        if self.column == "features":
            return outputs
        return Outputs(outputs.extra[self.column], labels=outputs.labels)

    def _prepare(self, features: Tensor) -> Tensor:
        z = features.to(torch.float32)
        if self.whiten:
            z = (z - self.mean_.to(z)) @ self.whitening_.to(z)
        return normalize(z)

    def fit(self, train: Outputs) -> Self:
        """Keep the normalised features of ``[N, D]``."""
        check_k(self.k, train.labels, "ptood")
        train = self._view(train)
        if self.whiten:
            stats = moments(train, "ptood")
            self.mean_ = stats.means[0]
            values, vectors = torch.linalg.eigh(stats.scatter / stats.counts.sum())
            warn_of_span(values.flip(0), len(train), "ptood", "all others get one variance")
            floor = self.shrinkage * values.mean() + 1e-12 * values.amax().clamp(min=1e-30)
            self.whitening_ = vectors * (values.clamp(min=0) + floor).rsqrt()
        self.bank_ = bank_of(train, self._prepare, anew=not self.whiten)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``."""
        bank = Kept.of(self.bank_, self._prepare)
        parts = [
            1 - most_similar(self._prepare(batch.features), bank, self.k)[0].mean(dim=1)
            for batch in blocks(self._view(outputs), "features", least=MANY)
        ]
        return torch.cat(parts) if parts else torch.empty(0)
