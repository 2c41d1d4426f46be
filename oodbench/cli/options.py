"""The options of commands, each declared once."""

from __future__ import annotations

from typing import Annotated

import typer

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
