"""Images that are learned from and tested on: said in the report and in ``Results.warnings``."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

import oodbench
from oodbench import metrics
from oodbench.checks import overlap
from oodbench.data.samples import ImageArrays, ImageFiles, Subset, image_folder
from oodbench.results.outcome import Results
from tests.conftest import write_images


@pytest.fixture
def insects(tmp_path: Path) -> Path:
    """An ID set of two classes, 6 training and 4 test images each, and 5 OOD images."""
    for seed, (split, count) in enumerate((("train", 6), ("test", 4))):
        write_images(tmp_path / "insects" / split, {"ant": count, "bee": count}, seed=seed)
    write_images(tmp_path / "scenes", {".": 5}, seed=7)
    return tmp_path / "insects"


class Net(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).amax(dim=(2, 3)))


def evaluate(insects: Path, detector: str = "msp", **options) -> tuple[Results, list[str]]:
    lines: list[str] = []
    results = oodbench.evaluate(
        options.pop("model", Net()),
        f"folder:{insects}",
        detector,
        ood=[f"folder:{insects.parent / 'scenes'}"],
        report=lines.append,
        **{"preprocess": "benchmark", **options},
    )
    return results, lines


@pytest.mark.parametrize("detector", ["msp", "she"])
def test_clean_sets_are_not_warned_of(insects: Path, detector: str) -> None:
    results, lines = evaluate(insects, detector)
    assert results.warnings == []
    assert not [line for line in lines if "also in" in line or "not checked" in line]


@pytest.mark.parametrize("detector", ["msp", "she"])
def test_test_is_train(insects: Path, detector: str) -> None:
    shutil.rmtree(insects / "test")
    shutil.copytree(insects / "train", insects / "test")
    results, lines = evaluate(insects, detector)
    (told,) = results.warnings
    assert "12 of the 12 images of the ID test set" in told
    assert f"folder:{insects}/train" in told
    assert f"warning: {told}" in lines


@pytest.mark.parametrize("detector", ["msp", "she"])
def test_a_part_of_test_is_in_train(insects: Path, detector: str) -> None:
    for i in range(3):  # under other names, in the other class as well
        shutil.copy(insects / f"train/ant/{i}.png", insects / f"test/bee/copy{i}.png")
    results, _ = evaluate(insects, detector)
    assert [w.partition(" images")[0] for w in results.warnings] == ["3 of the 11"]


@pytest.mark.parametrize("detector", ["msp", "she", ["msp", "she", "mahalanobis"]])
def test_ood_images_in_the_training_set(insects: Path, detector: str | list[str]) -> None:
    shutil.copy(insects / "train/bee/2.png", insects.parent / "scenes" / "new.png")
    results, lines = evaluate(insects, detector)
    (told,) = results.warnings
    assert "1 of the 6 images of folder:" in told
    assert "mean little" in told
    assert lines.count(f"warning: {told}") == 1


def test_a_network_that_is_trained_here(insects: Path) -> None:
    shutil.copy(insects / "train/bee/2.png", insects.parent / "scenes" / "new.png")
    results, lines = evaluate(
        insects, model=None, recipe_options={"epochs": 1}, recipe="quick", backbone="digits-cnn",
        seed=[0, 1],
    )  # fmt: skip
    (told,) = results.warnings
    assert "the network was trained on" in told
    assert lines.count(f"warning: {told}") == 1, "once, however many networks"


def test_what_cannot_be_checked_is_said(insects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(insects / "train")
    results, lines = evaluate(insects)
    assert results.warnings == []
    (told,) = [line for line in lines if line.startswith("not checked")]
    assert f"folder:{insects}/train is not on this machine" in told


def test_what_takes_long_is_not_read(insects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from oodbench.data import samples

    monkeypatch.setattr(samples, "_FEW_BYTES", 100)
    _, lines = evaluate(insects)
    (told,) = [line for line in lines if line.startswith("not checked")]
    assert "takes long" in told


def test_when_digests_are_cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from oodbench.data import samples

    found = image_folder("x", write_images(tmp_path, {"a": 2}))
    assert found.digests_are_cheap
    monkeypatch.setattr(samples, "_FEW_BYTES", 0)
    assert not found.digests_are_cheap
    assert not Subset(found, [0]).digests_are_cheap
    _ = found.digests
    assert found.digests_are_cheap
    assert Subset(found, [0]).digests_are_cheap
    arrays = ImageArrays("x", np.zeros((2, 4, 4), np.uint8), [0, 1], ["a", "b"])
    assert arrays.digests_are_cheap
    gone = ImageFiles("x", tmp_path, ["none.png"], [0], ["a"])
    assert not gone.digests_are_cheap


def test_shared_counts_each_image() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4)).astype(np.uint8)
    whole = ImageArrays("x", images, [0] * 6, ["a"])
    assert overlap.shared(Subset(whole, [0, 0, 1, 5]), Subset(whole, [0, 1, 2])) == 3
    assert overlap.shared(Subset(whole, [3]), Subset(whole, [0, 1, 2])) == 0


# What a listing tells goes into the results, too


def test_what_was_passed_over_is_in_the_results(insects: Path) -> None:
    (insects / "test" / "ant" / "1.heic").write_bytes(b"x")
    (insects / "train" / "ant" / "2.npy").write_bytes(b"x")
    (insects.parent / "scenes" / "3.dat").write_bytes(b"x")
    for options in ({"detector": "she"}, {"model": None, "recipe": "quick",
                    "recipe_options": {"epochs": 1}, "backbone": "digits-cnn"}):  # fmt: skip
        results, lines = evaluate(insects, **options)
        for name in ("ant/1.heic", "ant/2.npy", "3.dat"):
            (told,) = [warning for warning in results.warnings if name in warning]
            assert lines.count(f"warning: {told}") == 1


# A caller's own transform


RGB = transforms.Compose(
    [transforms.Resize((16, 16)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.2] * 3)]
)


@pytest.mark.parametrize("detector", ["msp", "she", "odin"])
@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "CMYK", "I;16"])
def test_a_transform_for_colours_sees_colours(insects: Path, mode: str, detector: str) -> None:
    scenes = insects.parent / "scenes"
    for i, path in enumerate(sorted(scenes.glob("*.png"))[:2]):
        image = Image.open(path).convert(mode if mode != "I;16" else "L")
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image).astype(np.uint16) << 8)
        image.save(scenes / f"{i}.{'tif' if mode == 'CMYK' else 'png'}")
    results, _ = evaluate(insects, detector, preprocess=RGB)
    assert len(results) == 2
    assert results.rows[0]["preprocess"] == repr(RGB), "the key is that of the transform alone"


def test_a_transform_for_grey_sees_grey(tmp_path: Path) -> None:
    """The digits are grey; OOD images with colours are brought into their mode."""
    write_images(tmp_path / "colours", {".": 3})
    transform = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = oodbench.evaluate(model, "digits", preprocess=transform,
                              ood=[f"folder:{tmp_path}/colours"])  # fmt: skip
    assert found.rows[0]["n_ood"] == 3


@pytest.mark.parametrize(
    ("count", "n", "told"),
    [
        (1, 9000, "1 of the 9,000 images of o is also in the ID test set t, as ID and as OOD at "
         "once; AUROC on ood would be another by 0.011 points at most without."),
        (89, 9000, "by 0.99 points at most"),
        (90, 9000, "scores on ood mean little."),
        (3, 3, "scores on ood mean little."),
    ],
)  # fmt: skip
def test_what_shared_images_change_is_told_in_numbers(count: int, n: int, told: str) -> None:
    def samples(name: str) -> ImageArrays:
        return ImageArrays(name, np.zeros((n, 1, 1, 3), np.uint8), np.zeros(n, int), ["a"])

    assert told in overlap.with_tested(samples("t"), "ood", samples("o"), count)


def test_that_is_a_bound() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        n, count = 40, int(rng.integers(1, 10))
        id_scores, ood = rng.normal(0, 1, 30), rng.normal(rng.normal(), 1, n)
        moved = abs(metrics.auroc(id_scores, ood) - metrics.auroc(id_scores, ood[count:]))
        assert moved <= count / n


def arrays(colours: range, name: str) -> ImageArrays:
    """Images of one pixel, all of other colours."""
    values = np.array(colours)
    pixels = np.stack([values % 256, values // 256, values * 0], axis=1).astype(np.uint8)
    return ImageArrays(name, pixels[:, None, None], np.zeros(len(values), int), ["a"])


@pytest.mark.parametrize(
    ("count", "n", "told"),
    [
        (1, 10_000, "1 of the 10,000 images of other is also in train, which the network was "),
        (99, 10_000, "99 of the 10,000 images of other are also in train, which the network was "),
    ],
)
def test_few_learned_images_are_told_in_points(count: int, n: int, told: str) -> None:
    learned, test = arrays(range(count), "train"), arrays(range(n, n + 4), "test")
    (text,) = overlap.with_learned(
        test, {"other": arrays(range(n), "other")}, learned, "the network was trained on"
    )
    assert text.startswith(told)
    assert text.endswith(
        f"AUROC on other would be another by {100 * count / n:.2g} points at most without."
    )


def test_few_learned_test_images_are_told_in_points() -> None:
    learned, test = arrays(range(1), "train"), arrays(range(200), "test")
    (text,) = overlap.with_learned(test, {}, learned, "the network was trained on")
    assert text.endswith("accuracy and AUROC would be others by 0.5 points at most without.")
    (text,) = overlap.with_learned(
        test, {}, arrays(range(2), "train"), "the network was trained on"
    )
    assert text.endswith("accuracy and scores are better on them than on new ones.")
