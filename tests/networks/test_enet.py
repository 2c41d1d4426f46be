"""ENet: its shape, the sizes that it takes, the names of its weights."""

from __future__ import annotations

import torch

from oodbench.data.transforms import Preprocess
from oodbench.networks.enet import ENet, Resized


def test_its_shape_is_the_papers() -> None:
    network = ENet(19).eval()
    parameters = sum(p.numel() for p in network.parameters())
    assert 0.34e6 < parameters < 0.38e6  # 0.37 M in the paper's table
    maps: list[tuple[int, ...]] = []
    for name in ("initial_block", "regular1_4", "dilated2_8", "dilated3_7", "upsample4_0"):
        network.get_submodule(name).register_forward_hook(
            lambda _m, _a, out: maps.append(tuple(out.shape[1:]))
        )
    with torch.no_grad():
        assert network(torch.rand(1, 3, 64, 128)).shape == (1, 19, 64, 128)
    assert maps == [(16, 32, 64), (64, 16, 32), (128, 8, 16), (128, 8, 16), (64, 16, 32)]


def test_names_of_weights_are_those_that_are_published() -> None:
    names = set(ENet(20).state_dict())
    assert len(names) == 622
    assert {
        "initial_block.main_branch.weight", "downsample1_0.ext_conv1.0.weight",
        "asymmetric2_3.ext_conv2.3.weight", "dilated3_7.out_activation.weight",
        "upsample4_0.main_conv1.1.running_var", "upsample5_0.ext_tconv1.weight",
        "transposed_conv.weight",
    } <= names  # fmt: skip


def test_images_are_resized_and_void_is_left_out() -> None:
    shown = Preprocess(512, (0.0,) * 3, (1.0,) * 3)
    inner = ENet(20).eval()
    network = Resized(inner, (64, 128), 19, shown)
    images = torch.rand(1, 3, 64, 128)
    with torch.no_grad():
        assert torch.equal(network(images), inner(images)[:, :19])
        assert network(torch.rand(1, 3, 90, 150)).shape == (1, 19, 64, 128)
    assert network.own_preprocess == shown
