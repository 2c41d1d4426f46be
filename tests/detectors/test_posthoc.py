"""Detectors against their formulas, written anew with NumPy, SciPy, scikit-learn and autograd."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import entropy, multivariate_normal, weibull_min
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import oodbench
from oodbench import Outputs
from oodbench.detectors import _network, _numerics, ensemble, gram, openmax, rankfeat
from oodbench.detectors.mcdropout import _mask
from oodbench.errors import MissingOutputError, OODBenchWarning, OptionError
from oodbench.info import describe
from oodbench.networks.backbones import Classifier, HeadedBackbone, create_backbone
from oodbench.outputs import Head
from tests.helpers.problems import OF_OUTPUTS, Problem, arrays, problem


def scores(name: str, p: Problem, /, **options: Any) -> np.ndarray:
    """What the detector gives the test outputs."""
    return oodbench.create_detector(name, **options).fit(p.train).score(p.test).numpy()


def same(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    """Equal up to rounding, and not because all is the same."""
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def head_of(p: Problem) -> tuple[np.ndarray, np.ndarray]:
    return p.head.weight.numpy(), p.head.bias.numpy()


def unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


# --- scores of logits ------------------------------------------------------------------------


def test_entropy_is_scipys() -> None:
    p = problem()
    same(scores("entropy", p), entropy(softmax(p.test.logits.numpy(), axis=1), axis=1))


@pytest.mark.parametrize("M", [2, 5, 100])
@pytest.mark.parametrize("clip", [0.0, 0.01])
@pytest.mark.parametrize("gamma", [0.1, 0.7])
def test_gen_is_the_sum_over_the_largest(gamma: float, clip: float, M: int) -> None:
    p = problem()
    probabilities = softmax(p.test.logits.numpy(), axis=1)
    expected = []
    for one in probabilities:
        largest = np.clip(np.sort(one)[::-1][:M], clip, 1 - clip)
        expected.append(np.sum(largest**gamma * (1 - largest) ** gamma))
    same(scores("gen", p, gamma=gamma, clip=clip, M=M), expected)


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_temperature_minimises_the_likelihood(scale: float) -> None:
    p = problem()
    p.train.logits *= scale
    p.test.logits *= scale
    _, f, y = arrays(p.train)

    def loss(temperature: float) -> float:
        return -log_softmax(f / temperature, axis=1)[np.arange(len(y)), y].mean()

    best = minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-10}).x
    detector = oodbench.create_detector("tempscale").fit(p.train)
    assert detector.temperature_ == pytest.approx(best, rel=1e-5)  # type: ignore[attr-defined]
    expected = -log_softmax(p.test.logits.numpy() / best, axis=1).max(axis=1)
    same(detector.score(p.test), expected, rtol=1e-5)


def test_temperature_stays_within_its_bounds() -> None:
    p = problem()
    y = arrays(p.train)[2]
    for sign, bound in ((1, 0.01), (-1, 100)):
        # nothing but right, or nothing but wrong: the likelihood has no minimum inside
        logits = sign * 10.0 * np.eye(5)[y]
        outputs = Outputs(logits=torch.from_numpy(logits), labels=p.train.labels)
        with pytest.warns(OODBenchWarning, match=r"tempscale.*fit_split='val'"):
            detector = oodbench.create_detector("tempscale").fit(outputs)
        assert detector.temperature_ == bound  # type: ignore[attr-defined]


def _right(n: int, scale: float, dtype: torch.dtype) -> Outputs:
    """Logits that are right about every sample, by more or less."""
    generator = torch.Generator().manual_seed(n)
    labels = torch.arange(n) % 5
    logits = torch.rand(n, 5, generator=generator, dtype=torch.float64)
    logits[torch.arange(n), labels] = 1.1 + torch.rand(n, generator=generator, dtype=torch.float64)
    return Outputs(logits=(scale * logits).to(dtype), labels=labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "scale"), [(1, 1.0), (300, 0.01), (300, 8.0), (4000, 40.0)])
def test_temperature_of_a_network_that_is_always_right(
    n: int, scale: float, dtype: torch.dtype
) -> None:
    """It is the bound, however large the logits are and whatever is added to them."""
    outputs = _right(n, scale, dtype)
    for constant in (0, 1, -3, 64):
        shifted = Outputs(logits=outputs.logits.double() + constant, labels=outputs.labels)
        with pytest.warns(OODBenchWarning, match=f"right about all {n} samples"):
            detector = oodbench.create_detector("tempscale").fit(shifted)
        assert detector.temperature_ == 0.01  # type: ignore[attr-defined]


def _bounded(logits: Tensor, labels: Tensor, **options: Any) -> tuple[float, str]:
    detector = oodbench.create_detector("tempscale", **options)
    with pytest.warns(OODBenchWarning) as caught:
        detector.fit(Outputs(logits=logits, labels=labels))
    assert detector.score(Outputs(logits=logits)).isfinite().all()
    return detector.temperature_, str(caught[0].message)  # type: ignore[attr-defined]


def test_temperature_of_degenerate_logits() -> None:
    labels = torch.arange(60) % 3
    one_hot = torch.eye(3)[labels]
    # ties with the label's class are no reason to be less sure
    temperature, told = _bounded(one_hot + torch.eye(3)[(labels + 1) % 3], labels)
    assert temperature == 0.01
    temperature, told = _bounded(torch.full((60, 3), 7.0), labels)
    assert temperature == 1
    assert "the same for all classes" in told
    temperature, told = _bounded(torch.randn(60, 1).float(), torch.zeros(60, dtype=torch.int64))
    assert temperature == 1
    # chance, exactly: the other classes' logits are as high as often
    temperature, told = _bounded(torch.eye(3).repeat(20, 1), torch.arange(60) // 20)
    assert temperature == 100
    assert "chance" in told
    temperature, told = _bounded(1e30 * one_hot, labels)
    assert temperature == 0.01
    # one mistake by next to nothing, among logits that are small even at the bound
    almost = 0.02 * one_hot
    almost[0] = torch.tensor([0.0, 1e-6, 0.0])
    temperature, told = _bounded(almost.double(), labels, fit_split="val")
    assert temperature == 0.01
    assert "more validation images" in told


def test_temperature_inside_its_bounds_is_no_reason_to_warn() -> None:
    p = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = oodbench.create_detector("tempscale").fit(p.train)
        for constant in (3.0, -100.0):
            shifted = Outputs(logits=p.train.logits + constant, labels=p.train.labels)
            found = oodbench.create_detector("tempscale").fit(shifted)
            assert found.temperature_ == pytest.approx(first.temperature_, rel=1e-7)  # type: ignore[attr-defined]


# Detectors whose scores depend on the order of training samples, and what they say of it.
ORDERED = {"nnguide": "order of the samples", "gram": "samples' order", "ensemble": "another order"}


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


def test_a_whole_bank_does_not_depend_on_the_order() -> None:
    p = problem(n=301)
    order = torch.randperm(301, generator=torch.Generator().manual_seed(1))
    whole = oodbench.create_detector("nnguide", share=1, k=7)
    expected = copy.deepcopy(whole).fit(p.train).score(p.test)
    same(copy.deepcopy(whole).fit(p.train[order]).score(p.test), expected.numpy(), rtol=1e-6)


def test_random_features_of_kpca_depend_on_a_seed_that_is_said() -> None:
    told = " ".join(describe("kpca").split())
    assert "seed: int = 0" in told
    assert "several seeds" in told
    p = problem(dim=8)
    scores = [
        oodbench.create_detector("kpca", seed=s).fit(p.train).score(p.test) for s in (0, 0, 1)
    ]
    assert torch.equal(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2], rtol=1e-2)
    cosine = [
        oodbench.create_detector("kpca", kernel="cosine", seed=s).fit(p.train).score(p.test)
        for s in (0, 1)
    ]
    assert torch.equal(*cosine)


def test_klm_is_the_divergence_to_the_nearest_template() -> None:
    p = problem()
    _, f, _ = arrays(p.train)
    f[:, 3] -= 100  # a class that is never predicted has no template
    probabilities, predicted = softmax(f, axis=1), f.argmax(axis=1)
    templates = [probabilities[predicted == c].mean(axis=0) for c in range(5) if c != 3]
    expected = [
        min(entropy(one, template) for template in templates)
        for one in softmax(p.test.logits.numpy(), axis=1)
    ]
    p.train.logits = torch.from_numpy(f)
    same(scores("klm", p), expected)


def test_weighted_energy() -> None:
    p = problem()
    given = np.array([0.5, 1.0, 2.0, 0.0, -1.0])
    with np.errstate(divide="ignore"):
        expected = -logsumexp(p.test.logits.numpy(), b=np.maximum(given, 0), axis=1)
    same(scores("weighted-energy", p, weights=tuple(given)), expected)

    fitted = (1 / 5) / softmax(p.train.logits.numpy(), axis=1).mean(axis=0)
    same(scores("weighted-energy", p), -logsumexp(p.test.logits.numpy(), b=fitted, axis=1))


@pytest.mark.parametrize("shape", [0.7, 1.5, 40.0])
def test_weibull_fit_is_scipys(shape: float) -> None:
    rng = np.random.default_rng(0)
    rows = [weibull_min.rvs(shape, scale=3.0, size=n, random_state=rng) for n in (20, 50)]
    tails = np.zeros((2, 50))  # what is behind a row's own values does not count
    for row, values in zip(tails, rows, strict=True):
        row[: len(values)] = values
    k, log_scale = openmax.fit_weibull(torch.from_numpy(tails), torch.tensor([20, 50]))
    for i, values in enumerate(rows):
        c, _, scale = weibull_min.fit(values, floc=0)
        assert float(k[i]) == pytest.approx(c, rel=1e-3)
        assert float(log_scale[i].exp()) == pytest.approx(scale, rel=1e-3)
        mine = weibull_min.logpdf(values, float(k[i]), scale=float(log_scale[i].exp())).sum()
        assert mine >= weibull_min.logpdf(values, c, scale=scale).sum() - 1e-9


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # SciPy's search passes by there
@pytest.mark.parametrize("correct_only", [True, False])
@pytest.mark.parametrize(("tail", "alpha"), [(20, 3), (7, 1), (1000, 100)])
def test_openmax_sample_by_sample(tail: int, alpha: int, correct_only: bool) -> None:
    p = problem()
    _, f, y = arrays(p.train)
    use = f.argmax(axis=1) == y if correct_only else np.ones(len(y), dtype=bool)
    means, models = [], []
    for c in range(5):
        own = f[use & (y == c)]
        means.append(own.mean(axis=0))
        tails = np.sort(np.linalg.norm(own - means[c], axis=1))[-tail:]
        moved = tails - tails.min() + 1e4
        start = math.pi / math.sqrt(6) / np.log(moved).std()
        # SciPy's simplex wants a start near the end: the scale is 10,000, its error less than 1
        shape, _, scale = weibull_min.fit(moved, start, floc=0, scale=moved.mean())
        models.append((shape, scale, tails.min()))
    expected = []
    for v in p.test.logits.numpy():
        omega = np.ones(5)
        for rank, c in enumerate(np.argsort(-v)[:alpha], start=1):
            shape, scale, lowest = models[c]
            moved = np.linalg.norm(v - means[c]) - lowest + 1e4
            width = min(alpha, 5)
            omega[c] = 1 - (width + 1 - rank) / width * weibull_min.cdf(moved, shape, scale=scale)
        unknown = np.sum((1 - omega) * v)
        revised = softmax(np.append(unknown, omega * v))
        expected.append(np.log(revised[0] / revised[1:].sum()))
    found = scores("openmax", p, tail=tail, alpha=alpha, correct_only=correct_only)
    same(found, expected, rtol=1e-3)


def test_openmax_of_a_class_that_is_never_right_takes_all_of_its_samples() -> None:
    p = problem()
    p.train.logits[:, 2] -= 100
    own = p.train.logits[p.train.labels == 2]
    detector = oodbench.create_detector("openmax").fit(p.train)
    torch.testing.assert_close(detector.means_[2], own.mean(dim=0))  # type: ignore[attr-defined]


def test_openmax_never_revises_a_class_that_was_never_seen() -> None:
    p = problem()
    p.train = p.train[(p.train.labels != 4).nonzero().flatten()]
    p.test.logits[:, 4] = 10 + torch.arange(40.0)  # the top class of all
    detector = oodbench.create_detector("openmax", alpha=1).fit(p.train)
    # nothing is left to the unknown: log-odds of a zero logit against the rest
    same(detector.score(p.test), -logsumexp(p.test.logits.numpy(), axis=1))


# --- scores of the head ----------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradnorm_is_autograds(temperature: float) -> None:
    p = problem(test=12)
    linear = nn.Linear(24, 5).double()
    linear.load_state_dict({"weight": p.head.weight, "bias": p.head.bias})
    uniform = torch.full((1, 5), 1 / 5, dtype=torch.float64)
    expected = []
    for z in p.test.features:
        log_q = (linear(z[None]) / temperature).log_softmax(dim=1)
        loss = nn.functional.kl_div(log_q, uniform, reduction="sum")  # KL(u || softmax)
        (gradient,) = torch.autograd.grad(loss, linear.weight)
        expected.append(-float(gradient.abs().sum()))
    same(scores("gradnorm", p, temperature=temperature), expected)


def _states(outputs: Outputs, alpha: float, eps: float) -> np.ndarray:
    assert outputs.head is not None
    z = outputs.features.clone().requires_grad_()
    q = outputs.head(z).softmax(dim=1)
    c = q.shape[1]
    divergence = (1 / c * (math.log(1 / c) - (q + eps).log())).sum()
    (gradient,) = torch.autograd.grad(divergence, z)
    return torch.sigmoid(alpha * outputs.features * gradient).numpy()


@pytest.mark.parametrize("eps", [0.0, 0.05])
@pytest.mark.parametrize("bins", ["uniform", "geometric"])
def test_nac_is_a_histogram_of_autograds_states(bins: str, eps: float) -> None:
    # without a ReLU: zero activations lie on an edge of a bin, where rounding decides
    p = problem(rectified=False)
    edges = np.linspace(0, 1, 51)
    if bins == "geometric":
        low = np.geomspace(1e-6, 0.5, 26)
        edges = np.append(low, 1 - low[-2::-1])
    train, test = (_states(o, 20.0, eps).clip(1e-6, 1 - 1e-6) for o in (p.train, p.test))
    covered = [
        np.minimum(np.histogram(train[:, d], edges)[0] / 12, 1) for d in range(train.shape[1])
    ]
    expected = []
    for state in test:
        total = 0.0
        for d, value in enumerate(state):
            i = next((i for i in range(50) if value < edges[i + 1]), 49)
            total += covered[d][i]
        expected.append(-total / len(state))
    assert len(set(expected)) > 10
    same(scores("nac", p, alpha=20.0, o_star=12, bins=bins, eps=eps), expected)


def test_pnml_sample_by_sample() -> None:
    p = problem()
    weight, bias = head_of(p)
    train, test = unit(arrays(p.train)[0]), unit(arrays(p.test)[0])
    P = np.linalg.pinv(train.T @ train)
    expected = []
    for x in test:
        q = softmax(weight @ x + bias)
        g = x @ P @ x / (1 + x @ P @ x)
        expected.append(np.log(np.sum(q / (q + q**g * (1 - q)))) / np.log(5))
    assert 0 < min(expected) <= max(expected) < 1
    same(scores("pnml", p), expected, rtol=1e-7)  # its epsilon beside the norm


@pytest.mark.parametrize("normalizer", ["distance", "norm"])
def test_fdbd_sample_by_sample(normalizer: str) -> None:
    p = problem()
    weight, _ = head_of(p)
    weight[4] = weight[1]  # no boundary between these two
    mean = arrays(p.train)[0].mean(axis=0)
    z, f, _ = arrays(p.test)
    expected = []
    for i in range(len(z)):
        top = f[i].argmax()
        total = 0.0
        for c in range(5):
            apart = np.linalg.norm(weight[top] - weight[c])
            total += (f[i, top] - f[i, c]) / apart if apart > 0 else 0
        far = np.linalg.norm(z[i] - mean) if normalizer == "distance" else np.linalg.norm(z[i])
        expected.append(-total / 4 / far)
    same(scores("fdbd", p, normalizer=normalizer), expected)


@pytest.mark.parametrize("alpha", [0.0001, 0.5])
def test_nci_sample_by_sample(alpha: float) -> None:
    p = problem(rectified=False)
    weight, _ = head_of(p)
    mean = arrays(p.train)[0].mean(axis=0)
    expected = []
    for z, f in zip(*arrays(p.test)[:2], strict=True):
        along = weight[f.argmax()] @ (z - mean) / np.linalg.norm(z - mean)
        expected.append(-along - alpha * np.abs(z).sum())
    same(scores("nci", p, alpha=alpha), expected)


# --- scores of features ----------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "euclidean"])
def test_she_sample_by_sample(metric: str) -> None:
    p = problem()
    p.train.logits[:, 3] -= 100  # a class that is never right stores the mean of all of its own
    z, f, y = arrays(p.train)
    right = f.argmax(axis=1) == y
    assert 0 < right.sum() < len(y)
    patterns = [z[(y == c) & (right if c != 3 else True)].mean(axis=0) for c in range(5)]
    expected = []
    for one, logits in zip(*arrays(p.test)[:2], strict=True):
        pattern = patterns[logits.argmax()]
        expected.append(
            {
                "inner_product": -one @ pattern,
                "cosine": -one @ pattern / np.linalg.norm(one) / np.linalg.norm(pattern),
                "euclidean": np.linalg.norm(one - pattern),
            }[metric]
        )
    same(scores("she", p, metric=metric), expected)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("maxlogit", [True, False])
@pytest.mark.parametrize("dim", [None, 7])
def test_neco_is_scikit_learns(dim: int | None, maxlogit: bool, standardize: bool) -> None:
    p = problem()
    train, test = arrays(p.train)[0], arrays(p.test)[0]
    if standardize:
        scaler = StandardScaler().fit(train)
        train, test = scaler.transform(train), scaler.transform(test)
    reduced = PCA(n_components=24).fit(train).transform(test)[:, : dim or 4]  # C - 1
    expected = -np.linalg.norm(reduced, axis=1) / np.linalg.norm(test, axis=1)
    if maxlogit:
        expected *= p.test.logits.numpy().max(axis=1)
    same(scores("neco", p, dim=dim, maxlogit=maxlogit, standardize=standardize), expected)


def test_neco_takes_no_more_than_half_of_the_features() -> None:
    p = problem(dim=6, classes=5)
    detector = oodbench.create_detector("neco").fit(p.train)
    assert detector.axes_.shape == (6, 3)  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match=r"neco: dim=7 must be in \[1, 6\]"):
        oodbench.create_detector("neco", dim=7).fit(p.train)


def _reconstruction_error(train: np.ndarray, test: np.ndarray, explained: float) -> np.ndarray:
    centre = train.mean(axis=0)
    _, singular, right = np.linalg.svd(train - centre, full_matrices=False)
    shares = np.cumsum(singular**2) / np.sum(singular**2)
    q = next(i for i, share in enumerate(shares, start=1) if share >= explained)
    assert 1 < q < len(right)
    rest = (test - centre) @ right[q:].T
    return np.linalg.norm(rest, axis=1)


@pytest.mark.parametrize("explained", [None, 0.6])
def test_kpca_cosine_is_numpys_svd(explained: float | None) -> None:
    p = problem()
    expected = _reconstruction_error(
        unit(arrays(p.train)[0]), unit(arrays(p.test)[0]), explained or 0.85
    )
    same(scores("kpca", p, kernel="cosine", explained=explained), expected, rtol=1e-8)


def test_kpca_cosine_gaussian_is_the_svd_of_explicit_features() -> None:
    p = problem()
    options = {"kernel": "cosine-gaussian", "M": 100, "gamma": 1.5}
    detector = oodbench.create_detector("kpca", **options).fit(p.train)
    omega, phase = detector.omega_.numpy(), detector.phase_.numpy()  # type: ignore[attr-defined]
    train, test = (
        np.array([[math.sqrt(2 / 100) * math.cos(x @ omega[:, j] + phase[j]) for j in range(100)]
                  for x in unit(arrays(outputs)[0])])
        for outputs in (p.train, p.test)
    )  # fmt: skip
    same(detector.score(p.test), _reconstruction_error(train, test, 0.8), rtol=1e-4)


def test_kpcas_random_features_make_the_gaussian_kernel() -> None:
    p = problem(test=20)
    detector = oodbench.create_detector("kpca", kernel="cosine-gaussian", gamma=0.8, M=2**14)
    generator = torch.Generator().manual_seed(detector.seed)  # type: ignore[attr-defined]
    # as fit draws them, without the eigenvectors of a matrix of that size
    detector.omega_ = torch.randn(24, 2**14, generator=generator) * math.sqrt(2 * 0.8)  # type: ignore[attr-defined]
    detector.phase_ = 2 * math.pi * torch.rand(2**14, generator=generator)  # type: ignore[attr-defined]
    mapped = detector._map(p.test.features).double().numpy()  # type: ignore[attr-defined]
    x = unit(arrays(p.test)[0])
    apart = ((x[:, None] - x) ** 2).sum(axis=2)
    np.testing.assert_allclose(mapped @ mapped.T, np.exp(-0.8 * apart), atol=0.05)
    small = oodbench.create_detector("kpca", kernel="cosine-gaussian", gamma=0.8, M=50)
    drawn = small.fit(p.train).omega_  # type: ignore[attr-defined]
    torch.testing.assert_close(
        drawn, torch.randn(24, 50, generator=generator.manual_seed(0)) * math.sqrt(1.6)
    )


@pytest.mark.parametrize("clusters", ["one", "classes"])
def test_ssd_sample_by_sample(clusters: str) -> None:
    p = problem(n=400, dim=10)
    z, y = unit(arrays(p.train)[0]), arrays(p.train)[2]
    groups = [z] if clusters == "one" else [z[y == c] for c in range(5)]
    models = [(g.mean(axis=0), np.linalg.pinv(np.cov(g, rowvar=False, bias=True))) for g in groups]
    expected = [
        min((x - mean) @ inverse @ (x - mean) for mean, inverse in models)
        for x in unit(arrays(p.test)[0])
    ]
    same(scores("ssd", p, clusters=clusters), expected, rtol=1e-7)


@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_gmm_is_scipys_mixture(covariance: str) -> None:
    p = problem(n=403, dim=10)  # not as many of each class
    z, _, y = arrays(p.train)
    reg = 1e-3
    within = np.concatenate([z[y == c] - z[y == c].mean(axis=0) for c in range(5)])
    terms = []
    for c in range(5):
        own = z[y == c]
        sigma = np.cov(own if covariance == "full" else within, rowvar=False, bias=True)
        density = multivariate_normal(own.mean(axis=0), sigma + reg * np.eye(10))
        terms.append(np.log(len(own) / len(z)) + density.logpdf(arrays(p.test)[0]))
    same(scores("gmm", p, covariance=covariance, reg=reg), -logsumexp(terms, axis=0))


def test_rmds_sample_by_sample() -> None:
    p = problem(n=403)
    z, _, y = arrays(p.train)
    means = [z[y == c].mean(axis=0) for c in range(5)]
    within = np.concatenate([z[y == c] - means[c] for c in range(5)])
    inverse = np.linalg.pinv(within.T @ within / len(z))
    whole = np.linalg.pinv(np.cov(z, rowvar=False, bias=True))
    expected = []
    for x in arrays(p.test)[0]:
        to_all = (x - z.mean(axis=0)) @ whole @ (x - z.mean(axis=0))
        expected.append(min((x - m) @ inverse @ (x - m) for m in means) - to_all)
    same(scores("rmds", p), expected)


@pytest.mark.parametrize("dim", [None, 5])
def test_residual_and_vim_are_numpys(dim: int | None) -> None:
    p = problem()
    weight, bias = head_of(p)
    u = -np.linalg.pinv(weight) @ bias
    train, test = arrays(p.train)[0] - u, arrays(p.test)[0] - u
    _, vectors = np.linalg.eigh(train.T @ train)
    R = vectors[:, ::-1][:, dim or 12 :]  # half of 24
    residual = np.linalg.norm(test @ R, axis=1)
    same(scores("residual", p, dim=dim), residual)
    alpha = p.train.logits.numpy().max(axis=1).sum() / np.linalg.norm(train @ R, axis=1).sum()
    energy = logsumexp(p.test.logits.numpy(), axis=1)
    same(scores("vim", p, dim=dim), alpha * residual - energy)


@pytest.mark.parametrize(("width", "dim"), [(3000, 1000), (2048, 1000), (768, 512), (512, 256)])
def test_vims_rule_for_dimensions(width: int, dim: int) -> None:
    from oodbench.detectors.vim import default_dim

    assert default_dim(width) == dim


@pytest.mark.parametrize(("power", "threshold"), [(1.0, 0.03), (4.0, 0.0), (2.0, 0.3)])
def test_relation_sample_by_sample(power: float, threshold: float) -> None:
    # several blocks of training and test samples, confident ones, and negative cosines
    p = problem(n=2500, dim=6, test=600, rectified=False)
    p.train.logits *= 3
    p.test.logits *= 3
    train, test = unit(arrays(p.train)[0]), unit(arrays(p.test)[0])
    q_train, q_test = (softmax(o.logits.numpy(), axis=1) for o in (p.train, p.test))
    expected = []
    for x, q in zip(test, q_test, strict=True):
        r = np.maximum(train @ x, 0) * (q_train @ q)
        expected.append(-np.sum(r[r > threshold] ** power))
    same(scores("relation", p, power=power, threshold=threshold), expected, rtol=1e-4)


def test_relation_of_samples_that_hardly_agree() -> None:
    # all in one direction; what they predict has a product of 0.04, above the threshold of 0.03
    def outputs(n: int, share: float) -> Outputs:
        logits = torch.tensor([[share, 1 - share]], dtype=torch.float64).log().expand(n, 2)
        return Outputs(torch.ones(n, 3), logits, torch.zeros(n))

    detector = oodbench.create_detector("relation").fit(outputs(50, 1 - 1e-6))
    found = detector.score(outputs(4, 0.04))
    np.testing.assert_allclose(found, -50 * 0.04, rtol=1e-3)
    assert torch.equal(detector.score(outputs(4, 0.02)), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize(("k", "share"), [(10, 1.0), (7, 0.2), (40, 0.01)])
def test_nnguide_sample_by_sample(k: int, share: float) -> None:
    p = problem()
    z, f, y = arrays(p.train)
    # a share of each class, in even steps; k at least
    rows = np.argsort(y, kind="stable")
    size = max(k, round(share * len(rows)))
    rows = rows[[i * len(rows) // size for i in range(size)]]
    bank = unit(z)[rows] * logsumexp(f, axis=1)[rows, None]
    expected = []
    for x, logits in zip(unit(arrays(p.test)[0]), p.test.logits.numpy(), strict=True):
        expected.append(-logsumexp(logits) * np.sort(bank @ x)[-k:].mean())
    same(scores("nnguide", p, k=k, share=share), expected, rtol=1e-5)


# --- activation shaping ----------------------------------------------------------------------


def _shaped(p: Problem, shape: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Energies of the logits of what each test feature is shaped to."""
    weight, bias = head_of(p)
    return np.array([-logsumexp(weight @ shape(z) + bias) for z in arrays(p.test)[0]])


