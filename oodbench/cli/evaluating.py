"""``oodbench eval`` and ``oodbench compare``: rows and a page."""

from __future__ import annotations

from typing import Annotated

import typer

from oodbench.cli.bringing import bring
from oodbench.cli.failures import leave_if_failed
from oodbench.cli.options import But
from oodbench.cli.parsing import chosen_detectors, split_networks
from oodbench.cli.session import (
    check_names,
    command_line,
    command_of_rows,
    hardware_of,
    leaderboards_of,
    page_of_kept,
    reporter,
    sets_line,
)
from oodbench.cli.tables import print_table
from oodbench.errors import OptionError
from oodbench.settings import (
    NETWORK,
    OF_TEXT,
    OUTPUT,
    PREPROCESSING,
    HardwareSettings,
    NetworkSettings,
    Reporting,
    Scoring,
    Selection,
    keywords,
    values,
)


def eval_command(
    scoring: Scoring,
    selection: Selection,
    networks: NetworkSettings,
    hardware: HardwareSettings,
    reporting: Reporting,
) -> None:
    """Train what the detectors need, score them on a benchmark, and add rows to its leaderboard."""
    check_names(selection, scoring, networks.method)
    from oodbench.benchmark import get_benchmark
    from oodbench.cli.evaluated import show_rows
    from oodbench.contenders import Networks
    from oodbench.evaluation import evaluate
    from oodbench.hardware import is_first_process
    from oodbench.needed import needed
    from oodbench.results import leaderboard
    from oodbench.results.store import ResultStore
    from oodbench.selection import create_detectors, left_out_of
    from oodbench.tasks.task import task_of

    benchmark = get_benchmark(selection.id, selection.benchmark, selection.task)
    detectors, fixed = chosen_detectors(scoring, benchmark, networks.method)
    machine = hardware_of(hardware, quiet=reporting.json)
    say = reporter(machine, quiet=reporting.json)
    leaderboards = leaderboards_of(reporting)
    say(
        f"benchmark {benchmark.name}: ID {benchmark.id.name}, OOD "
        + sets_line(benchmark, selection.ood)
    )
    left = left_out_of(scoring.detectors, networks.method, benchmark)
    if left is not None:
        say(f"warning: {left}")
    made = create_detectors(detectors, networks.method, benchmark, scoring.preset)
    backbones = split_networks([networks.backbone]) if networks.backbone else []
    several = len(backbones) > 1
    every = [
        Networks(**{**values(networks), **(_named(one) if several else {})})
        for one in (backbones if several else [""])
    ]
    asked = every[0]
    task_of(benchmark, selection.task_options).check(benchmark, made)  # before data is fetched
    for one in every:
        one.check(benchmark, made)
    # of several, some may be trained here, so all that could be learned from is wanted
    wanted = needed(
        benchmark, made, None if several else asked, ood=selection.ood, tune=scoring.tune
    )

    def check_inputs() -> None:
        for one in every:
            one.check_inputs(benchmark, made, say, selection.task_options)

    bring(
        wanted,
        benchmark,
        selection.download,
        say,
        may_ask=not reporting.json,
        check=check_inputs,
    )
    with page_of_kept(benchmark, leaderboards, machine):
        results = evaluate(
            benchmark=benchmark,
            detectors=detectors,
            tune=scoring.tune,
            fixed=fixed,
            fit_on=scoring.fit_on,
            ood=selection.ood,
            task_options=selection.task_options,
            **{**keywords(networks), **({"backbone": backbones} if several else {})},
            hardware=machine,
            leaderboards=leaderboards,
            pictures=reporting.pictures,
            scores=reporting.scores,
            report=say,
            command=command_of_rows(),
        )
    results.warnings += [] if left is None else [left]
    if not is_first_process(machine):
        return
    page = leaderboard.write(benchmark, leaderboards)
    if reporting.json:
        typer.echo(results.to_json())
    else:
        show_rows(results, benchmark, wide=reporting.wide, each_seed=reporting.each_seed)
        say(f"results: {ResultStore(leaderboards).path(benchmark.name)}; page: {page}")
        say(f"again: {command_line('again: ')}")
    leave_if_failed(results.failures)


def _named(backbone: str) -> dict[str, str | None]:
    """The settings that a network of several is named by: ``NAME`` or ``NAME@CHECKPOINT``."""
    name, _, checkpoint = backbone.partition("@")
    return {"backbone": name, "checkpoint": checkpoint or None}


