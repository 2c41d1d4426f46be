"""oodbench: a benchmark suite for out-of-distribution detection.

>>> import oodbench
>>> results = oodbench.evaluate(model, id="cifar10", detectors=["msp", "knn"])  # doctest: +SKIP
>>> results.to_pandas()  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oodbench.benchmark import Benchmark as Benchmark
    from oodbench.benchmark import Protocol as Protocol
    from oodbench.benchmark import get_benchmark as get_benchmark
    from oodbench.checking import NetworkCheck as NetworkCheck
    from oodbench.checking import check_network as check_network
    from oodbench.contenders import Networks as Networks
    from oodbench.data.samples import Samples as Samples
    from oodbench.data.transforms import Preprocess as Preprocess
    from oodbench.dataset import DatasetSpec as DatasetSpec
    from oodbench.deploy.fitted import FittedDetector as FittedDetector
    from oodbench.deploy.fitted import load as load
    from oodbench.deploy.fitting import fit as fit
    from oodbench.deploy.monitor import Monitor as Monitor
    from oodbench.detector import Detector as Detector
    from oodbench.detector import create_detector as create_detector
    from oodbench.download.prepare import prepare as prepare
    from oodbench.evaluation import evaluate as evaluate
    from oodbench.evaluator import Evaluator as Evaluator
    from oodbench.hardware import Hardware as Hardware
    from oodbench.measures import Measure as Measure
    from oodbench.method import Method as Method
    from oodbench.method import Recipe as Recipe
    from oodbench.outputs import Head as Head
    from oodbench.outputs import Outputs as Outputs
    from oodbench.papers import Paper as Paper
    from oodbench.registry import list_backbones as list_backbones
    from oodbench.registry import list_benchmarks as list_benchmarks
    from oodbench.registry import list_datasets as list_datasets
    from oodbench.registry import list_detectors as list_detectors
    from oodbench.registry import list_measures as list_measures
    from oodbench.registry import list_methods as list_methods
    from oodbench.registry import list_needs as list_needs
    from oodbench.registry import list_preparations as list_preparations
    from oodbench.registry import list_tasks as list_tasks
    from oodbench.registry import register_backbone as register_backbone
    from oodbench.registry import register_benchmark as register_benchmark
    from oodbench.registry import register_dataset as register_dataset
    from oodbench.registry import register_detector as register_detector
    from oodbench.registry import register_measure as register_measure
    from oodbench.registry import register_method as register_method
    from oodbench.registry import register_need as register_need
    from oodbench.registry import register_preparation as register_preparation
    from oodbench.registry import register_task as register_task
    from oodbench.results.outcome import Results as Results
    from oodbench.results.store import ResultStore as ResultStore
    from oodbench.tasks.contender import Contender as Contender
    from oodbench.zoo import load_network as load_network

# Python started in a checkout finds this package here before the installed one; its sub-packages
# oodbench.detectors and oodbench.datasets are the folders beside it.
_checkout = Path(__file__).resolve().parents[1]
if (_checkout / "pyproject.toml").is_file() and (_checkout / "detectors").is_dir():
    __path__.append(str(_checkout))

_HOME = {
    "benchmark": ("Benchmark", "Protocol", "get_benchmark"),
    "dataset": ("DatasetSpec",),
    "contenders": ("Networks",),
    "tasks.contender": ("Contender",),
    "tasks.task": ("Task",),
    "deploy.fitted": ("FittedDetector", "load"),
    "deploy.fitting": ("fit",),
    "deploy.monitor": ("Monitor",),
    "checking": ("NetworkCheck", "check_network"),
    "detector": ("Detector", "Paper", "create_detector"),
    "download.prepare": ("prepare",),
    "evaluation": ("evaluate",),
    "evaluator": ("Evaluator",),
    "hardware": ("Hardware",),
    "method": ("Method", "Recipe"),
    "measures": ("Measure",),
    "outputs": ("Head", "Outputs"),
    "registry": (
        "list_backbones",
        "list_benchmarks",
        "list_datasets",
        "list_detectors",
        "list_measures",
        "list_methods",
        "list_needs",
        "list_preparations",
        "list_tasks",
        "register_backbone",
        "register_benchmark",
        "register_dataset",
        "register_detector",
        "register_measure",
        "register_method",
        "register_need",
        "register_preparation",
        "register_task",
    ),
    "results.outcome": ("Results",),
    "results.store": ("ResultStore",),
    "data.samples": ("Samples",),
    "data.transforms": ("Preprocess",),
    "zoo": ("load_network",),
}
# a library says nothing by itself: whoever wants to read its log adds a handler
logging.getLogger("oodbench").addHandler(logging.NullHandler())

_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE)


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: ``import oodbench`` costs no torch."""
    if name in _MODULE:
        value = getattr(importlib.import_module(f"oodbench.{_MODULE[name]}"), name)
        globals()[name] = value
        return value
    if name == "__version__":
        return importlib.import_module("oodbench.results.versions").own_version()
    try:
        return importlib.import_module(f"oodbench.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"oodbench.{name}":
            raise
        raise AttributeError(f"module 'oodbench' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE])
