"""MultiOOD's benchmarks: near-OOD within a dataset, far-OOD against others; and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oodbench.benchmark import Benchmark, Protocol
from oodbench.data.clips import ClipPreprocess
from oodbench.data.spectrograms import LogSpectrogram
from oodbench.data.transforms import MultimodalPreprocess
from oodbench.dataset import DatasetSpec

from ..folder import IMAGENET_MEAN, IMAGENET_STD
from . import sets
from .layouts import VIDEO, VIDEO_AUDIO_FLOW, VIDEO_FLOW

_PARTS: Mapping[str, Any] = {
    "video": ClipPreprocess(
        32, 2, 224, IMAGENET_MEAN, IMAGENET_STD, short_side=256, min_scale=0.08
    ),
    "audio": LogSpectrogram(),
    # 256 where it is tested, though 224 where it is trained: MultiOOD's configuration
    "flow": ClipPreprocess(
        8, 4, 256, (128 / 255,) * 2, (128 / 255,) * 2, train_size=224, min_scale=0.08
    ),
}
"""What SlowFast 8x8, VGGSound's AVENet and SlowOnly 8x8 see in MultiOOD."""


def posthoc_preset(classes: int) -> dict[str, dict[str, Any]]:
    """Settings of post-hoc detectors in MultiOOD's evaluation, by detector.

    k is 10 for kNN on normalised embeddings, the covariance of Mahalanobis' distance is not shrunk,
    ViM's principal subspace has 256 dimensions, GEN takes all C classes. ReAct clips and ASH-B
    shapes each modality's embedding by itself, at the 90th percentile (ReAct: of the validation
    split's activations), with the energy of the joint head.

    Args:
        classes: C.
    """
    shaped = {"percentile": 90.0, "score": "energy", "per_modality": True}
    return {
        "knn": {"k": 10, "normalize": True},
        "mahalanobis": {"shrinkage": "none"},
        "vim": {"dim": 256},
        "gen": {"M": classes, "gamma": 0.1},
        "react": {**shaped, "fit_split": "val"},
        "ash-b": shaped,
    }


def _benchmark(
    name: str,
    id_set: DatasetSpec,
    classes: int,
    modalities: tuple[str, ...] = VIDEO_FLOW,
    *,
    near: tuple[DatasetSpec, ...] = (),
    far: tuple[DatasetSpec, ...] = (),
) -> Benchmark:
    return Benchmark(
        name=name,
        id=id_set,
        near=near,
        far=far,
        preprocess=MultimodalPreprocess({part: _PARTS[part] for part in modalities}),
        # MultiOOD takes OOD as positive where it prints FPR@95.
        protocol=Protocol(rank_group="near" if near else "far", fpr="fpr95_ood"),
        backbone="clips-small",
        citation="arXiv:2405.17419",
        presets={"multiood": posthoc_preset(classes)},
    )


def near_hmdb() -> Benchmark:
    """25 classes of HMDB51 against the other 26, in video and flow."""
    return _benchmark(
        "multiood/hmdb51-25-26", sets.MULTIOOD_HMDB_25, 25, near=(sets.MULTIOOD_HMDB_26,)
    )


def near_ucf() -> Benchmark:
    """50 classes of UCF101 against the other 51, in video and flow."""
    return _benchmark(
        "multiood/ucf101-50-51", sets.MULTIOOD_UCF_50, 50, near=(sets.MULTIOOD_UCF_51,)
    )


def near_kinetics() -> Benchmark:
    """129 classes of Kinetics-600 against 100 others, in video and flow."""
    return _benchmark(
        "multiood/kinetics600-129-100",
        sets.MULTIOOD_KINETICS_129,
        129,
        near=(sets.MULTIOOD_KINETICS_100,),
    )


def near_kinetics_audio() -> Benchmark:
    """129 classes of Kinetics-600 against 100 others, in video, sound and flow."""
    return _benchmark(
        "multiood/kinetics600-129-100-audio",
        sets.MULTIOOD_KINETICS_129_AUDIO,
        129,
        VIDEO_AUDIO_FLOW,
        near=(sets.MULTIOOD_KINETICS_100_AUDIO,),
    )


def near_epic() -> Benchmark:
    """Four verbs of EPIC-Kitchens against four others, in video and flow."""
    return _benchmark(
        "multiood/epic-4-4", sets.MULTIOOD_EPIC_0_3, 4, near=(sets.MULTIOOD_EPIC_4_7,)
    )


def near_epic_audio() -> Benchmark:
    """Four verbs of EPIC-Kitchens against four others, in video, sound and flow."""
    return _benchmark(
        "multiood/epic-4-4-audio",
        sets.MULTIOOD_EPIC_0_3_AUDIO,
        4,
        VIDEO_AUDIO_FLOW,
        near=(sets.MULTIOOD_EPIC_4_7_AUDIO,),
    )


def far_hmdb() -> Benchmark:
    """43 classes of HMDB51 against four other datasets, in video and flow."""
    return _benchmark(
        "multiood/hmdb51",
        sets.MULTIOOD_HMDB,
        43,
        far=(
            sets.MULTIOOD_UCF_VS_HMDB,
            sets.MULTIOOD_EPIC,
            sets.MULTIOOD_HAC,
            sets.MULTIOOD_KINETICS,
        ),
    )


def far_kinetics() -> Benchmark:
    """229 classes of Kinetics-600 against four other datasets, in video and flow."""
    return _benchmark(
        "multiood/kinetics600",
        sets.MULTIOOD_KINETICS,
        229,
        far=(
            sets.MULTIOOD_HMDB_VS_KINETICS,
            sets.MULTIOOD_UCF_VS_KINETICS,
            sets.MULTIOOD_EPIC,
            sets.MULTIOOD_HAC,
        ),
    )


def hmdb() -> Benchmark:
    """43 classes of HMDB51 against four other datasets, in video."""
    return _benchmark(
        "hmdb51",
        sets.HMDB,
        43,
        VIDEO,
        far=(sets.UCF_VS_HMDB, sets.EPIC, sets.HAC, sets.KINETICS),
    )


def hmdb_near() -> Benchmark:
    """25 classes of HMDB51 against the other 26, in video."""
    return _benchmark("hmdb51/25-26", sets.HMDB_25, 25, VIDEO, near=(sets.HMDB_26,))


def ucf() -> Benchmark:
    """50 classes of UCF101 against the other 51, in video."""
    return _benchmark("ucf101", sets.UCF, 50, VIDEO, near=(sets.UCF_51,))


def kinetics() -> Benchmark:
    """229 classes of Kinetics-600 against four other datasets, in video."""
    return _benchmark(
        "kinetics600",
        sets.KINETICS,
        229,
        VIDEO,
        far=(sets.HMDB_VS_KINETICS, sets.UCF_VS_KINETICS, sets.EPIC, sets.HAC),
    )


def kinetics_near() -> Benchmark:
    """129 classes of Kinetics-600 against 100 others, in video."""
    return _benchmark(
        "kinetics600/129-100", sets.KINETICS_129, 129, VIDEO, near=(sets.KINETICS_100,)
    )
