"""Cross-entropy: its loss, its accuracy and its head, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from oodbench import Preprocess, Recipe
from oodbench.data.transforms import CropFlip
from oodbench.detectors.ce import CrossEntropy
from tests.helpers.methods import batch, untrained


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
