"""Kernels between convolutions: what NumPy computes, the same bits on any number of threads, nothing else written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from running import DTYPES, ROOM, guard_parameters, run

from dwcpu import elementwise, pixels, runtime
from dwcpu.epilogue import Activation, parse_activation
from dwcpu.graph.operators import detecting
from dwcpu.products import products
from dwcpu.recurrent import Recurrence
from dwcpu.transposed import TransposedConv

pytestmark = pytest.mark.skipif(runtime.cython_kernels() is None, reason="these kernels are compiled ahead of time")

#: Around the numbers of channels that are one vector, two and four, of any instruction set.
CHANNELS = [1, 3, 7, 8, 9, 16, 31, 33, 64, 72, 130]


@pytest.fixture(autouse=True)
def everything_is_worth_threads(monkeypatch) -> None:
    """So that the small images of these tests are shared among threads at all."""
    monkeypatch.setattr(pixels, "_WORTH_BYTES", 0)


def random(*shape: int, dtype: np.dtype) -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(dtype)


def windows(x: np.ndarray, window, stride, dilation, begin, outputs) -> list[list[list[np.ndarray]]]:
    """For every output the pixels that its window sees, one row of channels each."""
    batch, height, width, _ = x.shape
    found = []
    for n in range(batch):
        for row in range(outputs[0]):
            for column in range(outputs[1]):
                taps = []
                for h in range(window[0]):
                    for w in range(window[1]):
                        at = (
                            row * stride[0] - begin[0] + h * dilation[0],
                            column * stride[1] - begin[1] + w * dilation[1],
                        )
                        if 0 <= at[0] < height and 0 <= at[1] < width:
                            taps.append(x[n, at[0], at[1]])
                found.append(taps)
    return found


GEOMETRIES = [
    ((6, 7), (3, 3), (1, 1), (1, 1), (1, 1), (6, 7)),
    ((8, 5), (2, 2), (2, 2), (1, 1), (0, 0), (4, 3)),
    ((9, 9), (3, 2), (2, 1), (2, 3), (2, 0), (5, 6)),
    ((1, 12), (1, 4), (1, 3), (1, 1), (0, 2), (1, 5)),
    ((4, 4), (7, 7), (1, 1), (1, 1), (3, 3), (4, 4)),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_pools_see_the_pixels_of_their_windows(geometry, channels, dtype) -> None:
    sizes, window, stride, dilation, begin, outputs = geometry
    x = random(2, *sizes, channels, dtype=dtype)
    seen = windows(x, window, stride, dilation, begin, outputs)
    shape = (2, *outputs, channels)
    out = np.empty(shape, dtype)
    ways: dict[str, Callable[[list[np.ndarray]], np.ndarray]] = {
        "max_pool": lambda taps: np.max(taps, axis=0),
        "average_pool": lambda taps: np.sum(taps, axis=0) / len(taps),
        "padded_pool": lambda taps: np.sum(taps, axis=0) / np.prod(window),
    }
    for kind, expected in ways.items():
        run(pixels.pool(kind, x.shape, outputs, window, stride, dilation, begin, dtype), x, out)
        wanted = np.array([expected(taps) for taps in seen]).reshape(shape)
        np.testing.assert_allclose(
            out, wanted, rtol=0 if kind == "max_pool" else 1e-6 * (1 if dtype == np.float32 else 1e-8), atol=1e-6
        )


@pytest.mark.parametrize("at", range(4))
def test_the_largest_of_a_window_with_nan_is_nan_wherever_it_is(at) -> None:
    x = np.zeros((1, 2, 2, 19), np.float32)
    x[0, at // 2, at % 2, 3:17] = np.nan
    out = np.empty((1, 1, 1, 19), np.float32)
    run(pixels.pool("max_pool", x.shape, (1, 1), (2, 2), (1, 1), (1, 1), (0, 0), x.dtype), x, out)
    np.testing.assert_array_equal(np.isnan(out[0, 0, 0]), np.isin(np.arange(19), range(3, 17)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [*CHANNELS, 1000])
def test_softmax_is_that_of_its_definition(channels, dtype) -> None:
    x = random(37, channels, dtype=dtype) * 20
    x[0] = 1e4
    out = np.empty_like(x)
    run(pixels.softmax(37, channels, dtype), x, out)
    powers = np.exp(x.astype(np.longdouble) - x.max(1, keepdims=True))
    expected, smallest = powers / powers.sum(1, keepdims=True), float(np.finfo(dtype).tiny)
    rtol = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(out, expected, rtol=rtol, atol=1.01 * channels * smallest)
    assert not ((out > 0) & (out < smallest)).any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [2, 16, 49, 64, 65, 197])
def test_softmax_gives_no_numbers_that_are_not_normal(channels, dtype) -> None:
    smallest = float(np.finfo(dtype).tiny)
    far = np.log(smallest)
    x = np.linspace(1.05 * far, 0.9 * far, channels * 40).astype(dtype).reshape(40, channels)
    x[:, ::2] -= 3
    x[:, -1] = 0
    x[20:, : channels // 2] = 0  # sums of many
    out = np.empty_like(x)
    run(pixels.softmax(40, channels, dtype), x, out)
    assert (out[:20, -1] == 1).all()
    assert not ((out > 0) & (out < smallest)).any()
    assert (out[:, 0] == 0).any()
    if channels > 2:
        assert ((out > 0) & (out < 1e6 * smallest)).any()


def test_softmax_of_nan_is_nan_and_of_infinities_what_ieee_says() -> None:
    x = np.zeros((4, 11), np.float32)
    x[0, 5], x[1, :], x[2, 3], x[3, 3] = np.nan, -np.inf, -np.inf, np.inf
    out = np.empty_like(x)
    run(pixels.softmax(4, 11, x.dtype), x, out)
    assert np.isnan(out[0]).all()
    assert np.isnan(out[1]).all()
    np.testing.assert_allclose(out[2], np.where(np.arange(11) == 3, 0, 0.1), rtol=1e-6)
    assert np.isnan(out[3, 3])


@pytest.mark.parametrize("channels", [3, 8, 37, 70])
def test_softmax_of_nan_is_nan_wherever_it_is(channels) -> None:
    x = np.zeros((channels, channels), np.float32)
    np.fill_diagonal(x, np.nan)
    out = np.empty_like(x)
    run(pixels.softmax(channels, channels, x.dtype), x, out)
    assert np.isnan(out).all()


def normalise(kernels: tuple[pixels.PixelKernel, ...] | None, x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Run the kernels of a normalisation: the moments."""
    *steps, last = kernels or ()
    found = x
    for kernel in steps:
        moments = np.empty(kernel.out_shape, x.dtype)
        run(kernel, found, moments)
        found = moments
    run(last, x, out, found)
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("spec", [None, "relu6", "silu", ("leaky_relu", 0.1)], ids=str)
@pytest.mark.parametrize("size", [(5, 7), (1, 200)], ids=str)
def test_group_norm_is_that_of_its_definition(size, spec, channels, dtype) -> None:
    """From one group to as many as there are channels, which is an instance normalisation."""
    x, scale, bias = (random(*shape, dtype=dtype) for shape in ((3, *size, channels), (channels,), (channels,)))
    x += 3 * (1 + np.arange(channels, dtype=dtype) / channels)  # channels of a group have means of their own
    activation = parse_activation(spec, "test")
    for groups in sorted({1, channels, *(each for each in (2, 3, 4, 8) if channels % each == 0)}):
        wide = x.astype(np.longdouble).reshape(3, -1, groups, channels // groups)
        centred = wide - wide.mean((1, 3), keepdims=True)
        normal = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-3)
        expected = (normal.reshape(x.shape) * scale + bias).astype(dtype)
        wanted, out = np.empty_like(x), np.empty_like(x)
        run(elementwise.mapped(x.shape, dtype, 1.0, -0.0, activation), expected, wanted)
        normalise(pixels.group_norm(x.shape, groups, scale, bias, 1e-3, activation, dtype), x, out)
        np.testing.assert_allclose(out, wanted, rtol=0, atol=2e-5 if dtype == np.float32 else 1e-13)


