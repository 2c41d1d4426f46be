"""What several tests share: folders of their own, small images, the real data where it is."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Test processes run side by side, and so do those that they start; threads would fight for cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import typer.main
from filelock import FileLock
from hypothesis import settings
from PIL import Image

from oodbench.registry import BACKBONES, BENCHMARKS
from tests.helpers.attempts import Server
from tests.helpers.cli import CLI, stopped_by_signals

if TYPE_CHECKING:
    from oodbench import Benchmark

# torch and all that imports it is left to the fixtures: the process that hands tests out to others
# reads this file too, and they begin when it has.

# A gate gives the same verdict on the same code; everywhere else each run tries other examples.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


def pytest_collection_finish() -> None:
    """What is imported stays: no collection of garbage looks at it again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_warning_recorded(warning_message: warnings.WarningMessage) -> None:
    """A library's class of warnings becomes text.

    The process that hands tests out would import the library, while all others wait for it.
    """
    category = warning_message.category
    if category.__module__ != "builtins":
        text = f"{category.__module__}.{category.__name__}: {warning_message.message}"
        warning_message.message, warning_message.category = UserWarning(text), UserWarning


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New folders, one after the other; ``mktemp`` would read all that there are for each."""
    root = tmp_path_factory.mktemp("homes")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_folders(homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes a user's data, cache or leaderboards."""
    root = next(homes)
    root.mkdir()
    monkeypatch.setenv("OODBENCH_DATA", str(root / "data"))
    monkeypatch.setenv("OODBENCH_CACHE", str(root / "cache"))
    monkeypatch.delenv("OODBENCH_LEADERBOARDS", raising=False)
    monkeypatch.chdir(root)


def write_images(
    root: Path, classes: dict[str, int], size: int = 32, seed: int = 0, mode: str = "RGB"
) -> Path:
    """Image folders ``root/<class>/<i>.png`` of noise around a colour of the class."""
    rng = np.random.default_rng(seed)
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        colour = rng.integers(40, 216, 3)
        for i in range(count):
            pixels = np.clip(rng.normal(colour, 30, (size, size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def of_all_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is the same one in all processes that tests are handed out to."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "of_all_processes"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def shared_data(of_all_processes: Path) -> Path:
    """The real data of the shared folder, unpacked; skipped where the folder is not at hand.

    No test changes what is in there: to unpack 10,000 files takes seconds. The training images of
    the OOD sets, as many again, are left out.
    """
    if not (SHARED / "data" / "cifar10.zip").is_file():
        pytest.skip("the folder with real data is not at hand")
    folder = of_all_processes / "data"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            part = folder.with_suffix(".part")
            for name in ("cifar10", "cifar100", "mnist", "textures10"):
                with zipfile.ZipFile(SHARED / "data" / f"{name}.zip") as archive:
                    unused = (f"{name}/train/" if name in ("cifar100", "mnist") else "-",)
                    kept = [one for one in archive.namelist() if not one.startswith(unused)]
                    archive.extractall(part, kept)
            part.rename(folder)
    return folder


@pytest.fixture
def real_outputs(of_all_processes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of all tests on real data that ask nothing of caches: a network sees it once."""
    monkeypatch.setenv("OODBENCH_CACHE", str(of_all_processes / "cache"))


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_disks() -> Iterator[None]:
    """Tests kill processes, not machines: what the system was given is there for the next one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def _signals_from_outside() -> Iterator[None]:
    """Ctrl-C and a time limit's SIGTERM end the tests, not the command that one of them tries."""
    with stopped_by_signals():
        yield


@pytest.fixture(autouse=True, scope="session")
def _plug_ins_of_lightning() -> Iterator[None]:
    """Lightning reads what every installed package declares, for each trainer; once is enough."""
    with pytest.MonkeyPatch.context() as patch:
        if "lightning_fabric.utilities.registry" in sys.modules:
            from lightning_fabric.utilities import registry

            patch.setattr(registry, "entry_points", functools.cache(registry.entry_points))
        yield


@pytest.fixture(autouse=True, scope="session")
def _command_line_is_made_once() -> Iterator[None]:
    """Each call of the command line makes all commands and options anew; they do not change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import torch

    # torch.manual_seed notes where it was called from for each accelerator that is not in use
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


@pytest.fixture
def new_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Gives the rest of the test an empty cache."""

    def change() -> None:
        monkeypatch.setenv("OODBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))

    return change


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CLI:
    return CLI(monkeypatch, capfd)


@pytest.fixture(scope="session")
def digits_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network for the embedded benchmark: scoring it takes no training."""
    import torch
    from safetensors.torch import save_file

    from oodbench.benchmark import get_benchmark
    from oodbench.data.transforms import Preprocess
    from oodbench.networks.backbones import create_backbone
    from oodbench.networks.headed import HeadedBackbone
    from oodbench.networks.inputs import as_metadata

    torch.manual_seed(0)
    network = HeadedBackbone(create_backbone("digits-cnn", 1), 6)
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    shown = get_benchmark("digits").preprocess
    assert isinstance(shown, Preprocess)
    save_file(network.state_dict(), path, metadata=as_metadata(shown))
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Weights of a small timm network, drawn at random."""
    import timm
    import torch
    from safetensors.torch import save_file

    from tests.helpers.ptood import NETWORK

    torch.manual_seed(7)
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model(NETWORK, num_classes=5).state_dict(), path)
    return path


@pytest.fixture
def digits(digits_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> list[str | Path]:
    """Words that evaluate on digits, of which there are few, without training."""
    from tests.helpers.few import few_digits

    monkeypatch.setitem(BENCHMARKS._objects, "digits", few_digits)
    return ["--id", "digits", "--backbone", "digits-cnn", "--checkpoint", digits_checkpoint]


@pytest.fixture
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded benchmark of scenes has few of them."""
    from oodbench.datasets import scenes
    from tests.helpers.few import some_scenes

    monkeypatch.setattr(scenes, "scenes", some_scenes)


@pytest.fixture
def toy() -> Iterator[Benchmark]:
    """A benchmark of two vectors for each sample, with its network."""
    from tests.helpers.vectors import encoders, pair

    BACKBONES.register("toy-pair")(encoders)
    yield pair()
    BACKBONES.unregister("toy-pair")


@pytest.fixture(scope="session")
def server(of_all_processes: Path) -> Iterator[Server]:
    """Runs jobs in processes of their own, which start in milliseconds."""
    running = Server(of_all_processes)
    yield running
    running.close()
