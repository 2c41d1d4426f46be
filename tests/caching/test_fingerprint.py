"""What determines a network's outputs is in its key; what cannot be told is not cached."""

from __future__ import annotations

import ctypes
import functools
import json
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oodbench import evaluate, files
from oodbench.caching.fingerprint import cache_key, code_digest, unknown, weights_digest
from oodbench.errors import OODBenchWarning
from oodbench.extract import as_network, extract
from oodbench.results import leaderboard
from tests.helpers.images import CPU, GREY, arrays
from tests.helpers.users import benchmark, key, network, passes

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


# --- keys hold no places ---------------------------------------------------------------------


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