@pytest.mark.parametrize("percentile", [90.0, 60.0])
def test_react_clips(percentile: float) -> None:
    p = problem()
    c = np.percentile(arrays(p.train)[0], percentile)
    expected = _shaped(p, lambda z: np.minimum(z, c))
    same(scores("react", p, percentile=percentile), expected, rtol=1e-6)


def test_the_score_behind_a_shaping() -> None:
    p = problem()
    weight, bias = head_of(p)
    clipped = np.minimum(arrays(p.test)[0], np.percentile(arrays(p.train)[0], 90))
    expected = entropy(softmax(clipped @ weight.T + bias, axis=1), axis=1)
    same(scores("react", p, score="entropy"), expected, rtol=1e-6)
    # and one that learns, from shaped training logits
    train, test = (
        np.minimum(arrays(o)[0], np.percentile(arrays(p.train)[0], 90)) @ weight.T + bias
        for o in (p.train, p.test)
    )
    inner = Outputs(logits=torch.from_numpy(train), labels=p.train.labels)
    klm = oodbench.create_detector("klm").fit(inner)
    expected = klm.score(Outputs(logits=torch.from_numpy(test))).numpy()
    same(scores("react", p, score="klm"), expected, rtol=1e-6)


@pytest.mark.parametrize("per_unit", [False, True])
@pytest.mark.parametrize("below", ["zero", "clip"])
def test_vra_clips_and_suppresses(below: str, per_unit: bool) -> None:
    p = problem(rectified=False)
    axis = 0 if per_unit else None
    low, high = np.percentile(arrays(p.train)[0], [15, 80], axis=axis)

    def shape(z: np.ndarray) -> np.ndarray:
        under = np.zeros_like(z) if below == "zero" else np.broadcast_to(low, z.shape)
        return np.where(z < low, under, np.minimum(z, high))

    options = {"percentile_low": 15.0, "percentile_high": 80.0, "below": below}
    same(scores("vra", p, per_unit=per_unit, **options), _shaped(p, shape), rtol=1e-6)


