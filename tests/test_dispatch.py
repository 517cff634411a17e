"""The table and the choice: names say what kernels are, and which shape runs on which kernel is pinned."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from cases import Case, make_data

import dwcpu
from dwcpu import abi, choices, dispatch, explanations, runtime
from dwcpu.epilogue import Activation
from dwcpu.fused_geometry import InvertedResidualGeometry, SeparableGeometry
from dwcpu.geometry import ConvGeometry
from dwcpu.grid import cut, grid_of

NAME = re.compile(r"(depthwise|pointwise|conv|separable|inverted_residual)_f(32|64)(_[a-z0-9]+)*__(numba|cython|mixed)")


def test_names_are_unique_and_well_formed() -> None:
    names = dwcpu.list_kernels()
    assert len(names) == len(set(names))
    assert all(NAME.fullmatch(name) for name in names), names


def depthwise(
    size: int, channels: int, window: int | tuple[int, int], stride: int = 1, multiplier: int = 1, **options: object
) -> ConvGeometry:
    kernel_h, kernel_w = (window, window) if isinstance(window, int) else window
    options = {"padding": "same", **options}
    return ConvGeometry.depthwise(
        (1, size, size, channels), (kernel_h, kernel_w, channels, multiplier), stride=stride, **options
    )


#: Whether compiled vectors are of 64 bytes: tiles of few channels have four rows then.
WIDE = any(kernel.label == "flat" and kernel.tile_rows > 2 for kernel in dispatch.kernels(np.float32, "cython"))
#: Shape -> label of the kernel, and the family where both are there; the tile follows from the machine.
PINNED = {
    "3x3": (depthwise(56, 128, 3), "depthwise_f32_3x3s1_", "cython"),
    "3x3 stride 2": (depthwise(56, 128, 3, 2), "depthwise_f32_3x3s2_", "cython"),
    "5x5": (depthwise(28, 240, 5), "depthwise_f32_5x5s1_", "cython"),
    "5x5 stride 2": (depthwise(28, 240, 5, 2), "depthwise_f32_5x5s2_", "cython"),
    "7x7": (depthwise(14, 384, 7), "depthwise_f32_7x7s1_", "cython"),
    "dilated like undilated": (depthwise(56, 128, 3, dilation=2), "depthwise_f32_3x3s1_", "cython"),
    "stride shared with dilation": (depthwise(56, 128, 3, 2, dilation=2), "depthwise_f32_3x3s1_", "cython"),
    "4x4": (depthwise(56, 128, 4), "depthwise_f32_small_", "numba"),
    "11x11": (depthwise(56, 96, 11), "depthwise_f32_strips_", "cython"),
    "11x11 stride 2, several outputs a channel": (depthwise(56, 96, 11, 2, 3), "depthwise_f32_strips_", "cython"),
    "11x11 stride 3": (depthwise(56, 96, 11, 3), "depthwise_f32_strips_", "cython"),
    "11x11 stride 4": (depthwise(56, 96, 11, 4), "depthwise_f32_any_", "cython"),
    "11x11 on 4x4": (depthwise(4, 96, 11), "depthwise_f32_any_", "cython"),
    "11x11 far apart": (depthwise(56, 96, 11, dilation=20), "depthwise_f32_any_", "cython"),
    "8x8": (depthwise(56, 96, 8), "depthwise_f32_strips_" if WIDE else "depthwise_f32_any_", "cython"),
    "8x8 dilated along rows": (
        depthwise(56, 96, 8, dilation=(1, 4)), "depthwise_f32_strips_" if WIDE else "depthwise_f32_any_", "cython"
    ),
    "8x8 dilated along rows, narrow": (depthwise(12, 96, 8, dilation=(1, 4)), "depthwise_f32_any_", "cython"),
    "8x8 stride 2": (depthwise(56, 96, 8, 2), "depthwise_f32_any_", "cython"),
    "3x17": (depthwise(56, 96, (3, 17)), "depthwise_f32_any_", "cython"),
    "11x11 of few channels": (depthwise(56, 3, 11), "depthwise_f32_flat_", "cython"),
    "a long line of few channels": (depthwise(200, 3, (1, 90)), "depthwise_f32_flat_", "cython"),
    "11x11 of few channels, stride 2": (depthwise(56, 3, 11, 2), "depthwise_f32_any_", "cython"),
    "3x3 of one channel, dilated": (depthwise(56, 1, 3, dilation=2), "depthwise_f32_flat_", "cython"),
    "11x11 of few channels, two outputs each": (depthwise(56, 4, 11, 1, 2), "depthwise_f32_repeated_", "cython"),
    "a window of one row": (depthwise(56, 96, (1, 5)), "depthwise_f32_small_", "numba"),
    "a window of one long row": (depthwise(56, 96, (1, 15)), "depthwise_f32_line_1x8v", "numba"),
    "a window of one row, few rows": (depthwise(7, 96, (1, 5)), "depthwise_f32_line_1x8v", "numba"),
    "a window of one row, crowded": (depthwise(56, 256, (1, 5)), "depthwise_f32_line_1x8v", "numba"),
    "a signal": (ConvGeometry.depthwise((1, 1, 500, 96), (1, 5, 96, 1)), "depthwise_f32_line_1x8v", "numba"),
    "pointwise": (ConvGeometry.pointwise((1, 7, 7, 64), (64, 64)), "pointwise_f32_", "cython"),
    "stem": (ConvGeometry.conv((1, 224, 224, 3), (3, 3, 3, 32), stride=2), "conv_f32_", "cython"),
    "conv of one channel a group": (
        ConvGeometry.conv((1, 20, 20, 32), (3, 3, 1, 32), groups=32), "depthwise_f32_3x3s1_", "cython"
    ),
    "conv of one tap": (ConvGeometry.conv((1, 20, 20, 32), (1, 1, 32, 8)), "pointwise_f32_", "cython"),
    "two outputs a channel": (depthwise(28, 32, 3, multiplier=2), "depthwise_f32_several_", "numba"),
    "six outputs of few channels": (depthwise(112, 3, 3, 1, 6), "depthwise_f32_repeated_", "cython"),
    "eight outputs a channel": (depthwise(28, 3, 3, multiplier=8), "depthwise_f32_spread_", "numba"),
    "many outputs a channel": (depthwise(28, 32, 3, multiplier=9), "conv_f32_", "cython"),
    "one channel, many outputs": (ConvGeometry.conv((1, 64, 64, 1), (3, 3, 1, 32)),
        "conv_f32_", "cython",
    ),
    "three channels": (depthwise(224, 3, 3), "depthwise_f32_flat", "cython" if WIDE else "numba"),
    "three channels, a column": (depthwise(224, 3, (9, 1)), "depthwise_f32_flat3_", "numba"),
    "three channels, a row": (depthwise(224, 3, (1, 9)), "depthwise_f32_flat3_", "numba"),
    "twelve channels, narrow": (depthwise(9, 12, 3), "depthwise_f32_small_" if WIDE else "depthwise_f32_3x3s1_",
        "numba" if WIDE else "cython",
    ),
    "twenty channels": (depthwise(56, 20, 5), "depthwise_f32_flat_" if WIDE else "depthwise_f32_5x5s1_", "cython"),
    "twenty channels, narrow": (depthwise(20, 20, 5), "depthwise_f32_5x5s1_", "cython"),
    "three channels, narrow": (depthwise(9, 3, 3), "depthwise_f32_flat_", "cython"),
    "three channels, stride 2": (depthwise(224, 3, 3, 2), "depthwise_f32_flat3_", "numba"),
    "three channels, stride 4": (depthwise(224, 3, 3, 4), "depthwise_f32_small_", "numba"),
    "three channels, stride 2, 7x7": (depthwise(224, 3, 7, 2), "depthwise_f32_small_", "numba"),
    "eight outputs of few channels": (depthwise(112, 3, 3, multiplier=8), "depthwise_f32_spread_", "numba"),
    "separable": (
        SeparableGeometry.of((1, 56, 56, 64), (3, 3, 64), (64, 64), padding=1), "separable_f32_fused_", "cython"
    ),
    "separable of few channels, six outputs each": (
        SeparableGeometry.of((1, 112, 112, 3), (3, 3, 3, 6), (18, 32), padding=1), "separable_f32_split_", "cython"
    ),
    "inverted residual": (
        InvertedResidualGeometry.of((1, 56, 56, 24), (24, 144), (3, 3, 144), (144, 24), padding=1),
        "inverted_residual_f32_fused_", "cython",
    ),
    "separable 4x4": (
        SeparableGeometry.of((1, 56, 56, 64), (4, 4, 64), (64, 64), padding="same"), "separable_f32_fused_", "mixed"
    ),
    "inverted residual 2x2": (
        InvertedResidualGeometry.of((1, 56, 56, 24), (24, 144), (2, 2, 144), (144, 24), padding="same"),
        "inverted_residual_f32_fused_", "mixed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PINNED)
def test_shape_to_kernel(name: str) -> None:
    geometry, label, family = PINNED[name]
    chosen = dispatch.choose(geometry, np.float32, 1)
    assert (chosen.name + "_").startswith(label)
    compiled = runtime.cython_kernels()
    if compiled is not None:
        assert chosen.backend == ("numba" if family == "mixed" and not compiled.fused() else family)


def test_rows_whose_places_are_no_32_bits() -> None:
    """With their padding: vectors that run on from pixel to pixel would take them for places in the image."""
    flat = [kernel for kernel in dispatch.kernels() if kernel.label == "flat"]
    for before, after, fits in ((2**28, 2**28, True), (2**30 - 60, 0, False), (0, 2**31 - 1, False)):
        geometry = ConvGeometry.depthwise((1, 1, 64, 1), (1, 3, 1, 1), padding=((0, 0), (before, after)))
        for kernel in flat:
            assert kernel.supports(geometry) == fits, (kernel.name, before, after)
        assert fits or dispatch.choose(geometry, np.float32, 1).label != "flat"


def test_windows_of_numba_in_what_is_compiled() -> None:
    """The rest of a fused operation is compiled ahead of time, in one pass or several; who asks for it has no Numba."""
    compiled = runtime.cython_kernels()
    if compiled is None or not compiled.fused():
        pytest.skip("results would depend on who computes the window")
    geometry = SeparableGeometry.of((1, 9, 9, 40), (4, 4, 40), (40, 24), padding="same")
    weights = [(np.zeros(shape, np.float32), None, Activation()) for shape in ((4, 4, 40, 1), (40, 24))]
    parts = {}
    for kernel in dispatch.kernels(np.float32):
        if kernel.op == "separable":
            prepared = kernel.prepare(geometry, weights)
            steps = prepared.parts if kernel.label == "split" else (prepared.depthwise, prepared.pointwise)
            parts[kernel.label, kernel.backend] = tuple(step.kernel.backend for step in steps)
            explained = explanations.explain(geometry, np.float32, 1, kernel.name)
            assert explained.reason.endswith(f"the depthwise step is that of {steps[0].kernel.name}")
    for way in ("fused", "split"):
        assert parts[way, "mixed"] == ("numba", "cython")
        assert parts[way, "cython"] == ("cython", "cython")
        assert parts[way, "numba"] == ("numba", "numba")


def test_what_was_measured_of_a_product_is_no_part_of_what_is_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = runtime.cython_kernels()
    if compiled is None or not compiled.fused():
        pytest.skip("there is nothing mixed")
    (product,) = (k.name for k in dispatch.kernels(np.float32, "numba") if k.op == "pointwise")
    monkeypatch.setattr(choices, "find", lambda geometry, *_: product if geometry.op == "pointwise" else None)
    geometry = SeparableGeometry.of((1, 9, 9, 40), (4, 4, 40), (40, 24), padding="same")
    assert dispatch.choose(geometry.pointwise, np.float32, 1).name == product
    weights = [(np.zeros(shape, np.float32), None, Activation()) for shape in ((4, 4, 40, 1), (40, 24))]
    prepared = dispatch.choose(geometry, np.float32, 1).prepare(geometry, weights)
    assert prepared.pointwise.kernel.backend == "cython"


def test_inverted_residuals_with_more_weights_than_stay_in_cache_run_as_three_passes() -> None:
    def block(size: int, channels: int) -> InvertedResidualGeometry:
        middle = 6 * channels
        shapes = (1, size, size, channels), (channels, middle), (3, 3, middle), (middle, channels)
        return InvertedResidualGeometry.of(*shapes, padding=1)

    l2 = runtime.cache_sizes().l2
    channels = int((l2 / 4 / 24) ** 0.5) // 16 * 16  # weights are at most half of L2
    assert "_fused_" in dispatch.choose(block(7, channels), np.float32, 1).name
    assert "_split_" in dispatch.choose(block(7, 2 * channels), np.float32, 1).name
    assert "_fused_" in dispatch.choose(block(112, 2 * channels), np.float32, 1).name


def test_an_inverted_residual_expands_all_rows_of_a_block_in_one() -> None:
    geometry = InvertedResidualGeometry.of((1, 56, 56, 24), (24, 144), (3, 3, 144), (144, 24), padding=1)
    for kernel in (k for k in dispatch.kernels("float32") if k.op == "inverted_residual" and k.label == "fused"):
        parts = tuple((np.zeros(part.w_shape, np.float32), None, Activation()) for part in geometry.parts)
        prepared = kernel.prepare(geometry, parts)
        assert prepared.expand.plan["block_rows"][0] >= min(56, prepared._block_rows + 2) * 56
        assert prepared.expand.plan["asks_out"][0] == 0  # what it writes to is in L2


@pytest.mark.parametrize(("dilation", "rows"), [(1, 6), (2, 4), (6, 12), (12, 24), (40, 6)])
def test_blocks_of_dilated_windows_have_whole_tiles(dilation: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(32 << 10, 512 << 10, 32 << 20))
    monkeypatch.setattr(runtime, "large_core", lambda: False)
    shapes = (1, 33, 33, 256), (3, 3, 256), (256, 256)
    geometry = SeparableGeometry.of(*shapes, padding=dilation, dilation=dilation)
    kernel = next(k for k in dispatch.kernels("float32", "numba") if k.op == "separable" and k.label == "fused")
    parts = [(np.zeros(part.w_shape, np.float32), None, Activation()) for part in geometry.parts]
    assert kernel.prepare(geometry, tuple(parts))._block_rows == rows


def test_few_rows_on_several_threads_run_as_two_passes() -> None:
    geometry = SeparableGeometry.of((1, 7, 7, 1024), (3, 3, 1024), (1024, 1024), padding=1)
    assert "_fused_" in dispatch.choose(geometry, np.float32, 1).name
    assert "_split_" in dispatch.choose(geometry, np.float32, 2).name


def test_choice_does_not_depend_on_earlier_choices() -> None:
    geometry = depthwise(56, 128, 3)
    assert dispatch.choose(geometry, np.float32, 1) is dispatch.choose(geometry, "float32", 1)


def test_a_kernel_by_name() -> None:
    geometry = depthwise(12, 16, 3)
    for kernel in dispatch.kernels(np.float32):
        if kernel.supports(geometry):
            assert dispatch.choose(geometry, np.float32, 1, kernel.name) is kernel
    with pytest.raises(ValueError, match="does not compute"):
        dispatch.choose(geometry, np.float32, 1, next(k.name for k in dispatch.kernels("f4") if k.op == "pointwise"))


def test_every_depthwise_geometry_has_a_numba_kernel() -> None:
    for channels in range(1, 40):
        for window in (1, 2, 3, 8):
            assert dispatch.choose(depthwise(9, channels, window), np.float64, 1, "numba").op == "depthwise"


def test_explain() -> None:
    choice = dwcpu.DepthwiseConv2d(np.ones((3, 3, 64), np.float32), padding=1).explain((56, 56, 64))
    assert choice.flops == 2 * 64 * (3 * 56 - 2) ** 2
    assert choice.bytes == 4 * (2 * 56 * 56 * 64 + 9 * 64)
    assert 0 < choice.bound_us < 10_000
    assert choice.kernel in dwcpu.list_kernels()
    assert choice.kernel in str(choice)


def test_explain_says_what_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arithmetic, or the cache that holds all bytes of all threads."""
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(32 << 10, 1 << 20, 32 << 20))
    layer = dwcpu.DepthwiseConv2d(np.ones((3, 3, 64), np.float32), padding=1)
    sizes = ((4, 1, "L1"), (28, 1, "L2"), (56, 1, "L3"), (56, 2, "L2"), (500, 1, "memory"))
    for speed, limits in ((1e9, [limit for *_, limit in sizes]), (1e-9, ["arithmetic"] * len(sizes))):
        monkeypatch.setattr(runtime, "peak_of", lambda *_, speed=speed: speed)
        monkeypatch.setattr(runtime, "copy_bandwidth", lambda *_: 1.0)
        found = [layer.explain((size, size, 64), threads) for size, threads, _ in sizes]
        assert [choice.limit for choice in found] == limits
        assert all(f"by {limit}" in str(choice) for choice, limit in zip(found, limits, strict=True))


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("rows", [1, 2, 7, 14, 49, 112])
@pytest.mark.parametrize("granule", [1, 2, 6])
@pytest.mark.parametrize("blocks", [1, 3, 128])
def test_a_grid_covers_all_rows_and_no_more_threads_than_asked(
    threads: int, rows: int, granule: int, blocks: int
) -> None:
    for divisible in (False, True):
        grid = cut(rows, granule, blocks, threads, divisible)
        assert sum(grid.row_counts()) == rows
        assert max(grid.row_counts()) == grid.most_rows
        assert grid.tasks <= threads
        assert divisible or grid.block_parts == 1


