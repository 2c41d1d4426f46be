"""What detectors say of their own figures: it reaches the results and the rows, once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import oodbench
from oodbench import Detector, Outputs
from oodbench.errors import OODBenchWarning, OptionError
from oodbench.outputs import Head
from oodbench.reporting import of_a_kind
from tests.helpers import pixels
from tests.helpers.few import few_digits
from tests.helpers.images import FAST

SHAPING = ["ash-p", "ash-b", "ash-s", "scale", "lts", "vra"]


def network(*behind: nn.Module) -> nn.Module:
    """64 features for the six ID classes of ``digits``, with what is said to be behind them."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 200), *behind, nn.Linear(200, 6))


def notes(results: oodbench.Results) -> dict[str, list[str]]:
    """Those that begin with the name of their row's detector."""
    found: dict[str, list[str]] = {}
    for row in results:
        own = [n for n in row["notes"] or () if n.startswith(f"{row['detector']}: ")]
        assert found.setdefault(row["detector"], own) == own
    return found


@pytest.mark.parametrize("behind", [(), (nn.SiLU(),), (nn.GELU(),), (nn.LayerNorm(200),)])
def test_shaping_of_signed_features_is_said(behind: tuple[nn.Module, ...]) -> None:
    results = oodbench.evaluate(
        network(*behind),
        benchmark=few_digits(),
        detectors=[*SHAPING, "react", "dice", "msp"],
        hardware=FAST,
        preprocess="benchmark",
    )
    for name, own in notes(results).items():
        told = [text for text in own if "features are negative" in text]
        assert len(told) == (name in SHAPING), name
        for text in told:
            assert text in results.warnings
            assert 10 < float(text.split()[1]) < 90
    said = [text for text in results.warnings if "features are negative" in text]
    assert len(said) == len(SHAPING)


def test_shaping_of_rectified_features_says_nothing() -> None:
    results = oodbench.evaluate(
        network(nn.ReLU()),
        benchmark=few_digits(),
        detectors=SHAPING,
        hardware=FAST,
        preprocess="benchmark",
    )
    assert all(own == [] for own in notes(results).values())


def features(values: Tensor) -> Outputs:
    head = Head(torch.randn(3, values.shape[1]), torch.zeros(3))
    return Outputs(values, head(values), torch.arange(len(values)) % 3, head)


@pytest.mark.parametrize("name", SHAPING)
def test_the_share_of_negative_features(name: str) -> None:
    z = torch.rand(50, 200) + 0.1
    z[:, :50] *= -1
    detector = oodbench.create_detector(name).fit(features(z.abs()))
    with pytest.warns(OODBenchWarning, match=rf"^{name}: 25 % of the features are negative"):
        detector.score(features(z))
    with warnings.catch_warnings():
        warnings.simplefilter("error", OODBenchWarning)
        detector.score(features(z.abs()))
        detector.score(features(z.abs() - 1e-8 * (z < 0)))  # rounding


def test_clipping_presumes_no_rectified_features() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", OODBenchWarning)
        signed = features(torch.randn(50, 200))
        for detector in (oodbench.create_detector("vra", below="clip"), "react", "dice"):
            one = oodbench.create_detector(detector) if isinstance(detector, str) else detector
            one.fit(signed).score(signed)


def test_cosines_of_signed_features() -> None:
    z = torch.randn(20, 30)
    head = Head(torch.randn(3, 30), norm_eps=1e-4)
    outputs = Outputs(z, labels=torch.arange(20) % 3, head=head)
    outputs.extra["temperature"] = torch.full((20,), 0.5)
    with pytest.warns(OODBenchWarning, match=r"^abet-ash: [45]\d % of the features are negative"):
        oodbench.create_detector("abet-ash").score(outputs)


# Neighbours


def classes(*counts: int) -> Outputs:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    z = torch.randn(len(labels), 8)
    return Outputs(z, z[:, :3], labels)


@pytest.mark.parametrize("name", ["knn", "nnguide", "ptood"])
def test_more_neighbours_than_the_smallest_class_has(name: str) -> None:
    detector = oodbench.create_detector(name, k=10)
    with pytest.warns(OODBenchWarning, match=rf"^{name}: k=10 is more than the 9 .*\(1 of 3"):
        detector.fit(classes(9, 10, 11))
    with warnings.catch_warnings():
        warnings.simplefilter("error", OODBenchWarning)
        detector.fit(classes(10, 10, 11))
        detector.fit(classes(10, 0, 11))  # no class, no samples of it
    with pytest.raises(OptionError, match=rf"{name}: k=10 exceeds the 9 training samples"):
        detector.fit(classes(3, 3, 3))