@pytest.mark.parametrize("percentile", [65.0, 90.0])
@pytest.mark.parametrize("name", ["ash-p", "ash-b", "ash-s", "scale", "lts"])
@pytest.mark.filterwarnings("ignore::oodbench.errors.OODBenchWarning")
def test_pruning_and_scaling(name: str, percentile: float) -> None:
    p = problem(dim=64)
    weight, bias = head_of(p)
    k = 64 - int(np.round(64 * percentile / 100))
    expected = []
    for z in arrays(p.test)[0]:
        top = np.argsort(-z)[:k]
        pruned = np.zeros(64)
        pruned[top] = z[top]
        logits = {
            "ash-p": weight @ pruned + bias,
            "ash-b": weight @ np.where(pruned > 0, z.sum() / k, 0) + bias,
            "ash-s": weight @ (pruned * np.exp(z.sum() / pruned.sum())) + bias,
            "scale": weight @ (z * np.exp(z.sum() / pruned.sum())) + bias,
            "lts": (weight @ z + bias) * (z.sum() / pruned.sum()) ** 2,
        }[name]
        expected.append(-logsumexp(logits))
    same(scores(name, p, percentile=percentile), expected)


def test_scaling_of_features_that_may_be_negative() -> None:
    """The ratio of sums is held in the range that it has for features that are not."""
    p = problem(dim=128, rectified=False)
    p.test.features[20:] -= 4
    weight, bias = head_of(p)
    ratios = []
    expected = []
    for z in arrays(p.test)[0]:
        ratios.append(z.sum() / np.sort(z)[-64:].sum())
        scale = np.exp(np.clip(ratios[-1], 1, 2))  # 128 / 64
        expected.append(-logsumexp(weight @ z * scale + bias))
    assert min(ratios) < 1
    assert max(ratios) > 2
    same(scores("scale", p, percentile=50), expected)


