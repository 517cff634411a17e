"""Every kernel row x every case: right, the same bits as every other kernel, nothing read or written beyond the arrays.

Each test takes one row of the table and runs all cases that it supports: those around its tile, and the odd ones. All
arrays lie against pages that end the process when they are touched (`guarded`).
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import hypothesis
import numpy as np
import pytest
from cases import (
    FUSED,
    ODD_CASES,
    SUBNORMAL,
    Case,
    case_strategy,
    cases_for_tile,
    error_bound,
    expected,
    fused_error_bound,
    make_data,
)
from guarded import ENDS, guard_weights
from nightly import COMPILE_ONCE, is_nightly, reduced
from running import ROOM

from dwcpu import dispatch, runtime
from dwcpu.abi import flat_columns
from dwcpu.dispatch import Kernel
from dwcpu.epilogue import Activation, parse_activation
from dwcpu.geometry import ConvGeometry
from dwcpu.prepared import PreparedSingle

KERNELS = dispatch.kernels()
EVERY_KERNEL = pytest.mark.parametrize("kernel", [pytest.param(kernel, id=kernel.name) for kernel in KERNELS])

#: Every window, with its strides and outputs a channel, is compiled by Numba, half a second or more each. Where that
#: says little that other rows of the table have not said already, in float64, in fused operations and on narrower
#: vectors, a few do; `--nightly` asks for all.
QUICK_WINDOWS = ((1, 1), (3, 3))
QUICK_STRIDES = ((1, 1), (2, 2))
QUICK_MULTIPLIERS = (1, 2)
#: The code for several outputs a channel is the same around each window: one window is enough, and one stride of 1x1.
QUICK_WINDOW, QUICK_STRIDE = (3, 3), (1, 1)
#: Pixels of a few channels are several to a vector: other windows and strides for one number of channels.
QUICK_FLAT, MENU_OF_FLAT = 3, (((1, 1), (1, 1)), ((3, 3), (1, 1)), ((3, 3), (2, 2)))
#: Of the depthwise step of fused operations; 8 fill float32 vectors, which a row of the table compiles anyway.
QUICK_MULTIPLIERS_FUSED = {"float32": (1, 2, 8), "float64": (1,)}
#: Of matrix products in float64, whose tiles are those of float32, one case in so many, as their names fall.
QUICK_SHARE = 16

#: float32 lanes of the CPU's vectors: Numba's kernels of matrix products have no others.
WIDEST = max((kernel.lanes for kernel in KERNELS if kernel.backend == "numba" and kernel.op == "pointwise"), default=0)

pytestmark = pytest.mark.usefixtures("guarded_scratch", "share_even_the_smallest_work")


def takes(kernel: Kernel, case: Case) -> bool:
    """Whether the kernel is tested on the case; an empty batch never reaches a kernel (`test_layers` has it)."""
    said = kernel.dtype == np.float64 or case.op in FUSED or kernel.lanes < WIDEST
    reduced = said and kernel.backend != "cython" and not is_nightly()
    if reduced and kernel.window[:2] != case.window and case.window not in QUICK_WINDOWS:
        return False
    if reduced and case.op == "depthwise" and not kernel.layout:
        outputs = case.out_channels // case.x_shape[3]
        if case.stride not in QUICK_STRIDES or outputs not in QUICK_MULTIPLIERS:
            return False
        narrow = kernel.dtype == np.float64 and kernel.lanes < WIDEST // 2
        if narrow and (case.window, case.stride, outputs) != (QUICK_WINDOW, QUICK_STRIDE, 1):
            return False
        own = kernel.window[0] > 0 and outputs == 1
        quick = case.window == QUICK_WINDOW and (outputs == 1 or case.stride == QUICK_STRIDE)
        # the loops over taps are compiled once for all windows
        if kernel.most_taps and not (own or quick or (outputs == 1 and case.stride == QUICK_STRIDE)):
            return False
    if reduced and case.op in FUSED:
        if case.multiplier not in QUICK_MULTIPLIERS_FUSED[kernel.dtype.name]:
            return False
        # other strides and narrow vectors of float32 are compiled for rows of the depthwise table
        if kernel.dtype == np.float64 and (case.stride not in QUICK_STRIDES or case.x_shape[3] < kernel.lanes):
            return False
    if kernel.backend == "numba" and case.op == "depthwise" and not is_nightly():
        if not takes_multiplier(kernel, case):
            return False
        if kernel.layout == "flat" and case.x_shape[3] != QUICK_FLAT and (case.window, case.stride) not in MENU_OF_FLAT:
            return False
    if (
        reduced
        and case.op != "depthwise"
        and kernel.dtype == np.float64
        and zlib.crc32(str(case).encode()) % QUICK_SHARE
    ):
        return False
    return case.x_shape[0] > 0 and kernel.supports(case.geometry)


def takes_multiplier(kernel: Kernel, case: Case) -> bool:
    """Whether the code of a Numba kernel for several outputs a channel is compiled for a case by day."""
    outputs = case.out_channels // case.x_shape[3]
    if outputs == 1 or kernel.layout:
        return True
    if kernel.most_taps:
        return case.window == QUICK_WINDOW and (outputs in QUICK_MULTIPLIERS or case.stride == QUICK_STRIDE)
    return kernel.lanes == WIDEST or outputs in QUICK_MULTIPLIERS


@cache
def cases_of(kernel: Kernel) -> tuple[Case, ...]:
    """All cases that the kernel is tested on."""
    return tuple(dict.fromkeys(case for case in _candidates(kernel) if takes(kernel, case)))


def _candidates(kernel: Kernel) -> Iterator[Case]:
    rows, columns = kernel.tile_rows or 2, kernel.tile_columns or 4
    if kernel.op != "depthwise":
        columns *= kernel.lanes
    if kernel.layout == "flat" and kernel.most_taps:
        yield from _flat_cases(columns, kernel.channels[0])
    elif kernel.layout == "flat":
        for channels in sorted({1, 2, 3, kernel.lanes // 2, kernel.lanes - 1}):
            if channels < kernel.lanes:
                columns = flat_columns(channels, kernel.lanes)
                yield from _flat_cases_of_any_window(-(-kernel.lanes // channels), rows, channels)
                yield from _flat_cases_of_squares(columns, rows, channels)
                if 4 * channels <= 3 * kernel.lanes:
                    yield from _flat_cases_of_signals(columns, channels)
                x_shape = (1, 2 * rows + 3, columns + 13, channels)  # a tile in the middle of a row, a vector behind it
                yield Case("depthwise", x_shape, channels, (3, 9), padding=((1, 1), (2, 2)))
        for more, size in ((1, 3), (2, 5), (kernel.lanes // 4, 7), (1, 9)):  # more than a vector
            channels, width = kernel.lanes + more, 2 * kernel.lanes + 5
            yield Case("depthwise", (2, 2 * rows + size, width, channels), channels, (size, size), padding="same")
            yield Case("depthwise", (1, size + 3, width + 9, channels), channels, (size, 9), dilation=(1, 2))
    elif kernel.label == "repeated":
        for channels, outputs in ((1, 2), (3, 5), (kernel.lanes - 1, 3), (kernel.lanes, 4), (kernel.lanes + 2, 8)):
            yield from _repeated_cases(channels, outputs)
    elif kernel.window[0] and kernel.window[1]:
        window, stride = kernel.window[:2], kernel.window[2:]
        yield from cases_for_tile(kernel.op, rows, columns, kernel.lanes, window, stride)
        yield from cases_for_tile(kernel.op, rows, columns, kernel.lanes, window, stride, (2, 3))
    else:
        yield from cases_for_tile(kernel.op, rows, columns, kernel.lanes)
    yield from ODD_CASES[kernel.op]


def _flat_cases(columns: int, channels: int) -> Iterator[Case]:
    """Widths that hold one tile, with and without borders, that leave a remainder, and that hold several."""
    for width, pads in ((columns + 2, (0, 0)), (columns + 5, (1, 1)), (2 * columns + 7, (3, 0))):
        yield Case("depthwise", (2, 5, width, channels), channels, (3, 3), padding=((1, 1), pads))
    yield Case("depthwise", (1, 6, columns + 9, channels), channels, (2, 4), (2, 1), (3, 1), ((2, 1), (2, 2)))
    for stride, more, pads in ((2, 3, (0, 0)), (2, 2 * columns + 5, (1, 2)), (3, 4, (1, 1))):
        width = stride * columns + more
        yield Case("depthwise", (2, 5, width, channels), channels, (3, 3), (2, stride), padding=((1, 1), pads))


def _flat_cases_of_any_window(columns: int, rows: int, channels: int) -> Iterator[Case]:
    """Around `columns`, which fill a vector, and tiles of as many rows; windows larger than the image, too."""
    same = {"padding": ((4, 4), (5, 5))}
    for width in (1, columns - 1, columns, columns + 1, 5 * columns + 2):
        if width > 0:
            yield Case("depthwise", (2, rows + 3, width, channels), channels, (9, 11), **same)
    yield Case("depthwise", (1, 2 * rows + 9, 4 * columns + 9, channels), channels, (10, 10))
    yield Case("depthwise", (1, rows + 2, 6 * columns, channels), channels, (3, 5), dilation=(2, 3), **same)
    yield Case("depthwise", (2, 13, columns + 5, channels), channels, (4, 3), (2, 1), **same)
    yield Case("depthwise", (2, 1, 9 * columns + 60, channels), channels, (1, 51), padding=((0, 0), (50, 0)))
    yield Case("depthwise", (1, 3, 5, channels), channels, (1, 3), padding=((2, 2), (3, 9)))  # some see no tap


def _flat_cases_of_squares(columns: int, rows: int, channels: int) -> Iterator[Case]:
    """Windows with code of their own; around a tile of so many columns, with any number of vectors behind it."""
    for size in (3, 5, 7):
        quarters = ((0, size - 1, (0, 0)), (1, columns // 4 + 2, (1, 1)), (2, columns // 2 + 5, (2, 0)))
        for down, across, pads in (*quarters, (0, columns - 1, (1, 2))):
            x_shape = (1, 2 * rows + size + down, columns + across, channels)
            yield Case("depthwise", x_shape, channels, (size, size), padding=((1, 1), pads))
        x_shape = (2, 3 * rows + 2 * size, columns, channels)
        yield Case("depthwise", x_shape, channels, (size, size), dilation=(2, 1), padding="same")


def _flat_cases_of_signals(columns: int, channels: int) -> Iterator[Case]:
    """Tiles of a single row, of one vector to eight."""
    for vectors in range(1, 10):
        yield Case("depthwise", (1, 1, vectors * columns // 4 + 3, channels), channels, (1, 3))


def _repeated_cases(channels: int, outputs: int) -> Iterator[Case]:
    """Rows of less than a vector of inputs and of more, that end within one; images of one row and one column."""
    taken = {"padding": ((1, 1), (1, 1))}
    for height, width in ((5, 1), (1, 9), (6, 7), (9, 35)):
        yield Case("depthwise", (2, height, width, channels), channels * outputs, (3, 3), **taken)
    yield Case("depthwise", (1, 11, 13, channels), channels * outputs, (3, 3), (2, 2), **taken)
    yield Case("depthwise", (2, 9, 14, channels), channels * outputs, (2, 4), (3, 1), (2, 2), **taken)
    yield Case("depthwise", (1, 14, 12, channels), channels * outputs, (9, 9), padding="same")
    yield Case("depthwise", (1, 2, 3, channels), channels * outputs, (1, 1), padding=((3, 2), (0, 4)))  # some see none


@contextlib.contextmanager
def compiled_once(kernel: Kernel, number: int) -> Iterator[None]:
    """Leave the block where case `number` needs what was not compiled for the first one, if `COMPILE_ONCE` asks so."""
    if COMPILE_ONCE not in os.environ or kernel.backend == "cython":
        yield
        return
    from dwcpu.numba_kernels.target import ANY, CACHED, NotReadyError, limited

    with contextlib.suppress(NotReadyError), limited(CACHED if number else ANY):
        yield


def compute(
    kernel: Kernel,
    case: Case,
    kind: str,
    activation: object = None,
    with_bias: bool = True,
    with_residual: bool = False,
    threads: int = 1,
    end: str = "end",
    planes: bool = False,
) -> np.ndarray:
    """What the kernel makes of a case's data; all arrays lie against a forbidden page at this end of theirs.

    `planes`: images lie with their channels one after the other.
    """
    data = make_data(case, kernel.dtype.type, kind)
    last = parse_activation(activation, "compute")
    biases = data.biases if with_bias else (None,) * len(data.biases)
    if case.op in FUSED:
        activations = (Activation(),) * (len(biases) - 1) + (last,)
        weights = tuple(zip(data.weights, biases, activations, strict=True))
        prepared = kernel.prepare(case.geometry, weights)
    else:
        prepared = kernel.prepare(case.geometry, data.weights[0], biases[0], last)
    ROOM.clear(end)
    guard_weights(prepared, ROOM, end)
    x = ROOM.copy("x", np.ascontiguousarray(np.moveaxis(data.x, 3, 1)) if planes else data.x, end)
    if planes:
        prepared = prepared._with(x_step=1)  # narrow ones, too, which are turned before otherwise
    residual = ROOM.copy("residual", data.residual, end) if with_residual else None
    out = ROOM.empty("out", case.geometry.out_shape, kernel.dtype, end)
    out[...] = np.nan
    prepared.run(x, residual, out, threads)
    if threads > 1 and isinstance(prepared, PreparedSingle):
        shared = prepared.grid(threads)
        divisible = case.op != "depthwise" or case.x_shape[3] % kernel.lanes == 0
        assert shared.tasks > 1 or (shared.rows == 1 and (shared.blocks == 1 or not divisible)), f"{case}: not shared"
    assert ROOM.touched() == [], f"{case}: wrote beside an array"
    assert ROOM.changed() == [], f"{case}: wrote into what it only reads"
    return out.copy()


@EVERY_KERNEL
def test_exact_on_integers(kernel: Kernel) -> None:
    """On one thread and on two: in one test, since two would compile the same kernels at the same time."""
    dtype = kernel.dtype.type
    for number, case in enumerate(cases_of(kernel)):
        with_residual, with_bias = number % 2 == 0, number % 3 != 0
        activation = (None, "relu", ("clip", -20, 30), "hardswish")[number // 2 % 4]
        right = expected(
            case, dtype, "integers", None if activation == "hardswish" else activation, with_bias, with_residual
        )
        if activation == "hardswish":  # which rounds, in this order
            right = right * (np.clip(right + dtype(3), dtype(0), dtype(6)) * dtype(1 / 6))
        with compiled_once(kernel, number):
            for threads, end in zip((1, 2), ENDS, strict=True):
                result = compute(kernel, case, "integers", activation, with_bias, with_residual, threads, end)
                np.testing.assert_array_equal(result, right, err_msg=f"{case} on {threads}")


@EVERY_KERNEL
def test_close_to_the_reference_on_random_data(kernel: Kernel) -> None:
    dtype = kernel.dtype.type
    for case in cases_of(kernel):
        data = make_data(case, dtype, "normal")
        if case.op in FUSED:
            bound = fused_error_bound(data, case.geometry, with_residual=True)
        else:
            bound = error_bound(data.x, data.weights[0], case.geometry, data.biases[0], data.residual)
        result = compute(kernel, case, "normal", with_residual=True)
        off = np.abs(result.astype(np.float64) - expected(case, dtype, "normal", with_residual=True))
        assert (off <= bound).all(), f"{case}: off by {off.max()}, of which the bound is {bound.flat[off.argmax()]}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("op", list(ODD_CASES))
def test_all_kernels_give_the_same_bits(op: str, dtype: type) -> None:
    """For 1 and 2 threads, with bias and residual; a fused operation also as its steps."""
    rows = [kernel for kernel in dispatch.kernels(dtype) if kernel.op == op]
    cases = dict.fromkeys(case for kernel in rows for case in cases_of(kernel))
    for number, case in enumerate(cases):
        activation = ("relu", "hardswish")[number % 2]
        results = {
            f"{kernel.name} on {threads}": compute(kernel, case, "normal", activation, True, True, threads)
            for kernel in rows
            if takes(kernel, case)
            for threads in (1, 2)
        }
        if op in FUSED:
            results["its steps"] = _steps(case, dtype, activation)
        first, *others = results
        for other in others:
            assert results[first].tobytes() == results[other].tobytes(), f"{case}: {first} and {other} differ"


def _step(part: ConvGeometry, dtype: type) -> Kernel:
    """The kernel that is chosen; by day one that compiles nothing for the window, if the chosen one would."""
    kernel = dispatch.choose(part, dtype, 1)
    if is_nightly() or not kernel.most_taps or kernel.backend != "numba":
        return kernel
    rows = [row for row in dispatch.kernels(dtype) if row.supports(part)]
    compiled = (row for row in rows if row.backend == "cython")
    return next(compiled, None) or next(row for row in rows if not row.most_taps)


def _steps(case: Case, dtype: type, activation: str) -> np.ndarray:
    data = make_data(case, dtype, "normal")
    at_the_end = parse_activation(activation, "test")
    x, parts = data.x, case.geometry.parts
    for part, w, bias in zip(parts, data.weights, data.biases, strict=True):
        last = part is parts[-1]
        out = np.empty(part.out_shape, dtype)
        prepared = _step(part, dtype).prepare(part, w, bias, at_the_end if last else Activation())
        prepared.run(x, data.residual if last else None, out, 1)
        x = out
    return x


@EVERY_KERNEL
def test_subnormal_numbers_are_kept(kernel: Kernel) -> None:
    """Inputs, weights, biases, residuals and results below the smallest normal number, on one thread and on two."""
    dtype = kernel.dtype.type
    cases = cases_of(kernel)
    for number, case in enumerate(cases[:: reduced(1, len(cases) // 3 + 1)]):
        right = expected(case, dtype, "integers", None, True, True) * np.finfo(dtype).smallest_subnormal
        for threads in (1, 2):
            result = compute(kernel, case, SUBNORMAL[number % 2], None, True, True, threads)
            np.testing.assert_array_equal(result, right, err_msg=f"{case} on {threads}")


@EVERY_KERNEL
def test_batch_and_single_images_give_the_same_bits(kernel: Kernel) -> None:
    for case in cases_of(kernel):
        if case.x_shape[0] < 2:
            continue
        whole = compute(kernel, case, "normal")
        data = make_data(case, kernel.dtype.type, "normal")
        single = Case(**{**case.__dict__, "x_shape": (1, *case.x_shape[1:])})
        prepared = kernel.prepare(single.geometry, *data.kernel_weights())
        for x, right in zip(data.x, whole, strict=True):
            out = np.empty_like(right)[None]
            prepared.run(np.ascontiguousarray(x[None]), None, out, 1)
            assert out.tobytes() == right.tobytes(), str(case)


@EVERY_KERNEL
def test_nothing_is_read_or_written_beside_pixels_with_gaps(kernel: Kernel) -> None:
    """Images as some channels of wider ones, where no gap is behind the last pixel."""
    for case in list(cases_of(kernel))[:: reduced(1, 5)]:
        for gap, end, activation in zip((3, 65), ENDS, ("silu", None), strict=True):
            check_gaps(kernel, case, gap, end, activation)


def check_gaps(kernel: Kernel, case: Case, gap: int, end: str, activation: object) -> None:
    """That gaps between pixels, of which an activation of its own must know, change nothing."""
    beside = kernel.dtype.type(1e30)
    data = make_data(case, kernel.dtype.type, "normal")
    right = compute(kernel, case, "normal", activation, with_residual=True)
    before = (Activation(),) * (len(data.weights) - 1)
    prepared = kernel.prepare(case.geometry, *data.kernel_weights(*before, parse_activation(activation, "gaps")))
    x_gap = gap if kernel.op != "conv" else 0
    stepped = prepared.stepped(case.x_shape[3] + x_gap, case.out_channels + gap)
    if stepped is None:
        return
    ROOM.clear(end)
    guard_weights(stepped, ROOM, end)
    x = ROOM.copy("x", apart(data.x, x_gap, beside), end)
    residual = ROOM.copy("residual", apart(data.residual, gap, beside), end)
    out = ROOM.copy("out", apart(np.full_like(data.residual, np.nan), gap, beside), end)
    stepped.run(x, residual, out, 2)
    assert ROOM.touched() == [], f"{case}: wrote beside an array"
    assert out.tobytes() == apart(right, gap, beside).tobytes(), str(case)


def apart(array: np.ndarray, gap: int, beside: float) -> np.ndarray:
    """The elements of channel-last images with gaps after all pixels but the last."""
    wide = np.pad(array, [(0, 0)] * 3 + [(0, gap)], constant_values=beside).reshape(-1)
    return wide[: wide.size - gap]


@EVERY_KERNEL
def test_nan_and_infinity_stay_in_their_outputs(kernel: Kernel) -> None:
    """A NaN in one pixel reaches the outputs that see it and no others, and infinite weights meet no padding."""
    dtype = kernel.dtype.type
    for case in list(cases_of(kernel))[::5]:
        data = make_data(case, dtype, "integers")
        x = data.x.copy()
        x[0, 0, 0, 0] = np.nan
        x[-1, -1, -1, -1] = np.inf
        weights = [w.copy() for w in data.weights]
        weights[0].flat[0] = np.inf
        arrays = [(w, b, Activation()) for w, b in zip(weights, data.biases, strict=True)]
        prepared = kernel.prepare(case.geometry, *((arrays,) if len(arrays) > 1 else arrays[0]))
        out = np.empty(case.geometry.out_shape, dtype)
        prepared.run(x, None, out, 1)
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(out, _reference(case, x, arrays), err_msg=str(case))


def _reference(case: Case, x: np.ndarray, arrays: list) -> np.ndarray:
    from dwcpu import reference

    if case.op in FUSED:
        return getattr(reference, case.op)(x, *arrays, None, case.geometry)
    w, bias, activation = arrays[0]
    return getattr(reference, case.op)(x, w, bias, None, case.geometry, activation)


@pytest.mark.parametrize("op", list(ODD_CASES))
@hypothesis.given(data=hypothesis.strategies.data())
@hypothesis.settings(max_examples=60)
def test_any_case_on_the_kernels_that_need_no_compilation_of_their_own(
    op: str, data: hypothesis.strategies.DataObject
) -> None:
    """Drawn geometries; windows of every shape would each compile for Numba, so there the loops over taps take them."""
    case = data.draw(case_strategy(op))
    hypothesis.assume(case.x_shape[0] > 0)
    for kernel in dispatch.kernels(np.float32):
        if kernel.supports(case.geometry) and not (kernel.op == "depthwise" and kernel.most_taps):
            if op in FUSED and kernel.backend != "cython":
                continue  # its depthwise step may be any window
            if (
                op == "depthwise"
                and kernel.backend == "numba"
                and not is_nightly()
                and not takes_multiplier(kernel, case)
            ):
                continue
            for threads in (1, 2):
                result = compute(kernel, case, "integers", "relu6", True, True, threads)
                right = expected(case, np.float32, "integers", "relu6", True, True)
                np.testing.assert_array_equal(result, right, err_msg=f"{kernel.name}: {case}")


@pytest.mark.parametrize("backend", ["numba", "cython"])
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_longer_than_the_cache(backend: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fused kernel takes parts of the width where not even one row of the intermediate fits its scratch memory."""
    if backend == "cython" and runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    l2 = 4096
    monkeypatch.setattr(runtime, "cache_sizes", lambda: runtime.Memory(2048, l2, 1 << 20))
    cases = [
        Case("separable", (1, 5, 61, 24), 19, (3, 3)),
        Case("separable", (2, 6, 61, 16), 9, (3, 3), (2, 2), padding=((0, 1), (0, 1))),
        Case("separable", (1, 7, 90, 21), 8, (3, 3), (1, 1), (2, 3), padding=((2, 2), (3, 3))),
        Case("separable", (1, 1, 300, 12), 5, (1, 9)),
        Case("separable", (1, 9, 70, 10), 8, (11, 11)),
        Case("separable", (1, 5, 50, 6), 7, (3, 3), multiplier=2),
    ]
    for case in cases:
        kernel = next(k for k in dispatch.kernels("float32", backend) if k.op == "separable" and k.label == "fused")
        result = compute(kernel, case, "integers", "relu", True, True, threads)
        np.testing.assert_array_equal(result, expected(case, np.float32, "integers", "relu", True, True), str(case))
        prepared = kernel.prepare(case.geometry, *make_data(case, np.float32, "integers").kernel_weights())
        assert len(prepared._stretches) > 1
        tile = prepared.depthwise.kernel.tile_rows * prepared.depthwise.kernel.tile_columns
        block = prepared._scratch - prepared.depthwise._scratch  # the rest is for copies of a window's inputs
        assert block <= max(l2, tile * case.geometry.pointwise.in_channels * 4 + 64)


