r"""Scores of cosines to class prompts: MCM, GL-MCM, and the energy and maximum of such cosines.

Papers: Y. Ming, Z. Cai, J. Gu, Y. Sun, W. Li, Y. Li, "Delving into Out-of-Distribution Detection
with Vision-Language Representations", NeurIPS 2022. arXiv:2211.13445; A. Miyai, Q. Yu, G. Irie,
K. Aizawa, "GL-MCM: Global and Local Maximum Concept Matching for Zero-Shot Out-of-Distribution
Detection", IJCV 2025. arXiv:2304.04521
Code:  deeplearning-wisc/MCM, AtsuMiyai/GL-MCM; written anew from the definition

With e the embedding of an image, :math:`t_c` those of the classes' prompts and :math:`e_j` those of
the image's patches, all unit vectors:

.. math::
    s_{\mathrm{MCM}}(x) = -\max_c \operatorname{softmax}(e^\top t / T)_c, \quad
    s_{\mathrm{GL}}(x) = s_{\mathrm{MCM}}(x)
    - \lambda \max_{j, c} \operatorname{softmax}(e_j^\top t / T)_c

The network must read text (docs/text.md). T is that of the raw cosines, not of the network's scaled
logits: at 1 probabilities are nearly equal, and their maximum is about linear in the largest cosine
less the mean of all. Nothing is learned.

Differs from the reference codes: (1) patches of GL-MCM are what the last block makes of their
values, see ``oodbench.networks.clip``.
Checked against: the definitions in float64, sample by sample, on cases by hand and on a network of
two small towers that was trained on the digits and their names (tests/detectors/test_mcm.py). No
weights of CLIP were at hand, so the papers' figures have not been repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from oodbench.detector import Detector
from oodbench.errors import OptionError
from oodbench.outputs import Head, Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector
from oodbench.text import Text

from ._numerics import precise

ROWS = 1024
"""Samples that are scored at a time; those with patches are fewer, see :func:`by_cosines`."""


def unit(vectors: Tensor) -> Tensor:
    """Vectors along the last dimension over their L2 norm, in double precision."""
    wide = vectors.to(precise(vectors.device))
    return wide / wide.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def text_of(outputs: Outputs) -> Text:
    """The text of the head; whoever asks has ``"text"`` among its needs."""
    text = outputs.any_head().text
    assert text is not None  # noqa: S101
    return text


def by_cosines(outputs: Outputs, score: Callable[[Tensor, Outputs, Tensor], Tensor]) -> Tensor:
    """``score(cosines [B, C], batch, text [C, D])`` of all batches, joined: ``[N]``."""
    text = unit(text_of(outputs).classes)
    patches = outputs.extra.get("patches")
    rows = ROWS if patches is None else max(1, ROWS // patches.shape[1])
    parts = []
    for batch in outputs.batches(rows):
        e = unit(batch.features)
        parts.append(score(e @ text.to(e).T, batch, text.to(e)))
    return torch.cat(parts) if parts else torch.empty(0)


def with_text(columns: dict[str, Tensor], head: Head) -> tuple[dict[str, Tensor], Head]:
    """The check suite's toy problem as a network that reads text says it."""
    wide = columns["features"].float()
    features = wide / wide.norm(dim=1, keepdim=True).clamp(min=1e-12)
    classes = head.weight / head.weight.norm(dim=1, keepdim=True)
    others = torch.eye(classes.shape[1]).view(-1, 8, classes.shape[1]).sum(dim=1) / 8**0.5
    words = others.repeat(5, 1).to(classes)
    made = Head(100 * classes, text=Text(classes, 100.0, words))
    shown = {**columns, "features": features.to(columns["features"])}
    shown["logits"] = made(features).to(columns["logits"])
    shown["patches"] = torch.stack([features, features.roll(1, 1)], dim=1)
    return shown, made


