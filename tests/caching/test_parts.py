"""Networks that give any number of rows per sample, through the one store of outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from oodbench import Outputs, Preprocess, files
from oodbench.caching import parts
from oodbench.data.samples import Samples
from oodbench.data.transforms import InOwnSize, content_key
from oodbench.errors import BadScoresError, OODBenchError, OODBenchWarning, StorageError
from oodbench.extract import extract, extracted
from oodbench.hardware import Hardware
from oodbench.networks.rows import AT_ONCE, of_one_size
from oodbench.outputs import Head

CPU = Hardware(accelerator="cpu", devices="1", workers=0, batch_size=AT_ONCE)
GREY = InOwnSize(Preprocess(8, (0.0,), (1.0,), mode="L"))


class Grey(Samples):
    """Images of one shade each, the k-th of ``k % 4`` rows of pixels, of two sizes."""

    def __init__(self, n: int, wide: int = 0) -> None:
        super().__init__("grey", np.arange(n) % 5, tuple("abcde"))
        self.wide = wide
        self.read: list[int] = []
        self.fail_at: int | None = None

    def __getitem__(self, index: int) -> Image.Image:
        if index == self.fail_at:
            raise RuntimeError("killed here")
        self.read.append(index)
        width = 6 if index < self.wide else 4
        return Image.fromarray(np.full((4, width), index, np.uint8))

    def _digests(self) -> np.ndarray:
        return np.arange(len(self), dtype=np.uint64) + 100 * self.wide


class Spots(nn.Module):
    """Of an image with shade k, ``k % 4`` rows: shade, shade + 1 …"""

    sample_column = "image"

    def __init__(self, labels: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(2, 3))
        self.labels = labels

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        shade = (images.mean(dim=(1, 2, 3)) * 255).round()
        image = torch.repeat_interleave(torch.arange(len(images)), shade.long() % 4)
        base = torch.stack([shade, shade + 1, shade + 2], dim=1)[image]
        columns = {"image": image, "features": base, "logits": base @ self.weight.T.detach()}
        return {**columns, "labels": image * 0 + 7} if self.labels else columns

    def head(self) -> Head | None:
        return Head(self.weight.detach(), torch.zeros(2))


def folders() -> list[Path]:
    return sorted((files.cache_dir() / "outputs").iterdir())


def check(outputs: Outputs, n: int) -> None:
    images = [k for k in range(n) for _ in range(k % 4)]
    assert outputs.extra["image"].tolist() == images
    assert outputs.features[:, 0].tolist() == images
    assert outputs.labels.tolist() == [k % 5 for k in images]
    assert outputs.head is not None
    assert torch.equal(outputs.head(outputs.features), outputs.logits)


def test_rows_are_joined_and_kept() -> None:
    network, samples, seen = Spots(), Grey(19), []
    check(extract(network, samples, GREY, hardware=CPU, on_forward=seen.append), 19)
    check(extract(network, samples, GREY, hardware=CPU, on_forward=seen.append), 19)
    assert seen == [19]
    again = extracted(network, samples, GREY, hardware=CPU)
    assert again is not None
    check(again, 19)
    (folder,) = folders()
    assert not list(folder.glob("part-*"))


def test_labels_of_its_own() -> None:
    outputs = extract(Spots(labels=True), Grey(5), GREY, hardware=CPU)
    assert outputs.labels.tolist() == [7] * 6
    assert "labels" not in outputs.extra


def test_images_of_several_sizes_go_by_size() -> None:
    check(extract(Spots(), Grey(21, wide=11), GREY, hardware=CPU), 21)
    sizes = [torch.zeros(1, 4, w) for w in (4, 4, 6, 6, 6, 4)]
    assert [len(group) for group in of_one_size(sizes, 2)] == [2, 2, 1, 1]


def test_samples_without_any_row() -> None:
    class Nothing(Spots):
        def outputs(self, images: Tensor) -> dict[str, Tensor]:
            return {name: value[:0] for name, value in super().outputs(images).items()}

    outputs = extract(Nothing(), Grey(12), GREY, hardware=CPU)
    assert len(outputs) == 0
    assert outputs.features.shape == (0, 3)
    assert len(extract(Nothing(), Grey(12), GREY, hardware=CPU)) == 0


def test_what_was_killed_goes_on() -> None:
    network, samples = Spots(), Grey(3 * AT_ONCE)
    samples.fail_at = 2 * AT_ONCE + 1
    with pytest.raises(RuntimeError, match="killed here"):
        extract(network, samples, GREY, hardware=CPU)
    (folder,) = folders()
    assert len(list(folder.glob("part-*"))) == 2
    samples.fail_at = None
    samples.read.clear()
    check(extract(network, samples, GREY, hardware=CPU), len(samples))
    assert samples.read == [0, *range(2 * AT_ONCE, 3 * AT_ONCE)]  # the first for its size


@pytest.mark.parametrize(
    "damage",
    [
        lambda part: part.write_bytes(part.read_bytes()[:-100]),
        lambda part: part.write_bytes(b""),
        lambda part: part.unlink(),
        lambda part: part.rename(part.with_name("part-00000001.npz")),  # another shard's
    ],
)
def test_a_damaged_shard_is_done_again(damage: Callable[[Path], Any]) -> None:
    network, samples = Spots(), Grey(3 * AT_ONCE)
    samples.fail_at = 2 * AT_ONCE + 1
    with pytest.raises(RuntimeError):
        extract(network, samples, GREY, hardware=CPU)
    (folder,) = folders()
    damage(folder / "part-00000000.npz")
    samples.fail_at = None
    check(extract(network, samples, GREY, hardware=CPU), len(samples))


def test_a_description_that_is_damaged_begins_it_anew() -> None:
    network, samples = Spots(), Grey(2 * AT_ONCE)
    samples.fail_at = AT_ONCE + 1
    with pytest.raises(RuntimeError):
        extract(network, samples, GREY, hardware=CPU)
    (folder,) = folders()
    (folder / "described.json").write_text("{}")
    samples.fail_at = None
    samples.read.clear()
    check(extract(network, samples, GREY, hardware=CPU), len(samples))
    assert set(samples.read) == set(range(len(samples)))


@pytest.mark.parametrize("file", ["features.npy", "labels.npy", "extra%2Fimage.npy"])
def test_damaged_columns_are_made_again(file: str) -> None:
    network, samples, seen = Spots(), Grey(10), []
    check(extract(network, samples, GREY, hardware=CPU), 10)
    (folder,) = folders()
    content = bytearray((folder / file).read_bytes())
    content[-1] ^= 1
    (folder / file).write_bytes(content)
    with pytest.warns(OODBenchWarning, match="made again"):
        check(extract(network, samples, GREY, hardware=CPU, on_forward=seen.append), 10)
    assert seen == [10]


@pytest.mark.parametrize(
    "column", [torch.tensor([0, 99]), torch.tensor([0.0, 1.0]), torch.tensor([-1, 0]), None]
)
def test_a_sample_column_that_is_none(column: Tensor | None) -> None:
    class Wrong(Spots):
        def outputs(self, images: Tensor) -> dict[str, Tensor]:
            rows = {"features": torch.zeros(2, 3), "logits": torch.zeros(2, 2)}
            return rows if column is None else {**rows, "image": column}

    with pytest.raises(OODBenchError, match=r"Wrong says that its output 'image'.* from 0 to"):
        extract(Wrong(), Grey(8), GREY, hardware=CPU)


def test_values_that_are_not_finite_name_their_sample() -> None:
    class Infinite(Spots):
        def outputs(self, images: Tensor) -> dict[str, Tensor]:
            said = super().outputs(images)
            said["features"][said["features"] == 6] = torch.inf
            return said

    with pytest.raises(BadScoresError, match=r"features .* on grey \(first at index 5\)"):
        extract(Infinite(), Grey(8), GREY, hardware=CPU)


def test_columns_of_another_kind_are_refused() -> None:
    class Changing(Spots):
        def outputs(self, images: Tensor) -> dict[str, Tensor]:
            said = super().outputs(images)
            wide = bool((images * 255 > 9.5).any())
            return {**said, "more": torch.zeros(len(said["image"]), 2 + wide)}

    with pytest.raises(OODBenchError, match="more of float32"):
        extract(Changing(), Grey(2 * AT_ONCE), GREY, hardware=CPU)


def test_the_key_is_of_what_is_seen() -> None:
    """The size of a preprocessing does not matter to images in their own sizes."""
    small, large = (InOwnSize(Preprocess(n, (0.5,), (0.5,), mode="L")) for n in (8, 64))
    assert content_key(small) == content_key(large) != content_key(GREY)
    assert content_key(small) != content_key(small.preprocess)
    image = Image.fromarray(np.full((3, 5), 255, np.uint8))
    assert torch.equal(small(image), torch.ones(1, 3, 5))


def begun(samples: Grey) -> tuple[Spots, Path]:
    """A network, and the folder of an extraction that was killed in the last of three shards."""
    network = Spots()
    samples.fail_at = 2 * AT_ONCE + 1
    with pytest.raises(RuntimeError, match="killed here"):
        extract(network, samples, GREY, hardware=CPU)
    samples.fail_at = None
    (folder,) = folders()
    return network, folder


def test_what_was_killed_while_it_was_joined_goes_on() -> None:
    """A file of another shape, or of another type, is written over."""
    samples = Grey(3 * AT_ONCE)
    network, folder = begun(samples)
    np.save(folder / "features.npy", np.zeros((7, 2), np.float16))
    np.save(folder / "labels.npy", np.zeros(3, np.int64))
    check(extract(network, samples, GREY, hardware=CPU), len(samples))


def test_a_shard_that_goes_while_it_is_joined_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Grey(3 * AT_ONCE)
    network, folder = begun(samples)
    finish = parts.Parts.finish

    def gone(self: parts.Parts, labels: np.ndarray, key: str) -> None:
        (folder / "part-00000001.npz").unlink()
        finish(self, labels, key)

    monkeypatch.setattr(parts.Parts, "finish", gone)
    with pytest.raises(StorageError, match=r"part-00000001.npz was removed or changed"):
        extract(network, samples, GREY, hardware=CPU)
    monkeypatch.undo()
