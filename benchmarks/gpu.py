"""What oodbench does on a GPU, in at most eight minutes: right, and how fast beside a bare loop.

Usage: ``python benchmarks/gpu.py [--device cuda] [--quick] [--minutes 8] [--folder PHOTOGRAPHS]
[--only detectors,extraction,decoding,training,search] [--workers N] [--json gpu.json]``

It needs the package alone: images are drawn, networks have random weights (their speed is that of
trained ones). ``--folder`` takes photographs of yours for decoding. ``--device cpu --quick`` shows
within minutes that the script runs, with small networks; its ratios are those of a CPU.

- ``detectors``: every detector scores a toy problem at the device as on the CPU (1e-4).
- ``extraction``: outputs of images in memory, against a loop with the same data loader, and what
  the network alone can do with a batch that is at the device already.
- ``decoding``: JPEG files: what data workers decode, and extraction from them.
- ``training``: steps of cross-entropy and PALM against a bare loop, with views of single images and
  of whole batches; from them, what the published recipe would take.
- ``search``: kNN and Mahalanobis fitted on, and scoring, as many samples as ImageNet has.

Each part has a share of the time; one that fails, or takes longer, is told and left, and the others
run. ``ratio`` is oodbench's speed over that of the bare loop, and peak memory the device's (of the
whole process so far on a CPU).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from extraction import photographs
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from training import CLASSES, PREPROCESS, Setting, compared, images

import oodbench
from oodbench import Hardware, Outputs
from oodbench.data.augmentation import SimCLR
from oodbench.data.batched import BatchedSimCLR
from oodbench.data.samples import Samples, image_folder
from oodbench.data.transforms import Preprocess
from oodbench.extract import extract
from oodbench.feeding import to_device
from oodbench.passes import Preprocessed
from oodbench.streaming import at_device
from oodbench.testing.detectors import check_accelerator

SHARES = {"detectors": 0.15, "extraction": 0.3, "decoding": 0.1, "training": 0.25, "search": 0.2}
"""Of the time, by part; what a part does not take is the others'."""
PUBLISHED = {"ce": (100, 50_000), "palm": (500, 50_000)}
"""Epochs and images of the recipes ``openood`` of ce, and ``published`` of palm for CIFAR-100."""
RESIZED = Preprocess(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize="crop", pre_size=256)


@dataclass
class Line:
    """A line of the table.

    Args:
        part: of the script.
        what: was measured.
        ours: oodbench's speed; None where there is none.
        bare: that of a bare loop.
        unit: of both.
        memory: peak, in GB.
        note: more that is to be said.
    """

    part: str
    what: str
    ours: float | None = None
    bare: float | None = None
    unit: str = "images/s"
    memory: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Oodbench's speed over the bare loop's."""
        return self.ours / self.bare if self.ours and self.bare else None


class OutOfTimeError(BaseException):
    """A part has had its time; nothing that explains errors is to take it for one."""


@dataclass
class Here:
    """The machine, and how large the work is.

    Args:
        device: where networks run.
        hardware: the same for oodbench.
        is_quick: whether everything is small.
        folder: photographs; None to make some.
    """

    device: torch.device
    hardware: Hardware
    is_quick: bool
    folder: Path | None

    def wait(self) -> None:
        """Until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, work: Callable[[], Any]) -> float:
        """Seconds that some work takes."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def forget_memory(self) -> None:
        """The peak of memory begins anew."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def memory(self) -> float | None:
        """The peak of memory, in GB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e9
        with contextlib.suppress(ImportError):  # Windows has no such module
            import resource

            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        return None


def autocast(here: Here, precision: str) -> contextlib.AbstractContextManager[Any]:
    """What a bare loop computes in."""
    is_half = precision == "bf16-mixed"
    return torch.autocast(here.device.type, torch.bfloat16, enabled=is_half)


# --- the parts ----------------------------------------------------------------------------------


def detectors(here: Here) -> Iterator[Line]:
    """Scores at the device against the CPU's."""
    names = oodbench.list_detectors()
    names = names[:6] if here.is_quick else names
    failed, passed, began = [], 0, time.perf_counter()
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check_accelerator(oodbench.create_detector(name))
            passed += 1
        except OutOfTimeError:
            failed.append("not reached: " + ", ".join(names[names.index(name) :]))
            break
        except Exception as error:  # a detector that fails must not hide the others
            failed.append(f"{name}: {(str(error) or type(error).__name__).splitlines()[0][:120]}")
    where = here.device.type if here.device.type != "cpu" else "a stand-in"
    note = "; ".join(failed) or f"all as on the CPU (1e-4), in {time.perf_counter() - began:.0f} s"
    what = f"{passed} of {len(names)} at {where}"
    yield Line("detectors", what, unit="", memory=here.memory(), note=note)


