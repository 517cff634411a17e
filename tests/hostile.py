"""Calls that crashed somebody's convolution once: ``python hostile.py BACKEND`` prints what comes of each.

A line of JSON for each call: its name, "right", "wrong", or the type and text of the exception. `test_hostile` runs it
in a process of its own, which must not die, and says what each line must be.
"""

from __future__ import annotations

import json
import mmap
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

import dwcpu

BACKEND = sys.argv[1] if __name__ == "__main__" else "auto"
RNG = np.random.default_rng(0)


def integers(*shape: int) -> np.ndarray:
    """Small whole numbers, so that sums are exact."""
    return RNG.integers(-3, 4, shape).astype(np.float32)


X, W, BIAS, P = integers(1, 6, 7, 8), integers(3, 3, 8), integers(8), integers(8, 5)
EXPAND, W16, PROJECT = integers(8, 16), integers(3, 3, 16), integers(16, 8)
FULL = integers(3, 3, 8, 4)

#: Every operation but the depthwise one, which the calls below are about where they name none.
OTHERS: dict[str, Callable[..., np.ndarray]] = {
    "product": lambda x, **options: dwcpu.pointwise_conv2d(x, P, **options),
    "convolution": lambda x, **options: dwcpu.conv2d(x, FULL, **{"padding": 1, **options}),
    "groups": lambda x, **options: dwcpu.conv2d(x, FULL[:, :, :2], groups=4, **{"padding": 1, **options}),
    "separable": lambda x, **options: dwcpu.separable_conv2d(x, W, P, **{"padding": 1, **options}),
    "inverted residual": lambda x, **options: dwcpu.inverted_residual(x, EXPAND, W16, PROJECT, **options),
}


