"""Detectors against pytorch-ood, on a toy problem and on a real classifier."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import oodbench
from oodbench import Outputs, metrics
from oodbench.data.samples import Subset, image_folder
from oodbench.detector import Detector
from oodbench.extract import extract
from oodbench.looking import score_with_network
from oodbench.networks.headed import load_classifier
from oodbench.testing import blobs
from tests.conftest import REPOSITORY, SHARED
from tests.helpers.peers import PEERS

peer = pytest.importorskip("pytorch_ood.detector", reason="the test extra has pytorch-ood")

EXPLAINED = {"tempscale": 0.5, "nac": 0.3, "openmax": 0.8, "entropy": 0.1, "msp": 0.1, "gen": 0.05}
"""AUROC may differ by this much, in percent points, where docs/parity.md says why; else by 0.02."""

PREPROCESS = oodbench.Preprocess(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CHECKPOINT = SHARED / "models" / "cifar10_resnet20.safetensors"
OOD = ("cifar100", "mnist", "textures10")


@pytest.mark.parametrize("name", ["msp", "maxlogit", "energy", "knn", "mahalanobis"])
def test_same_scores_on_the_toy_problem(name: str) -> None:
    toy = blobs()
    assert toy.train.head is not None
    mine = oodbench.create_detector(name).fit(toy.train).score(toy.test).double()
    fit, score = PEERS[name].make(toy.train.head)
    fit(toy.train)
    theirs = score(toy.test).double()
    if name == "msp":  # we rank by -log p, they by -p
        mine = -(-mine).exp()
    if name == "mahalanobis":  # theirs is a log-density under the unnormalised scatter
        mine = mine / (2 * len(toy.train))
    torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=1e-3)


KNOWN = {
    # detector: set: AUROC, FPR@95 ID positive, FPR@95 OOD positive, percent; by pytorch-ood 0.4.0
    ("msp", ()): ((85.47, 73.75, 44.00), (91.63, 60.20, 24.45), (86.90, 70.50, 43.25)),
    ("energy", ()): ((87.81, 56.30, 45.20), (98.00, 11.30, 8.95), (89.33, 52.00, 41.65)),
    ("gen", (("clip", 1e-7),)): (
        (87.89, 56.95, 42.65), (97.08, 15.50, 13.95), (89.55, 51.00, 40.35),
    ),
    ("knn", ()): ((86.85, 56.70, 46.15), (96.90, 16.60, 15.60), (93.94, 26.25, 29.95)),
    ("vim", ()): ((85.48, 64.85, 47.65), (93.21, 49.00, 20.60), (94.17, 31.25, 28.30)),
    ("she", ()): ((83.41, 66.25, 55.20), (99.93, 0.10, 0.40), (90.27, 41.50, 43.75)),
    ("react", ()): ((87.54, 55.75, 46.65), (97.49, 13.20, 10.75), (90.86, 47.50, 30.95)),
    ("dice", (("p", 70.0),)): (
        (86.22, 59.65, 46.00), (99.83, 0.70, 0.85), (90.88, 39.75, 36.90),
    ),
}  # fmt: skip


@pytest.fixture
def real(shared_data: Path, real_outputs: None) -> dict[str, Outputs]:
    """Outputs of the real classifier on the real data."""
    network, _ = load_classifier("resnet20", CHECKPOINT, num_classes=10)
    folders = {"train": "cifar10/train", "test": "cifar10/test", "textures10": "textures10/test"}
    folders |= {"cifar100": "cifar100/test", "mnist": "mnist/test"}
    found = {}
    for name, folder in folders.items():
        mapped = extract(network, image_folder(folder, shared_data / folder), PREPROCESS)
        columns = (mapped.features.clone(), mapped.logits.clone(), mapped.labels.clone())
        found[name] = Outputs(*columns, mapped.head)
    return found


@pytest.fixture
def quick_openmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytorch-ood asks scipy for one probability at a time; the formula is the same for less."""
    from pytorch_ood.detector.openmax.libnotmr import LibNotMR

    def closed(self: LibNotMR, distance: float) -> float:
        above = max(distance + self.translation - self.min_val - self.loc, 0.0) / self.scale
        return float(-np.expm1(-(above**self.c))) ** self.a

    model = LibNotMR(tailsize=25)
    model.fit_high(np.random.default_rng(0).gamma(2, 3, 200))
    for distance in (-1e5, 0.1, 5.0, 12.0, 15.0, 40.0):
        assert closed(model, distance) == pytest.approx(model.w_score(distance), rel=1e-12)
    monkeypatch.setattr(LibNotMR, "w_score", closed)


def _aurocs(test: Tensor, oods: list[Tensor]) -> np.ndarray:
    return np.array([100 * metrics.auroc(test, ood) for ood in oods])


