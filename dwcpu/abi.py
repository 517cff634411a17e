"""What both kernel families must agree on: the plan structure and the numbers of the activations.

A kernel is a C function of nine 64-bit arguments::

    void kernel(const Plan *plan, const T *x, const T *residual, T *out, void *scratch,
                int64 row_begin, int64 row_end, int64 block_begin, int64 block_end)

It computes the part of `out` that the half-open ranges of rows and blocks name, on one thread. What a row and a
block are depends on the operation:

==============  =============================  ===================================================
operation       row                            block
==============  =============================  ===================================================
depthwise       output row, of batch * out_h,  vector of input channels; one block where vectors hold
                or stretch of one (`segment`)  several pixels, or inputs are repeated
pointwise       pixel, of batch * h * w        panel of output channels
conv            output row, of batch * out_h,  panel of output channels, group by group
                or stretch of one (`segment`)
separable,      output row, of batch * out_h   (one block)
inverted
residual
==============  =============================  ===================================================

`Plan` is the structure below, one 8-byte field after another, so that NumPy, Numba and C read it alike; `setup.py`
writes its C declaration from this file, which therefore imports nothing of ours and only NumPy, inside a function.
"""

from __future__ import annotations

from math import lcm
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "ABI",
    "ACTIVATION_CODES",
    "AHEAD_TILES",
    "ASKING_ROWS",
    "COPY_BYTES",
    "ERFC_CENTRE",
    "ERFC_TERMS",
    "EXP_LOWEST",
    "EXP_NORMAL",
    "EXP_TERMS",
    "FEW_OUTPUTS",
    "FIELDS",
    "FLAT_VECTORS",
    "GELU_HIGHEST",
    "GELU_LOWEST",
    "HALF_COLUMNS",
    "HELD_BYTES",
    "HELD_COLUMNS",
    "HELD_ROWS",
    "IMAGES_FIELDS",
    "LN2",
    "MOST_MULTIPLES",
    "MOST_STREAMED",
    "MOST_UNROLLED_TAPS",
    "SET_BYTES",
    "SIGMOID_HIGHEST",
    "STEP_FIELDS",
    "TURN",
    "TWO_TURN_ROWS",
    "crowded_rows",
    "flat_columns",
    "later_lines",
    "most_tile_rows",
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
    # from one pixel to the next, in elements: of x, and of out and the residual. More than the channels where these are
    # some of a wider tensor's, but for x of conv: in_channels, or 1 where three channels lie one after the other (NCHW)
    "x_step": "i",
    "out_step": "i",
    # epilogue: hardswish if that is not 0, or else clamp to [low, high] (infinite bounds for none; NaN passes), both
    # in the register tile; then `activation` when not null, a second pass:
    # void activation(T *values, int64 rows, int64 row_stride, int64 columns, double alpha)
    "hardswish": "i",
    "low": "d",
    "high": "d",
    "activation": "p",
    "alpha": "d",
    # blocking: pointwise: rows of A kept in L2 while all panels pass; fused kernels: output rows per block, and so
    # compiled depthwise ones on repeated inputs, or stretches (`segment`); depthwise, compiled fixed windows and
    # Numba's: output rows (of a phase), or stretches, that all phases of columns compute in turn; 0: each computes all
    "block_rows": "i",
    # pointwise: where what a later kernel will read begins, such as weights, and how many bytes of it this one asks for
    # (see `ahead`)
    "later": "p",
    "later_size": "i",
    # pointwise: likewise what the next kernel reads first, for which tiles of the last panel ask (see `lines_a_turn`)
    "soon": "p",
    "soon_size": "i",
    # pointwise: whether tiles, of `ASKING_ROWS` at most, ask for the lines that the next one writes to, or, compiled,
    # the one after it; likewise compiled conv on three colours; compiled depthwise windows: whether whole tiles ask for
    # those of the next one, if outputs do not lie across lines
    "asks_out": "i",
    # compiled pointwise: whether all panels compute a tile of pixels before any computes the next one
    "across": "i",
    # compiled pointwise and conv, few outputs of one tap: whether tiles with pixels as lanes ask for the next ones;
    # pointwise of one pixel: whether it asks for weights
    "asks_in": "i",
    # pointwise and conv: rows at most of tiles whose pixels share a set of the L1 cache (`crowded_rows`); 0: no limit,
    # since sets are large, which depthwise windows want to know too
    "crowded_rows": "i",
    # compiled conv, window 1x1: whether the pixels that it reads are first gathered in scratch, for `block_rows` output
    # rows at a time
    "gathers": "i",
    # compiled conv: whether sums are computed tap by tap (conv_taps.pxi)
    "by_taps": "i",
    # compiled conv: groups whose outputs share a vector, and then `block_rows` output rows at a time are computed from
    # inputs that are spread over its lanes in scratch; 0: each group has panels of its own
    "joined": "i",
    # depthwise: channel vectors per pass, so that a tile's patch and weights stay in the L1 cache. Compiled pointwise:
    # inputs of each sum that are added up for a block of rows before the next ones are; 0: all
    "block_channels": "i",
    # depthwise: output rows (of a phase) that are computed from a copy of their inputs, for a pass of channels, where
    # lines of a tile's patch would drive each other out of the L1 cache; 0: none. A copy takes at most `COPY_BYTES`.
    "copy_rows": "i",
    # compiled inverted residual, and the fixed window inside of one: rows of the expanded image that there is memory
    # for. x is where row 0 lies, and row r lies r modulo this rows behind it; dilation_h is 1 and copy_rows 0.
    # 0: rows lie one after the other. Compiled conv: input rows that scratch holds as planes, where few outputs are
    # computed with pixels as lanes, a plane's row `window_size` elements from the next; 0: it does not. Compiled
    # depthwise, any window: input rows of which scratch holds copies, for `block_columns` output columns at a time,
    # each in as many parts of `window_size` elements as the least common multiple of stride_w and dilation_w says
    "ring_rows": "i",
    "block_columns": "i",
    # compiled inverted residual: output rows whose windows a panel of the expanded image computes at a time; 0: all
    # panels together
    "panel_rows": "i",
    # conv, and depthwise but for compiled fixed windows: output columns that a row of the grid stands for where images
    # have a single row (of conv the last has fewer, of depthwise it takes what is left), so that threads share long
    # signals; 0: rows of the grid are rows
    "segment": "i",
    # shape of the register tile and of its vectors (one column of `depthwise_any`: depthwise_stream.pxi); the table of
    # micro-kernels, where a kernel calls them by address
    "tile_rows": "i",
    "tile_columns": "i",
    "lanes": "i",
    "micro_kernels": "p",
    # separable only: the two kernels that it runs one after the other on each block, their plans and numbers of blocks;
    # `depthwise_plan` is an array of `column_blocks` plans, side by side, for stretches of the output's width, and the
    # scratch of that kernel begins `depthwise_scratch` bytes behind this one's (compiled). If `asks_ahead` is not 0
    # there is one stretch, and the pointwise kernel asks for the inputs of the next block meanwhile. Compiled
    # depthwise, on repeated inputs: the kernel that reads these, its one plan, its blocks, and likewise its scratch
    "column_blocks": "i",
    "asks_ahead": "i",
    "depthwise_kernel": "p",
    "depthwise_plan": "p",
    "depthwise_blocks": "i",
    "depthwise_scratch": "i",
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
#: 2: the input, 3: the residual, 4: the output of the whole pipeline, and then what else it is given); then how its
#: grid is cut.
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
    "tasks",
)

