"""Text: shapes that are refused, and what every tensor of it goes through."""

from __future__ import annotations

import pytest
import torch

from oodbench.errors import OptionError
from oodbench.text import Text


def test_shapes_are_checked() -> None:
    with pytest.raises(OptionError, match=r"\[C, D\]"):
        Text(torch.ones(3))
    with pytest.raises(OptionError, match=r"\[M, 2\]"):
        Text(torch.eye(2), words=torch.ones(4, 3))
    with pytest.raises(OptionError, match="one entry for each"):
        Text(torch.eye(2), words=torch.ones(4, 2), groups=torch.zeros(3))


def test_words_alone_are_one_group_and_all_is_changed_alike() -> None:
    text = Text(torch.eye(2), words=torch.ones(4, 2))
    assert text.groups is not None
    assert text.groups.tolist() == [0, 0, 0, 0]
    copied = text.each(torch.Tensor.clone)
    assert {name for name, _ in copied.arrays()} == {"classes", "words", "groups"}
    assert copied.classes is not text.classes
    assert {name for name, _ in Text(torch.eye(2)).arrays()} == {"classes"}
