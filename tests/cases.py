"""What all kernel tests run over: geometries with ids, data for them, and how far a result may be off.

A `Case` is one geometry of one operation. `cases_for_tile` derives cases from the tile of a kernel, so that every
remainder is met: sizes one below, equal to, one above and one above twice the tile. `ODD_CASES` holds what no tile
suggests. `draw_case` draws more, with hypothesis (`case_strategy`) or from a seed. `make_data` gives arrays, `expected`
what the reference makes of them, `error_bound` how far a sum in working precision may be from it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np
import pytest
from hypothesis import strategies as st

from dwcpu import reference
from dwcpu.epilogue import Activation, parse_activation
from dwcpu.fused_geometry import Geometry, InvertedResidualGeometry, SeparableGeometry
from dwcpu.geometry import ConvGeometry

OPS = ("depthwise", "pointwise", "conv", "separable", "inverted_residual")
FUSED = ("separable", "inverted_residual")
DTYPES = (np.float32, np.float64)

T = TypeVar("T")

Pads = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Case:
    """One geometry.

    Attributes
    ----------
    op : one of `OPS`
    x_shape : (N, H, W, C)
    out_channels : int
        For depthwise a multiple of C.
    window, stride, dilation : (vertical, horizontal)
    padding : ((top, bottom), (left, right)) or "same"
    groups : int
        For conv.
    multiplier : int
        Of the depthwise step of a fused operation.
    """

    op: str
    x_shape: tuple[int, int, int, int]
    out_channels: int
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: Pads | str = "same"
    groups: int = 1
    multiplier: int = 1
    expanded: int = 0  # of an inverted residual; 0: an odd number

    @property
    def w_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of the weights, of every step."""
        channels = self.x_shape[3]
        if self.op == "depthwise":
            return ((*self.window, channels, self.out_channels // channels),)
        if self.op == "pointwise":
            return ((channels, self.out_channels),)
        if self.op == "conv":
            return ((*self.window, channels // self.groups, self.out_channels),)
        expand: tuple[tuple[int, ...], ...] = ()
        if self.op == "inverted_residual":
            expanded = self.expanded or 2 * channels + 1
            expand, channels = ((channels, expanded),), expanded
        return *expand, (*self.window, channels, self.multiplier), (channels * self.multiplier, self.out_channels)

    @property
    def geometry(self) -> Geometry:
        """The geometry as kernels get it."""
        options = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        if self.op == "depthwise":
            return ConvGeometry.depthwise(self.x_shape, *self.w_shapes, **options)
        if self.op == "pointwise":
            return ConvGeometry.pointwise(self.x_shape, *self.w_shapes)
        if self.op == "conv":
            return ConvGeometry.conv(self.x_shape, *self.w_shapes, groups=self.groups, **options)
        fused = SeparableGeometry if self.op == "separable" else InvertedResidualGeometry
        return fused.of(self.x_shape, *self.w_shapes, **options)

    def __str__(self) -> str:
        text = f"{self.op}-{'x'.join(map(str, self.x_shape))}to{self.out_channels}"
        if self.op != "pointwise":
            text += f"-k{self.window[0]}x{self.window[1]}"
            for letter, value in (("s", self.stride), ("d", self.dilation)):
                text += "" if value == (1, 1) else f"-{letter}{value[0]}x{value[1]}"
            if self.padding != "same":
                text += "-p" + ".".join(str(side) for pair in self.padding for side in pair)
            text += "" if self.groups == 1 else f"-g{self.groups}"
            text += "" if self.multiplier == 1 else f"-m{self.multiplier}"
            text += f"-e{self.expanded}" if self.expanded else ""
        return text


def params(cases: Iterator[Case] | list[Case]) -> list[pytest.param]:
    """The cases, each once, as pytest parameters with ids."""
    return [pytest.param(case, id=str(case)) for case in dict.fromkeys(cases)]


# ---------------------------------------------------------------------------------------------------------------------
# Cases
# ---------------------------------------------------------------------------------------------------------------------


def around(size: int) -> tuple[int, ...]:
    """One below, equal, one above, one above twice: every kind of remainder that a tile of `size` can leave."""
    return tuple(value for value in dict.fromkeys((size - 1, size, size + 1, 2 * size + 1)) if value > 0)


def cases_for_tile(
    op: str,
    tile_rows: int,
    tile_columns: int,
    lanes: int,
    window: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    dilation: tuple[int, int] | None = None,
) -> Iterator[Case]:
    """Cases whose sizes lie around the tile of a kernel.

    Parameters
    ----------
    op : one of `OPS`
    tile_rows, tile_columns : int
        Depthwise: output rows and columns of the tile. The others: pixels (of an output row), and output channels, of
        the register tile of the matrix product.
    lanes : int
        Channels of a vector, or of all vectors of a depthwise tile.
    window, stride, dilation : (int, int), optional
        What the kernel is made for; by default a few of each.
    """
    windows = [window] if window else [(3, 3), (5, 5), (2, 4)]
    if op == "inverted_residual":  # composed of kernels that have met the other windows
        windows = windows[:1]
    strides = [stride] if stride else [(1, 1), (2, 2)]
    dilations = [dilation] if dilation else [(1, 1)]
    if op == "pointwise":
        for pixels in around(tile_rows):
            for outputs in (*around(tile_columns), *around(lanes)):
                yield Case(op, (1, 1, pixels, 5), outputs)
        for inputs in (1, 3, *around(lanes), 300):
            yield Case(op, (2, 2, tile_rows + 1, inputs), tile_columns + 1)
        return
    for taps in windows:
        for step in strides:
            for apart in dilations:
                options = {"window": taps, "stride": step, "dilation": apart}
                if op == "depthwise":
                    for rows in around(tile_rows):
                        for columns in around(tile_columns):
                            yield Case(op, (1, rows * step[0], columns * step[1], lanes + 1), lanes + 1, **options)
                    for channels in (*around(lanes), 4 * lanes + 3):
                        image = (2, (tile_rows + 1) * step[0], (tile_columns + 1) * step[1], channels)
                        yield Case(op, image, channels, **options)
                        yield Case(op, image, channels, padding=((0, 0), (0, 0)), **{**options, "window": (1, 1)})
                    # the tile in the middle meets no border
                    yield Case(
                        op, (1, 3 * tile_rows * step[0], 3 * tile_columns * step[1], lanes), 2 * lanes, **options
                    )
                    if window is None:
                        continue
                    # nor do several side by side, and without padding none does
                    height, width = tile_rows * step[0] + 2 * taps[0] * apart[0], 3 * tile_columns * step[1]
                    image = (1, height, width + 2 * taps[1] * apart[1], lanes + 1)
                    yield Case(op, image, lanes + 1, **options)
                    yield Case(op, image, lanes + 1, padding=((0, 0), (0, 0)), **options)
                    # windows that see a corner of the image only
                    pads = tuple(((size - 1) * gap, (size - 1) * gap) for size, gap in zip(taps, apart, strict=True))
                    for width in (tile_columns + 1, 3 * tile_columns):
                        yield Case(op, (1, tile_rows + 1, width, lanes), lanes, padding=pads, **options)
                elif op == "conv":
                    for pixels in around(tile_rows):
                        for outputs in (*around(tile_columns), *around(lanes)):
                            yield Case(op, (1, 3 * step[0], pixels * step[1], 3), outputs, **options)
                    yield Case(
                        op, (2, 4, (tile_rows + 1) * step[1], 2 * lanes + 2), 2 * tile_columns + 2, groups=2, **options
                    )
                else:
                    for columns in around(tile_rows):
                        for outputs in around(tile_columns):
                            yield Case(op, (1, 3 * step[0], columns * step[1], lanes + 1), outputs, **options)
                    for channels in around(lanes):
                        image = (2, 4 * step[0], (tile_rows + 1) * step[1], channels)
                        yield Case(op, image, tile_columns + 1, **options)


def _odd_windowed(op: str) -> Iterator[Case]:
    """Cases that depthwise and fused operations share, as images, windows and the options of all."""

    def case(x_shape: tuple[int, int, int, int], multiplier: int = 1, **options: object) -> Case:
        options.setdefault("window", (3, 3))
        if op in FUSED:
            return Case(op, x_shape, 2 * x_shape[3] + 1, multiplier=multiplier, **options)
        return Case(op, x_shape, x_shape[3] * multiplier, **options)

    for channels in (1, 3, 20, 100):
        yield case((1, 9, 11, channels))
        yield case((1, 9, 11, channels), stride=(2, 2), padding=((0, 1), (0, 1)))
    for size in (1, 2):
        yield case((1, size, size, 8), padding=((1, 1), (1, 1)))
    yield case((1, 1, 1, 5), window=(1, 1))
    # windows larger than the image, some taps of which never meet it
    yield case((1, 2, 3, 7), window=(7, 7), padding=((3, 3), (3, 3)))
    yield case((1, 3, 2, 4), window=(5, 9), padding=((4, 4), (8, 8)))
    yield case((2, 4, 4, 9), dilation=(4, 4), padding=((4, 4), (4, 4)))
    # padding wider than the window: outputs that see nothing at all
    yield case((1, 3, 3, 5), window=(2, 2), padding=((3, 4), (5, 2)))
    yield case((1, 2, 2, 3), window=(1, 1), padding=((2, 0), (0, 3)))
    for stride in ((3, 3), (1, 2), (2, 1), (3, 1), (1, 3)):
        yield case((1, 10, 13, 17), stride=stride)
    yield case((1, 9, 9, 8), window=(2, 2), stride=(3, 3), padding=((0, 0), (0, 0)))
    yield case((1, 11, 12, 10), dilation=(2, 3), padding=((2, 1), (0, 4)))
    yield case((1, 11, 12, 16), dilation=(3, 1), stride=(2, 2), window=(3, 5))
    yield case((1, 8, 9, 12), window=(4, 4), padding=((2, 1), (0, 3)))
    yield case((1, 13, 13, 6), window=(11, 11))
    yield case((1, 15, 15, 4), window=(7, 7), stride=(2, 2), padding=((2, 3), (3, 2)))
    for multiplier, channels in (
        (2, 8),
        (3, 5),
        (4, 1),
        (4, 3),
        (8, 3),
        (8, 9),
        (2, 33),
        (4, 16),
        (5, 17),
        (6, 18),
        (7, 16),
    ):
        yield case((1, 7, 6, channels), multiplier)
        yield case((2, 7, 6, channels), multiplier, stride=(2, 2), padding=((0, 1), (1, 0)))
    # 1-D
    yield case((1, 1, 50, 12), window=(1, 31), padding=((0, 0), (30, 0)))
    # long enough for threads to have stretches of them, of which the last is longer
    yield case((2, 1, 77, 40), window=(1, 4), padding=((0, 0), (6, 0)), dilation=(1, 2))
    yield case((1, 1, 150, 72), window=(1, 3), padding=((0, 0), (1, 2)), stride=(1, 2))
    yield case((1, 1, 101, 2), padding=((1, 1), (2, 0)))
    yield case((3, 1, 37, 19), window=(1, 4), padding=((0, 0), (6, 0)), dilation=(1, 2))
    yield case((1, 1, 9, 3), window=(1, 3), stride=(1, 2))
    yield case((1, 40, 1, 6), window=(5, 1))
    yield case((1, 1, 21, 3), 8, window=(1, 3))
    for batch in (0, 1, 3):
        yield case((batch, 6, 5, 11), stride=(2, 1))
    # more padding than a border tile takes, on images wider than one
    yield case((1, 6, 11, 16), padding=((2, 2), (2, 2)))
    yield case((1, 7, 12, 17), window=(5, 5), padding=((4, 3), (3, 4)))
    if op not in FUSED:
        # pixels a multiple of 2048 bytes apart: computed from copies, whole images and parts
        yield case((2, 5, 7, 1024))
        yield case((1, 14, 13, 512), stride=(2, 2), padding=((0, 1), (0, 1)))
        yield case((1, 27, 9, 512), window=(5, 5))
        yield case((1, 14, 15, 512), dilation=(2, 3), padding=((2, 2), (3, 3)))
        # four vectors at a time, of rows that are too long for eight
        yield case((1, 15, 24, 256), window=(5, 5), stride=(2, 2), padding=((1, 2), (2, 1)))
        # two vectors of a line at a time: pixels of 1024 bytes, or rows too long to copy
        yield case((1, 6, 24, 256), stride=(2, 2))
        yield case((1, 4, 75, 512), stride=(2, 2))


def _odd_pointwise() -> Iterator[Case]:
    for channels in (1, 3, 20, 100):
        for outputs in (1, 3, 20, 100):
            yield Case("pointwise", (1, 3, 5, channels), outputs)
    yield Case("pointwise", (1, 1, 1, 1), 1)
    yield Case("pointwise", (1, 1, 1, 1280), 1000)
    yield Case("pointwise", (1, 7, 7, 513), 65)
    # of the last vector half or less is outputs: one, two and three vectors, of inputs in whole turns and not
    for channels in (16, 21):
        for outputs in (7, 8, 24, 40, 85):
            yield Case("pointwise", (1, 5, 7, channels), outputs)
    yield Case("pointwise", (1, 5, 7, 1024), 24)  # pixels that share sets of the cache
    for batch in (0, 3):
        yield Case("pointwise", (batch, 4, 3, 24), 17)


def _odd_conv() -> Iterator[Case]:
    for channels in (1, 3, 20):
        yield Case("conv", (1, 9, 11, channels), 16, (3, 3))
        yield Case("conv", (1, 9, 11, channels), 9, (3, 3), (2, 2), padding=((0, 1), (0, 1)))
    yield Case("conv", (1, 1, 1, 4), 5, (3, 3), padding=((1, 1), (1, 1)))
    yield Case("conv", (1, 3, 4, 6), 7, (1, 1), (2, 2), padding=((0, 0), (0, 0)))
    yield Case("conv", (1, 5, 5, 100), 20, (1, 1))
    for outputs in range(1, 7):  # lanes that may be pixels
        yield Case("conv", (1, 6, 34 + 7 * outputs, 3), outputs, (3, 3))
    yield Case("conv", (2, 9, 47, 9), 3, (4, 2), (2, 1), (2, 3), ((3, 1), (0, 5)))
    yield Case("conv", (1, 2, 41, 2), 2, (5, 5), padding=((6, 5), (1, 3)))  # rows that see nothing
    yield Case("conv", (1, 1, 70, 8), 1, (1, 4), padding=((0, 0), (3, 0)))
    for stride in (2, 2), (1, 3), (5, 1):  # pixels that may be gathered
        yield Case("conv", (2, 9, 7, 17), 70, (1, 1), stride, padding=((0, 0), (0, 0)))
    yield Case("conv", (1, 9, 7, 16), 64, (1, 1), (2, 2), padding=((0, 2), (1, 0)))
    yield Case("conv", (1, 2, 3, 5), 4, (7, 7), padding=((3, 3), (3, 3)))
    for outputs in (3, 20):
        yield Case("conv", (1, 3, 3, 2), outputs, (2, 2), padding=((3, 4), (5, 2)))
    yield Case("conv", (1, 11, 12, 3), 8, (3, 3), (1, 2), (2, 3), ((2, 1), (0, 4)))
    yield Case("conv", (1, 10, 13, 3), 33, (4, 2), (3, 1))
    yield Case("conv", (1, 12, 12, 3), 24, (7, 7), (2, 2), padding=((3, 3), (3, 3)))
    yield Case("conv", (1, 1, 30, 5), 6, (1, 4), padding=((0, 0), (3, 0)))
    for width, outputs, options in (
        (3, 20, {}),
        (4, 33, {"stride": (2, 1)}),
        (5, 6, {"dilation": (3, 2), "groups": 2}),
    ):
        yield Case("conv", (2, 23, width, 4), outputs, (3, 3), **options)  # narrow ones
    for groups, channels, outputs in ((2, 4, 6), (3, 3, 3), (3, 9, 6), (4, 8, 64), (5, 5, 10), (20, 20, 20)):
        yield Case("conv", (1, 6, 7, channels), outputs, (3, 3), groups=groups)
    for batch in (0, 3):
        yield Case("conv", (batch, 6, 5, 3), 12, (3, 3), (2, 2))


#: Fixed cases of each operation that no tile suggests.
ODD_CASES: dict[str, list[Case]] = {
    "depthwise": list(_odd_windowed("depthwise")),
    "pointwise": list(_odd_pointwise()),
    "conv": list(_odd_conv()),
    "separable": list(_odd_windowed("separable")),
    # Every window compiles for Numba: here are those alone that say something about rows.
    "inverted_residual": [
        case
        for case in _odd_windowed("inverted_residual")
        if case.window == (3, 3) or case.window[0] > case.x_shape[1] or case.multiplier > 1 or case.x_shape[0] != 1
    ],
}


class Draw(Protocol):
    """Where choices come from: hypothesis, or random numbers."""

    def integer(self, least: int, most: int) -> int:
        """A whole number, both ends included."""

    def one_of(self, options: Sequence[T]) -> T:
        """One of them; what is there twice is twice as likely."""


def draw_case(draw: Draw, op: str, largest: int = 12, channels: int = 40) -> Case:
    """Any case of `op` with images up to `largest` squared and up to `channels` channels; the output is not empty."""
    batch = draw.one_of([1, 1, 1, 2, 3, 0])
    sides = draw.integer(1, largest), draw.integer(1, largest)
    if op == "pointwise":
        return Case(op, (batch, *sides, draw.integer(1, channels)), draw.integer(1, channels))
    window, stride, dilation = ((draw.integer(1, most), draw.integer(1, most)) for most in (5, 3, 3))
    kind = draw.one_of(["any", "any", "any", "square", "wide", "1-D"])
    if kind in ("square", "wide"):  # those that kernels are made for
        window, stride, dilation = ((draw.one_of(sizes),) * 2 for sizes in ((3, 3, 5, 7), (1, 2), (1, 1, 2)))
    if kind == "wide":  # pixels of few channels, of which a vector takes several
        sides, dilation, channels = (sides[0], sides[1] + 5 * largest), (1, 1), min(channels, 7)
    elif kind == "1-D":
        sides, window = (1, sides[0] * sides[1]), (1, draw.integer(1, 9))
        stride, dilation = (1, stride[1]), (1, dilation[1])
    padding: Pads | str = "same"
    if draw.one_of([False, True]):
        pads = []
        for size, taps, apart in zip(sides, window, dilation, strict=True):
            before = draw.integer(0, 4)
            missing = max((taps - 1) * apart + 1 - size - before, 0)
            pads.append((before, missing + draw.integer(0, 3)))
        padding = (pads[0], pads[1])
    if op == "conv":
        groups = draw.one_of([1, 1, 2, 3, 5])
        inputs, outputs = draw.integer(1, 6), draw.integer(1, channels // groups)
        return Case(op, (batch, *sides, groups * inputs), groups * outputs, window, stride, dilation, padding, groups)
    inputs = draw.integer(1, draw.one_of([channels, channels, min(channels, 15)]))
    multiplier = draw.one_of([1, 1, 1, 1, 2, 3, 4, 8])
    outputs = draw.integer(1, channels) if op in FUSED else inputs * multiplier
    return Case(
        op, (batch, *sides, inputs), outputs, window, stride, dilation, padding,
        multiplier=multiplier if op in FUSED else 1,
    )  # fmt: skip


@dataclass(frozen=True)
class HypothesisDraw:
    """Choices that hypothesis makes, and simplifies where they lead to a failure."""

    draw: st.DrawFn

    def integer(self, least: int, most: int) -> int:
        """As `Draw.integer`."""
        return self.draw(st.integers(least, most))

    def one_of(self, options: Sequence[T]) -> T:
        """As `Draw.one_of`."""
        return self.draw(st.sampled_from(options))


@dataclass(frozen=True)
class RandomDraw:
    """Choices by random numbers: a case is then a seed."""

    rng: np.random.Generator

    def integer(self, least: int, most: int) -> int:
        """As `Draw.integer`."""
        return int(self.rng.integers(least, most + 1))

    def one_of(self, options: Sequence[T]) -> T:
        """As `Draw.one_of`."""
        return options[self.integer(0, len(options) - 1)]


@st.composite
def case_strategy(draw: st.DrawFn, op: str, largest: int = 12, channels: int = 40) -> Case:
    """What `draw_case` says, as hypothesis wants it."""
    return draw_case(HypothesisDraw(draw), op, largest, channels)


# ---------------------------------------------------------------------------------------------------------------------
# Data and what to expect
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Data:
    """Arrays for a case, read-only. `weights` and `biases` have one entry a step."""

    x: np.ndarray
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    residual: np.ndarray

    def kernel_weights(self, *activations: Activation) -> tuple:
        """Weights, bias and activation as `Kernel.prepare` takes them."""
        given = activations or (Activation(),) * len(self.weights)
        if len(self.weights) == 1:
            return self.weights[0], self.biases[0], given[0]
        return tuple(zip(self.weights, self.biases, given, strict=True)), None, Activation()


def integers(rng: np.random.Generator, shape: tuple[int, ...], dtype: type, largest: int = 4) -> np.ndarray:
    """Whole numbers in ``[-largest, largest]``: sums of their products are exact, in any order."""
    return rng.integers(-largest, largest + 1, shape).astype(dtype)


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Normally distributed numbers."""
    return rng.standard_normal(shape).astype(dtype)


@lru_cache(maxsize=64)
def make_data(case: Case, dtype: type, kind: str) -> Data:
    """Arrays for a case: "integers" (exact sums), "normal", or the integers with `SUBNORMAL` images or weights.

    The same in every run; shared, hence read-only.
    """
    if kind in SUBNORMAL:
        return _subnormal(make_data(case, dtype, "integers"), kind)
    rng = np.random.default_rng(zlib.crc32(f"{case} {kind}".encode()))
    make = {"integers": integers, "normal": normal}[kind]
    geometry = case.geometry
    x = make(rng, case.x_shape, dtype)
    weights = tuple(make(rng, shape, dtype) for shape in case.w_shapes)
    biases = tuple(make(rng, (half.out_channels,), dtype) for half in geometry.parts)
    residual = make(rng, geometry.out_shape, dtype)
    for array in (x, *weights, *biases, residual):
        array.flags.writeable = False
    return Data(x, weights, biases, residual)


#: Kinds of data whose sums are the integers' times the smallest number that there is.
SUBNORMAL = ("subnormal images", "subnormal weights")


def _subnormal(data: Data, kind: str) -> Data:
    tiny = np.finfo(data.x.dtype).smallest_subnormal
    x, (first, *others) = data.x, data.weights
    scaled = (x * tiny, first) if kind == "subnormal images" else (x, first * tiny)
    biases = tuple(bias * tiny for bias in data.biases)
    return Data(scaled[0], (scaled[1], *others), biases, data.residual * tiny)


@lru_cache(maxsize=256)
def expected(
    case: Case, dtype: type, kind: str, activation: object = None, with_bias: bool = True, with_residual: bool = False
) -> np.ndarray:
    """What the reference makes of `make_data(case, dtype, kind)`; `activation` is the last step's. Read-only."""
    data = make_data(case, dtype, kind)
    last = parse_activation(activation, "expected")
    biases = data.biases if with_bias else (None,) * len(data.biases)
    residual = data.residual if with_residual else None
    if case.op in FUSED:
        activations = (Activation(),) * (len(biases) - 1) + (last,)
        parts = zip(data.weights, biases, activations, strict=True)
        result = getattr(reference, case.op)(data.x, *parts, residual, case.geometry)
    else:
        run = getattr(reference, case.op)
        result = run(data.x, data.weights[0], biases[0], residual, case.geometry, last)
    result.flags.writeable = False
    return result


def error_bound(
    x: np.ndarray,
    w: np.ndarray,
    geometry: ConvGeometry,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    c: float = 1.0,
) -> np.ndarray:
    """How far a sum in the precision of `x` may be from the exact one, element by element.

    ``c * K * eps * sum |x * w|``, where K counts the terms, bias and residual among them, and the rounding at the end.
    The worst case of any order of summation is half of that with ``c = 1``, as eps is two units of rounding. Clamps
    do not enlarge errors, so it holds after them too.

    Parameters
    ----------
    x, w, bias, residual
        As the reference takes them.
    geometry : ConvGeometry
    c : float

    Returns
    -------
    float64 ndarray of the shape of the output
    """
    limits = np.finfo(x.dtype)
    terms = geometry.taps * (geometry.in_channels // geometry.groups) + 3
    absolute = [None if array is None else np.abs(array.astype(np.float64)) for array in (x, w, bias, residual)]
    magnitude = getattr(reference, geometry.op)(*absolute, geometry, Activation())
    # Products below the smallest normal number lose more than eps of themselves, but no more than this.
    return c * terms * (float(limits.eps) * magnitude + float(limits.smallest_subnormal))


def fused_error_bound(
    data: Data, geometry: Geometry, with_bias: bool = True, with_residual: bool = False, c: float = 1.0
) -> np.ndarray:
    """As `error_bound`, for all steps: what one may be off goes through the weights of the next."""
    x, off = data.x, np.zeros(data.x.shape)
    parts = list(zip(geometry.parts, data.weights, data.biases, strict=True))
    for number, (part, w, bias) in enumerate(parts):
        bias = bias if with_bias else None
        residual = data.residual if with_residual and number == len(parts) - 1 else None
        step = getattr(reference, part.op)
        handed_on = step(off, np.abs(w.astype(np.float64)), None, None, part, Activation())
        largest = (np.abs(x.astype(np.float64)) + off).astype(data.x.dtype)
        off = handed_on + error_bound(largest, w, part, bias, residual, c)
        x = step(x, w, bias, None, part, Activation())
    return off


def onnxruntime_conv(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    *,
    strides: tuple[int, int] = (1, 1),
    dilations: tuple[int, int] = (1, 1),
    group: int = 1,
    pads: Pads | None = None,
    auto_pad: str = "NOTSET",
) -> np.ndarray:
    """ONNX Runtime's convolution of float32 ``(N, C, H, W)`` with ``(Cout, C / group, KH, KW)``: a third opinion."""
    import onnx
    import onnxruntime

    attributes = {"strides": strides, "dilations": dilations, "group": group, "auto_pad": auto_pad}
    if pads is not None:
        (top, bottom), (left, right) = pads
        attributes["pads"] = (top, left, bottom, right)
    inputs = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    declared = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape) for name, array in inputs.items()
    ]
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    node = onnx.helper.make_node("Conv", list(inputs), ["y"], **attributes)
    graph = onnx.helper.make_graph([node], "conv", declared, [result])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]