#: The plan of the driver's kernel for whole images (`runtime.images_kernel`): int64 fields in memory order. Steps for
#: one image, as in `STEP_FIELDS`, how many, and bytes of an image of the input, of the residual and of the output.
IMAGES_FIELDS: tuple[str, ...] = ("steps", "count", "x_size", "residual_size", "out_size")

#: Lines that lie a multiple of so many bytes apart share a set of the L1 cache, which holds eight or a few more.
SET_BYTES = 4096

#: Rows at most of a matrix product's tile that asks for the lines of outputs of the next.
ASKING_ROWS = 8

#: Size of the buffer, on the stack, for copies of inputs. Half of it is used if that will do: of 24 to 36 KiB more is
#: better, in an L1 cache of 32 KiB too. Where a vector is a line, larger copies, in L2, are better than none.
COPY_BYTES = 72 * 1024

#: Rows of a matrix product's tiles where a CPU computes vectors of 64 bytes in two turns: see tile.h.
TWO_TURN_ROWS = 7

#: Taps at most of a window that is computed pixel by pixel: see depthwise_stream.pxi.
MOST_STREAMED = 9

#: Bytes of channels of a pixel whose inputs strips hold at a time, at most: see depthwise_strips.pxi.
HELD_BYTES = 256

#: Tiles of a panel of a matrix product that share in asking for the next panel's cache lines, and inputs that a turn of
#: its loop takes: a line or more is asked for at each turn. (Numba's takes one where registers are many.)
AHEAD_TILES, TURN = 4, 4

