"""Clips: which frames of a video are seen, and what becomes of them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from oodbench.data.clips import ClipPreprocess, random_clip, uniform_clip
from oodbench.data.video import Video, VideoFile
from oodbench.errors import DataError, OptionError
from tests.helpers.video import RGB, scene

pytest.importorskip("av")


def mmaction(frame_count: int, length: int, stride: int, offset: int | None = None) -> np.ndarray:
    """Transcribed from SampleFrames with one clip; with an offset, its training mode."""
    span = length * stride
    if offset is None:
        average = (frame_count - span + 1) / 1.0
        offset = int(0 + average / 2.0) if frame_count > span - 1 else 0
    return np.mod(offset + np.arange(length) * stride, frame_count)


@settings(max_examples=200)
@given(
    frame_count=st.integers(1, 400),
    length=st.integers(1, 40),
    stride=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_clips_are_those_of_the_reference(
    frame_count: int, length: int, stride: int, seed: int
) -> None:
    clip = uniform_clip(frame_count, length, stride)
    assert clip.dtype == np.int64
    assert np.array_equal(clip, mmaction(frame_count, length, stride))
    drawn = random_clip(frame_count, length, stride, random.Random(seed))
    room = frame_count - length * stride
    assert 0 <= drawn[0] <= max(room, 0)
    assert np.array_equal(drawn, mmaction(frame_count, length, stride, int(drawn[0])))


def test_random_clips_are_everywhere() -> None:
    rng = random.Random(0)
    firsts = [int(random_clip(30, 4, 5, rng)[0]) for _ in range(500)]
    assert set(firsts) == set(range(11))
    assert uniform_clip(30, 4, 5).tolist() == [5, 10, 15, 20]
    assert uniform_clip(3, 5, 2).tolist() == [0, 2, 1, 0, 2]


def test_clips_of_nothing() -> None:
    for length, stride in ((0, 1), (1, 0), (-3, 2)):
        with pytest.raises(OptionError, match="length and stride"):
            uniform_clip(9, length, stride)
    with pytest.raises(DataError, match="0 frames"):
        random_clip(0, 1, 1, random.Random(0))


class Frames(Video):
    """A video in memory."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    @property
    def channels(self) -> int:
        return self.pixels.shape[3]

    @property
    def frame_count(self) -> int:
        return len(self.pixels)

    def _decode(self, positions: list[int]) -> list[np.ndarray]:
        return [self.pixels[position] for position in positions]


FLOW = ((128 / 255,) * 2, (128 / 255,) * 2)


def test_a_clip_is_resized_cropped_and_normalised(videos: dict[str, Path]) -> None:
    transform = ClipPreprocess(8, 4, 24, *RGB, short_side=32)
    video = VideoFile(videos["mp4"])
    clip = transform(video)
    assert clip.shape == (3, 8, 24, 24)
    assert clip.dtype == torch.float32
    assert clip.is_contiguous()
    assert torch.equal(clip, transform(VideoFile(videos["mp4"])))
    assert transform.channels == 3
    frames = video.frames(uniform_clip(70, 8, 4))
    for t, frame in enumerate(frames):
        # PIL's bilinear filter is antialiased; 80 x 64 becomes 40 x 32
        image = Image.fromarray(frame).resize((40, 32), Image.Resampling.BILINEAR)
        wanted = np.asarray(image.crop((8, 4, 32, 28))) / 255
        wanted = ((wanted - RGB[0]) / RGB[1]).transpose(2, 0, 1)
        assert np.abs(clip[:, t].numpy() - wanted).max() < 1.01 / 255 / min(RGB[1])


