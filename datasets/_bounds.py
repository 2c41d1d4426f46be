"""ID accuracies that networks of the literature have, below which a training was a short one."""

from __future__ import annotations

from dataclasses import replace

from oodbench.benchmark import Protocol

_LEAST = {
    "cifar10": (
        0.90,
        "ResNet-20 of He et al. 2016, arXiv:1512.03385, has 91.25 %, the ResNet-18 of OpenOOD "
        "v1.5, arXiv:2306.09301, 95.06 %",
    ),
    "cifar100": (
        0.65,
        "the ResNet-18 of OpenOOD v1.5, arXiv:2306.09301, has 77.25 %, its G-ODIN 74.46 %",
    ),
    "imagenet200": (
        0.80,
        "the ResNet-18 of OpenOOD v1.5, arXiv:2306.09301, has 86.37 %",
    ),
    "imagenet1k": (
        0.65,
        "the ResNet-50 of OpenOOD v1.5, arXiv:2306.09301, has 76.18 %, torchvision's ResNet-18 "
        "69.76 %",
    ),
}


def bounded(protocol: Protocol, id_name: str) -> Protocol:
    """A protocol that lists networks apart which classify worse than those of the literature do.

    Args:
        protocol: without a bound.
        id_name: the ID set. The bounds lie below the networks of the sources by as much as smaller
            ones, or methods that cost some accuracy, lie below them.
    """
    least, source = _LEAST[id_name]
    return replace(protocol, least_accuracy=least, least_accuracy_source=source)