@pytest.mark.parametrize("share", [90.0, 40.0])
def test_dice_cuts_weights(share: float) -> None:
    p = problem()
    weight, bias = head_of(p)
    contribution = weight * arrays(p.train)[0].mean(axis=0)
    sparse = np.where(contribution > np.percentile(contribution, share), weight, 0)
    z = arrays(p.test)[0]
    same(scores("dice", p, p=share), -logsumexp(z @ sparse.T + bias, axis=1))
    clipped = np.minimum(z, np.percentile(arrays(p.train)[0], 80))
    expected = -logsumexp(clipped @ sparse.T + bias, axis=1)
    same(scores("react-dice", p, p=share, percentile=80), expected, rtol=1e-6)


# --- several detectors -----------------------------------------------------------------------


@pytest.mark.parametrize("samples", [5000, 100])
def test_ensemble_is_the_mean_of_standard_scores(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "SAMPLES", samples)
    p = problem()
    step = 3 if samples == 100 else 1  # of 300
    names = ("msp", "mahalanobis", "she")
    expected = np.zeros(len(p.test))
    for name in names:
        detector = oodbench.create_detector(name).fit(p.train)
        own = detector.score(p.train).numpy()[::step]
        expected += (detector.score(p.test).numpy() - own.mean()) / own.std() / 3
    same(scores("ensemble", p, members=names), expected)


