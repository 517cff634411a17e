"""Pipelines: places that do not collide, nothing allocated, the same bits however many threads run them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from allocations import allocated
from hypothesis import given
from hypothesis import strategies as st

import dwcpu
from dwcpu import elementwise, models, pipeline, pixels, runtime
from dwcpu.epilogue import Activation


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def block(expand: int = 96, channels: int = 16, **options) -> dwcpu.InvertedResidual:
    weights = random(channels, expand), random(3, 3, expand), random(expand, channels)
    return dwcpu.InvertedResidual(*weights, **options)


@pytest.fixture(scope="module")
def network() -> models.Network:
    return models.mobilenet_v2(seed=1)


# --- values ---------------------------------------------------------------------------------------------------------

PLANAR = {
    "whole": ((2, 3, 5, 7), lambda x: x, True),
    "channels of one image": ((1, 6, 5, 7), lambda x: x[:, 1:4], True),
    "channels of several": ((3, 6, 5, 7), lambda x: x[:, 1:4], False),
    "every second image": ((4, 3, 5, 7), lambda x: x[::2], False),
    "every second channel": ((1, 6, 5, 7), lambda x: x[:, ::2], False),
    "some rows": ((1, 3, 9, 7), lambda x: x[:, :, :5], False),
    "some columns": ((1, 3, 5, 9), lambda x: x[..., :7], False),
    "channels backwards": ((1, 3, 5, 7), lambda x: x[:, ::-1], False),
    "columns backwards": ((1, 3, 5, 7), lambda x: x[..., ::-1], False),
    "one column": ((2, 3, 5, 1), lambda x: x, True),
    "one row": ((2, 3, 1, 7), lambda x: x, True),
    "channels last": ((2, 5, 7, 3), lambda x: np.moveaxis(x, 3, 1), False),
}


@pytest.mark.parametrize("what", PLANAR)
def test_planes_are_told_from_other_images(what) -> None:
    shape, view, planar = PLANAR[what]
    image = np.moveaxis(view(np.empty(shape, np.float32)), 1, 3)
    assert pipeline.Value(0, image.shape, image.dtype, 0, image.strides).is_planar == planar


# --- places -----------------------------------------------------------------------------------------------------------

LIVES = st.tuples(st.integers(0, 5000), st.integers(0, 12), st.integers(0, 6)).map(lambda t: (t[0], t[1], t[1] + t[2]))


@given(st.lists(LIVES, max_size=25))
def test_what_lives_at_a_time_does_not_overlap(wanted) -> None:
    offsets, size = pipeline.places(wanted)
    for index, (mine, first, last) in enumerate(wanted):
        at = offsets[index]
        assert at % 64 == 0
        assert at + mine <= size
        for other in range(index):
            theirs, begin, end = wanted[other]
            if mine and theirs and begin <= last and first <= end:
                assert at + mine <= offsets[other] or offsets[other] + theirs <= at
    assert size >= max((sum(w[0] for w in wanted if w[1] <= step <= w[2]) for step in range(20)), default=0)


def test_a_chain_needs_two_places() -> None:
    offsets, size = pipeline.places([(640, step, step + 1) for step in range(9)])
    assert size == 1280
    assert set(offsets) == {0, 640}


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_allocates_its_result_and_nothing_else(network, threads) -> None:
    x = random(2, 64, 64, 3)
    small = 6000  # numbers and tuples of Python
    assert allocated(lambda: network(x, threads)) <= 2 * 1000 * 4 + small
    logits = np.empty((len(x), 1000), np.float32)
    assert allocated(lambda: network(x, threads, out=logits)) <= small


@pytest.mark.parametrize("threads", [1, 2])
def test_layers_of_several_steps_allocate_nothing(threads) -> None:
    for layer, x in (
        (block(), random(1, 40, 40, 16)),
        (dwcpu.SeparableConv2d(random(3, 3, 512), random(512, 32), padding=1), random(1, 14, 14, 512)),
    ):
        out = np.empty(layer.out_shape(x.shape), np.float32)
        assert allocated(lambda layer=layer, x=x, out=out: layer(x, out=out, num_threads=threads)) <= 6000


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.skipif(runtime.cython_kernels() is None, reason="NumPy turns images where kernels are not compiled")
def test_layers_turn_images_in_memory_that_stays(threads) -> None:
    x, residual, out = random(1, 3, 24, 24), random(1, 32, 24, 24), np.empty((1, 32, 24, 24), np.float32)
    block = dwcpu.InvertedResidual(random(3, 18), random(3, 3, 18), random(18, 32), layout="NCHW")
    for layer in dwcpu.Conv2d(random(3, 3, 3, 32), padding=1, layout="NCHW"), block:
        for added in None, residual:
            right = layer(x, residual=added)
            assert allocated(lambda layer=layer, r=added: layer(x, out=out, residual=r, num_threads=threads)) <= 6000
            assert np.array_equal(out, right)


def poison(network: models.Network) -> int:
    """Fill all free arenas with NaN."""
    for memory, _ in network._arenas._free:
        memory[: memory.size // 4 * 4].view(np.float32)[:] = np.nan
    return len(network._arenas._free)


@pytest.mark.parametrize("make", [models.mobilenet_v1, models.mobilenet_v2, models.efficientnet_lite0])
def test_nothing_is_read_that_the_same_run_did_not_write(make) -> None:
    network, x = make(seed=0), random(2, 48, 80, 3)
    step = x
    inputs = {}
    for index, each in enumerate(network._steps):  # layer by layer, each result in memory of its own
        inputs[index] = step
        step = each.layer(step, residual=None if each.residual_from is None else inputs[each.residual_from])
    for threads in (1, 2, 3):
        for _ in range(2):
            np.testing.assert_array_equal(network(x, threads), step.reshape(2, -1))
            assert poison(network) == 1


def test_one_arena_serves_all_shapes(network) -> None:
    for size in (64, 32, 96, 33):
        network(random(1, size, size, 3), 1)
    assert len(network._arenas._free) == 1


def test_an_exception_costs_an_arena_and_nothing_else() -> None:
    arenas = pipeline.Arenas()
    x, out = random(1, 2, 2, 3), np.empty((1, 2, 2, 3), np.float32)
    fail = [True]

    def double(x, residual, out, threads) -> None:
        if fail[0]:
            raise KeyboardInterrupt
        np.multiply(x, 2, out=out)

    nodes = [pipeline.Node(double, x.shape)] * 3
    line = pipeline.chain(nodes, x.shape, x.dtype, 1, arenas)
    with pytest.raises(KeyboardInterrupt):
        line.run(x, None, out)
    fail[0] = False
    line.run(x, None, out)
    np.testing.assert_array_equal(out, 8 * x)


@pytest.mark.skipif(runtime.cython_kernels() is None, reason="these kernels are compiled ahead of time")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("what", "places"),
    [
        ("a row", 1),  # everything where the first result was
        ("the first is read again", 2),
        ("the first is read later", 3),
        ("smaller", 2),
        ("turned", 2),
        ("a part", 2),
        ("twice the same", 2),
        ("the second of two", 1),
    ],
)
def test_results_lie_where_what_nobody_reads_again_lay(what: str, places: int, threads: int) -> None:
    """And nowhere else: positions, sizes and who reads what must be such that it makes no difference."""
    f32, plain = np.dtype(np.float32), Activation()
    shape, size = (2, 2, 6), 96
    x, builder = np.arange(24, dtype=f32).reshape(shape) - 9, pipeline.Builder()
    source, target = pipeline.Value(pipeline.given(0), shape, f32), pipeline.Value(pipeline.given(2), shape, f32)
    a, b, c = (pipeline.Value(builder.buffer(size), shape, f32) for _ in range(3))
    flat = np.empty(shape, f32)
    double, add = elementwise.mapped(shape, f32, 2.0, 1.0, plain), elementwise.combine("add", flat, flat, flat, plain)

    def step(kernel: object, first: pipeline.Value, out: pipeline.Value, second: pipeline.Value | None = None) -> None:
        builder.operate(0, pipeline.Node(kernel, shape), first, second, out, threads)

    step(double, source, a)
    once = 2 * x + 1
    if what == "a row":
        step(double, a, b)
        step(double, b, c)
        step(double, c, target)
        wanted = 2 * (2 * (2 * once + 1) + 1) + 1
    elif what == "the first is read again":
        step(double, a, b)
        step(add, b, target, a)
        wanted = 3 * once + 1
    elif what == "the first is read later":
        step(double, a, b)
        step(double, b, c)
        step(double, b, pipeline.Value(builder.buffer(size), shape, f32))
        step(add, a, target, c)
        wanted = once + 2 * (2 * once + 1) + 1
    elif what == "smaller":
        few = pipeline.Value(builder.buffer(size // 2), shape[1:], f32)
        step(elementwise.mapped(shape[1:], f32, 2.0, 1.0, plain), a, few)
        step(pixels.copy(shape, f32, (0, 24, 4), flat.strides), few, target)
        wanted = np.broadcast_to(2 * once[0] + 1, shape)
    elif what == "turned":
        turned = flat.transpose(1, 0, 2)
        step(elementwise.combine("add", turned, flat, flat, plain), a._replace(strides=turned.strides), b, source)
        step(double, b, target)
        wanted = 2 * (once.transpose(1, 0, 2) + x) + 1
    elif what == "a part":
        wide = builder.buffer(2 * size)
        step(double, a, pipeline.Value(wide, shape, f32, size))
        step(double, pipeline.Value(wide, shape, f32, size), target)
        wanted = 2 * (2 * once + 1) + 1
    elif what == "twice the same":
        step(add, a, b, a)
        step(double, b, target)
        wanted = 4 * once + 1
    else:
        step(elementwise.combine("subtract", flat, flat, flat, plain), source, b, a)
        step(add, b, c, source)
        step(double, c, target)
        wanted = 2 * (x - once + x) + 1
    run = pipeline.Pipeline(builder, 1)
    buffers = {value.buffer for each in run._steps for value in each.writes if value.buffer >= 0}
    assert len(buffers) == places
    out = np.empty(shape, f32)
    for _ in range(2):
        run.run(x, None, out)
        np.testing.assert_array_equal(out, wanted.astype(f32))


def test_calls_and_kernels_mix() -> None:
    """A call of Python in between sees arrays, and residuals reach both."""
    layer = block(padding="same")
    x, given_residual = random(2, 9, 8, 16), random(2, 9, 8, 16, seed=1)

    def double(x, residual, out, threads) -> None:
        assert threads == 2
        np.multiply(x, 2, out=out)
        if residual is not None:
            out += residual

    doubled = pipeline.Node(double, x.shape)
    own = layer.nodes(x.shape, 2)
    nodes = [*own, doubled._replace(residual=0), *own, doubled._replace(residual=pipeline.GIVEN)]
    line = pipeline.chain(nodes, x.shape, x.dtype, 2)
    out = np.empty_like(x)
    line.run(x, given_residual, out)
    np.testing.assert_array_equal(out, 2 * layer(2 * layer(x) + x) + given_residual)
    seconds = line.timed(x, given_residual, out)
    assert len(seconds) == len(nodes)
    assert all(each > 0 for each in seconds)


# --- threads ----------------------------------------------------------------------------------------------------------


def test_any_number_of_threads_gives_the_same_bits(network) -> None:
    x = random(1, 64, 96, 3)
    expected = network(x, 1)
    for threads in (2, 3, 5, 16):
        for _ in range(3):
            np.testing.assert_array_equal(network(x, threads), expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_callers_at_once(network, threads) -> None:
    images = [random(1, 64, 48, 3, seed=seed) for seed in range(4)]
    expected = [network(image, 1) for image in images]
    layer, x = block(), random(1, 40, 40, 16)
    right = layer(x, num_threads=1)

    def work(index: int) -> bool:
        same = np.array_equal(layer(x, num_threads=threads), right)
        return same and np.array_equal(network(images[index % 4], threads), expected[index % 4])

    with ThreadPoolExecutor(5) as pool:
        assert all(pool.map(work, range(40)))
    assert len(network._arenas._free) <= 6


PROGRAM = """
    import os
    import numpy as np
    from dwcpu import models

    network = models.mobilenet_v1(width=0.25, seed=0)
    x = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype(np.float32)
    right = network(x, 2)
