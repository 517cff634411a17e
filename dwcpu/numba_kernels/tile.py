"""The SIMD register tile as a Numba type: with `interleave`, `memory` and `scalar`, what emits LLVM IR.

A `Tile` is a rows x columns arrangement of vectors of `lanes` reals that LLVM keeps in registers. Kernels are written
with the functions below and stay a few lines of Python; each function is an intrinsic that is unrolled while the IR is
built, so that tile sizes must be compile-time constants (closure variables or literals).

Contract: pointers are only checked by the kernels; loads and stores need the alignment of one real, never more.
Every multiply-add is one `llvm.fma` (or, where the target has no such instruction, a product then a sum), and none is
ever reassociated. Only vectors that are asked for are read or written: not a byte beyond.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from dwcpu.numba_kernels.memory import at
from dwcpu.numba_kernels.target import target

__all__ = [
    "Tile",
    "activate",
    "add",
    "add_first",
    "add_part",
    "bits",
    "flat_fma",
    "outer_fma",
    "store",
    "store_first",
    "store_part",
    "tile_columns",
    "tile_repeat",
    "tile_rows",
    "vector_fma",
    "window_fma",
    "window_fma_masked",
]

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


# --- tiles ------------------------------------------------------------------------------------------------------------


class Tile(types.Type):
    """rows x columns vectors of `lanes` reals, a value that lives in registers."""

    def __init__(self, real: types.Float, rows: int, columns: int, lanes: int) -> None:
        self.real, self.rows, self.columns, self.lanes = real, rows, columns, lanes
        super().__init__(name=f"Tile({real}, {rows}x{columns}x{lanes})")

    @property
    def places(self) -> list[tuple[int, int]]:
        """(row, column) of every vector, in the order in which they are held."""
        return [(i, j) for i in range(self.rows) for j in range(self.columns)]

    @property
    def vector(self) -> ir.VectorType:
        """LLVM type of one vector."""
        return ir.VectorType(ir.FloatType() if self.real == types.float32 else ir.DoubleType(), self.lanes)


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.ArrayType(fe_type.vector, fe_type.rows * fe_type.columns))


def unpacked(builder, tile, value):
    """The vectors of a tile by (row, column)."""
    return {place: builder.extract_value(value, k) for k, place in enumerate(tile.places)}


def packed(builder, tile, vectors):
    """A tile of vectors by (row, column)."""
    value = ir.Constant(ir.ArrayType(tile.vector, len(tile.places)), ir.Undefined)
    for k, place in enumerate(tile.places):
        value = builder.insert_value(value, vectors[place], k)
    return value


def _load(builder, pointer, kind):
    element = kind.element if isinstance(kind, ir.VectorType) else kind
    return builder.load(
        builder.bitcast(pointer, kind.as_pointer()), align=4 if element == ir.FloatType() else 8, typ=kind
    )


def _store(builder, value, pointer):
    element = value.type.element if isinstance(value.type, ir.VectorType) else value.type
    place = builder.bitcast(pointer, value.type.as_pointer())
    builder.store(value, place, align=4 if element == ir.FloatType() else 8)


def _splat(builder, scalar, vector):
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count))


def _fma(builder, x, y, z):
    if not target().fma:
        return builder.fadd(builder.fmul(x, y), z)
    suffix = f"v{x.type.count}f{32 if x.type.element == ir.FloatType() else 64}"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(x.type, [x.type] * 3), f"llvm.fma.{suffix}"
    )
    return builder.call(function, [x, y, z])


def _where(tile, row_stride, column_stride, builder, pointer, place):
    """Address of vector `place` when rows and columns lie `row_stride` and `column_stride` reals apart."""
    i, j = place
    distance = builder.add(builder.mul(row_stride, I64(i)), builder.mul(column_stride, I64(j)))
    return at(builder, pointer, distance, tile.vector.element)


@intrinsic(prefer_literal=True)
def tile_repeat(typingctx, pointer, rows, columns, lanes):
    """Tile whose vectors all equal the one at `pointer`: one channel vector's bias."""
    tile = Tile(pointer.dtype, rows.literal_value, columns.literal_value, lanes.literal_value)

    def codegen(context, builder, signature, args):
        vector = _load(builder, args[0], tile.vector)
        return packed(builder, tile, dict.fromkeys(tile.places, vector))

    return tile(pointer, rows, columns, lanes), codegen


