"""What holds for the scores of many detectors: order, ties, huge logits, zero features, options."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import Tensor

import oodbench
from oodbench import Outputs
from oodbench.errors import OptionError
from oodbench.info import describe
from oodbench.outputs import Head
from tests.helpers.problems import OF_OUTPUTS, problem
from tests.helpers.scores import confident, images, same, scores, small_cnn

ZERO = ["knn", "nnguide", "ssd", "relation", "pnml", "neco", "nci", "fdbd", "kpca", "palm", "she"]
ZERO += ["ash-p", "ash-b", "ash-s", "scale", "lts", "gradnorm"]

# Detectors whose scores depend on the order of training samples, and what they say of it.
ORDERED = {"nnguide": "order of the samples", "gram": "samples' order", "ensemble": "another order"}
ORDERED |= {"cfood": "order of the training samples", "weiper": "order of the classes"}


def _in_order(outputs: Outputs, order: Tensor, classes: Tensor) -> Outputs:
    """The same samples in another order, with their classes numbered anew."""
    assert outputs.head is not None
    head = Head(outputs.head.weight[classes], outputs.head.bias[classes])
    labels = classes.argsort()[outputs.labels]
    return Outputs(outputs.features, outputs.logits[:, classes], labels, head)[order]


@pytest.mark.parametrize("name", [n for n in OF_OUTPUTS if n not in ORDERED])
def test_the_order_of_samples_and_classes_is_of_no_matter(name: str) -> None:
    p = problem(n=301)
    order = torch.randperm(301, generator=torch.Generator().manual_seed(1))
    classes, same_rows = torch.tensor([3, 0, 4, 2, 1]), torch.arange(40)
    detector = oodbench.create_detector(name)
    if "k" in detector.options():
        detector = oodbench.create_detector(name, k=5)
    expected = copy.deepcopy(detector).fit(p.train).score(p.test).double()
    found = copy.deepcopy(detector).fit(_in_order(p.train, order, classes))
    scores = found.score(_in_order(p.test, same_rows, classes)).double()
    assert float((scores - expected).abs().max()) <= 1e-4 * max(1.0, float(expected.std()))


@pytest.mark.parametrize("name", ORDERED)
def test_where_the_order_matters_it_is_said(name: str) -> None:
    assert ORDERED[name] in " ".join(describe(name).split())


def test_hooks_do_not_stay_behind() -> None:
    model, x = small_cnn(), images()
    before = model.outputs(x)["logits"]
    oodbench.create_detector("rankfeat").score_batch(model, x)
    oodbench.create_detector("gram").fit_batches(model, [(x, torch.zeros(10))])
    with pytest.raises(RuntimeError):  # whatever happens
        oodbench.create_detector("rankfeat").score_batch(model, x[:, :2])
    with pytest.raises(OptionError, match=r"rankfeat: the network has no layer 'stages.9'"):
        oodbench.create_detector("rankfeat", layers=("stages.9",)).score_batch(model, x)
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model.outputs(x)["logits"], before)


@pytest.mark.parametrize("name", ["msp", "entropy", "gen", "tempscale"])
def test_confident_samples_are_not_tied(name: str) -> None:
    """From a gap of 17 on, a probability in single precision is 1."""
    outputs = confident(torch.linspace(20, 60, 1001))
    detector = oodbench.create_detector(name)
    if name == "tempscale":
        detector.temperature_ = 1.0  # type: ignore[attr-defined]
        detector.__dict__["_is_fitted"] = True
    found = detector.score(outputs)
    assert found.dtype == torch.float32
    assert (found[1:] < found[:-1]).all()
    exact = detector.score(Outputs(logits=outputs.logits.double())).float()
    # entropy: the largest p's own term is lost, an almost constant share of all
    torch.testing.assert_close(found, exact, rtol=0.06 if name == "entropy" else 1e-3, atol=0)


LOGITS_ALONE = ["msp", "maxlogit", "energy", "entropy", "gen", "weighted-energy", "klm"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_sum_exp_of_huge_logits(dtype: torch.dtype) -> None:
    logits = torch.tensor(
        [[1e4, 0, -1e4], [-1e4, -1e4, -1e4], [1e4, 1e4, 0], [1e4, 9999, 9998]], dtype=dtype
    )
    outputs = Outputs(logits=logits, labels=torch.tensor([0, 1, 2, 0]))
    for name in [*LOGITS_ALONE, "tempscale", "openmax"]:
        assert oodbench.create_detector(name).fit(outputs).score(outputs).isfinite().all(), name
    exact = logsumexp(logits.double().numpy(), axis=1)
    same(oodbench.create_detector("energy").score(outputs), -exact, rtol=1e-7)
    found = oodbench.create_detector("msp").score(outputs)
    np.testing.assert_allclose(found, exact - logits.double().numpy().max(axis=1), rtol=1e-5)
    for temperature in (0.1, 10.0):
        hot = oodbench.create_detector("energy", temperature=temperature).score(outputs)
        expected = -temperature * logsumexp(logits.double().numpy() / temperature, axis=1)
        same(hot, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ZERO)
@pytest.mark.filterwarnings("ignore::oodbench.errors.OODBenchWarning")
def test_a_zero_feature_vector_has_a_score(name: str) -> None:
    for zeros in (0, 3, 40):  # none of the training samples is zero, some, all of the test ones
        p = problem(n=120, dtype=torch.float32)
        options = {"she": {"metric": "cosine"}, "kpca": {"M": 64}}.get(name, {})
        p.train.features[:zeros] = 0
        p.test.features[: max(zeros, 1)] = 0
        assert np.isfinite(scores(name, p, **options)).all()


@pytest.mark.parametrize("name", ["react", "vra", "klm", "residual", "tempscale"])
def test_the_split_that_is_learned_from_can_be_chosen(name: str) -> None:
    assert oodbench.create_detector(name).options()["fit_split"] == "train"
    assert oodbench.create_detector(name, fit_split="val").options()["fit_split"] == "val"
    with pytest.raises(OptionError, match=r"fit_split.*'train' or 'val'.*'test'"):
        oodbench.create_detector(name, fit_split="test")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gen", {"gamma": 0}, "gamma must be positive"),
        ("gen", {"M": 0}, "M must be at least 1"),
        ("gen", {"clip": 0.5}, "clip must be in"),
        ("gradnorm", {"temperature": 0}, "temperature must be positive"),
        ("energy", {"temperature": -1}, "temperature must be positive"),
        ("odin", {"temperature": 0}, "temperature must be positive"),
        ("odin", {"noise": -0.1}, "noise must not be negative"),
        ("rankfeat", {"temperature": 0}, "temperature must be positive"),
        ("nac", {"o_star": 0}, "o_star must be positive"),
        ("nci", {"alpha": -1}, "alpha must not be negative"),
        ("gmm", {"reg": 0}, "reg must be positive"),
        ("kpca", {"explained": 1.0}, "explained must be in"),
        ("kpca", {"M": 0}, "M must be positive"),
        ("knn", {"k": 0}, "k must be at least 1"),
        ("nnguide", {"k": 0}, "k must be at least 1"),
        ("nnguide", {"share": 0}, "share must be in"),
        ("relation", {"power": 0}, "power must be positive"),
        ("relation", {"threshold": 1}, "threshold must be in"),
        ("openmax", {"tail": 0}, "tail must be at least 1"),
        ("weighted-energy", {"weights": (0.0, -1.0)}, "at least one weight must be positive"),
        ("vra", {"percentile_low": 95}, "is above percentile_high"),
        ("react", {"percentile": 101}, r"percentile is in \[0, 100\]"),
        ("react", {"score": "knn"}, "must read logits alone"),
        ("ensemble", {"members": ()}, "at least one detector"),
        ("ensemble", {"members": ("odin",)}, "odin needs the network"),
        ("mcdropout", {"samples": 1}, "samples must be at least 2"),
        ("mcdropout", {"p": 1.0}, "p must be in"),
        ("gram", {"powers": (0,)}, "powers are whole numbers"),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=f"{name}: .*{message}"):
        oodbench.create_detector(name, **options)