"""


def run(code: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM + code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("isa", ["", "none"], ids=["compiled", "numba"])
def test_a_forked_child_computes(isa: str) -> None:
    code = """
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(network(x, 2), right) and np.array_equal(network(x, 1), right) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(network(x, 2), right)
    """
    run(code, DWCPU_ISA=isa)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_while_threads_compute() -> None:
    """It has none of its parent's threads and starts its own."""
    code = """
    import threading
    stop = threading.Event()

    def work():
        while not stop.is_set():
            network(x, 3)

    busy = [threading.Thread(target=work) for _ in range(3)]
    for thread in busy:
        thread.start()
    for _ in range(5):
        child = os.fork()
        if child == 0:
            before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
            same = all(np.array_equal(network(x, threads), right) for threads in (2, 3))
            started = before == 0 or (before == 1 and len(os.listdir("/proc/self/task")) == 3)
            os._exit(0 if same and started else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stop.set()
    for thread in busy:
        thread.join()
    """
    run(code, PYTHONWARNINGS="ignore")


@pytest.mark.parametrize("isa", ["", "none"], ids=["compiled", "numba"])
def test_numba_code_of_the_user_in_the_same_process(isa: str) -> None:
    code = """
    import numba

    @numba.njit(parallel=True)
    def total(a):
        s = 0.0
        for i in numba.prange(a.size):
            s += a[i]
        return s

    for _ in range(5):
        assert total(np.ones(10_000)) == 10_000
        assert np.array_equal(network(x, 2), right)
    """
    run(code, DWCPU_ISA=isa)


def test_the_other_family_gives_the_same_bits() -> None:
    code = """
    import sys
    again = models.mobilenet_v1(width=0.25, seed=0, backend="numba")
    assert np.array_equal(again(x, 2), right)
    assert np.array_equal(again(x, 1), right)
    """
    run(code)
    run(code, DWCPU_ISA="none")


def test_a_network_waits_for_no_thread_that_does_not_come(network) -> None:
    """Callers that keep every core busy slow a run down; they do not stop it."""
    x = random(1, 64, 48, 3)
    expected = network(x, 1)
    stop = threading.Event()
    busy = [threading.Thread(target=lambda: [network(x, 1) for _ in iter(stop.is_set, True)]) for _ in range(4)]
    for thread in busy:
        thread.start()
    try:
        for _ in range(20):
            np.testing.assert_array_equal(network(x, 4), expected)
    finally:
        stop.set()
        for thread in busy:
            thread.join()