def test_warmup_names_kernels() -> None:
    names: list[str] = []
    dwcpu.warmup(progress=names.append)
    assert set(names) <= set(dwcpu.list_kernels())
    with pytest.raises(TypeError, match="warmup: dtype is int64"):
        dwcpu.warmup(np.int64)


def test_small_work_stays_on_the_calling_thread() -> None:
    geometry = depthwise(4, 64, 3)
    prepared = dispatch.choose(geometry, np.float32, 8).prepare(geometry, np.ones((3, 3, 64, 1), np.float32))
    x, out = np.ones(geometry.x_shape, np.float32), np.empty(geometry.out_shape, np.float32)
    prepared.run(x, None, out, 8)
    assert prepared.grid(8).threads == 1


def test_cache_sizes_are_plausible() -> None:
    l1, l2, l3 = runtime.cache_sizes()
    assert 8 << 10 <= l1 <= l2 <= l3


def test_more_threads_than_work_is_cut_at_once() -> None:
    assert cut(10, 4, 3, 10**9, True).tasks <= 30


def test_rows_are_cut_finer_rather_than_leave_threads_idle() -> None:
    assert cut(8, 64, 1, 4, False).tasks == 4


@pytest.mark.parametrize(
    ("geometry", "parts"),
    [
        # 8 pixels are 6 and 2: the weights are shared instead
        (ConvGeometry.pointwise((8, 1, 1, 1024), (1024, 1000)), (1, 2)),
        # more weights than pixels
        (ConvGeometry.pointwise((1, 7, 7, 160), (160, 960)), (1, 2)),
        (ConvGeometry.pointwise((1, 56, 56, 24), (24, 144)), (2, 1)),
        # 4 rows and 3: better half of the channels each, but only where pixels are copied anyway
        (depthwise(7, 1024, 3), (1, 2)),
        (depthwise(7, 960, 3), (2, 1)),
        (depthwise(56, 128, 3), (2, 1)),
        # a single row: half of its length
        (ConvGeometry.depthwise((1, 1, 3072, 128), (1, 3, 128), padding=((0, 0), (32, 0)), dilation=(1, 16)), (2, 1)),
        (ConvGeometry.depthwise((1, 1, 90000, 1), (1, 9, 1), padding="same"), (2, 1)),
        # half of the seventh granule each
        (depthwise(14, 480, 3), (7, 2)),
    ],
)
def test_how_two_threads_share(geometry: ConvGeometry, parts: tuple[int, int]) -> None:
    kernel = dispatch.choose(geometry, np.float32, 2)
    grid = kernel.prepare(geometry, np.ones(geometry.w_shape, np.float32)).grid(2)
    assert (grid.row_parts, grid.block_parts) == parts
    assert grid.tasks == 2


