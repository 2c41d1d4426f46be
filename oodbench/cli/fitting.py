"""``oodbench fit``: a detector on your network, saved for use."""

from __future__ import annotations

from typing import Annotated

import typer

from oodbench.cli.options import But
from oodbench.cli.parsing import chosen_detectors, shares
from oodbench.cli.session import check_names, hardware_of, reporter
from oodbench.errors import OptionError
from oodbench.settings import HardwareSettings, NetworkSettings, Scoring, Selection, keywords


def fit_command(
    scoring: Annotated[
        Scoring,
        But(
            without=("preset", "tune"),
            help={"detectors": "The detector: knn. One of `oodbench list detectors`."},
        ),
    ],
    out: Annotated[
        str, typer.Option("--out", help="The folder that is written: detector.json, safetensors.")
    ],
    selection: Annotated[Selection, But(without=("ood", "task", "task_options"))],
    networks: NetworkSettings,
    hardware: HardwareSettings,
    tpr: Annotated[
        str | None,
        typer.Option(
            "--tpr", help="Share of ID images that a threshold keeps, or several: 0.95,0.99."
        ),
    ] = None,
    fpr_budget: Annotated[
        float | None,
        typer.Option(
            "--fpr-budget",
            help="In its place: share of ID images that may be flagged at most, with 95 % "
            "confidence.",
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration",
            help="Held-out ID images that set the threshold: val, test, folder:PATH. Default: val "
            "if the network cannot know it, else test.",
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a fitted detector that is there already.")
    ] = False,
) -> None:
    """Fit a detector on a network, set its threshold on held-out ID data, and save both."""
    check_names(selection, scoring, networks.method)
    from oodbench import files
    from oodbench.benchmark import get_benchmark
    from oodbench.deploy import folder
    from oodbench.deploy.fitting import fit

    where = files.user_path(out)
    folder.check_free(where, replace=replace)
    benchmark = get_benchmark(selection.id, selection.benchmark)
    detectors, _ = chosen_detectors(scoring, benchmark, networks.method)
    if len(detectors) != 1:
        raise OptionError(
            f"a folder holds one detector, and --detector names {len(detectors)}. Fit each into a "
            "folder of its own."
        )
    if len(networks.seeds) != 1:
        raise OptionError("a folder holds one network: give one --seed.")
    machine = hardware_of(hardware, quiet=False)
    say = reporter(machine, quiet=False)
    fitted = fit(
        detectors[0],
        benchmark=benchmark,
        calibration=calibration,
        tpr=None if tpr is None else shares(tpr, "--tpr"),
        fpr_budget=fpr_budget,
        seed=networks.seeds[0],
        **keywords(networks, without=("seeds",)),
        hardware=machine,
        report=say,
    )
    fitted.save(where, replace=replace)
    say(f"saved: {where}; use it: oodbench score {out} IMAGES…")
