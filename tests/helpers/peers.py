"""pytorch-ood's detectors beside ours: how each is called, and with which options they agree.

Read by tests/detectors/test_parity.py and by benchmarks/posthoc.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from oodbench import Outputs
from oodbench.outputs import Head


@dataclass
class Peer:
    """One detector of pytorch-ood.

    Args:
        make: from the head to ``(fit, score)``.
        options: of ours, so that both compute the same.
    """

    make: Callable[[Head], tuple[Callable[[Outputs], Any], Callable[[Outputs], Tensor]]]
    options: dict[str, Any] = field(default_factory=dict)


def _linear(head: Head) -> nn.Linear:
    linear = nn.Linear(head.weight.shape[1], head.weight.shape[0])
    linear.load_state_dict({"weight": head.weight, "bias": head.bias})
    return linear.eval().requires_grad_(False)


def _features(make: Callable[[Any, nn.Linear], Any]) -> Callable[[Head], Any]:
    def build(head: Head) -> Any:
        import pytorch_ood.detector as peer

        detector = make(peer, _linear(head))
        return (
            lambda train: detector.fit_features(train.features, train.labels),
            lambda outputs: detector.predict_features(outputs.features),
        )

    return build


def _logits(make: Callable[[Any], Any], fit: bool = False) -> Callable[[Head], Any]:
    def build(_: Head) -> Any:
        import pytorch_ood.detector as peer

        detector = make(peer)
        return (
            (lambda train: detector.fit_logits(train.logits, train.labels))
            if fit
            else lambda _: None,
            lambda outputs: detector.predict_logits(outputs.logits).detach(),
        )

    return build


def _maps(make: Callable[[Any, Callable[[Tensor], Tensor]], Any]) -> Callable[[Head], Any]:
    def build(head: Head) -> Any:
        import pytorch_ood.detector as peer

        linear = _linear(head)
        detector = make(peer, lambda maps: linear(maps.flatten(1)))

        def fit(train: Outputs) -> None:
            if getattr(detector, "fit_feature_maps", None) and detector.requires_fit:
                detector.fit_feature_maps(train.features[:, :, None, None], train.labels)

        return fit, lambda outputs: detector.predict_feature_maps(
            outputs.features[:, :, None, None]
        )

    return build


def _gradnorm(head: Head) -> Any:
    import pytorch_ood.detector as peer

    linear = _linear(head).requires_grad_(True)
    detector = peer.GradNorm(linear, param_filter=lambda name: name == "weight")
    return lambda _: None, lambda outputs: detector.to("cpu").predict(outputs.features)


def _nac(head: Head) -> Any:
    import pytorch_ood.detector as peer

    layer = nn.Hardtanh(-1e30, 1e30)  # the identity, with an output of its own to differentiate by
    model = nn.Sequential(layer, _linear(head))
    detector = peer.NACUE(model, [layer], device="cpu")

    def leaf(z: Tensor) -> Tensor:
        return z.clone().requires_grad_()

    class _Loader:
        def __init__(self, train: Outputs) -> None:
            data = TensorDataset(train.features, train.labels)
            self.inner = DataLoader(data, batch_size=4096)

        def __iter__(self) -> Any:
            return ((leaf(x), y) for x, y in self.inner)

    return (
        lambda train: detector.fit(_Loader(train)),
        lambda outputs: torch.cat(
            [detector.predict(leaf(batch.features)) for batch in outputs.batches(4096)]
        ),
    )


PEERS: dict[str, Peer] = {
    "msp": Peer(_logits(lambda peer: peer.MaxSoftmax(None))),
    "maxlogit": Peer(_logits(lambda peer: peer.MaxLogit(None))),
    "energy": Peer(_logits(lambda peer: peer.EnergyBased(None))),
    "entropy": Peer(_logits(lambda peer: peer.Entropy(None))),
    "gen": Peer(_logits(lambda peer: peer.GEN(None)), {"clip": 1e-7}),
    "tempscale": Peer(_logits(lambda peer: peer.TemperatureScaling(None), fit=True)),
    "klm": Peer(_logits(lambda peer: peer.KLMatching(None), fit=True)),
    "weighted-energy": Peer(
        _logits(lambda peer: peer.WeightedEBO(None, torch.arange(1.0, 11.0))),
        {"weights": tuple(range(1, 11))},
    ),
    "openmax": Peer(
        _logits(lambda peer: peer.OpenMax(None), fit=True),
        {"tail": 25, "alpha": 10, "correct_only": False},
    ),
    "pnml": Peer(_features(lambda peer, head: peer.PNML(None, head))),
    "knn": Peer(_features(lambda peer, _: peer.KNN(None, k=50))),
    "mahalanobis": Peer(_features(lambda peer, _: peer.Mahalanobis(None))),
    "rmds": Peer(_features(lambda peer, _: peer.RMD(None))),
    "gmm": Peer(_features(lambda peer, _: peer.GMM(None))),
    "she": Peer(_features(lambda peer, head: peer.SHE(None, head))),
    "nac": Peer(_nac, {"bins": "geometric", "eps": 1e-12}),
    "vim": Peer(
        _features(
            lambda peer, head: peer.ViM(None, head.weight.shape[1] // 2, head.weight, head.bias)
        ),
    ),
    "react": Peer(_maps(lambda peer, head: peer.ReAct(nn.Identity(), head, percentile=0.9))),
    "vra": Peer(
        _maps(
            lambda peer, head: peer.VRA(
                nn.Identity(), head, lower_percentile=0.1, upper_percentile=0.9
            )
        ),
        {"per_unit": True, "below": "clip"},
    ),
    "ash-p": Peer(_maps(lambda peer, head: peer.ASH(nn.Identity(), head, "ash-p", percentile=0.9))),
    "ash-b": Peer(_maps(lambda peer, head: peer.ASH(nn.Identity(), head, "ash-b", percentile=0.9))),
    "ash-s": Peer(_maps(lambda peer, head: peer.ASH(nn.Identity(), head, "ash-s", percentile=0.9))),
    "scale": Peer(_maps(lambda peer, head: peer.SCALE(nn.Identity(), head, percentile=0.85))),
    "lts": Peer(_features(lambda peer, head: peer.LTS(None, head, p=0.05))),
    "dice": Peer(_features(lambda peer, head: peer.DICE(None, head.weight, head.bias, p=0.9))),
    "nnguide": Peer(
        _features(lambda peer, head: peer.NNGuide(None, head, k=10)), {"k": 10, "share": 1.0}
    ),
    "fdbd": Peer(_features(lambda peer, head: peer.fDBD(None, head))),
    "nci": Peer(_features(lambda peer, head: peer.NCI(None, head, alpha=0.0001))),
    "gradnorm": Peer(_gradnorm),
}
"""All that pytorch-ood 0.4.0 has of our detectors that read outputs, by our name."""
