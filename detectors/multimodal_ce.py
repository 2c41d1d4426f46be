r"""Cross-entropy on several modalities: the baseline that A2D and NP-Mix are compared with.

Paper: H. Dong, Y. Zhao, E. Chatzi, O. Fink, "MultiOOD: Scaling Out-of-Distribution Detection for
Multiple Modalities", NeurIPS 2024. arXiv:2405.17419
Code:  donghao51/MultiOOD @ ab7b221; written anew from the definition

A network has one encoder per modality, a head :math:`f^m` on each modality's embedding and a head
:math:`f` on their concatenation:

.. math::
    L = \frac{1}{M + 1} \Big[ \mathrm{CE}(f, y) + \sum_m \mathrm{CE}(f^m, y) \Big]

MultiOOD's own baseline trains :math:`\mathrm{CE}(f, y)` alone: recipes ``published*`` do so
(``single=False``), ``warm`` and ``quick`` do not. ``detectors/_multiood.py`` describes the recipes
and how the encoders differ from MultiOOD's.
Checked against: the formula (tests/networks/test_modalities.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from oodbench.method import Recipe
from oodbench.networks.modalities import MultimodalMethod, MultimodalRecipe
from oodbench.papers import Paper
from oodbench.registry import register_method

from ._multiood import FROZEN, HEARD, PAPER, QUICK, RECIPE_IDS, WARM


@register_method("multimodal-ce")
class MultimodalCE(MultimodalMethod):
    """Cross-entropy of the joint prediction and of each modality's: the multimodal baseline.

    With ``single=False``, as in MultiOOD's baseline, of the joint prediction alone: then
    ``modality-discrepancy`` and ``--modality`` have nothing to score.
    """

    stands_for: ClassVar[str | None] = "ce"
    paper: ClassVar[Paper | None] = PAPER
    trains_single: ClassVar[tuple[str, ...]] = ("a2d", "npmix", "a2d-npmix")
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": MultimodalRecipe(**FROZEN, single=False),
        "published-epic": MultimodalRecipe(**FROZEN, single=False, epochs=20),
        "published-epic-audio": MultimodalRecipe(**HEARD, single=False, epochs=20),
        "published-kinetics": MultimodalRecipe(**FROZEN, single=False, epochs=20),
        "published-kinetics-audio": MultimodalRecipe(**HEARD, single=False, epochs=20),
        "published-hmdb-far": MultimodalRecipe(**FROZEN, single=False),
        "published-kinetics-far": MultimodalRecipe(**FROZEN, single=False, epochs=10),
        "warm": MultimodalRecipe(**WARM),
        "quick": MultimodalRecipe(**QUICK),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = RECIPE_IDS
