"""How far a download is."""

from __future__ import annotations

import io

from oodbench.download.progress import Bar, Lines


def test_a_line_a_minute() -> None:
    now = [0.0]
    told: list[str] = []
    lines = Lines(told.append, clock=lambda: now[0])
    lines.begin("cifar10", 100_000_000)
    lines.at(10_000_000)  # of an earlier run, which says nothing of the speed
    for second in range(1, 150):
        now[0] = second
        lines.at(10_000_000 + 500_000 * second)
    assert told == [
        "cifar10: 40.0 MB of 100.0 MB, 500.0 kB/s, 2 min left",
        "cifar10: 70.0 MB of 100.0 MB, 500.0 kB/s, 60 s left",
    ]
    told.clear()
    lines.begin("unknown", 0)
    now[0] += 100
    lines.at(5)
    assert "of" not in told[0]
    assert "left" not in told[0]


def test_a_bar_goes_when_it_is_done() -> None:
    stream = io.StringIO()
    bar = Bar(stream)
    bar.begin("[red]cifar10", 100)
    bar.at(50)
    bar.say("x [bold]y")
    bar.close()
    assert "x [bold]y" in stream.getvalue()
