"""The networks behind results: from the zoo, from the cache, or trained again from their recipe."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from oodbench import files, zoo
from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.caching.fingerprint import weights_digest
from oodbench.checks.classes import id_samples
from oodbench.contenders import contender_of
from oodbench.errors import OODBenchError, OptionError
from oodbench.hardware import Hardware
from oodbench.networks.given import is_published, published
from oodbench.networks.headed import load_classifier
from oodbench.preprocessing import Asked, of_content
from oodbench.registry import METHODS
from oodbench.reporting import Report
from oodbench.results.rows import Row
from oodbench.tasks.contender import Contender
from oodbench.training.run import Run, is_frozen, plan
from oodbench.training.train import train
from oodbench.zoo import Released

Level = Literal["scores", "outputs", "network"]
"""How much is made again: figures from the scores, scores from the network, the network itself."""

EXTERNAL = "external"
"""The method of networks that oodbench did not train."""


class NotAgainError(OODBenchError):
    """A result cannot be made again here; says why."""


def contender(
    row: Row,
    benchmark: Benchmark,
    level: Level,
    hardware: Hardware,
    *,
    folders: Sequence[Path] = (),
    checkpoint: Path | None = None,
    report: Report = lambda _: None,
) -> Contender:
    """The network of a row, as it is evaluated.

    Args:
        row: of a result.
        benchmark: of the row.
        level: ``"outputs"`` for the network as it is; ``"network"`` to train it again.
        hardware: where and how it is trained.
        folders: where indices of the zoo are, besides the usual places.
        checkpoint: the file of its weights, where neither zoo nor cache has them.
        report: told what happens, line by line.

    Raises:
        NotAgainError: it is not here, or cannot be trained again; says why.
        OODBenchError: what planning, training or loading raises.
    """
    if row["method"] == EXTERNAL or not row["recipe"]:
        if level == "network":
            raise NotAgainError(
                "its network was trained elsewhere, so there is no recipe to train it by; "
                "`--level outputs` is the most that can be checked"
            )
        return _given(row, folders, checkpoint)
    run = run_of(row, benchmark, checkpoint)
    if level == "network":
        report(f"training {run.method} again: recipe {run.recipe_name}, seed {run.seed}")
        return replace(contender_of(run, _trained_again(run, hardware)), seed=row["seed"])
    released = zoo.with_weights(row["weights"], *folders)
    if released is not None:
        return contender_of(run, released.load())  # type: ignore[arg-type]
    if run.weights.is_file() or _is_as_it_was(run):
        network = train(run, hardware)
        if weights_digest(network) == row["weights"]:
            return contender_of(run, network)
    raise NotAgainError(
        "its network is neither in the zoo nor in the cache; `--level network` trains it again"
    )


def run_of(row: Row, benchmark: Benchmark, checkpoint: Path | None = None) -> Run:
    """The training run that a row's network came from.

    Raises:
        NotAgainError: it started from a file that is not given.
        OODBenchError: what planning raises.
    """
    asked: Any = (row.get("arguments") or {}).get("checkpoint")
    backbone = row["backbone"]
    if asked is not None:
        backbone = backbone.removesuffix(f" ({asked['file']})")
        if checkpoint is None or files.sha256(checkpoint) != asked["sha256"]:
            raise NotAgainError(
                f"its network started from {asked['file']} (sha256 {asked['sha256'][:12]}…): give "
                "that file with `--checkpoint`"
            )
    base = asdict(METHODS.get(row["method"]).get_recipe(row["recipe"] or ""))
    told = {k: tuple(v) if isinstance(v, list) else v for k, v in row["recipe_options"].items()}
    # what is the recipe's own is not asked for again: 1 and 1.0 would be two runs
    changed = {k: v for k, v in told.items() if k != "backbone" and base.get(k, ...) != v}
    return plan(
        benchmark,
        row["method"],
        recipe=row["recipe"],
        backbone=backbone,
        seed=row["seed"],
        overrides=changed,
        checkpoint=None if asked is None else checkpoint,
        precision=row["precision"],
    )


def _trained_again(run: Run, hardware: Hardware) -> Any:
    """The run's network, from the beginning; what the cache has of it stays as it is."""
    folder = files.writable_cache()
    with tempfile.TemporaryDirectory(dir=folder) as scratch, files.cache_in(Path(scratch)):
        return train(run, hardware, retrain=True)