def test_group_norm_of_long_signals_keeps_its_digits() -> None:
    """Far from zero, and with single values that are further from it than all others."""
    x = np.random.default_rng(0).standard_normal((1, 1, 300_000, 3)).astype(np.float32) + 10
    x[0, 0, 0, 1] = 1e4
    out, wide = np.empty_like(x), x.astype(np.float64)
    one = np.ones(3, np.float32)
    moments = normalise(pixels.group_norm(x.shape, 3, one, 0 * one, 0.0, Activation(), x.dtype), x, out)
    np.testing.assert_allclose(moments[0, 0], wide.mean((0, 1, 2)), rtol=2e-7)
    np.testing.assert_allclose(out, (wide - wide.mean(2)) / wide.std(2), rtol=4e-6, atol=4e-6)


#: Rows, terms and columns.
MATRICES = [(1, 1, 1), (5, 3, 7), (13, 4, 16), (50, 36, 40), (7, 65, 24), (70, 8, 130), (300, 16, 9)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", MATRICES, ids=str)
@pytest.mark.parametrize("order", ["plain", "turned", "heads", "shared"])
def test_products_of_matrices_are_sums_in_order(order, sizes, dtype, monkeypatch) -> None:
    monkeypatch.setattr("dwcpu.products._ROW_BYTES", 1 << 12)
    m, k, n = sizes
    a, b = random(2, 3, m, k, dtype=dtype), random(2, 3, k, n, dtype=dtype)
    if order == "turned":
        b = b.swapaxes(2, 3).copy().swapaxes(2, 3)
    elif order == "heads":
        a, b = a.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3), np.asfortranarray(b)
    elif order == "shared":
        a, b = a[0, :1], b[:, 0:1]
    expected = np.zeros((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), m, n), np.longdouble)
    expected += a.astype(np.longdouble) @ b.astype(np.longdouble)
    bases = [np.lib.stride_tricks.as_strided(each, (each.size,), (each.itemsize,)) for each in (a, b)]
    if order == "shared":
        bases = [each.base if each.base is not None else each for each in (a, b)]
    out = np.empty(expected.shape, dtype)
    run(products(a, b), bases[0], out, bases[1])
    np.testing.assert_allclose(out, expected, rtol=0, atol=k * (1e-6 if dtype == np.float32 else 1e-14))