# --- detectors that look into the network ----------------------------------------------------


class Network(nn.Module):
    """Stages, pooled, before a linear layer; in evaluation mode, in double precision."""

    def __init__(self, *stages: nn.Module, width: int, classes: int = 4) -> None:
        super().__init__()
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(width, classes)
        self.double().eval()

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        features = self.stages(images).flatten(2).mean(dim=2)
        return {"features": features, "logits": self.linear(features)}

    def head(self) -> nn.Linear:
        return self.linear


def small_cnn() -> Network:
    return Network(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        width=8,
    )


def images(n: int = 10, seed: int = 0, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, size, size, generator=generator, dtype=torch.float64)


class Linear(nn.Module):
    """A linear classifier of pixels."""

    def __init__(self, std: tuple[float, ...] | None) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 4 * 4, 4).double()
        if std is not None:
            self.preprocess = SimpleNamespace(std=std)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.linear(images.flatten(1))}


@pytest.mark.parametrize("std", [None, (0.2, 0.25, 0.4)])
@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_odin_steps_along_the_gradient(temperature: float, std: tuple[float, ...] | None) -> None:
    model, x = Linear(std), images(size=4)
    weight, bias = (t.detach().numpy() for t in (model.linear.weight, model.linear.bias))
    scale = np.repeat(std or (1, 1, 1), 16)
    expected = []
    for one in x.flatten(1).numpy():
        q = softmax((weight @ one + bias) / temperature)
        # -log q_max falls along minus this
        gradient = weight.T @ (q - np.eye(4)[q.argmax()]) / temperature
        stepped = one - 0.05 * np.sign(gradient) / scale
        expected.append(-np.max(log_softmax((weight @ stepped + bias) / temperature)))
    odin = oodbench.create_detector("odin", temperature=temperature, noise=0.05)
    same(odin.score_batch(model, x), expected)
    assert model.linear.weight.grad is None
    plain = oodbench.create_detector("odin", temperature=temperature, noise=0.0)
    assert (odin.score_batch(model, x) < plain.score_batch(model, x)).all()


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_odin_finds_its_gradient_where_gradients_are_off(off: Callable[[], Any]) -> None:
    model, x = Linear(None), images(size=4)
    odin = oodbench.create_detector("odin")
    expected = odin.score_batch(model, x)
    with off():
        assert torch.equal(odin.score_batch(model, images(size=4)), expected)


