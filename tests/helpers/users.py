"""Networks as users write them, in modules of their own, and what the cache has of them."""

from __future__ import annotations

import collections
import functools
import os
import textwrap
import types
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.benchmark import Benchmark
from oodbench.caching.fingerprint import cache_key
from oodbench.dataset import DatasetSpec
from oodbench.extract import as_network, extract
from tests.helpers.images import CPU, GREY, arrays


def key(network: nn.Module) -> str | None:
    """The key of what the network says of 21 images; None where it cannot be told."""
    return cache_key(as_network(network), arrays(), GREY, "32-true")


def passes(network: nn.Module, samples: Any = None) -> int:
    """Samples that went through the network to be cached."""
    seen: list[int] = []
    extract(network, samples or arrays(), GREY, hardware=CPU, on_forward=seen.append)
    return sum(seen)


def logits(network: nn.Module) -> Tensor:
    """What an extraction gives of it, from the cache or anew."""
    return extract(network, arrays(), GREY, hardware=CPU).logits


def plain_logits(network: nn.Module) -> Tensor:
    """What the network itself says."""
    samples = arrays()
    with torch.no_grad():
        return network.eval()(torch.stack([GREY(samples[i]) for i in range(len(samples))]))


def module(source: str, name: str = "users_own") -> types.ModuleType:
    """A module of that source, which imports what networks need."""
    made = types.ModuleType(name)
    made.__dict__.update(
        nn=nn, torch=torch, F=F, np=np, functools=functools, os=os, collections=collections
    )
    exec(compile(textwrap.dedent(source), f"<{name}>", "exec"), made.__dict__)
    return made


def network(body: str, before: str = "", setup: str = "pass", name: str = "users_own") -> nn.Module:
    """A linear network whose ``forward`` returns ``self.last(z)``, with z computed by ``body``."""
    source = textwrap.dedent(before) + textwrap.dedent(
        f"""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.last = nn.Linear(64, 3)
                {setup}
            def forward(self, x):
                z = x.flatten(1)
                {body}
                return self.last(z)
        """
    )
    made: nn.Module = module(source, name).Net()
    return made


def benchmark() -> Benchmark:
    """Images in memory, an ID set and an OOD set."""

    def spec(name: str, seed: int) -> DatasetSpec:
        return DatasetSpec(
            name, lambda split: arrays(40, seed + (split == "train"), f"{name}/{split}"),
            ("train", "test"),
        )  # fmt: skip

    return Benchmark("toy-known", spec("toy", 1), (spec("other", 3),), (), GREY)
