"""A fitted detector on images of every kind, saved, loaded elsewhere, refused where it must be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import oodbench
from oodbench import FittedDetector, Outputs, Preprocess, files
from oodbench.detector import Detector
from oodbench.errors import DataError, FittedError, OODBenchError, OODBenchWarning, OptionError
from tests.conftest import write_images
from tests.helpers.attempts import Server
from tests.helpers.fitted import CPU, GREY, blobs, fitted, network, strange


@pytest.fixture(scope="module")
def knn() -> FittedDetector:
    return fitted("knn", tpr=[0.95, 0.9])


def test_scores_are_those_of_the_network_and_the_detector(knn: FittedDetector) -> None:
    new = blobs(70, 5)
    inputs = torch.stack([GREY(new[i]) for i in range(70)])
    model = network()
    with torch.no_grad():
        features = model[:3](inputs)
        expected = knn.detector.score(Outputs(features=features, logits=model(inputs)))
    np.testing.assert_allclose(knn.score(new), expected.numpy(), atol=1e-6)
    assert knn.predict(new).tolist() == model(inputs).argmax(dim=1).tolist()


def test_images_of_every_kind(knn: FittedDetector, tmp_path: Path) -> None:
    new = blobs(4, 5)
    expected = knn.score(new)
    for i in range(4):
        new[i].save(tmp_path / f"{i}.png")
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    inputs = torch.stack([GREY(new[i]) for i in range(4)])
    for images in (
        [new[i] for i in range(4)],
        paths,
        [str(path) for path in paths],
        new.images,
        list(new.images),
        torch.from_numpy(new.images)[:, None],
        inputs,
        list(inputs),
        (new[i] for i in range(4)),
    ):
        np.testing.assert_allclose(knn.score(images), expected, atol=1e-6)
    for one in (new[0], paths[0], str(paths[0]), new.images[0], inputs[0]):
        np.testing.assert_allclose(knn.score(one), expected[:1], atol=1e-6)
    assert knn.score([]).shape == (0,)
    assert knn.predict([]).shape == (0,)


def test_what_is_no_image_is_refused(knn: FittedDetector, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    for wrong in (np.ones((8, 8)), 5, [object()], tmp_path / "none.png", tmp_path / "bad.png"):
        with pytest.raises(DataError):
            knn.score(wrong)


def test_flags_thresholds_and_p_values_agree(knn: FittedDetector) -> None:
    assert knn.thresholds == {
        0.95: knn.calibration.threshold(0.95).value,
        0.9: knn.calibration.threshold(0.9).value,
    }
    assert knn.threshold == knn.thresholds[0.95]
    new, ood = blobs(200, 7), strange(60)
    assert knn.is_ood(new).mean() < 0.15
    assert knn.is_ood(ood).mean() > 0.9
    for tpr in (0.95, 0.9, 0.8):
        assert np.array_equal(knn.is_ood(new, tpr), knn.p_values(new) <= 1 - tpr + 1e-12)
    with pytest.raises(OptionError, match="held-out ID samples"):
        knn.is_ood(new, 0.9999)


def test_batches_do_not_matter(knn: FittedDetector) -> None:
    new = blobs(30, 3)
    whole = knn.score(new)
    one_by_one = np.concatenate([knn.score(new[i]) for i in range(30)])
    np.testing.assert_allclose(one_by_one, whole, atol=1e-6)


def test_the_network_given_stays_as_it_was() -> None:
    model = network().train()
    detector = fitted("energy", model=model)
    detector.score(blobs(4))
    assert model.training
    assert not model[1]._forward_hooks


@pytest.mark.parametrize("name", ["odin", "gmm", "react", "ensemble", "msp"])
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    detector = fitted(name)
    new = blobs(40, 5)
    before = detector.score(new)
    assert detector.save(tmp_path / "it") == tmp_path / "it"
    loaded = oodbench.load(tmp_path / "it", network())
    assert np.array_equal(loaded.score(new), before)
    assert loaded.thresholds == detector.thresholds
    assert loaded.classes == ("low", "middle", "high")
    assert np.array_equal(loaded.calibration.scores, detector.calibration.scores)
    assert loaded.about["calibrated_on"]["n"] == 400


def test_another_process_scores_the_same(
    digits_checkpoint: Path, server: Server, tmp_path: Path
) -> None:
    """Of a registered backbone the folder holds the network, so nothing else is needed."""
    detector = oodbench.fit(
        "knn", id="digits", backbone="digits-cnn", checkpoint=digits_checkpoint, hardware=CPU
    )
    detector.save(tmp_path / "it")
    scores = detector.score(oodbench.get_benchmark("digits").id.load("test"))
    code = f"""
