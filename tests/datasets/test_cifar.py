"""CIFAR: OpenOOD's and PALM's benchmarks, and torchvision's archives."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench import files, get_benchmark
from oodbench.errors import DataError
from oodbench.registry import DATASETS
from tests.helpers.datasets import images_of

CIFAR = {
    # dataset: archive's folder, files (split, name), label key, class names' file and key
    "cifar10": (
        "cifar-10-batches-py",
        [("train", f"data_batch_{i}") for i in range(1, 6)] + [("test", "test_batch")],
        "labels",
        ("batches.meta", "label_names"),
    ),
    "cifar100": (
        "cifar-100-python",
        [("train", "train"), ("test", "test")],
        "fine_labels",
        ("meta", "fine_label_names"),
    ),
}


# The definitions


def test_cifar_benchmarks_have_openoods_and_palms_sets() -> None:
    def sets(name: str) -> tuple[list[str], list[str]]:
        found = get_benchmark(benchmark=name)
        return [s.name for s in found.near], [s.name for s in found.far]

    openood = ["mnist", "svhn", "textures", "places365"]
    assert sets("cifar10") == (["cifar100", "tin"], openood)
    assert sets("cifar100") == (["cifar10", "tin"], openood)
    assert sets("cifar100/palm") == ([], ["svhn", "places365", "lsun-c", "isun", "textures"])
    assert get_benchmark(benchmark="cifar100/palm").protocol.fpr == "fpr95_id"
    assert get_benchmark("cifar100").protocol.fpr == "fpr95_ood"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_openoods_benchmarks_crop_what_is_not_square(name: str) -> None:
    """Resize(32) of the short side and CenterCrop(32); without ``/openood`` both sides at once."""
    bars = Image.fromarray(np.repeat(np.uint8([[255] * 32 + [0] * 64 + [255] * 32]), 64, axis=0))
    stretched, cropped = (
        get_benchmark(benchmark=full).preprocess.fit_image(bars)
        for full in (name, f"{name}/openood")
    )
    assert np.asarray(cropped).max() < 40, "the dark middle alone"
    assert np.asarray(stretched)[:, [0, -1]].min() > 200, "the bright ends too"
    whole, openood = get_benchmark(name), get_benchmark(benchmark=f"{name}/openood")
    assert openood.preprocess == dataclasses.replace(whole.preprocess, resize="crop")


def _write_cifar(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A small archive in the layout of the real one, and its checksums in torchvision's list."""
    from torchvision import datasets

    folder, members, label_key, (meta, meta_key) = CIFAR[name]
    cls = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    (root / folder).mkdir(parents=True)
    sums: dict[str, list] = {"train": [], "test": []}
    images: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for number, (split, member) in enumerate(members):
        part = images_of(3, seed=number)
        images[split].append(part)
        rows = part.transpose(0, 3, 1, 2).reshape(3, -1)
        content = pickle.dumps({"data": rows, label_key: [0, 1, 0]})
        (root / folder / member).write_bytes(content)
        sums[split].append([member, hashlib.md5(content).hexdigest()])
    content = pickle.dumps({meta_key: ["cat", "dog"]})
    (root / folder / meta).write_bytes(content)
    monkeypatch.setattr(cls, "train_list", sums["train"])
    monkeypatch.setattr(cls, "test_list", sums["test"])
    md5 = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(cls, "meta", {"filename": meta, "key": meta_key, "md5": md5})
    return {split: np.concatenate(parts) for split, parts in images.items()}


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("inside", [".", "{name}"])
def test_torchvisions_cifar(name: str, inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = files.data_dir() / inside.format(name=name)
    images = _write_cifar(name, root, monkeypatch)
    for split in ("train", "test"):
        samples = DATASETS.get(name).load(split)
        assert samples.name == f"{name}/{split}"
        assert samples.classes == ("cat", "dog")
        assert samples.labels.tolist()[:3] == [0, 1, 0]
        for i, expected in enumerate(images[split]):
            assert np.array_equal(np.asarray(samples[i]), expected)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_changed_torchvision_cifar_is_not_unpickled(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, members, *_ = CIFAR[name]
    _write_cifar(name, files.data_dir(), monkeypatch)
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    for _, member in members:
        (files.data_dir() / folder / member).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="incomplete or changed") as error:
        DATASETS.get(name).load("test")
    assert str(files.data_dir() / folder) in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar10/openood", "cifar100/palm", "cifar100/abet"])
def test_networks_of_a_few_epochs_are_short_runs(name: str) -> None:
    protocol = get_benchmark(benchmark=name).protocol
    assert protocol.least_accuracy == {"cifar10": 0.90, "cifar100": 0.65}[name.split("/")[0]]
    assert "arXiv" in protocol.least_accuracy_source