def test_products_whose_matrices_lie_in_too_many_ways_are_left_to_numpy() -> None:
    a, b = np.zeros((2, 3, 4, 5, 6), np.float32), np.zeros((2, 3, 4, 6, 7), np.float32)
    assert products(a, b) is not None
    assert products(a.transpose(2, 0, 1, 3, 4).copy().transpose(1, 2, 0, 3, 4), b) is not None
    assert products(a.transpose(2, 1, 0, 3, 4).copy().transpose(2, 1, 0, 3, 4), b) is None
    assert products(a.swapaxes(3, 4).copy().swapaxes(3, 4), b) is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [*CHANNELS, 768])
def test_layer_norm_is_that_of_its_definition(channels, dtype) -> None:
    x, scale, bias = (random(*shape, dtype=dtype) for shape in ((29, channels), (channels,), (channels,)))
    x += 3
    wide = x.astype(np.longdouble)
    centred = wide - wide.mean(1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-3)
    for given in (bias, None):
        out = np.empty_like(x)
        run(pixels.layer_norm(29, scale, given, 1e-3, dtype), x, out)
        wanted = expected * scale + (0 if given is None else given)
        np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [*CHANNELS, 320])
def test_means_are_sums_of_rows_and_then_of_their_sums(channels, dtype) -> None:
    x = random(3, 5, 7, channels, dtype=dtype)
    out = np.empty((3, 1, 1, channels), dtype)
    run(pixels.reduced("mean", x.shape, dtype), x, out)
    rows = x[:, :, 0].copy()
    for pixel in range(1, 7):
        rows += x[:, :, pixel]
    expected = rows[:, 0].copy()
    for row in range(1, 5):
        expected += rows[:, row]
    np.testing.assert_array_equal(out.reshape(3, channels), expected * (dtype.type(1) / dtype.type(35)))
    run(pixels.reduced("sum", x.shape, dtype), x, out)
    np.testing.assert_array_equal(out.reshape(3, channels), expected)


