"""Memory, compiled code, interrupts: what many calls, failures and Ctrl-C leave behind.

Most tests are programs in a process of their own: its memory, limits and signals are nobody else's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from nightly import reduced

import dwcpu
from dwcpu import dispatch, pipeline, runtime

needs_linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")

SECONDS = reduced(3600, 240)

#: What every program begins with: one call of every kind for an image of any size, and what it must give.
WORK = """
    import gc, os, sys, threading, time
    import numpy as np
    import onnx.parser
    import dwcpu
    from dwcpu import background, calls, dispatch, layers, runtime
    from dwcpu.models import Network
    from dwcpu.models.architectures import mobilenet_v1
    from dwcpu.models.network import Step

    rng = np.random.default_rng(0)
    dw, odd = (rng.integers(-3, 4, (k, k, 8)).astype(np.float32) for k in (3, WINDOW))
    pw = rng.integers(-3, 4, (8, 8)).astype(np.float32)
    layer = dwcpu.SeparableConv2d(dw, pw, padding=1)
    row = dwcpu.Sequential(dwcpu.DepthwiseConv2d(odd, padding="same"), dwcpu.PointwiseConv2d(pw, activation="relu"))
    network = Network(mobilenet_v1(0.25, 8), [
        Step("stem", dwcpu.Conv2d(rng.integers(-3, 4, (3, 3, 3, 8)).astype(np.float32), stride=2, padding=1)),
        Step("block", layer),
        Step("pool", dwcpu.models.network.GlobalAveragePool()),
    ], "auto", "test")

    def write():
        text = '''<ir_version: 9, opset_import: ["": 18]> net (float[N,8,H,W] x) => (float[N,8,H,W] y) {
            a = Conv<group=8, pads=[1,1,1,1]>(x, dw)
            b = HardSwish(a)
            y = Conv(b, pw)
        }'''
        made = onnx.parser.parse_model(text)
        for name, w in ("dw", dw.transpose(2, 0, 1)[:, None]), ("pw", pw.T[:, :, None, None]):
            made.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(w), name))
        return made.SerializeToString()

    content = write()
    model = dwcpu.load_onnx(content)
    kinds = {
        "function": lambda x: dwcpu.depthwise_conv2d(x, dw, padding=1),
        "layer": layer,
        "layers": row,
        "network": lambda x: network(np.ascontiguousarray(x[..., :3])),
        "model": lambda x: model(x, layout="NHWC"),
    }

    def image(height, width):
        return np.random.default_rng(height * 1000 + width).integers(-3, 4, (1, height, width, 8)).astype(np.float32)

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    some = [image(7, 9), image(12, 11)]
    right = {name: [call(x).copy() for x in some] for name, call in kinds.items()}
    reference = dwcpu.depthwise_conv2d(some[0], dw, padding=1, backend="reference")
    assert np.array_equal(right["function"][0], reference)

    def check():
        for name, call in kinds.items():
            for x, expected in zip(some, right[name]):
                assert np.array_equal(call(x), expected), name