@dataclass
class _OfText(Detector):
    """What scores of cosines have in common.

    Args:
        temperature: T > 0, of the raw cosines.

    Raises:
        OptionError: a temperature that is not positive.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "text"})

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise OptionError(
                f"{self.label}: temperature must be positive, not {self.temperature}."
            )

    @staticmethod
    def toy(columns: dict[str, Tensor], head: Head) -> tuple[dict[str, Tensor], Head]:
        """The toy problem with class prompts."""
        return with_text(columns, head)


_MCM = Paper(
    title="Delving into Out-of-Distribution Detection with Vision-Language Representations",
    authors="Ming, Yifei and Cai, Ziyang and Gu, Jiuxiang and Sun, Yiyou and Li, Wei and "
    "Li, Yixuan",
    venue="NeurIPS",
    year=2022,
    url="https://arxiv.org/abs/2211.13445",
    formula="s(x) = -max_c softmax(cos(e, t_c) / T)_c",
)


@register_detector("mcm")
@dataclass
class MCM(_OfText):
    """Minus the largest softmax of cosines to class prompts. Higher = more OOD; range [-1, -1/C].

    Args:
        temperature: T > 0, of the raw cosines; 1 in the paper.

    Raises:
        OptionError: a temperature that is not positive.
    """

    paper: ClassVar[Paper | None] = _MCM

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from embeddings ``[N, D]`` and those of the prompts ``[C, D]``."""
        return by_cosines(outputs, lambda f, *_: -(f / self.temperature).softmax(dim=1).amax(dim=1))


@register_detector("gl-mcm")
@dataclass
class GLMCM(_OfText):
    r"""MCM of the whole image plus that of its surest patch, negative. Higher = more OOD.

    Range [-1 - weight, -(1 + weight)/C]. Reads ``patches [N, P, D]``, which the network gives where
    this detector asks for them.

    Args:
        temperature: T > 0, of the raw cosines; 1 in the paper.
        weight: of the patches, the paper's :math:`\lambda`; 1 there. 0 is MCM.

    Raises:
        OptionError: a temperature that is not positive, or a negative weight.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "text", "patches"})
    paper: ClassVar[Paper | None] = Paper(
        title="GL-MCM: Global and Local Maximum Concept Matching for Zero-Shot Out-of-Distribution "
        "Detection",
        authors="Miyai, Atsuyuki and Yu, Qing and Irie, Go and Aizawa, Kiyoharu",
        venue="IJCV",
        year=2025,
        url="https://arxiv.org/abs/2304.04521",
        formula="s(x) = -max_c softmax(cos(e, t) / T)_c - l max_jc softmax(cos(e_j, t) / T)_c",
    )

    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight < float("inf"):
            raise OptionError(f"gl-mcm: weight must not be negative, not {self.weight}.")

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from embeddings ``[N, D]`` and those of patches ``[N, P, D]``."""

        def both(f: Tensor, batch: Outputs, text: Tensor) -> Tensor:
            local = unit(batch.extra["patches"]) @ text.T  # [B, P, C]
            surest = (local / self.temperature).softmax(dim=2).amax(dim=(1, 2))
            return -(f / self.temperature).softmax(dim=1).amax(dim=1) - self.weight * surest

        return by_cosines(outputs, both)


@register_detector("clip-maxlogit")
@dataclass
class CLIPMaxLogit(_OfText):
    """Minus the largest cosine to a class prompt, over T. Higher = more OOD; range [-1/T, 1/T].

    The order of ``maxlogit`` on the network's logits, in cosines.

    Args:
        temperature: T > 0; it does not change the order.

    Raises:
        OptionError: a temperature that is not positive.
    """

    paper: ClassVar[Paper | None] = _MCM

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from embeddings ``[N, D]`` and those of the prompts ``[C, D]``."""
        return by_cosines(outputs, lambda f, *_: -(f / self.temperature).amax(dim=1))


@register_detector("clip-energy")
@dataclass
class CLIPEnergy(_OfText):
    r"""Minus T log-sum-exp of cosines over T. Higher = more OOD; range [-1 - T log C, 1 - T log C].

    .. math:: s(x) = -T \log \sum_c \exp(e^\top t_c / T)

    ``energy`` on the network's logits is, up to its scale, this at T = 1 / scale.

    Args:
        temperature: T > 0, of the raw cosines; 1 in MCM's comparison.

    Raises:
        OptionError: a temperature that is not positive.
    """

    paper: ClassVar[Paper | None] = _MCM

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from embeddings ``[N, D]`` and those of the prompts ``[C, D]``."""
        t = self.temperature
        return by_cosines(outputs, lambda f, *_: -t * (f / t).logsumexp(dim=1))
