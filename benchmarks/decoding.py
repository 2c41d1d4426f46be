"""Time the decoding of sampled clips: ours, the whole video by PyAV, and torchcodec, in one run.

Usage: ``python benchmarks/decoding.py [--clips 20] [--length 32] [--stride 2]``

A clip is ``length`` frames ``stride`` apart, at a random place of a video that is opened anew, as a
data loader does. Each reader gives RGB arrays and decodes in one thread; clips alternate between
readers, so that a busy machine slows all. "whole" decodes every frame and then picks, as MultiOOD's
loaders do; the last column compares each reader's frames with its.

oodbench decodes by PyAV. torchcodec 0.17 loads beside torch 2.14, but its wheels bring no FFmpeg:
without the system's shared libraries it decodes nothing, while PyAV's wheels bring their own. Run
on the same FFmpeg 8, torchcodec is faster, but in AVI files with B-frames, as HMDB51 and UCF101
may have, it gives neighbours of the frames that were asked for (up to two positions off, in both of
its seek modes). Medians on one core of a busy machine, 30 clips:

    ==========  ========  ======  ==========  ==============
    video       oodbench  whole   torchcodec  its frames
    ==========  ========  ======  ==========  ==============
    gop50.mp4      63 ms  163 ms      44 ms  the same
    gop250.mp4     96 ms  166 ms      86 ms  the same
    gop12.avi      28 ms   33 ms       9 ms  other ones
    ==========  ========  ======  ==========  ==============
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from sklearn.datasets import load_sample_images

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oodbench.data.video import VideoFile

Reader = Callable[[Path, np.ndarray], np.ndarray]


def write(path: Path, frames: int, height: int, width: int, codec: str, gop: int) -> None:
    """A camera that moves over a photograph, coded with two B-frames in a row."""
    photograph = load_sample_images().images[0]
    room = np.array(photograph.shape[:2]) - (height, width)
    corners = room * (0.5 + 0.5 * np.sin(np.arange(frames)[:, None] * (0.08, 0.05)))
    noise = np.random.default_rng(0).normal(0, 6, (frames, height, width, 1))  # as cameras have
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.bit_rate = 800_000
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, 2
        for (y, x), grain in zip(corners.astype(int), noise, strict=True):
            pixels = photograph[y : y + height, x : x + width] + grain
            pixels = pixels.clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def whole(path: Path, clip: np.ndarray) -> np.ndarray:
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)[clip]


def ours(path: Path, clip: np.ndarray) -> np.ndarray:
    video = VideoFile(path)
    assert video.frame_count > clip[-1]
    return video.frames(clip)


def torchcodec_reader(seek_mode: str) -> Reader:
    from torchcodec.decoders import VideoDecoder

    def read(path: Path, clip: np.ndarray) -> np.ndarray:
        decoder = VideoDecoder(
            path, seek_mode=seek_mode, num_ffmpeg_threads=1, dimension_order="NHWC"
        )
        assert len(decoder) > clip[-1]
        return decoder.get_frames_at(clip.tolist()).data.numpy()

    return read


def readers(path: Path) -> dict[str, Reader]:
    """All readers that work here; says why one does not."""
    readers: dict[str, Reader] = {"oodbench": ours, "whole": whole}
    try:
        for mode in ("exact", "approximate"):
            reader = torchcodec_reader(mode)
            reader(path, np.arange(1))
            readers[f"torchcodec {mode}"] = reader
    except Exception as error:  # it fails to load in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"torchcodec cannot be used: {reason}")
    return readers


def compare(path: Path, frames: int, clips: int, length: int, stride: int) -> None:
    all_readers = readers(path)
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in all_readers}
    difference = dict.fromkeys(all_readers, 0)
    for number in range(clips + 1):
        first = rng.integers(0, frames - length * stride + 1)
        clip = first + np.arange(length) * stride
        wanted = whole(path, clip).astype(int)
        for name, reader in all_readers.items():
            began = time.perf_counter()
            got = reader(path, clip)
            if number:  # the first warms up
                seconds[name].append(time.perf_counter() - began)
            difference[name] = max(difference[name], int(np.abs(got - wanted).max()))
    base = statistics.median(seconds["oodbench"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(
            f"{path.name:<16}{name:<24}{median * 1e3:>8.1f} ms{median / base:>8.2f} x"
            f"{difference[name]:>8d}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=20, help="clips of each video")
    parser.add_argument("--length", type=int, default=32, help="frames of a clip")
    parser.add_argument("--stride", type=int, default=2, help="frames from one to the next")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'video':<16}{'reader':<24}{'a clip':>11}{'ratio':>10}{'max |diff|':>12}")
    kinds = {
        # Kinetics: ten seconds; with a key frame each two seconds, and with one in ten seconds
        "gop50.mp4": (300, 256, 340, "libx264", 50),
        "gop250.mp4": (300, 256, 340, "libx264", 250),
        # UCF101 and HMDB51
        "gop12.avi": (180, 240, 320, "mpeg4", 12),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (frames, *shape, codec, gop) in kinds.items():
            path = Path(folder) / name
            write(path, frames, *shape, codec, gop)
            compare(path, frames, args.clips, args.length, args.stride)


if __name__ == "__main__":
    main()
