"""Where a network runs, and which of several processes this one is."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import Any, Self, cast

import pytorch_lightning as pl
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from oodbench.data.samples import Samples
from oodbench.data.transforms import Transform
from oodbench.errors import OODBenchError, OptionError
from oodbench.runtime import launchers, signals
from oodbench.runtime.loading import ended
from oodbench.runtime.machine import free_memory
from oodbench.runtime.numbers import precision_name, read, said
from oodbench.runtime.process import ProcessState
from oodbench.runtime.progress import WorkProgress, has_terminal
from oodbench.runtime.restore import NetworkState
from oodbench.runtime.workers import is_cut_off, worker_failure
from oodbench.settings import HardwareSettings


def spare_cores() -> int:
    """How many cores this process may use beside the one that it runs on."""
    own = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    return max(len(own) - 1, 0)


MANY = 4
"""Spare cores of which a CPU that runs the network as well gives all to reading."""
MANY_VALUES = 2**24
"""Numbers in outputs beyond which detectors are fitted and score at an accelerator by themselves:
32,768 samples of 512 features. Of less, the CPU is done before they are copied."""
AHEAD = 3
"""Batches that a data worker holds: two that wait, and the one that it makes."""


@dataclass(frozen=True)
class Hardware(HardwareSettings):
    """How Lightning runs a network; passed through to ``Trainer``.

    Args:
        accelerator: Lightning's.
        devices: Lightning's, as text.
        strategy: Lightning's.
        precision: Lightning's; its short names become the full ones (``16`` is ``16-mixed``).
        compile: whether networks run through ``torch.compile``, in training and where their
            outputs are kept; detectors that look into a network run it as it is.
        channels_last: how images and convolutions lie in memory: True for channels last, False for
            channels first; None for channels last where all code of the network is known to run so.
        workers: processes that read images; None to choose by the dataset.
        scoring_device: where detectors are fitted and score outputs: ``"cpu"``, ``"cuda"``,
            ``"cuda:1"``, ``"mps"``; ``"auto"``, see :meth:`scoring_device_for`.
        nodes: machines that do one piece of work together, each with as many devices (Lightning's
            ``num_nodes``). They share the folders of data, cache and leaderboards.
        batch_size: samples per forward pass in extraction.
        progress: whether work says how far it is: True with bars, False not at all; None with
            bars on a terminal or in a notebook, and a line a minute elsewhere.
    """

    batch_size: int = 256
    progress: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", precision_name(self.precision))

    @property
    def numbers(self) -> str:
        """What changes the numbers that a network gives, for keys and rows.

        The precision, and behind a ``+`` what else is not the default, be it for the last digits
        alone: ``"bf16-mixed + compile"``.
        """
        return said(self.precision, self.compile, self.channels_last)

    def computing(self, numbers: str) -> Self:
        """The same machine, computing as :attr:`numbers` of some hardware say.

        Raises:
            OptionError: they say something that is not known here.
        """
        precision, is_compiled, last = read(numbers)
        return replace(self, precision=precision, compile=is_compiled, channels_last=last)

    def told(self) -> dict[str, Any]:
        """Arguments that may change what is trained, where they are not the default."""
        asked = {"devices": self.devices, "strategy": self.strategy}
        told: dict[str, Any] = {name: value for name, value in asked.items() if value != "auto"}
        return told | ({"nodes": self.nodes} if self.nodes > 1 else {})

    def scoring_device_for(self, values: int) -> torch.device:
        """Where a detector is fitted and scores outputs.

        With ``"auto"`` that is the accelerator that networks run on, if there is one and detectors
        learn from, or score, more than ``MANY_VALUES``; the CPU else.

        Args:
            values: numbers in the largest outputs that it reads.

        Raises:
            OptionError: this machine has no such device.
        """
        if self.scoring_device == "auto":
            at_device = values > MANY_VALUES and self.is_accelerated
            return self.own_device if at_device else torch.device("cpu")
        try:
            return torch.empty(0, device=self.scoring_device).device  # with its number
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0][:200]
            raise OptionError(
                f"scoring_device={self.scoring_device!r} is no device of this machine ({reason}). "
                "Choose auto, cpu, or one that it has (cuda, cuda:1, mps)."
            ) from error

    def workers_for(self, samples: Samples, preprocess: Transform | None = None) -> int:
        """Data workers: none for images in memory or few, else by cores and by what they hold.

        Few are 2,000 that are preprocessed to 32 x 32 pixels, and as many pixels of larger ones.
        Of many, this process's share of the spare cores where an accelerator computes, and half of
        them where the CPU does; no more than there are batches, nor than a quarter of the free
        memory holds the batches of.
        """
        if self.workers is not None:
            return self.workers
        size = getattr(preprocess, "size", 32)
        if (samples.in_memory and size <= 64) or len(samples) * max(size / 32, 1) ** 2 < 2000:
            return 0
        share = self.cores_for_data
        batches = -(-len(samples) // self.batch_size)
        batch_bytes = self.batch_size * 3 * size**2 * 4
        room = free_memory(torch.device("cpu")) // 4 // (AHEAD * batch_bytes)
        return min(share, batches, max(room, 1))

    @property
    def cores_for_data(self) -> int:
        """Cores of this process that may read and augment data: at least one, if one is spare."""
        spare = spare_cores()
        if self.is_accelerated:
            here = self.processes // self.nodes
            return max(spare // max(here, 1), min(spare, 1))
        return max((spare + 1) // 2, min(spare, 1)) if spare > MANY else spare

    @property
    def is_accelerated(self) -> bool:
        """Whether networks run on another device than the CPU."""
        return self._plan[1] != "cpu"

    @property
    def is_cuda(self) -> bool:
        """Whether networks run on CUDA, whose copies from pinned memory overlap with its work."""
        return self._plan[1] == "cuda"

    def trainer_options(self) -> dict[str, Any]:
        """Arguments of ``pytorch_lightning.Trainer``.

        Raises:
            OptionError: SLURM started another number of processes than it asks for.
        """
        callbacks: list[pl.Callback] = [_Interruptions()]
        environment = launchers.environment(self.processes, self.nodes)
        return {
            **self._place,
            "precision": self.precision,
            "callbacks": callbacks,
            "plugins": [] if environment is None else [environment],
            "enable_progress_bar": False,  # Lightning's tells the time left of an epoch alone
            "enable_model_summary": False,
            "use_distributed_sampler": False,
        }

    @property
    def _place(self) -> dict[str, Any]:
        devices: Any = self.devices
        if devices != "auto":
            devices = int(devices) if devices.lstrip("-").isdigit() else devices
        return {
            "accelerator": self.accelerator,
            "devices": devices,
            "num_nodes": self.nodes,
            "strategy": self.strategy,
        }

    def start_processes(self) -> None:
        """Start the processes that were asked for, unless they run, or one is enough."""
        if self.processes > 1 and not is_distributed():
            with quiet_lightning():
                nothing = DataLoader(TensorDataset(torch.zeros(1)))
                self.trainer(logger=False).predict(_Idle(), nothing, return_predictions=False)

    @property
    def own_device(self) -> torch.device:
        """Where networks of this process run."""
        with quiet_lightning():
            device: torch.device = self.trainer(logger=False).strategy.root_device
        return device

    def trainer(self, *, what: str = "", **options: Any) -> pl.Trainer:
        """A Lightning trainer on this hardware.

        Args:
            what: what it does, as its progress calls it; ``""`` for work that shows none.
            options: further arguments of ``Trainer``; lists are added to those of
                :meth:`trainer_options`.
        """
        options_ = self.trainer_options()
        if what and self.progress is not False:
            bar = has_terminal() if self.progress is None else True
            options_["callbacks"].append(WorkProgress(what, bar))
        for name in ("callbacks", "plugins"):
            options_[name] += options.pop(name, [])
        with launchers.without_defaults():
            trainer = pl.Trainer(**options_, **options)
        # Lightning took what a launcher left for its own rank when it was imported
        cast(Any, rank_zero_only).rank = trainer.global_rank
        if trainer.world_size == 1:
            # Its handler ends training without a word, and with the status of success.
            cast(Any, trainer)._signal_connector.register_signal_handlers = lambda: None
        return trainer

    @property
    def processes(self) -> int:
        """The number of processes that it asks for, on all machines together."""
        return self._plan[0]

    @cached_property
    def _plan(self) -> tuple[int, str]:
        """The number of processes that it asks for, and the kind of device that they run on."""
        with quiet_lightning(), launchers.without_defaults():
            alone = pl.Trainer(**self._place, plugins=[launchers.Alone()], logger=False)
        return alone.world_size, alone.strategy.root_device.type

    @cached_property
    def _is_first(self) -> bool:
        """Whether this process will be the first of them."""
        if self.processes == 1:
            return True
        with quiet_lightning():
            return self.trainer(logger=False).is_global_zero


class Running:
    """A network at work: on its device, in evaluation mode, in inference mode, in its precision.

    That holds inside of a ``with`` block. Outside of it the network and the random numbers of the
    process are what they were before, in every respect (see ``oodbench.runtime.restore``); so the
    block of a generator must not hold a ``yield``. It may be entered again: what is moved is moved
    once.

    Args:
        network: the network. It works on copies of its tensors.
        hardware: where it runs.

    Attributes:
        device: where it runs.
    """

    def __init__(self, network: nn.Module, hardware: Hardware) -> None:
        self.network = network
        self._fabric = Fabric(
            accelerator=hardware.accelerator,
            devices=_own_number() or 1,
            precision=cast(Any, hardware.precision),
            plugins=[launchers.Alone()],
        )
        self.device = self._fabric.device
        self._away: tuple[NetworkState, ProcessState] | None = None
        self._inside = contextlib.ExitStack()

    def __enter__(self) -> Self:
        home, process = NetworkState(self.network), ProcessState()
        with contextlib.ExitStack() as leaving:
            leaving.callback(process.put_back)
            leaving.callback(home.put_back)
            leaving.callback(self._leave)
            if self._away is None:
                self._move(home)
            else:
                for state in self._away:
                    state.put_back()
            leaving.enter_context(torch.inference_mode())
            leaving.enter_context(self._fabric.autocast())
            self._inside = leaving.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inside.__exit__(kind, error, trace)

    def put(self, images: Tensor) -> Tensor:
        """Images where the network is, in the floating type of its weights."""
        types = (t.dtype for t in self.network.parameters() if t.is_floating_point())
        return images.to(self.device, next(types, images.dtype))

    def _move(self, home: NetworkState) -> None:
        is_away = any(tensor.device != self.device for tensor in home.tensors)
        for tensor in home.tensors:
            tensor.grad = None
            tensor.data = tensor.data.to(self.device, copy=True)
        if is_away:  # for what a module moves besides
            self.network.to(self.device)
        self.network.eval()

    def _leave(self) -> None:
        self._away = NetworkState(self.network), ProcessState()


class _Idle(pl.LightningModule):
    """Does nothing, in as many processes as there are."""

    def predict_step(self, *_: Any) -> None:
        """Do nothing."""


class _Interruptions(pl.Callback):
    """Ends what a signal was to end that Python lost."""

    def on_train_batch_start(self, *_: Any) -> None:
        signals.raise_if_lost()

    def on_predict_batch_start(self, *_: Any) -> None:
        signals.raise_if_lost()


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning without its banner and its advice on workers; errors as they were raised.

    Data workers' errors come without the traceback that DataLoader writes into their message, and
    say what to do where the workers themselves failed. An interruption is the
    ``KeyboardInterrupt`` that it was before Lightning made it ``SystemExit``.
    """
    with ended(), _plain_errors():
        yield


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """What :func:`quiet_lightning` does but ending workers, who are asked first why they failed."""
    logger = logging.getLogger("pytorch_lightning")
    fabric = logging.getLogger("lightning.fabric")
    levels = logger.level, fabric.level
    logger.setLevel(logging.WARNING)
    fabric.setLevel(logging.WARNING)
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            warnings.filterwarnings("ignore", module="lightning_fabric")
            warnings.filterwarnings("ignore", message=".*isinstance.*LeafSpec.*")
            yield
    except OODBenchError as error:
        if "DataLoader worker process" in str(error):
            kind = type(error)
            raise kind(str(error).rpartition(f"{kind.__qualname__}: ")[2].strip()) from None
        raise
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, on_interrupt)
            raise error.__context__ from None
        if isinstance(error, SIGTERMException):
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    except Exception as error:
        try:
            failure = worker_failure(error)
            if is_cut_off(error):  # why is told by a signal, which may be still to come
                time.sleep(0.5)
        except RuntimeError as another:  # DataLoader's, of the same failure, by a signal
            failure = worker_failure(another)
        if failure is None:
            raise
        raise failure from None
    finally:
        logger.setLevel(levels[0])
        fabric.setLevel(levels[1])


def is_distributed() -> bool:
    """Whether this process is one of several that talk to each other."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank_and_world() -> tuple[int, int]:
    """Which process this is, and of how many; ``(0, 1)`` outside of a distributed run."""
    if is_distributed():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def gathered(value: Any) -> list[Any]:
    """What each process of a distributed run has to say, in their order; alone, one's own."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _own_number() -> list[int] | None:
    """The accelerator that is this process's own among several, by number, where each has one."""
    if is_distributed() and torch.distributed.get_backend() == "nccl":
        return [torch.cuda.current_device()]
    return None


def barrier() -> None:
    """Wait for the other processes of a distributed run, if there are any."""
    if is_distributed():
        torch.distributed.barrier()


def is_first_process(hardware: Hardware | None = None) -> bool:
    """Whether this process writes what is written once (rank zero, or the only one).

    Args:
        hardware: what the run asks for, which counts before its processes talk to each other.
    """
    if is_distributed():
        return torch.distributed.get_rank() == 0
    return hardware is None or hardware._is_first
