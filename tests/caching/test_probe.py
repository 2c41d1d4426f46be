"""What no reading of code finds: networks that say something else than the cache has of them."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from oodbench import evaluate, files
from oodbench.caching.fingerprint import weights_digest
from oodbench.caching.probe import some_of
from oodbench.errors import OODBenchWarning
from oodbench.extract import as_network
from tests.helpers.images import CPU
from tests.helpers.users import benchmark, logits, network, passes, plain_logits


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