@pytest.mark.parametrize("channels", [1, 3, 17, 80])
@pytest.mark.parametrize("width", [256, 257, 1000, 100_001])
def test_means_of_long_rows_keep_their_digits_and_are_those_of_numpy(width, channels) -> None:
    x = random(1, 2, width, channels, dtype=DTYPES[0]) + 10
    out = np.empty((1, 1, 1, channels), np.float32)
    run(pixels.reduced("mean", x.shape, x.dtype), x, out)
    np.testing.assert_allclose(out[0, 0, 0], x.astype(np.float64).mean((0, 1, 2)), rtol=3e-6)
    if channels > 1:  # NumPy adds neighbours by pairs
        np.testing.assert_array_equal(pixels.GlobalAveragePool()(x), out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_the_largest_and_the_smallest_of_all_pixels(channels, dtype) -> None:
    x = random(3, 5, 300, channels, dtype=dtype)
    x[1, 2, 299, 0], x[2, 4, 7, -1] = np.nan, np.inf
    out = np.empty((3, 1, 1, channels), dtype)
    for kind, expected in (("maximum", np.max), ("minimum", np.min)):
        run(pixels.reduced(kind, x.shape, dtype), x, out)
        np.testing.assert_array_equal(out, expected(x, (1, 2), keepdims=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_squares_of_all_pixels_and_their_roots(channels, dtype) -> None:
    x = random(3, 5, 300, channels, dtype=dtype)
    x[1, 2, 299, 0], x[2, 4, 7, -1] = np.nan, np.inf
    out = np.empty((3, 1, 1, channels), dtype)
    with np.errstate(invalid="ignore"):
        expected = np.square(x.astype(np.longdouble)).sum((1, 2), keepdims=True)
    for kind, wanted in (("squares", expected), ("length", np.sqrt(expected))):
        run(pixels.reduced(kind, x.shape, dtype), x, out)
        np.testing.assert_allclose(out, wanted.astype(dtype), rtol=1e-6 if dtype == np.float32 else 1e-15)


@pytest.mark.parametrize("most", [1, 9, 1000])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sizes", [[1], [5, 1, 30], [200], [15, 16, 17, 64, 3]], ids=str)
def test_boxes_go_that_better_ones_of_their_group_overlap(sizes, share, most) -> None:
    count = sum(sizes)
    corner = np.abs(random(2, count, dtype=np.dtype(np.float32))) * 3
    x = np.concatenate([corner, corner + np.abs(random(2, count, dtype=np.dtype(np.float32)))])
    x[2:, ::7] = x[:2, ::7]  # of no size
    x[:, 1::9] = x[:, :1]
    if count > 20:
        x[1, 3], x[2, 4], x[3, 6] = np.nan, np.inf, -np.inf
    begins = np.cumsum([0, *sizes[:-1]])
    out = np.empty(count, np.float32)
    run(pixels.boxes(begins, count, share, most), x, out)
    with np.errstate(invalid="ignore"):
        groups = np.split(np.arange(count), begins[1:])
        stay = [each[detecting._greedy(x[:, each], np.float32(share))[:most]] for each in groups]
    np.testing.assert_array_equal(np.flatnonzero(out == 0), np.concatenate(stay))
    assert set(out) <= {0, 1}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [*CHANNELS, 4095, 4096, 4097, 1_000_003])
def test_rows_are_taken_together(count, dtype) -> None:
    x = random(5, count, dtype=dtype) + 3
    x[1, count // 2] = np.nan
    out = np.empty(5, dtype)
    run(pixels.reduced_rows("maximum", 5, count, dtype), x, out)
    np.testing.assert_array_equal(out, x.max(1))
    for kind, factor in (("sum", 1), ("mean", 1 / count)):
        run(pixels.reduced_rows(kind, 5, count, dtype), x, out)
        wanted = x.astype(np.longdouble).sum(1) * factor
        np.testing.assert_allclose(out, wanted.astype(dtype), rtol=3e-6 if dtype == np.float32 else 1e-14)
    wanted = np.square(x.astype(np.longdouble)).sum(1)
    for kind, each in (("squares", wanted), ("length", np.sqrt(wanted))):
        run(pixels.reduced_rows(kind, 5, count, dtype), x, out)
        np.testing.assert_allclose(out, each.astype(dtype), rtol=3e-6 if dtype == np.float32 else 1e-14)
    assert pixels.reduced_rows("minimum", 5, count, dtype) is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("taps", [(2, 4), (3, 2), (1, 1)])
def test_resized_images_are_weighted_sums_of_pixels(taps, channels, dtype) -> None:
    rng, x = np.random.default_rng(channels), random(2, 5, 6, channels, dtype=dtype)
    tables = [
        (rng.integers(0, size, (out, each)), rng.random((out, each)))
        for size, out, each in ((5, 8, taps[0]), (6, 3, taps[1]))
    ]
    out = np.empty((2, 8, 3, channels), dtype)
    run(pixels.resize(x.shape, *tables, dtype), x, out)
    (rows, down), (columns, across) = tables
    expected = np.einsum("oi,pj,noipjc->nopc", down, across, x[:, rows][:, :, :, columns])
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 5, 8, 24, 33])
@pytest.mark.parametrize(
    ("stride", "dilation", "begin", "outputs"),
    [
        ((1, 1), (1, 1), (0, 0), (6, 5)), ((2, 3), (1, 2), (1, 0), (9, 14)), ((2, 2), (1, 1), (-1, 2), (12, 5)),
        ((4, 5), (1, 1), (0, 1), (15, 20)), ((1, 2), (7, 3), (8, 5), (3, 4)),
    ],
)  # fmt: skip
def test_transposed_convolutions_add_every_product_to_its_output(
    stride, dilation, begin, outputs, channels, dtype
) -> None:
    x, bias = random(2, 4, 5, 7, dtype=dtype), random(channels, dtype=dtype)
    w, windows = random(7, 3, 2, channels, dtype=dtype), random(3, 2, 7, dtype=dtype)
    options = outputs, stride, dilation, begin
    clip = parse_activation(("clip", -1.0, 1.5), "test")
    for parts, begins, made in (
        (np.einsum("nijc,chwo->nijhwo", x, w), bias, TransposedConv(w, bias, clip)),
        (x[:, :, :, None, None] * windows, 0, TransposedConv(windows, None, clip)),
    ):
        expected, products = np.zeros((2, *outputs, parts.shape[-1])) + begins, 0
        for i, j, h, tap in np.ndindex(parts.shape[1:5]):
            y, z = i * stride[0] + h * dilation[0] - begin[0], j * stride[1] + tap * dilation[1] - begin[1]
            if 0 <= y < outputs[0] and 0 <= z < outputs[1]:
                expected[:, y, z] += parts[:, i, j, h, tap]
                products += 1
        out = np.empty(expected.shape, dtype)
        kernel = made.kernel(x.shape, *options)
        run(kernel, x, out)
        assert kernel.flops == 2 * products * 2 * (7 * channels if parts.shape[-1] == channels else 7)
        wanted = np.clip(expected, -1.0, 1.5)
        np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("seed", range(30))
def test_copies_go_from_any_order_of_memory_to_any_other(seed, dtype) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 7, rng.integers(1, 6))
    sizes[rng.permutation(len(sizes))[:2]] = rng.integers(1, 48, 2)[: len(sizes)]  # of planes, tiles of any vectors
    shape = tuple(map(int, sizes))
    base = rng.integers(-(2**30), 2**30, tuple(2 * size for size in shape)).astype(dtype)
    source = base[tuple(slice(0, 2 * size, 2) if rng.random() < 0.3 else slice(0, size) for size in shape)]
    order = rng.permutation(len(shape))
    target = np.zeros(tuple(shape[axis] for axis in order), dtype).transpose(np.argsort(order))
    if rng.random() < 0.3:
        source = source[tuple(slice(None, None, -1) if at == 0 else slice(None) for at in range(source.ndim))]
    if rng.random() < 0.3:
        source = np.broadcast_to(source[:1], source.shape)
    kernel = pixels.copy(shape, target.dtype, source.strides, target.strides)
    assert kernel is not None
    guard_parameters(kernel, "end")
    # through the kernel's own addresses: sources and targets are views
    [each] = kernel.passes(2)
    grid = each.grid
    places = (array.__array_interface__["data"][0] for array in (source, target))
    runtime.driver(grid.threads)(each.kernel, each.plan.ctypes.data, next(places), 0, next(places), 0, *grid.arguments)
    np.testing.assert_array_equal(target, source)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [2, 3, 4, 5, 7, 8, 12, 15, 17, 24, 9000])