#: Columns of half a depthwise tile; a plan that has them as `tile_columns` wants two vectors of channels at a time.
HALF_COLUMNS = 2

#: Outputs at most of convolutions that are computed with pixels as lanes: see few_outputs.pxi, which has their tiles.
FEW_OUTPUTS = 6

#: Output rows whose inputs depthwise kernels of large windows hold at a time; rows and columns of their tiles, whose
#: code is written for four of each: see held_tiles.pxi.
HELD_ROWS, HELD_COLUMNS = 4, 4

#: Vectors of a row, a period apart, of tiles whose vectors hold several pixels: see depthwise_flat.pxi.
FLAT_VECTORS = 4

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

#: exp(r) for |r| <= ln(2)/2 as a polynomial, constant term first: of all of its degree the one with the least relative
#: error, 2e-9 and 3e-18, found by Remez's exchange with 50 digits.
EXP_TERMS: dict[str, tuple[float, ...]] = {
    "float32": (
        1.0,
        1.0,
        0.4999999207871439,
        0.16666420171517388,
        0.04166822579151191,
        0.008374815764557597,
        0.0013836834964656337,
    ),
    "float64": (
        1.0,
        1.0,
        0.5000000000000018,
        0.1666666666666617,
        0.04166666666649277,
        0.008333333333559264,
        0.0013888888951223823,
        0.00019841269432694706,
        2.4801486521395936e-05,
        2.7557622517204806e-06,
        2.7632293338872933e-07,
        2.4994309201804708e-08,
    ),
}

#: ln 2 in two parts, the first with so few bits that n times it is exact for every n that exp meets.
LN2: dict[str, tuple[float, float]] = {
    "float32": (2839 / 2**12, 3.1946184945309415e-05),
    "float64": (2977044472 / 2**32, -4.2009150726810846e-11),
}

#: At and below these arguments exp is zero, rounded.
EXP_LOWEST: dict[str, float] = {"float32": -104.0, "float64": -746.0}

#: At and above these arguments exp is a normal number.
EXP_NORMAL: dict[str, float] = {"float32": -86.0, "float64": -707.0}

#: At and above this argument sigmoid is 1, rounded.
SIGMOID_HIGHEST = 40.0

#: Below the first of these, where the factor of v is no normal number any more, gelu is -0. Above the second it is v,
#: rounded.
GELU_LOWEST: dict[str, float] = {"float32": -12.95, "float64": -37.52}
GELU_HIGHEST: dict[str, float] = {"float32": 6.0, "float64": 9.0}

#: (w + centre) exp(w^2 / 2) erfc(w / sqrt(2)) / (4 centre) for 0 <= w <= -GELU_LOWEST as a polynomial, constant term
#: first, in t = (w - centre) / (w + centre). The variable is that of M. M. Shepherd and J. G. Laframboise, "Chebyshev
#: approximation of (1 + 2x) exp(x^2) erfc x in 0 <= x < infinity", Math. Comp. 36 (1981). With this factor in place of
#: theirs, 2 centre / (w + centre) = 1 - t is the only division. Of all polynomials of its degree the one with the
#: least relative error, 1.8e-8 and 1.1e-17, found by Remez's exchange with 50 digits.
ERFC_CENTRE: dict[str, float] = {"float32": 2.90625, "float64": 5.0}
ERFC_TERMS: dict[str, tuple[float, ...]] = {
    "float32": (
        0.12482141260374836,
        -0.08547516148691604,
        0.036558366750639705,
        -0.006074046959723592,
        -0.0023047930038740294,
        0.0009896381128783468,
        0.0002934446861522296,
        -0.0001272538514491692,
        -5.5259704748423316e-05,
    ),
    "float64": (
        0.07691930497500629,
        -0.06653825028900566,
        0.04953056159699767,
        -0.0313533156671312,
        0.01650203661703772,
        -0.006911863870606407,
        0.002079506679992247,
        -0.0002993376774203188,
        -7.978693980296903e-05,
        5.448990953414838e-05,
        -5.937573332801086e-06,
        -4.976296795676741e-06,
        1.6681232526364862e-06,
        3.9813942382092714e-07,
        -2.7692741872862863e-07,
        -3.3762860856021917e-08,
        4.3301954307706845e-08,
        4.357797567713567e-09,
        -6.560139519268646e-09,
        -1.0267429321435448e-09,
        7.283200111502483e-10,
        2.0567438166149806e-10,
    ),
}


