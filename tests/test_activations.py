"""Activations: near the reference over their whole range; the same bits from every kernel and place in a vector."""

from __future__ import annotations

import ctypes
from itertools import product

import numpy as np
import pytest

import dwcpu
from dwcpu import dispatch, reference, runtime
from dwcpu.abi import ACTIVATION_CODES
from dwcpu.epilogue import parse_activation
from dwcpu.geometry import ConvGeometry
from dwcpu.numba_kernels import activations as numba_activations

ACTIVATIONS = [
    None,
    "relu",
    "relu6",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "silu",
    "gelu",
    ("clip", -0.5, 0.25),
    ("leaky_relu", 0.1),
]
EVERY_ACTIVATION = pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
EVERY_DTYPE = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])


def applied(values: np.ndarray, activation: object, kernel: dispatch.Kernel) -> np.ndarray:
    """The activation of each value as the epilogue of a depthwise convolution that changes nothing."""
    x = values.reshape(1, 1, -1, 1).repeat(kernel.lanes + 1, axis=3)
    geometry = ConvGeometry.depthwise(x.shape, (1, 1, x.shape[3]))
    out = np.empty_like(x)
    ones = np.ones((1, 1, x.shape[3], 1), x.dtype)
    kernel.prepare(geometry, ones, None, parse_activation(activation, "test")).run(x, None, out, 1)
    out[np.isnan(out)] = np.nan  # which of two a product keeps is the processor's and the compiler's choice
    assert (out.view(np.uint8) == out[..., :1].repeat(x.shape[3], axis=3).view(np.uint8)).all(), "lanes differ"
    return out[0, 0, :, 0].copy()


def any_window_kernels(dtype: type) -> list[dispatch.Kernel]:
    """One depthwise kernel of each family that takes a 1x1 window on a handful of channels."""
    found = {}
    for kernel in dispatch.kernels(dtype):
        if kernel.op == "depthwise" and kernel.supports(
            ConvGeometry.depthwise((1, 1, 9, kernel.lanes + 1), (1, 1, kernel.lanes + 1))
        ):
            found.setdefault(kernel.backend, kernel)
    return list(found.values())


@EVERY_DTYPE
@EVERY_ACTIVATION
def test_close_to_the_reference_everywhere(activation: object, dtype: type) -> None:
    values = np.concatenate([np.linspace(-12, 12, 4001), np.linspace(-120, 120, 801), np.geomspace(1e-30, 1e30, 61)])
    values = np.concatenate([values, -np.geomspace(1e-30, 1e30, 61)]).astype(dtype)
    with np.errstate(over="ignore"):
        right = reference.activate(values.astype(np.float64), parse_activation(activation, "test")).astype(dtype)
    limits = np.finfo(dtype)
    for kernel in any_window_kernels(dtype):
        result = applied(values, activation, kernel)
        # A few units in the last place, of the result or of the subnormal factor that it was made from (zero for gelu).
        smallest = limits.smallest_normal if activation == "gelu" else limits.smallest_subnormal * 4
        allowed = 6 * limits.eps * np.abs(right) + np.abs(values) * smallest
        if activation == "gelu" and dtype is np.float64:
            # The reference rounds the argument of erfc, whose tail magnifies that by the square of the argument.
            allowed += np.minimum(values**2, 2000) * limits.eps * np.abs(right)
        off = np.abs(result.astype(np.longdouble) - right)
        worst = (off - allowed).argmax()
        assert (off <= allowed).all(), f"{kernel.name}: {values[worst]} gives {result[worst]}, not {right[worst]}"


@EVERY_DTYPE
@EVERY_ACTIVATION
def test_special_values(activation: object, dtype: type) -> None:
    values = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo(dtype).max, np.finfo(dtype).min], dtype)
    with np.errstate(all="ignore"):
        right = reference.activate(values.astype(np.float64), parse_activation(activation, "test")).astype(dtype)
    for kernel in any_window_kernels(dtype):
        # 0.0 + -0.0 is 0.0: the sum starts from a bias of zero
        np.testing.assert_array_equal(applied(values, activation, kernel), right, err_msg=kernel.name)