#: Pictures of three colours: borders on every side, narrow ones, padding beyond, outputs and columns without taps.
PLANES = [
    Case("conv", (2, 11, width, 3), outputs, (3, 3), (2, 2), padding=pads)
    for width in (2, 3, 7, 12, 13, 31, 64)
    for outputs in (1, 8, 16, 19, 24, 32, 70)
    for pads in (((1, 1), (1, 1)), ((0, 1), (0, 1)))
] + [
    Case("conv", (1, 9, 40, 3), 20, window, stride, dilation, padding)
    for window, stride, dilation, padding in (
        ((7, 7), (2, 2), (1, 1), ((3, 3), (3, 3))),
        ((6, 6), (1, 2), (2, 1), ((2, 2), (2, 2))),
        ((2, 5), (3, 2), (1, 1), ((0, 0), (9, 8))),
        ((1, 1), (2, 2), (1, 1), "same"),
        ((9, 4), (4, 2), (1, 1), ((9, 11), (1, 0))),
        ((40, 41), (2, 2), (1, 1), ((40, 40), (40, 41))),
    )
]
#: Rows of several tiles between second passes, the last of which slides back over the one before.
LONG_PLANES = [
    Case("conv", (1, 3, width, 3), outputs, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    for width in (101, 230, 511)
    for outputs in (8, 20, 24, 48)
]


@pytest.mark.parametrize(
    "kernel",
    [kernel for kernel in KERNELS if (kernel.op, kernel.backend) == ("conv", "cython")],
    ids=lambda kernel: kernel.name,
)
def test_colours_one_after_the_other(kernel: Kernel) -> None:
    """The same bits as of channels last."""
    pairs = [(case, (None, "hardswish", "relu6", "silu")[number % 4]) for number, case in enumerate(PLANES)]
    for case, activation in [*pairs, *((case, "gelu") for case in LONG_PLANES)]:
        for threads, end in zip((1, 2), ENDS, strict=True):
            right = compute(kernel, case, "normal", activation, True, False, threads, end)
            found = compute(kernel, case, "normal", activation, True, False, threads, end, planes=True)
            assert found.tobytes() == right.tobytes(), f"{case} on {threads}"


@pytest.mark.parametrize("backend", ["auto", "numba"])
@pytest.mark.parametrize(("channels", "multiplier"), [(1, 64), (8, 9), (3, 100)])
def test_many_outputs_a_channel_compile_nothing_of_their_own(channels: int, multiplier: int, backend: str) -> None:
    case = Case("depthwise", (1, 6, 7, channels), channels * multiplier, (3, 3))
    kernel = dispatch.choose(case.geometry, np.float32, 1, backend)
    assert kernel.op == "conv"
    result = compute(kernel, case, "integers", "relu", True, True)
    np.testing.assert_array_equal(result, expected(case, np.float32, "integers", "relu", True, True))


FAR_OUTSIDE = {
    "padding of 100": {"window": (3, 3), "padding": ((100, 100), (100, 100))},
    "dilation of a million": {"window": (3, 3), "dilation": (10**6, 10**6)},
    "dilation of one tap": {"window": (1, 1), "dilation": (10**7, 1)},
}


@pytest.mark.parametrize("where", FAR_OUTSIDE)
@pytest.mark.parametrize("backend", ["numba", "cython"])
def test_windows_far_outside_the_image(where: str, backend: str) -> None:
    """Padding and dilation of any size cost neither time nor a read beyond the image."""
    ran = 0
    for kernel in dispatch.kernels("float32", backend):
        if kernel.op == "depthwise":
            case = Case("depthwise", (1, 4, 5, kernel.lanes), kernel.lanes, **FAR_OUTSIDE[where])
            if kernel.supports(case.geometry):
                result = compute(kernel, case, "integers")
                np.testing.assert_array_equal(result, expected(case, np.float32, "integers"), kernel.name)
                ran += 1
    assert ran or (backend == "cython" and runtime.cython_kernels() is None)


@pytest.mark.parametrize(("rows", "vectors"), [(7, 2), (9, 3)])
@pytest.mark.parametrize(
    "kernel",
    [
        k
        for k in KERNELS
        if k.op in ("pointwise", "conv") and k.backend == "cython" and k.lanes * k.dtype.itemsize == 64
    ],
    ids=lambda kernel: kernel.name,
)
def test_tiles_of_other_cpus(kernel: Kernel, rows: int, vectors: int) -> None:
    """Of vectors of 64 bytes seven rows of two, or nine of three, as a CPU has time for: the same bits."""
    cases = [*cases_for_tile(kernel.op, rows, vectors * kernel.lanes, kernel.lanes), *ODD_CASES[kernel.op]]
    for number, case in enumerate(case for case in dict.fromkeys(cases) if takes(kernel, case)):
        options = "normal", (None, "relu", "hardswish", "relu6", "silu")[number % 5], True, number % 3 == 0
        found = compute(replace(kernel, tile_rows=rows, tile_columns=vectors), case, *options)
        assert found.tobytes() == compute(kernel, case, *options).tobytes(), f"{case}"


@pytest.mark.parametrize(
    "kernel",
    [k for k in dispatch.kernels() if k.copies or (k.op == "pointwise" and k.backend != "mixed")],
    ids=lambda kernel: kernel.name,
)
def test_caches_of_other_cpus(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels that share sets of a cache that holds more of them, or fewer, than this one: the same bits."""
    cases = [case for case in ODD_CASES[kernel.op] if takes(kernel, case)]
    before = [compute(kernel, case, "normal", "relu", True, False) for case in cases]
    ways = 8 if runtime.large_core() else 12
    monkeypatch.setattr(runtime, "l1_ways", lambda: ways)
    for case, found in zip(cases, before, strict=True):
        assert compute(kernel, case, "normal", "relu", True, False).tobytes() == found.tobytes(), f"{case}"


def test_tiles_of_pixels_that_share_sets_of_the_cache() -> None:
    """Seven lines of a set at most, and tiles for where the same pixels have gaps between them. Eight rows that ask."""
    pointwise = pytest.importorskip("dwcpu.numba_kernels.pointwise")
    for vectors in 1, 2, 3:
        usual, crowded = (pointwise.tile_heights({98}, vectors, crowded) for crowded in (0, 7))
        assert crowded == usual | ({7} if max(usual) > 7 else set())
        usual, crowded = (pointwise.tile_heights({56}, vectors, crowded, True) for crowded in (0, 7))
        assert max(usual) == min(pointwise.tallest(vectors), 8)
        assert crowded == usual | ({7} if max(usual) > 7 else set())