def _is_as_it_was(run: Run) -> bool:
    """Whether a run has nothing to train: its network is the published one."""
    if not is_frozen(run.method):
        return False
    return run.build().layer() is None  # type: ignore[operator]


def _given(row: Row, folders: Sequence[Path], checkpoint: Path | None) -> Contender:
    """A network that was trained elsewhere."""
    asked = row.get("arguments") or {}
    sees = of_content(row["preprocess"])
    if sees is None:
        raise NotAgainError("its network sees images in a way that no row can tell")
    about: dict[str, Any] = {
        "backbone": row["backbone"],
        "preprocess": Asked(sees),
        "seed": row["seed"],
        "layer": asked.get("layer"),
        "digest": asked.get("digest"),
        "arguments": dict(asked),
    }
    released = zoo.with_weights(row["weights"], *folders)
    if released is not None and checkpoint is None:
        return Contender(released.load(), **about)
    if is_published(row["backbone"]):
        return Contender(published(row["backbone"], checkpoint).network, **about)
    if checkpoint is not None:
        return Contender(_of_checkpoint(row, checkpoint, sees.channels), **about)
    raise NotAgainError(
        "its network is somebody's that the zoo does not have (weights "
        f"{row['weights'][:12]}): give the file of its weights with `--checkpoint`"
    )


def _of_checkpoint(row: Row, checkpoint: Path, channels: int) -> Any:
    classes = len(id_samples(get_benchmark(benchmark=row["benchmark"]), "test").classes)
    network = load_classifier(row["backbone"], checkpoint, classes, channels)[0]
    if weights_digest(network) != row["weights"]:
        raise NotAgainError(f"the weights in {checkpoint.name} are not those of its network")
    return network


# --- released with the results ----------------------------------------------------------------


def release(folder: Path, rows: Sequence[Row], benchmark: Benchmark, licence: str) -> list[str]:
    """Put the networks of rows that were trained here into the zoo beside the results.

    Their runs must be in the cache. A network that is there is left as it is.

    Args:
        folder: of leaderboards; the index is in ``networks`` below it.
        rows: whose networks.
        benchmark: of the rows.
        licence: of the weights.

    Returns:
        The names of those that are new.

    Raises:
        OptionError: another network has the name.
    """
    path = folder / "networks" / zoo.INDEX
    known = zoo.read(path) if path.is_file() else {}
    weights = {one.weights for one in known.values()}
    new: list[str] = []
    for row in rows:
        if not row["recipe"] or row["weights"] in weights or is_frozen(row["method"]):
            continue
        run = run_of(row, benchmark)
        if not run.weights.is_file() or weights_digest(train(run)) != row["weights"]:
            continue
        released = _released(run, row)
        if released.name in known:
            raise OptionError(
                f"the zoo has a network {released.name} with other weights. Remove one of the two."
            )
        files.write_bytes(path.parent / str(released.file), run.weights.read_bytes())
        known[released.name] = replace(released, licence=licence)
        weights.add(row["weights"])
        new.append(released.name)
        zoo.write(path, known.values())
    return new


def _released(run: Run, row: Row) -> Released:
    method = run.method
    if run.recipe_name != METHODS.get(method).default_recipe(row["id"]):
        method += f".{run.recipe_name}"
    name = f"{row['id']}/{run.backbone}/{method}/seed{run.seed}"
    return Released(
        name=name,
        sha256=files.sha256(run.weights),
        weights=row["weights"],
        method=run.method,
        backbone=run.backbone,
        id=row["id"],
        classes=len(run.samples.classes),
        licence="",
        seed=run.seed,
        recipe=run.recipe_name,
        recipe_options=row["recipe_options"],
        benchmark=row["benchmark"],
        file=f"{files.file_name(name)}.safetensors",
        accuracy=row.get("id_accuracy"),
    )