@pytest.mark.parametrize("mode", ["mean", "var"])
def test_mc_dropout_before_the_head(mode: str) -> None:
    model, x = small_cnn(), images()
    masks = _mask((5, 8), 0.3, torch.Generator().manual_seed(7)).numpy()
    assert set(np.unique(masks)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
    z = model.outputs(x)["features"].detach().numpy()
    weight, bias = (t.detach().numpy() for t in (model.linear.weight, model.linear.bias))
    q = np.array([softmax((z * mask) @ weight.T + bias, axis=1) for mask in masks])
    expected = -q.mean(axis=0).max(axis=1) if mode == "mean" else q.var(axis=0, ddof=1).mean(axis=1)
    detector = oodbench.create_detector("mcdropout", samples=5, p=0.3, mode=mode, seed=7)
    same(detector.score_batch(model, x), expected)


def dropping() -> Network:
    return Network(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Dropout2d(0.4), nn.Conv2d(6, 8, 3), nn.Dropout(0.2),
        nn.Dropout(0.0), width=8,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["mean", "var"])
def test_mc_dropout_through_the_networks_own_layers(mode: str) -> None:
    model, x = dropping(), images()
    generator = torch.Generator().manual_seed(0)
    draws = []
    with torch.no_grad():
        for _ in range(6):
            maps = model.stages[1](model.stages[0](x))
            maps = maps * _mask((1, 6, 1, 1), 0.4, generator)  # whole channels
            maps = model.stages[3](maps)
            maps = maps * _mask((1, 8, 4, 4), 0.2, generator)
            draws.append(model.linear(maps.mean(dim=(2, 3))).softmax(dim=1).numpy())
    q = np.array(draws)
    expected = -q.mean(axis=0).max(axis=1) if mode == "mean" else q.var(axis=0, ddof=1).mean(axis=1)
    detector = oodbench.create_detector("mcdropout", samples=6, p=0.5, mode=mode)
    found = detector.score_batch(model, x)
    same(found, expected)
    # the masks are the same for all samples and in each run
    torch.testing.assert_close(detector.score_batch(model, x[3:4]), found[3:4])
    assert not any(module._forward_hooks for module in model.modules())


def test_mc_dropout_tends_to_what_torchs_own_dropout_gives() -> None:
    model, x = dropping(), images(3)
    detector = oodbench.create_detector("mcdropout", samples=500)
    found = detector.score_batch(model, x)
    with torch.no_grad():
        model.train()
        many = x.repeat_interleave(500, dim=0)
        q = model.outputs(many)["logits"].softmax(dim=1).unflatten(0, (3, 500)).mean(dim=1)
    torch.testing.assert_close(found, -q.amax(dim=1), rtol=0, atol=0.02)


def test_mc_dropout_needs_a_head_or_layers() -> None:
    class Bare(Network):
        def head(self) -> None:  # type: ignore[override]
            return None

    with pytest.raises(MissingOutputError, match="mcdropout needs a network with dropout"):
        oodbench.create_detector("mcdropout").score_batch(Bare(nn.ReLU(), width=3), images())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(4, 20, 5, 5), (3, 64, 8, 8), (2, 7, 1, 3)])
