# The register tile and the plan, as Cython sees them: declarations only (see tile.h, vectors.h and dwcpu/abi.py).
#
# House rule of these files: `cdef inline` functions are templates. Their leading `const int` arguments are literals
# at every call; vectors.h makes the compiler inline them always, so that loops over those arguments unroll and arrays of
# `vec` become registers. Everything else is an ordinary function.

from libc.stdint cimport INT64_MAX, int64_t, uint64_t, uintptr_t
from libc.string cimport memmove

ctypedef int64_t i64

cdef extern from "math.h":
    const double INFINITY

cdef extern from "tile.h" nogil:
    ctypedef float real  # float or double: only the C compiler knows which
    ctypedef int bits  # an integer as wide as a real
    ctypedef struct vec:
        pass
    ctypedef struct vec_bits:
        pass
    ctypedef struct vec_lanes:
        pass
    enum:
        LANES
        BLOCK_LANES
        BLOCKS
        LANES_LIMIT
        SHORT_ROWS
        SHORT_VECTORS
        GEMM_VECTORS
        MOST_VECTORS
        ROWS_LIMIT
        PIXEL_PANELS
        PIXEL_AHEAD
        ACTIVATION_TILES
        ANY_RUNS
        ONE_RUN
        WHOLE_RUN
        COLOUR_RUN
        HALF_RUN
        HALF_RUNS
        SUMS
        LEAST_SUMS
        JOINED_RUNS
        HAS_HALVES
        LINE
        MOST_HELD
        WINDOW_ROWS
        WINDOW_COLUMNS
        MOST_PATCH_ROWS
        MOST_PATCH_COLUMNS
        MOST_PHASES
        COPY_VECTORS
        PAIRED
        HOLDS_TILES
        FLAT_ROWS
        FLAT_ROWS_LIMIT
    const real *NEVER
    bint IS_SHORT_OF_REGISTERS
    bint v_in_two_turns() noexcept
    int TILE_ROWS(int vectors) noexcept
    int AHEAD_LINES(int rows, int vectors) noexcept
    bint KEEPS_WEIGHTS(int size, int stride, int columns) noexcept
    bint IS_FULL(int rows, int vectors) noexcept
    const real *v_anew(const real *p) noexcept
    real *v_anew_out "(real *)v_anew"(real *p) noexcept
    i64 v_anew_step(i64 n) noexcept
    vec v_in_turn(vec v) noexcept
    vec v_in_register(vec v) noexcept
    const real HARDSWISH_NUMBERS[]
    const real *v_beside(const real *p, int columns, i64 *steps) noexcept
    real *v_beside_out "(real *)v_beside"(real *p, int columns, i64 *steps) noexcept
    bint v_likely(i64 bits) noexcept
    void v_prefetch(const real *p) noexcept
    void v_prefetch_out(real *p) noexcept
    vec v_load(const real *p) noexcept
    vec v_load_halves(const real *p, const real *q) noexcept
    void v_store(real *p, vec v) noexcept
    vec v_load_part(const real *p, int first, int last) noexcept
    void v_store_part(real *p, vec v, int first, int last) noexcept
    vec_lanes v_inside(i64 at, i64 count) noexcept
    vec v_load_where(vec_lanes where, const real *p) noexcept
    vec v_select(vec_lanes where, vec yes, vec no) noexcept
    real v_sum(vec v) noexcept
    real v_largest(vec v) noexcept
    vec v_fma_where(vec_lanes where, vec a, vec b, vec c) noexcept
    void v_store_first(real *p, vec v, int count) noexcept
    vec_bits v_numbers_from(int first) noexcept
    void v_store_end(real *p, vec before, vec v, vec_bits numbers, int count) noexcept
    vec v_interleave_low(vec a, vec b) noexcept
    vec v_interleave_high(vec a, vec b) noexcept
    vec v_in_blocks_low(vec a, vec b) noexcept
    vec v_in_blocks_high(vec a, vec b) noexcept
    vec v_blocks_even(vec a, vec b) noexcept
    vec v_blocks_odd(vec a, vec b) noexcept
    vec v_interleave_3_first(vec a, vec b, vec c) noexcept
    vec v_interleave_3_second(vec a, vec b, vec c) noexcept
    vec v_interleave_3_third(vec a, vec b, vec c) noexcept
    vec_bits v_numbers(const bits *p) noexcept
    vec v_pick(vec a, vec_bits numbers) noexcept
    vec v_pick_of_two(vec a, vec b, vec_bits numbers) noexcept
    vec v_splat(real s) noexcept
    vec v_zero() noexcept
    vec v_add(vec a, vec b) noexcept
    vec v_sub(vec a, vec b) noexcept
    vec v_mul(vec a, vec b) noexcept
    vec v_div(vec a, vec b) noexcept
    vec v_neg(vec a) noexcept
    vec v_fma(vec a, vec b, vec c) noexcept
    vec v_fma_onto(vec a, vec b, vec c) noexcept
    vec v_fma_onto_splat(const real *a, vec b, vec c) noexcept
    vec v_fma_onto_splat_half(const real *a, vec b, vec c) noexcept
    vec v_fma_onto_from(vec a, const real *b, vec c) noexcept
    vec v_fma_over(vec a, vec b, vec c) noexcept
    vec v_square_rest(vec a, vec square) noexcept
    vec v_select_less(vec a, vec b, vec yes, vec no) noexcept
    vec v_at_least(vec v, vec low) noexcept
    vec v_at_most(vec v, vec high) noexcept
    vec v_maximum(vec a, vec b) noexcept
    vec v_minimum(vec a, vec b) noexcept
    real v_root(real a) noexcept
    vec v_roots(vec a) noexcept
    vec v_abs(vec v) noexcept
    vec v_neg_abs(vec v) noexcept
    vec v_where_positive(vec s, vec v) noexcept
    vec v_select_negative(vec v, vec yes, vec no) noexcept
    vec v_more_bits(vec a, vec b) noexcept
    bint v_any_more_bits(vec a, vec b) noexcept
    bint v_all_at_least(vec a, vec b) noexcept
    vec v_scale(vec shifted, vec v) noexcept
    vec v_scale_normal(vec shifted, vec v) noexcept
    vec v_power(vec shifted) noexcept
    vec v_clamp(vec v, vec low, vec high) noexcept

