"""The specification itself: against loops without NumPy, against ONNX Runtime, and at its corners."""

from __future__ import annotations

import cases
import numpy as np
import pytest
from hypothesis import given, settings

from dwcpu import dispatch, reference, runtime
from dwcpu.epilogue import Activation, parse_activation
from dwcpu.geometry import ConvGeometry

NONE = Activation()


def by_loops(x: np.ndarray, w: np.ndarray, bias: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """The definition, one multiplication at a time. `w` is (KH, KW, Cin / groups, Cout)."""
    g = geometry
    out = np.zeros(g.out_shape)
    inputs, outputs = g.in_channels // g.groups, g.out_channels // g.groups
    for n, i, j, o in np.ndindex(*g.out_shape):
        total = float(bias[o])
        for kh, kw, c in np.ndindex(g.kernel_h, g.kernel_w, inputs):
            row, column = (
                i * g.stride_h - g.pad_top + kh * g.dilation_h,
                j * g.stride_w - g.pad_left + kw * g.dilation_w,
            )
            if 0 <= row < g.height and 0 <= column < g.width:
                total += float(x[n, row, column, o // outputs * inputs + c]) * float(w[kh, kw, c, o])
        out[n, i, j, o] = total
    return out


def as_grouped(w: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Depthwise or pointwise weights as those of a grouped convolution."""
    if geometry.op == "depthwise":
        return w.reshape(geometry.kernel_h, geometry.kernel_w, 1, geometry.out_channels)
    return w[None, None] if geometry.op == "pointwise" else w


SMALL = [
    case
    for op in ("depthwise", "pointwise", "conv")
    for case in cases.ODD_CASES[op]
    if case.geometry.macs < 20_000 and max(case.x_shape) < 60
]


@pytest.mark.parametrize("case", cases.params(SMALL))
def test_is_the_definition(case) -> None:
    data = cases.make_data(case, np.float64, "integers")
    wanted = by_loops(data.x, as_grouped(data.weights[0], case.geometry), data.biases[0], case.geometry)
    for dtype in cases.DTYPES:
        result = cases.expected(case, dtype, "integers")
        assert result.dtype == dtype
        assert np.array_equal(result, wanted)


@pytest.mark.parametrize("op", ["depthwise", "conv"])
def test_agrees_with_onnxruntime(op) -> None:
    pytest.importorskip("onnxruntime")

    @settings(max_examples=60)
    @given(cases.case_strategy(op))
    def check(case) -> None:
        geometry, data = case.geometry, cases.make_data(case, np.float32, "normal")
        if geometry.batch == 0:
            return
        # ONNX Runtime's and our windows may fall into the padding entirely; both then give the bias.
        theirs = cases.onnxruntime_conv(
            data.x.transpose(0, 3, 1, 2),
            as_grouped(data.weights[0], geometry).transpose(3, 2, 0, 1),
            data.biases[0],
            strides=case.stride,
            dilations=case.dilation,
            group=geometry.groups,
            pads=((geometry.pad_top, geometry.pad_bottom), (geometry.pad_left, geometry.pad_right)),
        )
        bound = cases.error_bound(data.x, data.weights[0], geometry, data.biases[0])
        assert np.all(np.abs(theirs.transpose(0, 2, 3, 1) - cases.expected(case, np.float32, "normal")) <= bound)

    check()


def test_same_padding_is_onnx_same_upper() -> None:
    pytest.importorskip("onnxruntime")
    for size in range(1, 12):
        for taps, stride in ((2, 1), (3, 1), (3, 2), (5, 3), (4, 2)):
            case = cases.Case("depthwise", (1, size, size + 3, 4), 4, (taps, taps), (stride, stride))
            data = cases.make_data(case, np.float32, "integers")
            theirs = cases.onnxruntime_conv(
                data.x.transpose(0, 3, 1, 2),
                as_grouped(data.weights[0], case.geometry).transpose(3, 2, 0, 1),
                data.biases[0],
                strides=(stride, stride),
                group=4,
                auto_pad="SAME_UPPER",
            )
            assert np.array_equal(theirs.transpose(0, 2, 3, 1), cases.expected(case, np.float32, "integers")), case


def test_depthwise_output_channels_are_channel_times_m_plus_m() -> None:
    geometry = ConvGeometry.depthwise((1, 1, 1, 2), (1, 1, 2, 3))
    x, w = np.array([1.0, 10.0]).reshape(1, 1, 1, 2), np.array([[1.0, 2, 3], [4, 5, 6]]).reshape(1, 1, 2, 3)
    assert reference.depthwise(x, w, None, None, geometry, NONE).ravel().tolist() == [1, 2, 3, 40, 50, 60]


def test_a_sum_that_starts_from_minus_zero_and_adds_it_stays_minus_zero() -> None:
    x, w = np.ones((1, 1, 1, 16), np.float32), np.full((1, 1, 16, 1), -0.0, np.float32)
    geometry = ConvGeometry.depthwise(x.shape, w.shape)
    assert np.signbit(reference.depthwise(x, w, w.ravel(), None, geometry, NONE)).all()
    for kernel in dispatch.kernels(np.float32, "cython" if runtime.cython_kernels() else "numba"):
        if kernel.supports(geometry):
            out = np.empty_like(x)
            kernel.prepare(geometry, w, w.ravel()).run(x, None, out, 1)
            assert np.signbit(out).all(), kernel.name


def test_separable_rounds_between_its_steps() -> None:
    case = cases.Case("separable", (1, 6, 6, 5), 7, (3, 3), multiplier=2)
    data, geometry = cases.make_data(case, np.float32, "normal"), case.geometry
    relu = parse_activation("relu", "test")
    between = reference.depthwise(data.x, data.weights[0], data.biases[0], None, geometry.depthwise, relu)
    wanted = reference.pointwise(between, data.weights[1], data.biases[1], data.residual, geometry.pointwise, relu)
    first, second = zip(data.weights, data.biases, (relu, relu), strict=True)
    assert between.dtype == np.float32
    assert np.array_equal(reference.separable(data.x, first, second, data.residual, geometry), wanted)


@pytest.mark.parametrize("op", ["depthwise", "pointwise", "conv"])
def test_bias_residual_activation_in_this_order(op) -> None:
    case = cases.ODD_CASES[op][0]
    plain = cases.expected(case, np.float64, "integers", with_bias=False)
    data = cases.make_data(case, np.float64, "integers")
    result = cases.expected(case, np.float64, "integers", "relu6", with_residual=True)
    assert np.array_equal(result, np.clip(plain + data.biases[0] + data.residual, 0, 6))


def test_padding_taps_are_left_out_not_multiplied() -> None:
    geometry = ConvGeometry.depthwise((1, 1, 1, 1), (3, 3, 1), padding=1)
    x, w = np.ones((1, 1, 1, 1), np.float32), np.full((3, 3, 1), np.inf, np.float32)
    w[1, 1] = 2
    assert reference.depthwise(x, w, None, None, geometry, NONE).item() == 2
    conv = ConvGeometry.conv((1, 1, 1, 1), (3, 3, 1, 1), padding=1)
    assert reference.conv(x, w[..., None], None, None, conv, NONE).item() == 2


def test_nan_and_infinity_go_through_silently() -> None:
    geometry = ConvGeometry.depthwise((1, 1, 3, 1), (1, 1, 1))
    x = np.array([np.nan, np.inf, 3e38], np.float32).reshape(1, 1, 3, 1)
    result = reference.depthwise(x, np.full((1, 1, 1), 2, np.float32), None, None, geometry, NONE).ravel()
    assert np.isnan(result[0])
    assert result[1:].tolist() == [np.inf, np.inf]
    zeros = reference.depthwise(x, np.zeros((1, 1, 1), np.float32), None, None, geometry, NONE).ravel()
    assert np.isnan(zeros[:2]).all()
    assert zeros[2] == 0


def test_sums_are_rounded_once() -> None:
    geometry = ConvGeometry.pointwise((1, 1, 1, 3), (3, 1))
    x, w = np.array([1e8, 1, -1e8], np.float32).reshape(1, 1, 1, 3), np.ones((3, 1), np.float32)
    assert reference.pointwise(x, w, None, None, geometry, NONE).item() == 1


# ---------------------------------------------------------------------------------------------------------------------
# The bound that kernel tests use
# ---------------------------------------------------------------------------------------------------------------------


def sequential(x: np.ndarray, w: np.ndarray, bias: np.ndarray, geometry: ConvGeometry, skip: int = -1) -> np.ndarray:
    """A depthwise sum in the precision of `x`, tap after tap, multiplied and added apart; tap `skip` left out."""
    pads = ((0, 0), (geometry.pad_top, geometry.pad_bottom), (geometry.pad_left, geometry.pad_right), (0, 0))
    padded = np.pad(x, pads)
    total = np.broadcast_to(bias, geometry.out_shape).astype(x.dtype)
    for tap, (kh, kw) in enumerate(np.ndindex(geometry.kernel_h, geometry.kernel_w)):
        if tap != skip:
            seen = padded[:, kh : kh + geometry.out_height, kw : kw + geometry.out_width]
            total += seen * w[kh, kw].reshape(-1)
    return total


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_error_bound_admits_honest_rounding_and_nothing_more(dtype) -> None:
    case = cases.Case("depthwise", (1, 20, 20, 16), 16, (5, 5))
    data, geometry = cases.make_data(case, dtype, "normal"), case.geometry
    arrays = data.x, data.weights[0], data.biases[0], geometry
    bound = cases.error_bound(data.x, data.weights[0], geometry, data.biases[0])
    exact = cases.expected(case, dtype, "normal")
    honest = np.abs(sequential(*arrays) - exact)
    assert np.all(honest <= bound)
    # A forgotten tap (kh = 1, so that only the top row does not need it) is far outside.
    assert np.mean(np.abs(sequential(*arrays, skip=7) - exact)[:, 1:] > bound[:, 1:]) > 0.99
    magnitude = sequential(*(np.abs(array) for array in arrays[:3]), geometry)
    assert np.all(bound <= 30 * np.finfo(dtype).eps * magnitude)


def test_error_bound_counts_terms_and_magnitudes() -> None:
    x, w = np.full((1, 1, 1, 4), -2, np.float32), np.full((4, 1), 3, np.float32)
    bound = cases.error_bound(x, w, ConvGeometry.pointwise(x.shape, w.shape))
    eps = float(np.finfo(np.float32).eps)
    assert bound.item() == pytest.approx((4 + 3) * eps * 24)
    more = cases.error_bound(x, w, ConvGeometry.pointwise(x.shape, w.shape), np.array([-5.0]), c=2)
    assert more.item() == pytest.approx(2 * (4 + 3) * eps * 29)


def test_error_bound_is_positive_where_products_vanish() -> None:
    x, w = np.full((1, 1, 1, 1), 1e-30, np.float32), np.full((1, 1), 1e-15, np.float32)
    assert cases.error_bound(x, w, ConvGeometry.pointwise(x.shape, w.shape)).item() >= np.finfo(np.float32).tiny * 1e-7


def test_fused_error_bound_admits_float32_steps() -> None:
    case = cases.Case("separable", (1, 12, 12, 24), 40, (3, 3))
    data, geometry = cases.make_data(case, np.float32, "normal"), case.geometry
    between = sequential(data.x, data.weights[0], data.biases[0], geometry.depthwise)
    result = between @ data.weights[1] + data.biases[1]
    off = np.abs(result - cases.expected(case, np.float32, "normal"))
    bound = cases.fused_error_bound(data, geometry)
    assert np.all(off <= bound)
    assert np.all(bound < 1e-2)
