"""Shapes: padding rules, output sizes, costs, and the limits that kernels rely on."""

from __future__ import annotations

import pickle
from math import ceil

import cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwcpu.cost import compare_cost
from dwcpu.fused_geometry import InvertedResidualGeometry, SeparableGeometry
from dwcpu.geometry import ConvGeometry, taps_inside
from dwcpu.padding import normalise_padding, normalise_padding_1d, normalise_pair


def positions(size: int, taps: int, stride: int, dilation: int, before: int, after: int) -> int:
    """Output size by counting: windows that fit into the padded axis."""
    padded, span = before + size + after, (taps - 1) * dilation + 1
    return sum(1 for start in range(0, padded, stride) if start + span <= padded)


@given(
    st.integers(1, 30), st.integers(1, 7), st.integers(1, 4), st.integers(1, 4), st.integers(0, 6), st.integers(0, 6)
)
def test_output_size_is_the_number_of_windows_that_fit(size, taps, stride, dilation, before, after) -> None:
    count = positions(size, taps, stride, dilation, before, after)
    options = {"stride": (stride, 1), "padding": ((before, after), (0, 0)), "dilation": (dilation, 1)}
    if count == 0:
        with pytest.raises(ValueError, match="the output would be empty"):
            ConvGeometry.depthwise((1, size, 1, 2), (taps, 1, 2), **options)
    else:
        assert ConvGeometry.depthwise((1, size, 1, 2), (taps, 1, 2), **options).out_height == count


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 5), st.integers(1, 4))
def test_same_padding_is_the_least_that_gives_size_over_stride(size, taps, stride, dilation) -> None:
    (before, after), _ = normalise_padding("same", (size, 1), (taps, 1), (stride, 1), (dilation, 1), "test")
    assert positions(size, taps, stride, dilation, before, after) == ceil(size / stride)
    assert after - before in (0, 1)
    if before + after:
        assert positions(size, taps, stride, dilation, before, after - 1) < ceil(size / stride)


@pytest.mark.parametrize(
    ("padding", "meaning"),
    [
        (0, ((0, 0), (0, 0))),
        (2, ((2, 2), (2, 2))),
        ((1, 2), ((1, 1), (2, 2))),
        ([1, 2], ((1, 1), (2, 2))),
        (((1, 2), (3, 4)), ((1, 2), (3, 4))),
        ([[1, 2], (3, 4)], ((1, 2), (3, 4))),
        (np.int64(3), ((3, 3), (3, 3))),
        ("valid", ((0, 0), (0, 0))),
        ("same", ((1, 1), (0, 1))),
    ],
)
def test_ways_to_write_padding(padding, meaning) -> None:
    assert normalise_padding(padding, (5, 5), (3, 2), (1, 1), (1, 1), "test") == meaning


@pytest.mark.parametrize(
    ("padding", "meaning"),
    [(0, (0, 0)), (2, (2, 2)), ((1, 4), (1, 4)), ("valid", (0, 0)), ("same", (3, 3)), ("causal", (6, 0))],
)
def test_ways_to_write_padding_of_a_signal(padding, meaning) -> None:
    assert normalise_padding_1d(padding, 10, 4, 1, 2, "test") == meaning


def test_pairs_become_plain_integers() -> None:
    pair = normalise_pair((np.int32(2), np.uint8(3)), "stride", "test")
    assert pair == (2, 3)
    assert {type(value) for value in pair} == {int}


