"""What ``--help`` shows of each command in use; a test reads each line as the command would."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "eval": (
        "oodbench eval --detector palm --id cifar100",
        "oodbench eval --detector msp,energy,knn --id cifar10 --recipe quick",
        "oodbench eval --detector all --id cifar10 --backbone resnet20 --checkpoint F",
    ),
    "compare": (
        "oodbench compare msp energy --benchmark cifar10/openood",
        "oodbench compare msp energy knn vim --plot ranks.png",
        "oodbench compare --detector ptood,knn --id cifar10 --backbone resnet50,vgg16",
    ),
    "tune": ("oodbench tune --detector knn,react --id cifar10 --method ce",),
    "train": ("oodbench train --method palm --id cifar100 --seed 0,1,2",),
    "check-network": ("oodbench check-network --network net.onnx --id folder:photos",),
    "fit": ("oodbench fit --detector knn --id cifar10 --network net.onnx --tpr 0.95 --out fitted",),
    "score": (
        "oodbench score fitted photos --out scores.csv",
        "ls photos/*.png | oodbench score fitted - --fdr 0.1",
    ),
    "export": ("oodbench export fitted --out fitted.onnx",),
    "leaderboard": (
        "oodbench leaderboard --id cifar100",
        "oodbench leaderboard --html --out board.html",
    ),
    "table": (
        "oodbench table --id cifar10 --out table.tex --bibtex papers.bib",
        "oodbench table --id cifar10 --ood near,far --metrics auroc --format markdown",
    ),
    "verify": (
        "oodbench verify leaderboards",
        "oodbench verify leaderboards/digits.md --json",
    ),
    "submit": (
        "oodbench submit mine --benchmark cifar10/openood --out submission --card card.toml",
        "oodbench submit --check submission",
    ),
    "rate": (
        "oodbench rate --id-scores a.npy --ood-scores mnist=b.npy --name mine",
        "oodbench rate --scores knn.pkl --leaderboards own",
    ),
    "published": ("oodbench published --id cifar10 --detector knn",),
    "matrix plan": ("oodbench matrix plan matrix.toml",),
    "matrix run": (
        "oodbench matrix run matrix.toml --device 0,1",
        "oodbench matrix run matrix.toml --engine slurm --engine-set gpus_per_node=1 --jobs 8",
    ),
    "matrix status": ("oodbench matrix status matrix.toml",),
    "matrix merge": ("oodbench matrix merge matrix.toml other-machine",),
    "info": ("oodbench info palm", "oodbench info cifar10/openood"),
}
"""By command."""


def examples(command: str) -> str:
    """The lines below a command's ``--help``, as typer takes them."""
    lines = EXAMPLES[command]
    return "\n\n".join(["Example:" if len(lines) == 1 else "Examples:", *lines])