@pytest.mark.parametrize(("pixels", "outputs"), [(49, 160), (100, 160), (49, 96), (36, 64), (21, 48), (49, 80)])
@pytest.mark.parametrize("family", ["numba", "cython"])
def test_products_of_few_pixels_are_shared_evenly(pixels: int, outputs: int, family: str) -> None:
    """Whether by panels, whole tiles or parts of tiles depends on their sizes."""
    if family == "cython" and runtime.cython_kernels() is None:
        pytest.skip("there are no compiled kernels")
    geometry = ConvGeometry.pointwise((1, pixels, 1, 480), (480, outputs))
    kernel = dispatch.choose(geometry, np.float32, 2, family)
    grid = kernel.prepare(geometry, np.ones(geometry.w_shape, np.float32)).grid(2)
    assert grid.share(abi.panel_widths(outputs, kernel.lanes, kernel.tile_columns)) < 0.53


def test_rows_of_a_dilated_window_are_cut_in_half() -> None:
    geometry = ConvGeometry.depthwise((1, 28, 28, 256), (3, 3, 256), padding=4, dilation=4)
    kernel = dispatch.choose(geometry, np.float32, 2)
    grid = kernel.prepare(geometry, np.ones((3, 3, 256, 1), np.float32)).grid(2)
    assert list(grid.row_counts()) == [14, 14]


