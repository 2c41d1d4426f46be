"""Figures that papers, leaderboards and other people's reports print, with their sources.

``literature.csv`` has one figure a line: what its source calls the detector, the network, the ID
set, the OOD set and the figure, the number as printed in percent, its spread over seeds, the
convention that it follows, and where it was read. The last columns say in the words of oodbench
what it is of. ``benchmark``, ``backbone``, ``ood`` and ``column`` are filled in only where protocol
and images agree with what is measured here; a figure without them stands beside no row. Left
without are, among others, Places365 and averages in PALM's tables (10,000 images drawn there, all
of a split here), averages in AbeT's (of which sets is not said), figures whose FPR convention
nobody looked at, and Swin-T on ImageNet-1k (resized to 256 pixels there, to its own 232 here).
``method`` is ``*`` where the network's name says its weights, so that nothing is trained.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from oodbench.results.published import Published, read


@cache
def published() -> tuple[Published, ...]:
    """All figures of ``literature.csv``."""
    return read(Path(__file__).with_name("literature.csv"))