include "abi.pxi"

ctypedef void (*Kernel)(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end) noexcept nogil

ctypedef void (*Activation)(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil


cdef inline i64 smaller(i64 a, i64 b) noexcept nogil:
    return a if a < b else b


cdef inline i64 larger(i64 a, i64 b) noexcept nogil:
    return a if a > b else b


cdef inline i64 ceil_div(i64 a, i64 b) noexcept nogil:
    """a / b rounded up, for b > 0 and any a."""
    if b == 1:  # mostly: what stands around a short run of tiles divides a dozen times
        return a
    return (a + b - 1) // b if a > 0 else -(-a // b)


cdef inline i64 mask_of(i64 position, i64 size, i64 count) noexcept nogil:
    """Bit r is set where 0 <= position + r < size, for r < count."""
    cdef i64 low = larger(-position, 0), high = smaller(size - position, count)
    return (<i64> 1 << high) - (<i64> 1 << low) if high > low else 0


cdef inline const real *moved(const real *p, i64 elements) noexcept nogil:
    """p + elements, but null stays null."""
    return p + elements if p != NULL else NULL


cdef inline vec hardsigmoid_of(vec v) noexcept nogil:
    return v_mul(v_clamp(v_add(v, v_splat(3)), v_zero(), v_splat(6)), v_splat(<real> (1.0 / 6.0)))


cdef inline vec hardswish_of(vec v, const real *numbers, vec six) noexcept nogil:
    """In a tile. Two of its numbers are read where they are: registers that hold them are not there for the sums. (Not
    six: of a minimum only v, which may be NaN, can be in memory.) v_anew has each wait for the store before it, as
    v_in_turn does."""
    numbers = v_anew(numbers)
    return v_mul(v, v_mul(v_clamp(v_add(v, v_load(numbers)), v_zero(), six), v_load(numbers + 2 * LANES)))


cdef inline vec ended(bint swish, vec v, vec low, vec high) noexcept nogil:
    """A sum after its activation in the tile: see `Plan`. Where there are many, the test goes around their loop."""
    return v_mul(v, hardsigmoid_of(v)) if swish else v_clamp(v, low, high)


cdef inline void activate(const Plan *plan, real *values, i64 rows, i64 row_stride, i64 columns) noexcept nogil:
    """The second pass of activations that are not a clamp, over values that were just written.

    Rows without gaps are one: the ends of short ones take longer than what is between.
    """
    if plan.activation == NULL:
        return
    if row_stride == columns:
        columns, rows = rows * columns, 1
    (<Activation> plan.activation)(values, rows, row_stride, columns, plan.alpha)


cdef inline void turn_rows(vec *rows) noexcept nogil:
    """LANES vectors become columns: their square blocks of 128 bits change places, then each is turned on its own.

    Of n rows, to take the even and the odd blocks of neighbours turns the numbers of rows and blocks by one bit.
    """
    cdef vec after[LANES_LIMIT]
    cdef int i, j, half = BLOCKS // 2, bits = BLOCKS
    while bits > 1:
        for j in range(half):
            for i in range(BLOCK_LANES):
                after[j * BLOCK_LANES + i] = v_blocks_even(
                    rows[2 * j * BLOCK_LANES + i], rows[(2 * j + 1) * BLOCK_LANES + i])
                after[(j + half) * BLOCK_LANES + i] = v_blocks_odd(
                    rows[2 * j * BLOCK_LANES + i], rows[(2 * j + 1) * BLOCK_LANES + i])
        for i in range(LANES):
            rows[i] = after[i]
        bits //= 2
    turn_blocks(rows)


cdef inline void load_turned(const real *x, i64 step, vec *rows) noexcept nogil:
    """As `turn_rows`, of LANES rows of LANES elements in memory, `step` apart.

    Halves of vectors change places while they are loaded, which takes no shuffle, and where a vector has four blocks
    one shuffle does the rest. In L2 sums of 16 to 96 channels take 0.76 to 0.93 of the time. Of float64, 0.87 to 1.12.
    """
    cdef vec low[LANES_LIMIT]
    cdef vec high[LANES_LIMIT]
    cdef const real *other
    cdef int i, j, n
    if BLOCKS == 1 or BLOCK_LANES == 2:
        for i in range(LANES):
            rows[i] = v_load(x)
            x = v_anew(x + step)
        turn_rows(rows)
        return
    for j in range(BLOCKS // 2):
        for i in range(BLOCK_LANES):
            n = j * BLOCK_LANES + i
            other = x + BLOCK_LANES * step
            low[n], high[n] = v_load_halves(x, other), v_load_halves(x + LANES // 2, other + LANES // 2)
            x = v_anew(x + step)
        x += BLOCK_LANES * step
    for i in range(BLOCK_LANES):
        n = BLOCK_LANES + i
        if BLOCKS == 2:
            rows[i], rows[n] = low[i], high[i]
        else:
            rows[i], rows[n] = v_blocks_even(low[i], low[n]), v_blocks_odd(low[i], low[n])
            rows[2 * BLOCK_LANES + i] = v_blocks_even(high[i], high[n])
            rows[3 * BLOCK_LANES + i] = v_blocks_odd(high[i], high[n])
    turn_blocks(rows)


cdef inline void turn_blocks(vec *rows) noexcept nogil:
    """Turn each block: to interleave each row with the one n / 2 below turns the numbers the other way."""
    cdef vec after[LANES_LIMIT]
    cdef int i, j, half = BLOCK_LANES // 2, bits = BLOCK_LANES
    while bits > 1:
        for j in range(BLOCKS):
            for i in range(half):
                after[j * BLOCK_LANES + 2 * i] = v_in_blocks_low(
                    rows[j * BLOCK_LANES + i], rows[j * BLOCK_LANES + i + half])
                after[j * BLOCK_LANES + 2 * i + 1] = v_in_blocks_high(
                    rows[j * BLOCK_LANES + i], rows[j * BLOCK_LANES + i + half])
        for i in range(LANES):
            rows[i] = after[i]
        bits //= 2