@pytest.mark.parametrize(
    ("size", "threads", "rows"),
    [(14, 2, [7, 7]), (28, 2, [14, 14]), (10, 2, [5, 5]), (56, 4, [14] * 4), (13, 2, [6, 7])],
)
def test_rows_of_fused_kernels_are_shared_evenly(size: int, threads: int, rows: list[int]) -> None:
    """Half a tile of the window costs less than a thread that waits for the other's two rows."""
    case = Case("separable", (1, size, size, 128), 128, (3, 3))
    for kernel in dispatch.kernels(np.float32):
        if kernel.op == case.op and kernel.label == "fused":
            prepared = kernel.prepare(case.geometry, *make_data(case, np.float32, "normal").kernel_weights())
            assert sorted(prepared.grid(threads).row_counts()) == rows, kernel.name


@pytest.mark.parametrize(
    ("size", "channels", "threads", "ways", "label"),
    [
        (14, 256, 2, 8, "fused"),
        (28, 256, 2, 8, "fused"),
        (7, 256, 2, 8, "split"),  # rows shared as 4 and 3
        (7, 256, 2, 12, "fused"),  # of which a large core makes less
        (7, 1024, 2, 12, "split"),
        (7, 256, 7, 8, "fused"),
        (7, 96, 2, 8, "fused"),  # so little work that a pass of its own costs more
        (27, 640, 2, 8, "fused"),  # what is between would not stay in L2
        (1, 2048, 2, 8, "split"),  # a single row
    ],
)
def test_fused_kernels_run_where_rows_are_shared_evenly(
    size: int, channels: int, threads: int, ways: int, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(32 << 10, ways << 17, 32 << 20))
    monkeypatch.setattr(runtime, "l1_ways", lambda: ways)
    geometry = SeparableGeometry.of(
        (1, size, size, channels), (3, 3, channels, 1), (channels, channels), padding="same"
    )
    assert dispatch._choose_fused(geometry, np.dtype(np.float32), threads, "auto")[0].label == label


