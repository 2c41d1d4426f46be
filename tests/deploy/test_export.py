"""Export: one graph that gives what PyTorch gives, or an error that says why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oodbench
from oodbench import FittedDetector
from oodbench.data.transforms import to_tensor
from oodbench.deploy.export import export
from oodbench.errors import ExportError, OODBenchError
from tests.helpers.fitted import CPU, blobs, fitted, strange
from tests.helpers.ways import real

onnxruntime = pytest.importorskip("onnxruntime")


class Headed(nn.Module):
    """A network that names its features and its head."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.linear = nn.Conv2d(1, 32, 3), nn.Linear(32, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.conv(images).relu().mean(dim=(2, 3)))


def ran(detector: FittedDetector, path: Path, samples: Any) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    pixels = samples.images[:, None].astype(np.float32) / 255
    found: list[np.ndarray] = session.run(["class", "score", "flag"], {"images": pixels})
    return found


@pytest.mark.parametrize(
    "name",
    "msp maxlogit energy gen entropy knn mahalanobis vim residual react scale fdbd nci "
    "mahalanobis-pp rmds-pp caref cadref actsub optfs core ras grood cfood "
    "grad-uncertainty".split(),
)
def test_the_graph_gives_what_pytorch_gives(name: str, tmp_path: Path) -> None:
    detector = fitted(name, model=Headed())
    path = export(detector, tmp_path / "it.onnx")
    for samples in (blobs(37, 5), strange(11)):
        predicted, scores, flags = ran(detector, path, samples)
        expected = detector.score(samples)
        # core divides cosines by their deviation, 7e-4 here, so float32's rounding is seen
        np.testing.assert_allclose(
            scores, expected, atol=3e-4 * max(1, np.abs(expected).max()), rtol=0
        )
        assert predicted.tolist() == detector.predict(samples).tolist()
        clear = np.abs(expected - detector.threshold) > 1e-3
        assert np.array_equal(flags[clear], detector.is_ood(samples)[clear])


def test_others_say_why_not(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="needs the network itself"):
        export(fitted("odin"), tmp_path / "it.onnx")
    with pytest.raises(ExportError, match=r"openmax cannot be exported.*expm1"):
        export(fitted("openmax"), tmp_path / "it.onnx")
    with pytest.raises(ExportError, match=r"weiper cannot be exported.*bincount"):
        export(fitted("weiper", model=Headed()), tmp_path / "it.onnx")
    with pytest.raises(ExportError, match="needs the network itself"):
        export(fitted("iodin"), tmp_path / "it.onnx")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search whose result is recorded as a constant, as one outside of torch is."""
    detector = fitted("knn", model=Headed())

    def constant(outputs: Any) -> Tensor:
        found = detector.detector.score(outputs).numpy().copy()
        return torch.from_numpy(found) + 0 * outputs.features[:, 0]

    monkeypatch.setattr(detector.detector, "graph_score", constant)
    with pytest.raises(ExportError, match="knn cannot be exported"):
        export(detector, tmp_path / "it.onnx")
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(OODBenchError, match=r"oodbench\[onnx\]"):
        export(fitted("msp"), tmp_path / "it.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "lite0"])
def test_real_networks(name: str, tmp_path: Path) -> None:
    """Real weights and images: scores within 1e-4 of PyTorch's, over the larger of 1 and those."""
    it = real(name, tmp_path)
    pixels = np.stack([to_tensor(it.preprocess.fit_image(it.new[i])) for i in range(len(it.new))])
    names = "knn vim react scale"
    if name == "resnet20":
        names += " msp maxlogit energy gen mahalanobis fdbd dice ash-p ash-b ash-s ensemble nac"
    for detector in names.split():
        options = {"k": 5} if detector == "knn" else {}
        made = oodbench.fit(
            oodbench.create_detector(detector, **options), it.network, train=it.train,
            calibration=it.held, preprocess=it.preprocess, tpr=0.9, hardware=CPU,
        )  # fmt: skip
        path = export(made, tmp_path / f"{detector}.onnx")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        batches = np.array_split(pixels, 8)
        scores = np.concatenate([session.run(["score"], {"images": b})[0] for b in batches])
        expected = made.score(it.new)
        assert np.abs(scores - expected).max() <= 1e-4 * max(1, np.abs(expected).max()), detector


def test_what_is_refused_prints_no_graph(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The exporter's C++ prints the whole graph where it meets what ONNX has not."""
    print("said before")
    with pytest.raises(ExportError, match="nnguide cannot be exported with this network"):
        export(fitted("nnguide", model=Headed()), tmp_path / "it.onnx")
    print("said after")
    out, err = capfd.readouterr()
    assert out.splitlines() == ["said before", "said after"]
    assert "graph(" not in err
