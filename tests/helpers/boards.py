"""What a board shows, made up: as many entries as are wanted, one with a name that means harm."""

from __future__ import annotations

from typing import Any

from oodbench.board.content import FIGURES

EVIL = "<script>window.pwned=1</script>|\"'<img src=x onerror=window.pwned=1>שלום"


def an_entry(number: int, detector: str, sets: int) -> dict[str, Any]:
    """An entry of two seeds, whose figures follow from its number and differ between numbers."""
    value = round(50 + (number * 7919 % 5000) / 100, 2)
    figure = [value, round(value - 0.5, 2), round(value + 0.4, 2), 0.21]
    is_evil = detector == EVIL
    return {
        "id": f"d-{number:06d}", "rank": number + 1, "detector": detector,
        "settings": EVIL if is_evil else f"k={number}",
        "method": EVIL if is_evil else f"method-{number % 7}", "recipe": "quick",
        "backbone": f"net-{number % 3}",
        "tags": ["reads logits" if number % 2 else "reads features"],
        "modality": "", "seeds": [0, 1], "older": False,
        "word": "disputed" if number == 2 else None, "tuned": "",
        "figures": [[figure] * len(FIGURES)] * sets, "extras": [[91.25]],
        "notes": [EVIL] if is_evil else [], "twins": [],
        "each": [[[value, value]] * 3] * sets, "made": 0, "input": 0, "idTest": "1" * 64,
        "idTrain": None, "bibtex": [1],
        "published": [{"where": "near-a", "figure": "AUROC", "here": value, "printed": "80.1",
                       "difference": round(value - 80.1, 2), "beyond": True,
                       "source": EVIL if is_evil else "a paper"}],
        "runs": [{"seed": s, "command": 0, "with": 0, "weights": "w" * 64, "when": "2026-01-01",
                  "seconds": 1.5, "results": ["a.json"], "row": f"{number:030d}{s:02d}",
                  "checked": "reported"} for s in (0, 1)],
        "curves": {"seed": 0, "sets": [{"ood": name, "roc": list(range(0, 1010, 10)),
                                        "id": [25] * 40, "out": [25] * 40, "ends": [0.0, 1.0]}
                                       for name in ("near-a", "far")]},
    }  # fmt: skip


def board(entries: int, name: str = "toy") -> dict[str, Any]:
    """A board of one benchmark; the second entry's detector has the name that means harm."""
    sets = [
        {"name": n, "group": g, "mean": m, "of": [n], "n": 100, "fingerprint": "f" * 64}
        for n, g, m in (("near-a", "near", False), ("near", "near", True), ("far", "far", True))
    ]
    part = {
        "title": "near, far", "about": ["ID test: 60 images."], "sets": sets,
        "extras": [{"title": "ID accuracy", "low": False}], "ranked": [1, 0],
        "entries": [an_entry(i, EVIL if i == 1 else f"detector-{i}", 3) for i in range(entries)],
    }  # fmt: skip
    benchmark = {
        "name": name, "key": "toy", "id": "toy", "task": "classification", "about": ["About it."],
        "metric": "AUROC", "figures": FIGURES, "fpr": 1, "parts": [part],
        "texts": ["oodbench eval --id toy", "@inproceedings{x}"],
    }  # fmt: skip
    return {"oodbench": "1", "leftOut": [{"name": EVIL, "why": EVIL}], "benchmarks": [benchmark]}
