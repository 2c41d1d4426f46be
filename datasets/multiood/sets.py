"""MultiOOD's datasets: which clips each of them lists, and which modalities are read of a clip.

Those named ``multiood-*`` have video and optical flow, those that end in ``-audio`` sound as well,
those without that prefix video alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from oodbench.data.content import Content
from oodbench.dataset import DatasetSpec

from .layouts import LAYOUTS, VIDEO, VIDEO_AUDIO_FLOW, VIDEO_FLOW
from .samples import ListedClips

_HAC_FILES = tuple(
    f"HAC_{split}_only_{domain}.csv"
    for domain in ("human", "animal", "cartoon")
    for split in ("test", "train")
)
_EPIC_FILES = tuple(f"D3_{split}.pkl" for split in ("train", "val", "test"))


def _splits(pattern: str) -> dict[str, tuple[str, ...]]:
    """The split files of an ID set, by split, whose name stands where the pattern has a star."""
    return {split: (pattern.replace("*", split),) for split in ("train", "val", "test")}


def _test(*names: str) -> dict[str, tuple[str, ...]]:
    """The split files of an OOD set, which has a test split alone."""
    return {"test": names}


_COUNTS: dict[str, tuple[int, ...]] = {
    "hmdb51-25": (2_074, 445, 459),
    "hmdb51-26": (3_744,),
    "ucf101": (4_669, 1_005, 1_030),
    "ucf101-51": (6_616,),
    "kinetics600-129": (22_549, 4_773, 4_902),
    "kinetics600-100": (10_000,),
    "hmdb51": (3_953, 843, 877),
    "kinetics600": (40_048, 8_463, 8_694),
    "ucf101-vs-hmdb51": (1_351,),
    "ucf101-vs-kinetics600": (1_810,),
    "hmdb51-vs-kinetics600": (5_673,),
    "epic": (4_871,),
    "hac": (3_381,),
    "multiood-epic-0-3": (2_484, 531, 536),
    "multiood-epic-4-7": (1_320,),
}
"""How many clips the split files name, by split; videos of Kinetics-600 vanish from the web."""


def _clips(
    name: str,
    layout: str,
    modalities: tuple[str, ...],
    lists: dict[str, tuple[str, ...]],
    *,
    description: str,
) -> DatasetSpec:
    place = LAYOUTS[layout]
    return DatasetSpec(
        name=name,
        load=ListedClips(name, layout, lists, modalities),
        splits=tuple(lists),
        description=description,
        source=place.source,
        licence=place.licence,
        citation=place.citation,
        downloads=(place.download,),
        contents={split: Content(count) for split, count in zip(lists, _COUNTS[name], strict=True)},
    )


def _also(
    name: str, spec: DatasetSpec, modalities: tuple[str, ...], *, description: str
) -> DatasetSpec:
    """The same clips, of which other modalities are read."""
    load = replace(cast(ListedClips, spec.load), name=name, modalities=modalities)
    return replace(spec, name=name, load=load, description=description)


# Video alone.

HMDB_25 = _clips(
    "hmdb51-25",
    "hmdb51",
    VIDEO,
    _splits("HMDB_*_near_ood.txt"),
    description="25 classes of HMDB51, the ID half of near-OOD; video",
)
HMDB_26 = _clips(
    "hmdb51-26",
    "hmdb51",
    VIDEO,
    _test("HMDB_eval_near_ood.txt"),
    description="26 classes of HMDB51, the OOD half of near-OOD; video",
)
UCF = _clips(
    "ucf101",
    "ucf101",
    VIDEO,
    _splits("UCF_*_near_ood.txt"),
    description="50 classes of UCF101, the ID half of near-OOD; video",
)
UCF_51 = _clips(
    "ucf101-51",
    "ucf101",
    VIDEO,
    _test("UCF_eval_near_ood.txt"),
    description="51 classes of UCF101, the OOD half of near-OOD; video",
)
KINETICS_129 = _clips(
    "kinetics600-129",
    "kinetics600",
    VIDEO,
    _splits("Kinetics_*_near_ood.txt"),
    description="129 classes of Kinetics-600, the ID set of near-OOD; video",
)
KINETICS_100 = _clips(
    "kinetics600-100",
    "kinetics600",
    VIDEO,
    _test("Kinetics_eval_near_ood.txt"),
    description="100 classes of Kinetics-600, the OOD set of near-OOD; video",
)
HMDB = _clips(
    "hmdb51",
    "hmdb51",
    VIDEO,
    _splits("HMDB_*.txt"),
    description="43 classes of HMDB51, the ID set of far-OOD; video",
)
KINETICS = _clips(
    "kinetics600",
    "kinetics600",
    VIDEO,
    _splits("Kinetics_*.txt"),
    description="229 classes of Kinetics-600, an ID or far-OOD set; video",
)
UCF_VS_HMDB = _clips(
    "ucf101-vs-hmdb51",
    "ucf101",
    VIDEO,
    _test("ID_HMDB_OOD_UCF.txt"),
    description="UCF101 without classes of HMDB51; video",
)
UCF_VS_KINETICS = _clips(
    "ucf101-vs-kinetics600",
    "ucf101",
    VIDEO,
    _test("ID_Kinetics_OOD_UCF.txt"),
    description="UCF101 without classes of Kinetics-600; video",
)
HMDB_VS_KINETICS = _clips(
    "hmdb51-vs-kinetics600",
    "hmdb51",
    VIDEO,
    _test("ID_Kinetics_OOD_HMDB.txt"),
    description="HMDB51 without classes of Kinetics-600; video",
)
EPIC = _clips(
    "epic", "epic", VIDEO, _test(*_EPIC_FILES), description="8 verbs of EPIC-Kitchens; video"
)
HAC = _clips(
    "hac",
    "hac",
    VIDEO,
    _test(*_HAC_FILES),
    description="humans, animals and cartoons in action; video",
)

# Video and optical flow.

MULTIOOD_HMDB_25 = _also(
    "multiood-hmdb51-25",
    HMDB_25,
    VIDEO_FLOW,
    description="25 classes of HMDB51, the ID half of near-OOD; video, flow",
)
MULTIOOD_HMDB_26 = _also(
    "multiood-hmdb51-26",
    HMDB_26,
    VIDEO_FLOW,
    description="26 classes of HMDB51, the OOD half of near-OOD; video, flow",
)
MULTIOOD_UCF_50 = _also(
    "multiood-ucf101-50",
    UCF,
    VIDEO_FLOW,
    description="50 classes of UCF101, the ID half of near-OOD; video, flow",
)
MULTIOOD_UCF_51 = _also(
    "multiood-ucf101-51",
    UCF_51,
    VIDEO_FLOW,
    description="51 classes of UCF101, the OOD half of near-OOD; video, flow",
)
MULTIOOD_KINETICS_129 = _also(
    "multiood-kinetics600-129",
    KINETICS_129,
    VIDEO_FLOW,
    description="129 classes of Kinetics-600, the ID set of near-OOD; video, flow",
)
MULTIOOD_KINETICS_100 = _also(
    "multiood-kinetics600-100",
    KINETICS_100,
    VIDEO_FLOW,
    description="100 classes of Kinetics-600, the OOD set of near-OOD; video, flow",
)
MULTIOOD_EPIC_0_3 = _clips(
    "multiood-epic-0-3",
    "epic",
    VIDEO_FLOW,
    _splits("D3_*_near_ood.pkl"),
    description="verbs 0-3 of EPIC-Kitchens, the ID half of near-OOD; video, flow",
)
MULTIOOD_EPIC_4_7 = _clips(
    "multiood-epic-4-7",
    "epic",
    VIDEO_FLOW,
    _test("D3_eval_near_ood.pkl"),
    description="verbs 4-7 of EPIC-Kitchens, the OOD half of near-OOD; video, flow",
)
MULTIOOD_HMDB = _also(
    "multiood-hmdb51",
    HMDB,
    VIDEO_FLOW,
    description="43 classes of HMDB51, the ID set of far-OOD; video, flow",
)
MULTIOOD_KINETICS = _also(
    "multiood-kinetics600",
    KINETICS,
    VIDEO_FLOW,
    description="229 classes of Kinetics-600, an ID or far-OOD set; video, flow",
)
MULTIOOD_UCF_VS_HMDB = _also(
    "multiood-ucf101-vs-hmdb51",
    UCF_VS_HMDB,
    VIDEO_FLOW,
    description="UCF101 without classes of HMDB51; video, flow",
)
MULTIOOD_UCF_VS_KINETICS = _also(
    "multiood-ucf101-vs-kinetics600",
    UCF_VS_KINETICS,
    VIDEO_FLOW,
    description="UCF101 without classes of Kinetics-600; video, flow",
)
MULTIOOD_HMDB_VS_KINETICS = _also(
    "multiood-hmdb51-vs-kinetics600",
    HMDB_VS_KINETICS,
    VIDEO_FLOW,
    description="HMDB51 without classes of Kinetics-600; video, flow",
)
MULTIOOD_EPIC = _also(
    "multiood-epic", EPIC, VIDEO_FLOW, description="8 verbs of EPIC-Kitchens; video, flow"
)
MULTIOOD_HAC = _also(
    "multiood-hac",
    HAC,
    VIDEO_FLOW,
    description="humans, animals and cartoons in action; video, flow",
)

# Video, sound and optical flow.

MULTIOOD_KINETICS_129_AUDIO = _also(
    "multiood-kinetics600-129-audio",
    KINETICS_129,
    VIDEO_AUDIO_FLOW,
    description="129 classes of Kinetics-600, the ID set of near-OOD; video, audio, flow",
)
MULTIOOD_KINETICS_100_AUDIO = _also(
    "multiood-kinetics600-100-audio",
    KINETICS_100,
    VIDEO_AUDIO_FLOW,
    description="100 classes of Kinetics-600, the OOD set of near-OOD; video, audio, flow",
)
MULTIOOD_EPIC_0_3_AUDIO = _also(
    "multiood-epic-0-3-audio",
    MULTIOOD_EPIC_0_3,
    VIDEO_AUDIO_FLOW,
    description="verbs 0-3 of EPIC-Kitchens, the ID half of near-OOD; video, audio, flow",
)
MULTIOOD_EPIC_4_7_AUDIO = _also(
    "multiood-epic-4-7-audio",
    MULTIOOD_EPIC_4_7,
    VIDEO_AUDIO_FLOW,
    description="verbs 4-7 of EPIC-Kitchens, the OOD half of near-OOD; video, audio, flow",
)