@EVERY_DTYPE
@pytest.mark.parametrize("name", ACTIVATION_CODES)
def test_same_bits_from_every_family(name: str, dtype: type, rng: np.random.Generator) -> None:
    """The second passes themselves, since kernels of both families take the compiled ones where they are."""
    family = runtime.cython_kernels()
    if family is None or not family.fused():
        pytest.skip("there are no compiled kernels that round alike")
    limits = np.finfo(dtype)
    values = [rng.normal(0, 5, 4064), rng.normal(0, 40, 2000), rng.uniform(-120, 0, 2000), rng.uniform(-760, 0, 2000)]
    values += [np.array([0, -0.0, np.inf, -np.inf, np.nan, limits.max, limits.tiny, -limits.smallest_subnormal])]
    values += [np.array([1, 2, 3, 4])]  # which are left alone, as is the end of the other row
    x = np.concatenate(values).astype(dtype).reshape(2, -1)
    code, results = ACTIVATION_CODES[name], []
    for address in (family.activations(limits.dtype.name)[code], numba_activations.address(limits.dtype, code)):
        out = x.copy()
        second_pass = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_double)(address)
        second_pass(out.ctypes.data, 2, out.shape[1], out.shape[1] - 4, 0.25)
        assert out[:, -4:].tobytes() == x[:, -4:].tobytes(), "values that are not named were written"
        results.append(out)
    np.testing.assert_array_equal(*results)
    numbers = ~np.isnan(results[0])
    assert results[0][numbers].tobytes() == results[1][numbers].tobytes()


@EVERY_DTYPE
def test_compiled_second_passes_take_any_block(dtype: type, rng: np.random.Generator) -> None:
    """Each value once, in groups of vectors, whatever the rows and its neighbours; nothing beside them is written."""
    family = runtime.cython_kernels()
    if family is None:
        pytest.skip("the Cython kernels were not built")
    name = np.dtype(dtype).name
    for address in (*family.activations(name).values(), *family.functions(name).values()):
        second_pass = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_double)(address)
        for rows, columns, gap in product((0, 1, 2, 5, 7), (1, 3, 8, 15, 16, 17, 40, 64, 97), (0, 1, 16)):
            step = columns + gap
            x = rng.normal(0, 5, rows * step + 70).astype(dtype)
            x[::29] *= 400  # some are so far from zero that compiled passes compute them, or all of a group, otherwise
            x[7::61] = np.nan
            right, one = x.copy(), np.empty(1, dtype)
            for row in range(rows):
                for at in range(row * step, row * step + columns):
                    one[0] = x[at]
                    second_pass(one.ctypes.data, 1, 1, 1, 0.25)
                    right[at] = one[0]
            second_pass(x.ctypes.data, rows, step, columns, 0.25)
            assert x.tobytes() == right.tobytes(), (rows, columns, step)


@EVERY_ACTIVATION
@pytest.mark.parametrize("backend", ["auto", "numba"])
def test_as_epilogue_of_every_operation(activation: object, backend: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 9, 7, 20)).astype(np.float32)
    dw = rng.standard_normal((3, 3, 20)).astype(np.float32)
    pw = rng.standard_normal((20, 19)).astype(np.float32)
    w = rng.standard_normal((3, 3, 20, 19)).astype(np.float32)
    calls = {
        "depthwise": lambda which: dwcpu.depthwise_conv2d(x, dw, padding=1, activation=activation, backend=which),
        "pointwise": lambda which: dwcpu.pointwise_conv2d(x, pw, activation=activation, backend=which),
        "conv": lambda which: dwcpu.conv2d(x, w, stride=2, padding=1, activation=activation, backend=which),
        "separable": lambda which: dwcpu.separable_conv2d(
            x, dw, pw, padding=1, dw_activation=activation, pw_activation=activation, backend=which
        ),
    }
    for name, call in calls.items():
        np.testing.assert_allclose(call(backend), call("reference"), rtol=2e-4, atol=2e-4, err_msg=name)
