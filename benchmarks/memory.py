"""Resident memory of each detector on memory-mapped float16 features, in a process of its own.

Usage: ``python benchmarks/memory.py [--n 400000] [--dim 1024] [--classes 10] [--only knn,vim]``

Prints, for each detector that reads outputs, the peak of resident memory while it is fitted on all
rows and scores the first tenth, beyond what the process had with everything imported and the
arrays mapped, and how much of that peak is the mapped file itself (pages of the cache that the
system takes back when it needs them).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

MB = 1024


def make(folder: Path, n: int, dim: int, classes: int) -> None:
    """Outputs on disk, written in blocks: rectified Gaussian blobs and a linear head."""
    import torch

    from oodbench import files
    from oodbench.caching.arrays import FORMAT

    folder.mkdir()
    rng = np.random.default_rng(0)
    weight = rng.normal(0, dim**-0.5, (classes, dim)).astype(np.float32)
    means = 2 * weight / np.linalg.norm(weight, axis=1, keepdims=True) * 4
    open_map = np.lib.format.open_memmap
    features = open_map(folder / "features.npy", "w+", np.float16, (n, dim))
    logits = open_map(folder / "logits.npy", "w+", np.float16, (n, classes))
    labels = np.arange(n) % classes
    for start in range(0, n, 8192):
        y = labels[start : start + 8192]
        z = np.maximum(means[y] + rng.standard_normal((len(y), dim), dtype=np.float32), 0)
        features[start : start + 8192] = z
        logits[start : start + 8192] = (torch.from_numpy(z) @ torch.from_numpy(weight).T).numpy()
    np.save(folder / "labels.npy", labels)
    np.save(folder / "head.weight.npy", weight)
    np.save(folder / "head.bias.npy", np.zeros(classes, np.float32))
    columns = {name: f"{name}.npy" for name in ("features", "logits", "labels")}
    files.write_json(folder / "outputs.json", {"format": FORMAT, "columns": columns, "head": True})


def resident() -> tuple[int, int]:
    """Resident memory of this process in kB: all of it, and the part that is mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(fields[name].split()[0]) for name in ("VmRSS", "RssFile"))  # type: ignore[return-value]


def measure(folder: str, name: str) -> None:
    import torch

    import oodbench

    torch.ones(64, 64) @ torch.ones(64, 64)
    outputs = oodbench.Outputs.load(folder)
    detector = oodbench.create_detector(name)
    base, base_file = resident()
    peak = [(0, 0)]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            whole, file = resident()
            peak[0] = max(peak[0], (whole - base, file - base_file))

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    try:
        if detector.needs_fit:
            detector.fit(outputs)
        fitted = time.perf_counter()
        detector.score(outputs[: len(outputs) // 10 if name not in ("knn", "relation") else 2048])
        seconds = fitted - start, time.perf_counter() - fitted
    finally:
        done.set()
        thread.join()
    whole, file = peak[0]
    print(f"{name:16s} peak {whole / MB:7.0f} MB, of which mapped {file / MB:6.0f} MB; "
          f"fit {seconds[0]:6.1f} s, score {seconds[1]:6.1f} s", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=400_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--only", default="")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(*given.measure)
        return
    import oodbench

    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "outputs"
        make(folder, given.n, given.dim, given.classes)
        print(f"{given.n:,} x {given.dim} float16, {given.classes} classes")
        for name in given.only.split(",") if given.only else oodbench.list_detectors():
            detector = oodbench.create_detector(name)
            if "model" in detector.needs:
                continue
            subprocess.run(
                [sys.executable, __file__, "--measure", str(folder), name],
                check=False,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
            )


if __name__ == "__main__":
    main()