import oodbench, numpy as np
fitted = oodbench.load({str(tmp_path / "it")!r})
new = oodbench.get_benchmark("digits").id.load("test")
np.save({str(tmp_path / "scores.npy")!r}, fitted.score(new))
print(fitted)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    assert "KNN(k=50" in server.prints(script)
    assert np.array_equal(np.load(tmp_path / "scores.npy"), scores)


def test_a_trained_run_is_made_again(tmp_path: Path) -> None:
    detector = oodbench.fit(
        "energy", id="digits", recipe="quick", recipe_options={"epochs": 1}, hardware=CPU
    )
    detector.save(tmp_path / "it")
    loaded = oodbench.load(tmp_path / "it")
    new = oodbench.get_benchmark("digits").id.load("test")
    assert np.array_equal(loaded.score(new), detector.score(new))
    assert loaded.source["kind"] == "method"


# --- what is refused ----------------------------------------------------------------------------


class Shifted(nn.Module):
    """The same weights, other code."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) + 1


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return fitted("knn").save(tmp_path / "it")


def test_another_network_is_refused(saved: Path) -> None:
    with pytest.raises(FittedError, match="not the one it was fitted on: its weights"):
        oodbench.load(saved, network(seed=1))
    with pytest.raises(FittedError, match=r"its weights.*its class"):
        oodbench.load(saved, Shifted(network()))
    with pytest.raises(FittedError, match="its weights"):
        oodbench.load(saved, network(seed=1), strict=False)
    with pytest.raises(FittedError, match="given in Python"):
        oodbench.load(saved)


def reseal(path: Path, change: object) -> None:
    """A ``detector.json`` that was changed by somebody who knows how."""
    content = json.loads((path / "detector.json").read_text())
    del content["sha256"]
    change(content)  # type: ignore[operator]
    text = json.dumps({**content, "sha256": files.digest(content)})
    (path / "detector.json").write_text(text)


def test_the_code_of_the_network_counts(saved: Path) -> None:
    reseal(saved, lambda content: content["network"].update(code="other"))
    with pytest.raises(FittedError, match="its code or structure"):
        oodbench.load(saved, network())
    assert oodbench.load(saved, network(), strict=False).score(blobs(2)).shape == (2,)


def test_what_it_says_counts_where_weights_cannot_tell(saved: Path) -> None:
    """Weights that cannot be read (a session of another runtime) are told by what they say."""
    reseal(saved, lambda content: content["network"].update(weights=None, code=None))
    with pytest.raises(FittedError, match="weights"):
        oodbench.load(saved, network())
    reseal(saved, lambda content: content["files"].pop("probe"))
    with pytest.raises(FittedError, match="no probe"):
        oodbench.load(saved, network())


def test_the_probe_tells_networks_apart(saved: Path) -> None:
    detector = oodbench.load(saved, network())
    probe = detector.probe()
    assert set(probe) == {"features", "logits"}
    from oodbench.deploy.identity import agrees

    assert agrees(probe, detector.probe())
    assert not agrees(probe, fitted("msp", model=network(seed=1)).probe())


def test_the_preprocessing_counts(saved: Path) -> None:
    other = Preprocess(8, (0.5,), (0.25,), mode="L", flip=False)
    with pytest.raises(FittedError, match="preprocessing differs"):
        oodbench.load(saved, network(), preprocess=other)
    assert oodbench.load(saved, network(), preprocess=GREY).preprocess == GREY


class Halve:
    """A transform of somebody's own."""

    def __init__(self, factor: float = 0.5) -> None:
        self.factor = factor

    def __call__(self, image: Image.Image) -> Tensor:
        return self.factor * torch.from_numpy(np.array(image, dtype=np.float32))[None] / 255

    def __repr__(self) -> str:
        return f"Halve({self.factor})"


