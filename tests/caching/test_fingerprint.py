"""What determines a network's outputs is in its key; what cannot be told is not cached."""

from __future__ import annotations

import collections
import ctypes
import functools
import io
import json
import os
import runpy
import sys
import textwrap
import threading
import types
import warnings
import weakref
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench import evaluate, files
from oodbench.benchmark import Benchmark
from oodbench.caching.description import describe
from oodbench.caching.fingerprint import cache_key, code_digest, unknown, weights_digest
from oodbench.caching.probe import some_of
from oodbench.data.samples import ImageArrays
from oodbench.data.transforms import Preprocess
from oodbench.dataset import DatasetSpec
from oodbench.errors import OODBenchWarning
from oodbench.extract import as_network, extract
from oodbench.hardware import Hardware
from oodbench.results import leaderboard
from tests.helpers.attempts import Server

GREY = Preprocess(8, (0.5,), (0.25,), mode="L")
CPU = Hardware(accelerator="cpu", batch_size=8)


def arrays(n: int = 21, seed: int = 0, name: str = "toy/test") -> ImageArrays:
    images = np.random.default_rng(seed).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    return ImageArrays(name, images, np.arange(n) % 3, ("a", "b", "c"))


def key(network: nn.Module) -> str | None:
    return cache_key(as_network(network), arrays(), GREY, "32-true")


def passes(network: nn.Module, samples: Any = None) -> int:
    """Samples that went through the network to be cached."""
    seen: list[int] = []
    extract(network, samples or arrays(), GREY, hardware=CPU, on_forward=seen.append)
    return sum(seen)


def logits(network: nn.Module) -> Tensor:
    return extract(network, arrays(), GREY, hardware=CPU).logits


def plain_logits(network: nn.Module) -> Tensor:
    samples = arrays()
    with torch.no_grad():
        return network.eval()(torch.stack([GREY(samples[i]) for i in range(len(samples))]))


def module(source: str, name: str = "users_own") -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update(
        nn=nn, torch=torch, F=F, np=np, functools=functools, os=os, collections=collections
    )
    exec(compile(textwrap.dedent(source), f"<{name}>", "exec"), made.__dict__)
    return made


def network(body: str, before: str = "", setup: str = "pass", name: str = "users_own") -> nn.Module:
    """A linear network whose ``forward`` returns ``self.last(z)``, with z computed by ``body``."""
    source = textwrap.dedent(before) + textwrap.dedent(
        f"""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.last = nn.Linear(64, 3)
                {setup}
            def forward(self, x):
                z = x.flatten(1)
                {body}
                return self.last(z)
        """
    )
    made: nn.Module = module(source, name).Net()
    return made


