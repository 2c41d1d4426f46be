"""The command line. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oodbench.cli import terminal
from oodbench.cli.flags import as_flags
from oodbench.cli.names import split_names
from oodbench.errors import OODBenchError, OODBenchWarning
from oodbench.results.plain import visible
from oodbench.runtime import signals
from oodbench.runtime.workers import worker_failure

if TYPE_CHECKING:
    from oodbench.benchmark import Benchmark
    from oodbench.hardware import Hardware
    from oodbench.results.rows import Results
    from oodbench.tune import Tuning

app = typer.Typer(
    name="oodbench",
    help="A benchmark suite for out-of-distribution (OOD) detection.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
list_app = typer.Typer(help="Names of what is installed.", no_args_is_help=True)
data_app = typer.Typer(help="The datasets on this machine.", no_args_is_help=True)
app.add_typer(list_app, name="list")
app.add_typer(data_app, name="data")

SOME_FAILED = 3
"""Exit status when some detectors failed and the others' rows are there."""

_state = {"debug": False}

Id = Annotated[
    str | None,
    typer.Option(
        "--id", help="ID set: cifar10, cifar100, digits, folder:PATH. Its default benchmark."
    ),
]
BenchmarkName = Annotated[
    str | None, typer.Option("--benchmark", help="Another protocol, such as cifar100/palm.")
]
TaskName = Annotated[
    str | None,
    typer.Option("--task", help="classification (default), segmentation or detection."),
]
Option = Annotated[
    list[str] | None,
    typer.Option("--set", help="A detector's option: --set k=20, or --set knn.k=20."),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="The benchmark's named settings of detectors, such as multiood; --set goes over them.",
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="A trained classifier (safetensors, .pt), or with --method frozen or linear-probe "
        "pre-trained weights; needs --backbone.",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option("--mean", help="The network's own channel means: 0.485,0.456,0.406."),
]
Std = Annotated[str | None, typer.Option("--std", help="Its channel deviations.")]
Method = Annotated[
    str | None,
    typer.Option("--method", help="How to train. Default: what the detector was designed for."),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="published, quick … Default: the published one where the paper has the ID set.",
    ),
]
RecipeSet = Annotated[
    list[str] | None,
    typer.Option("--recipe-set", help="Change a recipe's field: --recipe-set weight_decay=1e-4."),
]
Backbone = Annotated[
    str | None,
    typer.Option("--backbone", help="Network: resnet20, resnet34-cifar … or any timm name."),
]
Seed = Annotated[str, typer.Option("--seed", help="Seed, or several: 0,1,2.")]
Epochs = Annotated[
    int | None, typer.Option("--epochs", min=1, help="Override the recipe's epochs.")
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Override the recipe's batch size.")
]
LR = Annotated[float | None, typer.Option("--lr", help="Override the recipe's learning rate.")]
Accelerator = Annotated[str, typer.Option("--accelerator", help="Lightning's: auto, cpu, gpu …")]
Devices = Annotated[str, typer.Option("--devices", help="Lightning's: auto, a number, or 0,1.")]
Strategy = Annotated[str, typer.Option("--strategy", help="Lightning's: auto, ddp …")]
Precision = Annotated[
    str, typer.Option("--precision", help="Lightning's: 32-true, 16-mixed, bf16-mixed …")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Processes that read images. Default: by dataset."),
]
Retrain = Annotated[
    bool, typer.Option("--retrain", help="Train although a finished run is in the cache.")
]
Leaderboards = Annotated[
    str,
    typer.Option(
        "--leaderboards",
        envvar="OODBENCH_LEADERBOARDS",
        help="Folder of the result rows and pages.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable results alone.")]
Debug = Annotated[bool, typer.Option("--debug", help="Print a traceback when something fails.")]


@app.callback()
def root(debug: Debug = False) -> None:
    """A benchmark suite for out-of-distribution (OOD) detection."""
    _state["debug"] |= debug


