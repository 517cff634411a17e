"""Settings that all tests share: repeatable random data, and a first line that says what is being tested."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import nightly
import numpy as np
import pytest
from running import ROOM

from dwcpu import choices, dispatch, grid, runtime
from dwcpu.arrays import LINE

# Tests are about the kernels that are chosen, not about those that stand in for them: test_background sees to these.
os.environ["DWCPU_BACKGROUND_COMPILE"] = "0"

# Kernels compile on first use, so deadlines would measure the compiler. Cases are the same in every run.
hypothesis.settings.register_profile(
    "dwcpu", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("dwcpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--nightly`, for sweeps that take longer than anyone waits."""
    parser.addoption("--nightly", action="store_true", help="run everything: slow sweeps, every case, long fuzzing")


def pytest_configure(config: pytest.Config) -> None:
    """Tell test modules, which are imported after this, and the processes that they start."""
    if config.getoption("--nightly"):
        os.environ[nightly.VARIABLE] = "1"


#: Files whose tests take longest one by one: started last, they would leave a worker alone at the end.
SLOW = ("test_sanitizers.py", "test_isa.py", "test_exactness.py", "test_build.py", "test_caches.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what has no reduced form; on workers, which share the tests out, slow files come first."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))
    if not nightly.is_nightly():
        for item in items:
            if item.get_closest_marker("nightly"):
                item.add_marker(pytest.mark.skip(reason="runs with --nightly"))


def pytest_report_header() -> str:
    """Say which copy of the package is tested: installed or source folder, and with which compiled modules."""
    spec = importlib.util.find_spec("dwcpu")
    if spec is None or spec.origin is None:
        return "dwcpu: not installed"
    folder = Path(spec.origin).parent
    compiled = sorted(path.name.partition(".")[0] for path in folder.rglob("*.so"))
    return f"dwcpu: {folder}, compiled modules: {', '.join(compiled) or 'none'}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one kernel, of vector widths or of one wheel go to one worker: two would compile the same code.

    So do all of matrix products, or of fused operations, of one dtype, and those of one backend on 1 and on 2 threads.

    Large groups go first, so no worker is left with one at the end.
    """
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, name = nodeid.partition("::")
            if file.endswith("test_kernels.py"):
                parameters = name.partition("[")[2]
                for group, ops in (("products", "pointwise|conv"), ("fused", "separable|inverted_residual")):
                    if found := re.match(rf"({ops})[_-](f32|f64)", parameters):
                        return f"{group} {found[2]}"
                return re.sub(r"^[12]-(?=numba|cython)", "", parameters)
            return file if file.endswith(("test_vector_widths.py", "test_install.py")) else nodeid

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def own_choices(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let no test see what `autotune` measured in another one or for the user, nor write into the user's file."""
    folder = tmp_path_factory.getbasetemp() / "choices"

    def made() -> Path:
        folder.mkdir(exist_ok=True)
        return folder

    monkeypatch.setattr(choices, "cache_directory", made)
    monkeypatch.delenv("DWCPU_AUTOTUNE", raising=False)
    monkeypatch.setattr(dispatch, "_unrolled", set())  # nor how many windows others had code for
    yield folder
    choices.reset()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def guarded_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch memory, whole cache lines, against a forbidden page too, at the end where the arrays are."""

    def scratch(size: int) -> tuple[int, np.ndarray]:
        memory = ROOM.empty("scratch", (-(-size // LINE) * LINE,), np.uint8, ROOM.end)
        return memory.ctypes.data if size else 0, memory

    monkeypatch.setattr(runtime, "scratch", scratch)


@pytest.fixture
def share_even_the_smallest_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small cases would stay on one thread: tests on two threads must be that."""
    monkeypatch.setattr(grid, "_WORTH_US", -1.0)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of the test's own: the same in every run and whatever other tests ran before."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))
