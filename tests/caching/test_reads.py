"""What code reads outside of itself is in the key of a network."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.helpers.users import key, logits, module, network, passes, plain_logits

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


def test_a_property_and_what_it_reads() -> None:
    def made(k: int) -> nn.Module:
        net = network(
            "z = z * self.k",
            f"K = {k}\nclass Base(nn.Module):\n    @property\n    def k(self): return K\n",
        )
        type(net).k = module(f"K = {k}\n@property\ndef k(self): return K").k
        return net

    assert key(made(2)) == key(made(2)) != key(made(3))


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
