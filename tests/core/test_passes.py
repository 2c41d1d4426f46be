"""A network's pass over samples: whole shards, resumed where it was, and values that are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from oodbench import Hardware, files
from oodbench.data.samples import image_folder
from oodbench.errors import BadScoresError, DataError
from oodbench.extract import extract
from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import HeadedBackbone
from tests.conftest import write_images
from tests.helpers.images import CPU, GREY, RGB, arrays, tensors
from tests.helpers.networks import Breaks, flat_model, forwards

# What comes out


def test_batch_size_and_workers_do_not_change_the_outputs(new_cache: Callable[[], None]) -> None:
    model, samples = flat_model(), arrays(50)
    found = []
    for batch_size, workers in ((1, 0), (7, 0), (7, 2), (64, 1)):
        new_cache()
        hardware = Hardware(accelerator="cpu", batch_size=batch_size, workers=workers)
        found.append(extract(model, samples, GREY, hardware=hardware))
    for other in found[1:]:
        torch.testing.assert_close(other.features, found[0].features)
        torch.testing.assert_close(other.logits, found[0].logits)
        assert other.labels.equal(found[0].labels)


# What was interrupted goes on


def test_resume_does_only_the_missing_shards() -> None:
    model, samples = flat_model(), Breaks(at=19)
    with pytest.raises(OSError, match="pulled out"):
        extract(model, samples, GREY, hardware=CPU)
    assert max(samples.read) < 24
    samples.read.clear()

    assert forwards(model, samples) == 24  # shards 2, 3, 4 of 8; images 16 to 39
    assert samples.read == list(range(16, 40))
    with torch.no_grad():
        expected = model(tensors(arrays(40), GREY))
    torch.testing.assert_close(extract(model, samples, GREY, hardware=CPU).logits, expected)


def test_resume_with_another_batch_size() -> None:
    """The shards keep the size that they had; nothing is done twice or left out."""
    model, samples = flat_model(), Breaks(at=19)
    with pytest.raises(OSError, match="pulled out"):
        extract(model, samples, GREY, hardware=CPU)
    hardware = Hardware(accelerator="cpu", batch_size=5)
    assert forwards(model, samples, hardware=hardware) == 24
    with torch.no_grad():
        expected = model(tensors(arrays(40), GREY))
    torch.testing.assert_close(extract(model, samples, GREY, hardware=CPU).logits, expected)


def test_a_damaged_image_is_named_from_a_worker_process_too(tmp_path: Path) -> None:
    root = write_images(tmp_path / "set", {"a": 3, "b": 3}, size=16)
    (root / "b" / "1.png").write_bytes((root / "b" / "1.png").read_bytes()[:60])
    samples = image_folder("set/test", root)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    for workers in (0, 1):
        hardware = Hardware(accelerator="cpu", batch_size=2, workers=workers)
        with pytest.raises(DataError, match=r"set/test.*b/1\.png") as caught:
            extract(model, samples, RGB, hardware=hardware)
        assert "Traceback" not in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 2


# Bad values


@pytest.mark.parametrize("wrapped", [False, True], ids=["any classifier", "a network"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_outputs_name_the_dataset(wrapped: bool, value: float) -> None:
    samples = arrays(name="birds/test")
    model: nn.Module = flat_model()
    if wrapped:
        model = HeadedBackbone(create_backbone("digits-cnn", 1), 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    with pytest.raises(BadScoresError, match="birds/test"):
        extract(model, samples, GREY, hardware=CPU)
    assert not list(files.cache_dir().rglob("outputs.json")), "bad outputs must not be kept"


def test_first_bad_sample_is_named() -> None:
    class Dim(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            return self.linear(x / (x != x.min()).any(dim=1, keepdim=True))

    samples = arrays()
    samples.images[13] = 0
    with pytest.raises(BadScoresError, match="index 13"):
        extract(Dim(), samples, GREY, hardware=CPU)
