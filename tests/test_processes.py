"""Many threads and many processes at once, in every way that Python has of making them.

Each test is a program in a process of its own, on each driver: an abort or a hang is the program's, and is seen.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

#: Drivers: the compiled one, and Numba's on each of its threading layers.
DRIVERS = {
    "compiled": {},
    "numba-omp": {"DWCPU_ISA": "none", "NUMBA_THREADING_LAYER": "omp"},
    "numba-workqueue": {"DWCPU_ISA": "none", "NUMBA_THREADING_LAYER": "workqueue"},
}
#: Ways to start a process. One that is started anew is like any other: all drivers are tried where it is forked.
METHODS = multiprocessing.get_all_start_methods()
EVERY_DRIVER = pytest.mark.parametrize("driver", DRIVERS)

#: What every program begins with: `check` computes on two threads, and says whether the bits are those of the parent.
WORK = """
    import sys
    import numpy as np
    import dwcpu

    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 56, 56, 64), dtype=np.float32)
    w, p = rng.standard_normal((3, 3, 64), dtype=np.float32), rng.standard_normal((64, 32), dtype=np.float32)
    layer = dwcpu.SeparableConv2d(w, p, padding=1)

    def results():
        yield layer(x, num_threads=2)
        yield dwcpu.depthwise_conv2d(x, w, padding="same", num_threads=2)
        yield dwcpu.pointwise_conv2d(x, p, num_threads=2)

    def check(right):
        return all(np.array_equal(a, b) for a, b in zip(results(), right, strict=True))
"""


def run(tmp_path: Path, code: str, driver: str, *arguments: str) -> None:
    """Run a program, after `WORK`, from a file: children that are started anew import it."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(WORK) + textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, str(program), *arguments],
        env={**os.environ, **DRIVERS[driver]},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stderr}"
    assert done.stdout == "done\n"


@EVERY_DRIVER
def test_eight_threads_with_functions_layers_and_networks(tmp_path: Path, driver: str) -> None:
    """Networks, layers and functions of all sizes, at once, some of which meet their first call together."""
    code = """
    import threading, time

    networks = dwcpu.models.mobilenet_v1(seed=0), dwcpu.models.mobilenet_v2(seed=0)
    images = [rng.standard_normal((1, size, size, 3), dtype=np.float32) for size in (33, 64)]
    calls = [lambda n=n, image=image: n(image, num_threads=2) for n in networks for image in images]
    calls += [lambda size=size: layer(x[:, :size], num_threads=2) for size in (3, 8, 21, 56)]
    calls += [lambda size=size: dwcpu.depthwise_conv2d(x[:, :size], w, num_threads=2) for size in (3, 8, 21, 56)]
    gate, end, seen = threading.Barrier(8), time.monotonic() + 2, [{} for _ in range(8)]

    def work(mine, number):
        gate.wait()
        turn = 0
        while time.monotonic() < end or turn < len(calls):
            place = (turn + (number if turn >= len(calls) else 0)) % len(calls)  # in step first, then mixed
            mine.setdefault(place, set()).add(calls[place]().tobytes())
            turn += 1

    threads = [threading.Thread(target=work, args=(mine, number)) for number, mine in enumerate(seen)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, call in enumerate(calls):
        assert set().union(*(mine[place] for mine in seen)) == {call().tobytes()}, place
    print("done")
    """
    run(tmp_path, code, driver)


@pytest.mark.parametrize(
    ("method", "driver"),
    [(method, driver) for method in METHODS for driver in DRIVERS if "compiled" in driver or method == "fork"],
)
def test_multiprocessing(tmp_path: Path, method: str, driver: str) -> None:
    code = """
    import multiprocessing, warnings

    if __name__ == "__main__":
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons on fork beside threads: that is the test
        context = multiprocessing.get_context(sys.argv[1])
        right = list(results())
        with context.Pool(2) as pool:
            assert all(pool.map(check, [right] * 4))
        assert check(right)
        print("done")
    """
    run(tmp_path, code, driver, method)


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_goes_to_other_processes(tmp_path: Path, method: str) -> None:
    code = """
    import multiprocessing, warnings
    from concurrent.futures import ProcessPoolExecutor

    if __name__ == "__main__":
        warnings.simplefilter("ignore", DeprecationWarning)
        right = layer(x)
        context = multiprocessing.get_context(sys.argv[1])
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            parts = list(pool.map(layer, [x[:, :30], x[:, 26:]]))
        assert np.array_equal(np.concatenate([parts[0][:, :28], parts[1][:, 2:]], axis=1), right)
        print("done")
    """
    run(tmp_path, code, "compiled", method)


@pytest.mark.skipif(find_spec("joblib") is None, reason="joblib is not installed")
@pytest.mark.parametrize(
    ("backend", "driver"),
    [("loky", "compiled"), ("loky", "numba-omp"), ("multiprocessing", "compiled"), ("threading", "numba-workqueue")],
)
def test_joblib(tmp_path: Path, backend: str, driver: str) -> None:
    code = """
    import warnings
    from joblib import Parallel, delayed

    if __name__ == "__main__":
        warnings.simplefilter("ignore", DeprecationWarning)
        right = list(results())
        assert all(Parallel(2, backend=sys.argv[1])(delayed(check)(right) for _ in range(4)))
        print("done")
    """
    run(tmp_path, code, driver, backend)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@EVERY_DRIVER
def test_a_fork_in_the_middle_of_others_work(tmp_path: Path, driver: str) -> None:
    """Forked by one thread while another computes: locks that were held then are not there in the child."""
    code = """
    import os, threading, warnings

    warnings.simplefilter("ignore", DeprecationWarning)
    right, stop = list(results()), threading.Event()

    def work():
        while not stop.is_set():
            assert check(right)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        child = os.fork()
        if child == 0:
            os._exit(0 if check(right) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stop.set()
    for thread in threads:
        thread.join()
    print("done")
    """
    run(tmp_path, code, driver)
