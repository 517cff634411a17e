"""Kernels that are compiled in the background: the same bits before and after, and nobody waits, hangs or is told."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest

import dwcpu
from dwcpu import background, calls, dispatch, runtime

KERNELS = runtime.cython_kernels()
pytestmark = pytest.mark.skipif(
    KERNELS is None or not KERNELS.fused(), reason="nothing could stand in: no Cython kernels with Numba's bits"
)

F32 = np.float32


class Compiler:
    """Numba's compiler as far as `background` sees it: what it has, what it was asked for, and a door to hold it."""

    def __init__(self) -> None:
        self.ready = False
        self.error: Exception | None = None
        self.door = threading.Event()
        self.asked: list[str] = []


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    """All kernels are compiled in truth; here they are said to be missing until the door was opened."""
    from dwcpu.numba_kernels import depthwise  # noqa: F401  (before the clock of any test)

    target = sys.modules["dwcpu.numba_kernels.target"]
    monkeypatch.delenv("DWCPU_BACKGROUND_COMPILE", raising=False)
    state, original = Compiler(), target.compile_kernel

    def compile_kernel(name: str, build: Callable[[], Any]) -> int:
        if target._limits.most < target.ANY:
            if not state.ready:
                raise target.NotReadyError(name)
        elif threading.current_thread().name == "dwcpu-compile":
            state.asked.append(name)
            assert state.door.wait(60)
            target._limits.before(name)
            if state.error is not None:
                raise state.error
        return original(name, build)

    for name, module in list(sys.modules.items()):
        if name.startswith("dwcpu.") and getattr(module, "compile_kernel", None) is original:
            monkeypatch.setattr(module, "compile_kernel", compile_kernel)

    def finish() -> None:
        state.ready = True
        state.door.set()
        background.wait()

    state.finish = finish  # type: ignore[attr-defined]
    calls.forget()
    yield state
    finish()
    background._jobs.clear()
    calls.forget()


def layer(**options: Any) -> dwcpu.DepthwiseConv2d:
    """One whose kernel is Numba's: the window is not on the menu."""
    return dwcpu.DepthwiseConv2d(np.arange(4 * 4 * 32, dtype=F32).reshape(4, 4, 32), padding="same", **options)


def running(made: Any) -> str:
    """Name of the kernel that a layer of one shape runs now."""
    (entry,) = made._compiled.values()
    return entry.operation.kernel.name


def best(made: Any, x: np.ndarray) -> str:
    return made.explain(x.shape, num_threads=1).kernel


def test_a_layer_moves_to_the_better_kernel(compiler: Any, rng: np.random.Generator) -> None:
    x, made = cases.normal(rng, (1, 9, 10, 32), F32), layer()
    first = made(x, num_threads=1)
    assert running(made).endswith("__cython")
    assert not made.known
    again = made(x, num_threads=1)
    compiler.finish()
    last = made(x, num_threads=1)
    assert running(made) == best(made, x)
    assert running(made).endswith("__numba")
    assert len(made.known) == 2  # with and without a batch axis
    assert np.array_equal(first, again) and np.array_equal(first, last)


def test_nothing_stands_in_with_other_bits(compiler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.cython_kernels(), "fused", lambda: False)
    made = layer()
    made(np.ones((1, 9, 10, 32), F32), num_threads=1)
    assert running(made).endswith("__numba")
    assert compiler.asked == []


def test_choose_and_explain_name_the_best_kernel_meanwhile(compiler: Any) -> None:
    x, made = np.ones((1, 9, 10, 32), F32), layer()
    made(x, num_threads=1)
    geometry = made._program.step.geometry(x.shape)
    assert dispatch.choose(geometry, F32, 1).backend == "numba"
    assert best(made, x).endswith("__numba")


def test_equal_work_is_one_job(compiler: Any) -> None:
    x = np.ones((1, 9, 10, 32), F32)
    for made in (layer(), layer()):
        for _ in range(3):
            made(x, num_threads=1)
    assert len(background._jobs) == 1
    layer(activation="gelu")(x, num_threads=1)  # that one's machine code is another's
    assert len(background._jobs) == 2
    compiler.finish()
    assert not background._jobs