READ = {
    "int": ("z = z * POOL", "POOL = 2", "POOL = 4"),
    "negative": ("z = z * POOL", "POOL = 1", "POOL = -1"),
    "list": ("z = z * W[0]", "W = [2, 3]", "W = [4, 3]"),
    "nested list": ("z = z * W[1][0]", "W = [2, [3]]", "W = [2, [4]]"),
    "dict": ("z = z * C['a']", "C = {'a': 2}", "C = {'a': 4}"),
    "order of a dict": (
        "z = functools.reduce(lambda a, k: a * C[k] + 1, C, z)",
        "C = {'a': 2, 'b': 3}",
        "C = {'b': 3, 'a': 2}",
    ),
    "tuple": ("z = z * W[0]", "W = (2, 3)", "W = (4, 3)"),
    "set": ("z = z * len(S)", "S = {1, 2}", "S = {1, 2, 3}"),
    "tensor": ("z = z * T", "T = torch.ones(1)", "T = torch.zeros(1)"),
    "array": ("z = z * float(A[0])", "A = np.ones(2)", "A = np.zeros(2)"),
    "array of objects": (
        "z = z * A[0][0]",
        "A = np.array([[1], [2, 3]], dtype=object)",
        "A = np.array([[5], [2, 3]], dtype=object)",
    ),
    "numpy scalar": ("z = z * float(A)", "A = np.float64(1)", "A = np.float64(2)"),
    "nested function": (
        "f = lambda v: [u * POOL for u in v]\n                z = torch.stack(f(list(z)))",
        "POOL = 2",
        "POOL = 4",
    ),
    "called function": (
        "z = f(z)",
        "K = 2\ndef f(v): return v * K",
        "K = 3\ndef f(v): return v * K",
    ),
    "function that calls": (
        "z = f(z)",
        "K = [2]\ndef g(v): return v * K[0]\ndef f(v): return g(v)",
        "K = [3]\ndef g(v): return v * K[0]\ndef f(v): return g(v)",
    ),
    "default": ("z = f(z)", "def f(v, k=2): return v * k", "def f(v, k=3): return v * k"),
    "keyword default": (
        "z = f(z)",
        "def f(v, *, k=2): return v * k",
        "def f(v, *, k=3): return v * k",
    ),
    "closure": (
        "z = f(z)",
        "def make(k):\n    return lambda v: v * k\nf = make(2)",
        "def make(k):\n    return lambda v: v * k\nf = make(3)",
    ),
    "closure over a list": (
        "z = f(z)",
        "def make(k):\n    return lambda v: v * k[0]\nf = make([2])",
        "def make(k):\n    return lambda v: v * k[0]\nf = make([3])",
    ),
    "partial": (
        "z = f(z)",
        "f = functools.partial(torch.clamp, max=1)",
        "f = functools.partial(torch.clamp, max=0)",
    ),
    "decorated": (
        "z = f(z)",
        "K = 2\n@functools.cache\ndef g(): return K\n@torch.no_grad()\ndef f(v): return v * g()",
        "K = 3\n@functools.cache\ndef g(): return K\n@torch.no_grad()\ndef f(v): return v * g()",
    ),
    "own decorator": (
        "z = f(z)",
        "def twice(k):\n    def deco(g):\n        @functools.wraps(g)\n"
        "        def h(v): return g(v) * k\n"
        "        return h\n    return deco\n@twice(2)\ndef f(v): return v",
        "def twice(k):\n    def deco(g):\n        @functools.wraps(g)\n"
        "        def h(v): return g(v) * k\n"
        "        return h\n    return deco\n@twice(3)\ndef f(v): return v",
    ),
    "attribute of a function": (
        "z = z * f.k",
        "def f(): pass\nf.k = 2",
        "def f(): pass\nf.k = 3",
    ),
    "class": (
        "z = z * Config.k",
        "class Config:\n    k = 2",
        "class Config:\n    k = 3",
    ),
    "object": (
        "z = z * config.k",
        "class Config:\n    def __init__(self, k): self.k = k\nconfig = Config(2)",
        "class Config:\n    def __init__(self, k): self.k = k\nconfig = Config(3)",
    ),
    "object that is called": (
        "z = f(z)",
        "class F:\n    def __call__(self, v): return v * 2\nf = F()",
        "class F:\n    def __call__(self, v): return v * 3\nf = F()",
    ),
    "object made when it runs": (
        "z = Scale()(z)",
        "class Scale:\n    k = 0\n    def __init__(self): self.k = 2\n"
        "    def __call__(self, v): return v * self.k",
        "class Scale:\n    k = 0\n    def __init__(self): self.k = 3\n"
        "    def __call__(self, v): return v * self.k",
    ),
    "slots": (
        "z = z * c.k",
        "class C:\n    __slots__ = ('k',)\nc = C()\nc.k = 2",
        "class C:\n    __slots__ = ('k',)\nc = C()\nc.k = 3",
    ),
    "named tuple": (
        "z = z * c.k",
        "c = collections.namedtuple('C', 'k')(2)",
        "c = collections.namedtuple('C', 'k')(3)",
    ),
    "deque": ("z = z * d[0]", "d = collections.deque([2])", "d = collections.deque([3])"),
    "by name": ("z = z * globals()['POOL']", "POOL = 2", "POOL = 3"),
    "text of a long list": (
        "z = z * L[99999]",
        "L = list(range(100000))",
        "L = [*range(99999), 5]",
    ),
    "staticmethod": (
        "z = H.f(z)",
        "class H:\n    @staticmethod\n    def f(v): return v * 2",
        "class H:\n    @staticmethod\n    def f(v): return v * 3",
    ),
}


