"""What an evaluation gave: its rows, the scores behind them, and what is to be known of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from oodbench import notebook
from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.errors import OptionError
from oodbench.results.papertable import paper_table
from oodbench.results.rows import COLUMNS, Row

if TYPE_CHECKING:
    import pandas as pd

    from oodbench.results.samples import SampleScores


@dataclass
class Results:
    """Rows of an evaluation.

    Args:
        rows: one for each detector and OOD set (or group mean).
        missing: OOD sets that were not found, with what was looked for, by name.
        warnings: what a reader of the rows has to know.
        failures: detectors that gave no rows, with the reason, by name.
        scores: the scores of every sample, one entry for each detector and network; none where
            scores were counted as they came, as those of pixels.
    """

    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    scores: list[SampleScores] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __add__(self, other: Results) -> Results:
        warnings = list(dict.fromkeys([*self.warnings, *other.warnings]))
        return Results(
            [*self.rows, *other.rows],
            {**self.missing, **other.missing},
            warnings,
            {**self.failures, **other.failures},
            [*self.scores, *other.scores],
        )

    def _repr_html_(self) -> str:
        """The table that a notebook shows, with what is absent and what went wrong below it."""
        return (
            notebook.figures(self.rows)
            + notebook.items("Missing:", (f"{n}: {why}" for n, why in self.missing.items()))
            + notebook.items("Failed:", (f"{n}: {why}" for n, why in self.failures.items()))
            + notebook.items("Warnings:", self.warnings)
        )

    def to_pandas(self) -> pd.DataFrame:
        """A table with ``COLUMNS``, and those of the benchmarks' measures."""
        import pandas as pd

        columns = dict.fromkeys((*COLUMNS, *(name for row in self.rows for name in row)))
        return pd.DataFrame(self.rows, columns=list(columns))

    def to_json(self) -> str:
        """``{"rows": [...], "missing": {...}, "warnings": [...], "failures": {...}}``."""
        value = {
            "rows": self.rows,
            "missing": self.missing,
            "warnings": self.warnings,
            "failures": self.failures,
        }
        return json.dumps(value, indent=1, allow_nan=False)

    def to_latex(
        self,
        benchmark: Benchmark | None = None,
        *,
        sets: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> str:
        """The rows as the table of a paper, as ``oodbench table --format latex`` writes it.

        Detectors by OOD sets in percent, the best bold, the second underlined, ± the sample
        standard deviation over seeds; the best line last. It needs ``booktabs``.

        Args:
            benchmark: that the rows are of; None to look it up by its name.
            sets: OOD sets and groups to show; by default all sets, and means of several.
            metrics: columns of figures; by default the benchmark's FPR@95, and AUROC.

        Raises:
            OptionError: there are no rows, rows of several benchmarks, or no such metric.
            UnknownNameError: no row is of such a set, or the benchmark is not registered.
        """
        names = sorted({row["benchmark"] for row in self.rows})
        if benchmark is None and len(names) != 1:
            raise OptionError(
                f"a table is of one benchmark, these are rows of {', '.join(names)}."
                if names
                else "there are no rows to make a table of."
            )
        known = benchmark or get_benchmark(benchmark=names[0])
        return paper_table(known, self.rows, sets=sets, metrics=metrics).to_latex()