def test_planes_are_turned_whatever_tiles_leave(rows, dtype) -> None:
    for columns in (3, 4, 5, 9, 15, 16, 24, 41):
        x, out = random(rows, columns, dtype=dtype), np.empty((columns, rows), dtype)
        kernel = pixels.copy(out.shape, dtype, x.T.strides, out.strides)
        assert kernel is not None
        run(kernel, x, out)
        np.testing.assert_array_equal(out, x.T)


@pytest.mark.parametrize("end", ["begin", "end"])
@pytest.mark.parametrize("channels", [1, 3, 8, 9, 33])
@pytest.mark.parametrize("name", ["gru", "gru_before", "lstm", "products", "regions", "resize", "rnn", "transposed"])
def test_scratch_memory_is_enough_and_may_hold_anything(name, channels, end) -> None:
    x = random(2, 5, 6, channels, dtype=DTYPES[0])
    second = x.reshape(10, 6, channels).swapaxes(1, 2).copy()
    if name == "products":
        kernel = products(x.reshape(10, 6, channels), second)
    elif name == "resize":
        tables = [(np.array([[0, 1], [1, 2], [3, 4]]), np.full((3, 2), 0.5)) for _ in range(2)]
        kernel = pixels.resize(x.shape, *tables, x.dtype)
    elif name == "regions":
        kernel = pixels.regions(x.shape, np.arange(7) % 2, (3, 4), 2, 1.0, (4, 4), x.dtype)
        second = random(7, 4, dtype=x.dtype) * 4
    elif name != "transposed":
        gates = {"lstm": 4, "rnn": 1}.get(name, 3) * channels
        x, second = random(4, 6, 1, gates, dtype=x.dtype), random(2, 1, 6, channels, dtype=x.dtype)
        r = random(1, channels, gates, dtype=x.dtype)
        kernel = Recurrence(name, r, np.zeros_like(r[:, 0]), 1).kernel(4, 6, 3)
    else:
        w = random(channels, 3, 2, 5, dtype=x.dtype)
        kernel = TransposedConv(w, None, Activation()).kernel(x.shape, (11, 12), (2, 2), (1, 1), (0, 0))
    assert kernel is not None
    [each] = kernel.passes(3)
    found = []
    for content in (0, 255):
        scratch = ROOM.copy("scratch", np.full(each.grid.scratch * each.grid.tasks, content, np.uint8), end)
        out = np.empty(each.out_shape, np.float32)
        places = (array.__array_interface__["data"][0] for array in (x, second, out, scratch))
        runtime.driver(each.grid.threads)(each.kernel, each.plan.ctypes.data, *places, *each.grid.arguments)
        assert ROOM.touched() == []
        found.append(out.tobytes())
    assert each.grid.tasks == 3
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 15, 16, 17, 64, 100])
@pytest.mark.parametrize("pixels_of", [(1, 1), (3, 3), (5, 7), (9, 1000)])
def test_images_are_turned_to_channels_last_and_back(pixels_of, channels, dtype) -> None:
    x = random(2, channels, *pixels_of, dtype=dtype)
    last = x.transpose(0, 2, 3, 1).copy()
    out = np.empty_like(last)
    run(pixels.copy(x.shape, dtype, x.strides, out.transpose(0, 3, 1, 2).strides), x, out)
    np.testing.assert_array_equal(out, last)
    back = np.empty_like(x)
    run(pixels.copy(x.shape, dtype, last.transpose(0, 3, 1, 2).strides, x.strides), last, back)
    np.testing.assert_array_equal(back, x)


