"""Numba's import and its compiler are never broken off: by Ctrl-C, a fork, the end of the process or other threads.

Each test is a program that has not imported Numba yet.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import pytest

from dwcpu import interrupts

pytest.importorskip("numba")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

HEAD = """
import faulthandler, os, signal, sys, threading, time
faulthandler.dump_traceback_later(110, exit=True)
import numpy as np, dwcpu

x = np.arange(1 * 6 * 6 * 4, dtype=np.float32).reshape(1, 6, 6, 4)
w = np.arange(4 * 3, dtype=np.float32).reshape(4, 3)
right = x.reshape(-1, 4) @ w

def call():
    return dwcpu.pointwise_conv2d(x, w, backend="numba", num_threads=1)

def check():
    assert np.array_equal(call().reshape(-1, 3), right)

def in_a_child():
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # the dump is for the parent alone
        check()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def run(code: str, **environment: str) -> None:
    """A program in a process of its own; one that hangs says where."""
    program = HEAD + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],  # of forks beside threads: the point
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@needs_fork
@pytest.mark.parametrize("after", [0.05, 0.2])
def test_a_fork_while_another_thread_imports_numba(after: float) -> None:
    run(f"""
    thread = threading.Thread(target=call)
    thread.start()
    time.sleep({after})
    in_a_child()
    thread.join()
    check()
    """)


@needs_fork
def test_a_fork_after_an_interrupted_import() -> None:
    run("""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        call()
    except KeyboardInterrupt:
        pass
    in_a_child()
    check()
    """)


@pytest.mark.parametrize("what", ["dwcpu.show_config()", "dwcpu.PointwiseConv2d(w).explain(x.shape)"])
@pytest.mark.parametrize("after", [0.1, 0.2])
def test_ctrl_c_while_the_machine_is_described(what: str, after: float) -> None:
    """Which imports Numba as well."""
    if not hasattr(__import__("signal"), "setitimer"):
        pytest.skip("there are no timers")
    run(f"""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, {after})
    try:
        {what}
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        pass
    check()
    {what}
    """)


def test_a_call_when_the_process_ends() -> None:
    """From `__del__` of an object that lives as long as the process: no thread can be started then."""
    run("""
    class Last:
        def __init__(self, work):
            self.work = work
        def __del__(self):
            assert self.work(lambda: 6 * 7) == 42
            os.write(1, b"done")
    from dwcpu.interrupts import uninterrupted
    sys.last = Last(uninterrupted)
    """)


def test_small_stacks_of_threads() -> None:
    """A program may make the stacks of its threads smaller than what a compiler needs."""
    run("""
    threading.stack_size(64 << 10)
    check()
    """)


def test_errors_keep_nothing_alive() -> None:
    """Nor does what went well: an array that did not fit must not wait for the garbage collector."""

    class Array:
        pass

    def fail() -> None:
        raise MemoryError

    def work() -> weakref.ref:
        array = Array()
        with pytest.raises(MemoryError):
            interrupts.uninterrupted(fail)
        return weakref.ref(array)

    assert threading.current_thread() is threading.main_thread()
    gc.disable()
    try:
        assert work()() is None
    finally:
        gc.enable()


def test_first_calls_of_many_threads_compile_once(tmp_path: Path) -> None:
    run(
        """
        from dwcpu import interrupts
        target = interrupts.imported("dwcpu.numba_kernels.target")
        compiled, original = [], target._compile

        def counted(name, build):
            compiled.append(name)
            return original(name, build)

        target._compile = counted
        start = threading.Barrier(8)
        wrong = []

        def work():
            start.wait()
            for _ in range(3):
                if not np.array_equal(call().reshape(-1, 3), right):
                    wrong.append(1)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert compiled and len(set(compiled)) == len(compiled), compiled
        """,
        NUMBA_CACHE_DIR=str(tmp_path),
        DWCPU_BACKGROUND_COMPILE="0",
    )