@app.command("eval")
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
    _state["debug"] |= debug
    from oodbench import files
    from oodbench.benchmark import get_benchmark
    from oodbench.evaluator import evaluate
    from oodbench.hardware import is_first_process
    from oodbench.results import leaderboard
    from oodbench.results.store import ResultStore
    from oodbench.selection import (
        left_out_of,
    )

    names = _split(detector)
    chosen = get_benchmark(id_name, benchmark, task)
    seeds = _seeds(seed)
    detectors, fixed = _detectors(names, option or [], chosen, method, preset)
    overrides = _overrides(recipe_set, epochs, batch_size, lr)
    hardware = _hardware(accelerator, devices, strategy, precision, workers, as_json)
    say = _reporter(hardware, as_json)
    files.writable_dir(
        files.user_path(leaderboards) / "results",
        "Choose a folder that you may write with --leaderboards.",
        make=False,
    )
    sets = _split_sets(ood)
    say(f"benchmark {chosen.name}: ID {chosen.id.name}, OOD " + _sets(chosen, sets))
    left = left_out_of(names, method, chosen)
    if left is not None:
        say(f"warning: {left}")
    with _page_of_kept(chosen, leaderboards, hardware):
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
            mean=_floats(mean, "--mean"),
            std=_floats(std, "--std"),
            tune=tune,
            fixed=fixed,
            hardware=hardware,
            leaderboards=leaderboards,
            report=say,
            command=_command(),
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
        _show(results, chosen.task)
        store = ResultStore(leaderboards).path(chosen.name)
        say(f"rows: {store}; page: {page}")
        say(f"again: {_command()}")
    _leave_if_failed(results.failures)


@app.command("compare")
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
        typer.Option("--plot", help="PNG of AUROC against linear separability, for ptood/<id>."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score every detector on every network, each as it was pre-trained; one table of all."""
    _state["debug"] |= debug
    from oodbench import files
    from oodbench.benchmark import get_benchmark
    from oodbench.hardware import is_first_process
    from oodbench.results import compare, leaderboard

    chosen = get_benchmark(id_name, benchmark)
    method = method or compare.standard_method(chosen)
    detectors, _ = _detectors(_split(detector), option or [], chosen, method, preset)
    sets = _split_sets(ood)
    hardware = _hardware(accelerator, devices, strategy, precision, workers, as_json)
    say = _reporter(hardware, as_json)
    files.writable_dir(
        files.user_path(leaderboards) / "results",
        "Choose a folder that you may write with --leaderboards.",
        make=False,
    )
    if plot is not None:
        hint = "Choose another file with --plot."
        files.writable_dir(files.user_path(plot).parent, hint, make=False)
    say(f"benchmark {chosen.name}: ID {chosen.id.name}, OOD " + _sets(chosen, sets))
    with _page_of_kept(chosen, leaderboards, hardware):
        results = compare.compare(
            benchmark=chosen,
            backbones=_split_networks(backbone),
            detectors=detectors,
            method=method,
            report=say,
            ood=sets,
            recipe=recipe,
            recipe_options=_overrides(recipe_set, None, None, None),
            seed=_seeds(seed),
            hardware=hardware,
            leaderboards=leaderboards,
            command=_command(),
        )
    if not is_first_process(hardware):
        return
    page = leaderboard.write(chosen, leaderboards)
    if plot is not None:
        compare.scatter(results, chosen, plot)
    if as_json:
        typer.echo(results.to_json())
    else:
        _print_table(*compare.table(results, chosen))
        say(f"page: {page}" + (f"; plot: {plot}" if plot else ""))
        say(f"again: {_command()}")
    _leave_if_failed(results.failures)


@app.command("tune")
def tune_command(
    detector: Annotated[
        list[str],
        typer.Option("--detector", help="Detectors, separated by commas: knn,react; or all."),
    ],
    id_name: Id = None,
    benchmark: BenchmarkName = None,
    task: TaskName = None,
    option: Option = None,
    preset: Preset = None,
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
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Choose detectors' options on validation data alone; test images are never read."""
    _state["debug"] |= debug
    from oodbench.benchmark import get_benchmark
    from oodbench.contenders import (
        Networks,
    )
    from oodbench.errors import OptionError
    from oodbench.hardware import is_first_process
    from oodbench.tune import tune

    chosen = get_benchmark(id_name, benchmark, task)
    detectors, fixed = _detectors(_split(detector), option or [], chosen, method, preset)
    networks = Networks(
        method=method,
        recipe=recipe,
        recipe_options=_overrides(recipe_set, epochs, batch_size, lr),
        backbone=backbone,
        checkpoint=checkpoint,
        seeds=tuple(_seeds(seed)),
        retrain=retrain,
        mean=_floats(mean, "--mean"),
        std=_floats(std, "--std"),
    )
    hardware = _hardware(accelerator, devices, strategy, precision, workers, as_json)
    say = _reporter(hardware, as_json)
    tuning = tune(chosen, detectors, networks, fixed=fixed, hardware=hardware, report=say)
    if not is_first_process(hardware):
        return
    if not tuning.choices and not tuning.failures:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in tuning.untuned.items())
        raise OptionError(
            f"nothing to tune: {reasons}. `oodbench info NAME` tells a detector's grid."
        )
    command = _eval_command(tuning)
    if as_json:
        typer.echo(json.dumps({**tuning.to_dict(), "command": command}, indent=1))
    else:
        _show_trials(tuning)
        say(f"evaluate: {command}")
        say(f"or, with rows that say how it was chosen: {_eval_command(None)}")
    _leave_if_failed(tuning.failures)


