r"""KPCA: reconstruction error of principal components in a kernel's feature space.

Paper: K. Fang et al., "Kernel PCA for Out-of-Distribution Detection", NeurIPS 2024.
arXiv:2402.02949
Code:  fanghenshaometeor/ood-kernel-pca, written anew from the paper

.. math:: s(x) = \lVert (I - U_q U_q^\top) (\Phi(z) - \mu) \rVert_2

with :math:`\mu` and :math:`U_q` the mean and the first q principal axes of :math:`\Phi` on training
data, q the fewest that explain a share of the variance, and

- CoP (``kernel="cosine"``): :math:`\Phi(z) = z / \lVert z \rVert`;
- CoRP (``kernel="cosine-gaussian"``): random Fourier features of that,
  :math:`\sqrt{2/M} \cos(\omega_j^\top z / \lVert z \rVert + u_j)`,
  :math:`\omega_j \sim N(0, 2 \gamma I)`, :math:`u_j` uniform in [0, 2 pi].

Differs from the reference code: (1) the random features are drawn by torch from ``seed``; (2) q is
the fewest components that explain the share (theirs, one more in places).
Checked against: NumPy's singular value decomposition (tests/detectors/test_kpca.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from oodbench.detector import Detector, learned
from oodbench.errors import OptionError
from oodbench.outputs import Outputs
from oodbench.papers import Paper
from oodbench.registry import register_detector

from ._covariance import warn_of_span
from ._numerics import in_blocks, moments, normalize, principal_axes


@register_detector("kpca")
@dataclass
class KPCA(Detector):
    """Reconstruction error in the kernel's feature space. Higher = more OOD; range [0, inf).

    Memory: M x M for the second moment, whatever the number of samples.

    The random features depend on ``seed``, and so do scores where they are few, which they are by
    default on networks with narrow features: with 16 features (M = 64) the AUROC on drawn outputs
    is 81 to 85 % from seed to seed. Try several seeds, set a larger M, or take ``kernel="cosine"``,
    which draws nothing.

    Args:
        kernel: ``"cosine"`` (CoP) or ``"cosine-gaussian"`` (CoRP).
        explained: share of the variance that the kept components explain, in (0, 1); None for the
            paper's values for supervised networks: 0.85 for CoP, 0.8 for CoRP (CIFAR-10).
        gamma: of the Gaussian kernel; 2 for CIFAR-10, 3 for ImageNet in the paper.
        M: random features; None for four times the features, at most 4096. That gives the paper's
            2048 for ResNet-18 (512 features) and 4096 for ResNet-50 (2048).
        seed: of the random features.

    Raises:
        OptionError: explained outside (0, 1), or gamma or M not positive.
        BadScoresError: NaN features.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    id_options: ClassVar = {"imagenet": {"gamma": 3.0, "explained": 0.5}}
    grid: ClassVar = {
        "kernel": ("cosine-gaussian", "cosine"),
        "explained": (0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99),
    }
    paper: ClassVar[Paper | None] = Paper(
        title="Kernel PCA for Out-of-Distribution Detection",
        authors="Fang, Kun and Tao, Qinghua and Lv, Kexin and He, Mingzhen and Huang, Xiaolin and "
        "Yang, Jie",
        venue="NeurIPS",
        year=2024,
        url="https://arxiv.org/abs/2402.02949",
        formula="s(x) = |(I - U_q U_q^T) (Phi(z) - mu)|, Phi random Fourier features of z/|z|",
    )

    kernel: Literal["cosine", "cosine-gaussian"] = "cosine-gaussian"
    explained: float | None = None
    gamma: float = 2.0
    M: int | None = None
    seed: int = 0
    omega_: Tensor | None = learned()  # [D, M]
    phase_: Tensor | None = learned()  # [M]
    centre_: Tensor = learned()  # [M]
    axes_: Tensor = learned()  # [M, q]

    def __post_init__(self) -> None:
        if self.explained is not None and not 0 < self.explained < 1:
            raise OptionError(f"kpca: explained must be in (0, 1), not {self.explained}.")
        for name in ("gamma", "M"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise OptionError(f"kpca: {name} must be positive, not {value}.")

    def _map(self, z: Tensor) -> Tensor:
        z = normalize(z)
        if self.omega_ is None or self.phase_ is None:
            return z
        # single precision: the features are of the order of 1/sqrt(M), and all alike
        angles = torch.addmm(self.phase_.to(z.device), z.float(), self.omega_.to(z.device))
        return angles.cos_().mul_(math.sqrt(2 / angles.shape[1]))

    def fit(self, train: Outputs) -> Self:
        """Principal axes of the mapped features ``[N, D]``, in one pass."""
        self.omega_ = self.phase_ = None
        if self.kernel == "cosine-gaussian":
            generator = torch.Generator().manual_seed(self.seed)
            width = train.features.shape[1]
            m = min(4 * width, 4096) if self.M is None else self.M
            self.omega_ = torch.randn(width, m, generator=generator)
            self.omega_ *= math.sqrt(2 * self.gamma)
            self.phase_ = 2 * math.pi * torch.rand(m, generator=generator)
        space = principal_axes(moments(train, "kpca", transform=self._map, exact=False))
        if len(train) <= train.features.shape[1]:
            warn_of_span(
                space.variances,
                len(train),
                "kpca",
                "principal axes are among them",
                "mapped features",
            )
        explained = self.explained
        if explained is None:
            explained = 0.85 if self.kernel == "cosine" else 0.8
        shares = space.variances.cumsum(0) / space.variances.sum().clamp(min=1e-300)
        q = int((shares < explained).sum()) + 1
        dtype: Any = torch.float32 if self.omega_ is not None else space.axes.dtype
        self.centre_ = space.centre.to(dtype)
        self.axes_ = space.axes[:, :q].to(dtype).contiguous()
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]`` from features ``[N, D]``."""

        def error(features: Tensor) -> Tensor:
            centred = self._map(features) - self.centre_.to(features.device)
            axes = self.axes_.to(features.device)
            return (centred - (centred @ axes) @ axes.T).norm(dim=1).to(features.dtype)

        return in_blocks(outputs, error, "features")