def test_a_clip_of_the_size_it_has_is_untouched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 2)).astype(np.uint8)
    clip = ClipPreprocess(5, 1, 6, (0.0, 0.0), (1.0, 1.0))(Frames(pixels))
    assert np.array_equal((clip * 255).round().numpy().transpose(1, 2, 3, 0), pixels)
    assert (
        float(ClipPreprocess(1, 1, 2, *FLOW)(Frames(np.full((1, 2, 2, 2), 128, "u1"))).sum()) == 0
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 100), (100, 7), (33, 32), (480, 31)])
def test_frames_of_any_shape_fill_the_square(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, height, width, 3)).astype(np.uint8)
    for transform in (
        ClipPreprocess(4, 2, 32, *RGB),
        ClipPreprocess(4, 2, 32, *RGB, short_side=37, train_size=16),
    ):
        assert transform(Frames(pixels)).shape == (3, 4, 32, 32)
        side = transform.train_size or 32
        augmented = transform.augment(Frames(pixels), random.Random(0))
        assert augmented.shape == (3, 4, side, side)
        assert augmented.is_contiguous()
        assert bool(augmented.isfinite().all())


def test_augmentation_is_a_function_of_the_generator(videos: dict[str, Path]) -> None:
    transform = ClipPreprocess(4, 3, 24, *RGB)
    video = VideoFile(videos["mp4"])
    views = [transform.augment(video, random.Random(seed)) for seed in (0, 0, 1)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    state = torch.random.get_rng_state(), random.getstate()
    transform.augment(video, random.Random(3))
    assert torch.equal(state[0], torch.random.get_rng_state())
    assert state[1] == random.getstate()


def test_all_frames_of_a_view_have_one_crop() -> None:
    still = Frames(scene(1)[0][None].repeat(9, axis=0))
    transform = ClipPreprocess(4, 2, 24, *RGB)
    for seed in range(5):
        view = transform.augment(still, random.Random(seed))
        assert torch.equal(view, view[:, :1].expand_as(view))


def test_mirrored_flow_turns_its_sign() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 20, 20, 2)).astype(np.uint8)
    kept = ClipPreprocess(3, 1, 20, (0.0, 0.0), (1.0, 1.0), flip=False, min_scale=1.0)
    mirrored = replace(kept, flip=True)
    seen = set()
    for seed in range(20):
        plain = kept.augment(Frames(pixels), random.Random(seed))
        view = mirrored.augment(Frames(pixels), random.Random(seed))
        back = view.flip(3)
        turned = torch.stack([1 - back[0], back[1]])
        seen.add(torch.equal(view, plain))
        assert torch.equal(view, plain) or torch.allclose(turned, plain, atol=1e-6)
    assert seen == {True, False}
    # of colours, only the places change
    colours = pixels[..., :1].repeat(3, axis=3)
    transform = ClipPreprocess(3, 1, 20, (0.0,) * 3, (1.0,) * 3, min_scale=1.0)
    for seed in range(5):
        view = transform.augment(Frames(colours), random.Random(seed))
        plain = replace(transform, flip=False).augment(Frames(colours), random.Random(seed))
        assert torch.equal(view, plain) or torch.equal(view.flip(3), plain)


def test_a_transform_does_not_write_into_its_video() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 2)).astype(np.uint8)
    before = pixels.copy()
    transform = ClipPreprocess(3, 1, 20, *FLOW)
    transform(Frames(pixels))
    for seed in range(4):
        transform.augment(Frames(pixels), random.Random(seed))
    assert np.array_equal(pixels, before)


def test_channels_must_fit(videos: dict[str, Path]) -> None:
    transform = ClipPreprocess(4, 2, 24, *FLOW)
    for call in (transform, lambda video: transform.augment(video, random.Random(0))):
        with pytest.raises(OptionError, match=r"2 channel\(s\), but .*a\.mp4.* has 3"):
            call(VideoFile(videos["mp4"]))


@pytest.mark.parametrize(
    "options",
    [
        {"length": 0},
        {"stride": 0},
        {"size": 0},
        {"short_side": 20},
        {"train_size": -1},
        {"min_scale": 0.0},
        {"min_scale": 1.1},
        {"mean": (0.5,)},
        {"mean": (0.5, 0.5, float("nan"))},
        {"std": (1.0, 1.0, 0.0)},
    ],
)
def test_clip_options_are_checked(options: dict) -> None:
    with pytest.raises(OptionError, match="clip: "):
        ClipPreprocess(
            **{"length": 4, "stride": 2, "size": 24, "mean": RGB[0], "std": RGB[1], **options}
        )
