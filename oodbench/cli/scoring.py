"""``oodbench score``: a fitted detector on new images, once or on a stream."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from oodbench.cli import terminal
from oodbench.cli.failures import SOME_FAILED
from oodbench.cli.options import But
from oodbench.errors import OptionError
from oodbench.settings import OF_TRAINING, NetworkSettings, keywords

if TYPE_CHECKING:
    from oodbench.data.transforms import Preprocess
    from oodbench.deploy.fitted import FittedDetector
    from oodbench.deploy.monitor import Monitor
    from oodbench.deploy.scoring import Row, Scorer

FLAGGED = 10
"""Exit status when an image was flagged."""
ALARM = 11
"""Exit status when the monitor of ``--watch`` raised the alarm."""

ITS_NETWORK = But(
    without=OF_TRAINING,
    help={
        "backbone": "Of a detector whose folder does not hold the network: its name, with "
        "--checkpoint; or timm/NAME, torchvision/NAME.WEIGHTS.",
        "network": "In its place: package.module:function, a file (.onnx, .pt2, TorchScript), the "
        "folder or name of a Hugging Face image classifier, whose code is run.",
        "checkpoint": "The network's weights, with --backbone.",
        "preprocess": "How you think that images are made for it: refused where it was fitted with "
        "another. Default: as it was fitted.",
        "input_size": "Its input size, checked likewise.",
        "mean": "Its channel means, checked likewise: 0.485,0.456,0.406.",
        "std": "Its channel deviations, checked likewise.",
        "interpolation": "Its filter, checked likewise.",
        "crop": "Its crop, checked likewise.",
    },
)
"""How ``score`` and ``export`` take the network of a detector."""

_EVERY_SECONDS = 10.0
"""Between two lines of ``--watch``, and two savings of its state."""


def score_command(
    fitted: Annotated[str, typer.Argument(help="The folder that `oodbench fit` wrote.")],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders, videos (their frames); - for a list on standard input."
        ),
    ],
    networks: Annotated[NetworkSettings, ITS_NETWORK],
    form: Annotated[
        str, typer.Option("--format", help="csv, jsonl (an object a line) or parquet.")
    ] = "csv",
    out: Annotated[
        str | None, typer.Option("--out", help="A file. Default: standard output.")
    ] = None,
    tpr: Annotated[
        float | None,
        typer.Option("--tpr", help="Share of ID images to keep. Default: as it was fitted."),
    ] = None,
    fdr: Annotated[
        float | None,
        typer.Option(
            "--fdr",
            help="Flag so that at most this share of what is flagged is ID, on average; over all "
            "images together, so nothing is printed before the last.",
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Watch the stream: the share that is flagged, and an alarm on change."
        ),
    ] = False,
    state: Annotated[
        str | None,
        typer.Option("--state", help="File of the monitor's state: goes on where it stopped."),
    ] = None,
    false_alarms: Annotated[
        float,
        typer.Option(
            "--false-alarms", help="Probability that the alarm is ever raised on ID images."
        ),
    ] = 0.05,
    every: Annotated[
        int, typer.Option("--every", min=1, help="Of a video, the first of so many frames.")
    ] = 1,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Images at a time. Default: 64.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Threads that read images.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="cpu, cuda, cuda:1, mps; auto for the best there is.")
    ] = "auto",
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="Exit status 0 also where images were flagged.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
) -> None:
    """Score new images with a fitted detector: one row each, with p-value and flag.

    Exit status: 0 if nothing was flagged, 10 if something was, 11 if the alarm of --watch was
    raised, 3 if images could not be read and none was flagged, 2 on errors.
    """
    from oodbench.deploy.scoring import Scorer
    from oodbench.deploy.sources import STANDARD_INPUT, items
    from oodbench.deploy.writers import FORMATS, Discoveries, writing

    if form not in FORMATS:
        raise OptionError(f"--format is one of {', '.join(FORMATS)}, not {form!r}.")
    if fdr is not None and (watch or tpr is not None):
        raise OptionError("--fdr looks at all images together: leave --watch and --tpr out.")
    if form == "parquet" and out is None and sys.stdout.isatty():
        raise OptionError("--format parquet is no text: give --out FILE, or redirect the output.")
    if state is not None and not watch:
        raise OptionError("--state is the state of a monitor: add --watch.")
    detector = _loaded(fitted, device, networks)
    scorer = Scorer(
        detector,
        tpr=tpr,
        batch_size=batch_size,
        workers=workers,
        flags=fdr is None,
        eager=watch and STANDARD_INPUT in images,
    )
    monitor = _monitor(detector, scorer.threshold, state, false_alarms) if watch else None
    progress = _Progress(scorer, monitor, state, quiet=quiet)
    with writing(form, out, sys.stdout) as writer:
        if fdr is not None:
            writer = Discoveries(writer, fdr, scorer.counts)
        try:
            _run(scorer, items(images, sys.stdin, every), writer, progress)
            writer.close()
        finally:
            progress.ended()
    if fdr is not None and not quiet:
        _say_power(detector, scorer, fdr)
    if scorer.counts.images == 0:
        raise OptionError("there was nothing to score.")
    status = _status(scorer, monitor)
    if status and not (exit_zero and status in (FLAGGED, ALARM)):
        raise typer.Exit(status)


def _status(scorer: Scorer, monitor: Monitor | None) -> int:
    if monitor is not None and monitor.alarm:
        return ALARM
    if scorer.counts.flagged:
        return FLAGGED
    return SOME_FAILED if scorer.counts.failed else 0


def _loaded(path: str, device: str, networks: NetworkSettings) -> FittedDetector:
    """The fitted detector, on a device.

    Raises:
        OptionError: there is no such device.
    """
    import torch

    from oodbench.deploy.fitted import load
    from oodbench.runtime.machine import device_of

    try:
        chosen = device_of(device) if device == "auto" else torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"--device {device}: {str(error).splitlines()[0]}") from error
    return load(path, device=chosen, **_said_of(networks))


def _said_of(networks: NetworkSettings) -> dict[str, Any]:
    return keywords(networks, without=OF_TRAINING)


def _monitor(
    detector: FittedDetector, threshold: float, state: str | None, false_alarms: float
) -> Monitor:
    from oodbench import files
    from oodbench.deploy.monitor import Monitor

    if state is not None and files.user_path(state).exists():
        return Monitor.load(state, detector)
    return Monitor(detector, false_alarms, threshold=threshold)


def _run(scorer: Scorer, items: Iterable[Any], writer: Any, progress: _Progress) -> None:
    for row in scorer.rows(items):
        writer.write(row)
        progress.of(row)
        if progress.is_due:
            writer.flush()
            progress.now()
        if getattr(sys.stdout, "error", None) is not None:  # nobody reads what is printed
            return


class _Progress:
    """What is said on standard error meanwhile, and the monitor's state on disk."""

    def __init__(
        self, scorer: Scorer, monitor: Monitor | None, state: str | None, *, quiet: bool
    ) -> None:
        self.scorer, self.monitor, self.state, self.quiet = scorer, monitor, state, quiet
        self.say: Callable[[str], None] = lambda line: typer.echo(
            terminal.printable(line), err=True
        )
        self.is_terminal = sys.stderr.isatty()
        self.last = time.monotonic()
        self.was_alarmed = monitor is not None and monitor.alarm

    def of(self, row: Row) -> None:
        """A row was written."""
        if self.monitor is None or row.score is None:
            return
        self.monitor.update(row.score)
        if self.monitor.alarm and not self.was_alarmed:
            self.was_alarmed = True
            self.say(f"{row.path}: {self.monitor.summary()}")
            self._save()

    @property
    def is_due(self) -> bool:
        """Whether it is time for a line, and for rows to be handed over."""
        eager = self.scorer.eager or self.is_terminal
        return time.monotonic() - self.last > (0.5 if eager else _EVERY_SECONDS)

    def now(self) -> None:
        """Say how far it is."""
        self.last = time.monotonic()
        self._save()
        if self.quiet:
            return
        if self.monitor is not None:
            self.say(self.monitor.summary())
        elif self.is_terminal:
            line = self.scorer.counts.summary(self.scorer.batch_size).partition(";")[0]
            typer.echo(f"\r{line}\x1b[K", nl=False, err=True)

    def ended(self) -> None:
        """The stream is over, or was broken off."""
        self._save()
        if self.quiet or not self.scorer.counts.images:
            return
        if self.is_terminal and self.monitor is None:
            typer.echo("\r\x1b[K", nl=False, err=True)
        if self.monitor is not None:
            self.say(self.monitor.summary())
        self.say(self.scorer.counts.summary(self.scorer.batch_size))

    def _save(self) -> None:
        if self.monitor is not None and self.state is not None:
            self.monitor.save(self.state)


