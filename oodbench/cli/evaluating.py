"""``oodbench eval`` and ``oodbench compare``: rows and a page."""

from __future__ import annotations

from typing import Annotated

import typer

from oodbench.cli import failures
from oodbench.cli.failures import leave_if_failed
from oodbench.cli.options import (
    LR,
    Accelerator,
    Backbone,
    BatchSize,
    BenchmarkName,
    Checkpoint,
    Debug,
    Devices,
    Epochs,
    Id,
    Json,
    Leaderboards,
    Mean,
    Method,
    Option,
    Precision,
    Preset,
    RecipeName,
    RecipeSet,
    Retrain,
    Seed,
    Std,
    Strategy,
    TaskName,
    Workers,
)
from oodbench.cli.parsing import (
    chosen_detectors,
    floats,
    overrides_of,
    seeds_of,
    split_detectors,
    split_networks,
    split_sets,
)
from oodbench.cli.session import (
    command_line,
    hardware_of,
    page_of_kept,
    reporter,
    sets_line,
)
from oodbench.cli.tables import (
    print_table,
    show_rows,
)


def eval_command(
    detector: Annotated[
        list[str],
        typer.Option("--detector", help="Detectors, separated by commas: msp,energy,knn; or all."),
    ],
    id_name: Id = None,
    benchmark: BenchmarkName = None,
    task: TaskName = None,
    ood: Annotated[
        list[str] | None,
        typer.Option(
            "--ood",
            help="OOD sets instead of the benchmark's: mnist,near=folder:PATH. A name with commas "
            "stands in double quotes.",
        ),
    ] = None,
    option: Option = None,
    preset: Preset = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Choose the values of each detector's grid first, on validation data alone.",
        ),
    ] = False,
    method: Method = None,
    recipe: RecipeName = None,
    recipe_set: RecipeSet = None,
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    mean: Mean = None,
    std: Std = None,
    seed: Seed = "0",
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LR = None,
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    precision: Precision = "32-true",
    workers: Workers = None,
    retrain: Retrain = False,
    leaderboards: Leaderboards = "leaderboards",
    pictures: Annotated[
        str | None,
        typer.Option("--pictures", help="Folder for pictures of scored pixels or boxes."),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(
            "--modality", help="Of several, the one that is scored: video, flow, audio … or fused."
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train what the detectors need, score them on a benchmark, and add rows to its leaderboard."""
    failures.show_traceback(debug)
    from oodbench import files
    from oodbench.benchmark import get_benchmark
    from oodbench.evaluator import evaluate
    from oodbench.hardware import is_first_process
    from oodbench.results import leaderboard
    from oodbench.results.store import ResultStore
    from oodbench.selection import (
        left_out_of,
    )

    names = split_detectors(detector)
    chosen = get_benchmark(id_name, benchmark, task)
    seeds = seeds_of(seed)
    detectors, fixed = chosen_detectors(names, option or [], chosen, method, preset)
    overrides = overrides_of(recipe_set, epochs, batch_size, lr)
    hardware = hardware_of(accelerator, devices, strategy, precision, workers, as_json)
    say = reporter(hardware, as_json)
    files.writable_dir(
        files.user_path(leaderboards) / "results",
        "Choose a folder that you may write with --leaderboards.",
        make=False,
    )
    sets = split_sets(ood)
    say(f"benchmark {chosen.name}: ID {chosen.id.name}, OOD " + sets_line(chosen, sets))
    left = left_out_of(names, method, chosen)
    if left is not None:
        say(f"warning: {left}")
    with page_of_kept(chosen, leaderboards, hardware):
        results = evaluate(
            benchmark=chosen,
            detectors=detectors,
            ood=sets,
            method=method,
            recipe=recipe,
            recipe_options=overrides,
            backbone=backbone,
            checkpoint=checkpoint,
            seed=seeds,
            retrain=retrain,
            mean=floats(mean, "--mean"),
            std=floats(std, "--std"),
            tune=tune,
            fixed=fixed,
            hardware=hardware,
            leaderboards=leaderboards,
            report=say,
            command=command_line(),
            pictures=pictures,
            modality=modality,
        )
    results.warnings += [] if left is None else [left]
    if not is_first_process(hardware):
        return
    page = leaderboard.write(chosen, leaderboards)
    if as_json:
        typer.echo(results.to_json())
    else:
        show_rows(results, chosen.task)
        store = ResultStore(leaderboards).path(chosen.name)
        say(f"rows: {store}; page: {page}")
        say(f"again: {command_line()}")
    leave_if_failed(results.failures)


def compare_command(
    detector: Annotated[
        list[str],
        typer.Option("--detector", help="Detectors, separated by commas: msp,ptood; or all."),
    ],
    backbone: Annotated[
        list[str],
        typer.Option("--backbone", help="Networks, by commas: timm names, or NAME@CHECKPOINT."),
    ],
    id_name: Id = None,
    benchmark: BenchmarkName = None,
    ood: Annotated[
        list[str] | None,
        typer.Option(
            "--ood",
            help="OOD sets instead of the benchmark's: mnist,near=folder:PATH. A name with commas "
            "stands in double quotes.",
        ),
    ] = None,
    option: Option = None,
    preset: Preset = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="How the networks are had. Default: linear-probe."),
    ] = None,
    recipe: RecipeName = None,
    recipe_set: RecipeSet = None,
    seed: Seed = "0",
    accelerator: Accelerator = "auto",
    devices: Devices = "auto",
    strategy: Strategy = "auto",
    precision: Precision = "32-true",
    workers: Workers = None,
    leaderboards: Leaderboards = "leaderboards",
    plot: Annotated[
        str | None,
        typer.Option(
            "--plot", help="PNG of AUROC against the benchmark's measure, such as separability."
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score every detector on every network, each as it was pre-trained; one table of all."""
    failures.show_traceback(debug)
    from oodbench import files
    from oodbench.benchmark import get_benchmark
    from oodbench.hardware import is_first_process
    from oodbench.results import compare, leaderboard

    chosen = get_benchmark(id_name, benchmark)
    method = method or compare.standard_method(chosen)
    detectors, _ = chosen_detectors(split_detectors(detector), option or [], chosen, method, preset)
    sets = split_sets(ood)
    hardware = hardware_of(accelerator, devices, strategy, precision, workers, as_json)
    say = reporter(hardware, as_json)
    files.writable_dir(
        files.user_path(leaderboards) / "results",
        "Choose a folder that you may write with --leaderboards.",
        make=False,
    )
    if plot is not None:
        hint = "Choose another file with --plot."
        files.writable_dir(files.user_path(plot).parent, hint, make=False)
    say(f"benchmark {chosen.name}: ID {chosen.id.name}, OOD " + sets_line(chosen, sets))
    with page_of_kept(chosen, leaderboards, hardware):
        results = compare.compare(
            benchmark=chosen,
            backbones=split_networks(backbone),
            detectors=detectors,
            method=method,
            report=say,
            ood=sets,
            recipe=recipe,
            recipe_options=overrides_of(recipe_set, None, None, None),
            seed=seeds_of(seed),
            hardware=hardware,
            leaderboards=leaderboards,
            command=command_line(),
        )
    if not is_first_process(hardware):
        return
    page = leaderboard.write(chosen, leaderboards)
    if plot is not None:
        compare.scatter(results, chosen, plot)
    if as_json:
        typer.echo(results.to_json())
    else:
        print_table(*compare.table(results, chosen))
        say(f"page: {page}" + (f"; plot: {plot}" if plot else ""))
        say(f"again: {command_line()}")
    leave_if_failed(results.failures)