@pytest.mark.parametrize("groups", [2, 3, 4, 8, 29])
def test_channels_are_shuffled(groups) -> None:
    x = random(3, 5, 7, groups, 58, dtype=DTYPES[0])
    seen, out = x.transpose(0, 1, 2, 4, 3), np.empty((3, 5, 7, 58, groups), np.float32)
    run(pixels.copy(seen.shape, x.dtype, seen.strides, out.strides), x, out)
    np.testing.assert_array_equal(out, seen)


@pytest.mark.parametrize("dtype", [np.float32, np.int32], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("inner", [1, 2, 4, 6, 9])
@pytest.mark.parametrize("gap", [0, 1, 2])
def test_neighbours_that_stay_together_are_copied_in_pairs(inner, gap, dtype) -> None:
    """Where they are two, and everything else lies at even distances."""
    base = np.arange(5 * 2 * 17 * (inner + gap), dtype=np.int32).view(dtype).reshape(5, 2, 17, inner + gap)
    seen, out = base[..., :inner].transpose(0, 2, 1, 3), np.zeros((5, 17, 2, inner), dtype)
    run(pixels.copy(seen.shape, out.dtype, seen.strides, out.strides), base, out)
    assert out.tobytes() == np.ascontiguousarray(seen).tobytes()
    kind = "float64" if inner % 2 == 0 and gap % 2 == 0 else "float32"
    kernel = pixels.copy(seen.shape, out.dtype, seen.strides, out.strides)
    assert kernel is not None
    assert kernel.passes(1)[0].kernel == runtime.cython_kernels().pixels(kind)["copy"]


def test_which_copies_take_two_steps() -> None:
    """Patches of 2x2 pixels, to where each pixel of theirs has its place in a batch, and back; no others."""
    patches = np.zeros((16, 9, 4), np.float32)  # channels, patches, pixels
    batch = patches.transpose(2, 1, 0)

    def between(source: np.ndarray, target: np.ndarray) -> tuple[int, ...] | None:
        return pixels.order_between(source.shape, source.dtype, source.strides, target.strides)

    there, back = np.zeros((4, 9, 16), np.float32), np.zeros((16, 9, 4), np.float32).transpose(2, 1, 0)
    assert between(batch, there) == (1, 0, 2)
    assert between(there, back) == (1, 0, 2)
    aside = np.zeros((9, 4, 16), np.float32).transpose(1, 0, 2)
    assert between(batch, aside) is between(aside, there) is None  # each step is one
    assert between(there, there) is between(batch[:, :, :7], there[:, :, :7]) is None  # too few
    assert between(batch[:, :1], there[:, :1]) is None
    assert between(np.zeros((16, 9, 12), np.float32).transpose(2, 1, 0), np.zeros((12, 9, 16), np.float32)) is None
    assert between(np.broadcast_to(batch[:, :1], batch.shape), there) is None
    assert between(batch[:, ::-1], there) is None
    for other in (np.float64, np.float16, np.uint8):  # slower in two, or by NumPy
        assert between(batch.astype(other), there.astype(other)) is None


def test_copies_of_other_sizes_of_elements_are_left_to_numpy() -> None:
    assert pixels.copy((3,), np.dtype(np.int16), (2,), (2,)) is None
    assert pixels.copy((3,), np.dtype(object), (8,), (8,)) is None
    assert pixels.copy((2,) * 6, np.dtype(np.float32), (4, 8, 16, 32, 64, 128), (128, 64, 32, 16, 8, 4)) is None


def test_without_compiled_kernels_there_are_none(monkeypatch) -> None:
    monkeypatch.setattr(runtime, "cython_kernels", lambda: None)
    dtype = DTYPES[0]
    assert pixels.softmax(4, 4, dtype) is None
    assert pixels.order_between((4, 9, 16), dtype, (4, 16, 144), (576, 64, 4)) is None
    assert products(np.zeros((2, 3), dtype), np.zeros((3, 4), dtype)) is None


def test_threads_share_rows_of_pixels_where_all_pixels_are_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """By channels each would read what the other has written."""
    monkeypatch.setattr(pixels, "_WORTH_BYTES", 1 << 17)

    def cuts(kernel: pixels.PixelKernel | None, threads: int = 2) -> list[tuple[int, int]]:
        assert kernel is not None
        return [(each.grid.row_parts, each.grid.block_parts) for each in kernel.passes(threads)]

    dtype = DTYPES[0]
    assert cuts(pixels.reduced("mean", (1, 14, 14, 480), dtype)) == [(2, 1), (1, 1)]
    assert cuts(pixels.reduced("mean", (1, 7, 7, 960), dtype)) == [(2, 1), (1, 1)]
    assert cuts(pixels.reduced("maximum", (2, 14, 14, 480), dtype), 3) == [(3, 1), (1, 1)]
    assert cuts(pixels.reduced("mean", (1, 14, 14, 480), dtype), 1) == [(1, 1)]
    assert cuts(pixels.reduced("mean", (1, 14, 14, 64), dtype)) == [(1, 1)]  # too little for a second thread
    assert cuts(pixels.reduced("mean", (2, 14, 14, 480), dtype)) == [(2, 1)]  # an image each
    assert cuts(pixels.reduced("mean", (1, 20_000, 1, 64), dtype)) == [(1, 1)]  # as many rows as pixels
    ones = np.ones(960, dtype)
    for shape, steps in ((1, 1, 1000, 960), [(2, 1), (1, 1), (2, 1)]), ((1, 7, 9, 960), [(1, 2), (2, 1)]):
        kernels = pixels.group_norm(shape, 4, ones, ones, 1e-3, Activation(), dtype)
        assert [cuts(kernel)[0] for kernel in kernels or ()] == steps
