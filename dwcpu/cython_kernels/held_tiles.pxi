# Tiles of depthwise_strips.pxi: HELD_ROWS x HELD_COLUMNS outputs whose sums stay in registers, where those of a column are
# a row of taps apart, those of a row a tap.
#
# Strips read an input for ten multiply-adds, or a weight for each at the borders of the image: 64 bytes, which few cores
# read twice a cycle for long. Tiles read four inputs and four weights for sixteen, two taps at a time five inputs. Of the
# time of strips 0.7 to 0.9. They take 32 registers.
#
# Assumes: plan.multiplier, plan.stride_h and plan.dilation_h are 1, plan.stride_w divides plan.dilation_w; windows have
# no fewer rows than tiles, and images no fewer than HELD_COLUMNS - 1 columns of each remainder by plan.dilation_w.
# Loops: rows of inputs, of which the first and the last are not for all outputs; taps, of which at the borders of the image
# the first are for the last outputs only, and the last for the first.

cdef struct HeldTile:
    const real *x          # what is held of the block, moved to where the first output's first tap is
    const real *weights    # of the block
    const real *bias
    i64 begin              # rows of taps, on to those of the last outputs, that are in the image
    i64 end
    i64 row                # of `begin`, modulo plan.ring_rows
    i64 left               # columns from the first tap's on that are not
    i64 right              # one past the last that is


cdef struct PatchRow:      # the next row of inputs, for a tile
    const real *x
    const real *weights    # of the first output row there
    i64 back               # to those of the output row below
    i64 taps
    i64 row_size           # of inputs
    i64 rows               # of inputs until the ring begins anew
    i64 ring_size
    i64 left
    i64 full               # one past the last tap that all outputs have
    i64 right


cdef inline vec held_weight(const int i, const real *weights, const real *lower, i64 back) noexcept nogil:
    """Of output row i; two pointers and one step for four rows leave registers to what is around the loops."""
    return v_in_register(v_load((weights if i < 2 else lower) + (back if i % 2 else 0)))


cdef inline void held_tap(
    const int first, const int end, const int begin, const int stop, const PatchRow *row, i64 k, vec (*acc)[HELD_COLUMNS]
) noexcept nogil:
    """Tap `k`, if there is one, for output rows first .. end - 1 and columns begin .. stop - 1."""
    cdef const real *x = row.x + k * LANES
    cdef const real *weights = row.weights + k * LANES
    cdef const real *lower
    cdef vec w[HELD_ROWS]
    cdef vec v
    cdef int i, j
    if k < 0 or k >= row.taps:
        return
    x = v_anew(x)
    weights = v_anew(weights)
    lower = v_anew(weights + 2 * row.back)
    for i in range(first, end):
        w[i] = held_weight(i, weights, lower, row.back)
    for j in range(begin, stop):
        v = v_in_register(v_load(x + j * LANES))
        for i in range(first, end):
            acc[i][j] = v_fma_onto(v, w[i], acc[i][j])