@pytest.mark.parametrize("operation", ["separable", "inverted residual"])
def test_fused_operations(compiler: Any, rng: np.random.Generator, operation: str) -> None:
    x, dw, pw = (cases.normal(rng, shape, F32) for shape in ((1, 9, 8, 24), (4, 4, 24), (24, 24)))
    made = (
        dwcpu.SeparableConv2d(dw, pw, padding="same")
        if operation == "separable"
        else dwcpu.InvertedResidual(pw, dw, pw, expand_activation="silu")
    )
    before = made(x, num_threads=1)
    assert running(made).endswith("__cython")
    compiler.finish()
    after = made(x, num_threads=1)
    assert running(made).endswith("__mixed")
    assert np.array_equal(before, after)


def test_functions_are_remembered_only_with_the_better_kernel(compiler: Any, rng: np.random.Generator) -> None:
    x, w = cases.normal(rng, (1, 9, 10, 32), F32), cases.normal(rng, (4, 4, 32), F32)

    def run() -> np.ndarray:
        return dwcpu.depthwise_conv2d(x, w, padding="same", num_threads=1)

    def kept() -> list[Any]:
        return [] if calls._pool is None else [call for spare in calls._pool.free.values() for call in spare]

    before = [run(), run()]
    assert not kept()
    compiler.finish()
    after = [run(), run()]
    assert len(kept()) == (runtime.compiled_calls() is not None)
    assert all(np.array_equal(before[0], each) for each in before[1:] + after)


def test_plans_of_networks_move_too(compiler: Any, rng: np.random.Generator) -> None:
    from dwcpu.models import Network
    from dwcpu.models.architectures import mobilenet_v1
    from dwcpu.models.network import Step

    w = cases.normal(rng, (4, 4, 3), F32)
    network = Network(mobilenet_v1(0.25, 3), [Step("only", dwcpu.DepthwiseConv2d(w, stride=8))], "auto", "test")
    x = cases.normal(rng, (1, 8, 8, 3), F32)
    before = network(x, 1).copy()
    (plan,) = network._plans.values()
    assert plan.jobs
    assert network._plan(x.shape, 1) is plan
    compiler.finish()
    after = network(x, 1)
    (plan,) = network._plans.values()
    assert not plan.jobs
    assert np.array_equal(before, after)


def test_warmup_of_a_network_waits(compiler: Any) -> None:
    from dwcpu.models import Network
    from dwcpu.models.architectures import mobilenet_v1
    from dwcpu.models.network import Step

    only = dwcpu.DepthwiseConv2d(np.ones((4, 4, 3), F32), stride=8)
    network = Network(mobilenet_v1(0.25, 3), [Step("only", only)], "auto", "test")
    network(np.ones((1, 8, 8, 3), F32), 1)
    assert running(only).endswith("__cython")
    network.warmup((1, 8, 8, 3), num_threads=1)
    assert running(only).endswith("__numba")


