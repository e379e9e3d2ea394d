"""No test asserts a time: generated inputs may take as long as a busy machine needs."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

from smoke_life import SmokeLife, lived_in

settings.register_profile("lifespan", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lifespan")

# A background job of a shell ignores Ctrl-C, and so would every process that it starts; here, tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> SmokeLife:
    """A real `smoke` life, the same for all workers of the session. Read it; runs may be added to its home."""
    base = tmp_path_factory.getbasetemp()
    return lived_in((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke")
