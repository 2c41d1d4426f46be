"""evaluate: benchmark, networks and detectors by name, checked before any work, to result rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from oodbench import ahead, files
from oodbench.benchmark import Benchmark, get_benchmark
from oodbench.contenders import Networks
from oodbench.data.transforms import Transform
from oodbench.detector import Detector
from oodbench.errors import OptionError
from oodbench.evaluator import Evaluator, Keep
from oodbench.hardware import Hardware, is_first_process
from oodbench.needed import check_id, needed, obtainable
from oodbench.needed import download as get
from oodbench.registry import STANDARD_DETECTOR
from oodbench.reporting import Report, reason_of
from oodbench.results.outcome import Results
from oodbench.results.store import ResultStore
from oodbench.runtime.process import undisturbed
from oodbench.selection import create_detectors, left_out_of
from oodbench.tasks.task import task_of
from oodbench.tune import tune as choose_options
from oodbench.tuning import Tuning


@undisturbed()
def evaluate(
    model: nn.Module | None = None,
    id: str | None = None,  # noqa: A002
    detectors: Sequence[str | Detector] | str | Detector = STANDARD_DETECTOR,
    *,
    benchmark: str | Benchmark | None = None,
    ood: str | Sequence[str] | None = None,
    method: str | None = None,
    recipe: str | None = None,
    recipe_options: dict[str, Any] | None = None,
    backbone: str | Sequence[str] | None = None,
    checkpoint: str | Path | None = None,
    seed: int | Sequence[int] = 0,
    retrain: bool = False,
    preprocess: Transform | str | None = None,
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    crop: str | float | None = None,
    network: str | None = None,
    prompts: str | None = None,
    class_names: str | Path | None = None,
    words: str | Path | None = None,
    layer: str | None = None,
    digest: str | None = None,
    tune: bool = False,
    fit_on: str | float | None = None,
    fixed: Mapping[str, Collection[str]] | None = None,
    hardware: Hardware | None = None,
    leaderboards: str | Path | None = None,
    report: Report | None = None,
    command: str | None = None,
    task: str | None = None,
    pictures: str | Path | None = None,
    scores: str | Path | None = None,
    modality: str | None = None,
    preset: str | None = None,
    task_options: Mapping[str, Any] | None = None,
    download: bool | None = None,
) -> Results:
    """Evaluate detectors on a benchmark: on your network, on a checkpoint, or on one trained now.

    Args:
        model: any PyTorch classifier (or a network of the benchmark's task); neither it nor this
            process's random numbers are moved or changed. None to load ``checkpoint``, or to train.
        id: the ID set (``"cifar100"``), whose default benchmark is used.
        detectors: names or :class:`Detector` objects; ``"all"`` for every registered detector that
            was designed for ``method`` (for cross-entropy, if that is None).
        benchmark: another protocol's name, or a :class:`Benchmark`; ``id`` and ``task`` must be
            its own then, where they are given.
        ood: OOD sets to use instead of the benchmark's.
        method: how to train; None for the method that each detector was designed for.
        recipe: the method's recipe; None for the published one where the paper has this ID set.
        recipe_options: fields of the recipe to change.
        backbone: network to train, or of the checkpoint (a name), or a name for ``model``. Several
            names, ``NAME@FILE`` for one with a checkpoint, are evaluated each; those that share a
            preprocessing and are trained already see each image in one pass.
        checkpoint: a trained classifier's weights, safetensors or ``.pt``.
        seed: one, or several for a mean with an interval over seeds and images on the page.
        retrain: train although a finished run is there.
        preprocess: how images are made for a network that is given: a :class:`Preprocess`, or any
            callable, which sees every image in the mode of the benchmark's, RGB but for grey ID
            sets, whatever the file has; or a name: ``"timm"``,
            ``"torchvision:ResNet50_Weights.IMAGENET1K_V1"``, ``"benchmark"`` for the benchmark's,
            or a dataset's such as ``"cifar10"``. None for what the network or its checkpoint says;
            where nobody says anything it is an error. See :mod:`oodbench.preprocessing`.
        input_size: side of the square that the network sees, in pixels; this and the four below go
            over ``preprocess``, or over what the network says.
        mean: channel means of the network's own normalisation, in [0, 1].
        std: channel deviations of it.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
        crop: the share of the short side that is kept (0.875), the pixels that it is resized to
            first (256), ``"stretch"`` or ``"centre"``.
        network: a network by a text, whose code is run: ``"package.module:function"``, a file
            (``.onnx``, ``.pt2``, TorchScript), the folder or name of a Hugging Face classifier; see
            :func:`oodbench.networks.given.load_network`.
        prompts: of a network that reads text, prompts with ``{}`` for a class's name: one, several
            with ``|`` between, ``"openai"``, ``"openai-simple"``, or a file; see
            :func:`oodbench.networks.towers.templates_of`. None for ``"a photo of a {}"``.
        class_names: of such a network, a file with the classes' names, one in each line; None for
            those of the ID set.
        words: of such a network, a file with further words, for detectors that compare the classes
            with them; see :func:`oodbench.networks.towers.read_words`.
        layer: the name of the model's linear head, if it cannot be found; of an ONNX file, of the
            inner tensor that the features are.
        digest: what tells the model's weights where they cannot be read (a version, a hash), so
            that what it outputs is cached under it.
        tune: whether to choose the values of each detector's ``grid`` first, on validation data
            alone (see ``oodbench.tune``). An option of a :class:`Detector` object that is not the
            default is kept.
        fit_on: how many ID training images detectors are fitted on, or the share of them: as many
            of each class, drawn by a fixed seed. None for all; see :mod:`oodbench.data.balanced`.
        fixed: further options that ``tune`` keeps, by detector.
        hardware: accelerator, devices, precision, batch size, progress.
        leaderboards: folder whose store a detector's rows are appended to as soon as it is done;
            None to store nothing.
        report: told what happens, line by line.
        command: what repeats this evaluation; goes into the rows.
        task: what is scored (``"segmentation"`` …), for the ID set's benchmark of that task.
        pictures: folder for pictures of scored pixels or boxes; None for none.
        scores: folder for a csv of each detector's scores, one for each network: set, group, path,
            label and score of every sample; None for none.
        modality: short for ``task_options={"modality": ...}``: of networks of several modalities,
            the one whose predictions are scored; None or ``"fused"`` for the joint ones.
        preset: the benchmark's named settings (``Benchmark.presets``) for detectors that are given
            by name; ``tune`` keeps them. None for their own.
        task_options: options of the benchmark's task, over those that the benchmark sets.
        download: whether data that is not here is fetched first (see :func:`oodbench.prepare`);
            without, OOD sets that are not here are left out and named in ``missing``.

    Returns:
        Rows; ``to_pandas()`` makes a table.
    """
    given = dict(locals())
    if not (backbone is None or isinstance(backbone, str)):
        return evaluate_each(backbone, **{n: v for n, v in given.items() if n != "backbone"})
    chosen = get_benchmark(id, benchmark, task)
    left_out = left_out_of(detectors, method, chosen)
    created = create_detectors(detectors, method, chosen, preset)
    kept = _with_preset(fixed or {}, chosen.preset(preset))
    options = {"modality": modality, **(task_options or {})}
    task_of(chosen, options).check(chosen, created)
    networks = Networks(
        model,
        method=method,
        recipe=recipe,
        recipe_options=recipe_options,
        backbone=backbone,
        checkpoint=checkpoint,
        seeds=(seed,) if isinstance(seed, int) else tuple(seed),
        retrain=retrain,
        preprocess=preprocess,
        input_size=input_size,
        mean=mean,
        std=std,
        interpolation=interpolation,
        crop=crop,
        network=network,
        prompts=prompts,
        class_names=class_names,
        words=words,
        layer=layer,
        digest=digest,
    )
    networks.check(chosen, created)
    if download:
        wanted = needed(chosen, created, networks, ood=ood, tune=tune)
        missing = obtainable(wanted)
        if missing:
            check_id(chosen, wanted)
            networks.check_inputs(chosen, created, report or (lambda _: None), options)
        get(missing, report)
    evaluator = Evaluator(
        chosen,
        ood=ood,
        hardware=hardware,
        report=report,
        command=command,
        pictures=pictures,
        task_options=options,
        fit_on=fit_on,
        keep=None if leaderboards is None else _keeper(ResultStore(leaderboards), chosen, hardware),
    )
    if left_out is not None:
        evaluator.warn(left_out)
    evaluator.report_pictures(len(created))
    failures: dict[str, str] = {}
    if tune:
        tuning = _tune(evaluator, created, networks, kept, options)
        created, failures = tuning.apply(created), tuning.failures
    if scores is not None:
        hint = "Choose a folder that you may write with `scores`."
        files.writable_dir(files.user_path(scores), hint, make=False)
    results = _run_all(evaluator, networks, created, failures)
    if scores is not None and is_first_process(evaluator.hardware):
        for one in results.scores:
            evaluator.report(f"scores: {one.to_csv(scores)}")
    return results


def evaluate_each(backbones: Sequence[str], **options: Any) -> Results:
    """:func:`evaluate` for each of several networks, which see what they can in one pass.

    A network that cannot be had (its weights are out of reach) or that no detector can be put on is
    named in ``failures``, and the others are evaluated without it.

    Args:
        backbones: names of the networks; ``NAME@FILE`` for one whose weights are in a checkpoint.
        options: of :func:`evaluate`.

    Raises:
        OptionError: no network, one twice, or an option that is of one network alone.
        Exception: no network could be evaluated; what the first one raised.
    """
    if not backbones or len(set(backbones)) < len(backbones):
        raise OptionError("name the networks, each once: `backbone=NAME,NAME`.")
    alone = [name for name in ("model", "network", "checkpoint") if options.get(name) is not None]
    if alone:
        raise OptionError(
            f"`{alone[0]}` is of one network, and there are {len(backbones)}. Give NAME@FILE for a "
            "network with a checkpoint, or evaluate one after the other."
        )
    each = [(backbone, *backbone.partition("@")[::2]) for backbone in backbones]
    _look_ahead([(name, file or None) for _, name, file in each], options)
    results = Results()
    failed: list[Exception] = []
    for backbone, name, file in each:
        try:
            of_one = evaluate(**{**options, "backbone": name, "checkpoint": file or None})
        except Exception as error:  # one network's must not lose the others' results
            failed.append(error)
            results.failures[backbone] = reason_of(error)
            continue
        of_one.failures = {f"{backbone}, {name}": text for name, text in of_one.failures.items()}
        results += of_one
    if failed and not results.rows:
        raise failed[0]
    return results


def _look_ahead(backbones: Sequence[tuple[str, str | None]], options: Mapping[str, Any]) -> None:
    """Have the networks see in one pass what they are asked of afterwards, where they can."""
    if len(backbones) < 2:
        return
    method, task_options = options.get("method"), options.get("task_options")
    chosen = get_benchmark(*(options.get(name) for name in ("id", "benchmark", "task")))
    detectors = options.get("detectors", STANDARD_DETECTOR)
    named = {f.name for f in dataclasses.fields(Networks)} - {"_loaded", "_reported", "seeds"}
    seed = options.get("seed", 0)
    same = {name: options[name] for name in named & set(options)}
    same["seeds"] = (seed,) if isinstance(seed, int) else tuple(seed)
    ahead.look_ahead(
        [Networks(**{**same, "backbone": name, "checkpoint": file}) for name, file in backbones],
        chosen,
        create_detectors(detectors, method, chosen, options.get("preset")),
        **{name: options.get(name) for name in ("ood", "fit_on", "hardware", "report")},
        task_options={"modality": options.get("modality"), **(task_options or {})},
    )


def _keeper(store: ResultStore, benchmark: Benchmark, hardware: Hardware | None) -> Keep | None:
    """What stores rows, in one process alone, once the store is known to be sound.

    Raises:
        OODBenchError: the store has a file that is none of its own.
    """
    store.check(benchmark.name)
    return store.append if is_first_process(hardware) else None


def _with_preset(
    fixed: Mapping[str, Collection[str]], preset: Mapping[str, Collection[str]]
) -> dict[str, Collection[str]]:
    """Options that tuning keeps, by detector: the caller's, and those that a preset sets."""
    both = {detector: {*names, *fixed.get(detector, ())} for detector, names in preset.items()}
    return {**fixed, **both}


def _tune(
    evaluator: Evaluator,
    detectors: Sequence[Detector],
    networks: Networks,
    fixed: Mapping[str, Collection[str]],
    task_options: Mapping[str, Any],
) -> Tuning:
    """Choose the detectors' options; warn where the validation data overlaps with the test sets."""
    tuning = choose_options(
        evaluator.benchmark,
        detectors,
        networks,
        fixed=fixed,
        hardware=evaluator.hardware,
        report=evaluator.report,
        task_options=task_options,
        fit_on=evaluator.fit_on,
    )
    if tuning.validation is not None:
        data = tuning.validation
        evaluator.tested.warn_of_validation((data.val, *data.ood.values()))
    return tuning


def _run_all(
    evaluator: Evaluator,
    networks: Networks,
    detectors: Sequence[Detector],
    failures: Mapping[str, str],
) -> Results:
    """Run the evaluator on one network after the other.

    Raises:
        Exception: no detector could be scored; what the first one raised.
    """
    results = Results([], dict(evaluator.missing), list(evaluator.warnings), dict(failures))
    general = len(evaluator.warnings)
    for contender, its_detectors in networks.contenders(
        evaluator.benchmark,
        detectors,
        evaluator.test,
        evaluator.hardware,
        evaluator.report,
        evaluator.count,
        evaluator.warn,
    ):
        results += evaluator.run(contender, its_detectors)
        del evaluator.warnings[general:]  # a warning about one network does not hold for the next
    if evaluator.errors and not results.rows:
        raise evaluator.errors[0]
    return results
