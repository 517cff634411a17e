"""Settings that all tests share: repeatable random data, and a first line that says what is being tested."""

from __future__ import annotations

import importlib.util
import zlib
from pathlib import Path

import hypothesis
import numpy as np
import pytest

# Kernels compile on first use, so deadlines would measure the compiler. Cases are the same in every run.
hypothesis.settings.register_profile(
    "dwcpu", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("dwcpu")


def pytest_report_header() -> str:
    """Say which copy of the package is tested: installed or source folder, and with which compiled modules."""
    spec = importlib.util.find_spec("dwcpu")
    if spec is None or spec.origin is None:
        return "dwcpu: not installed"
    folder = Path(spec.origin).parent
    compiled = sorted(path.name.partition(".")[0] for path in folder.rglob("*.so"))
    return f"dwcpu: {folder}, compiled modules: {', '.join(compiled) or 'none'}"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of the test's own: the same in every run and whatever other tests ran before."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))