def test_rank_one_is_that_of_the_svd(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for maps in (
        torch.rand(shape, generator=generator, dtype=dtype),
        torch.randn(shape, generator=generator, dtype=dtype).relu() + 0.01,
    ):
        u, s, vh = torch.linalg.svd(maps.flatten(2), full_matrices=False)
        s[:, 0] = 0
        expected = (u * s[:, None] @ vh).view_as(maps)
        found = rankfeat.remove_rank_one(maps)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-10
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(maps.max()))
    assert torch.equal(rankfeat.remove_rank_one(torch.zeros(shape)), torch.zeros(shape))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_rankfeat_is_the_energy_of_mean_logits(temperature: float) -> None:
    model, x = small_cnn(), images()
    with torch.no_grad():
        pooled = model.stages[:3](x)  # the last map of another shape before the last
        last = model.stages(x)
        first = model.linear(model.stages[3:](rankfeat.remove_rank_one(pooled)).mean(dim=(2, 3)))
        second = model.linear(rankfeat.remove_rank_one(last).mean(dim=(2, 3)))
    expected = -temperature * logsumexp((first + second).numpy() / 2 / temperature, axis=1)
    detector = oodbench.create_detector("rankfeat", temperature=temperature)
    same(detector.score_batch(model, x), expected)
    one = oodbench.create_detector("rankfeat", layers=("stages.4",))
    same(one.score_batch(model, x), -logsumexp(second.numpy(), axis=1))


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


def test_gram_statistics_are_those_of_the_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 6, 4, 5, generator=generator, dtype=torch.float64)
    powers = (1, 2, 3, 5)
    found = gram.gram_statistics(maps, powers).unflatten(1, (4, 6))
    for i, p in enumerate(powers):
        F = maps.flatten(2).numpy() ** p
        G = F @ F.transpose(0, 2, 1)  # [B, C, C]
        rows = G.sum(axis=2)
        same(found[:, i], np.sign(rows) * np.abs(rows) ** (1 / p))


def test_gram_statistics_do_not_overflow() -> None:
    large = 1e30 * torch.rand(2, 3, 4, 4)
    assert gram.gram_statistics(large, (1, 5, 10)).isfinite().all()
    assert torch.equal(gram.gram_statistics(torch.zeros(1, 3, 2, 2), (1, 2)), torch.zeros(1, 6))


def test_gram_is_pytorch_oods() -> None:
    peer = pytest.importorskip("pytorch_ood.detector", reason="the test extra has it").Gram
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 6, 4, 5, generator=generator, dtype=torch.float64)
    found = gram.gram_statistics(maps, (1, 2, 3, 4, 5))
    theirs = torch.cat([peer._gram_vector(maps, p) for p in (1, 2, 3, 4, 5)], dim=1)
    torch.testing.assert_close(found, theirs)

    detector = oodbench.create_detector("gram")
    low, high = found.quantile(0.3, dim=0), found.quantile(0.7, dim=0)
    detector.low_, detector.high_ = {"a": low[None]}, {"a": high[None]}  # type: ignore[attr-defined]
    mine = detector._deviations({"a": found}, torch.zeros(3, dtype=torch.int64))  # type: ignore[attr-defined]
    torch.testing.assert_close(mine["a"], peer._deviation(found, low, high))
    assert float(mine["a"].min()) > 0


@pytest.mark.parametrize("confidence", [True, False])
@pytest.mark.parametrize("batch", [64, 7])
def test_gram_sample_by_sample(batch: int, confidence: bool) -> None:
    model, x, test = small_cnn(), images(130), images(9, seed=1) * 1.5
    layers, powers = ("stages.0", "stages.4"), (1, 3)
    with torch.no_grad():  # all classes are predicted but the last
        model.linear.bias -= model.outputs(x)["logits"].mean(dim=0)
        model.linear.bias[3] -= 100

    def read(x: Tensor) -> tuple[list[np.ndarray], np.ndarray]:
        with torch.no_grad():
            found = []
            for end in (1, 5):
                F = model.stages[:end](x).flatten(2).numpy()
                rows = [(F**p @ (F**p).transpose(0, 2, 1)).sum(axis=2) for p in powers]
                found.append(
                    np.concatenate(
                        [
                            np.sign(r) * np.abs(r) ** (1 / p)
                            for r, p in zip(rows, powers, strict=True)
                        ],
                        axis=1,
                    )
                )
            return found, model.outputs(x)["logits"].numpy()

    statistics, logits = read(x)
    predicted = logits.argmax(axis=1)
    assert set(predicted) == {0, 1, 2}
    held = np.arange(len(x)) % 10 == 9
    detector = oodbench.create_detector("gram", layers=layers, powers=powers, confidence=confidence)
    labels = torch.zeros(len(x), dtype=torch.int64)
    detector.fit_batches(model, list(zip(x.split(batch), labels.split(batch), strict=True)))

    with torch.no_grad():  # a class that was never predicted has the range of all
        logits = model.outputs(test)["logits"]
        model.linear.bias[3] += (logits[:, :3].amax(dim=1) - logits[:, 3]).median() + 1e-6
    found, logits = read(test)
    assert 3 in logits.argmax(axis=1)
    assert len(set(logits.argmax(axis=1))) > 1
    totals = np.zeros(len(test))
    for own, others in zip(statistics, found, strict=True):

        def deviation(g: np.ndarray, c: int, own: np.ndarray = own) -> float:
            inside = ~held & ((predicted == c) if c < 3 else True)
            low, high = own[inside].min(axis=0), own[inside].max(axis=0)
            below = np.maximum(low - g, 0) / np.abs(low + 1e-6)
            return float((below + np.maximum(g - high, 0) / np.abs(high + 1e-6)).sum())

        expected = np.mean([deviation(own[i], predicted[i]) for i in np.flatnonzero(held)])
        for i in range(len(test)):
            totals[i] += deviation(others[i], logits[i].argmax()) / expected
    if confidence:
        totals /= softmax(logits, axis=1).max(axis=1)
    # held-out statistics are kept in single precision
    same(detector.score_batch(model, test), totals, rtol=1e-5)


def _classifier(name: str) -> Classifier:
    timm = pytest.importorskip("timm")
    return Classifier(timm.create_model(name, pretrained=False, num_classes=10))


def test_last_maps_of_our_networks() -> None:
    find = lambda model, size, channels=3: _network.last_maps(
        model.eval(), torch.rand(2, channels, size, size), "test"
    )
    resnet = HeadedBackbone(create_backbone("resnet20"), 10)
    assert find(resnet, 32) == ("backbone.layer2", "backbone.layer3")
    digits = HeadedBackbone(create_backbone("digits-cnn", channels=1), 10)
    assert find(digits, 8, 1) == ("backbone.layers.5", "backbone.layers.8")
    stem = HeadedBackbone(create_backbone("resnet18-cifar"), 10)
    assert find(stem, 32) == ("backbone.layer3", "backbone.layer4")
    assert find(small_cnn().float(), 8) == ("stages.2", "stages.4")