def test_every_common_detector_on_real_data(real: dict[str, Outputs], quick_openmax: None) -> None:
    """Within 0.1 percent points of their AUROC, or explained; docs/parity.md prints ours."""
    assert real["train"].head is not None
    text = (REPOSITORY / "docs" / "parity.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \|.*?\| ([\d.]+) / ([\d.]+) / ([\d.]+) \|", text, re.M)
    printed = {name: np.array(figures, float) for name, *figures in rows}
    assert set(printed) == set(PEERS)
    for name, other in PEERS.items():
        detector = oodbench.create_detector(name, **other.options).fit(real["train"])
        mine = _aurocs(detector.score(real["test"]), [detector.score(real[o]) for o in OOD])
        fit, score = other.make(real["train"].head)
        fit(real["train"])
        theirs = _aurocs(score(real["test"]), [score(real[o]) for o in OOD])
        assert np.abs(mine - theirs).max() <= EXPLAINED.get(name, 0.02), (name, mine, theirs)
        np.testing.assert_allclose(mine, printed[name], atol=0.011, err_msg=name)
    for (name, options), sets in KNOWN.items():
        detector = oodbench.create_detector(name, **dict(options)).fit(real["train"])
        test = detector.score(real["test"])
        for ood, (auroc, fpr_id, fpr_ood) in zip(OOD, sets, strict=True):
            found = metrics.all_metrics(test, detector.score(real[ood]))
            assert 100 * found["auroc"] == pytest.approx(auroc, abs=0.1), (name, ood)
            assert 100 * found["fpr95_id"] == pytest.approx(fpr_id, abs=0.5), (name, ood)
            assert 100 * found["fpr95_ood"] == pytest.approx(fpr_ood, abs=0.5), (name, ood)


def test_known_figures_through_the_evaluator(
    shared_data: Path, real_outputs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_DATA", str(shared_data))
    results = oodbench.evaluate(
        id="cifar10",
        detectors=["msp", "energy", "knn"],
        backbone="resnet20",
        checkpoint=CHECKPOINT,
        ood=list(OOD),
    )
    table = results.to_pandas().set_index(["detector", "ood"])
    assert table["id_accuracy"].unique().tolist() == [0.916]
    for name in ("msp", "energy", "knn"):
        for ood, (auroc, fpr_id, fpr_ood) in zip(OOD, KNOWN[name, ()], strict=True):
            row = table.loc[(name, ood)]
            assert 100 * row["auroc"] == pytest.approx(auroc, abs=0.1), (name, ood)
            assert 100 * row["fpr95_id"] == pytest.approx(fpr_id, abs=0.5), (name, ood)
            assert 100 * row["fpr95_ood"] == pytest.approx(fpr_ood, abs=0.5), (name, ood)


def _images(samples: Subset) -> Tensor:
    return torch.stack([PREPROCESS(samples[i]) for i in range(len(samples))])


def test_detectors_that_run_the_network_on_real_data(shared_data: Path) -> None:
    """ODIN and RankFeat give pytorch-ood's scores, sample by sample."""
    network, _ = load_classifier("resnet20", CHECKPOINT, num_classes=10)
    network.requires_grad_(False)
    samples = image_folder("cifar10/test", shared_data / "cifar10" / "test")
    subset = Subset(samples, np.arange(0, 2000, 20))
    images = _images(subset)

    def mine(detector: Detector) -> Tensor:
        return score_with_network(detector, network, subset, PREPROCESS).double()

    odin = peer.ODIN(network, norm_std=list(PREPROCESS.std)).predict(images).double()
    found = -(-mine(oodbench.create_detector("odin"))).exp()  # minus the probability, as theirs
    spread = float(odin.std())
    torch.testing.assert_close(found, odin, atol=0.01 * spread, rtol=0)

    backbone = network.backbone

    def maps(x: Tensor) -> Tensor:
        x = F.relu(backbone.bn1(backbone.conv1(x)))
        return backbone.layer3(backbone.layer2(backbone.layer1(x)))

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.linear)
    theirs = peer.RankFeat(maps, head).predict(images).double()
    ours = mine(oodbench.create_detector("rankfeat", layers="backbone.layer3"))
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def test_moments_stream_to_what_the_whole_gives() -> None:
    from oodbench.detectors import _numerics

    rng = np.random.default_rng(0)
    # a large mean and a small spread: the naive sum of squares loses all digits here
    features = rng.normal(1e4, 1e-1, (9001, 6)).astype(np.float64)
    labels = rng.integers(0, 3, 9001)
    outputs = Outputs(features, labels=labels)  # type: ignore[arg-type]
    found = _numerics.moments(outputs, "test", groups=3)
    centred = np.concatenate(
        [features[labels == c] - features[labels == c].mean(0) for c in range(3)]
    )
    np.testing.assert_allclose(found.scatter, centred.T @ centred, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.means[1], features[labels == 1].mean(0), rtol=1e-12)


def test_nearest_neighbours_in_blocks() -> None:
    from sklearn.neighbors import NearestNeighbors

    from oodbench.detectors import _neighbours

    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(1000, 8)), rng.normal(size=(50, 8))
    expected = NearestNeighbors(n_neighbors=7).fit(bank).kneighbors(queries)[0][:, -1]
    for block in (3, 100, 5000):
        found = _neighbours.kth_neighbour_distance(
            torch.from_numpy(queries), torch.from_numpy(bank), 7, block=block
        )
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    # a query that lies in the bank is at distance zero from itself, exactly
    own = _neighbours.kth_neighbour_distance(torch.from_numpy(bank[:5]), torch.from_numpy(bank), 1)
    np.testing.assert_array_equal(own, np.zeros(5))
