r"""A2D + NP-Mix: the method of MultiOOD, modalities that disagree and outliers between classes.

Paper: H. Dong, Y. Zhao, E. Chatzi, O. Fink, "MultiOOD: Scaling Out-of-Distribution Detection for
Multiple Modalities", NeurIPS 2024. arXiv:2405.17419
Code:  donghao51/MultiOOD @ ab7b221; written anew from the definition

A network has a head on each modality's embedding and one on their concatenation. With
:math:`f^m` the logits of modality m, y the true class and :math:`\tilde z` the outliers of NP-Mix,

.. math::
    L = \overline{\mathrm{CE}} - \gamma \, D(\{\sigma(f^m_{\setminus y})\}_m)
        - \gamma_1 \, \overline{H}(\{f^m(\tilde z)\}_m) - \gamma_2 \, D(\{\sigma(f^m(\tilde z))\}_m)

One step of training:

(a) the mean cross-entropy :math:`\overline{\mathrm{CE}}` over the fused head and those of the
    modalities;
(b) A2D (:func:`~oodbench.detectors.a2d.a2d_loss`): on ID samples the modalities agree on the true
    class and are to disagree on the rest, with weight :math:`\gamma`;
(c) the batch's fused embeddings enter the queues of their classes
    (:meth:`~oodbench.detectors.npmix.NPMix.push`);
(d) from ``start_epoch`` on, once all queues are full, one outlier per class is mixed between it and
    one of its nearest classes (:meth:`~oodbench.detectors.npmix.NPMix.mix`);
(e) on outliers each modality is to be unsure, with weight :math:`\gamma_1`
    (:func:`~oodbench.detectors.npmix.outlier_entropy`), and all of them are to disagree, with
    weight :math:`\gamma_2` (:func:`~oodbench.detectors.npmix.outlier_distance`).

The weights are ``a2d_ratio``, ``ood_entropy_ratio`` and ``a2d_ratio_ood``, as in the reference
code. Part (b) alone is the method ``a2d`` (``detectors/a2d.py``), (c) to (e) are ``npmix``
(``detectors/npmix.py``); each of these files says how it differs from the reference code.
``detectors/_multiood.py`` describes the recipes, and how the encoders differ from MultiOOD's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from oodbench.method import Recipe
from oodbench.registry import register_method

from ._multiood import FROZEN, HEARD, QUICK, RECIPE_IDS, WARM
from .a2d import a2d_loss
from .npmix import NPMix, NPMixMethod, NPMixRecipe

__all__ = ["A2DNPMix", "NPMix", "a2d_loss"]

HALF: Mapping[str, Any] = {"a2d_ratio": 0.5, "a2d_ratio_ood": 0.5, "ood_entropy_ratio": 0.5}
TENTH: Mapping[str, Any] = {"a2d_ratio": 0.1, "a2d_ratio_ood": 0.1, "ood_entropy_ratio": 0.1}


@register_method("a2d-npmix")
class A2DNPMix(NPMixMethod):
    """A2D + NP-Mix: predictions pushed apart, and outliers on which they should be unsure."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "published": NPMixRecipe(**FROZEN, **HALF),
        "published-epic": NPMixRecipe(**FROZEN, **TENTH, epochs=20),
        "published-epic-audio": NPMixRecipe(**HEARD, **HALF, epochs=20, queue_size=150),
        "published-kinetics": NPMixRecipe(**FROZEN, **TENTH, epochs=20),
        "published-kinetics-audio": NPMixRecipe(**HEARD, **HALF, epochs=20),
        "published-hmdb-far": NPMixRecipe(**FROZEN, **TENTH),
        "published-kinetics-far": NPMixRecipe(**FROZEN, **TENTH, epochs=10, start_epoch=3),
        "warm": NPMixRecipe(**WARM, **HALF),
        "quick": NPMixRecipe(**QUICK, start_epoch=5),
    }
    recipe_ids: ClassVar[Mapping[str, tuple[str, ...]]] = RECIPE_IDS
