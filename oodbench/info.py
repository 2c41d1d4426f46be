"""What ``oodbench info NAME`` says of a detector, method, benchmark or dataset."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from oodbench.benchmark import Benchmark, DatasetSpec, get_benchmark
from oodbench.errors import OptionError, PluginError, UnknownNameError, did_you_mean
from oodbench.registry import BENCHMARKS, DATASETS, DETECTORS, METHODS


def describe(name: str) -> str:
    """Everything known under a name, in plain text.

    Raises:
        PluginError: the package that declares it is damaged.
        UnknownNameError: no registry has it; the nearest names are told.
    """
    parts: list[str] = []
    broken: list[PluginError] = []
    for registry, tell in (
        (DETECTORS, lambda: _detector(name, DETECTORS.get(name))),
        (METHODS, lambda: _method(name, METHODS.get(name))),
        (BENCHMARKS, lambda: _benchmark(name)),
        (DATASETS, lambda: _dataset(name, DATASETS.get(name))),
    ):
        if name in registry:
            try:
                parts.append(tell())
            except PluginError as error:  # the name may be another thing's too
                broken.append(error)
    if broken and not parts:
        raise broken[0]
    parts += map(str, broken)
    if not parts:
        known = sorted({n for r in (DETECTORS, METHODS, BENCHMARKS, DATASETS) for n in r.names()})
        raise UnknownNameError(
            f"nothing is named {name!r}.{did_you_mean(name, known)} "
            "See `oodbench list detectors|methods|benchmarks|datasets`."
        )
    return "\n\n".join(parts)


def _paper(name: str, thing: Any) -> list[str]:
    paper = getattr(thing, "paper", None)
    if paper is None:
        return []
    lines = [f"paper:    {paper.title}. {paper.authors}. {paper.venue} {paper.year}. {paper.url}"]
    if paper.formula:
        lines.append(f"formula:  {paper.formula}")
    lines += [f"figure:   {figure}" for figure in paper.figures]
    return [*lines, "bibtex:", *("  " + line for line in paper.bibtex(name).splitlines())]


def _options(thing: Any) -> list[str]:
    fields = [f for f in dataclasses.fields(thing) if f.init]
    return [
        f"  {f.metadata.get('option', f.name)}: "
        f"{f.type.__name__ if isinstance(f.type, type) else f.type} = {f.default!r}"
        for f in fields
    ] or ["  none"]


def _detector(name: str, cls: Any) -> str:
    lines = [
        f"detector {name} ({cls.__module__}.{cls.__qualname__})",
        inspect.cleandoc(cls.__doc__ or ""),
        f"needs:    {', '.join(sorted(cls.needs)) or 'nothing'}",
        f"method:   {cls.method} (trained by, if nothing else is asked for)",
        "options:",
        *(_options(cls) if dataclasses.is_dataclass(cls) else ["  none"]),
        *(f"grid:     {k} in {', '.join(map(str, v))}" for k, v in cls.grid.items()),
        *_paper(name, cls),
    ]
    return "\n".join(lines)


def _method(name: str, cls: Any) -> str:
    lines = [
        f"method {name} ({cls.__module__}.{cls.__qualname__})",
        inspect.cleandoc(cls.__doc__ or ""),
    ]
    for recipe, value in cls.recipes.items():
        ids = cls.recipe_ids.get(recipe)
        lines.append(_recipe_title(recipe, ids))
        lines += [f"  {k} = {v!r}" for k, v in dataclasses.asdict(value).items()]
    return "\n".join([*lines, *_paper(name, cls)])


def _recipe_title(recipe: str, ids: tuple[str, ...] | None) -> str:
    return f"recipe {recipe} (default for {', '.join(ids)}):" if ids else f"recipe {recipe}:"


def _benchmark(name: str) -> str:
    if not isinstance(found := _try_benchmark(name), Benchmark):
        return f"benchmark {name}\n{inspect.cleandoc(BENCHMARKS.get(name).__doc__ or '')}"
    protocol = found.protocol
    return "\n".join(
        [
            f"benchmark {name}",
            f"ID:       {found.id.name}: {found.id.description}",
            *(
                f"{g.group}:{'':{max(8 - len(g.group), 0)}} {g.spec.name}: {g.spec.description}"
                for g in found.ood
            ),
            *(f"chosen on: {spec.name}: {spec.description}" for spec in found.validation),
            *(
                f"preset {preset}: {detector} "
                + ", ".join(f"{name}={value}" for name, value in options.items())
                for preset, detectors in found.presets.items()
                for detector, options in detectors.items()
            ),
            f"input:    {found.preprocess}",
            f"ranking:  {protocol.rank_group} mean of {protocol.rank_by}; papers: {protocol.fpr}",
            f"defined:  {found.citation}",
        ]
    )


def _try_benchmark(name: str) -> Any:
    try:
        return get_benchmark(name)
    except OptionError:  # a factory that wants an argument, such as folder:PATH
        return None


def _dataset(name: str, spec: Any) -> str:
    if not isinstance(spec, DatasetSpec):
        return f"dataset {name}\n{inspect.cleandoc(spec.__doc__ or '')}"
    return "\n".join(
        [
            f"dataset {name}: {spec.description}",
            f"splits:   {', '.join(spec.splits)}",
            f"source:   {spec.source}",
            f"licence:  {spec.licence}",
            f"citation: {spec.citation}",
        ]
    )
