"""What the documentation site has besides the files of docs/: made when it is built.

MkDocs calls the two functions. The README is the front, CONTRIBUTING and SUBMITTING are pages, and
the reference is written from the registries, the command line and the public names, so that none
of it can be out of date.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
COPIES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "submitting.md": "leaderboards/SUBMITTING.md",
}
"""Pages that are files elsewhere."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    made = {page: (ROOT / source).read_text(encoding="utf-8") for page, source in COPIES.items()}
    made |= {
        "reference/cli.md": command_line(),
        "reference/api.md": api(),
        **detectors(),
        "reference/methods.md": registered("methods"),
        "reference/benchmarks.md": registered("benchmarks"),
    }
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that a checkout has, as the site has them; code is left alone."""
    parts = re.split(r"(```.*?```)", markdown, flags=re.DOTALL)
    return "".join(p if p.startswith("```") else _relinked(p, page.file.src_uri) for p in parts)


SHIM = "https://unpkg.com/iframe-worker/shim"
"""What the theme's search would fetch from elsewhere; it comes with the site."""


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Nothing is fetched from elsewhere."""
    up = "../" * page.file.dest_uri.count("/")
    return output.replace(SHIM, f"{up}assets/iframe-worker.js")


def on_post_template(output_content: str, **_: Any) -> str:
    """The same for the page of errors."""
    return output_content.replace(SHIM, "assets/iframe-worker.js")


def _relinked(text: str, page: str) -> str:
    homes = {source: name for name, source in COPIES.items()}
    here = Path(COPIES.get(page, f"docs/{page}")).parent

    def relinked(link: re.Match[str]) -> str:
        shown, target, anchor = link[1], link[2], link[3] or ""
        if re.match(r"\w+:", target):
            return link[0]
        path = Path(*_resolved(here / target).parts)
        if path.as_posix() in homes:
            return f"[{shown}]({homes[path.as_posix()]}{anchor})"
        if path.parts[:1] == ("docs",) and (ROOT / path).is_file() and path.suffix != ".py":
            return f"[{shown}]({path.relative_to('docs').as_posix()}{anchor})"
        return f"{shown} (`{path.as_posix()}`)" if shown.strip("`") != path.as_posix() else shown

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)", relinked, text)


def _resolved(path: Path) -> Path:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return Path(*parts)


def registered(kind: str) -> str:
    """Every name of a kind, with all that ``oodbench info`` says of it."""
    from oodbench import registry
    from oodbench.info import describe

    names = getattr(registry, kind.upper())
    lines = [f"# {kind.capitalize()}", "", f"All that `oodbench info NAME` says of {kind}.", ""]
    for name in names.names():
        if ":" in name:
            continue
        lines += [f"## {name}", "", names.summary(name), "", "```text", describe(name), "```", ""]
    return "\n".join(lines)


def detectors() -> dict[str, str]:
    """A page for each detector, with its rows in the leaderboards, and one that leads to them."""
    from oodbench.info import describe
    from oodbench.registry import DETECTORS

    names = [name for name in DETECTORS.names() if ":" not in name]
    rows = measured()
    pages = {}
    index = [
        "# Detectors",
        "",
        "Higher = more OOD, always.",
        "",
        "| detector | | reads | rows in |",
    ]
    index += ["| --- | --- | --- | --- |"]
    for name in names:
        own = rows.get(name, [])
        boards = ", ".join(dict.fromkeys(row["board"] for row in own)) or "–"
        needs = DETECTORS.get(name).needs
        reads = ", ".join(sorted(needs)) if isinstance(needs, frozenset) else "as its options say"
        summary = DETECTORS.summary(name).replace("|", "\\|")
        index.append(f"| [{name}](detectors/{name}.md) | {summary} | {reads} | {boards} |")
        text = [f"# {name}", "", DETECTORS.summary(name), "", "```text", describe(name), "```", ""]
        pages[f"reference/detectors/{name}.md"] = "\n".join([*text, *_rows_of(name, own), ""])
    return {"reference/detectors.md": "\n".join([*index, ""]), **pages}


def measured() -> dict[str, list[dict[str, str]]]:
    """The lines of group means in leaderboards/*.csv, by detector."""
    found: dict[str, list[dict[str, str]]] = {}
    for path in sorted((ROOT / "leaderboards").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                if row["is_mean"] == "yes":
                    row["board"] = path.stem
                    found.setdefault(row["detector"], []).append(row)
    return found


def _rows_of(name: str, rows: list[dict[str, str]]) -> list[str]:
    """Its lines: of each benchmark, network and set of options the mean of each group."""
    command = f"oodbench eval --detector {name} --id digits"
    if not rows:
        return ["## Its rows", "", f"None is in the leaderboards yet: `{command}`."]
    head = ["leaderboard", "rank", "settings", "training", "network", "OOD", "AUROC"]
    head += ["FPR@95, ID positive", "FPR@95, OOD positive", "seeds"]
    lines = ["## Its rows", "", "Group means in percent; rank: the place on its page.", ""]
    lines += [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        training = f"{row['method']} ({row['recipe']})" if row["recipe"] else row["method"]
        network = ", ".join(filter(None, [row["backbone"], row["modality"]]))
        cells = [row["board"], row["rank"], row["settings"], training, network, row["ood"]]
        cells += [row["auroc"], row["fpr95_id"], row["fpr95_ood"], row["seeds"]]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines


def command_line() -> str:
    """Every command with its options, from typer."""
    import typer

    from oodbench import cli

    root: Any = typer.main.get_command(cli.app)
    lines = ["# Command line", "", root.help or "", ""]
    for name, command in _commands(root, "oodbench"):
        about = (command.help or "").strip()
        lines += [f"## {name}", "", about, "", "| option | |", "| --- | --- |"]
        for option in command.params:
            flags = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
            shown = flags if option.param_type_name == "option" else f"`{option.name}`"
            needed = " Required." if option.required else ""
            text = f"{getattr(option, 'help', None) or ''}{needed}".replace("|", "\\|")
            lines.append(f"| {shown} | {text} |")
        examples = (command.epilog or "").split("\n\n")[1:]
        lines += ["", *(["```text", *examples, "```", ""] if examples else [])]
    return "\n".join(lines)


def _commands(group: Any, path: str) -> list[tuple[str, Any]]:
    commands = []
    for name, command in group.commands.items():
        inside = getattr(command, "commands", None)
        commands += (
            _commands(command, f"{path} {name}") if inside else [(f"{path} {name}", command)]
        )
    return commands


def api() -> str:
    """Every public name of the package, from its docstring."""
    import oodbench

    lines = ["# Python", "", "What `import oodbench` offers.", ""]
    home = {name: module for module, names in oodbench._HOME.items() for name in names}
    for name in sorted(oodbench.__all__, key=str.lower):
        lines += [f"::: oodbench.{home[name]}.{name}", ""]
    return "\n".join(lines)
