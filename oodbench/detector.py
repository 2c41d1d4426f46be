"""The Detector base class: how OOD-ness is read off a network's outputs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from oodbench import notebook
from oodbench.checks import level
from oodbench.errors import BadScoresError, ChangedInputsError, NotFittedError
from oodbench.networks.door import single_precision
from oodbench.options import build, option_fields
from oodbench.outputs import Head, Outputs
from oodbench.papers import Paper
from oodbench.registry import DETECTORS, STANDARD_METHOD


def learned() -> Any:
    """A detector's field that ``fit`` fills in: no option, not compared, not printed."""
    return dataclasses.field(default=None, init=False, repr=False, compare=False)


class Detector:
    """An OOD score read off :class:`Outputs`; higher = more OOD, always.

    A subclass is a dataclass: its fields are its hyper-parameters; what ``fit`` learns are fields
    ``name_: Tensor = learned()``. It says what ``score`` reads in ``needs``
    (``"features"``, ``"logits"``, ``"head"``, an extra's name, ``"model"``), and implements
    ``score``, and ``fit`` if it learns from ID training outputs. A detector that needs the network
    itself (input gradients, feature maps) has ``needs = {"model"}`` and implements ``score_batch``,
    and ``fit_batches`` if it learns from ID training images.

    ``id_options`` holds the defaults that differ by ID set, ``{"cifar100": {"k": 200}}``;
    ``grid`` the values that ``oodbench tune`` tries, ``{"k": (50, 100)}``. A detector with an
    option ``fit_split`` (``"train"`` or ``"val"``) is fitted on that split of the ID set. One whose
    score lives on the log-sum-exp of the logits says so in ``reads_level``.

    The base class checks what every detector would have to check: that the outputs have what is
    needed, that it is finite, that ``fit`` came before ``score``, and that the scores are ``[N]``
    and finite.
    """

    name: str = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    method: ClassVar[str] = STANDARD_METHOD
    paper: ClassVar[Paper | None] = None
    id_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    fit_split: str = "train"
    tuned: Mapping[str, Any] | None = None
    """How an object's options were chosen; see ``tuned`` of ``oodbench.results.rows.Row``."""
    state_classes: ClassVar[tuple[type, ...]] = ()
    """Dataclasses and modules of other files that a fitted object may hold when it is saved."""
    _is_fitted: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Wrap the subclass's own ``fit`` and ``score`` in the checks that all detectors share."""
        super().__init_subclass__(**kwargs)
        for name, checked in _CHECKED.items():
            if name in vars(cls):
                setattr(cls, name, checked(vars(cls)[name]))

    @property
    def label(self) -> str:
        """Its registered name, or the class's name."""
        return self.name or type(self).__name__

    @property
    def reads_level(self) -> bool:
        """Whether its score lives on the level of the logits, their log-sum-exp, as energies do.

        Of a network that ends in a log-softmax that is zero for every sample, up to rounding, so
        such logits are refused; see ``oodbench.checks.level``.
        """
        return False

    def _repr_html_(self) -> str:
        """What a notebook shows: its options, what it reads, whether it is fitted, its paper."""
        learns = self.needs_fit or self.needs_fit_batches
        state = "fitted" if self._is_fitted else f"not fitted; fit() reads {self.fit_split}"
        paper = self.paper
        facts = [
            *((name, str(value)) for name, value in self.options().items()),
            ("reads", ", ".join(sorted(self.needs))),
            ("state", state if learns else "learns nothing"),
            ("method", self.method),
            ("formula", paper.formula if paper else ""),
            ("paper", f"{paper.title}, {paper.venue} {paper.year}" if paper else ""),
        ]
        about = (type(self).__doc__ or "").strip().partition("\n\n")[0]
        return notebook.sheet(self.label, facts, " ".join(about.split()))

    @property
    def needs_fit(self) -> bool:
        """Whether it learns from ID training outputs."""
        return type(self).fit is not Detector.fit

    @property
    def needs_fit_batches(self) -> bool:
        """Whether it learns from ID training images, with the network at hand."""
        return type(self).fit_batches is not Detector.fit_batches

    def fit(self, train: Outputs) -> Self:
        """Learn from the outputs of ID training data; labels are always there. Returns self."""
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """OOD scores ``[N]``, higher = more OOD."""
        raise NotImplementedError(f"{self.label} has no score(outputs).")

    def graph_score(self, outputs: Outputs) -> Tensor:
        """:meth:`score` as algebra on whole tensors, without checks, as an exported graph has it.

        That is ``score`` itself, unless a detector overrides this: one that searches in blocks, or
        asks Python what to do by the values of its outputs.
        """
        plain: Any = type(self).score
        scores: Tensor = getattr(plain, "__wrapped__", plain)(self, outputs)
        return scores

    def fit_batches(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Self:
        """Learn from batches of preprocessed ID training images and their labels. Returns self.

        The model has ``outputs(images)`` and ``head()``; it is in evaluation mode.
        """
        return self

    def score_batch(self, model: nn.Module, batch: Tensor) -> Tensor:
        """OOD scores ``[B]`` of a batch of preprocessed inputs, with the network at hand.

        The model is as for ``fit_batches``; ``model.preprocess``, where there is one, is what made
        the inputs (its ``std`` tells how large a step in them is in pixels).
        """
        raise NotImplementedError(f"{self.label} has no score_batch(model, batch).")

    @staticmethod
    def toy(columns: dict[str, Tensor], head: Head) -> tuple[dict[str, Tensor], Head]:
        """What the network that the detector is for says of the check suite's toy problem.

        A detector that reads more than features, logits and a linear head overrides it, so that
        ``oodbench.testing`` can make that for it.

        Args:
            columns: what an ordinary network says, ``features [N, D]`` and ``logits [N, C]``, and
                ``labels [N]``, which are not there for a detector that needs the network itself.
            head: the linear head between features and logits.

        Returns:
            Columns (extras are columns too, by their names) and the head.
        """
        return columns, head

    def options(self) -> dict[str, Any]:
        """Hyper-parameters and their values, as JSON has them (a tuple is a list)."""
        values = {name: getattr(self, held) for name, held in option_fields(self).items()}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def fitted_state(self) -> dict[str, Any]:
        """What it holds beside its options, by attribute: what saving a fitted detector writes.

        Tensors, NumPy arrays, numbers, text, lists, tuples, dicts, dataclasses, layers of
        ``torch.nn`` and estimators of scikit-learn are written as they are. A detector that holds
        something else overrides this, to tell it in these, and :meth:`restore`.
        """
        held = {*option_fields(self).values(), "_is_fitted"}
        return {name: value for name, value in vars(self).items() if name not in held}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`fitted_state` of another object with the same options gave."""
        for name, value in state.items():
            object.__setattr__(self, name, value)


def _checked_fit(fit: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fit)
    def checked(self: Detector, train: Outputs) -> Any:
        train.require(self.needs | {"labels"}, self.label)
        if len(train) == 0:
            raise BadScoresError(f"{self.label}: fit got no training samples.")
        train.require_finite(self.needs, self.label)
        _check_level(self, train)
        before = train.stamp()
        with torch.no_grad(), single_precision():
            result = fit(self, train)
        check_unchanged(train, before, self.label)
        self._is_fitted = True
        return result

    return checked


def _checked_score(score: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(score)
    def checked(self: Detector, outputs: Outputs) -> Tensor:
        if self.needs_fit and not self._is_fitted:
            raise NotFittedError(
                f"{self.label}: score() came before fit(). Call fit(train_outputs) first."
            )
        outputs.require(self.needs, self.label)
        outputs.require_finite(self.needs, self.label)
        _check_level(self, outputs)
        n, before = len(outputs), outputs.stamp()
        with torch.no_grad(), single_precision():
            scores = score(self, outputs)
        check_unchanged(outputs, before, self.label)
        return check_scores(scores, n, self.label)

    return checked


def _checked_fit_batches(fit_batches: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fit_batches)
    def checked(self: Detector, model: nn.Module, batches: Iterable[Any]) -> Any:
        result = fit_batches(self, model, batches)
        self._is_fitted = True
        return result

    return checked


def _checked_score_batch(score_batch: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(score_batch)
    def checked(self: Detector, model: nn.Module, batch: Tensor) -> Tensor:
        if self.needs_fit_batches and not self._is_fitted:
            raise NotFittedError(
                f"{self.label}: score_batch() came before fit_batches(). Call "
                "fit_batches(model, batches) first."
            )
        return check_scores(score_batch(self, model, batch).detach(), len(batch), self.label)

    return checked


_CHECKED: Mapping[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "fit": _checked_fit,
    "score": _checked_score,
    "fit_batches": _checked_fit_batches,
    "score_batch": _checked_score_batch,
}
"""The methods of a detector that are wrapped in checks, and what wraps them."""


def _check_level(detector: Detector, outputs: Outputs) -> None:
    if detector.reads_level and "logits" in detector.needs:
        level.refuse_without(outputs.logits, detector.label)


def check_unchanged(outputs: Outputs, stamp: Mapping[str, Any], who: str) -> None:
    """Check that nothing was replaced, nor changed in place by torch, since that stamp.

    Raises:
        ChangedInputsError: names what was.
    """
    if names := outputs.changed_since(stamp):
        raise changed(names, who)


def changed(names: Iterable[str], who: str) -> ChangedInputsError:
    """What to raise of a detector that changed what it was to read."""
    return ChangedInputsError(
        f"{who} changed the {', '.join(name.removeprefix('extra/') for name in names)} that it was "
        "given, which others read too. Let it work on a copy, such as value.clone()."
    )


def check_scores(scores: Tensor, n: int, who: str) -> Tensor:
    """The scores, if they are ``[n]``, floating and finite.

    Raises:
        BadScoresError: another shape or dtype, NaN or infinite; names the first such sample.
    """
    if scores.shape != (n,) or not scores.is_floating_point():
        raise BadScoresError(
            f"{who}: scores must be [{n}] floats, not {list(scores.shape)} {scores.dtype}."
        )
    # a sum that is finite has finite terms; one that is not may have overflowed
    if not scores.sum().isfinite() and not (finite := scores.isfinite()).all():
        bad = ~finite
        rows = bad.nonzero().flatten().tolist()
        raise BadScoresError(
            f"{who} gave {len(rows)} of {n} scores that are NaN or infinite (first at index "
            f"{rows[0]}). Look at the network's outputs for these samples: are they finite?"
        )
    return scores


def id_options(name: str, id_name: str) -> dict[str, Any]:
    """The defaults of a detector that are an ID set's own, as papers give them."""
    return dict(DETECTORS.get(name).id_options.get(id_name, {}))


def create_detector(name: str, **options: Any) -> Detector:
    """The detector of that name with these hyper-parameters.

    Raises:
        UnknownNameError: no such detector; the nearest are named.
        OptionError: no such option (the nearest are named), or a value that it cannot take.
    """
    return build(DETECTORS.get(name), f"detector {name}", options)