"""


def run(code: str, environment: dict[str, str] | None = None, **constants: object) -> str:
    """Output of a program, after `WORK` and the constants; one that hangs says where."""
    head = f"import faulthandler\nfaulthandler.dump_traceback_later({SECONDS - 10}, exit=True)\n"
    constants = {"WINDOW": 5, **constants}  # which needs no Numba where the Cython kernels are there
    head += "".join(f"{name} = {value!r}\n" for name, value in constants.items())
    done = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(WORK) + textwrap.dedent(code)],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{constants}: exit status {done.returncode}: {done.stdout}{done.stderr[-3000:]}"
    return done.stdout


@needs_linux
def test_memory_is_flat_over_a_thousand_shapes() -> None:
    """10,000 calls: each round makes 2000, of half of the shapes, and each kind of call a fifth of them."""
    code = """
    shapes = [(5 + at % 40, 6 + at // 40) for at in range(1000)]
    used, compiled = [], []
    from dwcpu.numba_kernels.target import compiled_count
    for turn in range(ROUNDS):
        for at, shape in enumerate(shapes[turn % 2 :: 2]):
            x, call = image(*shape), list(kinds.values())[(at + turn) % len(kinds)]
            for _ in range(4):
                call(x)
        gc.collect()
        used.append(resident() >> 10)
        compiled.append(compiled_count())
    # In KiB. The first rounds fill caches, of some thousand geometries. A call that left 1 KiB behind would leave 4000,
    # and a shape 1000.
    assert used[-1] - used[2] < 2000, used
    assert compiled[-1] == compiled[1], compiled
    # What is kept for shapes that may come again
    assert len(layer._compiled) <= layers._REMEMBERED and len(layer.known) <= 2 * layers._REMEMBERED
    assert len(model._plans.known) <= dwcpu.graph.plans._MOST_PLANS
    assert len(network._plans) <= dwcpu.models.network._MAX_PLANS
    assert len(layer._packed) <= 4
    if calls._pool is not None:
        assert len(calls._pool.free) <= calls._MOST_KINDS
        assert sum(call.size for free in calls._pool.free.values() for call in free) <= calls._MOST_BYTES
    for cache in (dispatch._choose, dispatch._supporting, dwcpu.choices._key):
        assert cache.cache_info().currsize <= cache.cache_info().maxsize <= 4096
    assert runtime._scratch.memory[1].size <= runtime.get_num_threads() * runtime.MOST_SCRATCH + 64
    assert not background._jobs and not background._queue
    check()
    """
    run(code, ROUNDS=reduced(50, 5), WINDOW=4)


def test_compiled_windows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba unrolls every window, and no code is ever freed: after so many, new ones run on code for any window."""
    from dwcpu.numba_kernels.target import compiled_count

    x = np.ones((1, 20, 20, 16), np.float32)
    monkeypatch.setattr(dispatch, "_unrolled", set())
    monkeypatch.setattr(dispatch, "MOST_UNROLLED", 1)
    counts = []
    for backend in ("numba", "auto"):
        for taps in (2, 4, 6, 8, 9, 10, 11, 12):
            layer = dwcpu.DepthwiseConv2d(np.ones((1, taps, 16), np.float32), backend=backend)
            assert (layer(x) == taps).all()
            counts.append(compiled_count())
            choice = layer.explain(x.shape)
            assert ("as many windows as it may" in choice.reason) == (taps > 2)
    assert counts[1:] == [counts[1]] * (len(counts) - 1)
    assert len(dispatch._unrolled) == 1


def test_scratch_memory_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """When its thread ends, and at once where it is enormous."""
    rng = np.random.default_rng(0)
    layer = dwcpu.SeparableConv2d(rng.normal(size=(3, 3, 64)), rng.normal(size=(64, 64)))
    x = rng.normal(size=(1, 12, 12, 64))
    kept: list[weakref.ref] = []

    def work() -> None:
        layer(x, num_threads=1)
        assert runtime._scratch.memory[1].size
        kept.append(weakref.ref(runtime._scratch.memory[1]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [each() for each in kept] == [None]

    right = layer(x)
    monkeypatch.setattr(runtime, "MOST_SCRATCH", 1000)
    runtime._scratch.memory = runtime._NO_SCRATCH
    again = dwcpu.SeparableConv2d(*(part.weights for part in layer._program.step.parts))
    for threads in (1, 2):
        for _ in range(2):
            assert np.array_equal(again(x, num_threads=threads), right)
            assert runtime._scratch.memory is runtime._NO_SCRATCH


def test_arenas_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """What networks compute in stays for the next run, but not what one huge image needed."""
    monkeypatch.setattr(pipeline, "_LARGE", 1 << 16)
    arenas = pipeline.Arenas()
    large = arenas.take(1 << 20)
    arenas.give(large)
    near = arenas.take(1 << 18)
    assert near[1] == large[1], "of use for a run that is not much smaller"
    arenas.give(near)
    small = arenas.take(100)
    assert small[0].size == 100
    arenas.give(small)
    assert [arena[0].size for arena in arenas._free] == [100]


@needs_linux
def test_everything_works_after_memory_errors() -> None:
    """With less and less memory, which ends at one place after the other; threads lack memory for stacks."""
    run("""
    import resource
    large = image(2000, 1200)  # more than what malloc keeps for the next time
    check()
    failed = set()
    before = resource.getrlimit(resource.RLIMIT_AS)
    for slack in range(240, -1, -60):
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        for name, call in kinds.items():
            resource.setrlimit(resource.RLIMIT_AS, (size + (slack << 20), before[1]))
            try:
                try:
                    call(large)
                except MemoryError:
                    failed.add(name)
                for threads in (1, 2, 16):
                    assert np.array_equal(layer(some[0], num_threads=threads), right["layer"][0])
                try:
                    check()
                except MemoryError:
                    assert slack < 24, "small calls need little"
            finally:
                resource.setrlimit(resource.RLIMIT_AS, before)
            check()
    assert failed >= {*kinds} - {"network"}, failed  # which makes it smaller first

    def work(_):
        check()

    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    """)


@needs_linux
def test_no_memory_for_threads() -> None:
    """The helpers of the compiled driver cannot be started: the caller does everything itself."""
    if runtime.cython_kernels() is None:
        pytest.skip("the threads are Numba's")
    run("""
    import resource
    x = image(300, 300)
    plain = dwcpu.DepthwiseConv2d(dw, padding=1)
    expected = plain(x, num_threads=1)
    out = np.empty_like(expected)
    plain(x, out=out, num_threads=8)
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + (20 << 20), -1))  # a stack is 8 MiB
    refused = 0
    try:
        for _ in range(64):
            threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
    except RuntimeError:
        refused = 1
    assert refused
    for threads in (9, 64, 1000):
        out[...] = np.nan
        plain(x, out=out, num_threads=threads)
        assert np.array_equal(out, expected)
    """)


#: Interrupts come from a timer, at moments that differ from run to run no more than the machine does.
INTERRUPTED = """
    import random, signal
    moments = random.Random(SEED)
    signal.signal(signal.SIGALRM, signal.default_int_handler)

    def interrupted(work, most):
        '''Whether an interrupt came while it worked; nothing else may come of it.'''
        try:
            signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, most))
            try:
                work()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            return 1
        return 0
"""


@needs_linux
@pytest.mark.parametrize("seed", reduced(range(20), range(1)))
def test_ctrl_c_at_any_moment_of_calls_plans_and_loading(seed: int) -> None:
    code = """
    def plan():
        for size in range(5, 40):
            for call in kinds.values():
                call(image(size + moments.randrange(40), size))

    def load():
        for _ in range(20):
            dwcpu.load_onnx(content)(some[0], layout="NHWC")

    def tune():
        dwcpu.autotune(layer, some[0].shape)

    x = image(200, 200)
    def run():
        for _ in range(100):
            for threads in (1, 2):
                layer(x, num_threads=threads)
                row(x, num_threads=threads)

    for work, most in ((plan, 0.05), (load, 0.03), (tune, 0.1), (run, 0.03)):
        for _ in range(TIMES):
            assert interrupted(lambda: [work() for _ in iter(int, 1)], most)  # again and again until it comes
            check()
    """
    run(INTERRUPTED + code, SEED=seed, TIMES=reduced(40, 8))


@needs_linux
@pytest.mark.parametrize("background", ["0", "1"])
@pytest.mark.parametrize("seed", reduced(range(20), range(1)))
def test_ctrl_c_at_any_moment_of_compiling(seed: int, background: str, tmp_path: Path) -> None:
    """With an empty cache, waiting for the compiler or not; the first interrupts meet the import of Numba."""
    code = """
    came = 0
    for shape in [(4, 2), (2, 5), (5, 2), (1, 6), (6, 1), (2, 6), (6, 2), (1, 9), (9, 1), (4, 5)][:TIMES]:
        made, x = dwcpu.DepthwiseConv2d(np.ones((*shape, 8), np.float32)), np.ones((1, 12, 12, 8), np.float32)
        for most in MOMENTS:
            came += interrupted(lambda: [made(x) for _ in range(100_000)], most)
        assert (made(x) == shape[0] * shape[1]).all()
        check()
    assert came
    background.wait()
    assert (made(x) == shape[0] * shape[1]).all()
    check()
    """
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "DWCPU_BACKGROUND_COMPILE": background}
    moments = [0.8, 0.5, 0.1] if background == "0" else [0.5, 0.05, 0.01]
    run(INTERRUPTED + code, environment, SEED=seed, TIMES=reduced(10, 1), MOMENTS=moments)


@needs_linux
def test_ctrl_c_from_outside_during_a_long_call() -> None:
    """A real SIGINT, of which the kernel hears nothing: the exception comes when it has ended, and locks are free."""
    code = """
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background may not have
    x, w = np.ones((1, SIZE, 400, 64), np.float32), np.ones((13, 13, 64), np.float32)
    slow = dwcpu.DepthwiseConv2d(w)
    slow(x, num_threads=1)
    for threads in (1, 2, 2):
        sent = []
        def send():
            time.sleep(0.05)
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
        sender = threading.Thread(target=send)
        try:
            sender.start()
            while True:
                slow(x, num_threads=threads)
        except KeyboardInterrupt:
            pass
        sender.join()
        assert sent
        assert (slow(x, num_threads=threads) == 169).all()
        check()
    """
    run(code, SIZE=reduced(4000, 300))