cdef inline void held_taps(const int first, const int end, PatchRow *row, vec (*acc)[HELD_COLUMNS]) noexcept nogil:
    """The next row of inputs, for output rows first .. end - 1."""
    cdef i64 k = row.left, pairs
    cdef const real *x
    cdef const real *weights
    cdef const real *lower
    cdef vec w[HELD_ROWS]
    cdef vec u[HELD_ROWS]
    cdef vec v
    cdef int i, j
    if k > 0:
        held_tap(first, end, 3, 4, row, k - 3, acc)
        held_tap(first, end, 2, 4, row, k - 2, acc)
        held_tap(first, end, 1, 4, row, k - 1, acc)
    pairs = (row.full - k) >> 1
    if pairs > 0:
        x = row.x + k * LANES
        weights = row.weights + k * LANES
        lower = v_anew(weights + 2 * row.back)
        k += 2 * pairs
        while True:
            x = v_anew(x)
            for i in range(first, end):
                w[i] = held_weight(i, weights, lower, row.back)
                u[i] = held_weight(i, weights + LANES, lower + LANES, row.back)
            v = v_in_register(v_load(x))
            for i in range(first, end):
                acc[i][0] = v_fma_onto(v, w[i], acc[i][0])
            for j in range(1, HELD_COLUMNS):
                v = v_in_register(v_load(x + j * LANES))
                for i in range(first, end):
                    acc[i][j - 1] = v_fma_onto(v, u[i], acc[i][j - 1])
                    acc[i][j] = v_fma_onto(v, w[i], acc[i][j])
            v = v_in_register(v_load(x + HELD_COLUMNS * LANES))
            for i in range(first, end):
                acc[i][HELD_COLUMNS - 1] = v_fma_onto(v, u[i], acc[i][HELD_COLUMNS - 1])
            x += 2 * LANES
            weights += 2 * LANES
            lower += 2 * LANES
            pairs -= 1
            if pairs == 0:
                break
    if k < row.full:
        held_tap(first, end, 0, 4, row, k, acc)
    if row.right < row.taps + HELD_COLUMNS - 1:
        held_tap(first, end, 0, 3, row, row.right - 3, acc)
        held_tap(first, end, 0, 2, row, row.right - 2, acc)
        held_tap(first, end, 0, 1, row, row.right - 1, acc)
    row.x += row.row_size
    row.weights -= row.back
    row.rows -= 1
    if row.rows == 0:
        row.x -= row.ring_size


cdef inline void held_tile(
    const Plan *plan, const HeldTile *tile, const Lanes *lanes, i64 out_step, const real *residual, real *out
) noexcept nogil:
    """residual and out are those of the tile's first output."""
    cdef PatchRow row
    cdef vec acc[HELD_ROWS][HELD_COLUMNS]
    cdef real sums[HELD_ROWS * HELD_COLUMNS * LANES]
    cdef i64 out_row = plan.out_width * plan.out_step, size = plan.kernel_h, begin = tile.begin, end = tile.end, t
    cdef vec v = v_load(tile.bias)
    cdef int i, j
    row.taps = plan.kernel_w
    row.back = -row.taps * LANES
    row.x = tile.x + tile.row * plan_row(plan)
    row.weights = tile.weights - begin * row.back
    row.row_size = plan_row(plan)
    row.ring_size = plan.ring_rows * row.row_size
    row.rows = plan.ring_rows - tile.row
    row.left = tile.left
    row.right = tile.right
    row.full = smaller(tile.right - HELD_COLUMNS + 1, row.taps)
    for i in range(HELD_ROWS):
        for j in range(HELD_COLUMNS):
            acc[i][j] = v
    if begin <= 0 < end:
        held_taps(0, 1, &row, acc)
    if begin <= 1 < end:
        held_taps(0, 2, &row, acc)
    if begin <= 2 < end:
        held_taps(0, 3, &row, acc)
    for t in range(larger(begin, HELD_ROWS - 1), smaller(end, size)):
        held_taps(0, 4, &row, acc)
    if begin <= size < end:
        held_taps(1, 4, &row, acc)
    if begin <= size + 1 < end:
        held_taps(2, 4, &row, acc)
    if begin <= size + 2 < end:
        held_taps(3, 4, &row, acc)
    for i in range(HELD_ROWS):  # apart from the calls, with which the loop would not unroll, and the sums lie in memory
        for j in range(HELD_COLUMNS):
            v_store(sums + (i * HELD_COLUMNS + j) * LANES, acc[i][j])
    for i in range(HELD_ROWS):
        put_strip(plan, lanes, 0, HELD_COLUMNS, out_step, sums + i * HELD_COLUMNS * LANES, residual, out)
        residual = moved(residual, out_row)
        out += out_row


cdef inline bint has_held_tiles(const Plan *plan, i64 columns, i64 phases) noexcept nogil:
    """Whether HELD_ROWS rows of `columns` outputs, in so many phases, are computed by tiles: `rules.is_large` asks the same."""
    return (
        HOLDS_TILES and plan.multiplier == 1 and plan.kernel_h >= HELD_ROWS
        and plan.stride_h == plan.dilation_h == 1 and plan.dilation_w % plan.stride_w == 0
        and columns >= HELD_COLUMNS * phases and plan.width >= (HELD_COLUMNS - 1) * plan.dilation_w)
