"""What is derived from MultiOOD's videos: their sound as WAV, and their optical flow."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench import files
from oodbench.errors import DataError, OODBenchError

from .layouts import Layout
from .samples import Tree
from .splits import Clip

Report = Callable[[str], object]
"""Is called with each line of a report."""

RATE = 16000
"""Of the recordings that are taken from videos, in Hz, as in MultiOOD."""

BOUND = 20.0
"""Largest flow that is kept, in pixels from a frame to the next, as in MultiOOD."""

STEP = 100
"""Files after which a long run says that it still runs."""

_SMALLEST = 128
"""RAFT's correlation pyramid needs frames of at least this side."""


def extract_all(base: Path, place: Layout, clips: Iterable[Clip], say: Report) -> None:
    """Takes the sound from the videos of all clips that have none yet, and reports on it."""
    tree, made, failed = Tree(base), 0, []
    for clip in clips:
        (video,), (sound,) = (place.paths(base, clip, part) for part in ("video", "audio"))
        if tree.size(sound) or not tree.size(video):
            continue
        try:
            made += extract_audio(base / video, base / sound)
            if made % STEP == 0:
                say(f"{place.folder}: {made:,} recordings so far, the last {sound}")
        except DataError as error:
            failed.append(str(error))
    if made:
        say(f"{place.folder}: {made:,} recordings taken from videos")
    if failed:
        say(f"{place.folder}: no recording from {len(failed):,} videos; the first: {failed[0]}")


def extract_audio(video: Path, target: Path) -> bool:
    """Writes the sound of a video as mono 16 kHz WAV (16 bit), whole or not at all.

    Args:
        video: the file.
        target: what is written; nothing is done if it is there.

    Returns:
        Whether it was written.

    Raises:
        DataError: the video has no sound, or is damaged; the message names it.
        OODBenchError: PyAV is not installed.
    """
    if target.is_file() and target.stat().st_size:
        return False
    av = _av()
    with _reading(video) as container:
        stream = container.streams.best("audio")
        if stream is None:
            raise DataError(f"the video {video} has no sound.")
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        pieces = [
            piece.to_ndarray().tobytes()
            for frame in _then_none(container.decode(stream))
            for piece in resampler.resample(frame)
        ]
    if not any(pieces):
        raise DataError(f"the video {video} has a track of sound without any sample.")
    with files.replacing(target) as temporary, wave.open(str(temporary), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(b"".join(pieces))
    return True


def _then_none(frames: Iterable[Any]) -> Iterator[Any]:
    """The frames and a None, at which a resampler or encoder gives what it has kept."""
    yield from frames
    yield None


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise OODBenchError(
            "videos are read by PyAV, which is not installed: pip install 'oodbench[video]'."
        ) from error
    return av


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """PyAV's container; its errors become a DataError that names the file."""
    av = _av()
    try:
        # A playlist under a video's name must not make the decoder fetch anything
        options = {"protocol_whitelist": "file"}
        with av.open(f"file:{path}", metadata_errors="replace", options=options) as container:
            yield container
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"cannot read the video {path} ({error}). Get it again.") from error


# flow -------------------------------------------------------------------------------------------


def raft(size: str) -> nn.Module:
    """Torchvision's RAFT with its weights, which are downloaded; ``"small"`` or ``"large"``."""
    from torchvision.models import optical_flow

    build = optical_flow.raft_small if size == "small" else optical_flow.raft_large
    network: nn.Module = build(weights="DEFAULT")
    return network


def flow_all(
    base: Path, place: Layout, clips: Iterable[Clip], network: nn.Module, batch: int, say: Report
) -> None:
    """Computes the flow of all clips that have a video and no flow yet, and reports on it."""
    tree, made, failed = Tree(base), 0, []
    for clip in clips:
        (video,), (x, y) = (place.paths(base, clip, part) for part in ("video", "flow"))
        if (tree.size(x) and tree.size(y)) or not tree.size(video):
            continue
        try:
            made += write_flow(base / video, base / x, base / y, network, batch)
            if made % STEP == 0:
                say(f"{place.folder}: flow of {made:,} videos so far, the last {video}")
        except DataError as error:
            failed.append(str(error))
    if made:
        say(
            f"{place.folder}: optical flow of {made:,} videos computed. It is not the published "
            "one (TV-L1): say so where results are compared."
        )
    if failed:
        say(f"{place.folder}: no flow of {len(failed):,} videos; the first: {failed[0]}")


