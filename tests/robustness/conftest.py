"""Small image folders, and words that evaluate on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.conftest import write_images
from tests.helpers.insects import CLASSES, Words, state_dict


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network for two classes of colour images."""
    path = tmp_path_factory.mktemp("weights") / "resnet20.safetensors"
    save_file(state_dict(), path)
    return path


@pytest.fixture
def insects(tmp_path: Path) -> Path:
    """An ID set of two classes, with an OOD set beside it."""
    for split in ("train", "test"):
        write_images(tmp_path / "insects" / split, CLASSES, seed=split == "test")
    write_images(tmp_path / "scenes", {".": 4}, seed=2)
    return tmp_path / "insects"


@pytest.fixture
def words(insects: Path, checkpoint: Path) -> Words:
    """Words that evaluate on the insects without training."""
    return [
        "--id", f"folder:{insects}", "--ood", f"folder:{insects.parent / 'scenes'}",
        "--backbone", "resnet20", "--checkpoint", checkpoint, "--preprocess", "benchmark",
        "--accelerator", "cpu",
    ]  # fmt: skip
