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


def test_compiled_kernels_are_cached_privately(tmp_path) -> None:
    code = """
    import sys
    import numpy as np, dwcpu
    x, w = np.ones((1, 9, 9, 8), np.float32), np.ones((3, 3, 8), np.float32)
    dwcpu.depthwise_conv2d(x, w, backend="numba")
    target = sys.modules["dwcpu.numba_kernels.target"]
    print(sum(kernel.cache_hits for kernel in target._compiled.values()), target.compiled_count())
    """
    folder = tmp_path / "cache"
    cold = run(code, NUMBA_CACHE_DIR=str(folder)).split()
    warm = run(code, NUMBA_CACHE_DIR=str(folder)).split()
    assert cold[0] == "0" and warm[0] == warm[1] == cold[1]
    assert (folder / "dwcpu").stat().st_mode & 0o077 == 0


def test_kernels_from_the_cache_do_not_wait_for_what_only_compiling_needs(tmp_path) -> None:
    """Drivers too, whose machine code refers to Numba's runtime and to its threads."""
    code = """
    import sys
    import numpy as np
    from dwcpu.numba_kernels import driver, pointwise
    calls = [0] * 12
    driver.serial()(*calls, 1), driver.parallel()(*calls, 2)
    pointwise.address(np.dtype("f4")), pointwise.micro_kernel(np.dtype("f4"), 2, 1)
    print("numba.np.arraymath" in sys.modules)
    """
    assert [run(code, NUMBA_CACHE_DIR=str(tmp_path)).strip() for _ in range(2)] == ["True", "False"]


def test_kernels_from_different_processes_are_not_taken_for_each_other(tmp_path) -> None:
    """Each is the first that its process compiles: the same function of the same factory, with other constants."""
    code = """
    import numpy as np, dwcpu
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (1, 12, 12, 8)).astype(np.float32)
    for size in {}:
        w = rng.integers(-4, 5, (size, size, 8)).astype(np.float32)
        arguments = dict(padding=1, num_threads=1)
        right = dwcpu.depthwise_conv2d(x, w, backend="reference", **arguments)
        print(size, np.array_equal(dwcpu.depthwise_conv2d(x, w, backend="numba", **arguments), right))
    """
    for sizes in ((3,), (5,), (4,)):
        run(code.format(sizes), NUMBA_CACHE_DIR=str(tmp_path))
    assert run(code.format((3, 4, 5)), NUMBA_CACHE_DIR=str(tmp_path)).split() == ["3", "True", "4", "True", "5", "True"]


def test_a_damaged_cache_is_compiled_anew(tmp_path) -> None:
    code = """
    import numpy as np, dwcpu, warnings
    warnings.simplefilter("ignore")
    x, w = np.ones((1, 2, 2, 3), np.float32), np.ones((3, 2), np.float32)
    print(dwcpu.pointwise_conv2d(x, w, backend="numba")[0, 0, 0])
    """
    right = run(code, NUMBA_CACHE_DIR=str(tmp_path))
    for pattern in ("*.nbi", "*.nbc"):
        for file in (tmp_path / "dwcpu").glob(pattern):
            file.write_bytes(file.read_bytes()[:50])
        assert run(code, NUMBA_CACHE_DIR=str(tmp_path)) == right
        assert run(code, NUMBA_CACHE_DIR=str(tmp_path)) == right


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_cache_that_others_can_write_is_not_used(tmp_path, mode: int) -> None:
    shared = tmp_path / "dwcpu"
    shared.mkdir()
    shared.chmod(mode)
    code = """
    import numpy as np, dwcpu, warnings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dwcpu.pointwise_conv2d(np.ones((1, 2, 2, 3), np.float32), np.ones((3, 2), np.float32), backend="numba")
    print(sum("not cached" in str(warning.message) for warning in caught))
    """
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["1"]
    assert not list(shared.iterdir())


def test_without_a_home(tmp_path) -> None:
    code = """
    import numpy as np, dwcpu, warnings
    warnings.simplefilter("ignore")
    x = np.ones((1, 2, 2, 3), np.float32)
    print(dwcpu.pointwise_conv2d(x, np.ones((3, 2), np.float32), backend="numba")[0, 0, 0, 0])
    """
    nowhere = tmp_path / "file"
    nowhere.write_text("not a folder")
    assert run(code, HOME=str(nowhere), NUMBA_CACHE_DIR="", XDG_CACHE_HOME="").split() == ["3.0"]


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