@app.command()
def train(
    method: Annotated[str, typer.Option("--method", help="How to train: ce, palm …")],
    id_name: Id = None,
    benchmark: BenchmarkName = None,
    task: TaskName = None,
    recipe: RecipeName = None,
    recipe_set: RecipeSet = None,
    backbone: Backbone = None,
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
    debug: Debug = False,
) -> None:
    """Train a method on an ID set; the run stays in the cache, where `eval` finds it."""
    _state["debug"] |= debug
    from oodbench.benchmark import get_benchmark
    from oodbench.training.train import plan
    from oodbench.training.train import train as fit

    chosen = get_benchmark(id_name, benchmark, task)
    hardware = _hardware(accelerator, devices, strategy, precision, workers, False)
    say = _reporter(hardware, False)
    for one in _seeds(seed):
        run = plan(
            chosen,
            method,
            recipe=recipe,
            backbone=backbone,
            seed=one,
            overrides=_overrides(recipe_set, epochs, batch_size, lr),
            precision=precision,
        )
        fit(run, hardware, retrain=retrain)
        say(f"weights: {run.weights}; logs: {run.folder / 'csv'} and {run.folder / 'tensorboard'}")


@app.command()
def leaderboard(
    id_name: Id = None,
    benchmark: BenchmarkName = None,
    task: TaskName = None,
    leaderboards: Leaderboards = "leaderboards",
    debug: Debug = False,
) -> None:
    """Write a benchmark's page from the stored rows."""
    _state["debug"] |= debug
    from oodbench.benchmark import get_benchmark
    from oodbench.results import leaderboard as pages

    typer.echo(pages.write(get_benchmark(id_name, benchmark, task), leaderboards))


def _list(kind: str) -> Callable[[], None]:
    def command() -> None:
        from oodbench import registry

        names = getattr(registry, kind.upper())
        width = max((len(name) for name in names.names()), default=0)
        for name in names.names():
            typer.echo(visible(f"{name:{width}}  {names.summary(name)}".rstrip()))

    command.__doc__ = f"Names of all {kind}, one a line."
    return command


for _kind in ("detectors", "methods", "benchmarks", "datasets"):
    list_app.command(_kind)(_list(_kind))


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A detector, method, benchmark or dataset.")],
) -> None:
    """Paper, formula, needs, options with defaults, published figures, BibTeX."""
    from oodbench.info import describe

    typer.echo(visible(describe(name), keep="\n"))


@data_app.command("status")
def data_status() -> None:
    """Which datasets are on this machine, and how to get the others."""
    from oodbench import files
    from oodbench.benchmark import DatasetSpec
    from oodbench.data.samples import MultimodalSamples
    from oodbench.registry import DATASETS

    typer.echo(f"OODBENCH_DATA: {files.data_dir()}\nOODBENCH_CACHE: {files.cache_dir()}")
    for name in DATASETS.names():
        try:
            spec = DATASETS.get(name)
        except OODBenchError as error:  # one damaged package must not hide the others' data
            typer.echo(terminal.printable(f"{name}: {error}"))
            continue
        if not isinstance(spec, DatasetSpec):
            continue
        for split in spec.splits:
            try:
                samples = spec.load(split)
                word = "samples" if isinstance(samples, MultimodalSamples) else "images"
                state = f"{len(samples):,} {word}"
            except OODBenchError as error:
                state = str(error)
            except (Exception, SystemExit) as error:  # of a stranger's code
                state = f"cannot be read ({error!r})"
            typer.echo(terminal.printable(f"{name}/{split}: {state}"))


