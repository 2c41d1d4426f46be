"""Outputs that are no logits of the ID classes, and detectors on networks of another kind."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import oodbench
from oodbench import Detector
from oodbench.checks import doubts, level, sanity
from oodbench.errors import OptionError
from oodbench.networks.backbones import create_backbone
from oodbench.networks.headed import HeadedBackbone
from oodbench.outputs import Outputs
from tests.helpers.cli import CLI
from tests.helpers.few import few_digits
from tests.helpers.images import FAST


@pytest.fixture(autouse=True)
def _untrained_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks here learned nothing; what is said of their accuracy has its own tests."""
    monkeypatch.setattr(sanity, "of_outputs", lambda *_: iter(()))


def network(outputs: int, *behind: nn.Module) -> nn.Module:
    """For the six ID classes of ``digits``."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs), *behind)


def evaluated(model: nn.Module, *detectors: str | Detector, **options: Any) -> oodbench.Results:
    return oodbench.evaluate(
        model,
        benchmark=few_digits(),
        detectors=list(detectors) or ["msp", "mahalanobis"],
        hardware=FAST,
        **{"preprocess": "benchmark", **options},
    )


@pytest.mark.parametrize("outputs", [1, 2, 5])
@pytest.mark.parametrize("detector", ["msp", "mahalanobis", "odin"])
def test_fewer_outputs_than_classes(outputs: int, detector: str) -> None:
    with pytest.raises(OptionError, match=rf"{'one' if outputs == 1 else outputs} output.*6 class"):
        evaluated(network(outputs), detector)


@pytest.mark.parametrize("behind", [nn.Flatten(0), nn.Sigmoid()], ids=["[B]", "sigmoid"])
def test_one_logit(behind: nn.Module) -> None:
    with pytest.raises(OptionError, match=r"one output"):
        evaluated(network(1, behind))


@pytest.mark.parametrize("outputs", [7, 10, 1000])
def test_more_outputs_than_classes(outputs: int) -> None:
    results = evaluated(network(outputs))
    (warning,) = results.warnings
    assert f"{outputs} outputs for 6 ID classes" in warning
    assert "msp" in warning
    assert "mahalanobis" not in warning
    for row in results:
        assert row["id_accuracy"] is None
        assert row["id_accuracy_low"] is None
        assert 0 <= row["auroc"] <= 1
    assert evaluated(network(outputs), "mahalanobis").warnings == []


def test_pages_and_tables_without_an_accuracy(run: CLI, tmp_path: Path) -> None:
    results = evaluated(network(7), leaderboards="leaderboards")
    assert results.to_pandas()["id_accuracy"].isna().all()
    assert '"id_accuracy": null' in results.to_json()
    ran = run("leaderboard", "--id", "digits")
    assert ran.status == 0, ran.both


def test_healthy_networks_are_not_doubted() -> None:
    for model in (network(6), HeadedBackbone(create_backbone("digits-cnn", 1), 6)):
        results = evaluated(model, "msp", "knn", "react", "odin")
        assert results.warnings == []
        assert results.rows[0]["id_accuracy"] is not None


class Scaled(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return 100 * z.softmax(dim=1)


class Hard(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return nn.functional.one_hot(z.argmax(dim=1), 6).float()


@pytest.mark.parametrize(
    ("behind", "told"),
    [
        (nn.Softmax(dim=1), "sum to 1;"),
        (nn.Sigmoid(), "between 0 and 1"),
        (Scaled(), "sum to 100;"),
        (Hard(), "sum to 1;"),
    ],
)
def test_probabilities_instead_of_logits(behind: nn.Module, told: str) -> None:
    results = evaluated(network(6, behind), "msp", "energy", "mahalanobis")
    (warning,) = [text for text in results.warnings if "not logits" in text]
    assert told in warning
    assert "msp, energy mean" in warning
    assert all(row["id_accuracy"] is not None for row in results)
    assert not any("not logits" in t for t in evaluated(network(6, behind), "mahalanobis").warnings)


# Logits without a level

LOGITS = ["msp", "energy", "maxlogit", "weighted-energy", "nnguide", "ensemble", "neco", "odin"]
REFUSED = {"energy", "weighted-energy", "nnguide", "ensemble", "neco"}


class Shifted(nn.Module):
    """A log-softmax whose log-sum-exp is another constant."""

    def forward(self, z: Tensor) -> Tensor:
        return z.log_softmax(dim=1) + 3


class Rounded(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z.log_softmax(dim=1).half()


@functools.cache
def of_logits(layer: str | None) -> oodbench.Results:
    """What a network that says logits gets; nothing is to change it."""
    return evaluated(network(6), *LOGITS, layer=layer)


@pytest.mark.parametrize("layer", [None, "1"])
@pytest.mark.parametrize("behind", [nn.LogSoftmax(dim=1), Shifted(), Rounded()])
def test_energies_of_log_probabilities_are_refused(behind: nn.Module, layer: str | None) -> None:
    results = evaluated(network(6, behind), *LOGITS, layer=layer)
    assert results.failures.keys() == REFUSED
    for reason in results.failures.values():
        assert "without that last layer" in reason
    healthy = of_logits(layer)
    assert healthy.failures == {}
    if not isinstance(behind, Rounded):  # a constant changes no softmax
        figures = {(r["detector"], r["ood"]): r["auroc"] for r in healthy}
        for row in results:
            if row["detector"] in ("msp", "odin"):
                assert row["auroc"] == pytest.approx(figures[row["detector"], row["ood"]], abs=1e-4)


def test_log_probabilities_are_said() -> None:
    results = evaluated(network(6, nn.LogSoftmax(dim=1)), "msp", "energy", "maxlogit")
    (warning,) = [text for text in results.warnings if "log-probabilities" in text]
    assert "whatever else msp, maxlogit read" in warning
    for row in results:
        assert f"whatever else {row['detector']} read" in " ".join(row["notes"])
    with pytest.raises(OptionError, match="rounding noise"):
        evaluated(network(6, nn.LogSoftmax(dim=1)), "energy")


def test_what_reads_logits_off_the_network_is_refused_too() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 6)]
    ending = nn.Sequential(*layers, nn.LogSoftmax(dim=1))
    assert evaluated(ending, "msp", "rankfeat").failures.keys() == {"rankfeat"}
    assert evaluated(nn.Sequential(*layers), "msp", "rankfeat").failures == {}


def test_energies_at_other_temperatures_have_an_order() -> None:
    hot = oodbench.create_detector("energy", temperature=2.0)
    assert evaluated(network(6, nn.LogSoftmax(dim=1)), "msp", hot).failures == {}


def test_a_member_of_an_ensemble_counts() -> None:
    both = oodbench.create_detector("ensemble", members=("msp", "knn"))
    assert not both.reads_level
    assert oodbench.create_detector("ensemble", members=("msp", "energy")).reads_level
    assert evaluated(network(6, nn.LogSoftmax(dim=1)), "msp", both).failures == {}


@pytest.mark.parametrize(
    "logits",
    [
        torch.randn(50, 4),
        torch.randn(50, 1000) * 30,
        torch.zeros(50, 4),
        torch.ones(50, 4).cumsum(dim=1),  # the same for every sample: no network, but no softmax
        torch.nn.functional.normalize(torch.randn(50, 4)),
        torch.randn(1, 4),
        torch.randn(2, 4),
        torch.randn(50, 1),
        torch.full((50, 4), torch.nan),
        torch.randn(50, 4).half(),
        torch.randn(50, 4).bfloat16(),
        (torch.randn(50, 10) * 5).softmax(dim=1),
        torch.cat([torch.randn(50, 4), -1e9 * torch.rand(50, 1)], dim=1),  # a class masked out
    ],
)
def test_healthy_logits_have_a_level(logits: Tensor) -> None:
    assert level.has_level(logits)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("n", [2, 7, 50])
@pytest.mark.parametrize("classes", [2, 1000])
def test_log_probabilities_have_none(n: int, classes: int, scale: float) -> None:
    logits = (torch.randn(n, classes) * scale).log_softmax(dim=1)
    assert not level.has_level(logits)
    assert level.has_level(logits + 5) == (n < level.LEAST)
    if scale >= 1:  # else rounding is more than what differs
        assert not level.has_level(logits.bfloat16())


@pytest.mark.parametrize(
    "logits",
    [
        torch.randn(50, 4),
        torch.rand(50, 4) * 2,  # positive, but neither below 1 nor of one sum
        -torch.rand(50, 4),
        torch.zeros(50, 4),
        torch.nn.functional.normalize(torch.randn(50, 4)),
        torch.randn(50, 1000) * 30,
        torch.eye(4)[torch.arange(50) % 4] * 9 - 1,
    ],
    ids=["normal", "positive", "negative", "zeros", "unit", "wide", "steps"],
)
def test_logits_are_logits(logits: Tensor) -> None:
    found = doubts.of_outputs(
        Outputs(logits=logits), logits.shape[1], [oodbench.create_detector("msp")], "Net"
    )
    assert list(found) == []


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_rounded_probabilities(kind: torch.dtype) -> None:
    outputs = Outputs(logits=torch.randn(50, 100).softmax(dim=1).to(kind))
    (warning,) = doubts.of_outputs(outputs, 100, [oodbench.create_detector("energy")], "Net")
    assert "probabilities" in warning


# Detectors of other methods


@pytest.mark.parametrize("name", ["palm", "ptood"])
def test_a_detector_of_another_method(name: str) -> None:
    results = evaluated(network(6), name, "knn")
    (warning,) = results.warnings
    assert warning.startswith(f"{name} was designed for")
    assert {row["detector"] for row in results} == {name, "knn"}
    method = oodbench.create_detector(name).method
    assert evaluated(network(6), name, method=method).warnings == []


def test_rows_and_pages_carry_what_was_said(run: CLI, tmp_path: Path) -> None:
    results = evaluated(network(7), "palm", "mahalanobis", "msp", leaderboards="leaderboards")
    notes = {row["detector"]: row["notes"] for row in results}
    assert "designed for networks of the method palm" in notes["palm"][-1]
    assert notes["mahalanobis"] is None
    (said,) = notes["msp"]
    assert "7 outputs for 6 ID classes" in said
    assert "palm" not in said
    ran = run("leaderboard", "--id", "digits")
    assert ran.status == 0, ran.both
    page = Path("leaderboards/digits.md").read_text(encoding="utf-8")
    assert "| msp ‡ |" in page
    assert "| mahalanobis |" in page
    assert page.count("- msp: the ") == 1
    (path,) = Path("leaderboards/results/digits").glob("msp-*.json")
    path.write_text(path.read_text().replace("7 outputs for 6", "6 outputs for 6"))
    assert "row_id" in run("leaderboard", "--id", "digits").err


def test_a_detector_of_another_method_on_a_checkpoint(run: CLI, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(HeadedBackbone(create_backbone("digits-cnn", 1), 6).state_dict(), path)
    words = ["eval", "--id", "digits", "--backbone", "digits-cnn", "--checkpoint", path,
             "--preprocess", "digits", "--accelerator", "cpu", "--detector"]  # fmt: skip
    ran = run(*words, "palm,msp")
    assert ran.status == 0, ran.both
    (warning,) = [line for line in ran.out.splitlines() if line.startswith("warning")]
    assert "palm was designed for networks of the method palm" in warning
    assert "warning" not in run(*words, "msp").out


def test_a_given_network_is_doubted_in_tuning_too() -> None:
    with pytest.raises(OptionError, match=r"2 outputs.*6 class"):
        evaluated(network(2), "knn", tune=True)


def test_notes_are_told_once_and_where_they_matter() -> None:
    class Twice(nn.Module):
        def __init__(self, behind: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.net, self.behind = network(6), behind

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.ones(len(x), 2), self.behind(self.net(x))

    results = evaluated(Twice(lambda z: z.mul_(2)), "msp", "knn")
    taken, headless = sorted(results.warnings, key=lambda text: "layer" in text)
    assert "its '1' was taken for the logits" in taken
    assert "'net.1'" in headless
    assert evaluated(Twice(lambda z: z.mul_(2)), "msp").warnings == [taken]
    assert evaluated(Twice(lambda z: z), "msp", "knn").warnings == [taken]
    failing = evaluated(Twice(lambda z: z.mul_(2)), "msp", "react")
    assert "off), so the head is not known" in failing.failures["react"]
