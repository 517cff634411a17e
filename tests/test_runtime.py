"""Threads, fork and caches: settings are found, obeyed and left as they were."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import dwcpu
from dwcpu import runtime

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def run(code: str, **environment: str) -> str:
    """Output of a program in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_precedence_of_thread_counts() -> None:
    before = dwcpu.get_num_threads()
    try:
        dwcpu.set_num_threads(3)
        assert dwcpu.get_num_threads() == 3
        with dwcpu.num_threads(2):
            assert dwcpu.get_num_threads() == 2
            with dwcpu.num_threads(5):
                assert dwcpu.get_num_threads() == 5
            assert dwcpu.get_num_threads() == 2
            seen = []
            thread = threading.Thread(target=lambda: seen.append(dwcpu.get_num_threads()))
            thread.start()
            thread.join()
            assert seen == [3], "the context manager counts for its own thread only"
        assert dwcpu.get_num_threads() == 3
    finally:
        dwcpu.set_num_threads(before)


@pytest.mark.parametrize(("wrong", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_wrong_thread_counts(wrong: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="set_num_threads: n is"):
        dwcpu.set_num_threads(wrong)
    with pytest.raises(error, match="num_threads: n is"), dwcpu.num_threads(wrong):
        pass


def test_environment_sets_the_number_of_threads() -> None:
    print_it = "import dwcpu; print(dwcpu.get_num_threads())"
    assert run(print_it, DWCPU_NUM_THREADS="3").split() == ["3"]
    strict = "import warnings; warnings.simplefilter('error');"
    without = run("from dwcpu import cpus; print(cpus.usable_cpus())")
    assert run(strict + print_it, DWCPU_NUM_THREADS="") == without
    for wrong in ("none", "0", "5000"):
        code = "import warnings; warnings.simplefilter('error');" + print_it
        with pytest.raises(AssertionError, match="DWCPU_NUM_THREADS is"):
            run(code, DWCPU_NUM_THREADS=wrong)


PARALLEL = """
    import os
    import numpy as np
    import dwcpu

    x = np.random.default_rng(0).standard_normal((1, 56, 56, 64)).astype(np.float32)
    w = np.random.default_rng(1).standard_normal((3, 3, 64)).astype(np.float32)
    layer = dwcpu.DepthwiseConv2d(w, padding=1)
    right = layer(x, num_threads=2)
"""


#: Drivers: the compiled one, and Numba's on each of its threading layers.
EVERY_DRIVER = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"DWCPU_ISA": "none", "NUMBA_THREADING_LAYER": "omp"},
        {"DWCPU_ISA": "none", "NUMBA_THREADING_LAYER": "workqueue"},
    ],
    ids=["compiled", "numba-omp", "numba-workqueue"],
)


@needs_fork
@EVERY_DRIVER
def test_a_forked_child_and_its_child_compute(settings: dict[str, str]) -> None:
    code = (
        PARALLEL
        + """
    def check():
        assert np.array_equal(layer(x, num_threads=2), right)

    child = os.fork()
    if child == 0:
        check()
        grandchild = os.fork()
        if grandchild == 0:
            check()
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    check()
    print("done")
    """
    )
    assert run(code, **settings) == "done\n"


@EVERY_DRIVER
def test_numba_keeps_its_own_number_of_threads(settings: dict[str, str]) -> None:
    code = (
        PARALLEL
        + """
    import numba
    before = numba.get_num_threads()
    layer(x, num_threads=1)
    layer(x, num_threads=2)
    assert numba.get_num_threads() == before
    """
    )
    run(code, **settings)


@EVERY_DRIVER
def test_threads_that_enter_at_once(settings: dict[str, str]) -> None:
    code = (
        PARALLEL
        + """
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: layer(x, num_threads=2), range(60)))
    assert all(np.array_equal(result, right) for result in results)
    """
    )
    run(code, **settings)


def test_the_environment_is_left_as_it_was() -> None:
    code = """
    import os
    before = dict(os.environ)
    import numpy as np, dwcpu
    dwcpu.pointwise_conv2d(np.ones((64, 64, 64), np.float32), np.ones((64, 64), np.float32), num_threads=2)
    assert dict(os.environ) == before
    """
    run(code)


def test_many_threads_at_once(rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 30, 31, 40)).astype(np.float32)
    layer = dwcpu.SeparableConv2d(
        rng.standard_normal((3, 3, 40)).astype(np.float32), rng.standard_normal((40, 24)).astype(np.float32), padding=1
    )
    right = layer(x)
    wrong: list[int] = []

    def work(number: int) -> None:
        for size in range(5, 25):
            part = np.ascontiguousarray(x[:, :size])
            result = layer(part, num_threads=1 + number % 3)
            if not np.array_equal(result[:, : size - 1], right[:, : size - 1]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_show_config_names_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    dwcpu.show_config()
    text = capsys.readouterr().out
    for word in ("dwcpu", "numpy", "numba", "cython kernels", "threads", "caches"):
        assert word in text


def test_measured_limits_are_in_order() -> None:
    """No figure is promised, but a cache is never slower than what lies behind it, nor two threads than one."""
    for threads in (1, 2):
        speeds = [runtime.copy_bandwidth(level, threads) for level in (1, 2, 3, 4)]
        assert speeds == sorted(speeds, reverse=True)
        assert speeds[3] > 0
        sizes = [1, *(size + 1 for size in (threads * cache for cache in runtime.cache_sizes()[:2]))]
        assert [runtime.bandwidth_of(size, threads) for size in sizes] == speeds[:3]
    assert runtime.copy_bandwidth(4, 2) >= runtime.copy_bandwidth(4, 1)
    assert runtime.fma_peak(np.float32, vector_bytes=16) > 0