def depthwise(x: Any = X, w: Any = W, bias: Any = BIAS, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """What kernels make of it, and the reference."""
    right = dwcpu.depthwise_conv2d(np.array(x, np.float32), np.array(w), bias, backend="reference", **options)
    return dwcpu.depthwise_conv2d(x, w, bias, backend=BACKEND, **options), right


def refused(x: Any = X, w: Any = W, bias: Any = BIAS, **options: Any) -> tuple[np.ndarray, None]:
    """A call that must not come back with anything."""
    return dwcpu.depthwise_conv2d(x, w, bias, backend=BACKEND, **options), None


def refused_product(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, None]:
    """The same of a pointwise convolution."""
    return dwcpu.pointwise_conv2d(x, w, backend=BACKEND), None


def other(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What another operation makes of it, and the reference."""
    return OTHERS[name](x, backend=BACKEND), OTHERS[name](np.array(x), backend="reference")


def refused_other(name: str, x: np.ndarray = X, **options: Any) -> tuple[np.ndarray, None]:
    """A call of another operation that must not come back with anything."""
    return OTHERS[name](x, backend=BACKEND, **options), None


def one_nan() -> np.ndarray:
    """X with one pixel that is no number."""
    x = X.copy()
    x[0, 0, 0, 0] = np.nan
    return x


def huge(*shape: int) -> np.ndarray:
    """Ones of any shape, that take no memory."""
    return np.broadcast_to(np.float32(1), shape)


def spread_axis(axis: int, stride: int) -> np.ndarray:
    """X with one entry along an axis, and this distance in bytes to the next, which is not there."""
    part = X.take([-1], axis)
    return as_strided(part, part.shape, (*part.strides[:axis], stride, *part.strides[axis + 1 :]))


def beyond_31_bits(operation: str) -> tuple[np.ndarray, np.ndarray]:
    """More than 2^31 elements, of which a large stride leaves a few; pages that nobody wrote take no memory."""
    rows, row, step = 70, 1 << 25, 10_000_001
    memory = mmap.mmap(-1, rows * row * 4)
    x = np.frombuffer(memory, np.float32).reshape(1, rows, row, 1)
    assert x.size > 2**31
    columns = range(0, row, step)
    x[0, :, ::step, 0] = np.arange(rows * len(columns)).reshape(rows, -1)
    w, stride = np.full((1, 1, 1), 2, np.float32), (23, step)
    right = 2 * x[:, ::23, ::step]
    if operation == "depthwise":
        return dwcpu.depthwise_conv2d(x, w, stride=stride, backend=BACKEND), right
    both, right = np.array([[1, 3]], np.float32), right * np.float32([1, 3])
    if operation == "convolution":
        return dwcpu.conv2d(x, w[..., None] * both, stride=stride, backend=BACKEND), right
    return dwcpu.separable_conv2d(x, w, both, stride=stride, backend=BACKEND), right


def poisoned(value: float) -> tuple[np.ndarray, np.ndarray]:
    """One pixel of that value, and weights that meet the padding."""
    x, w = X.copy(), W.copy()
    x[0, 0, 0, 0] = w[0, 0, 1] = value
    with np.errstate(invalid="ignore"):
        right = dwcpu.depthwise_conv2d(x, w, padding=1, backend="reference")
    return dwcpu.depthwise_conv2d(x, w, padding=1, backend=BACKEND), right


class Subclass(np.ndarray):
    """That says of itself what is not so."""

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]  # this is the lie
        """Not its shape."""
        return (1, 1000, 1000, 8)


class LiesAboutItself:
    """An array interface that names memory which is not there."""

    __array_interface__ = {"shape": (1, 6, 7, 8), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012  # as NumPy looks it up


def many_at_once() -> Iterator[tuple[str, Callable[[], tuple[Any, Any]]]]:
    """Parameters that must be whole numbers in a range, and everything else that they might be."""
    wrong = (
        0,
        -1,
        2**31,
        2**62,
        2**63,
        2**64,
        10**60,
        1.5,
        float("nan"),
        float("inf"),
        None,
        "1",
        True,
        [],
        [1],
        (1, 2, 3),
    )
    for name in ("stride", "dilation", "padding", "num_threads"):
        for value in wrong:
            if (name, value) not in (("padding", 0), ("num_threads", None)):  # which mean something
                yield f"{name} {value!r}", lambda options={name: value}: refused(**options)
        if name != "num_threads":
            yield f"{name} (1, 0.5)", lambda options={name: (1, 0.5)}: refused(**options)


CALLS: dict[str, Callable[[], tuple[Any, Any]]] = {
    **dict(many_at_once()),
    "stride beyond the image": lambda: depthwise(stride=2**31 - 1, padding=1),
    "padding beyond memory": lambda: refused(padding=2**31 - 1),
    "dilation beyond the image": lambda: depthwise(dilation=2**20, padding=2**20, stride=2**20),
    "no channels": lambda: refused(X[..., :0], W[..., :0], None),
    "no inputs of a product": lambda: refused_product(X[..., :0], P[:0]),
    "no outputs of a product": lambda: refused_product(X, P[:, :0]),
    "no images": lambda: depthwise(X[:0]),
    "no rows": lambda: refused(X[:, :0]),
    "no rows but padding": lambda: refused(X[:, :0], padding=2),
    "no columns": lambda: refused(X[:, :, :0], padding=2),
    "no taps": lambda: refused(w=W[:0]),
    "no taps in a row": lambda: refused(w=W[:, :0]),
    "no multiples": lambda: refused(w=W[..., None][..., :0]),
    "image smaller than the window": lambda: refused(X[:, :2]),
    "image smaller than the dilated window": lambda: refused(dilation=3),
    **{f"w of {n} axes": lambda n=n: refused(w=np.ones((2,) * n, np.float32)) for n in (0, 1, 2, 5, 9)},
    **{f"x of {n} axes": lambda n=n: refused(np.ones((2,) * n, np.float32)) for n in (0, 1, 2, 5, 9)},
    "other channels": lambda: refused(w=W[..., :7]),
    **{
        f"stride {stride} of axis {axis}": lambda axis=axis, stride=stride: depthwise(
            spread_axis(axis, stride), W[:1] if axis == 1 else W[:, :1] if axis == 2 else W
        )
        for axis in (0, 1, 2)
        for stride in (0, 1, -4, 2**55, -(2**55), 2**62 + 1)
    },
    "one channel, spread": lambda: depthwise(spread_axis(3, 2**55), W[..., :1], BIAS[:1]),
    "backwards": lambda: depthwise(X[:, ::-1, ::-1, ::-1]),
    "the same pixel everywhere": lambda: depthwise(np.broadcast_to(X[:, :1, :1], X.shape)),
    "elements beyond 64 bits": lambda: refused(huge(*[2**15] * 4), huge(1, 1, 2**15), None),
    "operations beyond 64 bits": lambda: refused_product(huge(1, 2**40, 1, 2**10), huge(2**10, 2**20)),
    **{
        f"elements beyond 32 bits, {operation}": lambda operation=operation: beyond_31_bits(operation)
        for operation in ("depthwise", "convolution", "separable")
    },
    "more memory than there is": lambda: refused(huge(1, 2**24, 2**24, 8), W, None),
    "weights beyond memory": lambda: refused(huge(1, 4, 4, 2**44), huge(1, 1, 2**44), None),
    "bias too long": lambda: refused(bias=np.ones(9, np.float32)),
    "bias too short": lambda: refused(bias=np.ones(7, np.float32)),
    "bias of no axis": lambda: refused(bias=np.float32(1)),
    "bias of two axes": lambda: refused(bias=np.ones((1, 8), np.float32)),
    "bias of nothing": lambda: refused(bias=np.ones(0, np.float32)),
    "residual of another shape": lambda: refused(residual=np.ones((1, 4, 5, 7), np.float32)),
    **{f"{value} among the data": lambda value=value: poisoned(value) for value in (np.nan, np.inf, -np.inf)},
    **{
        f"x of {name}": lambda kind=kind: refused(X.astype(kind))
        for name, kind in {
            "objects": object, "complex numbers": complex, "truth values": bool, "text": str, "dates": "M8[s]",
            "half precision": np.float16, "more than double precision": np.longdouble,
            "int64": np.int64, "uint8": np.uint8,
        }.items()
    },
    "x of records": lambda: refused(X.view([("a", "f4")])),
    "w of another precision": lambda: refused(w=W.astype(np.float64)),
    "x masked": lambda: refused(np.ma.masked_less(X, 0)),
    "x of nothing": lambda: refused(None),
    "x of lists that differ": lambda: refused([[1.0], [1.0, 2.0]]),
    "x a dictionary": lambda: refused({}),
    "x without memory": lambda: refused(LiesAboutItself()),
    "x that lies about its shape": lambda: depthwise(X.view(Subclass)),
    "out read-only": lambda: refused(out=np.broadcast_to(np.float32(0), (1, 4, 5, 8))),
    "out of another shape": lambda: refused(out=np.zeros((1, 4, 5, 7), np.float32)),
    "out of another precision": lambda: refused(out=np.zeros((1, 4, 5, 8))),
    "out one element for all": lambda: refused(out=as_strided(np.zeros(1, np.float32), (1, 4, 5, 8), (0, 0, 0, 0))),
    "out a list": lambda: refused(out=[[[[0.0] * 8] * 5] * 4]),
    **{
        f"{n} groups": lambda n=n: (dwcpu.conv2d(X, np.ones((3, 3, 8, 4), np.float32), groups=n, backend=BACKEND), None)
        for n in (0, 3)
    },
    **{f"{name}, no images": lambda name=name: other(name, X[:0]) for name in OTHERS},
    **{
        f"{name}, empty axis {axis}": lambda name=name, axis=axis: refused_other(name, X.take([], axis))
        for name in OTHERS
        for axis in (1, 2, 3)
    },
    **{f"{name}, backwards": lambda name=name: other(name, X[:, ::-1, ::-1, ::-1]) for name in OTHERS},
    **{f"{name}, not a number among the data": lambda name=name: other(name, one_nan()) for name in OTHERS},
    **{
        f"{name}, stride {stride} of axis {axis}": lambda name=name, axis=axis, stride=stride: other(
            name, spread_axis(axis, stride)
        )
        for name in OTHERS
        for axis in (0, 1, 2)
        for stride in (0, -4, 2**55)
    },
    **{
        f"{name}, {option} {value}": lambda name=name, given={option: value}: refused_other(name, **given)
        for name in OTHERS
        for option in ("stride", "dilation")
        for value in (0, -1, 2**64)
        if name != "product" and (name, option) != ("inverted residual", "dilation")
    },
    **{
        f"{name}, more memory than there is": lambda name=name: refused_other(name, huge(1, 2**24, 2**24, 8))
        for name in OTHERS
    },
    **{
        f"{name}, {axes} axes": lambda name=name, axes=axes: refused_other(name, np.ones((8,) * axes, np.float32))
        for name in OTHERS
        for axes in (0, 1, 2, 5)
    },
}  # fmt: skip


def outcome(call: Callable[[], tuple[Any, Any]]) -> list[str]:
    """What comes of a call."""
    try:
        result, right = call()
    except Exception as error:
        return [type(error).__name__, str(error)]
    same = right is not None and type(result) is np.ndarray and np.array_equal(result, right, equal_nan=True)
    return ["right" if same else "wrong", f"{result!r:.200}, not {right!r:.200}"]


if __name__ == "__main__":
    warnings.simplefilter("error")
    for name, call in CALLS.items():
        print(json.dumps([name, "began"]), flush=True)
        print(json.dumps([name, *outcome(call)]), flush=True)
