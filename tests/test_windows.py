"""Depthwise windows in the pieces that kernels cut them into: phases, whole rows, strips, pairs of vectors."""

from __future__ import annotations

import ctypes
from itertools import pairwise

import numpy as np
import pytest
from cases import Case, expected, make_data
from guarded import ENDS
from test_kernels import KERNELS, compute

import dwcpu
from dwcpu import arrays, dispatch, runtime
from dwcpu.abi import HALF_COLUMNS

pytestmark = pytest.mark.usefixtures("guarded_scratch", "share_even_the_smallest_work")


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("dilation", [2, 3, 20])  # 20: more phases than the kernel keeps
def test_phases_of_columns_take_turns(size: int, dilation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that L2 does not hold: a dilated window's columns of all phases after each row of tiles."""
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    case = Case("depthwise", (2, 13, 50, 24), 24, (size, size), (1, 1), (dilation, dilation), padding="same")
    kernel = dispatch.choose(case.geometry, np.float32, 1, "cython")
    assert kernel.window[0] == size
    turns = []
    for l2 in 4096, 1 << 22:
        monkeypatch.setattr(runtime, "cache_sizes", lambda l2=l2: runtime.Memory(2048, l2, 1 << 23))
        prepared = kernel.prepare(case.geometry, *make_data(case, np.float32, "integers").kernel_weights())
        turns.append(int(prepared.plan["block_rows"][0]))
        result = compute(kernel, case, "integers", "relu", True, True, 2)
        np.testing.assert_array_equal(result, expected(case, np.float32, "integers", "relu", True, True))
    assert turns == [kernel.tile_rows, 0]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ways", [8, 12])  # of L1: of those that have few, rows whose pixels share sets are copied
def test_rows_of_any_width(ways: int, dtype: type, size: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed from end to end, or by tiles of seven, four, two and one: read from where they are, and from copies."""
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    monkeypatch.setattr(runtime, "l1_ways", lambda: ways)
    crowded = 4096 // np.dtype(dtype).itemsize
    copies = set()
    for outputs in range(1, 24):
        span = (outputs - 1) * stride + size
        for number, (left, right) in enumerate(((0, 0), (size // 2, size // 2), ((size + 1) // 2, 1), (1, 1))):
            width = span - left - right
            if width < 1:
                continue
            channels, dilation = ((2 * 16 + 3, 1), (crowded, 1), (23, 2))[(outputs + outputs // 3 + number) % 3]
            pads = ((size // 2, 1), (left * dilation, right * dilation))
            image = (2, size + 2 * stride + 2, width * dilation, channels)
            case = Case(
                "depthwise", image, channels, (size, size), (stride, stride), (dilation, dilation), padding=pads
            )
            kernel = dispatch.choose(case.geometry, dtype, 1, "cython")
            assert kernel.window[0] == size
            right_one = expected(case, dtype, "integers", "relu", True, True)
            for end in ENDS:
                result = compute(kernel, case, "integers", "relu", True, True, 1 + outputs % 2, end)
                np.testing.assert_array_equal(result, right_one)
            prepared = kernel.prepare(case.geometry, *make_data(case, dtype, "integers").kernel_weights())
            copies.add(int(prepared.plan["copy_rows"][0]) > 0)
    assert (True in copies) == (kernel.copies and ways == 8)


@pytest.mark.parametrize("height", [1, 13])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_phases_of_columns_take_turns_in_kernels_of_numba(
    dtype: type, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After rows of tiles, or stretches of a signal."""
    kernel = next(k for k in KERNELS if (k.backend, k.label, k.dtype) == ("numba", "any", np.dtype(dtype)))
    channels, turns = 2 * kernel.lanes + 3, []
    window = (2, 3) if height > 1 else (1, 3)
    for dilation in 2, 5:
        case = Case(
            "depthwise", (2, height, 150, channels), channels, window, (1, 1), (dilation, dilation), padding="same"
        )
        right = expected(case, dtype, "integers", "silu", True, True)
        for l2 in 1 << 14, 1 << 24:
            monkeypatch.setattr(runtime, "cache_sizes", lambda l2=l2: runtime.Memory(2048, l2, 1 << 25))
            plan = kernel.prepare(case.geometry, *make_data(case, dtype, "integers").kernel_weights()).plan
            turns.append(int(plan["block_rows"][0]))
            for threads, end in zip((1, 2, 3), (*ENDS, ENDS[0]), strict=True):
                result = compute(kernel, case, "integers", "silu", True, True, threads, end)
                np.testing.assert_allclose(result, right, rtol=1e-5)
    assert 0 < turns[0] < 20 and 0 < turns[2] < 20 and turns[1] == turns[3] == 0


@pytest.mark.parametrize("activation", ["silu", "gelu", "relu6", None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixel_by_pixel_with_a_last_vector_that_slides_back(
    dtype: type, activation: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All channels of a pixel at a time, however small L1: their second pass comes after all of them."""
    kernel = next((k for k in KERNELS if (k.label, k.dtype) == ("stream", np.dtype(dtype))), None)
    if kernel is None:
        pytest.skip("the Cython kernels were not built")
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(512, 4096, 1 << 23))
    for channels in (8 * kernel.lanes + 5, 16 * kernel.lanes + 1, 3 * kernel.lanes):
        for window, stride, dilation in (((1, 3), 1, 3), ((3, 3), 3, 1), ((2, 2), 1, 2)):
            case = Case(
                "depthwise", (2, 9, 70, channels), channels, window, (stride, stride), (dilation, dilation),
                padding="same",
            )  # fmt: skip
            right = expected(case, dtype, "normal", activation, True, True)
            for threads, end in enumerate(ENDS, 1):
                result = compute(kernel, case, "normal", activation, True, True, threads, end)
                np.testing.assert_allclose(result, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_windows_that_ask_for_lines_of_outputs_have_the_same_bits(
    dtype: type, stride: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size, image, channels in ((3, (2, 9, 17), 48), (5, (1, 7, 31), 64), (7, (1, 20, 21), 35)):
        x = rng.standard_normal((*image, channels)).astype(dtype)
        w, found = rng.standard_normal((size, size, channels)).astype(dtype), []
        for l2 in 1 << 20, 256:  # holds the outputs, or does not
            monkeypatch.setattr(runtime, "cache_sizes", lambda l2=l2: runtime.Memory(48 << 10, l2, 1 << 23))
            monkeypatch.setattr(runtime, "l1_ways", lambda: 12)
            layer = dwcpu.DepthwiseConv2d(w, stride=stride, padding="same", activation="relu")
            (node,) = layer.nodes(x.shape, 1)
            compiled, lines = node.operation.kernel.copies, node.operation.kernel.lanes * x.itemsize == 64
            wanted = compiled and lines and l2 < 1 << 20 and stride == 1 and channels * x.itemsize % 64 == 0
            assert node.operation.plan["asks_out"][0] == wanted
            for behind in 0, 16:  # a line: each asks for the second of its own two
                out = np.ndarray(node.out_shape, dtype, arrays.aligned(10**6, np.dtype(np.uint8)), behind)
                found.append(layer(x, out=out, num_threads=1).tobytes())
        assert len(set(found)) == 1


@pytest.mark.parametrize("window", [(1, 7), (3, 9)])
def test_parts_of_rows_of_several_outputs(window: tuple[int, int]) -> None:
    """Large windows leave parts of tiles, a run of whose columns may lie beyond the row's end."""
    kernel = next(k for k in KERNELS if k.label == "several" and k.dtype == np.float32)
    channels = kernel.lanes + 1
    for width in (5, 6, 7, 9):
        case = Case("depthwise", (2, 4, width, channels), 6 * channels, window)
        right = expected(case, np.float32, "integers", "relu", True, True)
        for end in ENDS:
            result = compute(kernel, case, "integers", "relu", True, True, 1, end)
            np.testing.assert_array_equal(result, right)


#: Large windows: image, window, stride, dilation, padding, outputs a channel.
STRIPS = [
    ((2, 12, 57, 24), (9, 9), (1, 1), (1, 1), "same", 1),
    ((1, 11, 47, 17), (9, 9), (2, 2), (1, 1), "same", 1),
    ((1, 10, 33, 72), (11, 8), (1, 2), (2, 3), "same", 1),
    ((1, 13, 26, 20), (5, 13), (2, 1), (1, 2), ((0, 1), (30, 2)), 1),  # far outside on one side
    ((1, 9, 9, 17), (13, 13), (1, 1), (1, 1), "same", 1),  # hardly more channels than the widest vector has lanes
    ((1, 3, 4, 40), (9, 9), (1, 1), (1, 1), "same", 1),  # narrower than the window
    ((1, 9, 23, 16), (31, 1), (1, 1), (1, 1), ((11, 11), (14, 5)), 1),  # one column, and outputs that see none
    ((1, 20, 31, 16), (3, 40), (1, 1), (1, 1), ((1, 1), (20, 20)), 1),
    ((1, 7, 30, 16), (9, 9), (3, 5), (1, 1), "same", 1),  # neighbours share nothing
    ((2, 12, 29, 19), (9, 9), (1, 1), (1, 1), "same", 3),
    ((1, 12, 29, 19), (9, 9), (2, 2), (1, 1), "same", 2),
    ((2, 1, 331, 80), (1, 90), (1, 1), (1, 1), ((0, 0), (89, 0)), 1),  # threads have stretches
    ((1, 1, 331, 16), (1, 90), (1, 2), (1, 1), ((0, 0), (89, 0)), 1),
    # tiles of four rows: of phases, of four rows of taps, where outputs see none, of three columns, at stride 2
    ((1, 11, 47, 40), (9, 12), (1, 1), (1, 2), "same", 1),
    ((2, 13, 29, 19), (4, 21), (1, 1), (1, 1), ((3, 2), (11, 9)), 1),
    ((1, 8, 9, 20), (13, 14), (1, 1), (1, 1), ((17, 16), (20, 25)), 1),
    ((1, 9, 3, 17), (9, 11), (1, 1), (1, 1), ((4, 4), (9, 8)), 1),
    ((1, 9, 40, 33), (8, 10), (1, 2), (1, 2), "same", 1),
    ((1, 9, 40, 33), (8, 11), (1, 2), (1, 6), "same", 1),
]


@pytest.mark.parametrize("number", range(len(STRIPS)))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_strips_in_pieces(dtype: type, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of whole rows, and of a few columns and channels where the cache is small."""
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    image, window, stride, dilation, padding, multiplier = STRIPS[number]
    case = Case("depthwise", image, image[3] * multiplier, window, stride, dilation, padding=padding)
    kernel = next(k for k in dispatch.kernels(dtype, "cython") if k.label == "strips")
    columns = []
    for l2 in 4096, 1 << 20:
        monkeypatch.setattr(runtime, "cache_sizes", lambda l2=l2: runtime.Memory(2048, l2, 1 << 23))
        for threads, activation in (1, "silu"), (2, "relu"):
            result = compute(kernel, case, "integers", activation, True, True, threads)
            right = expected(case, dtype, "integers", activation, True, True)
            if activation == "relu":
                np.testing.assert_array_equal(result, right)
            else:
                np.testing.assert_allclose(result, right, rtol=1e-5, atol=1e-5)
        prepared = kernel.prepare(case.geometry, *make_data(case, dtype, "integers").kernel_weights())
        columns.append(int(prepared.plan["block_columns"][0]))
    assert columns[0] <= columns[1] and columns[1] >= case.geometry.out_width


def test_copies_of_far_dilated_windows_are_small() -> None:
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    case = Case("depthwise", (1, 14, 14, 32), 32, (9, 9), dilation=(10**7, 10**7))
    kernel = next(k for k in dispatch.kernels(np.float32, "cython") if k.label == "strips")
    prepared = kernel.prepare(case.geometry, *make_data(case, np.float32, "integers").kernel_weights())
    assert prepared._scratch < 1 << 20
    np.testing.assert_array_equal(compute(kernel, case, "integers"), expected(case, np.float32, "integers"))
    case = Case("depthwise", (1, 14, 14, 3), 12, (3, 3), dilation=(10**7, 10**7), padding="same")
    kernel = dispatch.choose(case.geometry, np.float32, 1, "cython")
    prepared = kernel.prepare(case.geometry, *make_data(case, np.float32, "integers").kernel_weights())
    assert kernel.label == "repeated" and prepared._scratch < 1 << 20
    np.testing.assert_array_equal(compute(kernel, case, "integers"), expected(case, np.float32, "integers"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pairs_of_vectors_in_pieces(dtype: type) -> None:
    """Tiles of two vectors at a time, forced: of odd numbers of blocks, and of one that slides back, single vectors."""
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5, *[ctypes.c_int64] * 4)
    lanes = next(k for k in dispatch.kernels(dtype, "cython") if k.op == "depthwise" and k.window[0] == 3).lanes
    for channels in (lanes, 3 * lanes, 4 * lanes, 2 * lanes - 1, 4 * lanes - 1):
        case = Case("depthwise", (1, 11, 23, channels), channels, (3, 3), (2, 2), padding="same")
        kernel = dispatch.choose(case.geometry, dtype, 1, "cython")
        data = make_data(case, dtype, "normal")
        prepared = kernel.prepare(case.geometry, *data.kernel_weights())
        right = np.empty(case.geometry.out_shape, dtype)
        prepared.run(data.x, None, right, 1)
        prepared.plan["tile_columns"] = HALF_COLUMNS
        cuts = [0, 1, 2, 3] if channels % lanes == 0 else [0, 2]  # a block that slides back has its neighbour
        for step in 0, 1, 2, 3, 8:
            prepared.plan["block_channels"] = step
            out = np.full_like(right, np.nan)
            bounds = [cut for cut in cuts if cut < prepared.blocks] + [prepared.blocks]
            for begin, end in reversed(list(pairwise(bounds))):  # so that nothing hides what is written beyond the end
                call(prepared._address)(
                    prepared.plan.ctypes.data, data.x.ctypes.data, None, out.ctypes.data, None, 0, right.shape[1],
                    begin, end,
                )  # fmt: skip
            np.testing.assert_array_equal(out, right, f"{case}, passes of {step}")
