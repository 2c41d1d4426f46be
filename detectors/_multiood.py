"""What the methods of MultiOOD share: the paper, and the settings of its README by ID set.

Recipes ``published*`` are those of MultiOOD's README by ID set: Adam 1e-4, weight decay 1e-4, batch
16 without an epoch's last incomplete one, dropout 0.5 on the embeddings of video and flow in
training (all heads see them so, and the queues of NP-Mix hold them so), the last stage of
pre-trained encoders, and the weights of the epoch with the best joint accuracy on the ID validation
split, the latest of equal ones.

Recipe ``warm`` is that order of things for encoders which nobody has pre-trained, as those of
avdigits, whose default it is: first ``multimodal-ce`` trains them (recipe ``quick``, once for all
methods), then the same settings for 20 epochs, as EPIC-Kitchens has, with new heads and the last
stage alone, every embedding dropped. Ratios are those of HMDB51 and UCF101: 1.0 for A2D, 0.5 each
with NP-Mix, whose outliers come from epoch 10. Of ``multimodal-ce`` it trains the single
predictions too, which the published baseline does not, since there would be nothing to compare the
modalities' disagreement with. Recipe ``quick`` is ours: from scratch, no dropout, the last weights.

The encoders differ from the reference code's: (1) video: R(2+1)D-18, trained on Kinetics-400 in
clips of 16 frames at 112 px, embeddings of 512; theirs SlowFast-R101 8x8, trained on Kinetics-400
in 32 frames at 224 px, 2,304. In MultiOOD both see 32 frames at 224 px, with ImageNet's moments,
where R(2+1)D was trained with Kinetics' (mean 0.432, 0.395, 0.376); (2) flow: that network's RGB
weights, averaged over the channels of the first convolution, 512; theirs SlowOnly-R50 8x8, trained
on Kinetics-400's flow, 2,048; (3) audio: ResNet-18 with ImageNet's weights, 512, all of them;
theirs VGGSound's ResNet-18 (AVENet), 512, whose first three stages are VGGSound's and whose last
begins at random, since its weights are looked up by names that the file does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oodbench.papers import Paper

PAPER = Paper(
    title="MultiOOD: Scaling Out-of-Distribution Detection for Multiple Modalities",
    authors="Dong, Hao and Zhao, Yue and Chatzi, Eleni and Fink, Olga",
    venue="NeurIPS",
    year=2024,
    url="https://arxiv.org/abs/2405.17419",
    formula="L = CE - a2d_ratio D(p_video, p_flow) - ood_entropy_ratio H(p~) - a2d_ratio_ood D(p~)",
)

QUICK: Mapping[str, Any] = {
    "epochs": 20,
    "batch_size": 64,
    "lr": 1e-3,
    "dropout": 0.0,
    "keep": "last",
}
"""From scratch, in a minute."""

WARM: Mapping[str, Any] = {"epochs": 20, "frozen": True, "start_from": "multimodal-ce/quick"}
"""The published order of things for encoders that nobody has pre-trained."""

FROZEN: Mapping[str, Any] = {"backbone": "clips-r2plus1d-18-kinetics", "frozen": True}
"""Pre-trained encoders of which the last stage is trained. MultiOOD's are SlowFast and SlowOnly."""

HEARD: Mapping[str, Any] = {**FROZEN, "undropped": ("audio",)}
"""The same with sound, whose embeddings MultiOOD does not drop."""

RECIPE_IDS: Mapping[str, tuple[str, ...]] = {
    "published": ("multiood-hmdb51-25", "multiood-ucf101-50"),
    "published-epic": ("multiood-epic-0-3",),
    "published-epic-audio": ("multiood-epic-0-3-audio",),
    "published-kinetics": ("multiood-kinetics600-129",),
    "published-kinetics-audio": ("multiood-kinetics600-129-audio",),
    "published-hmdb-far": ("multiood-hmdb51",),
    "published-kinetics-far": ("multiood-kinetics600",),
    "warm": ("avdigits",),
}
"""ID sets by recipe: those of MultiOOD's README, of which a method has its own, and of ``warm``."""
