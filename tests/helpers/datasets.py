"""Small datasets, in memory and in the layouts of others."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench import Benchmark, DatasetSpec, Preprocess
from oodbench.data.samples import ImageArrays, Samples


def images_of(n: int, shape: tuple[int, ...] = (32, 32, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(np.uint8)


def spec(name: str, classes: int = 2) -> DatasetSpec:
    def load(split: str) -> Samples:
        labels = np.arange(4) % classes
        return ImageArrays(
            f"{name}/{split}", images_of(4), labels, [str(c) for c in range(classes)]
        )

    return DatasetSpec(name, load, ("train", "test"))


def toy(near: Sequence[str] = ("n1", "n2"), far: Sequence[str] = ("f1",)) -> Benchmark:
    return Benchmark(
        "toy",
        spec("toy"),
        tuple(map(spec, near)),
        tuple(map(spec, far)),
        Preprocess(32, (0.5,) * 3, (0.5,) * 3),
    )


def names(chosen) -> list[tuple[str, str]]:
    return [(one.spec.name, one.group) for one in chosen]


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="png")
    return stream.getvalue()


def write_parquet(
    path: Path, images: np.ndarray, column: str, label: str, labels: list[int], classes: list[str]
) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {column: [{"bytes": png(image), "path": None} for image in images], label: labels}
    )
    if classes:
        features = {label: {"names": classes, "_type": "ClassLabel"}}
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    parquet.write_table(table, path)
