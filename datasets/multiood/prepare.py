"""What ``oodbench data prepare multiood`` does: fetch, derive and check MultiOOD's files.

The split files are fetched, 5 MB. Videos, published flow and recordings are too large, or want an
account: what is missing is listed, with its address and its place. Sound is taken from videos, and
optical flow computed where asked for. What is there is never made again, so that an interrupted
run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import nn

from oodbench import files
from oodbench.download import transfer
from oodbench.download.described import RemoteFile
from oodbench.download.transfer import Patience
from oodbench.errors import DownloadError, OptionError

from . import derive
from .derive import Report
from .layouts import FOLDER, LAYOUTS
from .samples import Tree
from .splits import SPLIT_FILES, Clip, read_split, sha256, split_path, split_url

MISSING = "missing.txt"
"""In the folder ``multiood``: every file that a split file names and that is not there."""


def prepare(
    root: Path,
    report: Report | None = None,
    *,
    patience: Patience | None = None,
    audio: bool = True,
    flow: nn.Module | Literal["small", "large"] | None = None,
    batch: int = 8,
    device: str = "cpu",
) -> dict[str, int]:
    """MultiOOD: fetches its split files, derives sound and flow, and lists what is missing.

    Args:
        root: the data folder.
        report: is called with each line of the report; nobody if None.
        patience: how long servers are waited for.
        audio: whether sound is taken from videos, where it belongs beside them (Kinetics-600).
        flow: computes optical flow where the published one is missing, but for EPIC-Kitchens.
            None for nothing; torchvision's RAFT with its weights (which it downloads) of that size;
            or a network called with two batches ``[B, 3, H, W]`` in [-1, 1], that gives flow
            ``[B, 2, H, W]`` in pixels, or a list of such whose last is the best.
        batch: pairs of frames that the network sees at once.
        device: where it runs.

    Returns:
        How many files are missing, by ``"<folder> <modality>"``.

    Raises:
        DownloadError: split files cannot be fetched, or what came is not the published file; the
            message says where to put them.
        OptionError: a ``flow`` or ``batch`` that cannot be.
        StorageError: the folder cannot be written to.
    """
    say = report or _nobody
    if batch < 1:
        raise OptionError(f"batch must be at least 1, not {batch}.")
    if isinstance(flow, str) and flow not in ("small", "large"):
        raise OptionError(f"flow is 'small', 'large' or a network, not {flow!r}.")
    base = files.writable_dir(
        root / FOLDER, "Set OODBENCH_DATA to a folder for datasets that you may write."
    )
    _fetch_splits(base, patience, say)
    everything = {name: _all_clips(base, name) for name in LAYOUTS}
    if audio:
        for name in ("kinetics600",):
            derive.extract_all(base, LAYOUTS[name], everything[name], say)
    if flow is not None:
        network = derive.raft(flow) if isinstance(flow, str) else flow
        network = network.eval().to(device)
        for name in ("hmdb51", "ucf101", "hac", "kinetics600"):
            derive.flow_all(base, LAYOUTS[name], everything[name], network, batch, say)
    return _check(base, everything, say)


def _nobody(_: str) -> None:
    return


def _fetch_splits(base: Path, patience: Patience | None, say: Report) -> None:
    """Fetches those that are not there, or not the published ones."""
    wanted = [name for name in SPLIT_FILES if not _is_published(base, name)]
    if not wanted:
        say(f"split files: all {len(SPLIT_FILES)} are there")
        return
    for done, name in enumerate(wanted):
        path = base / split_path(name)
        files.make_dir(path.parent)
        file = RemoteFile(split_url(name), sha256=SPLIT_FILES[name])
        try:
            with files.locked(path):
                if not _is_published(base, name):  # another process may have been quicker
                    transfer.fetch(file, path, patience=patience, say=say)
        except DownloadError as error:  # one failure is enough
            rest = "\n".join(
                f"  {base / split_path(n)}\n    from {split_url(n)}" for n in wanted[done:]
            )
            raise type(error)(
                f"{error}\nOn a machine without network, put these "
                f"{len(wanted) - done} files there (or clone github.com/donghao51/MultiOOD and "
                f"copy its folders HMDB-rgb-flow/splits and EPIC-rgb-flow/splits), then run this "
                f"again:\n{rest}"
            ) from error
    say(f"split files: {len(wanted)} fetched")


def _is_published(base: Path, name: str) -> bool:
    path = base / split_path(name)
    return path.is_file() and sha256(path.read_bytes()) == SPLIT_FILES[name]


def _all_clips(base: Path, layout: str) -> list[Clip]:
    """Every clip of a dataset that any split file names, once."""
    # A clip is in several lists, under different labels.
    clips = {
        (clip.path, clip.first, clip.end, clip.start, clip.stop): clip
        for name in LAYOUTS[layout].listed_in()
        for clip in read_split(base, name)
    }
    return list(clips.values())


def _check(base: Path, everything: Mapping[str, Sequence[Clip]], say: Report) -> dict[str, int]:
    """Counts what is missing, reports it, and writes the whole list to a file."""
    counts: dict[str, int] = {}
    lines: list[str] = []
    tree = Tree(base)
    for name, clips in everything.items():
        place = LAYOUTS[name]
        lacking = 0
        for modality in place.modalities:
            paths = dict.fromkeys(p for c in clips for p in place.paths(base, c, modality))
            missing = [path for path in paths if not tree.size(path)]
            counts[f"{place.folder} {modality}"] = len(missing)
            lacking += len(missing)
            whole = not (base / place.folder).is_dir()  # a line each would be a million
            lines += [f"{place.folder}/ ({modality}, {len(paths)} files)"] if whole else missing
            state = f"{len(missing):,} of {len(paths):,} files missing" if missing else "complete"
            first = f": {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
            say(f"{place.folder} {modality}: {state}{first if missing else ''}")
        if lacking:
            for step in place.download.steps[1:]:
                say(f"  {step}")
    files.write_text(base / MISSING, "".join(f"{line}\n" for line in lines))
    if lines:
        say(f"all that is missing: {base / MISSING}")
    return counts
