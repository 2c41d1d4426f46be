"""Detectors against pytorch-ood, on a toy problem and on a real classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import oodbench
from oodbench import Outputs, metrics
from oodbench.backbones import load_classifier
from oodbench.extract import extract
from oodbench.samples import image_folder
from oodbench.testing import blobs

from .conftest import SHARED

peer = pytest.importorskip("pytorch_ood.detector", reason="the test extra has pytorch-ood")

Score = Callable[[Outputs, Outputs], Tensor]


def _peer_features(detector: object) -> Score:
    def score(train: Outputs, test: Outputs) -> Tensor:
        detector.fit_features(train.features, train.labels)  # type: ignore[attr-defined]
        return detector.predict_features(test.features)  # type: ignore[attr-defined]

    return score


def _peer_logits(detector: object) -> Score:
    return lambda _, test: detector.predict_logits(test.logits)  # type: ignore[attr-defined]


PEERS: dict[str, Callable[[], Score]] = {
    "msp": lambda: _peer_logits(peer.MaxSoftmax(None)),
    "maxlogit": lambda: _peer_logits(peer.MaxLogit(None)),
    "energy": lambda: _peer_logits(peer.EnergyBased(None)),
    "knn": lambda: _peer_features(peer.KNN(None, k=50)),
    "mahalanobis": lambda: _peer_features(peer.Mahalanobis(None)),
}


@pytest.mark.parametrize("name", PEERS)
def test_same_scores_on_the_toy_problem(name: str) -> None:
    toy = blobs()
    mine = oodbench.create_detector(name).fit(toy.train).score(toy.test).double()
    theirs = PEERS[name]()(toy.train, toy.test).double()
    if name == "msp":  # we rank by -log p, they by -p
        mine = -(-mine).exp()
    if name == "mahalanobis":  # theirs is a log-density under the unnormalised scatter
        mine = mine / (2 * len(toy.train))
    torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=1e-3)


KNOWN = {
    # detector: set: AUROC, FPR@95 ID positive, FPR@95 OOD positive, percent; by pytorch-ood 0.4.0
    "msp": {"cifar100": (85.47, 73.75, 44.00), "mnist": (91.63, 60.20, 24.45)},
    "energy": {"cifar100": (87.81, 56.30, 45.20), "mnist": (98.00, 11.30, 8.95)},
    "knn": {"cifar100": (86.85, 56.70, 46.15), "mnist": (96.90, 16.60, 15.60)},
}
KNOWN["msp"]["textures10"] = (86.90, 70.50, 43.25)
KNOWN["energy"]["textures10"] = (89.33, 52.00, 41.65)
KNOWN["knn"]["textures10"] = (93.94, 26.25, 29.95)


def test_known_figures_of_a_real_classifier(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OODBENCH_DATA", str(shared_data))
    results = oodbench.evaluate(
        id="cifar10",
        detectors=["msp", "energy", "knn", "mahalanobis", "maxlogit"],
        backbone="resnet20",
        checkpoint=SHARED / "models" / "cifar10_resnet20.safetensors",
        ood=["cifar100", "mnist", "textures10"],
    )
    table = results.to_pandas().set_index(["detector", "ood"])
    assert table["id_accuracy"].unique().tolist() == [0.916]
    for detector, sets in KNOWN.items():
        for ood, (auroc, fpr_id, fpr_ood) in sets.items():
            row = table.loc[(detector, ood)]
            assert 100 * row["auroc"] == pytest.approx(auroc, abs=0.1), (detector, ood)
            assert 100 * row["fpr95_id"] == pytest.approx(fpr_id, abs=0.5), (detector, ood)
            assert 100 * row["fpr95_ood"] == pytest.approx(fpr_ood, abs=0.5), (detector, ood)

    # and the peer itself, run now on the same outputs, for all that it has
    network, _ = load_classifier(
        "resnet20", SHARED / "models" / "cifar10_resnet20.safetensors", num_classes=10
    )
    preprocess = oodbench.Preprocess(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    outputs = {
        name: extract(network, image_folder(name, shared_data / name), preprocess)
        for name in ("cifar10/train", "cifar10/test", "mnist/test")
    }
    for name, make in PEERS.items():
        score = make()
        theirs = metrics.auroc(
            score(outputs["cifar10/train"], outputs["cifar10/test"]),
            score(outputs["cifar10/train"], outputs["mnist/test"]),
        )
        assert table.loc[(name, "mnist")]["auroc"] == pytest.approx(theirs, abs=1e-3), name


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

    from oodbench.detectors import _numerics

    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(1000, 8)), rng.normal(size=(50, 8))
    expected = NearestNeighbors(n_neighbors=7).fit(bank).kneighbors(queries)[0][:, -1]
    for block in (3, 100, 5000):
        found = _numerics.kth_neighbour_distance(
            torch.from_numpy(queries), torch.from_numpy(bank), 7, block=block
        )
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    # a query that lies in the bank is at distance zero from itself, exactly
    own = _numerics.kth_neighbour_distance(torch.from_numpy(bank[:5]), torch.from_numpy(bank), 1)
    np.testing.assert_array_equal(own, np.zeros(5))
