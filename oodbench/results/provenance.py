"""Where a row comes from: the network, the machine, the versions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch

from oodbench.benchmark import Benchmark
from oodbench.data.transforms import content_key
from oodbench.results.rows import SCHEMA, Row
from oodbench.results.versions import versions
from oodbench.runtime.machine import accelerator_name, processor_name
from oodbench.tasks.runner import NetworkRunner


def provenance(
    benchmark: Benchmark,
    runner: NetworkRunner,
    command: str | None,
    arguments: Mapping[str, Any] | None = None,
) -> Row:
    """Columns that all rows of a network on a benchmark have in common.

    Args:
        benchmark: the benchmark.
        runner: the network at work.
        command: what repeats the evaluation.
        arguments: what no other column tells of what was asked; see ``Row.arguments``.
    """
    contender, hardware = runner.contender, runner.hardware
    return {
        "method": contender.method,
        "backbone": contender.backbone or type(contender.network).__name__,
        "id": benchmark.id.name,
        "benchmark": benchmark.name,
        "benchmark_version": benchmark.version if benchmark.version > 1 else None,
        "seed": contender.seed,
        "recipe": contender.recipe,
        "recipe_options": contender.recipe_options,
        "auxiliary": contender.auxiliary,
        "preprocess": content_key(runner.preprocess),
        "preprocess_source": runner.preprocess_source,
        "precision": hardware.numbers,
        "device": hardware.accelerator,
        "accelerator": accelerator_name(hardware.accelerator),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        **versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "arguments": {**contender.arguments, **hardware.told(), **(arguments or {})},
        "schema": SCHEMA,
    }