@pytest.mark.parametrize("kind", READ)
def test_what_code_reads_is_in_the_key(kind: str) -> None:
    body, old, new = READ[kind]
    one, same, other = network(body, old), network(body, old), network(body, new)
    assert key(one) == key(same) != None  # noqa: E711
    assert key(one) != key(other)


@pytest.mark.parametrize("kind", ["int", "dict", "closure over a list", "object made when it runs"])
def test_what_code_reads_runs_again_with_the_right_outputs(kind: str) -> None:
    body, old, new = READ[kind]
    assert passes(network(body, old)) == 21
    assert passes(network(body, old)) == 0
    changed = network(body, new)
    torch.testing.assert_close(logits(changed), plain_logits(changed))


class Whole(int):
    """A number of a user's own kind."""


class Slots:
    """Holds what it has without a dictionary."""

    __slots__ = ("k",)

    def __init__(self, k: int) -> None:
        self.k = k


class Loud(type):
    """A kind of class."""


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "own number": (lambda: Whole(1), lambda: Whole(2)),
    "slots": (lambda: Slots(1), lambda: Slots(2)),
    "stream in memory": (lambda: io.BytesIO(b"a"), lambda: io.BytesIO(b"b")),
    "method of a text": (lambda: "ab".replace, lambda: "ac".replace),
    "named": (lambda: TypeVar("A"), lambda: TypeVar("B")),
    "read-only dict": (
        lambda: types.MappingProxyType({"k": 1}),
        lambda: types.MappingProxyType({"k": 2}),
    ),
    "kind of class": (lambda: type("Made", (), {}), lambda: Loud("Made", (), {})),
    "fraction": (lambda: Fraction(1, 2), lambda: Fraction(1, 3)),
    "decimal": (lambda: Decimal(1), lambda: Decimal(2)),
    "deque": (lambda: collections.deque([1]), lambda: collections.deque([2])),
    "namespace": (lambda: types.SimpleNamespace(k=1), lambda: types.SimpleNamespace(k=2)),
    "numpy scalar": (lambda: np.float32(1), lambda: np.float32(2)),
    "generator": (
        lambda: torch.Generator().manual_seed(1),
        lambda: torch.Generator().manual_seed(2),
    ),
    "transform": (
        lambda: torchvision.transforms.Compose([torchvision.transforms.CenterCrop(4)]),
        lambda: torchvision.transforms.Compose([torchvision.transforms.CenterCrop(5)]),
    ),
    "hidden network": (lambda: [nn.Linear(1, 1)], lambda: [nn.Linear(1, 1)]),
    "path": (lambda: Path("a"), lambda: Path("b")),
    "default dict": (
        lambda: collections.defaultdict(int, a=1),
        lambda: collections.defaultdict(float, a=1),
    ),
    "forward": (
        lambda: functools.partial(torch.add, other=1),
        lambda: functools.partial(torch.add, other=2),
    ),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_what_a_network_holds_is_in_the_key(kind: str) -> None:
    def made(setting: Any) -> str | None:
        net = network("pass")
        net.setting = setting
        return key(net)

    torch.manual_seed(0)
    one, other = (make() for make in SETTINGS[kind])
    assert made(one) == made(one) != None  # noqa: E711
    assert made(one) != made(other)


def test_a_users_compiled_code_is_told_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extension = tmp_path / "users_fast.so"
    compiled = types.ModuleType("users_fast")
    compiled.__file__ = str(extension)
    monkeypatch.setitem(sys.modules, "users_fast", compiled)
    made = type("Fast", (), {"__module__": "users_fast"})
    digests = []
    for content in (b"one", b"another", b"one, again"):
        extension.write_bytes(content)
        digests.append(describe(made).digest)
    assert len(set(digests)) == 3
    assert describe(made).opaque == ()
    extension.unlink()
    assert describe(made).digest not in digests, "a file that is gone is not the one that was read"


