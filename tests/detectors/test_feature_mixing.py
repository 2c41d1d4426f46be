"""Feature Mixing: exchanges by hand, the ring of three, and its term beside the definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from oodbench.detectors.feature_mixing import FeatureMixing, FeatureMixingRecipe, exchanged
from oodbench.errors import OptionError
from oodbench.networks.modalities import MultimodalEncoders

F64 = torch.float64
DIMS = {"a": 6, "b": 4}


class Wide(nn.Identity):
    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def method(**options: float) -> FeatureMixing:
    torch.manual_seed(0)
    encoders = MultimodalEncoders({name: Wide(width) for name, width in DIMS.items()})
    return FeatureMixing(encoders, 3, FeatureMixingRecipe(**options)).double()  # type: ignore[arg-type]


def test_exchanged_by_hand() -> None:
    joined = torch.arange(10.0)[None]
    places = {"a": torch.tensor([5, 0]), "b": torch.tensor([1, 2])}
    found = exchanged(joined, DIMS, places)
    # a's 5th and 0th are 5 and 0, b's 1st and 2nd 7 and 8
    assert found.tolist() == [[8, 1, 2, 3, 4, 7, 6, 5, 0, 9]]
    assert joined.equal(torch.arange(10.0)[None])
    first = torch.tensor([0])
    ring = torch.tensor([[1.0, 2, 3]])
    three = exchanged(ring, dict.fromkeys("abc", 1), dict.fromkeys("abc", first))
    assert three.tolist() == [[3, 1, 2]]


@pytest.mark.parametrize("seed", range(3))
def test_the_term_equals_its_definition(seed: int) -> None:
    mixing = method(share=0.5, entropy_ratio=0.7)
    joined = torch.randn(5, 10, generator=torch.Generator().manual_seed(seed), dtype=F64)
    torch.manual_seed(seed)
    places = mixing.places(DIMS)
    assert [len(set(place.tolist())) for place in places.values()] == [2, 2]
    total = 0.0
    w, b = (p.detach() for p in (mixing.heads.joint.weight, mixing.heads.joint.bias))
    for row in joined:
        mixed = row.clone()
        for one, two in zip(places["a"].tolist(), places["b"].tolist(), strict=True):
            mixed[one], mixed[6 + two] = row[6 + two], row[one]
        values = [math.exp(v) for v in (w @ mixed + b).tolist()]
        p = [v / sum(values) for v in values]
        total -= sum(v * math.log(v) for v in p) / math.log(3)
    torch.manual_seed(seed)
    weight, found = mixing.extra_losses(joined, {}, torch.zeros(5))["mixed-entropy"]
    assert weight == 0.7
    assert found.item() == pytest.approx(-total / 5, abs=1e-9)


def test_impossible_recipes_are_refused() -> None:
    with pytest.raises(OptionError, match="share"):
        FeatureMixingRecipe(share=0.0)
