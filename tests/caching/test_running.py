"""What code stores when it runs is no setting; what other code stores is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oodbench.caching.fingerprint import code_digest
from tests.helpers.users import key, module, network, passes

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


# --- training methods ------------------------------------------------------------------------


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