def compare_command(
    context: typer.Context,
    scoring: Annotated[Scoring, But(optional=("detectors",))],
    selection: Selection,
    networks: Annotated[
        NetworkSettings,
        But(
            # Each network is named with its checkpoint, and sees images as it was trained to.
            without=("backbone", "checkpoint", "network", "layer", *OF_TEXT, *PREPROCESSING),
            help={"method": "How to obtain the networks. Default: as they were pre-trained."},
        ),
    ],
    hardware: HardwareSettings,
    reporting: Annotated[
        Reporting,
        # Pictures of one network would replace another's; a line is of all seeds.
        But(without=("pictures", "scores", "each_seed")),
    ],
    stored: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RESULT]...",
            help="Stored results, two or more: files (.json), their names, or detectors' names.",
        ),
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone",
            help="Networks, by commas: timm names, or NAME@CHECKPOINT.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            "--plot",
            help="PNG of AUROC against the first of the benchmark's measures; of stored results a "
            "critical-difference diagram.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    posthoc: Annotated[
        str,
        typer.Option(
            "--posthoc",
            help="How pairs of stored results are compared over sets and networks: wilcoxon (with "
            "Holm's correction) or nemenyi.",
            rich_help_panel=OUTPUT,
        ),
    ] = "wilcoxon",
) -> None:
    """Say whether stored results differ by more than noise; or score detectors on networks.

    With RESULTS: is the difference more than noise? Each is a file, the name of one, or a detector
    (all of its results in the leaderboards, or those of --id), and has the scores of its samples.
    Without: every detector is scored on every network, each as it was pre-trained; one table.
    """
    if stored:
        from oodbench.cli.differences import compare_stored

        return compare_stored(context, stored, selection, reporting, plot, posthoc)
    if not scoring.detectors or not backbone:
        raise OptionError(
            "name what is compared: two stored results (`oodbench compare msp energy --id cifar10`)"
            ", or detectors and networks to score (--detector msp,energy --backbone NAME,NAME)."
        )
    check_names(selection, scoring, networks.method)
    from oodbench import files
    from oodbench.benchmark import get_benchmark
    from oodbench.hardware import is_first_process
    from oodbench.needed import needed
    from oodbench.results import compare, leaderboard

    benchmark = get_benchmark(selection.id, selection.benchmark, selection.task)
    method = networks.method or compare.standard_method(benchmark)
    detectors, fixed = chosen_detectors(scoring, benchmark, method)
    machine = hardware_of(hardware, quiet=reporting.json)
    say = reporter(machine, quiet=reporting.json)
    leaderboards = leaderboards_of(reporting)
    if plot is not None:
        hint = "Choose another file with --plot."
        files.writable_dir(files.user_path(plot).parent, hint, make=False)
    say(
        f"benchmark {benchmark.name}: ID {benchmark.id.name}, OOD "
        + sets_line(benchmark, selection.ood)
    )
    # a network of the comparison may be trained, so all that could be learned from is wanted
    wanted = needed(benchmark, ood=selection.ood, tune=scoring.tune)
    bring(wanted, benchmark, selection.download, say, may_ask=not reporting.json)
    with page_of_kept(benchmark, leaderboards, machine):
        results = compare.compare(
            benchmark=benchmark,
            backbones=split_networks(backbone),
            detectors=detectors,
            tune=scoring.tune,
            fixed=fixed,
            fit_on=scoring.fit_on,
            ood=selection.ood,
            task_options=selection.task_options,
            method=method,
            **keywords(networks, without=("method", "backbone", "checkpoint")),
            hardware=machine,
            leaderboards=leaderboards,
            report=say,
            command=command_of_rows(),
        )
    if not is_first_process(machine):
        return None
    page = leaderboard.write(benchmark, leaderboards)
    if plot is not None:
        compare.scatter(results, benchmark, plot)
    if reporting.json:
        typer.echo(results.to_json())
    else:
        left_out = print_table(*compare.table(results, benchmark), wide=reporting.wide)
        if left_out:
            say(f"--wide shows also: {', '.join(left_out)}")
        say(f"page: {page}" + (f"; plot: {plot}" if plot else ""))
        say(f"again: {command_line('again: ')}")
    return leave_if_failed(results.failures)
