"""Arrays as users hold them: layouts, strides, byte orders, overlaps. The result is right whatever they look like."""

from __future__ import annotations

import cases
import numpy as np
import pytest

from dwcpu import arrays, ops, runtime

BACKEND = "reference"


@pytest.fixture(params=["reference", "numba", "cython"], autouse=True)
def every_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test on each backend: the reference alone would forgive strides and overlaps that kernels do not."""
    if request.param == "cython" and runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    monkeypatch.setitem(globals(), "BACKEND", request.param)


def misaligned(array: np.ndarray) -> np.ndarray:
    memory = np.empty(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view


def spread(array: np.ndarray) -> np.ndarray:
    """The same values as every second element along every axis of something larger."""
    memory = np.full([2 * size for size in array.shape], np.nan, array.dtype)
    view = memory[tuple(slice(1, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def reversed_everywhere(array: np.ndarray) -> np.ndarray:
    backwards = tuple(slice(None, None, -1) for _ in array.shape)
    return np.ascontiguousarray(array[backwards])[backwards]


def read_only(array: np.ndarray) -> np.ndarray:
    copied = array.copy()
    copied.flags.writeable = False
    return copied


def swapped(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("S"))


def channel_first_memory(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, -1, 0)), 0, -1)


class Tagged(np.ndarray):
    """A subclass of the harmless kind."""


FORMS = {
    "plain": np.copy,
    "misaligned": misaligned,
    "spread": spread,
    "reversed": reversed_everywhere,
    "Fortran": np.asfortranarray,
    "read-only": read_only,
    "other byte order": swapped,
    "channel-first memory": channel_first_memory,
    "subclass": lambda array: array.copy().view(Tagged),
    "nested lists": lambda array: array.tolist(),
}


def depthwise(x, w, bias=None, residual=None, **options):
    return ops.depthwise_conv2d(
        x, w, bias, residual=residual, stride=2, padding="same", backend=BACKEND, **options
    )  # fmt: skip


@pytest.fixture
def operands(rng):
    x = cases.normal(rng, (2, 7, 6, 5), np.float64)
    w, bias = cases.normal(rng, (3, 3, 5, 2), np.float64), cases.normal(rng, (10,), np.float64)
    return x, w, bias, cases.normal(rng, (2, 4, 3, 10), np.float64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("which", range(4), ids=["x", "w", "bias", "residual"])
def test_any_form_of_any_input_gives_the_same(operands, form, which) -> None:
    wanted = depthwise(*operands)
    given = list(operands)
    given[which] = FORMS[form](given[which])
    before = np.array(given[which], copy=True)
    result = depthwise(*given)
    assert type(result) is np.ndarray
    assert result.dtype == np.float64
    assert result.dtype.isnative
    assert result.flags.c_contiguous
    assert np.array_equal(result, wanted)
    assert np.array_equal(given[which], before)


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"read-only", "nested lists"}))
def test_any_form_of_out_is_filled(operands, form) -> None:
    wanted = depthwise(*operands)
    out = FORMS[form](np.full(wanted.shape, np.nan))
    assert depthwise(*operands, out=out) is out
    assert np.array_equal(out, wanted)


def test_out_touches_only_its_own_elements(operands) -> None:
    wanted = depthwise(*operands)
    memory = np.full((4, 8, 6, 20), -7.0)
    out = memory[1:3, ::2, 1:6:2, 5:15]
    depthwise(*operands, out=out)
    assert np.array_equal(out, wanted)
    out[...] = -7
    assert np.all(memory == -7)


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_every_operation_in_any_form(rng, form) -> None:
    x = cases.normal(rng, (5, 6, 4), np.float64)
    for run, shapes in (
        (ops.pointwise_conv2d, [(4, 3)]),
        (ops.conv2d, [(2, 3, 4, 5)]),
        (ops.separable_conv2d, [(3, 2, 4), (4, 7)]),
        (ops.inverted_residual, [(4, 8), (3, 3, 8), (8, 2)]),
    ):
        weights = [cases.normal(rng, shape, np.float64) for shape in shapes]
        wanted = run(x, *weights, backend=BACKEND)
        assert np.array_equal(run(x, *(FORMS[form](w) for w in weights), backend=BACKEND), wanted)


def test_a_single_image_is_a_batch_of_one(operands) -> None:
    x, w, bias, residual = operands
    batch = depthwise(*operands)
    single = depthwise(x[1], w, bias, residual[1])
    assert single.shape == batch.shape[1:]
    assert np.array_equal(single, batch[1])
    out = np.empty(single.shape)
    assert depthwise(x[1], w, bias, residual[1], out=out) is out
    assert np.array_equal(out, single)


def test_an_empty_batch_gives_an_empty_result() -> None:
    w = np.ones((3, 3, 5), np.float32)
    assert ops.depthwise_conv2d(np.ones((0, 8, 8, 5), np.float32), w, backend=BACKEND).shape == (0, 6, 6, 5)
    result = ops.inverted_residual(
        np.ones((0, 5, 8, 8), np.float32), None, w, np.ones((5, 2), np.float32), layout="NCHW", backend=BACKEND
    )
    assert result.shape == (0, 2, 8, 8)
    assert ops.dwconv2d(np.ones((0, 5, 8, 8), np.float32), np.ones((5, 1, 3, 3), np.float32), groups=5).size == 0


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_the_result_has_the_type_of_the_inputs(dtype) -> None:
    x, w = np.ones((4, 4, 3), dtype), np.ones((3, 3, 3), dtype)
    assert ops.depthwise_conv2d(x, w, backend=BACKEND).dtype == dtype


# ---------------------------------------------------------------------------------------------------------------------
# Channels first
# ---------------------------------------------------------------------------------------------------------------------


def first(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array, -1, -3 if array.ndim > 2 else 0))


@pytest.mark.parametrize("dimensions", [3, 4])
def test_channels_first(operands, dimensions) -> None:
    x, w, bias, residual = operands
    x, residual = (x, residual) if dimensions == 4 else (x[0], residual[0])
    wanted = first(depthwise(x, w, bias, residual))
    result = depthwise(first(x), w, bias, first(residual), layout="NCHW")
    assert result.flags.c_contiguous
    assert np.array_equal(result, wanted)
    for form in ("plain", "spread", "Fortran", "other byte order"):
        out = FORMS[form](np.full(wanted.shape, np.nan))
        assert depthwise(FORMS[form](first(x)), w, bias, first(residual), layout="NCHW", out=out) is out
        assert np.array_equal(out, wanted)


def test_channels_first_signals(rng) -> None:
    x, w = cases.normal(rng, (2, 30, 5), np.float64), cases.normal(rng, (4, 5, 2), np.float64)
    wanted = ops.depthwise_conv1d(x, w, padding="causal", dilation=2, backend=BACKEND)
    assert wanted.shape == (2, 30, 10)
    turned = ops.depthwise_conv1d(
        x.transpose(0, 2, 1), w, padding="causal", dilation=2, layout="NCHW", backend=BACKEND
    )  # fmt: skip
    assert np.array_equal(turned, wanted.transpose(0, 2, 1))
    single = ops.depthwise_conv1d(x[0].T, w, padding="causal", dilation=2, layout="NCHW", backend=BACKEND)
    assert np.array_equal(single, wanted[0].T)


@pytest.mark.parametrize(
    "shape",
    [(2, 64, 64, 40), (1, 113, 112, 17), (1, 7, 7, 1024), (3, 20, 30, 129), (1, 257, 256, 16), (1, 300, 300, 3)],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_copies_between_layouts(rng, shape, dtype) -> None:
    image = rng.random(shape).astype(dtype)
    turned = np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    there = np.full(shape, np.nan, arrays.native_dtype(image))
    arrays.copy(there, turned.transpose(0, 2, 3, 1))
    assert np.array_equal(there, image)
    back = np.full(turned.shape, np.nan, dtype)
    arrays.copy(back.transpose(0, 2, 3, 1), there)
    assert np.array_equal(back, turned)
    same = np.full(shape, np.nan, dtype)
    arrays.copy(same, image)
    assert np.array_equal(same, image)


def test_nothing_is_copied_that_need_not_be() -> None:
    array = np.zeros((2, 3, 4, 5), np.float32)
    assert arrays.native(array) is array
    assert arrays.native(read_only(array)).flags.writeable is False
    # The channel-first view of channel-last memory comes for free.
    view = arrays.as_nhwc(array.transpose(0, 3, 1, 2), "x", "NCHW", "test")
    assert arrays.native(view) is view
    assert np.shares_memory(view, array)


# ---------------------------------------------------------------------------------------------------------------------
# Overlap
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, 7, -3])
def test_out_may_overlap_x(rng, offset) -> None:
    memory = cases.normal(rng, (2000,), np.float64)
    x = memory[100:960].reshape(1, 43, 4, 5)
    w = cases.normal(rng, (3, 3, 5), np.float64)
    wanted = ops.depthwise_conv2d(x.copy(), w, padding="same", backend=BACKEND)
    out = memory[100 + offset : 960 + offset].reshape(x.shape)
    assert ops.depthwise_conv2d(x, w, padding="same", backend=BACKEND, out=out) is out
    assert np.array_equal(out, wanted)


def test_out_may_be_the_residual(operands) -> None:
    x, w, bias, residual = operands
    wanted = depthwise(x, w, bias, residual)
    out = residual.copy()
    assert depthwise(x, w, bias, out, out=out) is out
    assert np.array_equal(out, wanted)
    out = residual.copy()[:, ::-1]
    wanted = depthwise(x, w, bias, out[:, ::-1].copy())
    depthwise(x, w, bias, out[:, ::-1], out=out)
    assert np.array_equal(out, wanted)


def test_out_may_overlap_weights_and_bias(rng) -> None:
    x, memory = cases.normal(rng, (4, 4, 6), np.float64), cases.normal(rng, (300,), np.float64)
    w, bias, out = memory[:36].reshape(6, 6), memory[40:46], memory[20:116].reshape(4, 4, 6)
    wanted = ops.pointwise_conv2d(x, w.copy(), bias.copy(), backend=BACKEND)
    assert np.array_equal(ops.pointwise_conv2d(x, w, bias, out=out, backend=BACKEND), wanted)


def test_out_may_be_x_with_the_channels_elsewhere(rng) -> None:
    memory = cases.normal(rng, (5, 5, 5), np.float64)
    w = cases.normal(rng, (5, 5), np.float64)
    wanted = ops.pointwise_conv2d(memory.copy(), w, backend=BACKEND)
    out = memory.transpose(1, 2, 0)
    assert np.array_equal(ops.pointwise_conv2d(memory, w, out=out, backend=BACKEND), wanted)


# ---------------------------------------------------------------------------------------------------------------------
# Outputs that overlap themselves
# ---------------------------------------------------------------------------------------------------------------------


def strided(shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """Zeros of that shape; strides in elements."""
    memory = np.zeros(400, np.float32)
    return np.lib.stride_tricks.as_strided(memory[100:], shape, [4 * stride for stride in strides])


@pytest.mark.parametrize(
    "strides",
    [(0, 2, 1), (6, 0, 1), (6, 2, 0), (6, 1, 1), (2, 2, 1), (-2, 2, 1), (6, 4, 2), (1, 3, 2)],
    ids=str,
)
def test_out_that_overlaps_itself(strides: tuple[int, ...]) -> None:
    out = strided((2, 3, 2), strides)
    seen = [
        strides[0] * i + strides[1] * j + strides[2] * k for i in range(2) for j in range(3) for k in range(2)
    ]  # fmt: skip
    assert len(set(seen)) < len(seen)
    for layout in ("NHWC", "NCHW"):
        with pytest.raises(ValueError, match=r"^pointwise_conv2d: out has strides .*; each must have its own; make"):
            ops.pointwise_conv2d(
                np.ones((2, 3, 4), np.float32) if layout == "NHWC" else np.ones((4, 3, 2), np.float32),
                np.ones((4, 2), np.float32), layout=layout, out=out, backend=BACKEND,
            )  # fmt: skip
    assert not out.any()


def test_out_that_overlaps_itself_within_elements() -> None:
    memory = np.zeros(100, np.uint8)
    out = np.ndarray((2, 3, 2), np.float32, memory, strides=(24, 8, 2))
    with pytest.raises(ValueError, match="each must have its own"):
        ops.pointwise_conv2d(np.ones((2, 3, 4), np.float32), np.ones((4, 2), np.float32), out=out, backend=BACKEND)


@pytest.mark.parametrize(
    "strides", [(6, 2, 1), (1, 2, 6), (-6, 2, -1), (3, 12, 1), (2, 4, 1), (3, 4, 2), (9, 2, 3), (0, 2, 1)], ids=str
)
def test_out_with_odd_strides_that_does_not_overlap_itself(strides: tuple[int, ...]) -> None:
    rows = 1 if strides[0] == 0 else 2
    out = strided((rows, 3, 2), strides)
    ops.pointwise_conv2d(np.ones((rows, 3, 4), np.float32), np.ones((4, 2), np.float32), out=out, backend=BACKEND)
    assert np.all(out == 4)


# ---------------------------------------------------------------------------------------------------------------------
# dwconv2d: the familiar signature
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"stride": (1, 3), "padding": (2, 0), "dilation": (1, 2)},
        {"padding": "same"},
        {"padding": "same", "dilation": (2, 3)},
        {"padding": "valid", "stride": [2, 1]},
        {"stride": (2,), "padding": (1,), "dilation": (2,)},
    ],
    ids=str,
)
def test_dwconv2d_is_the_familiar_convolution(rng, groups, options) -> None:
    pytest.importorskip("onnxruntime")
    x = cases.integers(rng, (2, 6, 11, 12), np.float32)
    weight, bias = cases.integers(rng, (12, 6 // groups, 2, 3), np.float32), cases.integers(rng, (12,), np.float32)

    def pair(name: str, default: int) -> tuple[int, int]:
        value = options.get(name, default)
        value = (value,) * 2 if isinstance(value, int) else tuple(value)
        return value * 2 if len(value) == 1 else value

    stride, dilation = pair("stride", 1), pair("dilation", 1)
    if options.get("padding") == "same":
        # torch: dilation * (taps - 1) in all, the smaller half first
        totals = dilation[0] * 1, dilation[1] * 2
        pads = tuple((total // 2, total - total // 2) for total in totals)
    else:
        pads = tuple((side, side) for side in ((0, 0) if options.get("padding") == "valid" else pair("padding", 0)))
    wanted = cases.onnxruntime_conv(x, weight, bias, strides=stride, dilations=dilation, group=groups, pads=pads)
    result = ops.dwconv2d(x, weight, bias, groups=groups, **options)
    assert result.flags.c_contiguous
    assert np.array_equal(result, wanted)
    assert np.array_equal(ops.dwconv2d(x[0], weight, bias, groups=groups, **options), wanted[0])
    assert np.array_equal(ops.dwconv2d(x, weight, groups=groups, **options), wanted - bias[:, None, None])


def test_dwconv2d_takes_its_options_by_position() -> None:
    x, weight = np.ones((1, 3, 8, 8), np.float32), np.ones((3, 1, 3, 3), np.float32)
    assert ops.dwconv2d(x, weight, None, 2, 1, 1, 3).shape == (1, 3, 4, 4)
