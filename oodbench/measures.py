"""Measures: figures on a network's outputs that tell of the network, whatever the detector.

A benchmark names those that it wants (``Benchmark(measures=(...,))``). Each is one more column of
its rows, under the measure's name, a section of its page, and a plot's axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from oodbench.outputs import Outputs
from oodbench.registry import MEASURES


class Measure:
    """A figure that compares a network's outputs on an OOD set with those on the ID test set.

    A subclass computes it in :meth:`of`, says in its class variables how people are told of it, and
    is registered with ``@register_measure("name")`` or by an entry point of the group
    ``oodbench.measures``.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    """The title of its section on a page."""
    about: ClassVar[str] = ""
    """What it is, a sentence or a few; stands below the title."""
    axis: ClassVar[str] = ""
    """What a plot's axis says; the title if it is empty."""
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    """What it reads of :class:`Outputs`; it is left out where a network does not give that."""
    is_auroc: ClassVar[bool] = False
    """Whether it is an AUROC: far below one half something is the wrong way round."""

    def of(self, test: Outputs, ood: Outputs) -> float | None:
        """The figure, a fraction in [0, 1].

        Args:
            test: outputs of the ID test set.
            ood: outputs of an OOD set, or of a shifted one.

        Returns:
            The figure, or None where there are too few samples for one.
        """
        raise NotImplementedError


def of_sets(
    names: Sequence[str], test: Outputs, ood: Sequence[Outputs]
) -> list[dict[str, float | None]]:
    """The figures of measures on each OOD set, by measure.

    Raises:
        UnknownNameError: a measure that is not registered.
    """
    measures = {name: MEASURES.get(name)() for name in names}
    return [
        {
            name: measure.of(test, outputs)
            if all(one.has(need) for one in (test, outputs) for need in measure.needs)
            else None
            for name, measure in measures.items()
        }
        for outputs in ood
    ]
