"""Depthwise convolutions with several outputs a channel on repeated inputs: in blocks, in stretches, and when."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cases import Case, expected, make_data
from test_kernels import compute

from dwcpu import dispatch, explanations, runtime
from dwcpu.epilogue import Activation
from dwcpu.fused_geometry import SeparableGeometry
from dwcpu.geometry import ConvGeometry

REPEATED = [  # image, window, stride, dilation, padding, outputs a channel
    ((2, 23, 11, 3), (3, 3), (1, 1), (1, 1), "same", 5),
    ((1, 23, 11, 1), (5, 4), (2, 1), (1, 1), "same", 3),
    ((2, 17, 9, 20), (3, 3), (1, 2), (2, 1), "same", 2),
    ((2, 19, 8, 2), (2, 2), (3, 3), (1, 1), ((0, 0), (0, 0)), 8),  # rows that no window reads
    ((1, 12, 16, 3), (9, 9), (1, 1), (1, 2), "same", 4),
    ((3, 4, 6, 7), (3, 3), (2, 2), (1, 1), ((5, 1), (1, 1)), 3),  # the first rows see padding alone
    ((2, 1, 1100, 1), (1, 9), (1, 1), (1, 1), "same", 3),  # signals
    ((2, 1, 1500, 3), (1, 5), (1, 2), (1, 2), ((0, 0), (8, 0)), 5),
    ((1, 1, 900, 20), (1, 60), (1, 1), (1, 1), ((0, 0), (70, 40)), 2),
    ((2, 1, 700, 2), (1, 2), (1, 3), (1, 1), ((0, 0), (0, 0)), 8),
]


@pytest.mark.usefixtures("guarded_scratch", "share_even_the_smallest_work")
@pytest.mark.parametrize("number", range(len(REPEATED)))
@pytest.mark.parametrize("backend", ["cython", "mixed"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_repeated_inputs_in_blocks(dtype: type, backend: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few output rows or stretches of a signal, which share inputs, and blocks of all of them."""
    image, window, stride, dilation, padding, multiplier = REPEATED[number]
    case = Case("depthwise", image, image[3] * multiplier, window, stride, dilation, padding=padding)
    kernel = next((k for k in dispatch.kernels(dtype, backend) if k.label == "repeated"), None)
    if kernel is None:
        pytest.skip("the Cython kernels were not built, or have no fused multiply-add")
    rows = []
    for l1, l2 in (2048, 1024), (1 << 20, 1 << 20):
        monkeypatch.setattr(runtime, "cache_sizes", lambda l1=l1, l2=l2: runtime.Memory(l1, l2, 1 << 23))
        for threads, end in (1, "end"), (2, "start"):
            result = compute(kernel, case, "integers", "relu", True, True, threads, end)
            np.testing.assert_array_equal(result, expected(case, dtype, "integers", "relu", True, True))
        prepared = kernel.prepare(case.geometry, *make_data(case, dtype, "integers").kernel_weights())
        rows.append(int(prepared.plan["block_rows"][0]))
        segment = int(prepared.plan["segment"][0])
    assert bool(segment) == (image[1] == 1)
    assert rows[0] < (case.geometry.out_width // segment if segment else case.geometry.out_height) <= rows[1]


def test_windows_of_numba_on_repeated_inputs() -> None:
    compiled = runtime.cython_kernels()
    if compiled is None or not compiled.fused():
        pytest.skip("results would depend on who computes the window")
    geometry = ConvGeometry.depthwise((1, 80, 80, 3), (2, 2, 3, 7), padding="same")
    kernel = dispatch.choose(geometry, np.float32, 1)
    assert (kernel.label, kernel.backend) == ("repeated", "mixed")
    window = dispatch.choose(geometry.repeated, np.float32, 1)
    assert window.backend == "numba"
    assert kernel.prepare(geometry, np.zeros((2, 2, 3, 7), np.float32)).depthwise.kernel is window
    explained = explanations.explain(geometry, np.float32, 1)
    assert explained.reason.endswith(f"the window is that of {window.name}")
    only = dispatch.choose(geometry, np.float32, 1, "cython")
    assert only.prepare(geometry, np.zeros((2, 2, 3, 7), np.float32)).depthwise.kernel.backend == "cython"
    wide = dataclasses.replace(geometry, width=100_000)
    assert dispatch.choose(wide, np.float32, 1).label == "several"
    with pytest.raises(
        ValueError, match=f"{kernel.name} does not compute .*; it takes .*windows that are not too large for scratch"
    ):
        dispatch.choose(wide, np.float32, 1, kernel.name)


def test_threads_of_repeated_inputs_are_those_that_explain_says() -> None:
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    seen = set()
    for shape, window, stride in (
        ((1, 1, 300, 4), (3, 3, 4, 6), 1),
        ((2, 1, 300, 2), (3, 3, 2, 7), 2),
        ((1, 1, 100, 16), (1, 9, 16, 5), 2),
        ((1, 1, 9000, 3), (1, 9, 3, 5), 1),
        ((4, 1, 100, 16), (5, 5, 16, 7), 1),
        ((1, 60, 60, 3), (3, 3, 3, 6), 1),
    ):
        geometry = ConvGeometry.depthwise(shape, window, stride=stride, padding="same")
        for kernel in (k for k in dispatch.kernels(np.float64) if k.label == "repeated"):
            prepared = kernel.prepare(geometry, np.zeros(window))
            for threads in 1, 2, 3, 4:
                said = explanations.explain(geometry, np.float64, threads, kernel.name).threads
                assert said == prepared.grid(threads).threads, (geometry, kernel.name, threads)
                seen.add(said)
    assert seen == {1, 2, 3, 4}


def test_repeated_inputs_take_no_more_than_scratch_has() -> None:
    """Nor inputs that lie between windows, which nobody reads."""
    if runtime.cython_kernels() is None:
        pytest.skip("the Cython kernels were not built")
    signal = ConvGeometry.depthwise((1, 1, 10**7, 1), (1, 3, 1, 8), stride=(1, 4 * 10**6))
    wide = ConvGeometry.depthwise((1, 1, 10**7, 1), (1, 10**6, 1, 8), stride=(1, 10**6))
    apart = ConvGeometry.depthwise((1, 224, 224, 3), (3, 3, 3, 4), stride=8)
    for geometry in signal, wide, apart:
        assert dispatch.choose(geometry, np.float32, 1, "cython").label == "any"
    long = ConvGeometry.depthwise((1, 1, 10**7, 1), (1, 31, 1, 8), stride=(1, 2))
    kernel = dispatch.choose(long, np.float32, 1, "cython")
    assert kernel.label == "repeated"
    assert kernel.prepare(long, np.zeros((1, 31, 1, 8), np.float32)).grid(2).scratch <= runtime.MOST_SCRATCH


def test_fused_kernels_have_no_windows_on_repeated_inputs() -> None:
    geometry = SeparableGeometry.of((1, 60, 60, 3), (3, 3, 3, 6), (18, 32), padding=1)
    weights = [(np.zeros(shape, np.float32), None, Activation()) for shape in ((3, 3, 3, 6), (18, 32))]
    for kernel in (k for k in dispatch.kernels(np.float32) if k.op == "separable"):
        prepared = kernel.prepare(geometry, weights)
        if kernel.label == "fused":
            assert prepared.depthwise.kernel.label != "repeated"
        else:
            assert (prepared.parts[0].kernel.label == "repeated") == (kernel.backend != "numba")