@pytest.mark.parametrize(
    ("size", "channels", "kernel", "label"),
    [(8, 32, 3, "fused"), (8, 80, 3, "split"), (14, 24, 3, "fused"), (14, 24, 5, "fused"), (14, 64, 5, "split")],
)
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_inverted_residuals_are_split_where_much_would_be_expanded_twice(
    size: int, channels: int, kernel: int, label: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two images each of two threads has one; three are as one, with more to do."""
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(32 << 10, 1 << 20, 32 << 20))
    monkeypatch.setattr(runtime, "l1_ways", lambda: 8)
    wide = 3 * channels
    shapes = (channels, wide), (kernel, kernel, wide), (wide, channels)
    geometry = InvertedResidualGeometry.of((batch, size, size, channels), *shapes, padding="same")
    chosen, reason = dispatch._choose_fused(geometry, np.dtype(np.float32), 2, "auto")
    assert chosen.label == ("fused" if batch == 2 else label)
    assert ("twice" in reason) == (chosen.label == "split")


@pytest.mark.parametrize(("channels", "label"), [(64, "fused"), (160, "split")])
def test_inverted_residuals_on_large_cores(channels: int, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of its own costs as much time there as more work."""
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(48 << 10, 2 << 20, 32 << 20))
    monkeypatch.setattr(runtime, "l1_ways", lambda: 12)
    shapes = (channels, 6 * channels), (3, 3, 6 * channels), (6 * channels, channels)
    geometry = InvertedResidualGeometry.of((1, 7, 7, channels), *shapes, padding="same")
    assert dispatch._choose_fused(geometry, np.dtype(np.float32), 2, "auto")[0].label == label


