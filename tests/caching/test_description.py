"""What an object is made of, as a digest: the same in every process, of whatever there is."""

from __future__ import annotations

import collections
import functools
import io
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
from torch.utils import checkpoint

from oodbench.caching.description import describe
from oodbench.caching.fingerprint import code_digest
from oodbench.extract import as_network
from tests.conftest import REPOSITORY
from tests.helpers.attempts import Server
from tests.helpers.users import key, network


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


def test_a_forward_that_was_put_on_an_object() -> None:
    def patched(scale: int) -> nn.Module:
        net = network("pass")
        net.forward = types.MethodType(lambda self, x: self.last(x.flatten(1) * scale), net)
        return net

    assert key(patched(2)) == key(patched(2)) != key(patched(3))


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


def test_what_torch_notes_on_its_functions_when_they_are_called_is_no_setting() -> None:
    """``torch.utils.checkpoint`` leaves a wrapper on the function that it is, at its first call."""

    def fresh(images: Tensor) -> Tensor:
        return images

    called = functools.wraps(fresh)(types.FunctionType(fresh.__code__, vars(checkpoint)))
    before = describe(called).digest
    called.__dynamo_disable = fresh  # type: ignore[attr-defined]
    assert describe(called).digest == before
    called.colour = fresh  # type: ignore[attr-defined]
    assert describe(called).digest != before, "somebody's function on a library's still counts"


def test_the_key_of_a_method_is_the_same_after_another_has_trained(server: Server) -> None:
    script = """
        import torch
        from oodbench.caching.fingerprint import code_digest
        from oodbench.detectors.abet import AbeTSegmentation
        from oodbench.registry import METHODS
        from tests.helpers.pixels import RECIPE, Strided
        keys = lambda: [code_digest(METHODS.get(name)) for name in ("abet", "ce", "palm")]
        before = keys()
        method = AbeTSegmentation(Strided(), 3, RECIPE)
        images, labels = torch.randn(2, 1, 7, 10), torch.randint(0, 3, (2, 7, 10))
        method.loss(images, labels)["loss"].backward()
        assert keys() == before
    """
    ran = server.imports(textwrap.dedent(script), folder=REPOSITORY)
    assert ran.status == 0, ran.both