def named(name: str) -> nn.Module:
    """A network of timm's with random weights."""
    import timm

    torch.manual_seed(0)
    network: nn.Module = timm.create_model(name, pretrained=False)
    return network.eval()


def extraction(here: Here) -> Iterator[Line]:
    """Outputs of images that are in memory in the network's size."""
    side, n, batch = (64, 96, 32) if here.is_quick else (224, 6144, 256)
    names = ["resnet18"] if here.is_quick else ["resnet50", "vit_small_patch16_224"]
    samples = images(n, side)
    shown = replace(RESIZED, size=side, resize="stretch", pre_size=None)
    for name in names:
        network = named(name)
        for precision in ("32-true", "bf16-mixed"):
            hardware = replace(here.hardware, precision=precision, batch_size=batch)
            here.forget_memory()
            alone = network_alone(here, network, side, batch, precision)
            found = against_loop(here, network, samples, shown, hardware)
            yield Line(
                "extraction",
                f"{name}, {side} px, {precision}",
                *found,
                memory=here.memory(),
                note=f"network alone {alone:,.0f}",
            )


def network_alone(here: Here, network: nn.Module, side: int, batch: int, precision: str) -> float:
    """Images a second of a batch that is at the device already."""
    last = torch.channels_last
    network.to(here.device, memory_format=last)
    x = torch.rand(batch, 3, side, side, device=here.device).contiguous(memory_format=last)
    turns = 2 if here.is_quick else 20

    def run(turns: int) -> None:
        for _ in range(turns):
            network(x)

    with torch.inference_mode(), autocast(here, precision):
        run(1 if here.is_quick else 5)
        return turns * batch / here.timed(lambda: run(turns))


def against_loop(
    here: Here, network: nn.Module, samples: Samples, shown: Preprocess, hardware: Hardware
) -> tuple[float, float]:
    """Images a second of extraction, and of a bare loop with the same loader settings."""
    workers = hardware.workers_for(samples, shown) if hardware.workers is None else hardware.workers
    last = torch.channels_last

    def loop() -> None:
        loader = DataLoader(
            Preprocessed(samples, shown),
            batch_size=hardware.batch_size,
            num_workers=workers,
            pin_memory=here.device.type == "cuda",
        )
        found = []
        network.to(here.device, memory_format=last)
        with torch.inference_mode(), autocast(here, hardware.precision):
            for batch, _ in loader:
                x = batch.to(here.device, non_blocking=True).contiguous(memory_format=last)
                found.append(network(x).float().cpu())
        torch.cat(found)

    same = replace(hardware, workers=workers)
    seconds = {"bare": float("inf"), "ours": float("inf")}
    for _ in range(2):
        seconds["bare"] = min(seconds["bare"], here.timed(loop))
        with fresh_cache():
            took = here.timed(lambda: extract(network, samples, shown, hardware=same))
        seconds["ours"] = min(seconds["ours"], took)
    return len(samples) / seconds["ours"], len(samples) / seconds["bare"]


@contextlib.contextmanager
def fresh_cache() -> Iterator[None]:
    """Nothing is known, and nothing stays."""
    before = os.environ.get("OODBENCH_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OODBENCH_CACHE"] = folder
        try:
            yield
        finally:
            os.environ.pop("OODBENCH_CACHE")
            if before is not None:
                os.environ["OODBENCH_CACHE"] = before


