"""ESPNetv2: its shape, what its blocks compute, the names of its weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oodbench.networks.espnetv2 import ESPNetv2, Halving, Pyramid


@pytest.mark.parametrize(
    ("scale", "millions"), [(0.5, 0.08), (1.0, 0.23), (1.5, 0.47), (2.0, 0.79)]
)
def test_its_sizes_are_those_that_are_published(scale: float, millions: float) -> None:
    parameters = sum(p.numel() for p in ESPNetv2(20, scale).parameters())
    assert round(parameters / 1e6, 2) == millions


def test_its_maps() -> None:
    network = ESPNetv2(19, 0.5).eval()
    with torch.no_grad():
        maps = network.base_net(torch.rand(2, 3, 64, 128))
        assert network(torch.rand(2, 3, 64, 128)).shape == (2, 19, 64, 128)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (16, 32, 64), (32, 16, 32), (64, 8, 16), (128, 4, 8),
    ]  # fmt: skip


def test_branches_are_added_up_one_after_the_other() -> None:
    """Depthwise kernels that pass the middle on: so branches are 1, 2, 3 and 4 times the input."""
    block = Pyramid(16, 16, 9).eval()
    for branch in block.spp_dw:
        conv = branch.get_submodule("conv")
        assert isinstance(conv, nn.Conv2d)
        nn.init.zeros_(conv.weight)
        conv.weight.data[:, :, 1, 1] = 1
    seen: list[torch.Tensor] = []
    block.proj_1x1.register_forward_hook(lambda _m, _a, out: seen.append(out))
    block.br_after_cat.register_forward_hook(lambda _m, given, _o: seen.append(given[0]))
    with torch.no_grad():
        block(torch.rand(1, 16, 6, 6))
    reduced, merged = seen
    torch.testing.assert_close(merged, torch.cat([k * reduced for k in (1, 2, 3, 4)], dim=1))


@pytest.mark.parametrize(("widest", "dilations"), [(9, [1, 2, 3, 4]), (7, [1, 1, 2, 3])])
def test_kernels_that_would_be_too_wide_are_narrow(widest: int, dilations: list[int]) -> None:
    found = [
        m.dilation[0] for m in Pyramid(16, 16, widest).spp_dw.modules() if type(m) is nn.Conv2d
    ]
    assert found == dilations


def test_the_image_is_added_where_the_size_becomes_half() -> None:
    half = Halving(16, 32, 9).eval()
    x, image = torch.rand(1, 16, 8, 8), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        mean = F.avg_pool2d(x, 3, stride=2, padding=1)
        shrunk = image
        for _ in range(3):
            shrunk = F.avg_pool2d(shrunk, 3, stride=2, padding=1)
        both = torch.cat([mean, half.eesp(x)], dim=1) + half.inp_reinf(shrunk)
        torch.testing.assert_close(half(x, image), half.act(both))


def test_names_of_weights_are_those_that_are_published() -> None:
    names = set(ESPNetv2(20).state_dict())
    assert len(names) == 526
    assert {
        "base_net.level1.conv.weight", "base_net.level2_0.eesp.proj_1x1.bn.running_var",
        "base_net.level3.2.spp_dw.3.conv.weight", "base_net.level4.6.module_act.weight",
        "base_net.level4_0.inp_reinf.0.act.weight", "bu_dec_l1.merge_layer.0.br.0.weight",
        "bu_dec_l2.projection_layer.cbr.1.weight", "bu_dec_l3.br.br.1.weight",
        "bu_dec_l4.merge_layer.3.bias", "merge_enc_dec_l2.wt_layer.1.weight",
        "merge_enc_dec_l4.expansion_layer.cbr.0.weight", "bu_br_l4.1.weight",
    } <= names  # fmt: skip