def test_a_transform_of_ones_own(tmp_path: Path) -> None:
    whole = oodbench.get_benchmark("digits")
    with torch.random.fork_rng():
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
    detector = oodbench.fit("msp", model, benchmark=whole, preprocess=Halve(), hardware=CPU)
    detector.save(tmp_path / "it")
    with pytest.raises(FittedError, match="of its owner's"):
        oodbench.load(tmp_path / "it", model)
    with pytest.raises(FittedError, match="preprocessing differs"):
        oodbench.load(tmp_path / "it", model, preprocess=Halve(0.25))
    test = whole.id.load("test")
    loaded = oodbench.load(tmp_path / "it", model, preprocess=Halve())
    assert np.array_equal(loaded.score(test), detector.score(test))


def test_the_code_of_the_detector_counts(saved: Path) -> None:
    reseal(saved, lambda content: content["detector"].update(code="other"))
    with pytest.raises(FittedError, match="code of the detector"):
        oodbench.load(saved, network())
    with pytest.warns(OODBenchWarning, match="code of the detector"):
        oodbench.load(saved, network(), strict=False)


def test_a_swapped_state_is_refused(saved: Path) -> None:
    other = fitted("knn", train=blobs(300, 8)).save(saved.with_name("other"))
    shutil.copy(other / "state.safetensors", saved / "state.safetensors")
    with pytest.raises(FittedError, match="damaged"):
        oodbench.load(saved, network())


def test_a_strangers_folder_runs_no_code(saved: Path, tmp_path: Path) -> None:
    """Whatever JSON says where a name, a path or a class is told of."""
    marker = tmp_path / "marker"

    def everywhere(content: object, value: object) -> list[object]:
        changes: list[object] = []
        stack = [content]
        while stack:
            one = stack.pop()
            entries = one.items() if isinstance(one, dict) else enumerate(one)  # type: ignore[call-overload]
            for key, inner in list(entries):
                changes.append((one, key, inner, value))
                if isinstance(inner, dict | list):
                    stack.append(inner)
        return changes

    hostile = {"object": "subprocess:Popen", "attributes": {"args": ["touch", str(marker)]}}
    original = (saved / "detector.json").read_text()
    text = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    refused = 0
    for value in (hostile, text):
        content = json.loads(original)
        for one, key, inner, bad in everywhere(content, value):  # type: ignore[misc]
            one[key] = bad
            plain = {k: v for k, v in content.items() if k != "sha256"}
            sealed = {**plain, "sha256": files.digest(plain)}
            (saved / "detector.json").write_text(json.dumps(sealed))
            try:
                oodbench.load(saved, network())
            except OODBenchError:
                refused += 1
            one[key] = inner
    assert refused > 20
    assert not marker.exists()


def test_a_pickle_in_its_place_is_not_read(saved: Path, tmp_path: Path) -> None:
    from tests.helpers.evil import Evil

    torch.save(Evil(tmp_path / "marker"), saved / "state.safetensors")
    known = {
        "sha256": files.sha256(saved / "state.safetensors"),
        "bytes": (saved / "state.safetensors").stat().st_size,
    }
    reseal(saved, lambda content: content["files"].update(state=known))
    with pytest.raises(FittedError, match="cannot be read"):
        oodbench.load(saved, network())
    assert not (tmp_path / "marker").exists()


# --- fit ----------------------------------------------------------------------------------------


