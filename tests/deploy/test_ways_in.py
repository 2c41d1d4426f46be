"""Real networks by every way in, fitted here and scored by the command line in another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import oodbench
from oodbench.errors import OODBenchError
from tests.helpers.fitted import CPU
from tests.helpers.ways import copies, real

pytest.importorskip("onnxruntime")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]

TOLERANCE = 1e-4


@pytest.mark.parametrize("name", ["resnet20", "lite0"])
def test_the_same_scores_by_every_way_in_and_in_another_process(name: str, tmp_path: Path) -> None:
    it = real(name, tmp_path)
    ways = {"model": it.named} | {
        kind: {"network": str(path)}
        for kind, path in copies(it.network, it.preprocess.size, tmp_path).items()
    }
    listed = "\n".join(map(str, it.paths))
    for detector in ("msp", "energy", "knn"):
        scores = {}
        for way, named in ways.items():
            options = {"k": 5} if detector == "knn" else {}
            try:
                fitted = oodbench.fit(
                    oodbench.create_detector(detector, **options), train=it.train,
                    calibration=it.held, preprocess=it.preprocess, tpr=0.9, hardware=CPU, **named,
                )  # fmt: skip
            except OODBenchError as error:  # of TorchScript no features can be read
                assert (way, detector) == ("pt", "knn"), error  # noqa: PT017
                continue
            scores[way] = fitted.score(it.new)
            folder = fitted.save(tmp_path / f"{detector}-{way}")
            again = scored_elsewhere(folder, named, listed, tmp_path / "rows.csv")
            assert np.array_equal(again, scores[way])
        assert scores.keys() >= {"model", "onnx", "pt2"}
        size = max(1.0, float(np.abs(scores["model"]).max()))
        for way, found in scores.items():
            off = float(np.abs(found - scores["model"]).max())
            print(f"{name}, {detector}, {way}: {off:.2g} apart, scores up to {size:.3g}")
            assert off <= TOLERANCE * size


def scored_elsewhere(folder: Path, named: dict[str, str], listed: str, out: Path) -> np.ndarray:
    """Scores of listed files, by the command line in a process of its own."""
    words = [word for key, value in named.items() for word in (f"--{key}", value)]
    ran = subprocess.run(
        [sys.executable, "-m", "oodbench.cli", "score", str(folder), "-", *words,
         "--device", "cpu", "--out", str(out), "--exit-zero", "--quiet"],
        input=listed, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return pd.read_csv(out, float_precision="round_trip")["score"].to_numpy()