def test_modules_that_code_can_do_without() -> None:
    """An import that fails when the network runs is the code's own affair, not the key's."""
    body = (
        "try:\n                    from . import users_nowhere\n"
        "                except ImportError:\n                    pass"
    )
    lone = (
        "try:\n                    import users_nowhere\n                except ImportError: pass"
    )
    keys = {key(network(one)) for one in (body, lone, "pass")}
    assert len(keys) == 3
    assert None not in keys


def test_a_forward_that_was_put_on_an_object() -> None:
    def patched(scale: int) -> nn.Module:
        net = network("pass")
        net.forward = types.MethodType(lambda self, x: self.last(x.flatten(1) * scale), net)
        return net

    assert key(patched(2)) == key(patched(2)) != key(patched(3))


def test_a_property_and_what_it_reads() -> None:
    def made(k: int) -> nn.Module:
        net = network(
            "z = z * self.k",
            f"K = {k}\nclass Base(nn.Module):\n    @property\n    def k(self): return K\n",
        )
        type(net).k = module(f"K = {k}\n@property\ndef k(self): return K").k
        return net

    assert key(made(2)) == key(made(2)) != key(made(3))


def test_a_hook_for_all_modules(request: pytest.FixtureRequest) -> None:
    net = network("pass")
    before = key(net)
    handle = nn.modules.module.register_module_forward_hook(lambda m, a, out: out * 2)
    request.addfinalizer(handle.remove)
    assert key(net) != before


def test_a_library_class_that_was_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    before = key(model)
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: x[:, :3])
    assert key(model) != before


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], types.ModuleType]:
    """Writes ``users_config.py`` and imports it anew."""
    monkeypatch.syspath_prepend(tmp_path)
    # bytecode of the same second, of a source as long as the next one, would count as its own
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text: str) -> types.ModuleType:
        import importlib

        (tmp_path / "users_config.py").write_text(text)
        sys.modules.pop("users_config", None)
        importlib.invalidate_caches()
        return importlib.import_module("users_config")

    yield write
    sys.modules.pop("users_config", None)


@pytest.mark.parametrize(
    ("body", "before"),
    [
        ("z = z * users_config.scale", "import users_config"),
        ("z = z * c.scale", "import users_config as c"),
        ("z = z * scale", "from users_config import scale"),
        ("import users_config\n                z = z * users_config.scale", ""),
        ("from users_config import scale\n                z = z * scale", ""),
        ("z = z * read(users_config)", "import users_config\ndef read(m): return m.scale"),
        ("z = z * getattr(users_config, 'sca' + 'le')", "import users_config"),
        ("z = users_config.scaled(z)", "import users_config"),
    ],
)
def test_constants_of_other_modules(
    package: Callable[[str], types.ModuleType], body: str, before: str
) -> None:
    text = "scale = {}\nother = 1\ndef scaled(v): return v * scale\n"
    package(text.format(2))
    two, again = key(network(body, before)), key(network(body, before))
    package(text.format(4))
    assert two == again != None  # noqa: E711
    assert key(network(body, before)) != two


COUNTS = {
    "global": ("global N\n                N += 1", "N = 0"),
    "global that is shown": (
        "global N\n                N += 1\n                if N % 2 == 0: print(N)",
        "N = 0",
    ),
    "dict": ("C['n'] += 1", "C = {'n': 0}"),
    "list": ("L.append(len(z))", "L = []"),
    "class attribute": ("type(self).n += 1", ""),
    "other class": ("Log.n += 1", "class Log:\n    n = 0"),
    "own attribute": ("self.n = self.n + 1 if False else 3", ""),
    "closure": (
        "count()",
        "def make():\n    n = 0\n    def count():\n        nonlocal n\n        n += 1\n"
        "    return count\n"
        "count = make()",
    ),
}


@pytest.mark.parametrize("kind", COUNTS)
def test_a_network_that_counts_its_calls_is_the_same_network(kind: str) -> None:
    body, before = COUNTS[kind]
    net = network(body, before)
    type(net).n = 0
    first = key(net)
    net(torch.zeros(2, 64))
    net(torch.zeros(2, 64))
    if kind != "own attribute":
        assert key(net) == first != None  # noqa: E711
        assert passes(net) == 21
        assert passes(net) == 0