@intrinsic(prefer_literal=True)
def tile_rows(typingctx, pointer, rows, columns, lanes):
    """Tile whose rows all equal the `columns` consecutive vectors at `pointer`: a panel's bias."""
    tile = Tile(pointer.dtype, rows.literal_value, columns.literal_value, lanes.literal_value)

    def codegen(context, builder, signature, args):
        real = tile.vector.element
        loaded = [
            _load(builder, at(builder, args[0], I64(j * tile.lanes), real), tile.vector) for j in range(tile.columns)
        ]
        return packed(builder, tile, {(i, j): loaded[j] for i, j in tile.places})

    return tile(pointer, rows, columns, lanes), codegen


@intrinsic(prefer_literal=True)
def tile_columns(typingctx, pointer, rows, columns, lanes):
    """Tile whose columns all equal the `rows` consecutive vectors at `pointer`."""
    tile = Tile(pointer.dtype, rows.literal_value, columns.literal_value, lanes.literal_value)

    def codegen(context, builder, signature, args):
        real = tile.vector.element
        loaded = [
            _load(builder, at(builder, args[0], I64(i * tile.lanes), real), tile.vector) for i in range(tile.rows)
        ]
        return packed(builder, tile, {(i, j): loaded[i] for i, j in tile.places})

    return tile(pointer, rows, columns, lanes), codegen


#: Vectors of a tile of a matrix product up to which LLVM may unroll the loop over inputs.
_MOST_UNROLLED = 22


@intrinsic
def outer_fma(typingctx, tile, a, a_stride, b):
    """tile[i, j] += a[i * a_stride] * b[j]: one step of the GEMM micro-kernel.

    Of many sums every third row has a pointer of which LLVM does not know how it was made. Otherwise it unrolls the
    loop around 12 x 2 vectors and keeps sums in memory, which takes 1.3 to 4 times as long: it depends on the stack.
    """

    def codegen(context, builder, signature, args):
        _value, a, a_stride, b = args
        real, held = tile.vector.element, unpacked(builder, tile, args[0])
        columns = [_load(builder, at(builder, b, I64(j * tile.lanes), real), tile.vector) for j in range(tile.columns)]
        apart = 3 if len(tile.places) > _MOST_UNROLLED else tile.rows
        for i in range(tile.rows):
            if i > 0 and i % apart == 0:
                a = _opaque(builder, at(builder, a, builder.mul(a_stride, I64(apart)), real))
            scalar = _load(builder, at(builder, a, builder.mul(a_stride, I64(i % apart)), real), real)
            row = _splat(builder, scalar, tile.vector)
            for j in range(tile.columns):
                held[i, j] = _fma(builder, row, columns[j], held[i, j])
        return packed(builder, tile, held)

    return tile(tile, a, types.int64, b), codegen


def _window_uses(tile, kernel, stride, multiples, r, q):
    """Outputs (i, j) that use input (r, q) of the tile's patch, each with the number of its tap."""
    uses = []
    for i, j in tile.places:
        kh, kw = r if multiples else r - i * stride[0], q - j * stride[1]
        if 0 <= kh < kernel[0] and 0 <= kw < kernel[1]:
            uses.append(((i, j), kh * kernel[1] + kw))
    return uses


