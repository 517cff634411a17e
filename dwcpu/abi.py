"""What both kernel families must agree on: the plan structure and the numbers of the activations.

A kernel is a C function of nine 64-bit arguments::

    void kernel(const Plan *plan, const T *x, const T *residual, T *out, void *scratch,
                int64 row_begin, int64 row_end, int64 block_begin, int64 block_end)

It computes the part of `out` that the half-open ranges of rows and blocks name, on one thread. What a row and a
block are depends on the operation:

==============  =============================  ================================================
operation       row                            block
==============  =============================  ================================================
depthwise       output row, of batch * out_h   vector of input channels
pointwise       pixel, of batch * h * w        panel of output channels
conv            output row, of batch * out_h   panel of output channels, group by group
separable,      output row, of batch * out_h   (one block)
inverted
residual
==============  =============================  ================================================

`Plan` is the structure below, one 8-byte field after another, so that NumPy, Numba and C read it alike; `setup.py`
writes its C declaration from this file, which therefore imports nothing of ours and only NumPy, inside a function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "ABI",
    "ACTIVATION_CODES",
    "AHEAD_TILES",
    "COPY_BYTES",
    "ERFC_CENTRE",
    "ERFC_TERMS",
    "EXP_LOWEST",
    "EXP_NORMAL",
    "EXP_TERMS",
    "FIELDS",
    "HALF_COLUMNS",
    "LN2",
    "MOST_MULTIPLES",
    "MOST_UNROLLED_TAPS",
    "STEP_FIELDS",
    "TURN",
    "panel_widths",
    "plan_dtype",
]

#: Field name -> kind: "p" address, "i" int64, "d" float64. The order is the memory order.
FIELDS: dict[str, str] = {
    # packed weights and bias (see packing.py; bias is never null, zeros where the user gave none)
    "weights": "p",
    "bias": "p",
    # geometry, in elements
    "batch": "i",
    "height": "i",
    "width": "i",
    "in_channels": "i",
    "out_height": "i",
    "out_width": "i",
    "out_channels": "i",
    "kernel_h": "i",
    "kernel_w": "i",
    "stride_h": "i",
    "stride_w": "i",
    "dilation_h": "i",
    "dilation_w": "i",
    "pad_top": "i",
    "pad_left": "i",
    "groups": "i",
    "multiplier": "i",
    # epilogue: hardswish if that is not 0, in the register tile; clamp to [low, high] always (infinite bounds for no
    # clamp; NaN passes); then `activation` when not null, a second pass:
    # void activation(T *values, int64 rows, int64 row_stride, int64 columns, double alpha)
    "hardswish": "i",
    "low": "d",
    "high": "d",
    "activation": "p",
    "alpha": "d",
    # blocking: pointwise: rows of A kept in L2 while all panels pass; fused kernels: output rows per block
    "block_rows": "i",
    # pointwise: where weights of a later kernel begin, and how many bytes of them it asks for (see `ahead`)
    "later": "p",
    "later_size": "i",
    # depthwise: channel vectors per pass, so that a tile's patch and weights stay in the L1 cache
    "block_channels": "i",
    # depthwise: output rows (of a phase) that are computed from a copy of their inputs, for a pass of channels, where
    # lines of a tile's patch would drive each other out of the L1 cache; 0: none. A copy takes at most `COPY_BYTES`.
    "copy_rows": "i",
    # shape of the register tile and of its vectors; the table of micro-kernels, where a kernel calls them by address
    "tile_rows": "i",
    "tile_columns": "i",
    "lanes": "i",
    "micro_kernels": "p",
    # separable only: the two kernels that it runs one after the other on each block, their plans and numbers of blocks;
    # `depthwise_plan` is an array of `column_blocks` plans, side by side, for stretches of the output's width
    "column_blocks": "i",
    "depthwise_kernel": "p",
    "depthwise_plan": "p",
    "depthwise_blocks": "i",
    "pointwise_kernel": "p",
    "pointwise_plan": "p",
    "pointwise_blocks": "i",
    # inverted residual only: the pointwise and the separable kernel that it runs on each block, and how many elements
    # the rows of the expanded image that a block needs take at most, in whole cache lines
    "expand_kernel": "p",
    "expand_plan": "p",
    "expand_blocks": "i",
    "separable_kernel": "p",
    "separable_plan": "p",
    "window_size": "i",
}

#: One step of a pipeline: int64 fields in memory order, as the driver's `run_steps` reads them. A kernel, its plan, and
#: where its arrays and its scratch are: offsets into the memory whose number stands before them (0: none, 1: the arena,
#: 2: the input, 3: the residual, 4: the output of the whole pipeline); then how its grid is cut.
STEP_FIELDS: tuple[str, ...] = (
    "kernel",
    "plan",
    "x_base",
    "x",
    "residual_base",
    "residual",
    "out_base",
    "out",
    "scratch",
    "scratch_stride",
    "rows",
    "granule",
    "row_parts",
    "blocks",
    "block_parts",
)

#: Size of the buffer, on the stack, for copies of inputs: most of an L1 cache of 32 KiB, the smallest of today's.
COPY_BYTES = 24 * 1024

#: Tiles of a panel of a matrix product that share in asking for the next panel's cache lines, and inputs that a turn of
#: its loop takes: a line or more is asked for at each turn. (Numba's takes one where registers are many.)
AHEAD_TILES, TURN = 4, 4

#: Columns of half a depthwise tile; a plan that has them as `tile_columns` wants two vectors of channels at a time.
HALF_COLUMNS = 2

#: Taps of the largest window that Numba unrolls, and most outputs a channel of depthwise kernels, whose vectors
#: unrolled code interleaves: both together fit the instruction cache and compile in about a second. With more outputs a
#: channel a depthwise convolution runs as a grouped one.
MOST_UNROLLED_TAPS, MOST_MULTIPLES = 49, 8

#: Activations that are not a clamp: they run as a second pass over values that are still in the L1 cache. Hardswish
#: does so only where no convolution comes before it: to load and store values takes longer than what it computes.
ACTIVATION_CODES: dict[str, int] = {
    "hardswish": 1,
    "hardsigmoid": 2,
    "leaky_relu": 3,
    "sigmoid": 4,
    "silu": 5,
    "gelu": 6,
}

#: exp(r) = 1 + r + r^2/2! + … for |r| <= ln(2)/2: the number of terms at which the series is exact to half a unit in
#: the last place.
EXP_TERMS: dict[str, int] = {"float32": 8, "float64": 14}

#: ln 2 in two parts, the first with so few bits that n times it is exact for every n that exp meets.
LN2: dict[str, tuple[float, float]] = {
    "float32": (2839 / 2**12, 3.1946184945309415e-05),
    "float64": (2977044472 / 2**32, -4.2009150726810846e-11),
}

#: At and below these arguments exp is zero, rounded.
EXP_LOWEST: dict[str, float] = {"float32": -104.0, "float64": -746.0}

#: At and above these arguments exp is a normal number.
EXP_NORMAL: dict[str, float] = {"float32": -86.0, "float64": -707.0}

#: (1 + 2z) exp(z^2) erfc(z) / 2 for z >= 0 as a polynomial, constant term first, in t = (z - centre) / (z + centre):
#: the mapping of M. M. Shepherd and J. G. Laframboise, "Chebyshev approximation of (1 + 2x) exp(x^2) erfc x in
#: 0 <= x < infinity", Math. Comp. 36 (1981). The coefficients are a Chebyshev interpolation computed with 60 digits;
#: relative error 5e-9 and 4e-17.
ERFC_CENTRE = 3.0
ERFC_TERMS: dict[str, tuple[float, ...]] = {
    "float32": (
        0.6265040040016174,
        -0.0678105354309082,
        -0.023781077936291695,
        0.06482205539941788,
        -0.059637635946273804,
        0.034158285707235336,
        -0.01188178826123476,
        0.0012495584087446332,
        0.0009375395602546632,
        -0.0003632268344517797,
        -4.62725838588085e-05,
        3.865512189804576e-05,
    ),
    "float64": (
        0.6265040291348648,
        -0.06781055306229058,
        -0.02378114717671019,
        0.0648225793513797,
        -0.05963683170838,
        0.03415401367200502,
        -0.011885257445765234,
        0.0012646959078461517,
        0.0009443450488737523,
        -0.00038991613482123835,
        -5.257915649742081e-05,
        6.254967120352427e-05,
        2.4720621969513972e-06,
        -1.0050271063158185e-05,
        -3.593942428601532e-07,
        1.7361853437504935e-06,
        1.683490188456719e-07,
        -3.083004214779323e-07,
        -6.027076229521064e-08,
        5.091799129371564e-08,
        1.3921963132069361e-08,
        -6.656412985818968e-09,
        -1.5906813597380826e-09,
        4.931181534979468e-10,
    ),
}


#: Counts changes of what this file does not hold: arguments of compiled functions, and how weights are packed.
_OTHER_CHANGES = 3

#: A number for all that compiled modules and Python must agree on. Modules that were compiled for another one are left
#: alone: they would take one field for another, or compute other bits than Numba's kernels.
ABI: int = crc32(
    repr(
        (
            _OTHER_CHANGES, FIELDS, STEP_FIELDS, COPY_BYTES, AHEAD_TILES, TURN, HALF_COLUMNS, ACTIVATION_CODES,
            EXP_TERMS, LN2, EXP_LOWEST, EXP_NORMAL, ERFC_CENTRE, ERFC_TERMS,
        )
    ).encode()
)  # fmt: skip


def panel_widths(outputs: int, lanes: int, vectors: int) -> list[int]:
    """How many vectors each panel of a matrix product has: `vectors`, and the last one what is left.

    But a vector alone has a slow tile: where panels have two, the last of an odd number of vectors has three.

    Examples
    --------
    >>> panel_widths(32, 8, 2), panel_widths(40, 8, 2), panel_widths(8, 8, 2)
    ([2, 2], [2, 3], [1])
    """
    panels, rest = divmod(-(-outputs // lanes), vectors)
    if rest and panels and vectors == 2:
        return [vectors] * (panels - 1) + [vectors + rest]
    return [vectors] * panels + [rest] * (rest > 0)


def plan_dtype() -> np.dtype[Any]:
    """Structured NumPy dtype of a plan: every field of `FIELDS`, 8 bytes each, in order."""
    import numpy as np

    return np.dtype([(name, np.float64 if kind == "d" else np.int64) for name, kind in FIELDS.items()])