#: Counts changes of what this file does not hold: names of kernels, arguments of compiled functions, how weights are
#: packed, what activations compute, what fields mean.
_OTHER_CHANGES = 18

#: A number for all that compiled modules and Python must agree on. Modules that were compiled for another one are left
#: alone: they would take one field for another, or compute other bits than Numba's kernels.
ABI: int = crc32(
    repr(
        (
            _OTHER_CHANGES, FIELDS, STEP_FIELDS, IMAGES_FIELDS, SET_BYTES, ASKING_ROWS, COPY_BYTES, HELD_BYTES,
            HELD_ROWS, HELD_COLUMNS, AHEAD_TILES, TURN, HALF_COLUMNS, FEW_OUTPUTS, FLAT_VECTORS, MOST_STREAMED,
            TWO_TURN_ROWS, ACTIVATION_CODES,
            EXP_TERMS, LN2, EXP_LOWEST, EXP_NORMAL, SIGMOID_HIGHEST, GELU_LOWEST, GELU_HIGHEST, ERFC_CENTRE,
            ERFC_TERMS,
        )
    ).encode()
)  # fmt: skip


def later_lines(height: int, itemsize: int, vector: int) -> int:
    """Cache lines of what a later kernel reads that compiled tiles of a product ask for at each turn.

    Turns have as many such instructions as their inputs take lines. With two in place of one MobileNetV2's classifier,
    whose 5 MB come from memory where neighbours share L3, takes 79 in place of 113 us on Zen 4, and products as long as
    before. One where vectors are shorter: Zen 3's memory was too slow for two.

    Examples
    --------
    >>> later_lines(7, 4, 64), later_lines(3, 4, 64), later_lines(6, 4, 32)
    (2, 1, 1)
    """
    return min(2, -(-height * TURN * itemsize // 64)) if vector == 64 else 1


def lines_a_turn(height: int, itemsize: int) -> int:
    """Cache lines of what the next kernel reads that tiles of a product's last panel ask for at each turn.

    Half as many as a turn's inputs take. For all of them a product on 7x7 pixels would take 1.09 of its time.
    """
    return (-(-height * TURN * itemsize // 64) + 1) // 2


def flat_columns(channels: int, lanes: int) -> int:
    """Output columns of a tile whose vectors hold several pixels, and lie a period of these apart.

    Examples
    --------
    >>> flat_columns(1, 16), flat_columns(3, 16), flat_columns(8, 16)
    (64, 64, 8)
    """
    return FLAT_VECTORS * lcm(channels, lanes) // channels


def crowded_rows(ways: int) -> int:
    """Most rows of a matrix product's tile whose pixels share a set of an L1 cache of so many ways; 0: any number.

    Of eight ways: for 14 rows each input came from L2 again. Those of twelve hold enough of 14 (Golden Cove: 7 rows
    take 1.06 of their time).

    Examples
    --------
    >>> crowded_rows(8), crowded_rows(12)
    (7, 0)
    """
    return 7 if ways <= 8 else 0


def most_tile_rows(tallest: int, crowded: int, asks_out: bool) -> int:
    """Most rows of a matrix product's tiles, of which there may be `tallest`: where pixels share sets, or tiles ask.

    `crowded` is the limit where they do, 0 for none.

    Examples
    --------
    >>> most_tile_rows(14, 0, False), most_tile_rows(14, 0, True), most_tile_rows(14, 7, True)
    (14, 8, 7)
    """
    return min(tallest, crowded or tallest, ASKING_ROWS if asks_out else tallest)


def panel_widths(outputs: int, lanes: int, vectors: int) -> list[int]:
    """How many vectors each panel of a matrix product has: `vectors`, and the last one what is left.

    But a vector alone has a slow tile: where panels have two or three, the last one has one more instead.

    Examples
    --------
    >>> panel_widths(32, 8, 2), panel_widths(40, 8, 2), panel_widths(8, 8, 2), panel_widths(128, 16, 3)
    ([2, 2], [2, 3], [1], [3, 3, 2])
    """
    panels, rest = divmod(-(-outputs // lanes), vectors)
    if rest == 1 and panels and vectors in (2, 3):
        return [vectors] * (panels - 1) + [vectors + 1]
    return [vectors] * panels + [rest] * (rest > 0)


def plan_dtype() -> np.dtype[Any]:
    """Structured NumPy dtype of a plan: every field of `FIELDS`, 8 bytes each, in order."""
    import numpy as np

    return np.dtype([(name, np.float64 if kind == "d" else np.int64) for name, kind in FIELDS.items()])
