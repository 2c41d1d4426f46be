"""The checks of samples: right ones pass, each mistake is found by the check that is for it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from oodbench.data.samples import MultimodalSamples, Samples
from oodbench.testing import samples_checks
from tests.conftest import REPOSITORY, write_images
from tests.helpers.attempts import Server

CHECKS = {check.__name__: check for check in samples_checks()}


class Right(MultimodalSamples):
    def __init__(self, n: int = 6) -> None:
        super().__init__("right", np.arange(n) % 2, ("a", "b"), ("left", "right"))
        self.values = np.random.default_rng(0).normal(size=(n, 2, 4))

    def __getitem__(self, index: int) -> Any:
        return {"left": self.values[index, 0], "right": self.values[index, 1]}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_right_samples_pass(check: Any) -> None:
    check(Right)


class LabelsBeyond(Right):
    def __init__(self) -> None:
        super().__init__()
        self.labels = self.labels + 1


class Forgetful(Samples):
    def __init__(self) -> None:
        pass


class NoLast(Right):
    def __getitem__(self, index: int) -> Any:
        return [super(NoLast, self).__getitem__(i) for i in range(5)][index]


class Random(Right):
    def __getitem__(self, index: int) -> Any:
        return {"left": np.random.default_rng().normal(size=4), "right": np.zeros(4)}


class OneModality(Right):
    def __getitem__(self, index: int) -> Any:
        return {"left": self.values[index, 0]}


class LeftAlone(Right):
    def __init__(self) -> None:
        super().__init__()
        self.values[:, 0] = 0

    def content(self, index: int) -> bytes:
        return bytes(self.values[index, 0].tobytes())


class Numbered(Right):
    made = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.number = next(self.made)

    def content(self, index: int) -> bytes:
        return f"{self.number} {index}".encode()


class Lambda(Right):
    def __init__(self) -> None:
        super().__init__()
        self.read = lambda index: index


@pytest.mark.parametrize(
    ("samples", "check", "told"),
    [
        (LabelsBeyond, "check_labels", "labels beyond its 2 classes"),
        (Forgetful, "check_labels", "call super"),
        (NoLast, "check_every_sample_is_there", r"samples\[5\] is IndexError"),
        (Random, "check_same_each_time", "another each time"),
        (OneModality, "check_modalities", r"has \['left'\]"),
        (LeftAlone, "check_digests", "have one digest"),
        (Numbered, "check_digests", "of the content alone"),
        (Numbered, "check_fingerprint", "another fingerprint"),
        (Lambda, "check_goes_to_data_workers", "cannot be sent"),
    ],
)
def test_each_mistake_is_found(samples: Any, check: str, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        CHECKS[check](samples)


def test_each_check_is_seen_to_fail() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{name}"' in source for name in CHECKS)


def test_the_worked_example_of_two_modalities(server: Server, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "own-data.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- example: table -->\n```python\n(.*?)```", page, re.DOTALL)
    assert found
    root = Path("plants")
    for i, (table, classes) in enumerate(
        {"garden-train": "ab", "garden-test": "ab", "desert-test": "c"}.items()
    ):
        write_images(root / table, dict.fromkeys(classes, 8), seed=i)
        files = sorted(p.relative_to(root).as_posix() for p in (root / table).glob("*/*.png"))
        rows = np.random.default_rng(i).normal(5 + 5 * i, 1, (len(files), 3))
        whole = pd.DataFrame(rows, columns=["height", "width", "weight"])
        whole["file"], whole["class"] = files, [file.split("/")[1] for file in files]
        whole.to_csv(root / f"{table}.csv", index=False)
    (tmp_path / "plants.py").write_text(found.group(1), encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import plants
from pathlib import Path
from oodbench import Hardware, evaluate
from oodbench.testing import benchmark_checks, samples_checks

for check in samples_checks():
    check(lambda: plants.Plants(Path("plants/garden-train.csv")))
for modality in (None, "row"):
    rows = evaluate(
        benchmark="plants", detectors=["msp"], recipe_options=dict(epochs=1),
        hardware=Hardware(accelerator="cpu", workers=0), task_options=dict(modality=modality),
    ).rows
    print(rows[0]["ood"], rows[0]["modality"], rows[0]["n_id"])
""")
    told = server.prints(script)
    assert "desert None 16" in told
    assert "desert row 16" in told
