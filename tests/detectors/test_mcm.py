"""MCM, GL-MCM, energy and maximum of cosines: by hand, in slow loops, and on two small towers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import oodbench
from oodbench import Head, Outputs, get_benchmark
from oodbench.detectors.mcm import GLMCM, MCM, CLIPEnergy, CLIPMaxLogit
from oodbench.errors import MissingOutputError, OODBenchError, OptionError
from oodbench.networks.towers import ZeroShot
from oodbench.text import Text
from tests.helpers.towers import digit_towers


def made(n: int = 9, classes: int = 4, dim: int = 6, patches: int = 5) -> Outputs:
    generator = torch.Generator().manual_seed(3)

    def unit(*shape: int) -> torch.Tensor:
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return drawn / drawn.norm(dim=-1, keepdim=True)

    text = Text(unit(classes, dim), 50.0)
    head = Head(50 * text.classes, text=text)
    e = unit(n, dim)
    return Outputs(e, head(e), head=head, extra={"patches": unit(n, patches, dim)})


def softmax(values: list[float]) -> list[float]:
    whole = sum(math.exp(v) for v in values)
    return [math.exp(v) / whole for v in values]


def cosines(vector: torch.Tensor, outputs: Outputs) -> list[float]:
    text = outputs.any_head().text
    assert text is not None
    return [sum(float(a) * float(b) for a, b in zip(vector, t, strict=True)) for t in text.classes]


@pytest.mark.parametrize("t", [1.0, 0.01])
def test_formulas_in_slow_loops(t: float) -> None:
    outputs = made()
    scores = {
        name: create.score(outputs).tolist()
        for name, create in {
            "mcm": MCM(t), "gl": GLMCM(t, 0.7), "max": CLIPMaxLogit(t), "energy": CLIPEnergy(t),
        }.items()
    }  # fmt: skip
    for i in range(len(outputs)):
        f = [c / t for c in cosines(outputs.features[i], outputs)]
        local = max(
            max(softmax([c / t for c in cosines(patch, outputs)]))
            for patch in outputs.extra["patches"][i]
        )
        assert scores["mcm"][i] == pytest.approx(-max(softmax(f)), abs=1e-9)
        assert scores["gl"][i] == pytest.approx(-max(softmax(f)) - 0.7 * local, abs=1e-9)
        assert scores["max"][i] == pytest.approx(-max(f), abs=1e-9)
        assert scores["energy"][i] == pytest.approx(
            -t * math.log(sum(math.exp(v) for v in f)), abs=1e-9
        )


def test_by_hand() -> None:
    text = Text(torch.eye(2), 10.0)
    outputs = Outputs(
        torch.tensor([[1.0, 0.0], [3.0, 3.0]]), head=Head(10 * torch.eye(2), text=text)
    )
    expected = [-math.e / (math.e + 1), -0.5]
    assert MCM().score(outputs).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("t", [1.0, 0.01])
def test_scores_of_pytorch_ood(t: float) -> None:
    peer = pytest.importorskip("pytorch_ood.detector")
    outputs = made(n=50)
    text = outputs.any_head().text
    assert text is not None
    theirs = peer.MCM(None, 3 * text.classes, t).predict_features(2 * outputs.features)
    torch.testing.assert_close(MCM(t).score(outputs).float(), theirs, rtol=1e-5, atol=1e-6)


def test_without_text_it_says_what_to_give() -> None:
    bare = Outputs(torch.ones(2, 3), head=Head(torch.ones(2, 3)))
    with pytest.raises(MissingOutputError, match=r"mcm needs text.*openclip/NAME/TAG"):
        oodbench.create_detector("mcm").score(bare)
    outputs = made()
    outputs.extra = {}
    with pytest.raises(MissingOutputError, match="patches"):
        oodbench.create_detector("gl-mcm").score(outputs)


@pytest.mark.parametrize("name", ["mcm", "gl-mcm", "clip-energy", "clip-maxlogit"])
def test_options_are_checked(name: str) -> None:
    with pytest.raises(OptionError, match="temperature"):
        oodbench.create_detector(name, temperature=0.0)


def test_a_network_that_is_trained_here_is_refused_before_it_is() -> None:
    with pytest.raises(OptionError, match="reads text"):
        oodbench.evaluate(id="digits", detectors=["mcm"])


def test_two_small_towers_on_digits() -> None:
    names = ["mcm", "gl-mcm", "clip-energy", "clip-maxlogit", "maxlogit"]
    rows = oodbench.evaluate(digit_towers(), id="digits", detectors=names).to_pandas()
    assert set(rows["detector"]) == set(names)
    assert rows["id_accuracy"].min() > 0.93  # zero-shot by the names alone
    far = rows[rows["ood"] == "far"].set_index("detector")["auroc"]
    assert far["mcm"] > 0.7
    # the same order, by two ways
    assert far["clip-maxlogit"] == pytest.approx(far["maxlogit"], abs=1e-4)


def test_zero_shot_is_a_network_in_python() -> None:
    network = ZeroShot(digit_towers(), [f"{i}" for i in range(6)], ["a photo of a {}"])
    rows = oodbench.evaluate(network, id="digits", detectors=["mcm"]).to_pandas()
    assert len(rows)


def test_prompts_of_another_network_are_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 6))
    with pytest.raises(OptionError, match="networks that read text"):
        oodbench.evaluate(model, id="digits", detectors=["msp"], preprocess="digits", prompts="{}")


def test_fitted_saved_and_loaded_with_the_network(tmp_path: Path) -> None:
    network = ZeroShot(digit_towers(), [f"{i}" for i in range(6)], patches=True)
    images = [get_benchmark("digits").id.load("test")[i] for i in range(5)]
    for name in ("mcm", "gl-mcm"):
        fitted = oodbench.fit(name, network, id="digits")
        fitted.save(tmp_path / name)
        loaded = oodbench.load(tmp_path / name, network)
        assert loaded.score(images).tolist() == fitted.score(images).tolist()
    with pytest.raises(OODBenchError, match="Give it again"):
        oodbench.load(tmp_path / "mcm")
