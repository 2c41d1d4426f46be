"""Nearest neighbours in a bank of features: exact, in blocks, coarse first where that is faster.

A search over a bank is a matrix product. Processors with bfloat16 units make a coarse one about
three times as fast as in float32, so there the coarse product only chooses candidates; their
products are then taken in float32, and a bound on all that the coarse product may be wrong by shows
for each query that no other row can be among its k best. A query without that proof is searched
again in float32. So the result does not depend on the processor.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Self

import torch
from torch import Tensor

from oodbench.errors import OODBenchWarning, OptionError
from oodbench.outputs import Outputs

from ._numerics import blocks

QUERIES = 512
"""Queries that are multiplied with a block of the bank at a time."""

MANY = 2**13
"""Queries to ask for at once, as a bank is prepared for each call."""

GATHERED = 2**21
"""Values of candidates that are gathered at a time."""

BFLOAT16 = 2.0**-8
"""The largest relative error of a value rounded to bfloat16."""

FLOAT32 = 2.0**-23
"""Twice that of float32: a sum of D terms loses at most D times it, relative to the norms."""


MADE = 2**14
"""Rows of a bank that are made for a search at a time, where it is kept in half precision."""

PIECE = 2**22
"""Values of a bank that are made at a time, where it is kept in half precision."""


@dataclass
class Kept:
    """A bank whose rows stay as they came, in half precision, and are made when they are looked at.

    So it takes half the memory of a bank of float32 and gives the same rows, for a pass over it in
    each call.

    Args:
        rows: ``[M, D]``, float16 or bfloat16.
        make: the bank's rows in float32 from some of these, and from the same of ``beside``.
        beside: what else rows are made of, ``[M, ...]`` each.
    """

    rows: Tensor
    make: Callable[..., Tensor]
    beside: tuple[Tensor, ...] = ()

    @staticmethod
    def saves(features: Tensor) -> bool:
        """Whether rows of these features take less memory as they came."""
        return features.dtype in (torch.float16, torch.bfloat16)

    @staticmethod
    def of(bank: Tensor, make: Callable[..., Tensor], *beside: Tensor) -> Tensor | Kept:
        """The bank: what is kept, or made of it if it is in half precision."""
        return Kept(bank, make, beside) if Kept.saves(bank) else bank

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def device(self) -> torch.device:
        """Where the rows are kept."""
        return self.rows.device

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return self.on(self.device, index)

    def on(self, device: torch.device, index: slice | Tensor) -> Tensor:
        """Rows of the bank, made on a device in pieces: ``[m, D]`` float32."""
        parts = [part[index] for part in (self.rows, *self.beside)]
        made = parts[0].new_empty(parts[0].shape, dtype=torch.float32, device=device)
        size = max(1, PIECE // max(1, made.shape[1]))
        for start in range(0, len(made), size):
            piece = slice(start, start + size)
            made[piece] = self.make(*(part[piece].to(device) for part in parts))
        return made


def bank_of(
    train: Outputs,
    make: Callable[[Tensor], Tensor],
    *,
    anew: bool = True,
    column: str = "features",
    place: Tensor | None = None,
) -> Tensor:
    """What to keep of a column ``[N, D]`` for :meth:`Kept.of`.

    Args:
        train: whose column.
        make: the bank's rows in float32 from some of it.
        anew: whether half precision is kept as it came, and made in each call.
        column: ``"features"`` or ``"logits"``.
        place: which row of the bank each sample gets, -1 for none; in order if None.
    """
    values: Tensor = getattr(train, column)
    is_kept = anew and Kept.saves(values)
    if place is None:
        place = torch.arange(len(values), device=values.device)
    # filled in place: parts that are joined would take the room twice
    dtype = values.dtype if is_kept else torch.float32
    size = int((place >= 0).sum())
    bank = torch.empty(size, values.shape[1], dtype=dtype, device=values.device)
    start = 0
    for batch in blocks(train, column):
        rows = place[start : start + len(batch)]
        part = getattr(batch, column)[rows >= 0]
        bank[rows[rows >= 0]] = part if is_kept else make(part)
        start += len(batch)
    return bank


def _rows(bank: Tensor | Kept, index: slice | Tensor, like: Tensor) -> Tensor:
    if isinstance(bank, Kept):
        return bank.on(like.device, index).to(like)
    return bank[index].to(like)


def check_k(k: int, labels: Tensor, who: str) -> None:
    """Check that there are k neighbours, and say where a class has fewer samples.

    Args:
        k: how many are looked for.
        labels: of the training samples, ``[N]``.
        who: the detector.

    Raises:
        OptionError: k exceeds N.
    """
    if k > len(labels):
        raise OptionError(
            f"{who}: k={k} exceeds the {len(labels)} training samples; choose a smaller k."
        )
    counts = labels.bincount()
    least = int(counts[counts > 0].amin())
    if k > least:
        few = int(((counts > 0) & (counts < k)).sum())
        warnings.warn(
            f"{who}: k={k} is more than the {least} training samples of the smallest class "
            f"({few} of {int((counts > 0).sum())} classes have fewer than k): neighbours of their "
            f"samples are of other classes, and they look OOD. Choose k={least} or less.",
            OODBenchWarning,
            stacklevel=3,
        )


@cache
def _faiss() -> ModuleType | None:
    try:
        import faiss
    except ImportError:
        return None
    return faiss


@cache
def _has_bfloat16_units() -> bool:
    """Whether this machine's processor multiplies bfloat16 matrices faster than float32 ones."""
    features: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def most_similar(
    queries: Tensor,
    bank: Tensor | Kept,
    k: int,
    offset: Tensor | None = None,
    block: int = 2**16,
) -> tuple[Tensor, Tensor]:
    """The k largest ``q . b + offset_b`` of each query over a bank, and where they are.

    Exact. The bank is searched in blocks, each in two steps: the largest of every group of rows
    first, and then within the k best groups, which hold the k best rows. So the sort sees a small
    share of the products, of which there are never more than 512 x block. Where it is faster, the
    products are coarse at first (see above).

    Args:
        queries: ``[N, D]``.
        bank: ``[M, D]``, or how it is made.
        k: at most M.
        offset: ``[M]``.
        block: rows of the bank at a time.

    Returns:
        Values ``[N, k]``, falling, and rows of the bank ``[N, k]``.
    """
    best = queries.new_empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    # one buffer for all products: a new one each time would be paged in each time
    block = min(block, MADE) if isinstance(bank, Kept) else block
    buffer = queries.new_empty(min(QUERIES, len(queries)) * min(block, len(bank)))
    part = coarse = None
    for start in range(0, len(bank), block):
        del part, coarse  # or there would be two at a time
        part = _rows(bank, slice(start, start + block), queries)
        shift = None if offset is None else offset[start : start + block].to(queries)
        coarse = _Coarse.of(part, shift, k) if _pays(queries, part, k) else None
        results = []
        for some in queries.split(QUERIES):
            if coarse is not None and coarse.useful:
                results.append(coarse.search(some, buffer))
            else:
                results.append(_search(some, part, shift, k, buffer))
        values, where = (torch.cat(columns) for columns in zip(*results, strict=True))
        best, rows = torch.cat([best, values], dim=1), torch.cat([rows, where + start], dim=1)
        best, order = best.topk(min(k, best.shape[1]), dim=1)
        rows = rows.gather(1, order)
    return best, rows


