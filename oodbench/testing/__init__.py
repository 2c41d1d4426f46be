"""Check suites that plug-ins run on what they register.

    import pytest
    from oodbench.testing import detector_checks

    @pytest.mark.parametrize("check", detector_checks(), ids=lambda check: check.__name__)
    def test_mine(check):
        check(Mine())

Each check takes what it checks, here a fresh, unfitted detector, and raises an ``AssertionError``
that names it and says what to do. ``method_checks`` take a method's class, ``backbone_checks`` what
makes the network, ``samples_checks`` what makes samples, ``benchmark_checks`` a benchmark or the
function that makes it, ``task_checks`` a small benchmark of the task; ``drawn_benchmark`` makes one
of images that are drawn. The modules of this package say more. For what uses somebody's network
there are ``untouched`` and ``network_checks``.
"""

from oodbench.testing.backbones import BackboneCheck as BackboneCheck
from oodbench.testing.backbones import backbone_checks as backbone_checks
from oodbench.testing.benchmarks import BenchmarkCheck as BenchmarkCheck
from oodbench.testing.benchmarks import benchmark_checks as benchmark_checks
from oodbench.testing.detectors import Check as Check
from oodbench.testing.detectors import detector_checks as detector_checks
from oodbench.testing.drawn import drawn_benchmark as drawn_benchmark
from oodbench.testing.methods import MethodCheck as MethodCheck
from oodbench.testing.methods import method_checks as method_checks
from oodbench.testing.problems import Blobs as Blobs
from oodbench.testing.problems import blobs as blobs
from oodbench.testing.samples import SamplesCheck as SamplesCheck
from oodbench.testing.samples import samples_checks as samples_checks
from oodbench.testing.tasks import TaskCheck as TaskCheck
from oodbench.testing.tasks import task_checks as task_checks
from oodbench.testing.untouched import network_checks as network_checks
from oodbench.testing.untouched import untouched as untouched
