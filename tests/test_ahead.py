"""What plans have kernels ask for ahead: weights that a later kernel would wait for, each of them in one plan.

And the inputs that the next block of a fused kernel would wait for.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dwcpu
from dwcpu import ahead, dispatch, pipeline, runtime
from dwcpu.abi import FIELDS, plan_dtype
from dwcpu.grid import cut
from dwcpu.pipeline import NOTHING, Pass, Room, Span

#: Three panels and more, with vectors of whatever size.
COLUMNS = 160


def passed(awaited: Span, room: Room, reads: Span = NOTHING) -> Pass:
    """A pass whose plan says what it was told to ask for."""

    def asking(own: Pass, later: Span | None, soon: Span | None) -> Pass:
        plan = own.plan.copy()
        for what, span, most in (("later", later, own.room.later), ("soon", soon, own.room.soon)):
            if span is not None:
                assert 0 < span.size <= most
                plan[what], plan[f"{what}_size"] = span
        return own._replace(plan=plan)

    grid, plan = cut(1, 1, 1, 1, False), np.zeros(1, plan_dtype())
    return Pass(0, plan, grid, (1,), None, reads=reads, awaited=awaited, room=room, asking=asking)


def asked(passes: list[Pass], what: str = "later") -> list[tuple[int, int]]:
    return [(int(each.plan[what][0]), int(each.plan[f"{what}_size"][0])) for each in ahead.asking(passes)]


def later(room: int, awaited: tuple[int, int] = (0, 0)) -> Pass:
    return passed(Span(*awaited), Room(room, 0))


def soon(room: int, reads: tuple[int, int], awaits: bool = False) -> Pass:
    return passed(Span(*reads) if awaits else NOTHING, Room(room, room), Span(*reads))


def test_the_nearest_asks_for_the_last_weights() -> None:
    passes = [later(50), later(0), later(30), later(0, (1000, 100))]
    assert asked(passes) == [(1020, 50), (0, 0), (1070, 30), (0, 0)]


def test_nobody_asks_for_two() -> None:
    passes = [later(50), later(50), later(0, (1000, 20)), later(0, (2000, 60))]
    assert asked(passes) == [(2010, 50), (1000, 20), (0, 0), (0, 0)]


def test_each_asks_for_what_the_next_one_with_weights_reads_first() -> None:
    passes = [soon(50, (1000, 10)), soon(50, (2000, 20)), soon(50, (0, 0)), soon(0, (3000, 90)), soon(0, (4000, 90))]
    assert asked(passes, "soon") == [(2000, 20), (3000, 50), (3000, 50), (0, 0), (0, 0)]
    assert asked(passes) == [(0, 0)] * 5


def test_the_last_of_what_is_awaited_is_asked_for_as_what_is_read_next() -> None:
    passes = [soon(50, (1000, 10)), soon(60, (2000, 20)), soon(0, (3000, 150), True)]
    assert asked(passes, "soon") == [(2000, 20), (3090, 60), (0, 0)]
    assert asked(passes) == [(3000, 30), (3030, 60), (0, 0)]


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), max_size=12))
def test_each_weight_is_asked_for_once_and_before_its_turn(sizes: list[tuple[int, int]]) -> None:
    passes = [passed(Span(1000 * at, wanted), Room(room, 0)) for at, (wanted, room) in enumerate(sizes)]
    found: set[int] = set()
    for at, (address, size) in enumerate(asked(passes)):
        weights = set(range(address, address + size))
        assert not weights & found
        found |= weights
        if size:
            assert address // 1000 > at
            assert address % 1000 + size <= sizes[address // 1000][0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("op", ["pointwise", "separable", "inverted_residual"])
def test_products_ask_for_a_classifier_and_results_stay_the_same(
    op: str, backend: str, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "cython" and runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    def lasting(passes: list[Pass]) -> list[Pass]:
        found.extend(ahead.asking(passes))
        return found

    def computed() -> np.ndarray:
        nodes, shape = [], x.shape
        for layer in layers:
            nodes += layer.nodes(shape, 1)
            shape = nodes[-1].out_shape
        out = np.empty(shape, dtype)
        pipeline.chain(nodes, x.shape, x.dtype, 1).run(x, None, out)
        return out

    first = dwcpu.PointwiseConv2d(weights(32, COLUMNS), backend=backend)
    if op != "pointwise":
        (kernel,) = (k.name for k in dispatch.kernels(dtype, backend) if (k.op, k.label) == (op, "fused"))
        if op == "separable":
            first = dwcpu.SeparableConv2d(weights(3, 3, 32), weights(32, COLUMNS), padding="same", backend=kernel)
        else:
            parts = weights(32, 64), weights(3, 3, 64), weights(64, COLUMNS)
            first = dwcpu.InvertedResidual(*parts, padding="same", backend=kernel)
    to_one_pixel = dwcpu.DepthwiseConv2d(weights(12, 12, COLUMNS), backend=backend)
    layers = [first, to_one_pixel, dwcpu.PointwiseConv2d(weights(COLUMNS, 203), backend=backend)]
    x, found = weights(1, 12, 12, 32), []
    monkeypatch.setattr(pipeline, "asking", list)
    expected = computed()
    monkeypatch.setattr(pipeline, "asking", lasting)
    assert np.array_equal(computed(), expected)
    (host, window, classifier), last = found, COLUMNS * 203 * x.itemsize
    address, size = classifier.awaited
    assert size >= last
    plan = {
        "pointwise": lambda: host.plan,
        "separable": lambda: host.owner[1].plan,
        "inverted_residual": lambda: host.owner[1][1].plan,
    }[op]()
    assert int(plan["later_size"][0]) == min(size, host.room.later) > 0
    assert int(plan["later"][0]) + int(plan["later_size"][0]) == address + size
    assert (int(plan["soon"][0]), int(plan["soon_size"][0])) == window.reads.begun(host.room.soon)
    assert min(window.reads.size, host.room.soon) > 0


KERNEL = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5, *[ctypes.c_int64] * 4)


@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0), (2, ((0, 1), (0, 1)))])
@pytest.mark.parametrize("l2", [50_000, 12_000], ids=["room", "no room"])
def test_a_block_asks_for_the_inputs_of_the_next(
    backend: str, stride: int, padding: object, l2: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all images, line by line, from those that the first block has read on; even if L2 cannot hold them too."""
    if backend == "cython" and runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(2048, l2, 1 << 20))
    rng = np.random.default_rng(0)
    x, dw, pw = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((2, 13, 40, 16), (3, 3, 16), (16, 24)))
    kernels = dispatch.kernels(np.float32, backend)
    (kernel,) = (each.name for each in kernels if (each.op, each.label) == ("separable", "fused"))
    layer = dwcpu.SeparableConv2d(dw, pw, stride=stride, padding=padding, backend=kernel)
    right = dwcpu.separable_conv2d(x, dw, pw, stride=stride, padding=padding, backend="reference")
    for threads in (1, 2):
        assert np.array_equal(layer(x, num_threads=threads), right)

    (node,) = layer.nodes(x.shape, 1)
    prepared = node.operation
    assert prepared.plan["asks_ahead"][0] == 1
    block = int(prepared.plan["block_rows"][0])
    assert 1 <= block < right.shape[1]
    seen = []

    @KERNEL
    def pointwise(plan, x, residual, out, scratch, row_begin, row_end, block_begin, block_end) -> None:
        fields = (ctypes.c_int64 * len(FIELDS)).from_address(plan)
        seen.append(tuple(fields[list(FIELDS).index(name)] for name in ("later", "later_size")))

    prepared.plan["pointwise_kernel"] = ctypes.cast(pointwise, ctypes.c_void_p).value
    prepared.run(x, None, np.empty_like(right), 1)
    assert seen.pop() == (0, 0)
    assert len(seen) == (right.shape[0] * right.shape[1] - 1) // block
    at = x.ctypes.data + ((block - 1) * stride + 3 - (padding == 1)) * x[0, 0].nbytes
    for later, size in seen:
        assert (later, size > 0) == (at, True)
        at += size
    assert 0 <= x.ctypes.data + x.nbytes - at < (stride == 2) * x[0, 0].nbytes + 1