def _search(
    queries: Tensor, part: Tensor, shift: Tensor | None, k: int, buffer: Tensor
) -> tuple[Tensor, Tensor]:
    products = buffer[: len(queries) * len(part)].view(len(queries), len(part))
    if shift is None:
        torch.mm(queries, part.T, out=products)
    else:
        torch.addmm(shift, queries, part.T, out=products)
    return _largest(products, min(k, len(part)))


def _pays(queries: Tensor, part: Tensor, k: int) -> bool:
    """Whether coarse products save more than their candidates cost, as measured on a CPU."""
    return (
        queries.device.type == "cpu"
        and queries.dtype == torch.float32
        and queries.shape[1] >= 128
        and len(queries) >= QUERIES // 4
        and _candidates(k) <= len(part) // 128
        and _has_bfloat16_units()
    )


def _candidates(k: int) -> int:
    return 2 * k + 32


@dataclass
class _Coarse:
    """A block of the bank in bfloat16, with its offsets as two more columns: value and rest.

    With ``q~`` and ``b~`` rounded, ``|q . b - q~ . b~| <= |q - q~| |b| + |q~| |b - b~|``
    (Cauchy-Schwarz); what float32 sums lose comes to it, and the rounding of the result.
    """

    part: Tensor  # [M, D]
    shift: Tensor  # [M], around zero: a constant changes no order
    middle: Tensor | float  # that constant
    k: int
    rounded: Tensor  # [M, D + 2]
    norm: Tensor  # the largest |b|
    lost: Tensor  # the largest |b - b~|
    offset_error: Tensor  # what two columns leave of the offset, and what the sums may lose of it
    useful: bool = True

    @classmethod
    def of(cls, part: Tensor, offset: Tensor | None, k: int) -> Self:
        offset = part.new_zeros(len(part)) if offset is None else offset
        middle = (offset.amax() + offset.amin()) / 2
        shift = offset - middle
        rounded = part.new_empty(len(part), part.shape[1] + 2, dtype=torch.bfloat16)
        rounded[:, :-2] = part
        rounded[:, -2] = shift
        rounded[:, -1] = shift - rounded[:, -2]
        left = shift - rounded[:, -2:].float().sum(dim=1)
        return cls(
            part=part,
            shift=shift,
            middle=middle,
            k=min(k, len(part)),
            rounded=rounded,
            norm=part.norm(dim=1).amax(),
            lost=_rounding(part, rounded[:, :-2]).amax(),
            offset_error=left.abs().amax() + shift.abs().amax() * part.shape[1] * FLOAT32,
        )

    def search(self, queries: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
        """The k largest products of a block, and where: ``[n, k]`` each."""
        rounded = queries.new_ones(len(queries), queries.shape[1] + 2, dtype=torch.bfloat16)
        rounded[:, :-2] = queries
        products = buffer.view(torch.bfloat16)[: len(queries) * len(self.part)]
        products = products.view(len(queries), len(self.part))
        torch.mm(rounded, self.rounded.T, out=products)
        coarse, candidates = _largest(products, _candidates(self.k))
        values, order = self._exact(queries, candidates).topk(self.k, dim=1)
        rows = candidates.gather(1, order)
        # the most that a row outside the candidates can come to
        last = coarse[:, -1].float()
        size = queries.norm(dim=1)
        error = self.norm * _rounding(queries, rounded[:, :-2]) + self.lost * size * (1 + BFLOAT16)
        error += self.norm * size * queries.shape[1] * FLOAT32 + self.offset_error
        beyond = last + 1.01 * (last.abs() * BFLOAT16 + error)
        unproven = (values[:, -1] <= beyond).nonzero().squeeze(1)
        if len(unproven):
            self.useful = len(unproven) < len(queries) // 4
            values[unproven], rows[unproven] = _search(
                queries[unproven], self.part, self.shift, self.k, buffer
            )
        return values + self.middle, rows

    def _exact(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Products in float32 of each query with its candidates ``[n, m]``."""
        n, m = candidates.shape
        # few at a time: what is gathered should still be in the cache when it is multiplied
        few = max(1, GATHERED // (m * queries.shape[1]))
        buffer = queries.new_empty(min(few, n) * m, queries.shape[1])
        products = []
        for some, rows in zip(queries.split(few), candidates.split(few), strict=True):
            gathered = buffer[: rows.numel()]
            torch.index_select(self.part, 0, rows.flatten(), out=gathered)
            products.append(torch.bmm(gathered.view(*rows.shape, -1), some[:, :, None]))
        return torch.cat(products).squeeze(2) + self.shift[candidates]


def _rounding(values: Tensor, rounded: Tensor) -> Tensor:
    """Norm of what rounding took from each row."""
    return (values - rounded).norm(dim=1)


def _largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``values.topk(k, dim=1)``, faster where k is a small share of the columns."""
    n, m = values.shape
    group = 1 << max(0, int(math.log2(max(1.0, math.sqrt(m / k)))))
    groups = m // group
    if group < 4 or groups < k:
        best = values.topk(k, dim=1)
        return best.values, best.indices
    whole = values[:, : groups * group].unflatten(1, (group, groups))  # a group: every groups-th
    top = whole.amax(dim=1).topk(k, dim=1, sorted=False).indices  # [N, k]
    inside = whole.gather(2, top[:, None, :].expand(n, group, k))  # [N, group, k]
    columns = top[:, None, :] + groups * torch.arange(group, device=top.device)[:, None]
    rest = torch.arange(groups * group, m, device=top.device).expand(n, -1)
    candidates = torch.cat([inside.flatten(1), values[:, groups * group :]], dim=1)
    best = candidates.topk(k, dim=1)
    return best.values, torch.cat([columns.flatten(1), rest], dim=1).gather(1, best.indices)


def half_squares(bank: Tensor | Kept) -> Tensor:
    """``-|b|^2 / 2`` of each row: what makes the nearest row the most similar one."""
    if isinstance(bank, Kept):
        size = max(1, PIECE // max(1, bank.rows.shape[1]))
        # filled in place: small results between large pieces would keep these from being freed
        halves = torch.empty(len(bank), device=bank.device)
        for start in range(0, len(bank), size):
            halves[start : start + size] = half_squares(bank[start : start + size])
        return halves
    return torch.linalg.vector_norm(bank, dim=1).square() / -2


def kth_neighbour_distance(
    queries: Tensor, bank: Tensor | Kept, k: int, half: Tensor | None = None, block: int = 2**16
) -> Tensor:
    """Euclidean distance ``[N]`` from each query ``[N, D]`` to its k-th nearest row of the bank.

    Exact; the bank ``[M, D]`` is searched in blocks (by faiss, where that is installed and the
    features are float32 on the CPU). ``half`` is :func:`half_squares` of the bank, if at hand.
    """
    faiss = None if isinstance(bank, Kept) else _faiss()
    if faiss is not None and queries.device.type == "cpu" and queries.dtype == torch.float32:
        _, nearest = faiss.knn(queries.numpy(), _rows(bank, slice(None), queries).numpy(), k)
        last = torch.from_numpy(nearest[:, -1])
    else:
        half = half_squares(bank) if half is None else half
        last = most_similar(queries, bank, k, half, block)[1][:, -1]
    # The expanded square cancels for close neighbours, so the k-th distance is taken afresh.
    return (queries - _rows(bank, last.to(bank.device), queries)).norm(dim=1)