def test_activations_that_are_kept_are_no_setting() -> None:
    net = network("self.kept = z")
    first = key(net)
    net(torch.ones(2, 64))
    assert key(net) == first


@pytest.mark.parametrize("how", ["function", "method"])
def test_what_other_code_stores_is_a_setting(how: str) -> None:
    """A setter stores as a counter does, but not in a forward pass."""
    net = network(
        "z = z * (POOL + self.pool)",
        "POOL = 2\ndef set_pool(n):\n    global POOL\n    POOL = n\n",
        "self.pool = 0",
    )
    first = key(net)
    if how == "function":
        type(net).forward.__globals__["set_pool"](4)
    else:
        type(net).set_pool = module("def set_pool(self, n): self.pool = n").set_pool
        first = key(net)
        net.set_pool(4)
    assert key(net) != first


# --- the same in every process; never fails --------------------------------------------------


def test_the_key_is_the_same_in_every_process(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import collections, enum, functools, threading, weakref, sys
            sys.path.insert(0, sys.argv[1])
            import numpy as np, torch
            from dataclasses import dataclass, field
            from torch import nn
            from oodbench.caching.description import describe
            class Mode(enum.Enum):
                A = 1
                B = 2
            @dataclass
            class Config:
                names: set = field(default_factory=lambda: {"x", "y", "z", "w"})
                mode: Mode = Mode.A
            CONFIG = Config()
            TABLE = {frozenset({"p", "q", "r"}): {1, 2, 3}, (1, "a"): Mode.B}
            OBJECTS = {Mode.A, Mode.B, len, Config, ("t", 1)}
            def helper(v, names=frozenset({"one", "two"})): return v * len(names)
            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    torch.manual_seed(0)
                    self.last = nn.Linear(4, 3)
                    self.lock = threading.Lock()
                    self.me = weakref.ref(self)
                    self.loop = [1]
                    self.loop.append(self.loop)
                    self.act = functools.partial(helper, names={"k", "l", "m"})
                    self.counter = collections.Counter("hello")
                    self.last.register_forward_hook(lambda m, a, o: o)
                def forward(self, x):
                    if CONFIG.mode in OBJECTS and "a" in {"a", "b", "c"}:
                        x = helper(x)
                    return self.last(x)
            print(describe(Net()).digest)
            """
        )
    )
    there = server.prints(script, tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(script), run_name="__main__")
    assert there == capsys.readouterr().out
    assert len(there.strip()) == 64


class Angry:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = object.__hash__


def chained(n: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(n):
        inner = [inner]
    return inner


def knot() -> dict[str, Any]:
    made: dict[str, Any] = {}
    made["itself"] = made
    return made


@pytest.mark.parametrize(
    "make",
    [
        threading.Lock,
        threading.Event,
        lambda: weakref.ref(Angry),
        lambda: (i for i in range(3)),
        lambda: iter([1, 2]),
        knot,
        lambda: chained(5000),
        lambda: list(range(2_000_000)),
        lambda: [[i, str(i)] for i in range(300_000)],
        lambda: [object() for _ in range(300_000)],
        Angry,
        lambda: warnings,
        lambda: sys.stdout,
        lambda: 10**6000,
        lambda: torch.sparse_coo_tensor([[0]], [1.0], (3,)),
        lambda: torch.empty(3, device="meta"),
        lambda: np.array([1, 2], dtype=[("a", "i4")]),
        lambda: functools.singledispatch(len),
        lambda: Angry.__getattr__,
        lambda: type("T", (), {"__module__": None}),
    ],
)
def test_a_key_never_fails_and_is_found_soon(make: Callable[[], Any]) -> None:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.last = nn.Linear(4, 3)

        def outputs(self, x: Tensor) -> dict[str, Tensor]:
            return {"features": x, "logits": self.last(x)}

        def head(self) -> None:
            return None

    net = Holds()
    net.odd = make()
    first = describe(net)
    assert first == describe(net)
    assert first.digest != describe(Holds()).digest


def test_a_network_of_libraries_alone_is_not_a_users() -> None:
    model = torchvision.models.mobilenet_v3_small(num_classes=3)
    found = describe(as_network(model))
    assert not found.is_users
    assert not found.opaque
    assert describe(as_network(network("pass"))).is_users


# --- unknown weights -------------------------------------------------------------------------


class Session:
    """Stands for a session of another runtime: its weights are in a C object."""

    def __init__(self, scale: float) -> None:
        self.handle = ctypes.CDLL(None)
        self.scale = scale


class Wrapped(nn.Module):
    """A model of another runtime, as users wrap it; maybe beside a few parameters."""

    def __init__(self, held: Any, where: str, *, head: bool = False) -> None:
        super().__init__()
        self.held, self.where = held, where
        if head:
            torch.manual_seed(0)
            self.bias = nn.Parameter(torch.zeros(1))

    def __deepcopy__(self, memo: Any) -> Wrapped:
        return self

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        scale = json.loads(Path(self.where).read_text())
        z = x.flatten(1)
        return {"features": z * scale, "logits": z[:, :3] * scale + z[:, 3:6] * scale**2}

    def head(self) -> None:
        return None


@pytest.mark.parametrize("head", [False, True])
def test_what_cannot_be_read_is_not_cached(tmp_path: Path, head: bool) -> None:
    where = tmp_path / "model.json"
    where.write_text("1")
    net = Wrapped(Session(1), str(where), head=head)
    assert cache_key(net, arrays(), GREY, "32-true") is None
    with pytest.warns(OODBenchWarning, match="weights of Wrapped are unknown") as caught:
        assert passes(net) == 21
    assert len(caught) == 1
    where.write_text("2")  # another model in the same file
    with pytest.warns(OODBenchWarning, match="not cached"):
        found = extract(net, arrays(), GREY, hardware=CPU)
    samples = arrays()
    images = torch.stack([GREY(samples[i]) for i in range(21)])
    torch.testing.assert_close(found.features, images.flatten(1) * 2)
    assert not list((files.cache_dir() / "outputs").glob("*/outputs.json"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ctypes.c_int(3),
        lambda: torch.jit.script(nn.Linear(2, 2)),
        lambda: {"inside": [ctypes.CDLL(None)]},
        lambda: functools.partial(print, ctypes.CDLL(None)),
    ],
)
def test_kinds_that_cannot_be_read(make: Callable[[], Any]) -> None:
    net = network("pass")
    net.held = make()
    assert unknown(net) is not None
    assert cache_key(net, arrays(), GREY, "32-true") is None


def test_code_that_reaches_outside_when_it_runs() -> None:
    asks = network(
        "z = z * ask(z)",
        "import urllib.request\ndef ask(v): return len(urllib.request.urlopen('http://x').read())",
    )
    assert "urllib" in str(unknown(as_network(asks)))
    fetches = network(
        "pass",
        "import urllib.request\ndef fetch(url): return urllib.request.urlopen(url)\n",
    )
    assert unknown(as_network(fetches)) is None, "a download of weights is not a remote model"


def test_a_network_without_any_array() -> None:
    class Client(nn.Module):
        def outputs(self, x: Tensor) -> dict[str, Tensor]:
            return {"features": x.flatten(1), "logits": x.flatten(1)[:, :3]}

        def head(self) -> None:
            return None

    assert unknown(Client()) is not None
    assert unknown(nn.Flatten()) is None, "all of it is a library's"
    held = Client()
    held.plain = torch.ones(3)
    assert unknown(held) is None
    other = Client()
    other.plain = torch.zeros(3)
    assert weights_digest(held) != weights_digest(other)
    assert weights_digest(held) != weights_digest(nn.Flatten())


def test_packed_weights_of_quantized_layers_are_weights() -> None:
    def made(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.ao.quantization.quantize_dynamic(
                nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), {nn.Linear}
            )

    assert weights_digest(made(0)) == weights_digest(made(0)) != weights_digest(made(1))


def benchmark() -> Benchmark:
    def spec(name: str, seed: int) -> DatasetSpec:
        return DatasetSpec(
            name, lambda split: arrays(40, seed + (split == "train"), f"{name}/{split}"),
            ("train", "test"),
        )  # fmt: skip

    return Benchmark("toy-known", spec("toy", 1), (spec("other", 3),), (), GREY)


def test_rows_of_unknown_weights(tmp_path: Path) -> None:
    where = tmp_path / "model.json"
    pages = tmp_path / "boards"
    net = Wrapped(Session(1), str(where))

    def run(scale: str) -> Any:
        where.write_text(scale)
        return evaluate(
            net,
            detectors="msp",
            benchmark=benchmark(),
            hardware=CPU,
            leaderboards=pages,
            preprocess="benchmark",
        )

    one, again, other = run("1"), run("1"), run("-1.5")
    for results in (one, again, other):
        assert [w for w in results.warnings if "weights of Wrapped are unknown" in w]
        assert all(row["weights"].startswith("unknown:") for row in results.rows)
    assert one.rows[0]["weights"] == again.rows[0]["weights"] != other.rows[0]["weights"]
    assert one.rows[0]["row_id"] == again.rows[0]["row_id"]
    assert one.rows[0]["auroc"] != other.rows[0]["auroc"]
    page = leaderboard.page(benchmark(), pages, whole=True)
    assert "| 2 | msp " in page, "two networks, two entries"
    assert "| 3 | msp " not in page


# --- what no reading of code finds -----------------------------------------------------------


class ReadsFile(nn.Module):
    def __init__(self, where: Path) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(64, 3)
        self.where = str(where)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1) * float(Path(self.where).read_text()))


def test_a_file_that_is_read_in_forward(tmp_path: Path) -> None:
    where = tmp_path / "scale"
    where.write_text("1")
    net = ReadsFile(where)
    assert passes(net) == 21
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert passes(net) == 0
    where.write_text("1.5")
    with pytest.warns(OODBenchWarning, match="other outputs on toy/test than those in the cache"):
        assert passes(net) == 21
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(logits(net), plain_logits(net))
        assert passes(net) == 0


def test_rows_of_a_network_that_changed_under_its_key(tmp_path: Path) -> None:
    where = tmp_path / "scale"
    net = ReadsFile(where)
    rows = []
    for text in ("1", "1", "-3", "-3"):
        where.write_text(text)
        found = evaluate(
            net, detectors="msp", benchmark=benchmark(), hardware=CPU, preprocess="benchmark"
        )
        rows.append((found.rows[0], found.warnings))
    weights = [row["weights"] for row, _ in rows]
    assert weights[0] == weights[1] == weights_digest(as_network(net))
    assert weights[2] == weights[3] != weights[0]
    assert weights[2].startswith("unknown:")
    told = [any("than those in the cache" in w for w in warned) for _, warned in rows]
    assert told == [False, False, True, False]


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("z = z * float(os.environ.get('users_scale'.upper(), '1'))")
    assert passes(net) == 21
    monkeypatch.setenv("USERS_SCALE", "3")
    with pytest.warns(OODBenchWarning, match="environment"):
        assert passes(net) == 21
    named = network("z = z * float(os.environ.get('USERS_SCALE', '1'))")
    assert passes(named) == 21
    monkeypatch.setenv("USERS_SCALE", "2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert passes(named) == 21, "the key has the variable"


def test_a_random_network_is_told() -> None:
    net = network("z = z + torch.rand(1)")
    passes(net)
    with pytest.warns(OODBenchWarning, match="or it is random"):
        passes(net)


def test_a_read_only_cache_that_is_warm(tmp_path: Path) -> None:
    where = tmp_path / "scale"
    where.write_text("1")
    net = ReadsFile(where)
    library = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    passes(net)
    passes(library)
    folders = [files.cache_dir(), *files.cache_dir().rglob("*")]
    modes = {path: path.stat().st_mode for path in folders}
    for path in folders:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert passes(net) == 0
        assert passes(library) == 0
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def test_few_samples_are_looked_at() -> None:
    assert some_of(1) == [0]
    assert some_of(2) == [0, 1]
    assert some_of(21) == [0, 1, 9, 10, 19, 20]
    assert len(some_of(1_000_000)) == 6


def test_networks_of_libraries_are_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    passes(model)
    monkeypatch.setattr(
        nn.Linear, "forward", nn.Linear.forward
    )  # the same function: no patch of a user's
    monkeypatch.setattr("oodbench.caching.probe.still_says", lambda *a: pytest.fail("it ran"))
    assert passes(model) == 0


def trainer(body: str) -> type:
    """A method as a third party would write it, in a module of its own."""
    names: dict[str, Any] = {"__name__": "somebody"}
    exec(compile(f"from oodbench import Method\n{body}", "somebody.py", "exec"), names)
    made: type = names["Mine"]
    return made


COUNTING = """
class Mine(Method):
    steps = 0
    seen = []
    def on_fit_start(self): type(self).steps += 1
    def loss(self, images, labels): self.seen.append(1); return {"loss": images.mean() * {scale}}
    def on_train_epoch_start(self): self.rate = {rate}
    margin = {margin}
"""


def method_of(scale: float = 1, rate: float = 0.1, margin: int = 3) -> type:
    text = COUNTING
    for name, value in (("scale", scale), ("rate", rate), ("margin", margin)):
        text = text.replace("{" + name + "}", repr(value))
    return trainer(text)


def test_a_method_that_counts_on_its_class_is_the_same_method() -> None:
    method = method_of()
    before = code_digest(method)
    method.steps += 3
    method.seen.append(5)
    assert code_digest(method) == before == code_digest(method_of())


@pytest.mark.parametrize("change", [{"scale": 2}, {"rate": 0.2}, {"margin": 4}], ids=str)
def test_another_training_is_another_method(change: dict[str, Any]) -> None:
    assert code_digest(method_of(**change)) != code_digest(method_of())


NETWORK = """
import torch
from torch import nn
from {base} import Base

SCALE = 2.0


class Options:
    def __init__(self):
        self.factor = 3.0


def scaled(images):
    return images.flatten(1) * SCALE * Options().factor


class Net(Base):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 3)

    def forward(self, images):
        return self.linear(scaled(images))
