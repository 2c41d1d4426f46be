"""How each detector's time and memory grow with the samples that it is fitted on.

Usage: ``python benchmarks/scaling.py [--n 10000,100000,1000000] [--dim 512] [--classes 100]
[--only knn,vim] [--json FILE]``

Memory-mapped outputs of the largest size are made on disk; each detector that reads outputs is
fitted on the first n of them for every n, and scores as many samples each time, in a process of its
own. Printed are the seconds of the processor, over all threads, the peak of its own memory beyond
that of the interpreter, and the exponents e of n^e between the two largest sizes: 0 is no growth, 1
linear. Seconds below 0.05 and memory below 8 MB have none: they tell of the start, not of growth.

Fitting that grows faster than n log n and memory faster than n are marked. Scores that take longer
the more was fitted on are those of detectors that keep the samples, as neighbours do. Linux alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memory import MB, Peak, make

SCORED = 2048
"""Samples that are scored, whatever was fitted on."""
LEAST_SECONDS = 0.05
LEAST_MB = 8.0
ALMOST = 0.15
"""An exponent is measured to about this."""


def measure(folder: str, name: str, n: int) -> dict[str, float]:
    """Seconds of fitting on n samples and of scoring some, and the peak of memory in MB."""
    import torch

    import oodbench

    torch.ones(64, 64) @ torch.ones(64, 64)
    outputs = oodbench.Outputs.load(folder)
    part, scored = outputs[:n], outputs[:SCORED]
    detector = oodbench.create_detector(name)
    with Peak() as peak:
        began = time.process_time()
        if detector.needs_fit:
            detector.fit(part)
        fitted = time.process_time()
        detector.score(scored)
        ended = time.process_time()
    return {"fit": fitted - began, "score": ended - fitted, "memory": peak.own / MB}


def exponent(values: Sequence[float], sizes: Sequence[int], least: float) -> float | None:
    """The e of n^e between the two largest sizes; None where there is too little to tell."""
    if len(values) < 2 or values[-1] < least:
        return None
    return math.log(values[-1] / max(values[-2], least)) / math.log(sizes[-1] / sizes[-2])


def remarks(exponents: Mapping[str, float | None], largest: int) -> list[str]:
    """What grows more than it should."""
    of_log = math.log10(math.log(largest) / math.log(largest / 10))
    most = {"fit": 1 + of_log + ALMOST, "memory": 1 + ALMOST}
    return [
        f"{name} grows by n^{value:.2f}"
        for name, value in exponents.items()
        if value is not None and value > most.get(name, math.inf)
    ]


def run(folder: Path, name: str, sizes: Sequence[int], limit: int) -> dict[str, Any]:
    """What was measured of a detector at each size; ends at the first that fails or takes long."""
    measured: dict[str, list[float]] = {"fit": [], "score": [], "memory": []}
    says = ""
    for n in sizes:
        words = [sys.executable, __file__, "--measure", str(folder), name, str(n)]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        try:
            ran = subprocess.run(
                words, check=False, timeout=limit, env=environment, capture_output=True, text=True
            )
        except subprocess.TimeoutExpired:
            says = f"more than {limit} s at {n:,}"
            break
        if ran.returncode:
            says = f"at {n:,}: {(ran.stderr.strip() or 'killed').splitlines()[-1][:100]}"
            break
        for key, value in json.loads(ran.stdout.splitlines()[-1]).items():
            measured[key].append(value)
    done = sizes[: len(measured["fit"])]
    exponents = {
        "fit": exponent(measured["fit"], done, LEAST_SECONDS),
        "score": exponent(measured["score"], done, LEAST_SECONDS),
        "memory": exponent(measured["memory"], done, LEAST_MB),
    }
    says = "; ".join(filter(None, [says, *remarks(exponents, sizes[-1])]))
    return {"detector": name, "n": list(done), **measured, "exponents": exponents, "says": says}


def line(result: Mapping[str, Any]) -> str:
    """A detector's line of the table."""
    cells = [f"{result['detector']:18s}"]
    for key, unit in (("fit", "s"), ("score", "s"), ("memory", "MB")):
        value = result[key][-1] if result[key] else math.nan
        power = result["exponents"][key]
        cells.append(f"{value:9.2f} {unit:2s} {'' if power is None else f'n^{power:.2f}':>7s}")
    return "  ".join([*cells, result["says"]])


def main() -> None:
    """Measure every detector in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", default="10000,100000,1000000")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--dtype", default="float32", choices=("float16", "float32"))
    parser.add_argument("--only", default="")
    parser.add_argument("--limit", type=int, default=600, help="seconds for a detector at a size")
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        folder, name, n = options.measure
        print(json.dumps(measure(folder, name, int(n))))
        return
    import oodbench

    sizes = sorted(map(int, options.n.split(",")))
    results = []
    with tempfile.TemporaryDirectory() as root:
        outputs = Path(root) / "outputs"
        make(outputs, sizes[-1], options.dim, options.classes, options.dtype)
        print(f"fitted on {', '.join(f'{n:,}' for n in sizes)} x {options.dim}, {SCORED:,} scored; "
              f"figures of the largest, growth between the last two", flush=True)  # fmt: skip
        for name in options.only.split(",") if options.only else oodbench.list_detectors():
            if "model" in oodbench.create_detector(name).needs:
                continue
            results.append(run(outputs, name, sizes, options.limit))
            print(line(results[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"dim": options.dim, "results": results}, indent=1))


if __name__ == "__main__":
    main()
