r"""NegLabel: how much of a softmax over the classes and many other words falls to the other words.

Paper: X. Jiang, F. Liu, Z. Fang, H. Chen, T. Liu, F. Zheng, B. Han, "Negative Label Guided OOD
Detection with Pretrained Vision-Language Models", ICLR 2024. arXiv:2403.20078
Code:  XueJiang16/NegLabel; written anew from the definition

Candidates are words: in the paper the nouns and adjectives of WordNet. Those far from the ID
classes are taken (NegMining): within nouns and within adjectives the share of candidates whose
``quantile`` of cosines to the classes' prompts is smallest. These M negatives are cut into G groups
of one size by a fixed permutation, and with e the image's embedding, t those of the classes and n
those of a group's words,

.. math::
    S(x) = \frac1G \sum_g \frac{\sum_c e^{\tau e^\top t_c}}
    {\sum_c e^{\tau e^\top t_c} + \sum_{j \in g} e^{\tau e^\top n_j}}, \qquad s(x) = 1 - S(x)

Words come with the network: ``words=FILE`` (``--words``), one in each line, and behind a tabulator
``noun`` or ``adjective``. WordNet is not a part of oodbench (docs/text.md says how to write it
into such a file); without words this detector refuses.

Differs from the reference code: (1) with one group theirs leaves the softmax out, and ignores the
negatives; (2) the last M mod G negatives are left out, before the permutation, as theirs are, but
where there are fewer than G each is a group of its own; (3) the permutation is of a seed, theirs of
whatever was drawn before; (4) 1 - S is summed from the negatives' parts, so that confident samples
are not tied at 1.
Checked against: the definition in float64, word by word (tests/detectors/test_neglabel.py). Neither
CLIP's weights nor WordNet were at hand, so the paper's figures have not been repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.errors import OptionError
from oodbench.outputs import Head, Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from .mcm import text_of, unit, with_text

BLOCK = 2**24
"""Most cosines that are held at a time."""


def neg_mining(
    words: Tensor, groups: Tensor, classes: Tensor, quantile: float = 0.95, share: float = 0.15
) -> Tensor:
    """The candidates that are far from all classes.

    Args:
        words: unit vectors ``[M, D]``.
        groups: ``[M]``, which of several lists a word is of; each is mined by itself.
        classes: unit vectors ``[C, D]``.
        quantile: of a word's cosines to the classes, interpolated linearly.
        share: of each list that is kept, rounded down.

    Returns:
        Positions of the kept words: list by list, those with the smallest quantile first.
    """
    rows = max(1, BLOCK // len(classes))
    level = torch.cat([(part @ classes.T).quantile(quantile, dim=1) for part in words.split(rows)])
    kept = []
    for group in groups.unique().tolist():
        own = (groups == group).nonzero().flatten()
        order = level[own].argsort(stable=True)
        kept.append(own[order[: int(share * len(own))]])
    return torch.cat(kept)


@register_detector("neglabel")
@dataclass
class NegLabel(Detector):
    """The mean share of words far from the ID classes in a softmax. Higher = more OOD; in [0, 1].

    Args:
        groups: G; 100 in the paper.
        scale: tau, what cosines are multiplied by; 100 in the paper.
        share: of the candidates that are negatives; 0.15 in the paper.
        quantile: of a candidate's cosines to the classes; 0.95 in the paper.
        seed: of the permutation.

    Raises:
        OptionError: a value out of range, or no word is left.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "text", "words"})
    grid: ClassVar = {"groups": (1, 10, 100), "share": (0.05, 0.15, 0.5)}
    paper: ClassVar[Paper | None] = Paper(
        title="Negative Label Guided OOD Detection with Pretrained Vision-Language Models",
        authors="Jiang, Xue and Liu, Feng and Fang, Zhen and Chen, Hong and Liu, Tongliang and "
        "Zheng, Feng and Han, Bo",
        venue="ICLR",
        year=2024,
        url="https://arxiv.org/abs/2403.20078",
        formula="s(x) = 1 - mean_g P_g / (P_g + N_g), sums of exp(100 cos) over classes, words",
    )

    groups: int = 100
    scale: float = 100.0
    share: float = 0.15
    quantile: float = 0.95
    seed: int = 0
    classes_: Tensor = learned()  # [C, D]
    negatives_: Tensor = learned()  # [G, M / G, D]

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise OptionError(f"neglabel: groups must be at least 1, not {self.groups}.")
        if not 0 < self.scale < float("inf"):
            raise OptionError(f"neglabel: scale must be positive, not {self.scale}.")
        if not 0 < self.share <= 1 or not 0 <= self.quantile <= 1:
            raise OptionError(
                f"neglabel: share must be in (0, 1] and quantile in [0, 1], not {self.share} and "
                f"{self.quantile}."
            )

    @staticmethod
    def toy(columns: dict[str, Tensor], head: Head) -> tuple[dict[str, Tensor], Head]:
        """The toy problem with class prompts and words."""
        return with_text(columns, head)

    def fit(self, train: Outputs) -> Self:
        """Choose the negatives, of the words of the head; the images are not looked at."""
        text = text_of(train)
        assert text.words is not None  # noqa: S101
        assert text.groups is not None  # noqa: S101
        classes, words = unit(text.classes), unit(text.words)
        kept = neg_mining(words, text.groups, classes, self.quantile, self.share)
        if not len(kept):
            raise OptionError(
                f"neglabel: a share of {self.share} of {len(words)} words leaves none. Give more "
                "words, or a larger share."
            )
        g = min(self.groups, len(kept))
        kept = kept[: len(kept) // g * g]
        order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(self.seed))
        self.classes_ = classes
        self.negatives_ = words[kept[order.to(kept.device)]].view(g, -1, words.shape[1])
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from embeddings ``[N, D]``."""
        negatives = self.negatives_.flatten(0, 1)
        rows = max(1, BLOCK // (len(negatives) + len(self.classes_)))
        parts = []
        for batch in outputs.batches(rows):
            e = unit(batch.features)
            positive = (self.scale * e @ self.classes_.to(e).T).logsumexp(dim=1)  # [B]
            cosines = (e @ negatives.to(e).T).view(len(e), *self.negatives_.shape[:2])
            negative = (self.scale * cosines).logsumexp(dim=2)  # [B, G]
            parts.append((negative - positive[:, None]).sigmoid().mean(dim=1))
        return torch.cat(parts) if parts else torch.empty(0)
