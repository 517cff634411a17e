"""The window of expanded rows of a fused inverted residual: it slides down the image, as a ring where it can."""

from __future__ import annotations

import numpy as np
import pytest
from cases import Case, make_data
from test_kernels import compute, expected

from dwcpu import arrays, dispatch, fused, runtime
from dwcpu.abi import HALF_COLUMNS

pytestmark = pytest.mark.usefixtures("guarded_scratch", "share_even_the_smallest_work")


@pytest.mark.parametrize("backend", ["numba", "cython"])
@pytest.mark.parametrize("threads", [1, 2])
def test_window_of_expanded_rows_slides(backend: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of few rows: rows that the next block needs too are kept, skipped ones are not expanded."""
    if backend == "cython" and runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(2048, 8192, 1 << 20))
    kernel = next(k for k in dispatch.kernels("float32", backend) if k.op == "inverted_residual" and k.label == "fused")
    for window, stride, padding in (
        ((3, 3), (1, 1), "same"),
        ((3, 3), (2, 2), ((0, 1), (0, 1))),
        ((7, 3), (1, 1), ((3, 3), (0, 2))),  # windows overlap over several blocks
        ((3, 3), (5, 1), ((1, 0), (1, 1))),  # rows between windows are never needed
        ((5, 1), (2, 1), ((6, 7), (0, 0))),  # blocks that lie in the padding altogether
    ):
        case = Case("inverted_residual", (2, 43, 9, 6), 10, window, stride, padding=padding)
        result = compute(kernel, case, "integers", "relu", True, True, threads)
        np.testing.assert_array_equal(result, expected(case, np.float32, "integers", "relu", True, True), str(case))
        prepared = kernel.prepare(case.geometry, *make_data(case, np.float32, "integers").kernel_weights())
        assert prepared._block_rows <= case.geometry.out_shape[1] // 2, f"{case}: nothing slides"


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_window_of_expanded_rows_is_a_ring(size: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that the next block needs too stay where they are, in a window within its share of L2."""
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    l2 = 96 << 10
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(4096, l2, 1 << 20))
    fused = [k for k in dispatch.kernels("float32", "cython") if k.label == "fused"]
    kernel = next(k for k in fused if k.op == "inverted_residual")
    for padding, dilation in (
        ("same", (1, 1)),
        (((0, 0), (0, 0)), (1, 1)),
        (((size, 1), (1, 0)), (1, 3)),
        ("same", (2, 1)),
    ):
        case = Case(
            "inverted_residual",
            (2, 57, 30, 6),
            10,
            (size, size),
            (stride, stride),
            dilation,
            padding=padding,
            expanded=17,
        )
        prepared = kernel.prepare(case.geometry, *make_data(case, np.float32, "integers").kernel_weights())
        rows, reach = prepared._block_rows, (size - 1) * dilation[0] + 1
        assert rows < case.geometry.out_shape[1]
        own = prepared._scratch - prepared.separable.depthwise._scratch  # the rest is for copies of a window's inputs
        assert own <= (0.65 if dilation[0] == 1 else 0.75) * l2 + 128
        assert not prepared.separable.depthwise.plan["block_rows"][0]
        ring = (rows - 1) * stride + reach if dilation[0] == 1 else 0  # dilated rows are no neighbours
        assert prepared.plan["ring_rows"][0] == prepared.separable._stretches["ring_rows"][0] == ring
        for threads in 1, 2, 3:
            result = compute(kernel, case, "integers", "relu", True, True, threads)
            np.testing.assert_array_equal(result, expected(case, np.float32, "integers", "relu", True, True), str(case))


