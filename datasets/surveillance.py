"""Real clips: fights before surveillance cameras against people who bend, jump and wave.

ID are the 300 clips of two seconds of S. Aktı, G. A. Tataroğlu, H. K. Ekenel, "Vision-based Fight
Detection from Surveillance Cameras", IPTA 2019 (arXiv:2002.04355; MIT): fight and noFight, 150
each. OOD are four actions of nine people of L. Gorelick et al., "Actions as Space-Time Shapes",
PAMI 2007, as 64 x 64 pixels.

Two classes and 36 OOD clips are few, and the sets differ in much besides the action (resolution,
camera, background): the benchmark shows real files going through the whole way, and says little of
detectors. No split was published. Here clips are split by the video that they were cut from, which
the publishers' list names, so that no scene is in two splits: every third video of the list is
tested on, every ninth is for validation, all else is for training, with the 27 clips that the list
has no video of.
"""

from __future__ import annotations

import re
from pathlib import Path

from oodbench import files
from oodbench.benchmark import Benchmark, Protocol
from oodbench.data.clips import ClipPreprocess
from oodbench.data.recordings import VIDEO, Recordings, recording_folder
from oodbench.data.transforms import MultimodalPreprocess
from oodbench.dataset import DatasetSpec
from oodbench.errors import DataError, MissingDataError, OptionError

FOLDER = "fight-detection-surv-dataset"
CLASSES = ("fight", "noFight")
CLIPS = 300
ACTIONS = "weizmann4"
GET = (
    f"git clone https://github.com/seymanurakti/{FOLDER} in the data folder, or set OODBENCH_DATA "
    "to the folder that has it."
)
GET_ACTIONS = (
    f"put clips of them, 64 x 64, into {ACTIONS}/<action>/*.mp4 in the data folder (bend, "
    "jumping_jack, wave_one_hand, wave_two_hands; the original videos: "
    "www.wisdom.weizmann.ac.il/~vision/SpaceTimeActions.html), or set OODBENCH_DATA "
    "to the folder that has them."
)


def splits_of(listing: str) -> dict[str, str]:
    """The split of each clip's name, by the publishers' list of videos.

    Args:
        listing: ``videos.txt``: a video's address, and below it the clips that were cut from it.
    """
    video, split_of = -1, {}
    for line in listing.splitlines():
        if line.strip().startswith("http"):
            video += 1
        elif named := re.match(r"(?:no)?fi\d{3}(?=:)", line.strip()):
            split_of[named[0]] = _split(video)
    return split_of


def _split(video: int) -> str:
    if video % 3 == 2:
        return "test"
    return "val" if video % 9 == 4 else "train"


def _fights(split: str) -> Recordings:
    if split not in ("train", "val", "test"):
        raise OptionError(f"surveillance has the splits train, val and test, not {split!r}.")
    root = files.data_dir() / FOLDER
    if not root.is_dir():
        raise MissingDataError(f"surveillance, {split}: there is no folder {root}. Get it: {GET}")
    split_of = splits_of(_listing(root / "videos.txt"))
    paths = sorted(path.relative_to(root) for name in CLASSES for path in root.glob(f"{name}/*"))
    paths = [path for path in paths if path.suffix == ".mp4"]
    if len(paths) != CLIPS:
        raise DataError(
            f"surveillance is {CLIPS} clips, and {root} has {len(paths)}. Get it again: {GET}"
        )
    kept = [path for path in paths if split_of.get(path.stem, "train") == split]
    labels = [CLASSES.index(path.parts[0]) for path in kept]
    names = [path.as_posix() for path in kept]
    return Recordings(f"surveillance/{split}", root, names, labels, CLASSES, VIDEO)


def _listing(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(
            f"surveillance: {path} cannot be read ({error.strerror or error}), and says which "
            f"clips are of one video. Get it again: {GET}"
        ) from error


def _actions(split: str) -> Recordings:
    if split != "test":
        raise OptionError(f"weizmann-actions has the split test, not {split!r}.")
    root = files.data_dir() / ACTIONS
    if not root.is_dir():
        raise MissingDataError(
            f"weizmann-actions: there is no folder {root}. Get it: {GET_ACTIONS}"
        )
    return recording_folder("weizmann-actions/test", root, VIDEO)


SURVEILLANCE = DatasetSpec(
    "surveillance",
    _fights,
    ("train", "val", "test"),
    description="fights and none before surveillance cameras, clips of 2 s",
    source=f"https://github.com/seymanurakti/{FOLDER} (ff83b7c5)",
    licence="MIT",
    citation="Akti et al. 2019, arXiv:2002.04355",
)
WEIZMANN = DatasetSpec(
    "weizmann-actions",
    _actions,
    ("test",),
    description="people who bend, jump and wave, clips of 64 x 64 pixels",
    source="https://www.wisdom.weizmann.ac.il/~vision/SpaceTimeActions.html",
    licence="for research; see the publisher's page",
    citation="Gorelick et al. 2007, Actions as Space-Time Shapes, PAMI",
)

REMARKS = (
    "Two ID classes and 36 OOD clips, which differ from ID in resolution, camera and background "
    "as well as in what is done: a detector that is good here has shown little.",
    "Most AUROCs are far below 50 because networks of the quick recipe are surer of OOD clips than "
    "of ID ones (with clips-small and seed 0 the larger probability is 0.86 and 0.61 in the "
    "median), so that whatever reads confidence is reversed. Why they are was not looked into.",
    "Clips are split by the video that they were cut from; the publishers have no split.",
)


def surveillance() -> Benchmark:
    """Fights before surveillance cameras against people who bend, jump and wave (far)."""
    mean, std = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
    return Benchmark(
        name="surveillance",
        id=SURVEILLANCE,
        near=(),
        far=(WEIZMANN,),
        preprocess=MultimodalPreprocess({VIDEO: ClipPreprocess(16, 2, 64, mean, std)}),
        protocol=Protocol(rank_group="far"),
        backbone="clips-small",
        citation="oodbench",
        remarks=REMARKS,
    )
