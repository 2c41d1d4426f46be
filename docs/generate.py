"""Writes what is derived: the page of names, the table of rooms, the README's headline tables.

Usage: ``python docs/generate.py [--check]``

``docs/names.md`` lists what ``pyproject.toml`` declares, ``docs/architecture.md`` has the modules
of the core between two marks, the README the best lines of two leaderboards. ``--check`` writes
nothing and fails if a file is not as it would be written; a test does the same.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.house import House  # noqa: E402
from oodbench import registry  # noqa: E402

KINDS = {
    "detectors": "How OOD-ness is read off a network: `--detector`.",
    "methods": "How a network is trained: `--method`.",
    "benchmarks": "ID and OOD sets, preprocessing and protocol: `--id`, `--benchmark`.",
    "tasks": "What is scored: `--task`.",
    "backbones": "Networks: `--backbone`. Any name of timm is one, too.",
    "measures": "Figures of a network on a benchmark that are no detector's.",
    "datasets": "Sets that `--ood` takes, and that benchmarks are made of.",
}
HEADLINES = {"cifar10/openood": ("near",), "digits": ("near", "far")}
"""Benchmarks whose best lines the README shows, and the groups that it shows of them."""
BEST = 3
HEADLINE = "<!-- headline: written by docs/generate.py -->", "<!-- end of headline -->"
BEGIN, END = "<!-- rooms: written by docs/generate.py -->", "<!-- end of rooms -->"


def names() -> str:
    """The page of names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        "# What there is",
        "",
        "Written by `python docs/generate.py` from the entry points in `pyproject.toml` and the",
        "first line of each docstring. `oodbench list KIND` lists the same, with the names of",
        "other packages; `oodbench info NAME` says all of one.",
    ]
    for kind, purpose in KINDS.items():
        known: registry.Registry = getattr(registry, kind.upper())
        more = MORE.get(kind, {})
        declared = project["entry-points"].get(f"oodbench.{kind}", {})
        aliases = [name for name, target in declared.items() if target.endswith("[alias]")]
        lines += ["", f"## {kind.capitalize()}", "", purpose, ""]
        lines.append(f"| name | {''.join(f'{title} | ' for title in more)}what it is |")
        lines.append("| --- | " + "--- | " * (len(more) + 1))
        lines[-1] = lines[-1].rstrip()
        for name in sorted(set(declared) - set(aliases)):
            cells = [look(known.get(name)) for look in more.values()]
            cells.append(known.summary(name).replace("|", "\\|"))
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _needs(detector: type) -> str:
    return ", ".join(sorted(detector.needs)) or "nothing"  # type: ignore[attr-defined]


MORE: dict[str, dict[str, Callable[[type], str]]] = {
    "detectors": {"reads": _needs, "method": lambda cls: f"`{cls.method}`"},  # type: ignore[attr-defined]
    "methods": {"task": lambda cls: str(cls.task)},  # type: ignore[attr-defined]
}
"""Further columns of a kind, by title."""


def rooms() -> str:
    """The table of the core's modules, by folder."""
    lines = [BEGIN]
    modules = sorted(House(ROOT).rooms.values(), key=lambda module: module.path.parts[:-1])
    folders: dict[str, list[str]] = {}
    for module in modules:
        folder = module.path.parent.relative_to(ROOT).as_posix()
        folders.setdefault(folder, []).append(f"| `{module.path.name}` | {module.title} |")
    for folder, entries in folders.items():
        lines += ["", f"### `{folder}/`", "", "| module | what it is |", "| --- | --- |", *entries]
    return "\n".join([*lines, "", END])


def headlines() -> str:
    """The best lines of two leaderboards, each with what it is of."""
    from oodbench.benchmark import get_benchmark
    from oodbench.results.arranged import sections, without_short_runs
    from oodbench.results.papertable import paper_table
    from oodbench.results.store import ResultStore

    parts = [HEADLINE[0]]
    for name, groups in HEADLINES.items():
        benchmark = get_benchmark(benchmark=name)
        part = sections(benchmark, ResultStore(ROOT / "leaderboards").rows(name))[0]
        rows = without_short_runs(benchmark, part)
        table = paper_table(benchmark, rows, sets=groups).to_markdown().splitlines()
        head, lines = table[:2], [line for line in table[2:] if line.startswith("|")]
        backbones = ", ".join(dict.fromkeys(row["backbone"] for row in rows))
        page = f"[{name}](leaderboards/{name.replace('/', '-')}.md)"
        head[0] = head[0].replace("| Detector |", f"| {page}, {backbones} |", 1)
        parts += ["", *head, *lines[: -BEST - 1 : -1]]
    return "\n".join([*parts, HEADLINE[1]])


def written() -> dict[Path, str]:
    """The pages and what they are to be."""
    pages = {ROOT / "docs" / "names.md": names()}
    for path, marks, derived in (
        (ROOT / "docs" / "architecture.md", (BEGIN, END), rooms),
        (ROOT / "README.md", HEADLINE, headlines),
    ):
        between = re.compile(".*".join(map(re.escape, marks)), re.DOTALL)
        text = path.read_text(encoding="utf-8")
        pages[path] = between.sub(lambda _, made=derived: made(), text)
    return pages


def main() -> None:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    check = parser.parse_args().check
    stale = []
    for path, text in written().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.relative_to(ROOT).as_posix())
            if not check:
                path.write_text(text, encoding="utf-8", newline="\n")
    if check and stale:
        sys.exit(f"{', '.join(stale)}: not as the code says. Run python docs/generate.py.")


if __name__ == "__main__":
    main()