@data_app.command("prepare")
def data_prepare(
    name: Annotated[str, typer.Argument(help="A family of datasets: multiood.")],
    flow: Annotated[
        str | None,
        typer.Option("--flow", help="Compute missing optical flow with RAFT: small or large."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Fetch what may be fetched, derive what can be derived, and list what is missing."""
    _state["debug"] |= debug
    from oodbench import files
    from oodbench.registry import PREPARATIONS

    options = {} if flow is None else {"flow": flow}
    PREPARATIONS.get(name)(files.data_dir(), report=typer.echo, **options)


def _reporter(hardware: Hardware, quiet: bool) -> Callable[[str], None]:
    from oodbench.hardware import is_first_process

    def say(line: str) -> None:
        if not quiet and is_first_process(hardware):
            typer.echo(terminal.printable(line))

    return say


def _command() -> str:
    return shlex.join(["oodbench", *sys.argv[1:]])


def _split(values: list[str], option: str = "--detector") -> list[str]:
    return split_names(values, option)


def _split_sets(values: list[str] | None) -> list[str] | None:
    """The names of OOD sets, of which some are folders."""
    from oodbench.benchmark import name_is_there

    return split_names(values, "--ood", name_is_there) if values else None


def _split_networks(values: list[str]) -> list[str]:
    def is_there(name: str) -> bool:
        _, at, path = name.partition("@")
        return bool(at and path) and os.path.exists(path)  # noqa: PTH110

    return split_names(values, "--backbone", is_there)


def _seeds(text: str) -> list[int]:
    from oodbench.errors import OptionError

    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = [-1]
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise OptionError(
            f"--seed {text}: give different non-negative whole numbers, such as 0,1,2."
        )
    return seeds


def _floats(text: str | None, option: str) -> list[float] | None:
    from oodbench.errors import OptionError

    try:
        values = None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        values = [-1]
    if values is not None and not all(0 <= value <= 1 for value in values):
        raise OptionError(f"{option} {text}: give numbers in [0, 1], one a channel.")
    return values


def _pairs(values: list[str], option: str) -> list[tuple[str, str]]:
    from oodbench.errors import OptionError

    pairs = []
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise OptionError(f"{option} {value}: write {option} NAME=VALUE.")
        pairs.append((name.strip(), text.strip()))
    return pairs


def _leave_if_failed(failures: dict[str, str]) -> None:
    for name, reason in failures.items():
        told = " ".join(as_flags(reason).split())
        told = told if told.startswith(f"{name}: ") else f"{name}: {told}"
        typer.echo(terminal.printable(f"failed: {told}"), err=True)
    if failures:
        raise typer.Exit(SOME_FAILED)


def _eval_command(tuning: Tuning | None) -> str:
    """This `tune` command line as one of `eval`: with the chosen values, or with --tune."""
    from oodbench.tune import word

    words = [w for w in sys.argv[1:] if w not in ("--json", "--retrain", "--debug")]
    words[words.index("tune")] = "eval"
    if tuning is None:
        return shlex.join(["oodbench", *words, "--tune"])
    for choice in tuning.choices:
        for name, value in choice.best.values.items():
            words += ["--set", f"{choice.given.label}.{name}={word(value)}"]
    return shlex.join(["oodbench", *words])


def _detectors(
    names: list[str],
    options: list[str],
    benchmark: Benchmark,
    method: str | None,
    preset: str | None,
) -> tuple[list[Any], dict[str, set[str]]]:
    """The detectors, and by name the options that were set."""
    from oodbench.detector import create_detector, option_types
    from oodbench.errors import OptionError
    from oodbench.registry import DETECTORS
    from oodbench.selection import (
        named,
        options_on,
    )

    chosen: dict[str, dict[str, Any]] = {
        str(name): options_on(benchmark, str(name), preset)
        for name in named(names, method, benchmark)
    }
    given = benchmark.preset(preset)
    fixed: dict[str, set[str]] = {name: set(given.get(name, ())) for name in chosen}
    for key, text in _pairs(options, "--set"):
        owner, dot, option = key.partition(".")
        if dot:
            if owner not in chosen:
                raise OptionError(
                    f"--set {key}: {owner!r} is not among --detector {','.join(names)}."
                )
            chosen[owner][option] = text
            fixed[owner].add(option)
            continue
        owners = [name for name in chosen if key in option_types(DETECTORS.get(name))]
        for name in owners or list(chosen)[:1]:
            chosen[name][key] = text
            fixed[name].add(key)
    return [create_detector(name, **given) for name, given in chosen.items()], fixed


def _overrides(
    recipe_set: list[str] | None, epochs: int | None, batch_size: int | None, lr: float | None
) -> dict[str, Any]:
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    return {
        **dict(_pairs(recipe_set or [], "--recipe-set")),
        **{name: value for name, value in given.items() if value is not None},
    }


def _hardware(
    accelerator: str, devices: str, strategy: str, precision: str, workers: int | None, quiet: bool
) -> Hardware:
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    from oodbench.errors import OptionError
    from oodbench.hardware import Hardware, quiet_lightning

    progress = sys.stderr.isatty() and sys.stdout.isatty() and not quiet
    hardware = Hardware(accelerator, devices, strategy, precision, workers, progress=progress)
    try:
        with quiet_lightning():  # refused now, not when the data is read and folders are made
            hardware.trainer(logger=False)
    except OODBenchError:
        raise
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise OptionError(
            f"--accelerator {accelerator} --devices {devices} --strategy {strategy} "
            f"--precision {precision}: Lightning refuses them: {error}"
        ) from error
    return hardware


@contextlib.contextmanager
def _page_of_kept(benchmark: Any, leaderboards: str, hardware: Hardware) -> Iterator[None]:
    """Writes the page of the rows that are kept also where the block ends in an error."""
    from oodbench.hardware import is_first_process
    from oodbench.results import leaderboard
    from oodbench.results.store import ResultStore

    store = ResultStore(leaderboards).path(benchmark.name)

    def changed() -> int | None:
        return store.stat().st_mtime_ns if store.is_file() else None

    before = changed()
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to tell of
            if changed() != before and is_first_process(hardware):
                leaderboard.write(benchmark, leaderboards)
        raise


def _sets(benchmark: Any, names: list[str] | None) -> str:
    return ", ".join(f"{choice.spec.name} ({choice.group})" for choice in benchmark.choose(names))


def _show_trials(tuning: Tuning) -> None:
    from rich.console import Console
    from rich.table import Table

    from oodbench.tune import words

    table = Table(title=None)
    table.add_column("detector", overflow="fold")
    table.add_column("values", overflow="fold")
    table.add_column("validation AUROC %", justify="right")
    table.add_column("chosen", justify="center")
    for choice in tuning.choices:
        for trial in choice.trials:
            is_best = trial is choice.best
            auroc = "refused" if trial.auroc is None else f"{100 * trial.auroc:.2f}"
            bold = "bold" if is_best else None
            mark = "*" if is_best else ""
            _add_row(table, choice.given.label, words(trial.values), auroc, mark, style=bold)
        table.add_section()
    Console(width=_width()).print(table)


def _print_table(header: list[str], cells: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=None)
    for number, title in enumerate(header):
        shown.add_column(title, overflow="fold", justify="left" if number < 2 else "right")
    for row in cells:
        _add_row(shown, *row)
    Console(width=_width()).print(shown)


def _add_row(table: Any, *cells: Any, style: str | None = None) -> None:
    """Cells as they are: a folder may be called ``[red]``, which is no colour."""
    from rich.text import Text

    shown = [Text(terminal.printable(c)) if isinstance(c, str) else c for c in cells]
    table.add_row(*shown, style=style)


def _width() -> int | None:
    return None if sys.stdout.isatty() else 1000  # a file has no edge to fold names at


def _show(results: Results, task: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from oodbench.results.rows import QUALITY

    quality, quality_name = QUALITY[task]
    counted = {"segmentation": "pixels", "detection": "boxes"}.get(task, "images")
    table = Table(title=None)
    for column in ("detector", "method", "seed", "OOD", "AUROC %", "95 % interval"):
        table.add_column(column, overflow="fold")
    # of benchmarks with familiar OOD sets, or with shifted sets, alone
    names = {"separability": "separability", "gap": "gap", "shifted_accuracy": "shifted accuracy"}
    extras = [c for c in names if any(r[c] is not None for r in results.rows)]
    titles = [names[c] for c in extras]
    figures = ("FPR@95 ID+", "FPR@95 OOD+", "AUPR in", "AUPR out", *titles, quality_name, counted)
    for column in figures:
        table.add_column(column, justify="right")
    previous = None
    for row in results.rows:
        key = (row["detector"], row["method"], row["seed"])
        if previous not in (None, key):
            table.add_section()
        previous = key
        name = Text(terminal.printable(row["ood"]), style="bold" if row["is_mean"] else "")
        accuracy = row[quality]
        low, high = row["auroc_low"], row["auroc_high"]
        scored = f" ({row['modality']})" if row.get("modality") else ""
        _add_row(
            table,
            row["detector"] + scored,
            row["method"],
            str(row["seed"]),
            name,
            f"{100 * row['auroc']:.2f}",
            "–" if low is None else f"{100 * low:.2f}–{100 * high:.2f}",
            *(f"{100 * row[m]:.2f}" for m in ("fpr95_id", "fpr95_ood", "aupr_in", "aupr_out")),
            *(_with_interval(row, c) for c in extras),
            "–" if accuracy is None else f"{100 * accuracy:.2f}",
            f"{row['n_ood']:,}",
        )
    Console(width=_width()).print(table)


def _with_interval(row: Mapping[str, Any], column: str) -> str:
    """A figure in percent, and its interval if it has one."""
    if row[column] is None:
        return "–"
    low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
    interval = "" if low is None or high is None else f" [{100 * low:.2f}, {100 * high:.2f}]"
    return f"{100 * row[column]:.2f}{interval}"


def _say_error(message: str) -> None:
    told = " ".join(as_flags(message).split())
    typer.echo(terminal.printable(f"error: {told}"), err=True)


# of typer's own copy of click, or of the installed one: which of them is up to typer's version
_UsageError: Any = typer.BadParameter.__bases__[0]


def _usage(error: Any) -> str:
    """What was wrong with the command line, and where to look it up; ``""`` if that was printed."""
    message = error.format_message()
    command = error.ctx.command_path if error.ctx else "oodbench"
    return message and f"{message.rstrip('.')}. See `{command} --help`."


_format_others = warnings.formatwarning


def _told(message: Any, category: type[Warning], *where: Any, **more: Any) -> str:
    """How a warning is printed: oodbench's own as a line for people."""
    if issubclass(category, OODBenchWarning):
        return f"warning: {message}\n"
    return _format_others(message, category, *where, **more)


def main() -> None:
    """Entry point: errors are one or two lines and exit status 2; a traceback only with --debug."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _state["debug"] = False
    warnings.formatwarning = _told
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        if not os.environ.get(name, "0").isdigit():  # Lightning cannot be imported with such a one
            del os.environ[name]
    # a test or a notebook goes on after this; a program that was started for it does not
    ends = sys._getframe(1).f_globals.get("__name__") == "__main__" and not hasattr(sys, "ps1")
    with signals.handled(ends=ends), terminal.guarded() as printing:
        try:
            status = _run()
        except KeyboardInterrupt:  # another one, while the first was told
            status = _interrupted()
        status = printing.status(status)
    sys.exit(status)


def _run() -> int:
    """The exit status of the command line; what went wrong is said."""
    try:
        status = app(standalone_mode=False)
    except _UsageError as error:
        message = _usage(error)
        if message:  # else a command that shows its help when it is given nothing
            _say_error(message)
        return 2
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as error:  # of a plug-in, or of what it calls
        if error.code == 128 + signal.SIGTERM:
            return _interrupted()
        return _failed(OODBenchError(f"something that was called ended the program ({error!r})."))
    except typer.Abort as error:
        if not isinstance(error.__cause__, EOFError):
            return _interrupted()
        return _failed(error.__cause__)
    except Exception as error:
        told = worker_failure(error) or error
        return _interrupted() if isinstance(told, KeyboardInterrupt) else _failed(told)
    return _interrupted() if status == 128 + signal.SIGINT else status or 0


def _interrupted() -> int:
    status = signals.status()
    typer.echo("interrupted; the same command goes on where it stopped.", err=True)
    return status


def _failed(error: BaseException) -> int:
    if _state["debug"]:
        raise error
    if isinstance(error, OODBenchError):
        _say_error(str(error))
    else:
        _say_error(
            f"{type(error).__name__}: {error}. oodbench did not expect this: "
            "run again with --debug for the traceback, and report it."
        )
    return 2


if __name__ == "__main__":
    main()