@pytest.mark.parametrize(
    ("size", "channels", "threads", "label"),
    [
        (19, 728, 2, "fused"),
        (15, 728, 2, "fused"),
        (7, 1024, 2, "split"),
        (13, 512, 2, "split"),
        (7, 1024, 7, "split"),  # a row each, and yet all weights
        (19, 728, 4, "fused"),
        (19, 728, 16, "split"),
    ],
)
def test_separable_convolutions_on_large_cores(
    size: int, channels: int, threads: int, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of their own cost more where L2 does not hold the weights: they have to share much more evenly."""
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(48 << 10, 2 << 20, 32 << 20))
    monkeypatch.setattr(runtime, "l1_ways", lambda: 12)
    shapes = (1, size, size, channels), (3, 3, channels), (channels, channels)
    geometry = SeparableGeometry.of(*shapes, padding="same")
    assert dispatch._choose_fused(geometry, np.dtype(np.float32), threads, "auto")[0].label == label


@pytest.mark.parametrize(("size", "shared"), [(4, (1, False)), (7, (2, False)), (28, (2, True))])
def test_small_work_is_shared_but_wakes_nobody(size: int, shared: tuple[int, bool]) -> None:
    geometry = depthwise(size, 256, 5)
    prepared = dispatch.choose(geometry, np.float32, 2).prepare(geometry, np.ones((5, 5, 256, 1), np.float32))
    grid = prepared.grid(2)
    assert (grid.threads, grid.waking) == shared
    assert grid.arguments[-2:] == shared


@pytest.mark.skipif(runtime.cython_kernels() is None, reason="Numba's threads have no such rule")
def test_small_jobs_wait_for_threads_that_are_awake() -> None:
    """Of jobs that find nobody awake few wake somebody, and the next are shared then."""
    code = """
    import ctypes, threading, time
    from dwcpu import cython_kernels
    from dwcpu.grid import cut

    seen = []
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 9)
    kernel = signature(lambda *_: (seen.append(threading.get_ident()), time.sleep(1e-3)) and None)
    address = ctypes.cast(kernel, ctypes.c_void_p).value

    def helped(waking):
        seen.clear()
        cython_kernels.run(address, 0, 0, 0, 0, 0, *cut(2, 1, 1, 2, False)._replace(waking=waking).arguments)
        assert len(seen) == 2
        return len(set(seen)) == 2

    alone = [helped(False) for _ in range(15)]
    print(any(alone), helped(False) or any(helped(True) for _ in range(20)))
    time.sleep(0.3)  # the helper sleeps
    print(sum(helped(False) for _ in range(3)) < 3)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]