@pytest.mark.parametrize("backend", ["numba", "cython"])
@pytest.mark.parametrize("asks_ahead", [0, 1])
def test_the_last_of_several_blocks_asks_for_what_later_kernels_read(
    backend: str, asks_ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them would ask for the same."""
    if backend == "cython" and runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(2048, 32 << 10, 1 << 20))
    x, dw, pw = (np.ones(shape, np.float32) for shape in ((1, 30, 40, 16), (3, 3, 16), (16, 24)))
    kernels = dispatch.kernels(np.float32, backend)
    (kernel,) = (each.name for each in kernels if (each.op, each.label) == ("separable", "fused"))
    layer = dwcpu.SeparableConv2d(dw, pw, padding=1, backend=kernel)
    (node,) = layer.nodes(x.shape, 1)
    (own,) = node.operation.passes(1)
    assert own.asking is not None
    asking = own.asking(own, Span(64, 32), Span(128, 48))
    asking.plan["asks_ahead"] = asks_ahead
    seen = []

    @KERNEL
    def pointwise(plan, x, residual, out, scratch, row_begin, row_end, block_begin, block_end) -> None:
        fields = dict(zip(FIELDS, (ctypes.c_int64 * len(FIELDS)).from_address(plan), strict=True))
        seen.append(tuple(fields[name] for name in ("later", "later_size", "soon", "soon_size")))

    asking.plan["pointwise_kernel"] = ctypes.cast(pointwise, ctypes.c_void_p).value
    out, scratch = np.empty(asking.out_shape, np.float32), np.empty(asking.grid.scratch, np.uint8)
    runtime.driver(1)(
        asking.kernel, asking.plan.ctypes.data, x.ctypes.data, 0, out.ctypes.data, scratch.ctypes.data,
        *asking.grid.arguments,
    )  # fmt: skip
    assert len(seen) > 2
    assert seen.pop() == (64, 32, 128, 48)
    assert all(soon == 0 and (size > 0) == bool(asks_ahead) for _, size, _, soon in seen)


def test_who_does_not_ask_for_inputs() -> None:
    rng = np.random.default_rng(0)

    def asks(height: int, channels: int, dilation: int = 1, width: int = 56) -> bool:
        weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 3, channels), (channels, 16))]
        layer = dwcpu.SeparableConv2d(*weights, padding=dilation, dilation=dilation, backend=kernel)
        (node,) = layer.nodes((1, height, width, channels), 1)
        return bool(node.operation.plan["asks_ahead"][0])

    (kernel,) = (k.name for k in dispatch.kernels(np.float32, "numba") if (k.op, k.label) == ("separable", "fused"))
    pixels = runtime.cache_sizes().l2 // (4 * 128)
    assert asks(pixels // 56 + 1, 128)
    assert not asks(pixels // 56 // 4, 128), "it is in L2 anyway"
    assert not asks(pixels // 56 + 1, 128, 2), "its rows are no neighbours"
    assert not asks(9, 128, width=pixels), "its blocks have parts of rows"