def test_a_signal_is_an_image_of_height_one() -> None:
    geometry = ConvGeometry.depthwise1d((2, 100, 8), (4, 8, 3), stride=2, dilation=3, padding=(5, 1))
    assert geometry.x_shape == (2, 1, 100, 8)
    assert geometry.w_shape == (1, 4, 8, 3)
    assert geometry.out_shape == (2, 1, (100 + 6 - 10) // 2 + 1, 24)
    assert (geometry.stride_h, geometry.dilation_h, geometry.pad_top, geometry.pad_bottom) == (1, 1, 0, 0)
    assert ConvGeometry.depthwise1d((1, 100, 8), (4, 8), padding="causal").out_shape == (1, 1, 100, 8)


def test_depthwise_shapes_and_cost() -> None:
    geometry = ConvGeometry.depthwise((2, 9, 11, 6), (3, 5, 6, 2), stride=2, padding=((0, 1), (2, 2)))
    assert geometry.out_shape == (2, 4, 6, 12)
    assert geometry.w_shape == (3, 5, 6, 2)
    assert (geometry.taps, geometry.multiplier, geometry.groups) == (15, 2, 6)
    assert geometry.macs == 2 * 4 * 6 * 12 * 15
    # rows 0-2, 2-4, 4-6 and 6-8; columns -2-2, 0-4, 2-6, 4-8, 6-10 and 8-12 of eleven
    assert geometry.flops == 2 * 2 * 12 * (4 * 3) * (3 + 5 + 5 + 5 + 5 + 3)
    assert geometry.bytes(4) == 4 * (2 * 9 * 11 * 6 + 3 * 5 * 6 * 2 + 2 * 4 * 6 * 12)
    assert ConvGeometry.depthwise((2, 9, 11, 6), (3, 5, 6)).w_shape == (3, 5, 6, 1)


def test_conv_and_pointwise_shapes_and_cost() -> None:
    conv = ConvGeometry.conv((1, 8, 8, 6), (3, 3, 2, 9), groups=3, padding=1)
    assert conv.out_shape == (1, 8, 8, 9)
    assert conv.w_shape == (3, 3, 2, 9)
    assert conv.macs == 64 * 9 * 9 * 2
    assert conv.multiplier == 1
    pointwise = ConvGeometry.pointwise((3, 8, 8, 6), (6, 5))
    assert pointwise.out_shape == (3, 8, 8, 5)
    assert pointwise.w_shape == (6, 5)
    assert pointwise.macs == 3 * 64 * 30


def test_separable_is_both_steps() -> None:
    geometry = SeparableGeometry.of((1, 8, 8, 6), (3, 3, 6, 2), (12, 5), stride=2, padding="same")
    assert geometry.op == "separable"
    assert geometry.x_shape == (1, 8, 8, 6)
    assert geometry.depthwise.out_shape == geometry.pointwise.x_shape == (1, 4, 4, 12)
    assert geometry.out_shape == (1, 4, 4, 5)
    assert geometry.macs == geometry.depthwise.macs + geometry.pointwise.macs
    assert geometry.bytes(8) == 8 * (8 * 8 * 6 + 9 * 12 + 12 * 5 + 16 * 5)


def test_only_taps_on_the_image_are_work() -> None:
    """Counted one by one, as no implementation has to multiply by zero."""
    for size in (1, 2, 5, 9):
        for taps in (1, 2, 3, 7):
            for stride in (1, 2, 3, 8):
                for dilation in (1, 2, 4):
                    for pad in (0, 1, 5, 20):
                        span = (taps - 1) * dilation + 1
                        outputs = (size + pad + 1 - span) // stride + 1
                        if outputs < 1:
                            continue
                        places = [o * stride - pad + k * dilation for o in range(outputs) for k in range(taps)]
                        inside = sum(0 <= place < size for place in places)
                        assert taps_inside(outputs, taps, stride, dilation, pad, size) == inside
    geometry = ConvGeometry.depthwise((1, 7, 7, 4), (31, 31, 4), padding=15)
    assert geometry.flops == 2 * 4 * 7**4 < 2 * geometry.macs
    assert ConvGeometry.pointwise((3, 8, 8, 6), (6, 5)).flops == 2 * 3 * 64 * 30
    fused = SeparableGeometry.of((1, 8, 8, 6), (3, 3, 6), (6, 5), padding=1)
    assert fused.flops == 2 * 6 * 22 * 22 + 2 * 64 * 30


@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("dilation", [1, 3, 20])
def test_only_what_is_needed_is_moved(stride: int, dilation: int) -> None:
    for size, taps, pad in ((9, 3, 1), (1, 7, 60), (12, 2, 0), (7, 7, 70), (30, 1, 0)):
        if size + 2 * pad < (taps - 1) * dilation + 1:
            continue
        geometry = ConvGeometry.depthwise(
            (2, size, size, 3), (taps, taps, 3, 2), stride=stride, dilation=dilation, padding=pad
        )
        places = {(o * stride + k * dilation - pad, k) for o in range(geometry.out_height) for k in range(taps)}
        inside = {(place, k) for place, k in places if 0 <= place < size}
        pixels, weights = (len({each[i] for each in inside}) ** 2 for i in (0, 1))
        assert (geometry.pixels_read, geometry.weights_read) == (pixels, weights * 6)
        assert geometry.bytes(4) == 4 * (2 * pixels * 3 + weights * 6 + 2 * geometry.out_height**2 * 6)
    long = ConvGeometry.depthwise1d((1, 10**6, 4), (3, 4), stride=2, dilation=3)  # not counted one by one
    assert 4 * 10**5 < long.pixels_read <= 10**6


def test_pixels_that_nobody_reads_are_not_expanded() -> None:
    geometry = InvertedResidualGeometry.of((1, 56, 56, 8), (8, 48), (3, 3, 48), (48, 8), stride=8)
    assert geometry.pixels_read == 21**2
    assert geometry.flops == 2 * 21**2 * 8 * 48 + geometry.separable.flops
    assert geometry.bytes(4) == 4 * (21**2 * 8 + 8 * 48 + 9 * 48 + 48 * 8 + 7 * 7 * 8)


def test_an_empty_batch_costs_nothing() -> None:
    geometry = ConvGeometry.depthwise((0, 8, 8, 6), (3, 3, 6))
    assert geometry.out_shape == (0, 6, 6, 6)
    assert geometry.macs == 0


def test_geometries_are_values() -> None:
    one, two = (ConvGeometry.depthwise((1, 8, 8, 6), (3, 3, 6), padding=pad) for pad in ("same", 1))
    assert one == two
    assert hash(one) == hash(two)
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(AttributeError):
        one.batch = 2


def test_sizes_that_could_wrap_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2\*\*62 is the limit"):
        ConvGeometry.depthwise((2**20, 2**20, 2**20, 4), (1, 1, 4))
    with pytest.raises(ValueError, match=r"2\*\*62 is the limit"):
        ConvGeometry.pointwise((1, 2**20, 2**20, 2**11), (2**11, 2**12))
    with pytest.raises(ValueError, match=r"2\*\*62 is the limit"):
        ConvGeometry.depthwise((1, 1, 1, 64), (1, 1, 64), padding=2**30, stride=2**30)
    for option in ("stride", "padding", "dilation"):
        with pytest.raises(ValueError, match=r"below 2\*\*31"):
            ConvGeometry.depthwise((1, 8, 8, 4), (1, 1, 4), **{option: 2**31})
    # An empty batch of huge images would never be computed, but its offsets could be.
    with pytest.raises(ValueError, match=r"2\*\*62 is the limit"):
        ConvGeometry.pointwise((0, 2**30, 2**30, 8), (8, 8))


def test_compare_cost() -> None:
    cost = compare_cost(112, 112, 32, 64, 3)
    assert (cost.standard_parameters, cost.separable_parameters) == (9 * 32 * 64, 9 * 32 + 32 * 64)
    assert (cost.standard_macs, cost.separable_macs) == (112 * 112 * 9 * 32 * 64, 112 * 112 * (9 * 32 + 32 * 64))
    assert cost.ratio == pytest.approx(1 / 64 + 1 / 9)
    assert compare_cost(112, 112, 32, 64, 3, stride=2).standard_macs * 4 == cost.standard_macs
    assert compare_cost(10, 10, 4, 4, (1, 5)).standard_parameters == 80
    lines = str(cost).splitlines()
    assert [line.split()[0] for line in lines] == ["parameters", "standard", "separable", "ratio"]
    assert "18,432" in lines[1]
    with pytest.raises(ValueError, match="compare_cost: out_channels is 0"):
        compare_cost(8, 8, 4, 0, 3)


@pytest.mark.parametrize("op", cases.OPS)
def test_every_shared_case_has_a_geometry_and_an_id_of_its_own(op) -> None:
    found = list(dict.fromkeys([*cases.ODD_CASES[op], *cases.cases_for_tile(op, 4, 6, 8)]))
    assert len({str(case) for case in found}) == len(found)
    assert all(min(case.geometry.out_shape[1:]) >= 1 for case in found)
