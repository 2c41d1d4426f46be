"""NegLabel and its mining: word by word in loops, the cut and the permutation, what it refuses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import oodbench
from oodbench import Head, Outputs
from oodbench.detectors.neglabel import NegLabel, neg_mining
from oodbench.errors import DataError, MissingOutputError, OptionError
from oodbench.text import Text
from tests.helpers.towers import digit_towers


def unit(generator: torch.Generator, *shape: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return drawn / drawn.norm(dim=-1, keepdim=True)


def made(words: int = 47, n: int = 8) -> Outputs:
    generator = torch.Generator().manual_seed(5)
    groups = (torch.arange(words) % 3 == 0).long()
    text = Text(unit(generator, 5, 7), 100.0, unit(generator, words, 7), groups)
    e = unit(generator, n, 7)
    return Outputs(e, labels=torch.zeros(n), head=Head(100 * text.classes, text=text))


def test_mining_word_by_word() -> None:
    text = made().any_head().text
    assert text is not None
    assert text.words is not None
    assert text.groups is not None
    kept: list[int] = []
    for group in (0, 1):
        own = [i for i in range(len(text.words)) if text.groups[i] == group]
        level = {
            i: np.quantile([float(text.words[i] @ t) for t in text.classes], 0.95) for i in own
        }
        kept += sorted(own, key=lambda i: level[i])[: math.floor(0.4 * len(own))]
    assert neg_mining(text.words, text.groups, text.classes, 0.95, 0.4).tolist() == kept


@pytest.mark.parametrize(("groups", "share"), [(1, 0.5), (4, 0.5), (100, 0.5), (7, 1.0)])
def test_score_in_slow_loops(groups: int, share: float) -> None:
    outputs = made()
    text = outputs.any_head().text
    assert text is not None
    assert text.words is not None
    assert text.groups is not None
    detector = NegLabel(groups=groups, share=share, scale=10.0, seed=2).fit(outputs)
    kept = neg_mining(text.words, text.groups, text.classes, 0.95, share).tolist()
    g = min(groups, len(kept))
    kept = kept[: len(kept) - len(kept) % g]
    order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(2)).tolist()
    mixed, size = [kept[i] for i in order], len(kept) // g
    for e, score in zip(outputs.features, detector.score(outputs).tolist(), strict=True):
        positive = sum(math.exp(10 * float(e @ t)) for t in text.classes)
        parts = []
        for k in range(g):
            own = mixed[k * size : (k + 1) * size]
            negative = sum(math.exp(10 * float(e @ text.words[i])) for i in own)
            parts.append(positive / (positive + negative))
        assert score == pytest.approx(1 - sum(parts) / g, abs=1e-9)


def test_no_words_are_refused_with_what_to_give() -> None:
    bare = Outputs(torch.eye(3), labels=torch.zeros(3),
                   head=Head(torch.eye(3), text=Text(torch.eye(3))))  # fmt: skip
    with pytest.raises(MissingOutputError, match=r"neglabel needs words.*words=FILE"):
        oodbench.create_detector("neglabel").fit(bare)
    with pytest.raises(OptionError, match="leaves none"):
        NegLabel(share=0.001).fit(made())
    with pytest.raises(OptionError, match="groups"):
        NegLabel(groups=0)


def test_words_from_a_file_on_two_small_towers(tmp_path: Path) -> None:
    file = tmp_path / "words.tsv"
    nouns = ["leaf", "river", "stone", "wall", "cloud", "bottle", "carpet", "window"] * 5
    file.write_text("# made up\n" + "\n".join(nouns) + "\nblue\tadjective\nrough\tadjective\n")
    rows = oodbench.evaluate(
        digit_towers(), id="digits", detectors=["neglabel"], words=file
    ).to_pandas()
    assert rows["auroc"].notna().all()
    file.write_text("leaf\tverb\n")
    with pytest.raises(DataError, match="verb"):
        oodbench.evaluate(digit_towers(), id="digits", detectors=["neglabel"], words=file)