def test_a_folder_of_images(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"a": 30, "b": 30}, size=8, seed=1)
    write_images(tmp_path / "val", {"a": 30, "b": 30}, size=8, seed=2)
    with torch.random.fork_rng():
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    lines: list[str] = []
    options = {"preprocess": Preprocess(8, (0.5,) * 3, (0.5,) * 3), "hardware": CPU}
    detector = oodbench.fit(
        "msp", model, train=tmp_path / "train", report=lines.append, tpr=0.5, **options
    )
    assert any("a tenth of it" in line for line in lines)
    assert detector.about["calibrated_on"]["n"] < 20
    flat = f"folder:{tmp_path / 'val'}"
    lines.clear()
    detector = oodbench.fit(
        "msp", model, train=tmp_path / "train", calibration=flat, report=lines.append, **options
    )
    assert detector.about["calibrated_on"]["n"] == 60
    with pytest.raises(OptionError, match="not both"):
        oodbench.fit("msp", model, id="digits", train=tmp_path / "train")
    with pytest.raises(OptionError, match="say nothing of how the network sees them"):
        oodbench.fit("msp", model, train=tmp_path / "train")


def test_held_out_images_are_not_learned_from() -> None:
    lines: list[str] = []
    train = blobs(300)
    detector = fitted("knn", calibration=blobs(100, 0), train=train, report=lines.append)
    assert detector.about["learned_from"]["n"] == 200
    assert any("100 images" in line and "network that was trained" in line for line in lines)
    with pytest.raises(OptionError, match="nothing is left"):
        fitted("knn", calibration=train, train=train)


def test_val_inside_of_train_does_not_calibrate(digits_checkpoint: Path) -> None:
    lines: list[str] = []
    detector = oodbench.fit(
        "msp",
        id="digits",
        backbone="digits-cnn",
        checkpoint=digits_checkpoint,
        hardware=CPU,
        report=lines.append,
    )
    spec = oodbench.get_benchmark("digits").id
    train, val = (set(spec.load(split).digests.tolist()) for split in ("train", "val"))
    wanted = "test" if val <= train else "val"
    assert detector.about["calibrated_on"]["name"].endswith(wanted)


def test_few_held_out_images_are_too_few() -> None:
    with pytest.raises(OptionError, match="wants at least 19"):
        fitted("msp", calibration=blobs(12, 4))
    with pytest.raises(OptionError, match="not both"):
        fitted("msp", tpr=0.9, fpr_budget=0.1)
    assert fitted("msp", fpr_budget=0.1).all_thresholds[0].fpr_budget == 0.1


def test_pixels_are_not_scored_one_by_one() -> None:
    with pytest.raises(OptionError, match="scores whole samples"):
        oodbench.fit("msp", benchmark="scenes/segmentation")


def test_features_alone_have_no_class() -> None:
    class Features(nn.Module):
        def outputs(self, images: Tensor) -> dict[str, Tensor]:
            return {"features": images.flatten(1)}

        def head(self) -> None:
            return None

    detector = fitted("knn", model=Features())
    assert detector.score(blobs(5, 3)).shape == (5,)
    with pytest.raises(OptionError, match="no predicted class"):
        detector.predict(blobs(2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator")
def test_on_an_accelerator(saved: Path) -> None:
    new = blobs(20, 4)
    expected = oodbench.load(saved, network()).score(new)
    for detector in (oodbench.load(saved, network(), device="cuda"), fitted("knn").to("cuda")):
        assert detector.device.type == "cuda"
        np.testing.assert_allclose(detector.score(new), expected, atol=1e-4)


def test_to_leaves_scores_as_they_are(knn: FittedDetector) -> None:
    new = blobs(10, 3)
    before = knn.score(new)
    assert np.array_equal(knn.to("cpu").score(new), before)


def test_what_is_random_is_not_in_the_probe() -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(images) + torch.randn(len(images), 3)

    assert "logits" not in fitted("msp", model=Random()).probe()


def test_a_detector_that_is_not_registered_is_told_when_saved(tmp_path: Path) -> None:
    class Mine(Detector):
        """Higher = more OOD."""

        needs = frozenset({"logits"})

        def score(self, outputs: Outputs) -> Tensor:
            return -outputs.logits.amax(dim=1)

    detector = fitted(Mine())
    assert detector.score(blobs(2)).shape == (2,)
    with pytest.raises(FittedError, match="not registered"):
        detector.save(tmp_path / "it")
    assert not (tmp_path / "it").exists()
