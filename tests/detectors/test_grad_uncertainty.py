"""GradUncertainty is autograd's and pytorch-ood's, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import oodbench
from oodbench import Outputs
from tests.helpers.problems import problem
from tests.helpers.scores import same, scores


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_autograds(bias: bool) -> None:
    p = problem(test=12)
    linear = nn.Linear(24, 5).double()
    linear.load_state_dict({"weight": p.head.weight, "bias": p.head.bias})
    expected = []
    for f in p.test.features:
        loss = -linear(f[None]).log_softmax(dim=1).sum()
        gradients = torch.autograd.grad(loss, [linear.weight, linear.bias])
        chosen = gradients if bias else gradients[:1]
        expected.append(-sum(float(g.square().sum()) for g in chosen))
    same(scores("grad-uncertainty", p, bias=bias), expected)


def test_by_hand() -> None:
    # p = (3/4, 1/4): C p - 1 = (1/2, -1/2), their squares' sum 1/2; |f|^2 + 1 = 26
    f = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    z = torch.tensor([[np.log(3.0), 0.0]], dtype=torch.float64)
    found = oodbench.create_detector("grad-uncertainty").score(Outputs(f, z, torch.tensor([0])))
    np.testing.assert_allclose(found, [-13.0])


def test_it_is_pytorch_oods() -> None:
    peer = pytest.importorskip("pytorch_ood.detector", reason="the test extra has it")
    p = problem(test=12)
    linear = nn.Linear(24, 5).double()
    linear.load_state_dict({"weight": p.head.weight, "bias": p.head.bias})
    theirs = peer.GradUncertainty(linear).to("cpu").predict(p.test.features)
    same(scores("grad-uncertainty", p), theirs.numpy())