def test_many_neighbours_reach_the_rows() -> None:
    many = oodbench.create_detector("knn", k=300)
    results = oodbench.evaluate(
        network(nn.ReLU()),
        benchmark=few_digits(),
        detectors=[many, "knn"],
        hardware=FAST,
        preprocess="benchmark",
    )
    told = [row["notes"] for row in results if row["detector_options"]["k"] == 300]
    assert all(any("k=300 is more than" in note for note in own) for own in told)
    told = [row["notes"] or [] for row in results if row["detector_options"]["k"] == 50]
    assert not any("is more than" in note for own in told for note in own)


# Anybody's detector


@dataclass
class Talker(Detector):
    """Says something whenever it is asked. Higher = more OOD; unbounded."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def fit(self, train: Outputs) -> Talker:
        warnings.warn(f"talker: fitted on {len(train)} samples.", OODBenchWarning, stacklevel=2)
        return self

    def score(self, outputs: Outputs) -> Tensor:
        share = float((outputs.features > 0).double().mean())
        warnings.warn(f"talker: {share:.5f} of them, {len(outputs):,} in all.", OODBenchWarning)  # noqa: B028
        return outputs.features.sum(dim=1)


def test_anybodys_warnings_reach_the_rows_once() -> None:
    results = oodbench.evaluate(
        network(),
        benchmark=few_digits(),
        detectors=[Talker(), "msp"],
        hardware=FAST,
        preprocess="benchmark",
    )
    for row in results:
        own = [n for n in row["notes"] or () if n.startswith("talker")]
        assert len(own) == (2 if row["detector"] == "Talker" else 0)
    own = [text for text in results.warnings if text.startswith("talker")]
    assert len(own) == 2
    assert own[0].startswith("talker: fitted on")
    assert own[1].startswith("talker: 0.")
    assert " 100 in all" in own[1]  # of the ID test set, which comes first


@dataclass
class PixelTalker(Detector):
    """Says something of each image. Higher = more OOD; unbounded."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def score(self, outputs: Outputs) -> Tensor:
        warnings.warn(f"talker: {len(outputs)} pixels.", OODBenchWarning, stacklevel=2)
        return outputs.logits.sum(dim=1)


def test_what_is_said_of_pixels_reaches_the_rows_once() -> None:
    results = pixels.evaluate([PixelTalker(), "msp"])
    for row in results:
        own = [n for n in row["notes"] or () if n.startswith("talker")]
        assert own == (["talker: 54 pixels."] if row["detector"] == "PixelTalker" else [])


class Pixels(nn.Module):
    """Log-probabilities of three classes, for each pixel of a grey image."""

    def forward(self, images: Tensor) -> Tensor:
        return (images * torch.tensor([-2.0, 1.5, 3.0])[:, None, None]).log_softmax(dim=1)


def test_energies_of_pixels_log_probabilities_are_refused() -> None:
    results = pixels.evaluate(["energy", "maxlogit"], model=Pixels())
    assert results.failures.keys() == {"energy"}
    assert "without that last layer" in results.failures["energy"]
    assert any("are log-probabilities" in text for text in results.warnings)
    assert all(any("log-prob" in note for note in row["notes"]) for row in results)


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        (["a 1", "a 2", "b 1"], [0, 2]),
        (["1,234.5 % of x", "7 % of x", "7 % of y"], [0, 2]),
        (["3e-05 off", "0.1 off"], [0]),
        ([], []),
    ],
)
def test_texts_that_differ_by_numbers(texts: list[str], kept: list[int]) -> None:
    assert of_a_kind(texts) == [texts[i] for i in kept]


def test_few_samples_reach_the_rows() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1200), nn.ReLU(), nn.Linear(1200, 6))
    names: list[Any] = ["mahalanobis", "residual"]
    results = oodbench.evaluate(
        model, benchmark=few_digits(), detectors=names, hardware=FAST, preprocess="benchmark"
    )
    own = notes(results)
    assert "too few for a covariance of 1,200 features" in own["mahalanobis"][0]
    assert "training samples have 1,200 features" in own["residual"][0]
