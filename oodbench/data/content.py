"""What images show, whatever file or layout holds them; and what a published split must hold.

A fingerprint of samples (``Samples.fingerprint``) is of files' bytes where images are files: the
same images as PNG and in an archive have two. What stands here is of decoded pixels, so it can be
known before anybody has the data.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from oodbench import files
from oodbench.data.images import in_mode
from oodbench.data.samples import MultimodalSamples, Samples, Subset, content_digest
from oodbench.disk import digests

VERSION = 1
"""Part of the key under which digests are remembered; raised when pixels would have others."""


@dataclass(frozen=True)
class Content:
    """What a split of a dataset holds where it is as published.

    Args:
        count: how many images.
        fingerprint: their :func:`content_fingerprint`; ``""`` where none could be computed, as the
            images were not at hand, so that only their number is compared.
    """

    count: int
    fingerprint: str = ""

    def difference(self, samples: Samples) -> str | None:
        """What is other about some samples, a sentence; None where they are as published."""
        word = "samples" if isinstance(samples, MultimodalSamples) else "images"
        expected = f"{self.count:,} {word} expected"
        if self.fingerprint:
            expected += f" with fingerprint {self.fingerprint[:12]}…"
        what = f"found {len(samples):,}"
        if len(samples) == self.count:
            if not self.fingerprint:
                return None
            fingerprint = content_fingerprint(samples)
            if fingerprint == self.fingerprint:
                return None
            what = f"found as many with {fingerprint[:12]}…: images or labels are others"
        return (
            f"{samples.name}: {expected}, {what}. It is not the published set, and its rows are "
            "in no table with those of that."
        )


def content_fingerprint(samples: Samples) -> str:
    """Hex sha256 over the pixels of images and their labels, whatever the order of the images."""
    pairs = sorted(zip(samples.labels.tolist(), pixel_digests(samples).tolist(), strict=True))
    whole = hashlib.sha256()
    for label, digest in pairs:
        whole.update(b"%d %d\n" % (label, digest))
    return whole.hexdigest()


def pixel_digests(samples: Samples) -> np.ndarray:
    """``[N]`` uint64: a digest of each image's decoded RGB pixels, whatever file held them.

    They are remembered in the cache for images that are files, as decoding them all takes a while.
    """
    if isinstance(samples, Subset):
        return pixel_digests(samples.samples)[samples.rows]
    if samples.in_memory:
        return _pixel_digests(samples)
    key = files.digest(["pixels", VERSION, samples.fingerprint])
    memo = files.cache_dir() / "fingerprints" / f"{key}.npy"
    known = digests.remembered(memo, len(samples), np.uint64)
    if known is None:
        known = _pixel_digests(samples)
        digests.remember(memo, known)
    return known


def _pixel_digests(samples: Samples) -> np.ndarray:
    def digest(index: int) -> int:
        image = in_mode(samples[index], "RGB")
        return content_digest(f"{image.width}x{image.height}".encode() + image.tobytes())

    return np.fromiter(map(digest, range(len(samples))), dtype=np.uint64, count=len(samples))