def _load_spread(builder, pointer, vector, spread):
    """Vector of the lanes / spread reals at `pointer` (or one), each in `spread` neighbouring lanes."""
    if spread == 1:
        return _load(builder, pointer, vector)
    if spread >= vector.count:
        return _splat(builder, _load(builder, pointer, vector.element), vector)
    few = _load(builder, pointer, ir.VectorType(vector.element, vector.count // spread))
    order = ir.Constant(ir.VectorType(I32, vector.count), [lane // spread for lane in range(vector.count)])
    return builder.shuffle_vector(few, ir.Constant(few.type, ir.Undefined), order)


def _window(builder, tile, args, kernel, stride, spread, multiples, masks, edge=-1):
    """Multiply-add a whole window into a tile of outputs, input by input (see `window_fma`).

    Inputs are visited row by row and from left to right, which gives every accumulator its taps in the order kh, kw.
    Weights are loaded where they are first used: few are live at once, which 16-register targets need. With `masks`,
    all patch rows are tested, and the outermost `edge` patch columns on each side; -1: all of them.
    """
    value, x, row_stride, column_stride, w, w_step = args[:6]
    real = tile.vector.element
    cells = {}
    for place, vector in unpacked(builder, tile, value).items():
        cells[place] = cgutils.alloca_once_value(builder, vector)

    def column(pointer, q, uses):
        place = at(builder, pointer, builder.mul(column_stride, I64(q)), real)
        vector = _load_spread(builder, place, tile.vector, spread)
        for place, tap in uses:
            old = builder.load(cells[place], typ=tile.vector)
            distance = builder.mul(w_step, I64(tap))
            if multiples:
                distance = builder.add(distance, I64(place[0] * tile.lanes))
            weight = _load(builder, at(builder, w, distance, real), tile.vector)
            builder.store(_fma(builder, vector, weight, old), cells[place])

    def row(r):
        pointer = at(builder, x, builder.mul(row_stride, I64(r)), real)
        columns = (tile.columns - 1) * stride[1] + kernel[1]
        for q in range(columns):
            uses = _window_uses(tile, kernel, stride, multiples, r, q)
            if uses and masks and (edge < 0 or not edge <= q < columns - edge):
                with builder.if_then(_bit(builder, masks[1], q), likely=True):
                    column(pointer, q, uses)
            elif uses:
                column(pointer, q, uses)

    for r in range((0 if multiples else (tile.rows - 1) * stride[0]) + kernel[0]):
        if masks:
            with builder.if_then(_bit(builder, masks[0], r), likely=True):
                row(r)
        else:
            row(r)
            if kernel[0] * kernel[1] > 9:
                _fence(builder)
    return packed(builder, tile, {place: builder.load(cell, typ=tile.vector) for place, cell in cells.items()})


def _opaque(builder, pointer):
    """The pointer, of which LLVM does not know how it was made."""
    return builder.asm(ir.FunctionType(pointer.type, [pointer.type]), "", "=r,0", [pointer], side_effect=False)


def _fence(builder):
    """Keep loads on their side: else more weights stay for the next row than there are registers, and are spilled."""
    builder.asm(ir.FunctionType(ir.VoidType(), ()), "", "~{memory}", (), side_effect=True)


def _bit(builder, mask, position):
    return builder.trunc(builder.lshr(mask, I64(position)), I1)


@intrinsic(prefer_literal=True)
def window_fma(
    typingctx, tile, x, row_stride, column_stride, w, w_step, kernel_h, kernel_w, stride_h, stride_w, spread,
    multiples,
):  # fmt: skip
    """tile[i, j] += sum over taps of x[i * stride_h + kh, j * stride_w + kw] * w[kh, kw], taps in the order kh, kw.

    `x` points at the first input of the tile's patch; patch rows and columns lie `row_stride` and `column_stride` reals
    apart; `w` holds one vector a tap, `w_step` reals apart. Each input serves `spread` lanes. If `multiples` is not 0,
    rows of the tile are multiples of one row of outputs, whose vectors of weights lie side by side.
    """
    kernel, stride = (kernel_h.literal_value, kernel_w.literal_value), (stride_h.literal_value, stride_w.literal_value)

    def codegen(context, builder, signature, args):
        return _window(builder, tile, args, kernel, stride, spread.literal_value, multiples.literal_value, None)

    i = types.int64
    return tile(tile, x, i, i, w, i, kernel_h, kernel_w, stride_h, stride_w, spread, multiples), codegen


@intrinsic(prefer_literal=True)
def window_fma_masked(
    typingctx, tile, x, row_stride, column_stride, w, w_step, kernel_h, kernel_w, stride_h, stride_w, spread,
    multiples, rows, columns, edge,
):  # fmt: skip
    """`window_fma` over the patch rows and columns whose bits are set in `rows` and `columns`; others are not read.

    Only the outermost `edge` columns on each side may be missing; -1: any.
    """
    kernel, stride = (kernel_h.literal_value, kernel_w.literal_value), (stride_h.literal_value, stride_w.literal_value)

    def codegen(context, builder, signature, args):
        return _window(
            builder, tile, args, kernel, stride, spread.literal_value, multiples.literal_value, args[-3:-1],
            edge.literal_value,
        )  # fmt: skip

    i = types.int64
    literals = kernel_h, kernel_w, stride_h, stride_w, spread, multiples
    return tile(tile, x, i, i, w, i, *literals, i, i, edge), codegen


def _load_pixels(builder, pointer, vector, channels, stride, first):
    """Vector of the reals of pixels `stride` apart, `channels` each; `pointer` is at real `first` of a pixel.

    Nothing is read but what lies between the first and the last of them.
    """
    lanes, step = vector.count, stride * channels
    places = [(first + lane) // channels * step + (first + lane) % channels - first for lane in range(lanes)]
    # Where a vector is read from such a place that one pixel's reals are in their lanes, it need only be blended with
    # those of other pixels. If they are many, a few vectors that hold everything are shuffled.
    starts = sorted({place - lane for lane, place in enumerate(places)})
    covering = []
    for place in places:
        if not covering or place >= covering[-1] + lanes:
            covering.append(min(place, places[-1] + 1 - lanes))
    if len(starts) > 2 * len(covering):
        starts = covering
    vectors = [_load(builder, at(builder, pointer, I64(start), vector.element), vector) for start in starts]
    value = vectors[0]
    for number in range(1, len(starts)):
        order = list(range(lanes))
        for lane, place in enumerate(places):
            own = place - lane if place - lane in starts else max(start for start in starts if start <= place)
            if own == starts[number]:
                order[lane] = lanes + place - own
            elif number == 1 and own == starts[0]:
                order[lane] = place - own
        value = builder.shuffle_vector(value, vectors[number], ir.Constant(ir.VectorType(I32, lanes), order))
    return value


@intrinsic(prefer_literal=True)
def flat_fma(
    typingctx, tile, x, row_stride, w, w_step, kernel_h, kernel_w, stride_h, stride_w, channels, period, block, rows
):  # fmt: skip
    """`window_fma` along rows of few channels, whose pixels a vector does not keep apart.

    Seen as reals, outputs of a row of the tile begin `period` apart, a multiple of the channels; their `block`-th
    vectors are computed. `x` points at the first input of the tile's patch, of whose rows those are not read whose bits
    are not set in `rows`.
    """
    kernel, stride = (kernel_h.literal_value, kernel_w.literal_value), (stride_h.literal_value, stride_w.literal_value)
    pixel, apart, lanes = channels.literal_value, period.literal_value, tile.lanes

    def codegen(context, builder, signature, args):
        value, x, row_stride, w, w_step = args[:5]
        block, rows = args[-2:]
        real = tile.vector.element
        cells = {}
        for place, vector in unpacked(builder, tile, value).items():
            cells[place] = cgutils.alloca_once_value(builder, vector)

        def add_taps(x, first):
            """Add everything; `x` is at the first input of lane 0, which is real `first` of a pixel."""
            for r in range((tile.rows - 1) * stride[0] + kernel[0]):
                uses = [(i, r - i * stride[0]) for i in range(tile.rows) if 0 <= r - i * stride[0] < kernel[0]]
                if not uses:
                    continue
                with builder.if_then(_bit(builder, rows, r), likely=True):
                    pointer = at(builder, x, builder.mul(row_stride, I64(r)), real)
                    for kw in range(kernel[1]):
                        for j in range(tile.columns):
                            place = at(builder, pointer, I64(j * apart * stride[1] + kw * pixel), real)
                            vector = _load_pixels(builder, place, tile.vector, pixel, stride[1], first)
                            for i, kh in uses:
                                distance = builder.mul(w_step, I64(kh * kernel[1] + kw))
                                weight = _load(builder, at(builder, w, distance, real), tile.vector)
                                old = builder.load(cells[i, j], typ=tile.vector)
                                builder.store(_fma(builder, vector, weight, old), cells[i, j])

        if stride[1] == 1:  # all blocks are alike
            add_taps(at(builder, x, builder.mul(block, I64(lanes)), real), 0)
        else:
            end = builder.append_basic_block("added")
            cases = [builder.append_basic_block("block") for _ in range(apart // lanes)]
            choice = builder.switch(block, cases[-1])
            for number, case in enumerate(cases[:-1]):
                choice.add_case(I64(number), case)
            for number, case in enumerate(cases):
                builder.position_at_end(case)
                pixels, first = divmod(number * lanes, pixel)
                add_taps(at(builder, x, I64(pixels * stride[1] * pixel + first), real), first)
                builder.branch(end)
            builder.position_at_end(end)
        return packed(builder, tile, {place: builder.load(cell, typ=tile.vector) for place, cell in cells.items()})

    i = types.int64
    literals = kernel_h, kernel_w, stride_h, stride_w, channels, period
    return tile(tile, x, i, w, i, *literals, i, i), codegen


@intrinsic
def vector_fma(typingctx, tile, x, row_step, column_step, w, w_row_step, w_column_step):
    """tile[i, j] += x[i * row_step + j * column_step] * w[i * w_row_step + j * w_column_step], all of them vectors."""

    def codegen(context, builder, signature, args):
        value, x, row_step, column_step, w, w_row_step, w_column_step = args
        held = unpacked(builder, tile, value)
        for place in held:
            vector = _load(builder, _where(tile, row_step, column_step, builder, x, place), tile.vector)
            weight = _load(builder, _where(tile, w_row_step, w_column_step, builder, w, place), tile.vector)
            held[place] = _fma(builder, vector, weight, held[place])
        return packed(builder, tile, held)

    i = types.int64
    return tile(tile, x, i, i, w, i, i), codegen


@intrinsic
def bits(typingctx, first, last):
    """int64 whose bits [first, last) are set, of bits 0 to 62; none where last <= first. Neither is negative."""

    def codegen(context, builder, signature, args):
        # Shifts by 64 or more mean nothing to LLVM; a window far outside the image asks for them.
        args = [builder.select(builder.icmp_signed(">", a, I64(63)), I64(63), a) for a in args]
        low, high = (builder.sub(builder.shl(I64(1), a), I64(1)) for a in args)
        return builder.and_(high, builder.not_(low))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def add(typingctx, tile, pointer, row_stride, column_stride):
    """tile[i, j] += the vector stored at (i, j), rows and columns `row_stride` and `column_stride` reals apart."""

    def codegen(context, builder, signature, args):
        value, pointer, row_stride, column_stride = args
        held = unpacked(builder, tile, value)
        for place, vector in held.items():
            address = _where(tile, row_stride, column_stride, builder, pointer, place)
            held[place] = builder.fadd(vector, _load(builder, address, tile.vector))
        return packed(builder, tile, held)

    return tile(tile, pointer, types.int64, types.int64), codegen


@intrinsic
def add_first(typingctx, tile, pointer, row_stride, count):
    """`add` of vectors side by side; of each row's last one only the first `count` lanes are read."""

    def codegen(context, builder, signature, args):
        value, pointer, row_stride, count = args
        vector = tile.vector
        lane = ir.Constant(ir.VectorType(I64, vector.count), list(range(vector.count)))
        wanted = builder.icmp_signed("<", lane, _splat(builder, count, lane.type))
        kind = [vector.as_pointer(), I32, wanted.type, vector]
        name = f"llvm.masked.load.v{vector.count}f{32 if vector.element == ir.FloatType() else 64}.p0"
        load = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, kind), name)
        align, nothing = I32(4 if vector.element == ir.FloatType() else 8), ir.Constant(vector, None)
        held = unpacked(builder, tile, value)
        for place, old in held.items():
            address = _where(tile, row_stride, I64(tile.lanes), builder, pointer, place)
            if place[1] < tile.columns - 1:
                new = _load(builder, address, vector)
            else:
                new = builder.call(load, [builder.bitcast(address, vector.as_pointer()), align, wanted, nothing])
            held[place] = builder.fadd(old, new)
        return packed(builder, tile, held)

    return tile(tile, pointer, types.int64, types.int64), codegen


@intrinsic
def add_part(typingctx, tile, pointer, row_stride, column_stride, rows, columns):
    """`add` of the vectors of the first `rows` rows and `columns` columns; the others are not read."""

    def codegen(context, builder, signature, args):
        value, pointer, row_stride, column_stride, rows, columns = args
        held = unpacked(builder, tile, value)
        cells = {place: cgutils.alloca_once_value(builder, vector) for place, vector in held.items()}
        for place, cell in cells.items():
            with builder.if_then(_inside(builder, place, rows, columns), likely=True):
                address = _where(tile, row_stride, column_stride, builder, pointer, place)
                builder.store(builder.fadd(held[place], _load(builder, address, tile.vector)), cell)
        return packed(builder, tile, {place: builder.load(cell, typ=tile.vector) for place, cell in cells.items()})

    i = types.int64
    return tile(tile, pointer, i, i, i, i), codegen


def _inside(builder, place, rows, columns):
    return builder.and_(builder.icmp_signed("<", I64(place[0]), rows), builder.icmp_signed("<", I64(place[1]), columns))


def _clamp(builder, v, low, high):
    v = builder.select(builder.fcmp_ordered(">", low, v), low, v)
    return builder.select(builder.fcmp_ordered("<", high, v), high, v)


@intrinsic
def activate(typingctx, tile, hardswish, low, high):
    """Every element after hardswish, if that is not 0, and the clamp to [low, high] (float64); NaN stays NaN."""

    def codegen(context, builder, signature, args):
        real, held = tile.vector.element, unpacked(builder, tile, args[0])
        limits = [builder.fptrunc(a, real) if real == ir.FloatType() else a for a in args[2:]]
        low, high = (_splat(builder, limit, tile.vector) for limit in limits)
        cells = {place: cgutils.alloca_once_value(builder, v) for place, v in held.items()}
        with builder.if_then(builder.icmp_signed("!=", args[1], I64(0)), likely=False):
            numbers = (3.0, 0.0, 6.0, 1 / 6)
            three, zero, six, sixth = (ir.Constant(tile.vector, [number] * tile.lanes) for number in numbers)
            for place, v in held.items():
                gate = builder.fmul(_clamp(builder, builder.fadd(v, three), zero, six), sixth)
                builder.store(builder.fmul(v, gate), cells[place])
        for place, cell in cells.items():
            held[place] = _clamp(builder, builder.load(cell, typ=tile.vector), low, high)
        return packed(builder, tile, held)

    return tile(tile, types.int64, types.float64, types.float64), codegen


@intrinsic
def store(typingctx, tile, pointer, row_stride, column_stride):
    """Write the whole tile, rows and columns `row_stride` and `column_stride` reals apart."""

    def codegen(context, builder, signature, args):
        value, pointer, row_stride, column_stride = args
        for place, vector in unpacked(builder, tile, value).items():
            _store(builder, vector, _where(tile, row_stride, column_stride, builder, pointer, place))
        return context.get_dummy_value()

    return types.void(tile, pointer, types.int64, types.int64), codegen


@intrinsic
def store_first(typingctx, tile, pointer, row_stride, count):
    """`store` of vectors side by side, but only the first `count` lanes of each row's last one: less than all."""

    def codegen(context, builder, signature, args):
        value, pointer, row_stride, count = args
        vectors = unpacked(builder, tile, value)
        cells = []
        for place, vector in vectors.items():
            address = _where(tile, row_stride, I64(tile.lanes), builder, pointer, place)
            if place[1] < tile.columns - 1:
                _store(builder, vector, address)
            else:
                cells.append([cgutils.alloca_once_value(builder, each) for each in (vector, address)])
        size = tile.lanes // 2
        while size:  # what is left of the vectors: their first `size` lanes, if so many are wanted, then what follows
            with builder.if_then(builder.icmp_unsigned("!=", builder.and_(count, I64(size)), I64(0))):
                for cell, place in cells:
                    vector, address = builder.load(cell), builder.load(place)
                    _store(builder, lanes_of(builder, vector, 0, size), address)
                    builder.store(lanes_of(builder, vector, size, tile.lanes), cell)
                    builder.store(at(builder, address, I64(size), tile.vector.element), place)
            size //= 2
        return context.get_dummy_value()

    return types.void(tile, pointer, types.int64, types.int64), codegen


def lanes_of(builder, vector, first, count):
    """Vector of `count` lanes from `first` on; what lies beyond the last is undefined."""
    undefined = ir.Constant(vector.type, ir.Undefined)
    order = [min(first + lane, vector.type.count) for lane in range(count)]
    return builder.shuffle_vector(vector, undefined, ir.Constant(ir.VectorType(I32, count), order))


@intrinsic
def store_part(typingctx, tile, pointer, row_stride, column_stride, rows, columns):
    """`store` of the vectors of the first `rows` rows and `columns` columns."""

    def codegen(context, builder, signature, args):
        value, pointer, row_stride, column_stride, rows, columns = args
        for place, vector in unpacked(builder, tile, value).items():
            with builder.if_then(_inside(builder, place, rows, columns), likely=True):
                _store(builder, vector, _where(tile, row_stride, column_stride, builder, pointer, place))
        return context.get_dummy_value()

    i = types.int64
    return types.void(tile, pointer, i, i, i, i), codegen