@pytest.mark.parametrize("how", ["numba", "by name", "switched off", "waiting"])
def test_who_asks_for_it_gets_the_kernel_at_once(compiler: Any, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    x, made = np.ones((1, 9, 10, 32), F32), layer()
    if how == "numba":
        made = layer(backend="numba")
    elif how == "by name":
        made = layer(backend=best(made, x))
    elif how == "switched off":
        monkeypatch.setenv("DWCPU_BACKGROUND_COMPILE", "0")
    if how == "waiting":
        with background.waiting():
            made(x, num_threads=1)
    else:
        made(x, num_threads=1)
    assert running(made).endswith("__numba")
    assert not background._jobs and not compiler.asked


def test_an_unknown_switch_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    background._warn_once.cache_clear()
    monkeypatch.setenv("DWCPU_BACKGROUND_COMPILE", "maybe")
    with pytest.warns(RuntimeWarning, match="DWCPU_BACKGROUND_COMPILE is 'maybe'; it must be 0 or 1") as told:
        assert background.allowed() and background.allowed()
    assert len(told) == 1


@pytest.mark.filterwarnings("error")
def test_errors_leave_the_stand_in_where_it_is(compiler: Any, capfd: pytest.CaptureFixture[str]) -> None:
    x, made = np.ones((1, 9, 10, 32), F32), layer()
    before = made(x, num_threads=1)
    compiler.error = MemoryError("no room for machine code")
    compiler.door.set()
    background.wait()
    assert np.array_equal(before, made(x, num_threads=1))
    assert running(made).endswith("__cython")
    assert made.known  # for good: the short way again
    assert capfd.readouterr() == ("", "")


def test_no_thread_can_be_had(compiler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    made = layer()
    made(np.ones((1, 9, 10, 32), F32), num_threads=1)
    assert running(made).endswith("__cython")
    assert made.known and not background._queue


def test_an_interrupt_while_the_thread_starts_is_made_up_for(compiler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    x, made = np.ones((1, 9, 10, 32), F32), layer()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made(x, num_threads=1)
    assert background._worker is None and len(background._queue) == 1
    made(x, num_threads=1)
    compiler.finish()
    made(x, num_threads=1)
    assert running(made).endswith("__numba")


def test_a_handler_that_comes_back_while_the_thread_starts(compiler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signals are handled there: the lock must not be held, or not by a thread that wants it again."""
    start, x = threading.Thread.start, np.ones((1, 9, 10, 32), F32)

    def handled(thread: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        layer(stride=2)(x, num_threads=1)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", handled)
    layer()(x, num_threads=1)
    compiler.door.set()
    background.wait()
    assert not background._jobs and background._worker is None


def test_layers_with_a_stand_in_can_be_copied_and_pickled(compiler: Any) -> None:
    x, made = np.ones((1, 9, 10, 32), F32), layer()
    before = made(x, num_threads=1)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert np.array_equal(before, other(x, num_threads=1))


def test_many_threads_while_the_kernel_changes(compiler: Any, rng: np.random.Generator) -> None:
    x, made = cases.normal(rng, (1, 9, 10, 32), F32), layer()
    right, wrong = made(x, num_threads=1), []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            if not np.array_equal(made(x, num_threads=1), right):
                wrong.append(True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    compiler.finish()
    made(x, num_threads=1)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert running(made).endswith("__numba")


def run(code: str, cache: Path, **environment: str) -> str:
    """What a new process with an empty cache prints; it must end well and say nothing else."""
    cache.chmod(0o700)
    mine = {name: value for name, value in os.environ.items() if name != "DWCPU_BACKGROUND_COMPILE"}
    mine |= {"NUMBA_CACHE_DIR": str(cache), **environment}
    done = subprocess.run([sys.executable, "-c", code], env=mine, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


PROGRAM = """
import numpy as np, dwcpu
from dwcpu import background
x, made = np.ones((1, 9, 10, 32), np.float32), dwcpu.DepthwiseConv2d(np.ones((4, 4, 32), np.float32))
def kernel():
    made(x, num_threads=1)
    (entry,) = made._compiled.values()
    return entry.operation.kernel.backend
print(kernel(), flush=True)
"""


#: Goes on when a kernel is being compiled.
MEANWHILE = """
import sys, time
from dwcpu import interrupts
while interrupts.lock.acquire(blocking=False):
    interrupts.lock.release()
    time.sleep(1e-3)
"""


def test_a_process_that_ends_at_once_ends_well(tmp_path: Path) -> None:
    assert run(PROGRAM, tmp_path).split() == ["cython"]


def test_a_process_that_ends_meanwhile_finishes_one_kernel(tmp_path: Path) -> None:
    assert run(PROGRAM + MEANWHILE, tmp_path).split() == ["cython"]
    assert len(list(tmp_path.rglob("*.nbc"))) == 1


def test_what_was_compiled_is_there_at_once_in_the_next_process(tmp_path: Path) -> None:
    assert run(PROGRAM + "background.wait(); print(kernel())", tmp_path).split() == ["cython", "numba"]
    assert run(PROGRAM + "print(len(background._jobs))", tmp_path).split() == ["numba", "0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_meanwhile_compiles_for_itself(tmp_path: Path) -> None:
    code = """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # that this process has threads
child = os.fork()
if child == 0:
    print(kernel(), background.allowed(), background._worker, flush=True)
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1])
"""
    assert run(PROGRAM + MEANWHILE + code, tmp_path).split() == ["cython", "numba", "False", "None"]
