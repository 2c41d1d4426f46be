"""Challenges: what somebody else measured of an entry, and whether it agrees."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from scipy.special import stdtrit

from oodbench.benchmark import Benchmark
from oodbench.results import cards
from oodbench.results.cards import Card
from oodbench.results.entries import Entry, entries_of
from oodbench.results.plain import markdown
from oodbench.results.rows import NAMES, Row, cell
from oodbench.results.stored import StoredResult

DISPUTED = "disputed"
CONFIRMED = "confirmed by others"

SAME_NETWORK = 5e-4
"""By how much a figure of the same weights may differ between machines."""

OTHER_NETWORK = 0.02
"""The same of other weights, where neither seeds nor intervals tell how much trainings differ."""


@dataclass(frozen=True)
class Challenge:
    """A third party's measurement of a result.

    Args:
        result: the third party's.
        card: who they are.
        of: the result that was there.
        entry: rows of all seeds of the line that it is in.
    """

    result: StoredResult
    card: Card
    of: StoredResult
    entry: tuple[Row, ...] = ()

    def pairs(self) -> list[tuple[Row, Row]]:
        """Rows of the same OOD set or group: the challenged one's, and the challenge's."""
        own = {row["ood"]: row for row in self.result.rows}
        return [(row, own[row["ood"]]) for row in self.of.rows if row["ood"] in own]

    def is_disputed(self, metric: str) -> bool:
        """Whether any set's or group's figure differs by more than machines or trainings do."""
        return any(self.differs(row, other, metric) for row, other in self.pairs())

    def differs(self, row: Row, other: Row, metric: str) -> bool:
        """Whether a figure differs by more than machines or trainings do.

        Of the same weights by more than rounding on another machine does. Of others by more than
        one more network of the line would, ``t² s² (1 + 1/S)`` of its S seeds, and the images'
        intervals of both; of a line of one seed by more than both intervals leave open.
        """
        one, two = cell(row, metric), cell(other, metric)
        if row["weights"] == other["weights"]:
            steps = 0.0 if metric == "auroc" else 2.0 / min(row["n_id"], row["n_ood"])
            return bool(abs(one - two) > SAME_NETWORK + steps)
        ends = [(cell(r, f"{metric}_low"), cell(r, f"{metric}_high")) for r in (row, other)]
        seeds = [cell(r, metric) for r in self.entry if r["ood"] == row["ood"]]
        has_intervals = all(end is not None for pair in ends for end in pair)
        if len(seeds) > 1:
            spread = statistics.variance(seeds) * (1.0 + 1.0 / len(seeds))
            images = sum(((high - low) / 2.0) ** 2 for low, high in ends) if has_intervals else 0.0
            t = float(stdtrit(len(seeds) - 1, 0.975))
            return bool(abs(two - statistics.fmean(seeds)) > math.sqrt(t * t * spread + images))
        if not has_intervals:
            return bool(abs(one - two) > OTHER_NETWORK)
        return bool(ends[0][0] > ends[1][1] or ends[1][0] > ends[0][1])


@dataclass(frozen=True)
class Submitted:
    """What cards say of a benchmark's results.

    Args:
        cards: by row id.
        challenges: of results that are there.
        outside: ids of the rows of challenges, which have no line of their own.
    """

    cards: Mapping[str, Card] = field(default_factory=dict)
    challenges: tuple[Challenge, ...] = ()
    outside: frozenset[str] = frozenset()

    def marks(self, rows: Iterable[Row]) -> tuple[str, ...]:
        """What sets an entry of these rows apart from others: sentences."""
        cards = [self.cards[row["row_id"]] for row in rows if row["row_id"] in self.cards]
        return tuple(dict.fromkeys(mark for card in cards for mark in card.marks))

    def word(self, row: Row, metric: str) -> str | None:
        """``disputed`` or ``confirmed by others``; None where nobody measured it again."""
        own = [
            challenge
            for challenge in self.challenges
            if any(r["row_id"] == row["row_id"] for r in challenge.of.rows)
        ]
        if not own:
            return None
        return DISPUTED if any(one.is_disputed(metric) for one in own) else CONFIRMED


def submitted(results: Sequence[StoredResult]) -> Submitted:
    """What cards beside results say of them.

    Raises:
        OODBenchError: a card that is none.
    """
    with_cards = cards.in_folders({result.path.parent for result in results})
    if not with_cards:
        return Submitted()
    by_name = {result.path.stem: result for result in results}
    by_row: dict[str, Card] = {}
    challenges = []
    outside: set[str] = set()
    for result in results:
        if (path := cards.path_of(result.path)) not in with_cards:
            continue
        card = cards.read(path)
        by_row |= {row["row_id"]: card for row in result.rows}
        if card.challenges in by_name:
            challenges.append(Challenge(result, card, by_name[card.challenges]))
            outside |= {row["row_id"] for row in result.rows}
    if challenges:
        lines = entries_of([r for one in results for r in one.rows if r["row_id"] not in outside])
        challenges = [replace(one, entry=_line_of(one, lines)) for one in challenges]
    return Submitted(by_row, tuple(challenges), frozenset(outside))


def _line_of(challenge: Challenge, lines: Sequence[Entry]) -> tuple[Row, ...]:
    """The rows of all seeds of the line that is challenged."""
    ids = {row["row_id"] for row in challenge.of.rows}
    own = (tuple(line.rows.values()) for line in lines)
    return next((rows for rows in own if any(row["row_id"] in ids for row in rows)), ())


def section(
    benchmark: Benchmark, numbers: Mapping[str, tuple[int, str]], about: Submitted
) -> list[str]:
    """The part of a page with what others measured of its entries; none if there is nothing.

    Args:
        benchmark: that the page is of.
        numbers: of the entries on the page, number and name by the ids of their rows.
        about: what cards say.
    """
    metric = benchmark.protocol.rank_by
    lines = []
    for challenge in about.challenges:
        for row, other in challenge.pairs():
            if row["row_id"] not in numbers:
                continue
            number, name = numbers[row["row_id"]]
            word = DISPUTED if challenge.differs(row, other, metric) else CONFIRMED
            one, two = 100 * cell(row, metric), 100 * cell(other, metric)
            cells = [
                *(str(number), markdown(name), str(row["seed"]), markdown(row["ood"])),
                *(f"{one:.2f}", f"{two:.2f}", f"{two - one:+.2f}", word),
                markdown(f"{challenge.card.who} ({challenge.result.path.name})"),
            ]
            lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    if not lines:
        return []
    figure = NAMES[metric]
    header = f"| # | Detector | Seed | OOD | {figure} here | {figure} of others | Difference | "
    return [
        "### Measured by others",
        "",
        "What third parties measured of lines above. A line is *disputed* where theirs differs by "
        "more than another machine makes it (of the same weights); of other weights by more than "
        "one more network of the line would, or, of a line of one seed, by more than both "
        "intervals leave open.",
        "",
        header + "Word | Who (result) |",
        "| " + " | ".join(["---"] * 9) + " |",
        *lines,
        "",
    ]
