"""Published figures, as ``oodbench info`` prints them."""

from __future__ import annotations


def openood(
    cifar10: tuple[float, float] | None = None, cifar100: tuple[float, float] | None = None
) -> tuple[str, ...]:
    """A method's (near-OOD, far-OOD) AUROC on OpenOOD v1.5's leaderboards, ResNet-18, percent."""
    return tuple(
        f"OpenOOD v1.5, ResNet-18, {name}: near-OOD AUROC {near:.2f}, far-OOD AUROC {far:.2f}"
        for name, pair in (("CIFAR-10", cifar10), ("CIFAR-100", cifar100))
        if pair
        for near, far in (pair,)
    )
