"""Text: what a network that reads text says of the classes, beside what it says of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from oodbench.errors import OptionError

ARRAYS = ("classes", "words", "groups")
"""The arrays of a :class:`Text`, by the names that files have."""


@dataclass(frozen=True)
class Text:
    """Embeddings of class prompts, and of further words, by the text tower of a network.

    Args:
        classes: unit vectors ``[C, D]``, one for each class.
        scale: what cosines are multiplied by to be logits (the inverse of the temperature).
        words: unit vectors ``[M, D]`` of words that may stand for other classes; None without.
        groups: ``[M]`` int64, which group of words (nouns, adjectives) each is of.
    """

    classes: Tensor
    scale: float = 100.0
    words: Tensor | None = None
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        if self.classes.ndim != 2:
            raise OptionError(f"Text.classes must be [C, D], not {list(self.classes.shape)}.")
        if self.words is not None:
            if self.words.ndim != 2 or self.words.shape[1] != self.classes.shape[1]:
                raise OptionError(
                    f"Text.words must be [M, {self.classes.shape[1]}], not "
                    f"{list(self.words.shape)}."
                )
            if self.groups is None:
                groups = self.words.new_zeros(len(self.words)).long()
                object.__setattr__(self, "groups", groups)
            elif self.groups.shape != self.words.shape[:1]:
                raise OptionError("Text.groups must have one entry for each of the words.")

    def arrays(self) -> Iterator[tuple[str, Tensor]]:
        """Its tensors by name, those that there are."""
        for name in ARRAYS:
            value = getattr(self, name)
            if value is not None:
                yield name, value

    def each(self, change: Callable[[Tensor], Tensor]) -> Text:
        """The same with every tensor changed: moved, copied, in another precision."""
        changed: dict[str, Any] = {name: change(value) for name, value in self.arrays()}
        return replace(self, **changed)
