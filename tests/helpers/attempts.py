"""Jobs in processes of their own, killed if a test asks for it.

Started as a program, this file is a server that has imported everything once and forks a child for
each job. So an attempt costs milliseconds, and there can be many. A job is a function, named
``MODULE:FUNCTION``, or ``FUNCTION`` where it is one of ``jobs.py``; what its attribute ``before``
does, if it has one, is done by the server, for all its children. The processes that tests are
handed out to share one server, which forks a copy of itself for each of them.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import io
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from tests.helpers.cli import Ran

NUMBERS = re.compile(r"[0-9a-f]{8,}|\d+")
"""What differs between two files of one kind."""

# The program


def _job(name: str) -> Callable[..., Any]:
    module, _, function = name.rpartition(":")
    return getattr(importlib.import_module(module or "tests.helpers.jobs"), function)


def _child(order: dict[str, Any]) -> None:
    """Does a job in this process, and ends it."""
    os.environ.update(order["env"])
    if order.get("path"):
        _find_packages(order["path"])
    os.chdir(order["folder"])
    # a shell's background job ignores Ctrl-C, and one of nohup's SIGHUP, as would all they start
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with Path(order["log"]).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if "errors" in order:
        with Path(order["errors"]).open("w") as errors:
            os.dup2(errors.fileno(), 2)
    if order.get("kill_at_change") or order.get("changes") or order.get("states"):
        _at_changes(order)
    code = 0
    try:
        _job(order["job"])(*order["args"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _find_packages(folder: str) -> None:
    """From now on, packages of this folder are among the installed ones."""
    from oodbench import registry

    sys.path.insert(0, folder)
    for known in vars(registry).values():
        if isinstance(known, registry.Registry):
            known._entry_points = None


def _at_changes(order: dict[str, Any]) -> None:
    """From now on, note the kind of each change of files, or die just before one of a kind.

    Or copy the folder just before the first one of each kind: it is what a kill would leave.
    """
    below = str(Path(order["watched"]))
    seen: set[str] = set()

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            # args: path, mode, flags
            changes = bool(args[2] & (os.O_WRONLY | os.O_RDWR))
        else:
            changes = event in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate")
        if not changes or not isinstance(args[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(args[0])
        if not path.startswith(below):
            return
        kind = f"{event} {NUMBERS.sub('#', path.removeprefix(below))}"
        if kind == order["kill_at_change"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if order["changes"] and path != order["changes"]:
            with Path(order["changes"]).open("a") as noted:
                noted.write(f"{kind}\n")
        if order["states"] and kind not in seen:
            seen.add(kind)
            state = Path(order["states"], str(len(seen)))
            if Path(order["copied"]).exists():
                shutil.copytree(order["copied"], state / "folder", symlinks=True)
            state.mkdir(parents=True, exist_ok=True)
            (state / "kind").write_text(kind)

    sys.addaudithook(hook)


def _attempt(order: dict[str, Any]) -> dict[str, Any]:
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(order)
    if order["kill_after"] is not None:
        start = None if order["once"] else began
        while start is None or time.monotonic() - start < order["kill_after"]:
            if start is None and any(Path(order["watched"]).glob(order["once"])):
                start = time.monotonic()
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                break
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, order["signal"])
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "seconds": time.monotonic() - began}


def _together(orders: list[dict[str, Any]]) -> list[int]:
    """Several jobs, none of which begins before all have their process."""
    ready, go = os.pipe()
    pids = []
    for order in orders:
        pid = os.fork()
        if pid == 0:
            os.close(go)
            os.read(ready, 1)
            _child(order)
        pids.append(pid)
    os.close(ready)
    os.write(go, b"x" * len(pids))
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    os.close(go)
    return codes


def _rehearsed() -> None:
    """Do once what most jobs do, but train: what is looked up for it is kept for the children."""
    import torch

    import oodbench
    from oodbench.results import leaderboard
    from oodbench.training.run import plan
    from tests.helpers import jobs

    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        os.environ["OODBENCH_CACHE"] = folder
        jobs.extract(4, 0.0, f"{folder}/log")
        boards = f"{folder}/boards"
        for method in ("ce", "palm"):
            run = plan(jobs.tiny(), method, recipe="quick")
            assert not run.weights.exists()
            oodbench.evaluate(
                run.build(),
                benchmark=jobs.tiny(),
                detectors=["palm" if method == "palm" else "msp"],
                hardware=oodbench.Hardware("cpu", "1", batch_size=16, workers=0, progress=False),
                preprocess="benchmark",
                leaderboards=boards,
            )
        leaderboard.write(jobs.tiny(), boards)
    os.environ.clear()
    os.environ.update(before)


def _serve() -> None:
    # what the jobs import when they run
    import torch.utils.tensorboard
    import typer.main
    from lightning_fabric.utilities import registry

    import oodbench.cli
    import oodbench.datasets.digits
    import oodbench.detectors.ce
    import oodbench.detectors.maxlogit
    import oodbench.detectors.msp
    import oodbench.detectors.palm
    import oodbench.evaluation
    import oodbench.info
    import oodbench.results.leaderboard
    import oodbench.tasks.classification
    from oodbench.caching.fingerprint import code_digest
    from oodbench.hardware import Hardware
    from oodbench.registry import METHODS

    torch.set_num_threads(1)
    registry.entry_points = functools.cache(registry.entry_points)  # of all packages, each time
    os.fsync = lambda _: None  # processes are killed here, not machines
    typer.main.get_command = functools.cache(typer.main.get_command)
    sys.argv = ["oodbench", "list", "tasks"]  # what a command line needs is imported, or made
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        oodbench.cli.main()
    for method in ("ce", "palm"):
        code_digest(METHODS.get(method))  # what code is made of is read here, not by each child
    quiet = {"logger": False, "enable_checkpointing": False}
    Hardware(accelerator="cpu").trainer(max_epochs=1, **quiet)  # and so are all plug-ins' names
    _rehearsed()
    for number, handler in handlers.items():  # a command that ends lets no signal disturb it
        signal.signal(number, handler)
    gc.collect()
    gc.freeze()  # else the first collection in a child copies all that is here
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        listener.listen()
        print(f"{folder}/socket", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection.makefile("rw"))
                os._exit(0)
            connection.close()
    os._exit(0)  # at once: there is nothing to save


def _answer(stream: IO[str]) -> None:
    """Do what one process asks for, until it closes its end."""
    print("ready", file=stream, flush=True)
    for line in stream:
        orders = json.loads(line)
        for order in orders:
            job = _job(order["job"])  # imported here, so that no child has to
            getattr(job, "before", lambda: None)()
        answer = _attempt(orders[0]) if len(orders) == 1 else _together(orders)
        print(json.dumps(answer), file=stream, flush=True)


# The tests' side of it


class Server:
    """Starts jobs and says how they ended.

    Args:
        shared: a folder of all processes that may have a server; the first one starts it.
    """

    def __init__(self, shared: Path) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.started: subprocess.Popen[str] | None = None
        self.connection = socket.socket(socket.AF_UNIX)
        self.lock = FileLock(shared / "server.lock")
        address = shared / "server"
        with self.lock:
            try:
                self.connection.connect(address.read_text())
            except OSError:  # there is none yet, or who started it has ended
                self.started = _start()
                assert self.started.stdout is not None
                address.write_text(self.started.stdout.readline().removesuffix("\n"))
                self.connection.connect(address.read_text())
            self.stream = self.connection.makefile("rw")
            assert self.stream.readline() == "ready\n"

    def _ask(self, orders: list[dict[str, Any]]) -> Any:
        self.stream.write(json.dumps(orders) + "\n")
        self.stream.flush()
        return json.loads(self.stream.readline())

    def run(
        self,
        job: str,
        *args: Any,
        cache: Path,
        kill_after: float | None = None,
        kill_at_change: str | None = None,
        changes: Path | None = None,
        states: Path | None = None,
        copied: Path | None = None,
        watched: Path | None = None,
        once: str | None = None,
        with_signal: int = signal.SIGKILL,
    ) -> tuple[int, float]:
        """Exit code (minus the signal's number) and seconds of one attempt.

        Args:
            job: what is done.
            args: its arguments.
            cache: the cache folder, beside which the job's output goes to a log.
            kill_after: seconds after which it gets the signal.
            kill_at_change: a kind of change (see :meth:`changes`), before which it is killed.
            changes: a file that the kinds of all changes go to.
            states: a folder that copies go to (see :meth:`states`).
            copied: what is copied; the cache if None.
            watched: the folder whose changes count; the cache if None.
            once: a pattern; the seconds of ``kill_after`` count from when a file matches it.
            with_signal: SIGKILL, or a milder one.
        """
        order = {
            **_order(job, args, cache),
            "kill_after": kill_after,
            "kill_at_change": kill_at_change,
            "changes": changes and str(changes),
            "states": states and str(states),
            "copied": str(copied or cache),
            "watched": str(watched or cache),
            "once": once,
            "signal": int(with_signal),
        }
        answer = self._ask([order])
        if kill_after is None and kill_at_change is None:
            assert answer["code"] == 0, Path(order["log"]).read_text()
        elif with_signal == signal.SIGKILL:
            assert answer["code"] in (0, -signal.SIGKILL), Path(order["log"]).read_text()
        return answer["code"], answer["seconds"]

    def changes(self, job: str, *args: Any, cache: Path, watched: Path | None = None) -> list[str]:
        """Does a job; the kinds of changes of files that it made, in the order of the first."""
        noted = cache.parent / f"{cache.name}.changes"
        self.run(job, *args, cache=cache, watched=watched, changes=noted)
        return list(dict.fromkeys(noted.read_text().splitlines()))

    def states(
        self, job: str, *args: Any, cache: Path, watched: Path, copied: Path | None = None
    ) -> dict[str, Path]:
        """Does a job; of each kind of change the folder as a kill just before it leaves it.

        A kill takes nothing from files: what they are given is the system's at once. So one run is
        enough, and each copy is what an attempt finds that comes after a killed one.
        """
        found = cache.parent / f"{cache.name}.states"
        self.run(job, *args, cache=cache, watched=watched, states=found, copied=copied)
        return {(state / "kind").read_text(): state / "folder" for state in found.iterdir()}

    def together(self, job: str, *calls: tuple[Any, ...], cache: Path) -> None:
        """The job with each of the arguments, side by side in as many processes."""
        orders = [_order(job, args, cache) for args in calls]
        codes = self._ask(orders) if len(orders) > 1 else [self.run(job, *calls[0], cache=cache)[0]]
        assert codes == [0] * len(calls), Path(orders[0]["log"]).read_text()

    def prints(self, script: Path, *words: str | Path) -> str:
        """What a program of Python prints in another process, whose hashes are others."""
        printed = script.with_suffix(".out")
        cache = Path(os.environ["OODBENCH_CACHE"])
        self.run("script", str(script), str(printed), *map(str, words), cache=cache)
        return printed.read_text()

    def ran(
        self,
        job: str,
        *args: Any,
        site: Path | None = None,
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Ran:
        """How a job ended that is not killed, in a process that has this one's variables.

        Args:
            job: what is done.
            args: its arguments.
            site: a folder of installed packages, which the process finds too.
            folder: the process's own; this one's if None.
            env: further variables.
        """
        own = Path(tempfile.mkdtemp(dir=self.folder.name))
        order = {
            **_order(job, args, own / "job"),
            **dict.fromkeys(("kill_after", "kill_at_change", "changes", "states", "once")),
            "env": {**os.environ, **(env or {})},
            "path": site and str(site),
            "folder": str(folder or Path.cwd()),
            "errors": str(own / "errors"),
        }
        code = self._ask([order])["code"]
        return Ran(code, Path(order["log"]).read_text(), (own / "errors").read_text())

    def command(self, *words: str | Path, **options: Any) -> Ran:
        """The command line, with the words after ``oodbench``; see :meth:`ran`."""
        return self.ran("command", *map(str, words), **options)

    def imports(self, code: str, *libraries: str, **options: Any) -> Ran:
        """A program as in a new process, which is spared the import of libraries; see :meth:`ran`.

        It imports all of us for the first time, and the ``libraries`` that are named.
        """
        return self.ran("anew", code, *libraries, **options)

    def close(self) -> None:
        """End the server if this process started it; others keep their copies of it."""
        self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()
        if self.started is not None:
            with self.lock:
                self.started.communicate(timeout=30)
        self.folder.cleanup()


def _start() -> subprocess.Popen[str]:
    # large pages make a fork cheaper, which copies the table of all pages
    env = {"PYTHONHASHSEED": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.attempts"],
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **env},
    )


def _order(job: str, args: tuple[Any, ...], cache: Path) -> dict[str, Any]:
    log = cache.parent / f"{cache.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    data = os.environ.get("OODBENCH_DATA", str(cache.parent / "data"))  # of no test: a fixture's
    env = {"OODBENCH_CACHE": str(cache), "OODBENCH_DATA": data}
    return {"job": job, "args": args, "env": env, "folder": str(Path.cwd()), "log": str(log)}


if __name__ == "__main__":
    _serve()