def decoding(here: Here) -> Iterator[Line]:
    """Photographs from their files."""
    side, n = (64, 48) if here.is_quick else (224, 2048)
    shown = replace(RESIZED, size=side, pre_size=side * 8 // 7)
    with tempfile.TemporaryDirectory() as made:
        folder = here.folder or photographs(Path(made), n)
        samples = image_folder("photographs", folder)
        batch = 16 if here.is_quick else 128
        hardware = replace(here.hardware, precision="bf16-mixed", batch_size=batch)
        workers = hardware.workers_for(samples, shown)
        loader = DataLoader(
            Preprocessed(samples, shown.as_bytes), batch_size=batch, num_workers=workers
        )
        took = here.timed(lambda: [None for _ in loader])
        limit = len(samples) / took
        name = "resnet18" if here.is_quick else "resnet50"
        here.forget_memory()
        found = against_loop(here, named(name), samples, shown, hardware)
        note = f"{workers} workers decode {limit:,.0f}"
        what = f"{name}, JPEG to {side} px, bf16-mixed"
        yield Line("decoding", what, *found, memory=here.memory(), note=note)


def training(here: Here) -> Iterator[Line]:
    """Steps of cross-entropy and of PALM."""
    quick = here.is_quick
    settings = (
        [Setting("ce", "resnet20", 16, 1), Setting("palm", "resnet20", 16, 2)]
        if quick
        else [Setting("ce", "resnet18-cifar", 128, 1), Setting("palm", "resnet34-cifar", 512, 2)]
    )
    yield from views(here)
    workers = here.hardware.workers
    workers = here.hardware.cores_for_data if workers is None else workers
    for setting in settings:
        for precision in ("32-true",) if quick else ("32-true", "bf16-mixed"):
            hardware = replace(here.hardware, precision=precision, workers=0 if quick else workers)
            augments = ["image"] if setting.method == "ce" else ["image", "batch"]
            steps = 5 if quick else 12 if setting.method == "palm" else 60
            here.forget_memory()
            found = compared(setting, steps, hardware, augments, 1 if quick else 2)
            epochs, n = PUBLISHED[setting.method]
            for augment in augments:
                speed = found[augment]
                hours = epochs * n / speed / 3600
                note = f"{speed * setting.views:,.0f} views/s"
                if not quick:
                    note += f"; published recipe {hours:,.1f} h"
                what = f"{setting.method}, {setting.backbone}, {precision}, augment={augment}"
                yield Line("training", what, speed, found["bare"], memory=here.memory(), note=note)


def views(here: Here) -> Iterator[Line]:
    """SimCLR views of a batch at the device, without a network."""
    n = 64 if here.is_quick else 1024
    drawing = BatchedSimCLR(SimCLR(PREPROCESS), 2, 0)
    samples = images(n)
    batch = to_device(drawing.drawn([samples[i] for i in range(n)], range(n)), here.device)
    turns = 2 if here.is_quick else 50

    def run(turns: int) -> None:
        for _ in range(turns):
            drawing.levels(batch)

    run(2)
    speed = turns * n * 2 / here.timed(lambda: run(turns))
    yield Line("training", "SimCLR views at the device alone", speed, unit="views/s")


def search(here: Here) -> Iterator[Line]:
    """Detectors on as many samples as ImageNet has."""
    n, queries, width = (20_000, 2_000, 128) if here.is_quick else (1_280_000, 100_000, 2048)
    if here.device.type == "cuda":  # half of it is kept for the work
        room = torch.cuda.mem_get_info(here.device)[0] // 2
        n = int(min(n, room // (2 * width)))
    features = drawn(here, n + queries, width)
    labels = torch.arange(n) % (CLASSES if here.is_quick else 1000)
    train, test = Outputs(features=features[:n], labels=labels), Outputs(features=features[n:])
    for name in ("mahalanobis", "knn"):
        here.forget_memory()
        detector = oodbench.create_detector(name)
        fit = here.timed(lambda d=detector: at_device(here.device, d, train, d.fit))
        score = here.timed(lambda d=detector: at_device(here.device, d, test, d.score))
        peak = here.memory()
        bare = None if name != "knn" else neighbours(here, features[:n], features[n:])
        note = f"fit {fit:.1f} s, score {score:.1f} s; {n:,} x {width}"
        what = f"{name}, {queries:,} queries"
        yield Line("search", what, queries / score, bare, "queries/s", peak, note)


def drawn(here: Here, n: int, width: int) -> Tensor:
    """Half-precision features on the CPU, drawn where that is quick."""
    found = torch.empty(n, width, dtype=torch.float16)
    generator = torch.Generator(here.device).manual_seed(0)
    for begin in range(0, n, 65_536):
        rows = found[begin : begin + 65_536]
        rows.copy_(torch.randn(rows.shape, device=here.device, generator=generator))
    return found


def neighbours(here: Here, bank: Tensor, queries: Tensor, k: int = 50) -> float:
    """Queries a second of a bare search: normalised products and the k largest, block by block."""
    held = bank.to(here.device)
    some = queries[: 512 if here.is_quick else 8192]

    def run() -> None:
        for part in some.split(1024):
            q = F.normalize(part.to(here.device).float(), dim=1)
            best: Tensor | None = None
            for block in held.split(131_072):
                near = (q @ F.normalize(block.float(), dim=1).T).topk(k, dim=1).values
                best = near if best is None else torch.cat([best, near], 1).topk(k, 1).values

    return len(some) / here.timed(run)


PARTS: dict[str, Callable[[Here], Iterator[Line]]] = {
    "detectors": detectors,
    "extraction": extraction,
    "decoding": decoding,
    "training": training,
    "search": search,
}


# --- the table ----------------------------------------------------------------------------------


def run_part(name: str, here: Here, seconds: float) -> Iterator[Line]:
    """The lines of a part, and one more where it fails or has had its time."""

    def stop(*_: Any) -> None:
        raise OutOfTimeError

    can_stop = hasattr(signal, "setitimer")
    before = signal.signal(signal.SIGALRM, stop) if can_stop else None
    try:
        if can_stop:
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 1))
        yield from PARTS[name](here)
    except OutOfTimeError:
        yield Line(name, "the rest", unit="", note=f"not done: its {seconds:.0f} s are over")
    except Exception as error:  # the other parts are to run
        traceback.print_exc()
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        yield Line(name, "the rest", unit="", note=f"FAILED: {reason}")
    finally:
        if can_stop:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def table(lines: Sequence[Line]) -> str:
    """Markdown."""
    rows = [
        "| part | what | oodbench | bare loop | ratio | unit | peak GB | |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: | --- |",
    ]
    for line in lines:
        ours, bare = (f"{v:,.0f}" if v else "" for v in (line.ours, line.bare))
        ratio = f"{line.ratio:.2f}" if line.ratio else ""
        memory = f"{line.memory:.1f}" if line.memory else ""
        cells = [line.part, line.what, ours, bare, ratio, line.unit, memory, line.note]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def about(here: Here) -> dict[str, Any]:
    """The machine and the versions."""
    from oodbench.runtime.machine import processor_name

    is_cuda = here.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(here.device) if is_cuda else here.device.type,
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if is_cuda else None,
        "python": platform.python_version(),
        "tf32": torch.backends.cudnn.allow_tf32 if is_cuda else None,
    }


def main() -> int:
    """Run the parts, print the table, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--workers", type=int)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    kind = "gpu" if given.device.startswith("cuda") else given.device
    number = given.device.partition(":")[2]
    devices = f"{number}," if number else "1"
    hardware = Hardware(kind, devices, workers=given.workers, progress=False)
    here = Here(torch.device(given.device), hardware, given.quick, given.folder)
    parts = given.only.split(",")
    end = time.perf_counter() + 60 * given.minutes
    lines: list[Line] = []
    for number_of, name in enumerate(parts):
        rest = sum(SHARES[other] for other in parts[number_of:])
        seconds = (end - time.perf_counter()) * SHARES[name] / rest
        for line in run_part(name, here, seconds):
            lines.append(line)
            print(table([line]).splitlines()[-1], file=sys.stderr, flush=True)
    machine = about(here)
    print(", ".join(f"{key} {value}" for key, value in machine.items() if value is not None))
    print()
    print(table(lines))
    if given.json is not None:
        found = [{**asdict(line), "ratio": line.ratio} for line in lines]
        given.json.write_text(json.dumps({"about": machine, "lines": found}, indent=1))
    return int(any(line.note.startswith("FAILED") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