def test_last_maps_of_other_classifiers() -> None:
    x = torch.rand(1, 3, 64, 64)
    found = _network.last_maps(_classifier("resnet18"), x, "test")
    assert found == ("model.layer3", "model.layer4")
    # torchvision's pools into a map of one pixel, which has no direction to remove
    from torchvision.models import resnet18

    found = _network.last_maps(Classifier(resnet18(num_classes=10)), x, "test")
    assert found == ("model.layer3", "model.layer4")
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
    # one stage alone
    assert _network.last_maps(Classifier(plain), x, "test") == ("model.1",)


def test_a_network_of_tokens_has_no_maps() -> None:
    vit = _classifier("vit_tiny_patch16_224")
    message = r"rankfeat needs a network with feature maps \[C, H, W\].*option `layers`"
    with pytest.raises(MissingOutputError, match=message):
        oodbench.create_detector("rankfeat").score_batch(vit, torch.rand(2, 3, 224, 224))
    mlp = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 4)))
    with pytest.raises(MissingOutputError, match="rankfeat needs a network with feature maps"):
        oodbench.create_detector("rankfeat").score_batch(mlp, images().float())
    with pytest.raises(MissingOutputError, match="gram needs a network with feature maps"):
        oodbench.create_detector("gram").fit_batches(mlp, [(images().float(), torch.zeros(10))])


# --- known traps -----------------------------------------------------------------------------


def confident(gaps: Tensor, classes: int = 10) -> Outputs:
    """The first of the logits leads all others by these gaps."""
    logits = torch.zeros(len(gaps), classes, dtype=gaps.dtype)
    logits[:, 0] = gaps
    return Outputs(logits=logits, labels=torch.arange(len(gaps)) % 2)


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


def test_gens_complement_is_exact() -> None:
    gaps = np.linspace(20.0, 60.0, 9)
    found = oodbench.create_detector("gen").score(confident(torch.tensor(gaps).float()))
    for score, gap in zip(found.tolist(), gaps, strict=True):
        small = math.exp(-gap) / (1 + 9 * math.exp(-gap))
        terms = [9 * small, *[small * (1 - small)] * 9]  # p (1 - p), of the largest first
        assert score == pytest.approx(sum(term**0.1 for term in terms), rel=1e-4)


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


ZERO = ["knn", "nnguide", "ssd", "relation", "pnml", "neco", "nci", "fdbd", "kpca", "palm", "she"]
ZERO += ["ash-p", "ash-b", "ash-s", "scale", "lts", "gradnorm"]


@pytest.mark.parametrize("name", ZERO)
@pytest.mark.filterwarnings("ignore::oodbench.errors.OODBenchWarning")
def test_a_zero_feature_vector_has_a_score(name: str) -> None:
    for zeros in (0, 3, 40):  # none of the training samples is zero, some, all of the test ones
        p = problem(n=120, dtype=torch.float32)
        options = {"she": {"metric": "cosine"}, "kpca": {"M": 64}}.get(name, {})
        p.train.features[:zeros] = 0
        p.test.features[: max(zeros, 1)] = 0
        assert np.isfinite(scores(name, p, **options)).all()


def test_no_scaling_where_there_is_nothing_to_scale() -> None:
    p = problem(dim=200)
    p.test.features[:] = 0
    energy = -torch.logsumexp(p.head.bias, dim=0)
    for name in ("ash-p", "ash-s", "scale", "lts"):
        found = scores(name, p)
        np.testing.assert_allclose(found, float(energy), err_msg=name)


def test_nnguides_bank() -> None:
    p = problem(n=1000, dtype=torch.float32)
    bank = lambda p, **options: (
        oodbench.create_detector("nnguide", **options).fit(p.train).bank_  # type: ignore[attr-defined]
    )
    whole = bank(p, k=5, share=0.1)
    assert len(whole) == 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_numerics, "BLOCK", 1)
        assert torch.equal(bank(p, k=5, share=0.1), whole)
    # at least k rows, and as many of each class as the training set's share of it
    assert len(bank(p, k=300, share=0.01)) == 300
    assert len(bank(p, k=1000, share=0.01)) == 1000
    rows = oodbench.create_detector("nnguide", k=5, share=0.1)._rows(p.train.labels)  # type: ignore[attr-defined]
    assert torch.bincount(p.train.labels[rows]).tolist() == [20] * 5
    assert len(set(rows.tolist())) == 100


@pytest.mark.parametrize(("name", "percentile"), [("ash-s", 90.0), ("scale", 85.0)])
def test_scaling_by_few_units_warns(name: str, percentile: float) -> None:
    detector = oodbench.create_detector(name)
    assert detector.options()["percentile"] == percentile
    narrow, wide = problem(dim=64), problem(dim=512)
    with pytest.warns(OODBenchWarning, match=rf"{name}: percentile={percentile:g} keeps \d+ of 64"):
        detector.score(narrow.test)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.score(wide.test)
        oodbench.create_detector(name, percentile=50).score(narrow.test)


def test_no_unit_left() -> None:
    p = problem(dim=4)
    for name in ("ash-p", "ash-b", "ash-s", "scale"):
        with pytest.raises(OptionError, match=f"{name}: pruning 95% of 4 features leaves none"):
            oodbench.create_detector(name, percentile=95).score(p.test)
    assert oodbench.create_detector("lts", percentile=95).score(p.test).isfinite().all()


@pytest.mark.parametrize("name", ["react", "vra", "klm", "residual", "tempscale"])
def test_the_split_that_is_learned_from_can_be_chosen(name: str) -> None:
    assert oodbench.create_detector(name).options()["fit_split"] == "train"
    assert oodbench.create_detector(name, fit_split="val").options()["fit_split"] == "val"
    with pytest.raises(OptionError, match=r"fit_split.*'train', 'val'.*'test'"):
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


def test_options_that_only_the_data_can_refuse() -> None:
    p = problem()
    for name in ("vim", "residual"):
        for dim in (0, 24):
            with pytest.raises(OptionError, match=rf"{name}: dim={dim} must be in \[1, 23\]"):
                oodbench.create_detector(name, dim=dim).fit(p.train)
    with pytest.raises(OptionError, match="weighted-energy: 2 weights for 5 classes"):
        oodbench.create_detector("weighted-energy", weights=(1.0, 2.0)).fit(p.train)


def test_a_head_without_bias() -> None:
    p = problem()
    bare = Head(p.head.weight)
    for outputs in (p.train, p.test):
        outputs.head = bare
    weight, _ = head_of(p)
    z = arrays(p.test)[0]
    clipped = np.minimum(z, np.percentile(arrays(p.train)[0], 90))
    same(scores("react", p), -logsumexp(clipped @ weight.T, axis=1), rtol=1e-6)
