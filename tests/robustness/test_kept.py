"""What is done is kept: rows when their detector is done, whatever becomes of the others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oodbench
from oodbench import Benchmark, DatasetSpec, Detector, Hardware, Outputs
from oodbench.cli import main
from oodbench.data.samples import ImageArrays
from oodbench.errors import OODBenchError
from oodbench.results import leaderboard
from oodbench.results.compare import compare
from oodbench.results.store import ResultStore
from oodbench.runtime.signals import Interrupted
from oodbench.tune import tune
from tests.helpers.pixels import Pixelwise
from tests.helpers.pixels import toy as pixels_toy
from tests.helpers.training import PREPROCESS

CPU = Hardware("cpu")


def images(name: str, seed: int, n: int = 12) -> ImageArrays:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    return ImageArrays(name, pixels, np.arange(n) % 3, ("a", "b", "c"))


def toy() -> Benchmark:
    splits = {"train": 0, "val": 1, "test": 2}
    return Benchmark(
        "toy/kept",
        DatasetSpec("toy", lambda s: images(f"toy/{s}", splits[s]), tuple(splits)),
        (DatasetSpec("likeness", lambda _: images("likeness", 3)),),
        (),
        PREPROCESS,
        backbone="digits-cnn",
        validation=(DatasetSpec("chosen", lambda _: images("chosen", 4)),),
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))


@dataclass
class Does(Detector):
    """Whatever ``deed`` does."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    grid: ClassVar[Any] = {"temperature": (1.0, 2.0)}
    deed: ClassVar[Callable[[], Any]]

    temperature: float = 1.0

    def score(self, outputs: Outputs) -> Tensor:
        type(self).deed()
        return -outputs.logits.amax(dim=1) / self.temperature


class Constructed(BaseException):
    """One that no handler of ``Exception`` sees."""


def raising(error: BaseException) -> type[Does]:
    def deed() -> NoReturn:
        raise type(error)(*error.args)

    return type("Raises", (Does,), {"deed": staticmethod(deed)})


def stored(folder: str | Path = "boards", name: str = "toy/kept") -> list[str]:
    return sorted(row["detector"] for row in ResultStore(folder).rows(name))


INTERRUPTIONS = [KeyboardInterrupt(), Interrupted(15)]
ENDS = [SystemExit(0), SystemExit("done"), SystemExit(), GeneratorExit(), Constructed("x")]


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=repr)
def test_an_interruption_keeps_what_is_done(error: BaseException) -> None:
    with pytest.raises(type(error)):
        oodbench.evaluate(
            network(),
            benchmark=toy(),
            detectors=["msp", "energy", raising(error)(), "maxlogit"],
            hardware=CPU,
            leaderboards="boards",
            preprocess="benchmark",
        )
    assert stored() == ["energy", "energy", "msp", "msp"]


def test_an_interruption_between_seeds() -> None:
    def report(line: str) -> None:
        if "seed 1" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        oodbench.evaluate(
            benchmark=toy(),
            detectors=["msp", "energy"],
            recipe="quick",
            recipe_options={"epochs": 1, "batch_size": 4},
            seed=[0, 1],
            hardware=CPU,
            leaderboards="boards",
            report=report,
        )
    assert len(stored()) == 4


def test_rows_are_stored_once() -> None:
    for _ in range(2):
        found = oodbench.evaluate(
            network(),
            benchmark=toy(),
            detectors=["msp", "energy"],
            hardware=CPU,
            leaderboards="boards",
            preprocess="benchmark",
        )
        assert stored() == sorted(row["detector"] for row in found)


@pytest.mark.parametrize("error", ENDS, ids=repr)
def test_a_detector_that_ends_the_program_has_failed(error: BaseException) -> None:
    found = oodbench.evaluate(
        network(),
        benchmark=toy(),
        detectors=["msp", raising(error)(), "energy"],
        hardware=CPU,
        leaderboards="boards",
        preprocess="benchmark",
    )
    assert (
        sorted(row["detector"] for row in found) == stored() == ["energy", "energy", "msp", "msp"]
    )
    assert list(found.failures) == ["Raises"]
    assert repr(error) in found.failures["Raises"]


@pytest.mark.parametrize("error", ENDS[:2], ids=repr)
def test_one_that_ends_the_program_alone(error: BaseException) -> None:
    with pytest.raises(OODBenchError, match="ends the program"):
        oodbench.evaluate(
            network(),
            benchmark=toy(),
            detectors=raising(error)(),
            hardware=CPU,
            preprocess="benchmark",
        )


def test_one_that_ends_the_program_of_pixels() -> None:
    found = oodbench.evaluate(
        Pixelwise(), benchmark=pixels_toy(), detectors=["msp", raising(SystemExit(0))()],
        hardware=CPU, leaderboards="boards", preprocess="benchmark"
    )  # fmt: skip
    assert list(found.failures) == ["Raises"]
    assert {row["detector"] for row in found} == {"msp"}
    assert len(stored(name=pixels_toy().name)) == len(found)


def test_one_that_ends_the_program_in_a_search() -> None:
    networks = oodbench.contenders.Networks(model=network(), preprocess="benchmark")
    fine = type("Fine", (Does,), {"deed": staticmethod(lambda: None)})
    found = tune(toy(), [fine(), raising(SystemExit(0))()], networks, hardware=CPU)
    assert [choice.original.label for choice in found.choices] == ["Fine"]
    assert list(found.failures) == ["Raises"]


def test_one_network_of_several_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from oodbench import evaluation as module

    def evaluated(**options: Any) -> Any:
        if options["backbone"] == "bad":
            raise RuntimeError("mat1 and mat2")
        return oodbench.results.outcome.Results([{"backbone": options["backbone"]}])

    monkeypatch.setattr(module, "evaluate", evaluated)
    found = compare(benchmark=toy(), backbones=["good", "bad", "fine"], detectors="msp")
    assert [row["backbone"] for row in found] == ["good", "fine"]
    assert "mat1" in found.failures["bad"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), 130), (Interrupted(15), 143), (MemoryError("all"), 3)],
    ids=["ctrl-c", "sigterm", "error"],
)
def test_the_page_is_of_what_is_kept(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oodbench.detectors.energy import Energy

    def score(*_: Any) -> NoReturn:
        raise type(error)(*error.args)

    monkeypatch.setattr(Energy, "score", score)
    words = "eval --id digits --detector msp,energy --recipe quick --epochs 1 --accelerator cpu"
    monkeypatch.setattr(sys, "argv", ["oodbench", *words.split(), "--leaderboards", "boards"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == status
    assert stored(name="digits") == ["msp"] * 4
    page = leaderboard.page_name("digits")
    assert "msp" in Path(f"boards/{page}.md").read_text(encoding="utf-8")


def test_a_method_that_ends_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not with the status of success."""
    from oodbench.detectors.ce import CrossEntropy

    def loss(*_: Any) -> NoReturn:
        sys.exit(0)

    monkeypatch.setattr(CrossEntropy, "loss", loss)
    words = "train --method ce --id digits --recipe quick --epochs 1 --accelerator cpu"
    monkeypatch.setattr(sys, "argv", ["oodbench", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "ended the program" in capsys.readouterr().err
