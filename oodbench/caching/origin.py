"""Whose code is whose: a library's, oodbench's own, or a user's; and what lies out of reach."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Literal

from oodbench import files

Origin = Literal["library", "ours", "user"]

FRAMEWORKS = frozenset(
    "lightning lightning_fabric numpy pytorch_lightning timm torch torchvision".split()
)

OUTSIDE = frozenset(
    """
    aiohttp anthropic asyncio boto3 botocore cffi coremltools ctypes ftplib grpc http httpx
    jax jaxlib litserve mmap multiprocessing onnxruntime openai openvino pycuda ray requests
    socket socketserver ssl subprocess tensorflow tensorrt tflite_runtime tritonclient tvm
    urllib urllib3 websocket websockets xmlrpc zmq
    """.split()
)
"""Modules that reach for what is no part of this process, or holds weights that Python cannot
read."""

BYSTANDERS = (
    "_thread",
    "_weakref",
    "_weakrefset",
    "concurrent",
    "contextvars",
    "logging",
    "loguru",
    "matplotlib",
    "mlflow",
    "queue",
    "rich",
    "tensorboard",
    "tensorboardX",
    "threading",
    "torch.cuda",
    "torch.optim",
    "torch.profiler",
    "torch.utils.hooks",
    "torch.utils.tensorboard",
    "tqdm",
    "wandb",
    "warnings",
    "weakref",
)
"""Modules of things that networks hold and whose state does not change what they say."""


def origin(module: str) -> Origin:
    """Whose a module is, by its full name; what lies in ``site-packages`` is a library's."""
    top = module.partition(".")[0]
    if top in ("", "__main__", "__mp_main__", "builtins"):
        return "library" if top == "builtins" else "user"
    if top == "oodbench":
        return "ours"
    if top in sys.stdlib_module_names or top in FRAMEWORKS or top in OUTSIDE:
        return "library"
    return "library" if _is_installed(top, top in sys.modules) else "user"


@lru_cache(maxsize=1024)
def _is_installed(top: str, loaded: bool) -> bool:  # `loaded`: what was not there may come
    module = sys.modules.get(top) if loaded else _spec(top)
    places = [getattr(module, "__file__", None) or getattr(module, "origin", None) or ""]
    places += list(getattr(module, "__path__", None) or ())
    return any({"site-packages", "dist-packages"} & set(Path(str(p)).parts) for p in places)


def _spec(top: str) -> object:
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None


def is_in(module: str, names: tuple[str, ...]) -> bool:
    """Whether a module is one of those, or inside one."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def is_outside(module: str) -> bool:
    """Whether a module reaches for what is no part of this process; see ``OUTSIDE``."""
    return module.partition(".")[0] in OUTSIDE


@lru_cache(maxsize=1024)
def version(top: str) -> str:
    """What tells a library's code: its version; its files' digests where it is somebody's own.

    A package that was installed from a folder or a repository may change without its version.
    """
    if top in sys.stdlib_module_names:
        return sys.version.split()[0]
    names: Iterator[str] = itertools.chain([top], _of_top(top))
    for name in names:
        try:
            package = importlib.metadata.distribution(name)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            continue
        record = package.read_text("RECORD") if package.read_text("direct_url.json") else None
        return f"{package.version} {files.digest(_contents(record))}" if record else package.version
    return str(getattr(sys.modules.get(top), "__version__", ""))


def _contents(record: str) -> list[str]:
    """The lines of a wheel's RECORD that tell of code, and not of where it was installed."""
    return sorted(line for line in record.splitlines() if ".dist-info/" not in line)


def _of_top(top: str) -> Iterator[str]:
    """Distributions of another name that hold a package; looked up only if they are asked for.

    They are those of ``importlib.metadata.packages_distributions()``, in its order; but that one
    makes a path of each file of all that is installed, and takes half a second.
    """
    listed = re.compile(rf"^{re.escape(top)}(/[^,\n]*)?\.py,", re.MULTILINE)
    for package in importlib.metadata.distributions():
        if declared := (package.read_text("top_level.txt") or "").split():
            holds = top in declared
        elif (record := package.read_text("RECORD")) is not None:
            holds = top in record and listed.search(record) is not None
        else:
            holds = any(_top_of(path) == top for path in package.files or ())
        if holds:
            yield package.metadata["Name"]


def _top_of(path: PurePath) -> str | None:
    """The package or module that a file of a distribution belongs to; None if it is no code."""
    if path.suffix != ".py":
        return None
    return path.parts[0] if len(path.parts) > 1 else path.stem


def file_digest(module: str) -> str | None:
    """Hex sha256 of a user's compiled extension; None where there is no such file."""
    path = getattr(sys.modules.get(module), "__file__", None)
    if path is None or not str(path).endswith((".so", ".pyd", ".dylib")):
        return None
    try:
        stat = Path(path).stat()
    except OSError:
        return None
    return _file_digest(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_digest(path: str, size: int, changed: int) -> str:  # noqa: ARG001  (when it changed)
    return files.sha256(Path(path))