def test_rings_with_pairs_and_windows_with_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expanded pixels that crowd the L1 cache: tiles of two vectors do not wrap, and who copies has no ring."""
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(32 << 10, 300_000, 4 << 20))
    fused = [k for k in dispatch.kernels("float32", "cython") if k.label == "fused"]
    kernel = next(k for k in fused if k.op == "inverted_residual")
    seen = set()
    for size, stride, width, expanded in ((3, 2, 32, 256), (3, 2, 64, 128), (3, 2, 33, 256), (5, 1, 16, 512)):
        case = Case("inverted_residual", (2, 33, width, 8), 8, (size, size), (stride, stride), expanded=expanded)
        prepared = kernel.prepare(case.geometry, *make_data(case, np.float32, "integers").kernel_weights())
        plan = prepared.separable.depthwise.plan[0]
        assert prepared._block_rows < case.geometry.out_shape[1]
        assert not (plan["ring_rows"] and plan["copy_rows"])
        seen.add((bool(plan["ring_rows"]), bool(plan["copy_rows"]), plan["tile_columns"] == HALF_COLUMNS))
        for threads in 1, 2, 3:
            result = compute(kernel, case, "integers", "relu", True, True, threads)
            np.testing.assert_array_equal(result, expected(case, np.float32, "integers", "relu", True, True), str(case))
    if kernel.lanes == 8:  # as wide as half a cache line
        assert {(True, False, True), (False, True, False)} <= seen


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 2), (7, 1)])
def test_windows_of_one_panel_after_the_other(
    dtype: str, size: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of wide images and whole panels: rings of their own, from which a tile's rows, some or a block's are computed."""
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    fused = [k for k in dispatch.kernels(dtype, "cython") if k.label == "fused"]
    kernel = next(k for k in fused if k.op == "inverted_residual")
    product = next(k for k in dispatch.kernels(dtype, "cython") if k.op == "pointwise")
    monkeypatch.setattr(runtime, "large_core", lambda: False)  # whose blocks are small
    panel = product.lanes * product.tile_columns
    if panel * kernel.dtype.itemsize < arrays.LINE:
        pytest.skip("a panel is less than a cache line")
    pixel = 3 * panel * kernel.dtype.itemsize
    seen = set()
    for width, held, padding in (
        (100, 1, "same"),
        (97, 9, ((size, 1), (0, size // 2))),
        (99, 90, ((0, 0), (0, 0))),
    ):
        caches = runtime.Memory(held * 100 * pixel // 3, 40 * 100 * pixel, 1 << 24)
        monkeypatch.setattr(runtime, "cache_sizes", lambda caches=caches: caches)
        case = Case(
            "inverted_residual", (2, 61, width, 5), 9, (size, size), (stride, stride), padding=padding,
            expanded=3 * panel,
        )  # fmt: skip
        data = make_data(case, kernel.dtype.type, "integers")
        prepared = kernel.prepare(case.geometry, *data.kernel_weights())
        rows, block = int(prepared.plan["panel_rows"][0]), prepared._block_rows
        assert rows > 0
        assert block < case.geometry.out_shape[1]
        tile = prepared.separable.depthwise.kernel.tile_rows
        seen.add("a tile's" if rows == tile else "some" if rows < block else "a block's")
        right = expected(case, kernel.dtype, "integers", "relu", True, True)
        for threads in 1, 2, 3:
            result = compute(kernel, case, "integers", "relu", True, True, threads)
            np.testing.assert_array_equal(result, right, str(case))
        gaps = prepared.stepped(5 + 3, 9 + 4)
        if gaps is None:  # products of more outputs read copies
            assert 3 * panel > 128
            continue
        x, out = (
            np.full((*shape[:3], shape[3] + gap), 7, dtype) for shape, gap in ((data.x.shape, 3), (right.shape, 4))
        )
        x[..., :5] = data.x
        gaps.run(x, None, out, 2)
        assert (out[..., 9:] == 7).all()
        np.testing.assert_array_equal(out[..., :9], expected(case, kernel.dtype, "integers", None, True, False))
    assert {"a tile's", "a block's"} <= seen and ("some" in seen or size > 3)
    narrow = Case("inverted_residual", (1, 41, 95 // stride, 5), 9, (size, size), (stride, stride), expanded=3 * panel)
    odd = Case("inverted_residual", (1, 41, 99, 5), 9, (size, size), (stride, stride), expanded=3 * panel + 1)
    single = Case("inverted_residual", (1, 41, 99, 5), 9, (size, size), (stride, stride), expanded=panel)
    apart = Case("inverted_residual", (1, 41, 99, 5), 9, (size, size), (stride, stride), (2, 1), expanded=3 * panel)
    # a tile's rows of the intermediate are more than L2 should hold: parts of its width, one after the other
    parts = Case("inverted_residual", (1, 41, 99, 5), 9, (size, size), (stride, stride), expanded=3 * panel)
    for case, l2 in (narrow, 1 << 20), (odd, 1 << 20), (single, 1 << 20), (apart, 1 << 20), (parts, 30 * pixel):
        caches = runtime.Memory(1024, l2, 1 << 24)
        monkeypatch.setattr(runtime, "cache_sizes", lambda caches=caches: caches)
        prepared = kernel.prepare(case.geometry, *make_data(case, kernel.dtype.type, "integers").kernel_weights())
        assert prepared.plan["panel_rows"][0] == 0
        assert (len(prepared.separable._stretches) > 1) == (case is parts)
        result = compute(kernel, case, "integers", "relu", True, True, 2)
        np.testing.assert_array_equal(result, expected(case, kernel.dtype, "integers", "relu", True, True), str(case))


def test_panels_wait_for_room_behind_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the separable part has room for bounds a block of panels, too, however the shares of L2 are chosen."""
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    fused_kernels = [k for k in dispatch.kernels("float32", "cython") if k.label == "fused"]
    kernel = next(k for k in fused_kernels if k.op == "inverted_residual")
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(1 << 15, 1 << 20, 1 << 24))
    monkeypatch.setattr(runtime, "large_core", lambda: False)  # whose blocks are small
    case = Case("inverted_residual", (1, 61, 99, 5), 9, (3, 3), (2, 2), padding="same", expanded=96)
    panels = []
    for share in fused.L2_SHARE, 0.04:
        monkeypatch.setattr(fused, "L2_SHARE", share)
        prepared = kernel.prepare(case.geometry, *make_data(case, np.float32, "integers").kernel_weights())
        panels.append(bool(prepared.plan["panel_rows"][0]))
        result = compute(kernel, case, "integers", "relu", True, True, 1)
        np.testing.assert_array_equal(result, expected(case, np.float32, "integers", "relu", True, True))
    assert panels == [True, False]


@pytest.mark.parametrize(("size", "small"), [(56, True), (14, False)])
def test_blocks_of_large_cores_are_small_where_there_are_several(
    size: int, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a ring: an image in one block is left so."""
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    fused_kernels = [k for k in dispatch.kernels("float32", "cython") if k.label == "fused"]
    kernel = next(k for k in fused_kernels if k.op == "inverted_residual")
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(48 << 10, 2 << 20, 32 << 20))
    case = Case("inverted_residual", (1, size, size, 24), 24, (3, 3), padding="same", expanded=144)
    rows = {}
    for large in False, True:
        monkeypatch.setattr(runtime, "large_core", lambda large=large: large)
        prepared = kernel.prepare(case.geometry, *make_data(case, np.float32, "integers").kernel_weights())
        assert prepared.plan["ring_rows"][0] == prepared._block_rows + 2
        rows[large] = prepared._block_rows
        result = compute(kernel, case, "integers", "relu", True, True, 2)
        np.testing.assert_array_equal(result, expected(case, np.float32, "integers", "relu", True, True))
    assert (2 * rows[True] < rows[False] < size) if small else (rows[True] == rows[False] == size)
