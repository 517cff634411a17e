"""The table of kernels, and the choice among them.

One row a kernel: `kernels()` lists the rows of both families, which describe themselves (`rows` of `numba_kernels` and
`cython_kernels`), and of operations that take parts of both ("mixed"). `choose` is a pure function of geometry,
dtype, threads and what is available, unless `choices` that were measured are asked for, or the process has code for
`MOST_UNROLLED` windows already. Since every kernel gives the same bits, nobody notices a different choice but by the
clock.

Names are explained in `list_kernels`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import gcd, prod
from typing import Any

import numpy as np

from . import choices, rules, runtime
from .abi import FLAT_VECTORS, MOST_MULTIPLES, MOST_STREAMED
from .epilogue import Activation
from .fused import PreparedInverted, PreparedRepeated, PreparedSeparable, PreparedSplit, splitting_pays
from .fused_geometry import Geometry, InvertedResidualGeometry, SeparableGeometry
from .geometry import ConvGeometry
from .grid import run_length
from .interrupts import imported
from .prepared import REPEATED, Prepared, PreparedSingle

__all__ = ["Kernel", "choose", "chosen", "kernels", "list_kernels", "warmup"]


#: Ways that parts of fused operations do not have: the one takes no parts of rows, the other suits what is far away.
_ALONE = ("repeated", "stream")
#: Taps of all vectors of a period together, of strided windows on few channels.
_MOST_FLAT_TAPS = 100


@dataclass(frozen=True)
class Kernel:
    """One row of the table.

    Attributes
    ----------
    name : str
    op : {"depthwise", "pointwise", "conv", "separable", "inverted_residual"}
    dtype : dtype
    backend : {"numba", "cython", "mixed"}
        "mixed": what runs a window of whichever family is best for it, and else what is compiled
        ahead of time.
    label, tile : str
        As in the name.
    window : (kernel_h, kernel_w, stride_h, stride_w)
        What a depthwise kernel is unrolled for, the strides divided by what they share with the dilation; 0: any.
    tile_rows, tile_columns, lanes : int
        Depthwise: output rows and columns, and channels. Others: pixels, vectors, output channels of a vector.
    channels, multipliers : (int, int)
        Least and most input channels, and outputs of each.
    most_taps : int
        Largest window.
    address : callable
        Gives the address of the machine code, compiling it if need be.
    micro_kernels : callable or None
        (geometry, row counts) -> table of micro-kernel addresses, for kernels that call them by address.
    copies : bool
        Whether a depthwise kernel can compute from copies of its inputs: see `abi`.
    layout : {"", "line", "spread", "flat"}
        What the lanes of a depthwise kernel are: input channels, as many as a vector or a cache line holds; output
        channels, several of an input; or all channels of several pixels: where the window is compiled, it must fit the
        image's width for a whole tile at least; else the stride along rows is 1.
    """

    name: str
    op: str
    dtype: np.dtype
    backend: str
    label: str
    tile: str
    window: tuple[int, int, int, int]
    tile_rows: int
    tile_columns: int
    lanes: int
    channels: tuple[int, int]
    multipliers: tuple[int, int]
    most_taps: int
    address: Callable[[], int]
    micro_kernels: Callable[..., np.ndarray] | None = None
    copies: bool = False
    layout: str = ""

    @property
    def _mask_columns(self) -> int:
        return 1 if self.layout == "flat" else self.tile_columns

    def backend_of(self, part: ConvGeometry) -> str:
        """What `choose` is asked for where this runs other kernels, of a part of it."""
        if self.backend != "mixed":
            return self.backend
        return "auto" if part.op == "depthwise" else "cython"

    def supports(self, geometry: Geometry) -> bool:
        """Whether the kernel computes this geometry."""
        if geometry.op != self.op:
            return False
        if not isinstance(geometry, ConvGeometry) or self.op != "depthwise":
            return True
        actual = geometry.effective_window
        if self.label == "repeated":
            # Inputs between windows would be repeated, too, and scratch holds what a block needs at most.
            high = (geometry.kernel_h - 1) * geometry.dilation_h + 1
            wide = (geometry.kernel_w - 1) * geometry.dilation_w + 1
            if (geometry.out_height > 1 and geometry.stride_h > high) or geometry.stride_w > wide:
                return False
            if geometry.height == geometry.kernel_h == 1:
                phases = geometry.dilation_w // gcd(geometry.stride_w, geometry.dilation_w)
                held = min(5 * wide + 2 * phases * FLAT_VECTORS * self.lanes * geometry.stride_w, geometry.width)
            else:
                held = min(2 * high, geometry.height) * geometry.width
            if held * geometry.out_channels * self.dtype.itemsize > runtime.MOST_SCRATCH:
                return False
        if self.label == "stream" and geometry.taps > MOST_STREAMED:
            return False
        if self.layout == "spread":
            m = geometry.multiplier
            whole = m % self.lanes == 0 or (self.lanes % m == 0 and geometry.in_channels < self.lanes)
            if not whole or geometry.out_channels < self.lanes:
                return False
        elif self.layout == "line":
            # With shared cache sets or few taps 1.1 to 2.6 times as fast as narrower vectors; else 0.85.
            pixel = geometry.dilation_w * geometry.in_channels * self.dtype.itemsize
            if pixel % 2048 and geometry.kernel_w > 8:
                return False
        elif self.layout == "flat" and not self.most_taps:
            # Signals of 13 channels in 16 lanes and more take 1.04 to 1.3 of the time of vectors of one pixel.
            if geometry.stride_w > 1 or (geometry.kernel_h == 1 and 4 * geometry.in_channels > 3 * self.lanes):
                return False
            if geometry.in_channels >= self.lanes and not rules.runs_on(geometry, self.lanes):
                return False
            # Places in a row, and in the padding around it, are counted in 32 bits (v_inside in lanes.h).
            row = geometry.pad_left + geometry.width + geometry.pad_right + geometry.kernel_w * geometry.dilation_w
            if row * geometry.in_channels >= 1 << 30:
                return False
        elif self.layout == "flat":
            if geometry.dilation_w > 1 or run_length(geometry) < self.tile_columns:
                return False
            # Strided, 0.4 to 0.9 of the time of narrower vectors, but 1.0 to 1.1 at stride 4 or of 7 channels in 8
            # lanes. Each vector of a period has code of its own, and 100 taps take 4 s to compile.
            code = geometry.taps * geometry.in_channels // gcd(geometry.in_channels, self.lanes)
            slow = geometry.stride_w > 3 or 4 * geometry.in_channels > 3 * self.lanes or code > _MOST_FLAT_TAPS
            if geometry.stride_w > 1 and slow:
                return False
        return (
            self.channels[0] <= geometry.in_channels <= self.channels[1]
            and self.multipliers[0] <= geometry.multiplier <= self.multipliers[1]
            and all(own in (0, other) for own, other in zip(self.window, actual, strict=True))
            and (self.most_taps == 0 or _fits_unrolled(actual, self.tile_rows, self._mask_columns, self.most_taps))
        )

    def prepare(
        self,
        geometry: Geometry,
        weights: Any,
        bias: np.ndarray | None = None,
        activation: Activation | None = None,
        *,
        packed: dict[Any, Any] | None = None,
    ) -> Prepared:
        """Pack weights and fill the plan for one geometry.

        Parameters
        ----------
        geometry : ConvGeometry, SeparableGeometry or InvertedResidualGeometry
            One that the kernel supports.
        weights : ndarray, or for fused operations a triple for each part
            (KH, KW, C, M), (Cin, Cout) or (KH, KW, Cin / groups, Cout); for "separable"
            ``((dw, dw_bias, dw_activation), (pw, pw_bias, pw_activation))``, and `bias` and `activation` unused.
        bias : ndarray, shape (Cout,), optional
        activation : Activation, optional
        packed : dict, optional
            Packed weights of these same weights and bias, to share among geometries; what is missing is added.
        """
        packed = {} if packed is None else packed
        if isinstance(geometry, ConvGeometry):
            # as the operation that the kernel is of: a grouped conv may be depthwise
            geometry = canonical(geometry)
            assert isinstance(geometry, ConvGeometry)
            if self.label == "repeated":
                inner = choose(geometry.repeated, self.dtype, 1, self.backend_of(geometry))
                own = packed.setdefault(REPEATED, {})
                return PreparedRepeated(
                    self, geometry, inner.prepare(geometry.repeated, weights, bias, activation, packed=own)
                )
            if self.most_taps:
                _unrolled.add(_unrolled_key(self, geometry))
            return PreparedSingle(self, geometry, weights, bias, activation or Activation(), packed)
        parts = []
        for number, (part, (w, *rest)) in enumerate(zip(geometry.parts, weights, strict=True)):
            backend = self.backend_of(part)
            kernel = choose(part, self.dtype, 1, backend)
            if self.label == "fused" and kernel.label in _ALONE:
                kernel = _choose(part, self.dtype, 1, backend, False)[0]
            parts.append(kernel.prepare(part, w, *rest, packed=packed.setdefault(number, {})))
        *expand, depthwise, pointwise = parts
        # where the depthwise part is a grouped conv in truth, its kernel does not take parts of rows
        if self.label != "fused" or depthwise.kernel.op != "depthwise":
            return PreparedSplit(self, geometry, parts)
        if isinstance(geometry, SeparableGeometry):
            return PreparedSeparable(self, geometry, depthwise, pointwise)
        separable = next(kernel for kernel in _family(self.backend, self.dtype) if kernel.op == "separable")
        return PreparedInverted(self, geometry, expand[0], separable, depthwise, pointwise)


def _fits_unrolled(window: tuple[int, int, int, int], rows: int, columns: int, most_taps: int) -> bool:
    patch = max((rows - 1) * window[2] + window[0], (columns - 1) * window[3] + window[1])
    return window[0] * window[1] <= most_taps and patch < 63  # a patch's rows and columns are bits of a mask


#: Windows, with strides and rows of the table, that Numba has unrolled code for in this process.
_unrolled: set[tuple] = set()
#: How many they may be. Compiled code is never freed, and a program that needs more makes up its windows as it
#: goes. Further ones run on loops over taps, unless a kernel is asked for by its name.
MOST_UNROLLED = 256


def _unrolled_key(kernel: Kernel, geometry: ConvGeometry) -> tuple:
    return kernel.name, geometry.effective_window, geometry.multiplier


# --- the table --------------------------------------------------------------------------------------------------------


#: What a table can be made of: who wrote the kernels.
_FAMILIES = ("numba", "cython", "mixed")


@cache
def _family(backend: str, dtype: np.dtype) -> tuple[Kernel, ...]:
    """The rows of one family and dtype."""
    family: Any
    if backend == "mixed":
        found = runtime.cython_kernels()
        if found is None or not found.fused():
            return ()  # there are none, or results would depend on who computes the window
        rows = [kernel for kernel in _family("cython", dtype) if kernel.label in ("fused", "split", "repeated")]
        return tuple(replace(row, name=row.name.replace("__cython", "__mixed"), backend="mixed") for row in rows)
    if backend == "numba":
        family = imported("dwcpu.numba_kernels")
    else:
        found = runtime.cython_kernels()
        if found is None:
            return ()
        family = found
    rows = []
    for row in family.rows(dtype.name):
        op, label, lanes = row["op"], row["label"], row["lanes"]
        if op == "depthwise":
            vector = f"l{lanes}" if row["channels"][1] < 2 * lanes and not row.get("layout") else "v1"
        else:
            vector = "v"
        tile = f"{row['tile_rows']}x{row['tile_columns']}{vector}"
        # fused operations also come as one pass a part, which needs no kernel of its own
        for way in (label, "split") if label == "fused" else (label,):
            name = f"{op}_f{dtype.itemsize * 8}_{way}_{tile}__{backend}"
            rows.append(
                Kernel(
                    name,
                    op,
                    dtype,
                    backend,
                    way,
                    tile,
                    row["window"],
                    row["tile_rows"],
                    row["tile_columns"],
                    lanes,
                    row["channels"],
                    row["multipliers"],
                    row["most_taps"],
                    row["address"],
                    row.get("micro_kernels"),
                    row.get("copies", False),
                    row.get("layout", ""),
                )
            )
    return tuple(rows)


def kernels(dtype: Any = None, backend: str | None = None) -> list[Kernel]:
    """The rows of the table, the most special first within an operation; of one dtype or family if one is named."""
    dtypes = [np.dtype(np.float32), np.dtype(np.float64)] if dtype is None else [np.dtype(dtype)]
    families = _FAMILIES if backend is None else (backend,)
    return [row for kind in dtypes for family in families for row in _family(family, kind)]


def list_kernels() -> list[str]:
    """Names of all kernels that this installation has.

    They read ``<op>_<dtype>_<way>_<tile>__<family>``: the operation; ``f32`` or ``f64``; what the kernel is made for;
    rows x columns of outputs that it holds in registers, then vectors (``v``) or, of fewer channels than fill a vector,
    lanes (``l``); "numba" or "cython", or "mixed", where a window of Numba's is part of what is compiled ahead of time.
    Ways of depthwise kernels, whose first that fits is mostly chosen:

    - ``flat3``: three channels (or as many as it says), several pixels to a vector; ``flat``: the same for any window,
      of fewer channels than lanes or a few more;
    - ``3x3s1`` and its like: this window, at this stride;
    - ``several``, ``spread``: two outputs a channel and more, as vectors side by side, or as lanes of one;
    - ``repeated``: the same as one output a channel, on inputs that stand there several times;
    - ``line``: windows of one row, along signals; ``small``: any window up to 49 taps, compiled for it;
    - ``stream``: windows of few taps, pixel by pixel; ``strips``: large ones, from copies of their inputs (with vectors
      of 64 bytes mostly in tiles of 4x4); ``any``: every window, with loops over its taps.

    Products of matrices (pointwise and other convolutions) have one way, ``any``. Fused operations have two: ``fused``,
    and ``split`` in one pass a step.

    Examples
    --------
    >>> import dwcpu
    >>> any(name.startswith("depthwise_f32_3x3s1_") for name in dwcpu.list_kernels())
    True
    """
    return [kernel.name for kernel in kernels()]


def canonical(geometry: Geometry) -> Geometry:
    """The same computation as the operation that suits it best: conv, depthwise and pointwise overlap."""
    if not isinstance(geometry, ConvGeometry) or geometry.op == "pointwise":
        return geometry
    sizes = {name: getattr(geometry, name) for name in ConvGeometry.__dataclass_fields__}
    if geometry.groups == geometry.in_channels:
        few = geometry.out_channels // geometry.in_channels <= MOST_MULTIPLES
        return ConvGeometry(**{**sizes, "op": "depthwise" if few else "conv"})
    padded = geometry.pad_top or geometry.pad_bottom or geometry.pad_left or geometry.pad_right
    if geometry.groups == geometry.taps == geometry.stride_h == geometry.stride_w == 1 and not padded:
        return ConvGeometry(**{**sizes, "op": "pointwise"})
    return geometry


#: What a table of kernels has for no limit is more.
_MOST_IN_WORDS = 2**31


def _in_words(geometry: Geometry) -> str:
    """What error texts call a geometry."""
    return " then ".join(
        f"{part.op} {part.kernel_h}x{part.kernel_w} from {part.in_channels} to {part.out_channels} channels of "
        f"{part.height}x{part.width}, stride {part.stride_h}x{part.stride_w}, "
        f"dilation {part.dilation_h}x{part.dilation_w}"
        for part in geometry.parts
    )


def _takes(kernel: Kernel) -> str:
    """What error texts say that a kernel computes."""
    if kernel.op != "depthwise":
        return kernel.op.replace("_", " ")
    rows, columns, stride, _ = kernel.window
    words = ["depthwise" + (f" {rows}x{columns}" if columns else " windows of one row" if rows else "")]
    if stride:
        words.append(f"stride {stride} when divided by what it shares with the dilation")
    most_taps = MOST_STREAMED if kernel.label == "stream" else kernel.most_taps
    if most_taps:
        words.append(f"{most_taps} taps at most")
    for (least, most), what in ((kernel.channels, "channels"), (kernel.multipliers, "outputs a channel")):
        many = most > _MOST_IN_WORDS
        if least > 1 or not many:
            count = f"{least}" if least == most else f"{least} or more" if many else f"{least} to {most}"
            words.append(f"{count} {what.replace('s', '', 1) if most == 1 else what}")
    if kernel.layout == "flat" and not kernel.most_taps:
        if kernel.channels[1] > kernel.lanes:
            words.append(f"more channels than {kernel.lanes - 1} in rows of {rules.LEAST_WIDTH * kernel.lanes} outputs")
            words[-1] += f" and more, but not {kernel.lanes}"
        words += ["stride 1 along rows", "rows of less than 2**30 numbers with their padding"]
    if kernel.layout == "flat" and kernel.most_taps:
        words += [f"rows of {kernel.tile_columns} outputs and more with all taps in the image", "without dilation"]
        words += ["at stride 2 and 3 few taps"]
    words += (
        ["strides up to the window's size", "windows that are not too large for scratch"]
        if kernel.label == "repeated"
        else []
    )
    if kernel.layout == "spread":
        words.append(f"which {kernel.lanes} is a multiple of, or they of it, {kernel.lanes} outputs in all and more")
    return ", ".join(words)


@lru_cache(maxsize=4096)
def _choose(geometry: Geometry, dtype: np.dtype, threads: int, backend: str, alone: bool = True) -> tuple[Kernel, str]:
    """The kernel and the reason, by the rules; one on repeated inputs or pixel by pixel only if it runs `alone`."""
    if backend not in ("auto", "numba", "cython"):
        for kernel in kernels(dtype):
            if kernel.name == backend:
                if kernel.supports(geometry):
                    return kernel, "asked for by name"
                raise ValueError(
                    f"choose: kernel {backend} does not compute {_in_words(geometry)}; it takes {_takes(kernel)}; use "
                    f"backend='auto' or another one of list_kernels()"
                )
        raise ValueError(
            f"choose: backend is {backend!r}; it must be 'auto', 'numba', 'cython' or a {dtype} kernel of "
            f"list_kernels(); use one of these"
        )
    if backend == "cython" and runtime.cython_kernels() is None:
        raise ValueError(
            "choose: backend is 'cython' but the Cython kernels are not there; they need a C compiler when dwcpu is "
            "installed, and DWCPU_ISA can switch them off (show_config() says more); use backend='numba' or 'auto'"
        )
    geometry = canonical(geometry)
    if not isinstance(geometry, ConvGeometry):
        return _choose_fused(geometry, dtype, threads, backend)
    if backend in ("auto", "cython"):
        fitting = [kernel for kernel in _family("cython", dtype) if kernel.supports(geometry)]
        fitting = [kernel for kernel in fitting if alone or kernel.label != "repeated"]
        if fitting and fitting[0].layout != "flat" and rules.is_large(geometry, fitting[0]):
            fitting.sort(key=lambda kernel: kernel.label != "strips")
        elif alone and fitting and not fitting[0].window[0] and rules.streams(geometry, dtype):
            fitting.sort(key=lambda kernel: kernel.label != "stream")
        if fitting and (backend == "cython" or rules.as_good(fitting[0], geometry)):
            how = " for this window" if fitting[0].window[0] else ""
            if fitting[0].layout == "flat":
                how = ": few channels, vectors run on from pixel to pixel"
            if fitting[0].label == "strips":
                how = ": large windows, from copies of their inputs"
            if fitting[0].label == "stream":
                how = ": few taps, and inputs that are shared little or far away, pixel by pixel"
            return fitting[0], "compiled ahead of time" + how
    fitting = [kernel for kernel in _family("numba", dtype) if kernel.supports(geometry)]
    if rules.has_rows(geometry, dtype):
        fitting.sort(key=lambda kernel: kernel.label == "line")
    if backend == "auto" and alone and (repeating := _repeating(geometry, dtype, fitting[0])):
        return repeating, "few channels fill no vectors; inputs are repeated, an output each"
    own = fitting[0].window[0] or fitting[0].most_taps
    return fitting[0], "compiled here for this window" if own else "compiled here for any window"


def _repeating(geometry: ConvGeometry, dtype: np.dtype, other: Kernel) -> Kernel | None:
    """The kernel on repeated inputs, of the family that the window's best kernel wants, if it beats Numba's `other`."""
    for kernel in _family("cython", dtype):
        if kernel.label == "repeated" and kernel.supports(geometry):
            break
    else:
        return None
    if not rules.repeating_pays(geometry, other, kernel.lanes):
        return None
    if _choose(geometry.repeated, dtype, 1, "auto")[0].backend == "cython":
        return kernel
    return next((each for each in _family("mixed", dtype) if each.label == "repeated"), None)


def _choose_fused(
    geometry: SeparableGeometry | InvertedResidualGeometry, dtype: np.dtype, threads: int, backend: str
) -> tuple[Kernel, str]:
    """Fused, unless several threads would share too few rows, and what lies between fits their caches anyway."""
    *_, depthwise, _ = geometry.parts
    window = _choose(depthwise, dtype, threads, backend)[0]
    if window.label == "stream":
        window = _choose(depthwise, dtype, threads, backend, False)[0]
    if backend == "auto":
        backend = window.backend
        if backend == "numba" and _family("mixed", dtype):
            backend = "mixed"  # its products take longer, short sums a fifth
    fused, split = (kernel for kernel in _family(backend, dtype) if kernel.op == geometry.op)
    rows = geometry.batch * depthwise.out_height
    between = max(prod(part.out_shape) for part in geometry.parts[:-1]) * dtype.itemsize
    if canonical(depthwise).op == "conv":
        return split, "so many outputs a channel are computed as a grouped convolution"
    if window.label == "repeated":
        return split, "the window reads repeated inputs, of whole rows"
    l2 = runtime.cache_sizes().l2
    if isinstance(geometry, InvertedResidualGeometry) and between <= 2 * l2:
        matrices = sum(part.in_channels * part.out_channels for part in (geometry.parts[0], geometry.parts[-1]))
        # One core of 512 KiB: 0.99 to 1.05 times as fast, on 14x14 and 7x7 pixels of 384 to 1152 expanded channels.
        if matrices * dtype.itemsize > l2 // 2:
            return split, "the weights are more than stays in L2 from block to block: each is read once"
    if rows < threads and depthwise.out_height == 1:
        return split, f"{threads} threads cannot share {rows} rows; each of the steps alone they share by columns"
    if threads > 1 and 2 * between <= threads * l2 and splitting_pays(geometry, dtype.itemsize, threads):
        if isinstance(geometry, InvertedResidualGeometry):
            return split, f"{threads} threads would expand too many of {rows} rows twice; what is between stays in L2"
        return split, f"{threads} threads cannot share {rows} rows evenly; what is between stays in L2"
    return fused, "what lies between the steps stays in cache"


def chosen(geometry: Geometry, dtype: np.dtype, threads: int, backend: str) -> tuple[Kernel, str]:
    """As `choose`, the kernel and the reason: what `autotune` measured, if that counts, else by the rules."""
    kernel, reason = _wanted(geometry, dtype, threads, backend)
    if kernel.most_taps and len(_unrolled) >= MOST_UNROLLED and backend in ("auto", "numba"):
        same = canonical(geometry)
        assert isinstance(same, ConvGeometry)
        if _unrolled_key(kernel, same) not in _unrolled:
            compiled = runtime.cython_kernels() if backend == "auto" else None
            rows = _family("cython", dtype) if compiled is not None and compiled.fused() else ()
            kernel = next(row for row in (*rows, *_family("numba", dtype)) if not row.most_taps and row.supports(same))
            reason = "this process has compiled code for as many windows as it may"
    return kernel, reason


def _wanted(geometry: Geometry, dtype: np.dtype, threads: int, backend: str) -> tuple[Kernel, str]:
    if backend == "auto":
        same = canonical(geometry)
        name = choices.find(same, dtype, threads)
        kernel = None if name is None else _supporting(name, same, dtype)
        if kernel is not None:
            return kernel, "measured by autotune"
    return _choose(geometry, dtype, threads, backend)


@lru_cache(maxsize=4096)
def _supporting(name: str, geometry: Geometry, dtype: np.dtype) -> Kernel | None:
    """The kernel of that name, if there is one that supports the geometry."""
    backend = name.rpartition("__")[2]
    rows = _family(backend, dtype) if backend in _FAMILIES else ()
    return next((kernel for kernel in rows if kernel.name == name and kernel.supports(geometry)), None)


def choose(geometry: Geometry, dtype: Any, threads: int, backend: str = "auto") -> Kernel:
    """The kernel for a geometry.

    Depthwise windows of 3x3, 5x5 and 7x7, those of 50 taps and more, of few channels dilated ones and short rows, with
    vectors of 64 bytes most others, too, and all matrix products run on Cython where it is built, which needs no
    compilation and is as fast; everything else on Numba, which compiles code for the window. Fused operations with such
    a window are "mixed", and so are several outputs of few channels: the rest is Cython's.
    Where `autotune` has measured, and "auto" is asked for, its choice counts.

    Parameters
    ----------
    geometry : ConvGeometry, SeparableGeometry or InvertedResidualGeometry
    dtype : dtype
    threads : int
    backend : {"auto", "numba", "cython"} or a kernel's name

    Raises
    ------
    ValueError
        If `backend` is unknown or cannot compute the geometry.
    """
    return chosen(geometry, np.dtype(dtype), threads, backend)[0]


def warmup(dtype: Any = np.float32, *, progress: Callable[[str], object] | None = None) -> None:
    """Compile, or load from the cache, the kernels that every network needs, so that first calls need not wait.

    Parameters
    ----------
    dtype : dtype, default float32
        float32 or float64.
    progress : callable, optional
        Called with the name of each kernel before it is made ready.

    Raises
    ------
    TypeError
        If `dtype` is neither.

    Examples
    --------
    >>> import dwcpu
    >>> dwcpu.warmup()
    """
    try:
        kind = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"warmup: dtype is {dtype!r}; it must be float32 or float64; use one of these") from None
    if kind not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"warmup: dtype is {kind}; it must be float32 or float64; use one of these")
    window = {"kernel_h": 3, "kernel_w": 3, "pad_top": 1, "pad_bottom": 1, "pad_left": 1, "pad_right": 1}
    geometries: list[ConvGeometry] = [
        ConvGeometry("depthwise", 1, 14, 14, 64, 64, groups=64, stride_h=s, stride_w=s, **window) for s in (1, 2)
    ]
    geometries.append(ConvGeometry("conv", 1, 14, 14, 3, 32, stride_h=2, stride_w=2, **window))
    geometries += [ConvGeometry("pointwise", 1, 1, pixels, 64, 64) for pixels in (1, 49, 196)]
    for geometry in geometries:
        kernel = choose(geometry, kind, 1)
        if progress is not None:
            progress(kernel.name)
        shape = (geometry.kernel_h, geometry.kernel_w, geometry.in_channels // geometry.groups, geometry.out_channels)
        prepared = kernel.prepare(geometry, np.zeros(shape, kind))
        prepared.run(np.zeros(geometry.x_shape, kind), None, np.empty(geometry.out_shape, kind), 1)
