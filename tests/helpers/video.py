"""Videos of a known content, written for a test."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

av = pytest.importorskip("av")


def scene(n: int, height: int = 64, width: int = 80) -> list[np.ndarray]:
    """A camera that moves over a photograph: n frames ``[H, W, 3]``."""
    photograph = load_sample_images().images[0]
    room = np.array(photograph.shape[:2]) - (height, width)
    turn = np.arange(n)[:, None] * (0.11, 0.07)
    corners = (room * (0.5 + 0.5 * np.sin(turn))).astype(int)
    return [photograph[y : y + height, x : x + width] for y, x in corners]


def grey(n: int, seed: int = 0, height: int = 64, width: int = 80) -> list[np.ndarray]:
    """Smooth grey frames of many levels."""
    x = np.arange(width) + np.arange(height)[:, None] + 3 * np.arange(n)[:, None, None]
    levels = (127 + 120 * np.sin((x + seed) / 17)).astype(np.uint8)
    return list(levels[..., None].repeat(3, axis=3))


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str | None = None,
    rate: Fraction | int = 25,
    gop: int = 10,
    b_frames: int = 2,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    sound: np.ndarray | None = None,
    sound_codec: str = "aac",
    sound_rate: int = 16000,
) -> Path:
    """A video, and a track of sound ``[channels, n]`` if there is one."""
    codec = codec or ("mpeg4" if path.suffix == ".avi" else "libx264")
    with av.open(str(path), "w", options=container_options or {}) as container:
        if len(frames):
            stream = container.add_stream(codec, rate=rate, options=options or {})
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
            stream.codec_context.thread_count = 1
        if sound is not None:
            layout = "mono" if len(sound) == 1 else "stereo"
            heard = container.add_stream(sound_codec, rate=sound_rate, layout=layout)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if times is not None:
                frame.pts = times[i]
            container.mux(stream.encode(frame))
        if len(frames):
            container.mux(stream.encode())
        if sound is not None:
            for start in range(0, sound.shape[1], 1024):
                piece = np.ascontiguousarray(sound[:, start : start + 1024], dtype=np.float32)
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
                frame.rate, frame.pts = sound_rate, start
                container.mux(heard.encode(frame))
            container.mux(heard.encode())
    return path


def from_the_start(path: Path, pixels: str = "rgb24") -> np.ndarray:
    """All frames, decoded in order."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format=pixels) for frame in container.decode(video=0)])


def write_clip(
    path: Path, frames: int = 5, size: tuple[int, int] = (48, 32), channels: int = 0, seed: int = 0
) -> Path:
    """A video of noise (H.264 in MP4, MPEG-4 in AVI), with a tone of 440 Hz if it has channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rate = 44100
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", rate=25)
        pictures.width, pictures.height = size
        pictures.pix_fmt = "yuv420p"
        if channels:
            layout = {1: "mono", 2: "stereo"}[channels]
            sound = container.add_stream("aac", rate=rate, layout=layout)
        for _ in range(frames):
            noise = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(pictures.encode(None))
        if channels:
            tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
            for start in range(0, rate, 1024):
                part = np.tile(tone[start : start + 1024], (channels, 1))
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
                frame.sample_rate, frame.pts = rate, start
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


RGB = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
