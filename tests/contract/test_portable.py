"""The package on a system that has none of what only POSIX systems have.

Nothing here can run Windows. What can be shown is that our own modules ask for nothing of that kind
when they are imported, and do without it when they work: these modules and names are hidden from
them (and ``fcntl`` from filelock) when they are first imported, and the system calls itself ``nt``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.house import House
from tests.conftest import REPOSITORY
from tests.helpers.attempts import Server

HIDE = r"""
import builtins, os, signal, sys, importlib, warnings

MODULES = set("fcntl resource termios tty pty pwd grp posix syslog readline curses".split())
NAMES = {
    "os": set(
        "chown chroot ctermid environb eventfd fchmod fchown fdatasync fork forkpty getegid "
        "geteuid getgid getgroups getloadavg getpgid getpgrp getpriority getresuid getsid getuid "
        "getxattr initgroups killpg lchown link lockf major memfd_create mkfifo mknod nice openpty "
        "pathconf pipe2 posix_fadvise posix_fallocate posix_spawn pread preadv pwrite pwritev "
        "readv register_at_fork sched_getaffinity sched_setaffinity sched_yield sendfile setpgid "
        "setpriority setsid setuid setxattr splice statvfs fstatvfs symlink sync sysconf tcgetpgrp "
        "ttyname uname wait wait3 wait4 waitid writev WNOHANG O_CLOEXEC O_DIRECTORY O_DSYNC "
        "O_NOFOLLOW O_NONBLOCK O_SYNC O_TMPFILE".split()
    ),
    "signal": set(
        "SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGIO SIGKILL SIGPIPE SIGPROF SIGPWR SIGQUIT "
        "SIGSTOP SIGSYS SIGTRAP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGUSR1 SIGUSR2 SIGVTALRM "
        "SIGWINCH SIGXCPU SIGXFSZ alarm getitimer pause pthread_kill pthread_sigmask setitimer "
        "siginterrupt sigpending sigtimedwait sigwait sigwaitinfo".split()
    ),
}


class Hidden:
    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        if name in NAMES[self._module.__name__]:
            raise AttributeError(f"{self._module.__name__} has no {name} on this system")
        if (self._module.__name__, name) == ("os", "name"):
            return "nt"
        return getattr(self._module, name)


hidden = {"os": Hidden(os), "signal": Hidden(signal)}
real = builtins.__import__


def imported(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__") or ""
    if importer.split(".")[0] in ("oodbench", "filelock") and level == 0:
        if name in MODULES:
            raise ImportError(f"no module named {name} on this system")
        if name in hidden and importer.startswith("oodbench"):
            return hidden[name]
    return real(name, globals, locals, fromlist, level)


builtins.__import__ = imported
warnings.simplefilter("ignore")
"""


def run(server: Server, code: str, folder: Path) -> str:
    folders = {f"OODBENCH_{name}": str(folder / name.lower()) for name in ("CACHE", "DATA")}
    ran = server.imports(HIDE + code, "filelock", folder=REPOSITORY, env=folders)
    assert ran.status == 0, ran.both
    return ran.out


def test_every_module_is_imported_and_an_evaluation_runs(server: Server, tmp_path: Path) -> None:
    """Training, extraction, locks, rows and page; what spawned data workers are sent is pickled."""
    modules = [name for name in House(REPOSITORY).modules if not name.endswith("__main__")]
    assert len(modules) > 100
    words = "oodbench eval --detector msp,knn --id digits --epochs 1 --workers 0 --leaderboards"
    boards = tmp_path / "boards"
    code = f"""
for name in {modules}:
    importlib.import_module(name)
assert sys.modules["oodbench.files"].os is hidden["os"]

import filelock, pickle
import oodbench.cli
from oodbench.registry import BENCHMARKS
from tests.helpers.few import few_digits
from torch.utils.data import DataLoader

BENCHMARKS._objects["digits"] = few_digits

assert filelock.FileLock is filelock.SoftFileLock
make, sent = DataLoader.__init__, []

def init(self, *args, **kwargs):
    make(self, *args, **kwargs)
    sent.append(pickle.dumps((self.dataset, self.collate_fn, self.worker_init_fn)))

DataLoader.__init__ = init
sys.argv = {[*words.split(), str(boards)]}
try:
    oodbench.cli.main()
finally:
    print(len(sent), "loaders")
"""
    assert int(run(server, code, tmp_path).split()[-2]) >= 3
    page = (boards / "digits.md").read_text(encoding="utf-8")
    assert "| msp |" in page
    assert "| knn |" in page
    assert not list(tmp_path.rglob("*.lock"))
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("name", ["fcntl", "os.fork", "signal.SIGHUP"])
def test_the_names_are_hidden(name: str, server: Server, tmp_path: Path) -> None:
    """A module of ours that needs one of them would fail the tests above."""
    module, _, attribute = name.partition(".")
    use = f"import {module}\n" + (f"{module}.{attribute}" if attribute else "")
    code = f"""
try:
    exec({use!r}, {{"__name__": "oodbench.invented"}})
except (ImportError, AttributeError) as error:
    assert "on this system" in str(error), error
else:
    raise AssertionError
"""
    run(server, code, tmp_path)