def _say_power(detector: FittedDetector, scorer: Scorer, fdr: float) -> None:
    """Say where so few calibration samples cannot tell a single image among so many."""
    from oodbench.deploy.calibration import fewest_discoveries

    read = scorer.counts.images - scorer.counts.failed
    least = fewest_discoveries(len(detector.calibration), read, fdr)
    if least > 1 and not scorer.counts.flagged:
        typer.echo(
            f"warning: with {len(detector.calibration):,} calibration images at least {least:,} of "
            f"{read:,} must stand out before any can be flagged at --fdr {fdr:g}. Calibrate on "
            "more, or score fewer at a time.",
            err=True,
        )


def export_command(
    fitted: Annotated[str, typer.Argument(help="The folder that `oodbench fit` wrote.")],
    out: Annotated[str, typer.Option("--out", help="The file: FILE.onnx.")],
    networks: Annotated[NetworkSettings, ITS_NETWORK],
) -> None:
    """Write network and detector as one ONNX graph: pixels in, class, score and flag out.

    The graph is compared with PyTorch in onnxruntime first. Detectors that are no algebra on the
    network's outputs are refused, and it is said why.
    """
    from oodbench.deploy.export import export

    detector = _loaded(fitted, "cpu", networks)
    where = export(detector, out)
    shown = cast("Preprocess", detector.preprocess)  # export refuses others
    size = f"{shown.channels}, {shown.size}, {shown.size}"
    typer.echo(f"written: {where}; input images [B, {size}] in [0, 1], outputs class, score, flag")
