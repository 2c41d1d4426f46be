"""Memory of each detector on memory-mapped outputs of ImageNet's size, in a process of its own.

Usage: ``python benchmarks/memory.py [--n 1281167] [--dim 512] [--classes 1000]
[--only knn,nnguide:share=0.1,gmm:covariance=tied] [--folder FOLDER]``

Makes outputs on disk (``n * (dim + classes) * 4`` bytes; in a folder that is named they are kept,
and taken again), and prints for each detector that reads outputs the peak of its own memory, beyond
that of the interpreter with everything imported, while it is fitted on a quarter of the rows and
scores a tenth of these (or 2,048, if it keeps a bank), and then on all rows. Where the two agree,
memory is flat in the number of rows. What of the mapped file is resident is told beside it: these
are pages of the cache, which the system takes back when it needs them. Linux alone.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

MB = 1024
PARTS = 4
FEW = 2048
"""Rows that are scored where each is compared with all that was fitted on."""
FLAT_MB = 64
"""More than this between a quarter of the rows and all of them is growth, not noise."""


def make(folder: Path, n: int, dim: int, classes: int, dtype: str) -> None:
    """Outputs on disk, written in blocks: rectified Gaussian blobs and a linear head."""
    import torch

    from oodbench import files

    folder.mkdir()
    rng = np.random.default_rng(0)
    weight = rng.normal(0, dim**-0.5, (classes, dim)).astype(np.float32)
    means = 2 * weight / np.linalg.norm(weight, axis=1, keepdims=True) * 4
    open_map = np.lib.format.open_memmap
    features = open_map(folder / "features.npy", "w+", np.dtype(dtype), (n, dim))
    logits = open_map(folder / "logits.npy", "w+", np.dtype(dtype), (n, classes))
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
    # of the first format, whose files are not compared with their digests by each process
    files.write_json(folder / "outputs.json", {"format": 1, "columns": columns, "head": True})


def resident() -> tuple[int, int]:
    """Memory of this process in kB: its own, and mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, shared, mapped = (int(fields[n].split()[0]) for n in ("RssAnon", "RssShmem", "RssFile"))
    return own + shared, mapped


class Peak:
    """The most memory of this process while a block runs, beyond what it had before."""

    def __enter__(self) -> Peak:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self.base, self.own, self.mapped = resident(), 0, 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.01):
            own, mapped = resident()
            self.own = max(self.own, own - self.base[0])
            self.mapped = max(self.mapped, mapped - self.base[1])

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()


def measure(folder: str, name: str) -> None:
    """Print a detector's line."""
    import torch

    import oodbench
    from oodbench import errors

    torch.ones(64, 64) @ torch.ones(64, 64)
    whole = oodbench.Outputs.load(folder)
    part = whole[: len(whole) // PARTS]
    peaks: list[Peak] = []
    seconds = 0.0
    try:
        for outputs in (part, whole):
            detector = created(name)
            began = time.perf_counter()
            with Peak() as peak:
                run(detector, outputs)
            seconds = time.perf_counter() - began
            peaks.append(peak)
            del detector
    except errors.OODBenchError as error:
        print(f"{name:20s} {str(error)[:160]}", flush=True)
        return
    grown = (peaks[1].own - peaks[0].own) / MB
    says = "flat" if grown < FLAT_MB else f"+{grown:.0f} MB"
    print(f"{name:20s} {peaks[0].own / MB:7.0f} {peaks[1].own / MB:7.0f} MB {says:>9s}  "
          f"(mapped {peaks[1].mapped / MB:6.0f} MB) {seconds:7.1f} s", flush=True)  # fmt: skip


def created(name: str) -> Any:
    """The detector of a name, which may have an option: ``nnguide:share=0.1``."""
    import oodbench

    plain, _, option = name.partition(":")
    key, _, value = option.partition("=")
    try:
        read: float | str = float(value)
    except ValueError:
        read = value
    return oodbench.create_detector(plain, **({key: read} if option else {}))


def run(detector: Any, outputs: Any) -> None:
    """Fit and score."""
    if detector.needs_fit:
        detector.fit(outputs)
    detector.score(outputs[: FEW if hasattr(detector, "bank_") else len(outputs) // 10])


def main() -> None:
    """Run every detector in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1_281_167)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--dtype", default="float32", choices=("float16", "float32"))
    parser.add_argument("--only", default="")
    parser.add_argument("--limit", type=int, default=900, help="seconds for a detector")
    parser.add_argument("--folder", default="", help="where outputs of this size are, or will be")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(*given.measure)
        return
    import oodbench

    with tempfile.TemporaryDirectory() as root:
        folder = Path(given.folder or Path(root) / "outputs")
        if not (folder / "outputs.json").is_file():
            make(folder, given.n, given.dim, given.classes, given.dtype)
        rows, dim = np.load(folder / "features.npy", mmap_mode="r").shape
        if (rows, dim) != (given.n, given.dim):
            sys.exit(
                f"{folder} holds {rows:,} x {dim} features; name that size, or another folder."
            )
        print(f"{given.n // PARTS:,} and {given.n:,} rows, {given.dim} features and "
              f"{given.classes} logits of {given.dtype}", flush=True)  # fmt: skip
        for name in given.only.split(",") if given.only else oodbench.list_detectors():
            if "model" in created(name).needs:
                continue
            words = [sys.executable, __file__, "--measure", str(folder), name]
            try:
                subprocess.run(
                    words,
                    check=False,
                    timeout=given.limit,
                    env={**os.environ, "PYTHONWARNINGS": "ignore"},
                )
            except subprocess.TimeoutExpired:
                print(f"{name:20s} takes more than {given.limit} s", flush=True)


if __name__ == "__main__":
    main()
