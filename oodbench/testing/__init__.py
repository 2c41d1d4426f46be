"""Check suites that plug-ins run on what they register.

    import pytest
    from oodbench.testing import detector_checks

    @pytest.mark.parametrize("check", detector_checks(), ids=lambda check: check.__name__)
    def test_mine(check):
        check(Mine())

Each check takes what it checks, here a fresh, unfitted detector, and raises an ``AssertionError``
that names it. For what uses somebody's network there are ``untouched`` and ``network_checks``; see
``oodbench.testing.untouched``.
"""

from oodbench.testing.detectors import Check as Check
from oodbench.testing.detectors import detector_checks as detector_checks
from oodbench.testing.problems import Blobs as Blobs
from oodbench.testing.problems import blobs as blobs
from oodbench.testing.untouched import network_checks as network_checks
from oodbench.testing.untouched import untouched as untouched