def write_flow(video: Path, x_path: Path, y_path: Path, network: nn.Module, batch: int = 8) -> bool:
    """Writes the optical flow of a video as two grey videos, each whole or not at all.

    Frame i is the flow from frame i to i + 1 of the video, so there is one frame fewer. Pixels are
    those of :func:`encode_flow`. H.264 of high quality, as the published flow is lossy as well. At
    the video's own rate; the published flow of Kinetics-600 is of the video resampled to 24 frames
    a second.

    Args:
        video: the file.
        x_path: horizontal flow; nothing is done if it and ``y_path`` are there.
        y_path: vertical flow.
        network: see :func:`prepare`.
        batch: pairs of frames that it sees at once.

    Returns:
        Whether they were written.

    Raises:
        DataError: the video is damaged, or has fewer than two frames; the message names it.
        OODBenchError: PyAV is not installed, or cannot write H.264.
    """
    if all(path.is_file() and path.stat().st_size for path in (x_path, y_path)):
        return False
    rate, frames = _decoded(video)
    pairs = pairwise(frames)
    chunk = list(islice(pairs, batch))
    if not chunk:
        raise DataError(f"the video {video} has fewer than two frames, so no optical flow.")
    height, width = chunk[0][0].shape[:2]
    with (
        files.replacing(x_path) as x_part,
        files.replacing(y_path) as y_part,
        _grey_video(x_part, width, height, rate) as add_x,
        _grey_video(y_part, width, height, rate) as add_y,
    ):
        while chunk:
            if any(frame.shape[:2] != (height, width) for pair in chunk for frame in pair):
                raise DataError(f"the frames of the video {video} differ in size.")
            for x, y in encode_flow(compute_flow(network, chunk)):
                add_x(x)
                add_y(y)
            chunk = list(islice(pairs, batch))
    return True


def _decoded(video: Path) -> tuple[Fraction, Iterator[np.ndarray]]:
    """Frames a second, and all frames ``[H, W, 3]`` uint8, one after the other."""
    with _reading(video) as container:
        stream = _pictures(container, video)
        rate = Fraction(stream.average_rate or 24).limit_denominator(65535)

    def frames() -> Iterator[np.ndarray]:
        with _reading(video) as container:
            stream = _pictures(container, video)
            stream.codec_context.thread_count = 1  # The network needs the cores.
            for frame in container.decode(stream):
                yield frame.to_ndarray(format="rgb24")

    return rate, frames()


def _pictures(container: Any, video: Path) -> Any:
    stream = container.streams.best("video")
    if stream is None:
        raise DataError(f"the video {video} has no frames.")
    return stream


def compute_flow(network: nn.Module, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """``[B, 2, H, W]`` float32 in pixels, of pairs of frames ``[H, W, 3]`` uint8.

    Frames are resized to multiples of 8, at least 128, which RAFT needs; the flow is resized back
    and scaled with it.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    height, width = pairs[0][0].shape[:2]
    inside = [max(_SMALLEST, 8 * round(side / 8)) for side in (height, width)]

    def tensor(which: int) -> Tensor:
        pixels = torch.from_numpy(np.stack([pair[which] for pair in pairs])).to(device)
        whole = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        return F.interpolate(whole, inside, mode="bilinear", align_corners=False)

    with torch.inference_mode():
        estimate = network(tensor(0), tensor(1))
        if isinstance(estimate, list | tuple):  # RAFT gives its estimate after each update.
            estimate = estimate[-1]
        flow = F.interpolate(
            estimate.float(), (height, width), mode="bilinear", align_corners=False
        )
        scale = torch.tensor([width / inside[1], height / inside[0]], device=device)
        whole: np.ndarray = (flow * scale[:, None, None]).cpu().numpy()
    return whole


def encode_flow(flow: np.ndarray) -> np.ndarray:
    """Uint8 of flow in pixels: clipped to +-20, then -20 is 0, none 128 and 20 is 255.

    ``(v + 20) * 255 / 40``, rounded half up: the scale of MultiOOD's ``utils/video2flow.py``.
    """
    clipped = np.nan_to_num(flow).clip(-BOUND, BOUND)
    return np.floor((clipped + BOUND) * 255 / (2 * BOUND) + 0.5).astype(np.uint8)


@contextmanager
def _grey_video(
    path: Path, width: int, height: int, rate: Any
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that adds a frame ``[H, W]`` uint8; the file is whole when it ends well."""
    av = _av()
    try:
        av.codec.Codec("libx264", "w")
    except ValueError as error:  # PyAV's UnknownCodecError is one
        raise OODBenchError(
            "this PyAV cannot write H.264; that of PyPI can: pip install --force-reinstall av."
        ) from error
    # The format is named because the temporary file's suffix tells nothing.
    with av.open(str(path), "w", format="mp4") as container:
        # Frames have levels of grey alone: an odd side then needs no padding, as colours at half
        # size would.
        stream = container.add_stream(
            "libx264", rate=rate, options={"crf": "18", "preset": "veryfast"}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "gray"
        stream.codec_context.thread_count = 1
        # Readers would otherwise take levels for those of television, 16 to 235, and stretch them.
        stream.codec_context.color_range = 2

        def add(pixels: np.ndarray) -> None:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="gray")
            frame.color_range = 2
            container.mux(stream.encode(frame))

        yield add
        container.mux(stream.encode(None))
