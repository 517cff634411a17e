"""Kernels that treat every element on its own: what NumPy computes, to the bit; functions near their exact values."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from running import DTYPES, run

from dwcpu import elementwise, pixels, runtime
from dwcpu.epilogue import Activation, parse_activation

pytestmark = pytest.mark.skipif(runtime.cython_kernels() is None, reason="these kernels are compiled ahead of time")

NONE = Activation()


@pytest.fixture(autouse=True)
def everything_is_worth_threads(monkeypatch) -> None:
    """So that the small tensors of these tests are shared among threads at all."""
    monkeypatch.setattr(pixels, "_WORTH_BYTES", 0)


def random(*shape: int, dtype: np.dtype) -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 5, 8, 4095, 4096, 4097, 400_001])
@pytest.mark.parametrize("spec", [None, "relu", ("clip", -0.5, 0.25)], ids=str)
def test_sums_and_maps_are_those_of_numpy(size, spec, dtype) -> None:
    x, other = random(size, dtype=dtype), random(size, dtype=dtype)[::-1].copy()
    activation, out = parse_activation(spec, "test"), np.empty_like(x)
    low, high = activation.low, activation.high
    run(elementwise.combine("add", x, other, out, activation), x, out, other)
    np.testing.assert_array_equal(out, np.minimum(np.maximum(x + other, low), high))
    run(elementwise.mapped((size,), dtype, 1.7, -0.3, activation), x, out)
    expected = x * dtype.type(1.7) + dtype.type(-0.3)
    np.testing.assert_array_equal(out, np.minimum(np.maximum(expected, low), high))
    run(elementwise.fill((size,), dtype, 2.5), x, out)
    assert (out == 2.5).all()


@pytest.mark.parametrize("spec", ["hardswish", "sigmoid", "silu", "gelu", "hardsigmoid", ("leaky_relu", 0.1)], ids=str)
def test_activations_alone_are_those_of_convolutions(spec) -> None:
    import dwcpu

    x = random(3, 1000, dtype=DTYPES[0]) * 4
    out = np.empty_like(x)
    run(elementwise.mapped(x.shape, x.dtype, 1.0, 0.0, parse_activation(spec, "test")), x, out)
    expected = dwcpu.depthwise_conv2d(x.reshape(1, 3, 1000, 1), np.ones((1, 1, 1), np.float32), activation=spec)
    np.testing.assert_array_equal(out, expected.reshape(x.shape))


UFUNCS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "multiply": np.multiply,
    "prelu": lambda a, b: np.where(a < 0, a * b, a),
    "subtract": np.subtract,
}

#: Shapes of the two, and the axes of the result from the outermost to the innermost.
BROADCAST = {
    "alike": ((2, 9, 5, 7), (2, 9, 5, 7), (0, 1, 2, 3)),
    "a vector": ((3, 4, 33), (33,), (0, 1, 2)),
    "a vector first": ((33,), (3, 4, 33), (0, 1, 2)),
    "channels of images": ((2, 19, 5, 7), (19, 1, 1), (0, 2, 3, 1)),
    "channels of each image": ((3, 8, 5, 7), (3, 8, 1, 1), (0, 2, 3, 1)),
    "few channels": ((2, 3, 5, 7), (3, 1, 1), (0, 2, 3, 1)),
    "pixels": ((2, 9, 5, 7), (1, 1, 5, 7), (0, 2, 3, 1)),
    "columns": ((2, 9, 5, 7), (7,), (0, 2, 3, 1)),
    "rows and columns": ((5, 1), (1, 40), (0, 1)),
    "columns and rows": ((1, 40), (5, 1), (0, 1)),
    "channels and pixels": ((2, 20, 1, 1), (2, 1, 6, 5), (0, 2, 3, 1)),
    "one number": ((5, 4, 3), (1,), (0, 1, 2)),
    "one without axes": ((5, 4, 3), (), (0, 1, 2)),
    "one number of each": ((1, 1), (1,), (0, 1)),
    "four axes": ((3, 1, 5, 9), (3, 4, 1, 9), (0, 1, 2, 3)),
    "long runs": ((2, 3, 5001), (2, 1, 5001), (0, 1, 2)),
    "short runs of long ones": ((700, 12), (700, 1), (0, 1)),
    "many rows of four axes": ((3, 1, 30, 33), (3, 40, 1, 33), (0, 1, 2, 3)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("known", [None, 0, 1])
@pytest.mark.parametrize("what", BROADCAST)
@pytest.mark.parametrize("name", UFUNCS)
def test_pairs_are_those_of_numpy(name, what, known, dtype) -> None:
    first, second, order = BROADCAST[what]
    a, b = random(*first, dtype=dtype), np.negative(random(*second, dtype=dtype))
    a.flat[0], b.flat[-1], a.flat[-1] = np.nan, np.inf, -0.0
    with np.errstate(all="ignore"):
        expected = UFUNCS[name](a, b)
    shape = expected.shape
    back = np.argsort(order)
    out = np.empty([shape[axis] for axis in order], dtype).transpose(back)
    pair = [ordered(each, out) if at != known else each for at, each in enumerate((a, b))]
    kernel = elementwise.combine(name, *pair, out, NONE, known)
    given = [each for at, each in enumerate(pair) if at != known]
    # `run` wants arrays that lie as C has them: the memory of these
    memory = [np.ascontiguousarray(lying(each)) for each in given]
    place = np.empty([shape[axis] for axis in order], dtype)
    run(kernel, memory[0], place, memory[1] if known is None else None)
    found = place.transpose(back)
    np.testing.assert_array_equal(found, expected)
    if name not in ("maximum", "minimum"):  # either zero will do
        np.testing.assert_array_equal(np.signbit(found) & (found == 0), np.signbit(expected) & (expected == 0))


def ordered(array: np.ndarray, out: np.ndarray) -> np.ndarray:
    """The same elements, in the order of those of `out`."""
    made = elementwise.in_order(array.shape, out)
    np.copyto(made, array)
    return made


def lying(array: np.ndarray) -> np.ndarray:
    """The same memory with its axes in the order of their steps."""
    return array.transpose(sorted(range(array.ndim), key=lambda axis: -array.strides[axis]))


@pytest.mark.parametrize("spec", ["relu", "relu6", "silu", ("leaky_relu", 0.1)], ids=str)
def test_activations_come_after_them(spec) -> None:
    x, other = random(5, 900, 19, dtype=DTYPES[0]), random(19, dtype=DTYPES[0])
    out, expected = np.empty_like(x), np.empty_like(x)
    activation = parse_activation(spec, "test")
    run(elementwise.combine("subtract", x, other, x, activation, 1), x, out)
    run(elementwise.mapped(x.shape, x.dtype, 1.0, -0.0, activation), x - other, expected)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 700), (40, 5), (2, 515), (1, 9000)], ids=str)
def test_functions_come_before_them(shape, dtype) -> None:
    """Of halves of what lies together, so in runs of every length; the bits are those of functions on their own."""
    wide = random(shape[0], 2 * shape[1], dtype=dtype) * 3
    memory = wide, wide[:, ::-1].copy()
    x, other = (each[:, : shape[1]] for each in memory)
    first = elementwise.function_before("elu", 0.7, dtype)
    second = elementwise.activation_before(parse_activation("sigmoid", "test"), dtype)
    made = [np.empty(shape, dtype) for _ in range(3)]
    run(elementwise.function(shape, dtype, "elu", 0.7), np.ascontiguousarray(x), made[0])
    run(elementwise.mapped(shape, dtype, 1.0, -0.0, parse_activation("sigmoid", "test")), other.copy(), made[1])
    for before, expected in (
        ((first, second), made[0] * made[1]), ((None, second), x * made[1]), ((first, None), made[0] * other),
    ):  # fmt: skip
        place = np.empty(shape, dtype)
        run(elementwise.combine("multiply", x, other, place, NONE, None, before), memory[0], made[2], memory[1])
        np.testing.assert_array_equal(made[2], expected)
    spread = np.broadcast_to(x[:, :1], shape)
    assert elementwise.combine("multiply", spread, other, place, NONE, None, (first, None)) is None
    assert elementwise.activation_before(parse_activation("relu6", "test"), dtype) is None  # a clamp is no function


def test_what_lies_otherwise_is_left_alone() -> None:
    x, out = np.empty((4, 5), np.float32), np.empty((4, 5), np.float32)
    assert elementwise.combine("add", x, x, out, NONE) is not None
    assert elementwise.combine("add", x, np.empty((5, 4), np.float32).T, out, NONE) is None
    assert elementwise.combine("add", x, np.empty((4, 10), np.float32)[:, ::2], out, NONE) is None
    assert elementwise.combine("add", x, np.empty((4, 9), np.float32)[:, 2:7], out, NONE) is not None  # gaps alone
    spread = np.broadcast_to(np.empty((4, 1), np.float32), (4, 5))
    assert elementwise.combine("add", spread, spread, out, NONE) is None
    assert elementwise.combine("add", spread, x, out, NONE) is not None
    wide = np.empty((2, 3, 2, 3, 2, 3), np.float32)
    assert elementwise.combine("add", wide, wide[:, :1, :, :1, :, :1], wide, NONE) is None  # too many axes


def _mish(v: Any) -> Any:
    e = mpmath.exp(v)
    return v * e * (e + 2) / (e * (e + 2) + 2)


def _gelu_tanh(v: Any) -> Any:
    return v / (1 + mpmath.exp(-mpmath.sqrt(8 / mpmath.pi) * (v + mpmath.mpf("0.044715") * v**3)))


#: Exact values, and how far kernels may be off, in units in the last place of the exact value. Of gelu by tanh and mish
#: that is where they are larger than 1e-2: far below zero what rounding took from the argument of exp is magnified.
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], float]] = {
    "elu": (lambda v: v if v > 0 else 0.7 * mpmath.expm1(v), 3.0),
    "erf": (mpmath.erf, 3.0),
    "gelu_tanh": (_gelu_tanh, 12.0),
    "mish": (_mish, 5.0),
    "tanh": (mpmath.tanh, 3.0),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_near_their_exact_values(name, dtype) -> None:
    exact, bound = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal(300) * size for size in (1e-3, 0.1, 0.5, 1, 3, 8)]
    ends = [0.0, 1e-30, -1e-30, 30, -30, 88, -88, 1000, -1000]
    x = np.concatenate([*parts, np.linspace(0.7, 0.8, 100), ends]).astype(dtype)
    out = np.empty_like(x)
    run(elementwise.function(x.shape, dtype, name, 0.7), x, out)
    with mpmath.workprec(200):
        right = [exact(mpmath.mpf(float(value))) for value in x]
        off = np.array([float(abs(mpmath.mpf(float(ours)) - each)) for ours, each in zip(out, right, strict=True)])
    size = np.abs(np.array([float(each) for each in right]))
    near = (size > 1e-2) | (name not in ("gelu_tanh", "mish"))
    assert (off[near] / np.spacing(size.astype(dtype))[near]).max() <= bound
    assert off[~near].max(initial=0.0) <= 1e-2 * np.finfo(dtype).eps * 40


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_what_is_no_number_and_of_zero(name, dtype) -> None:
    x = np.array([np.nan, np.inf, 0.0, -0.0], dtype)
    out = np.empty_like(x)
    run(elementwise.function(x.shape, dtype, name, 0.7), x, out)
    assert np.isnan(out[0])
    assert out[1] == (np.inf if name in ("elu", "gelu_tanh", "mish") else 1)
    np.testing.assert_array_equal(np.signbit(out[2:]), [False, True])
    assert (out[2:] == 0).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_give_every_element_the_same_bits_wherever_it_stands(name) -> None:
    x = random(9000, dtype=DTYPES[0]) * 3
    out, alone = np.empty_like(x), np.empty(1, np.float32)
    run(elementwise.function(x.shape, x.dtype, name, 0.7), x, out)
    for at in (0, 7, 8, 4095, 4096, 8999):
        run(elementwise.function((1,), x.dtype, name, 0.7), x[at : at + 1].copy(), alone)
        assert alone[0] == out[at]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["abs", "sqrt"])
def test_roots_and_sizes_are_those_of_numpy(name, dtype) -> None:
    x = np.concatenate([random(200, dtype=dtype) * 9, [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42]]).astype(dtype)
    out = np.empty_like(x)
    run(elementwise.function(x.shape, dtype, name), x, out)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(out, getattr(np, name)(x))
    assert np.signbit(out[201]) == (name == "sqrt")


def test_without_compiled_kernels_there_are_none(monkeypatch) -> None:
    monkeypatch.setattr(runtime, "cython_kernels", lambda: None)
    x = np.empty(3, np.float32)
    assert elementwise.combine("add", x, x, x, NONE) is None
    assert elementwise.function((3,), DTYPES[0], "tanh") is None


def test_kernels_keep_no_results() -> None:
    """What they are made from says how tensors lie; plans live long."""
    a, b, out = (np.empty((40, 50), np.float32) for _ in range(3))
    kernel = elementwise.combine("add", a, b, out, NONE)
    gone = [weakref.ref(each) for each in (a, b, out)]
    del a, b, out
    assert kernel is not None
    assert [each() for each in gone] == [None] * 3
