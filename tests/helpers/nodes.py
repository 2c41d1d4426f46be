"""Two machines that train and evaluate together, each of them a network namespace, or a process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import oodbench
from oodbench import Hardware
from tests.helpers import jobs
from tests.helpers.distributed import be_one_of_two

NETWORK = 0x40000000
"""CLONE_NEWNET of sched.h."""


@dataclass(frozen=True)
class Node:
    """One of two machines.

    Args:
        number: 0 or 1.
        first: the address of the first.
        port: of the first, where they meet.
        namespace: the network that it is in; ``""`` for the one of all.
        interface: the device that leads to the other.
    """

    number: int
    first: str
    port: int
    namespace: str = ""
    interface: str = "lo"


@contextlib.contextmanager
def namespaces(port: int) -> Iterator[list[Node]]:
    """Two networks with a cable between them, as root may lay one on Linux.

    Raises:
        PermissionError: this process may not; or there is no such command.
    """
    names = [f"oob{os.getpid()}{side}" for side in "ab"]
    ends = [f"v{name}" for name in names]

    def ip(words: str) -> None:
        done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
        if done.returncode:
            raise PermissionError(done.stderr)

    try:
        for name in names:
            ip(f"netns add {name}")
        ip(f"link add {ends[0]} netns {names[0]} type veth peer name {ends[1]} netns {names[1]}")
        for number, (name, end) in enumerate(zip(names, ends, strict=True)):
            ip(f"-n {name} addr add 10.99.7.{number + 1}/30 dev {end}")
            ip(f"-n {name} link set {end} up")
            ip(f"-n {name} link set lo up")
        both = zip(names, ends, strict=True)
        yield [Node(i, "10.99.7.1", port, name, end) for i, (name, end) in enumerate(both)]
    finally:
        for name in names:
            with contextlib.suppress(PermissionError):
                ip(f"netns del {name}")


def _enter(namespace: str) -> None:
    with Path(f"/var/run/netns/{namespace}").open() as handle:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle.fileno(), NETWORK):
            raise OSError(ctypes.get_errno(), "setns")


def machine(node: dict[str, object], folder: str) -> None:
    """Be the only process of one of two machines; evaluate."""
    own = Node(**node)  # type: ignore[arg-type]
    if own.namespace:
        _enter(own.namespace)
    place = {"MASTER_ADDR": own.first, "MASTER_PORT": own.port, "NODE_RANK": own.number}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ["GLOO_SOCKET_IFNAME"] = own.interface
    warnings.simplefilter("ignore")
    _evaluate(Hardware("cpu", "1", "ddp", nodes=2, progress=False), folder)


def process(rank: int, port: int, folder: str) -> None:
    """Be one of two processes of a machine; evaluate."""
    be_one_of_two(rank, port)
    _evaluate(Hardware("cpu", "2", "ddp", progress=False), folder)


def _evaluate(hardware: Hardware, folder: str) -> None:
    oodbench.evaluate(
        benchmark=jobs.tiny(),
        detectors=["msp", "palm"],
        recipe="quick",
        recipe_options={"epochs": 2, "batch_size": 16, "lr": 0.05},
        hardware=hardware,
        leaderboards=Path(folder) / "leaderboards",
    )


def calls(nodes: list[Node], folder: Path) -> list[tuple[dict[str, object], str]]:
    """The arguments of :func:`machine` for each."""
    return [(asdict(node), str(folder)) for node in nodes]
