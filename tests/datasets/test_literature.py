"""The published figures: names that there are, conventions that are known."""

from __future__ import annotations

from oodbench import get_benchmark
from oodbench.registry import BACKBONES, BENCHMARKS, DETECTORS, METHODS
from oodbench.results import published
from oodbench.results.published import ANY


def test_the_data_names_what_there_is() -> None:
    figures = list(published.figures())
    assert len(figures) == 1591
    for figure in (one for one in figures if one.is_comparable):
        assert figure.detector in DETECTORS, figure
        assert figure.benchmark in BENCHMARKS, figure
        assert figure.method == ANY or figure.method in METHODS, figure
        assert figure.source
        weights = figure.backbone or ""
        assert weights in BACKBONES or weights.startswith("torchvision/") or weights == "resnet18"
        assert figure.method == ANY or not weights.startswith("torchvision/")
    sets = {
        (one.benchmark, one.ood) for one in figures if one.is_comparable and one.ood is not None
    }
    for name, ood in sets:
        benchmark = get_benchmark(benchmark=name)
        assert ood in {*benchmark.group_names, *(c.spec.name for c in benchmark.ood)}, (name, ood)


def test_the_convention_of_an_fpr_is_the_column() -> None:
    """What is not known to be of one convention is beside no row."""
    for figure in published.figures():
        if figure.column == "fpr95_id":
            assert "ID positive" in figure.convention
        if figure.column == "fpr95_ood":
            assert "OOD positive" in figure.convention or "OpenOOD v1.5" in figure.convention
        if "not inspected" in figure.convention:
            assert figure.column is None


def test_known_figures() -> None:
    knn = {
        (one.ood, one.column): one.printed
        for one in published.chosen("cifar10", "knn", "cifar10/openood")
        if one.method == "ce"
    }
    assert knn == {
        ("near", "auroc"): "90.64",
        ("far", "auroc"): "92.96",
        (None, "id_accuracy"): "95.06",
    }