"""


def placed(monkeypatch: pytest.MonkeyPatch, module: str, base: str, source: str = NETWORK) -> Any:
    """The network of a source as it is in a module of that name, on a base class in another."""
    for name, text in (
        (base, "from torch import nn\nclass Base(nn.Module):\n    width = 64\n"),
        (module, source.format(base=base)),
    ):
        made = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, made)
        exec(compile(text, f"/{name}.py", "exec"), made.__dict__)
    return sys.modules[module].Net


@pytest.mark.parametrize("package", ["oodbench.", ""], ids=["of oodbench", "of a user"])
def test_a_key_holds_no_places(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """A file that is moved or renamed gives the same keys; one whose code changes does not."""
    here = placed(monkeypatch, f"{package}ground_", f"{package}ground_bases")
    there = placed(monkeypatch, f"{package}attic_.left", f"{package}cellar_")
    assert here.__module__ != there.__module__
    assert code_digest(here) == code_digest(there)
    assert key(here()) == key(there())
    said = NETWORK.replace(
        "self):\n        super", 'self):\n        """Another docstring."""\n        super'
    )
    told = placed(monkeypatch, f"{package}ground_", f"{package}ground_bases", said)
    assert told.__init__.__doc__
    assert code_digest(here) == code_digest(told)
    assert key(here()) == key(told())
    for old, new in (
        ("factor = 3.0", "factor = 4.0"),
        ("SCALE = 2.0", "SCALE = 1.0"),
        ("self.linear(", "-self.linear("),
    ):
        changed = NETWORK.replace(old, new)
        other = placed(monkeypatch, f"{package}ground_", f"{package}ground_bases", changed)
        assert code_digest(here) != code_digest(other), old
        assert key(here()) != key(other()), old


def test_a_docstring_that_is_read_as_a_value_is_a_setting() -> None:
    """Python keeps one constant for both."""
    made = []
    for word in ("relu", "tanh"):
        names: dict[str, Any] = {"nn": nn, "torch": torch}
        source = f"""class Net(nn.Module):
    def forward(self, images):
        "{word}"
        return getattr(torch, "{word}")(images)
"""
        exec(compile(source, "/net.py", "exec"), names)
        made.append(names["Net"])
    assert code_digest(made[0]) != code_digest(made[1])