def test_long_signals_are_two_passes_on_several_threads() -> None:
    geometry = SeparableGeometry.of((1, 1, 20_000, 64), (1, 9, 64, 1), (64, 64), padding="same")
    assert [dispatch.choose(geometry, np.float32, threads).label for threads in (1, 2)] == ["fused", "split"]
    window = {"padding": ((0, 0), (4, 4))}
    residual = InvertedResidualGeometry.of((1, 1, 20_000, 16), (16, 64), (1, 9, 64, 1), (64, 16), **window)
    assert [dispatch.choose(residual, np.float32, threads).label for threads in (1, 2)] == ["fused", "split"]
    images = SeparableGeometry.of((2, 1, 20_000, 64), (1, 9, 64, 1), (64, 64), padding="same")
    assert dispatch.choose(images, np.float32, 2).label == "fused"


def test_two_passes_alone_are_shared_as_explain_says() -> None:
    """Although either of them would be, in a row of others."""
    layer = dwcpu.SeparableConv2d(np.ones((1, 3, 32), np.float32), np.ones((32, 128), np.float32), padding="same")
    geometry = SeparableGeometry.of((1, 1, 49, 32), (1, 3, 32, 1), (32, 128), padding="same")
    assert dispatch.choose(geometry, np.float32, 2).label == "split"
    assert layer.explain((1, 1, 49, 32), 2).threads == 1
    parts = [(np.ones(part.w_shape, np.float32), None, Activation()) for part in geometry.parts]
    prepared = dispatch.choose(geometry, np.float32, 2).prepare(geometry, parts)
    prepared.run(np.ones((1, 1, 49, 32), np.float32), None, np.empty((1, 1, 49, 128), np.float32), 2)
    assert [pipeline._team for pipeline in prepared._pipelines.values()] == [1]


@pytest.mark.parametrize(
    ("size", "inputs", "outputs", "threads", "parts"),
    [
        (14, 384, 1536, 2, (2, 1)),
        (7, 1024, 1024, 2, (1, 2)),
        (14, 192, 1568, 2, (2, 1)),  # 16 times as many as pixels of a thread
        (14, 192, 1600, 2, (1, 2)),
        (14, 512, 512, 8, (2, 4)),  # eleven panels, which eight threads share unevenly
    ],
)
def test_products_are_shared_by_pixels_unless_outputs_are_many_more(
    size: int, inputs: int, outputs: int, threads: int, parts: tuple[int, int]
) -> None:
    geometry = ConvGeometry.pointwise((1, size, size, inputs), (inputs, outputs))
    kernel = dispatch.choose(geometry, np.float32, threads)
    if kernel.lanes < 16 or kernel.tile_rows != 9:
        pytest.skip("tiles of 9 pixels and panels of 48 outputs are those of large cores with AVX-512")
    made = grid_of(kernel, geometry, threads)
    assert (made.row_parts, made.block_parts) == parts
