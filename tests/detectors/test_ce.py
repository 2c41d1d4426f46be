"""Cross-entropy: its loss, its accuracy and its head, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

import oodbench
from oodbench import Preprocess, Recipe, metrics
from oodbench.data.transforms import CropFlip
from oodbench.detectors.ce import CrossEntropy
from oodbench.extract import extract
from oodbench.training.run import plan
from oodbench.training.train import train
from tests.helpers.methods import batch, untrained
from tests.helpers.training import CPU


def test_loss_and_accuracy_by_hand() -> None:
    method = untrained(CrossEntropy, Recipe())
    images, labels = batch()
    found = method.loss(images, labels)
    logits = method.linear(method.backbone(images[:, 0])).detach().numpy()
    expected = -log_softmax(logits, axis=1)[np.arange(12), labels]
    assert found["loss"].item() == pytest.approx(expected.mean(), rel=1e-5)
    right = (logits.argmax(axis=1) == labels.numpy()).mean()
    assert float(found["accuracy"]) == pytest.approx(right)


def test_outputs_are_features_and_what_the_head_makes_of_them() -> None:
    method = untrained(CrossEntropy, Recipe()).eval()
    images = batch()[0][:, 0]
    with torch.no_grad():
        found = method.outputs(images)
        assert torch.equal(found["features"], method.backbone(images))
        torch.testing.assert_close(found["logits"], method.linear(found["features"]))
    head = method.head()
    assert torch.equal(head.weight, method.linear.weight)
    assert torch.equal(head.bias, method.linear.bias)


def test_images_are_cropped_and_flipped() -> None:
    preprocess = Preprocess(8, (0.5,), (0.25,), mode="L")
    assert isinstance(untrained(CrossEntropy, Recipe()).augmentation(preprocess), CropFlip)
    assert CrossEntropy.default_recipe("cifar10") == "openood"
    assert CrossEntropy.default_recipe("digits") == "quick"


def test_cross_entropy_learns_digits() -> None:
    benchmark = oodbench.get_benchmark("digits")
    run = plan(benchmark, "ce", overrides={"epochs": 6})
    network = train(run, CPU)
    outputs = extract(network, benchmark.id.load("test"), benchmark.preprocess, hardware=CPU)
    assert metrics.accuracy(outputs.logits, outputs.labels) > 0.95
