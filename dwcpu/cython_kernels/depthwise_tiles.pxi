# The register tiles of depthwise.pxi, which says what they assume and guarantee: WINDOW_ROWS x WINDOW_COLUMNS outputs
# of one vector of channels, or seven columns, or fewer at borders. For which windows there are functions is in
# depthwise_menu.pxi, depthwise_narrow.pxi and depthwise_sevens.pxi.
#
# Row after row of the window, and along it column after column; a weight serves all outputs of a tile, which take turns
# (window_row). Row after row of the patch where some of these are outside the image, where two blocks are computed at once,
# and where registers keep the weights of several rows (patch_row): an input serves both rows of outputs. Addresses are those
# that x86 computes in a load (v_beside): where a core's other hardware thread is busy, the number of instructions is what
# counts. There is at least one block.

cdef enum:
    ASKED_TAPS = 72
    MOST_KEPT = 15      # weights of patch_row
    MOST_NARROW = 7     # outputs of a row that is computed from end to end, and columns of the widest tile
    CUT_LEFT = 1        # size / 2 columns of a patch that are outside the image, on either side
    CUT_RIGHT = 2


cdef struct Job:      # distances in elements
    const real *weights
    const real *bias
    i64 last          # first channel of the last block
    i64 x_row         # from one input row of a phase to the next
    i64 x_rows[MOST_PATCH_ROWS]  # bytes from each input row of a tile's patch to the next: for borders, and in rings
    bint wraps        # one of these is not x_row
    i64 x_column
    i64 out_row
    i64 out_column
    real low          # of the clamp
    real high
    bint straddles    # whether outputs lie across two lines, the second of which tiles ask for (ask_lines)
    bint asks_out     # whether whole tiles ask for lines: if not those, then all that the next one beside them writes to
    bint special      # a residual or hardswish: one test a block for both
    bint adds         # a residual, which lies `added` behind the outputs
    i64 added
    const real *hardswish  # its numbers, or null; a constant would be in a register all the time


cdef struct Tile:
    const real *x     # first tap of the first output, channel 0; may lie outside the image
    real *out
    i64 count         # inner tiles in a row
    i64 rows          # outputs to store
    i64 columns
    i64 row_mask      # which input rows and columns of the tile's patch are in the image and wanted
    i64 column_mask


# Computes tiles for a pass of channel blocks. By address: a function of its own has all registers to itself.
ctypedef void (*Micro)(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil


cdef struct Block:    # where a tile meets a channel block, and what is left to do
    const real *x
    real *out
    const real *weights
    const real *bias
    const real *last  # weights of the last block
    i64 slide         # how far that one slides back


cdef inline void first_block(
    Block *block, const int taps, const Job *job, const Tile *tile, i64 block_begin, i64 block_end
) noexcept nogil:
    block.x = tile.x + block_begin * LANES
    block.out = tile.out + block_begin * LANES
    block.weights = job.weights + block_begin * taps * LANES
    block.bias = job.bias + block_begin * LANES
    block.slide = larger((block_end - 1) * LANES - job.last, 0)
    block.last = block.weights + (block_end - 1 - block_begin) * taps * LANES


cdef inline bint next_block(Block *block, const int taps) noexcept nogil:
    """Whether there is one. Moving pointers, and few of them, none of which counts: the loops around a tile are short of
    registers, and a counter in memory is loaded and stored, which takes the tile's own slots."""
    block.x += LANES
    block.out += LANES
    block.weights += taps * LANES
    block.bias += LANES
    if block.weights >= block.last:
        if block.weights > block.last:
            return False
        block.x -= block.slide
        block.out -= block.slide
    return True


cdef inline void ask_weights(const int taps, const Tile *tile, const Block *block) noexcept nogil:
    """The first tile of an image asks for weights of a block some ASKED_TAPS taps on. From L3 or memory the CPU fetches
    them too late: in a network 5x5 windows of 1152 channels on 7x7 pixels take 25 in place of 32 us (19 from L2)."""
    cdef int i
    if not (tile.row_mask & 1 or tile.column_mask & 1):
        for i in range((taps * LANES + LINE - 1) // LINE):
            v_prefetch(block.weights + (1 + ASKED_TAPS // taps) * taps * LANES + i * LINE)


cdef inline void steps_of(i64 column, i64 *steps) noexcept nogil:
    """What v_beside takes, for columns so many elements apart.

    Computed here and not before: the loops around a tile are short of registers.
    """
    column = v_anew_step(column * <i64> sizeof(real))
    steps[0] = column
    steps[1] = 3 * column
    steps[2] = 5 * column
    steps[3] = 7 * column


cdef inline void ask_lines(const int columns, const Job *job, const int rows, real *out) noexcept nogil:
    """Those that hold the pixels of `rows` rows of a tile at `out`, before its sums are computed.

    A core asks for the first line of a store while earlier ones wait, for the second, it seems, when the store's turn
    comes. 3x3 windows take 0.64 to 0.8 of the time where pixels of whole lines begin between lines, as NumPy's do, others
    0.94 to 1.0, and 0.83 to 1.02 where pixels are not whole lines (Granite Rapids; with vectors of 32 bytes 0.9 to 1.04).
    """
    cdef i64 steps[4]
    cdef int i, j
    steps_of(job.out_column, steps)
    for i in range(rows):
        for j in range(columns):
            v_prefetch_out(v_beside_out(out, j, steps))
        out = v_anew_out(out + job.out_row)


cdef inline const real *bytes_on(const real *x, i64 step) noexcept nogil:
    return <const real *> (<const char *> x + step)


cdef inline void finish(
    const int columns, const Job *job, i64 out_row, i64 out_column, i64 rows, vec *acc, real *out
) noexcept nogil:
    """Epilogue and store of the first `rows` rows of a tile."""
    cdef const real *residual
    cdef const real *numbers
    cdef vec low, high, six
    cdef i64 steps[4]
    cdef int i, j
    if job.special:
        steps_of(out_column, steps)
        if job.adds:
            residual = out + job.added
            for i in range(WINDOW_ROWS):
                if i < rows:
                    for j in range(columns):
                        acc[i * columns + j] = v_add(acc[i * columns + j], v_load(v_beside(residual, j, steps)))
                    residual = v_anew(residual + out_row)
        if job.hardswish != NULL:  # with stores of its own: joined to the others, sums are spilled in the loop
            numbers = job.hardswish
            six = v_load(numbers + LANES)
            for i in range(WINDOW_ROWS):
                if i < rows:
                    for j in range(columns):
                        v_store(v_beside_out(out, j, steps), hardswish_of(acc[i * columns + j], numbers, six))
                    out = v_anew_out(out + out_row)
            return
    steps_of(out_column, steps)
    low = v_splat(job.low)
    high = v_splat(job.high)
    for i in range(WINDOW_ROWS):
        if i < rows:
            for j in range(columns):
                acc[i * columns + j] = v_in_turn(acc[i * columns + j])
                v_store(v_beside_out(out, j, steps), v_clamp(acc[i * columns + j], low, high))
            out = v_anew_out(out + out_row)


cdef inline void weights_of(
    const int size, const int stride, const int r, const int k, const bint kept, const real *weights, vec *w
) noexcept nogil:
    """Those that meet column k of the window on row r of a tile's patch, one for each row of outputs that sees it.

    Of two columns of outputs only those that are `kept` are read once: else GCC reads them with each multiply-add.
    """
    cdef int i
    for i in range(WINDOW_ROWS):
        if r - i * stride >= 0 and r - i * stride < size:
            w[i] = v_load(weights + ((r - i * stride) * size + k) * LANES)
            if kept:
                w[i] = v_in_register(w[i])


cdef inline void multiply(
    const int size, const int stride, const int r, vec x, const vec *w, vec *acc, const int columns
) noexcept nogil:
    """An input of row r, times those weights, onto a column of sums."""
    cdef int i
    for i in range(WINDOW_ROWS):
        if r - i * stride >= 0 and r - i * stride < size:
            acc[i * columns] = v_fma(x, w[i], acc[i * columns])


cdef inline int is_tap(const int size, const int k) noexcept nogil:
    return 1 if k >= 0 and k < size else 0


cdef inline bint from_memory(
    const int size, const int stride, const int columns, const int edge, const int i, const int k, const int j
) noexcept nogil:
    """Whether output j of row i reads its input at column k of the window with the multiply-add, not from a register:
    where no other output needs it. Sums and a weight leave seven of 16 registers for inputs, too few for all that are
    used again: of the first row the last use is not from one, of neither where there are columns to test, which takes a
    register or two; at stride 2 those of every other column are not.
    """
    cdef bint few = IS_SHORT_OF_REGISTERS and columns == WINDOW_COLUMNS
    cdef bint early = few and ((stride == 1 and (i == 0 or edge > 0)) or (stride == 2 and i == 0 and size > 3))
    cdef int q = k + j * stride, uses = 0 if early else is_tap(size, q)  # output 0 is the last that uses it
    uses += is_tap(size, q - stride) + is_tap(size, q - 2 * stride) + is_tap(size, q - 3 * stride)
    return (columns == WINDOW_COLUMNS and (uses < 2 or (early and j == 0))) or (few and k % stride > 0)


cdef inline void window_row(
    const int size, const int stride, const int columns, const int edge, const real *first, const real *second,
    const real *weights, i64 column_mask, vec *acc, i64 *steps
) noexcept nogil:
    """A row of the window, onto both rows of a tile's sums: first and second are the inputs that these read.

    Turn about: a sum is added to in every fourth cycle, which is how long a multiply-add takes. The first and last
    `edge` columns of the patch are tested, and loaded, for each output that sees them.
    """
    cdef vec line[WINDOW_ROWS * MOST_PATCH_COLUMNS]
    cdef vec w
    cdef const real *place
    cdef int i, j, k, q, at, patch = (columns - 1) * stride + size
    for k in range(size):
        w = v_in_register(v_load(weights + k * LANES))
        for j in range(columns):
            q = k + j * stride
            if q < edge or q >= patch - edge:
                if v_likely(column_mask & (<i64> 1 << q)):
                    for i in range(WINDOW_ROWS):
                        place = v_beside(second if i else first, q, steps)
                        acc[i * columns + j] = v_fma_onto_from(w, place, acc[i * columns + j])
                continue
            for i in range(WINDOW_ROWS):
                at = i * MOST_PATCH_COLUMNS + q
                place = v_beside(second if i else first, q, steps)
                if from_memory(size, stride, columns, edge, i, k, j):
                    acc[i * columns + j] = v_fma_onto_from(w, place, acc[i * columns + j])
                    continue
                if k < stride or j == columns - 1:
                    line[at] = v_load(place)
                acc[i * columns + j] = v_fma_onto(line[at], w, acc[i * columns + j])


cdef inline int kept_at(const int size, const int stride, const int row) noexcept nogil:
    """Where the weights of a row of the window are kept: one that no row of outputs needs any more makes room."""
    return row % ((WINDOW_ROWS - 1) * stride + 1) * size


cdef inline void patch_row(
    const int size, const int stride, const int columns, const int cut, const int edge, const int r, const real *x,
    const vec *kept, i64 column_mask, vec *acc, i64 *steps
) noexcept nogil:
    """Row r of a tile's patch onto both rows of sums, each input loaded once (KEEPS_WEIGHTS).

    The first and last `edge` columns of the patch are tested; of those that are cut nothing is read.
    """
    cdef vec v
    cdef int i, j, k, q, row, patch = (columns - 1) * stride + size
    for q in range(size // 2 if cut & CUT_LEFT else 0, patch - size // 2 if cut & CUT_RIGHT else patch):
        if (q < edge or q >= patch - edge) and not v_likely(column_mask & (<i64> 1 << q)):
            continue
        v = v_in_register(v_load(v_beside(x, q, steps)))
        for i in range(WINDOW_ROWS):
            row = r - i * stride
            for j in range(columns):
                k = q - j * stride
                if row >= 0 and row < size and k >= 0 and k < size:
                    acc[i * columns + j] = v_fma_onto(v, kept[kept_at(size, stride, row) + k], acc[i * columns + j])


cdef inline void keep_weights(
    const int size, const int stride, const int r, const real *weights, vec *kept
) noexcept nogil:
    """Row r of the window, which the first row of outputs meets on row r of the patch, and the second one later."""
    cdef int k
    if r < size:
        for k in range(size):
            kept[kept_at(size, stride, r) + k] = v_in_register(v_load(weights + (r * size + k) * LANES))


cdef inline void inner_tiles(
    const int size, const int stride, const int columns, const int cut, const bint ring, const Job *job, const Tile *start,
    i64 block_begin, i64 block_end
) noexcept nogil:
    """`start.count` whole tiles side by side, all of whose taps are valid.

    With `ring` rows may wrap: a load more a row, 2 % of the time of 3x3 windows, so that others have one step for all.
    Or one tile, of whose patch's columns size / 2 are outside on the sides that are cut.
    """
    cdef vec acc[WINDOW_ROWS * MOST_NARROW]
    cdef vec kept[MOST_KEPT]
    cdef vec w
    cdef i64 x_row = job.x_row, x_column = job.x_column, out_row = job.out_row, out_column = job.out_column, t
    cdef i64 steps[4]
    cdef const real *x[MOST_PATCH_ROWS]
    cdef Block first, block
    cdef int r, i, last
    first_block(&first, size * size, job, start, block_begin, block_end)
    for t in range(start.count):
        block = first
        while True:
            if job.asks_out:
                ask_lines(columns, job, WINDOW_ROWS, block.out + (LANES - 1 if job.straddles else columns * out_column))
            w = v_load(block.bias)
            for i in range(WINDOW_ROWS * columns):
                acc[i] = w
            x[0] = block.x
            for r in range(1, stride):
                x[r] = bytes_on(x[r - 1], job.x_rows[r - 1]) if ring else x[r - 1] + x_row
            steps_of(x_column, steps)
            for r in range((WINDOW_ROWS - 1) * stride + size if KEEPS_WEIGHTS(size, stride, columns) else 0):
                if r >= stride:
                    x[r] = v_anew(bytes_on(x[r - 1], job.x_rows[r - 1]) if ring else x[r - 1] + x_row)
                keep_weights(size, stride, r, block.weights, kept)
                patch_row(size, stride, columns, cut, 0, r, x[r], kept, 0, acc, steps)
            for r in range(0 if KEEPS_WEIGHTS(size, stride, columns) else size):
                last = r + stride - 1
                x[last + 1] = v_anew(bytes_on(x[last], job.x_rows[last]) if ring else x[last] + x_row)
                window_row(
                    size, stride, columns, 0, x[r], x[r + stride], block.weights + r * size * LANES, 0, acc, steps)
            finish(columns, job, out_row, out_column, WINDOW_ROWS, acc, block.out)
            if not next_block(&block, size * size):
                break
        first.x += columns * stride * x_column
        first.out += columns * out_column


cdef inline void half_row(
    const int size, const int stride, const int r, const real *x, const real *weights, vec *acc, i64 *steps
) noexcept nogil:
    """Row r of a tile's patch onto HALF columns of sums."""
    cdef vec line[MOST_PATCH_COLUMNS]
    cdef vec w[WINDOW_ROWS]
    cdef int j, k
    for k in range(size):
        weights_of(size, stride, r, k, True, weights, w)
        for j in range(HALF):
            if k < stride or j == HALF - 1:
                line[k + j * stride] = v_load(v_beside(x, k + j * stride, steps))
            multiply(size, stride, r, line[k + j * stride], w, acc + j, HALF)


cdef inline void wide_tiles(
    const int size, const int stride, const Job *job, const Tile *start, i64 block_begin, i64 block_end
) noexcept nogil:
    """As `inner_tiles`, with HALF columns and two blocks at a time, whose number is even and none of which slides back.

    A vector and its neighbour share cache lines, unless a vector is a line (PAIRED is 0). Where the lines of a tile are
    more than their sets hold, they are gone before the neighbour's turn comes, unless both are computed at once.
    """
    cdef vec first[WINDOW_ROWS * HALF]
    cdef vec second[WINDOW_ROWS * HALF]
    cdef i64 out_row = job.out_row, out_column = job.out_column, block, t
    cdef i64 steps[4]
    cdef const real *x
    cdef const real *weights
    cdef Tile tile = start[0]
    cdef int r, i
    for t in range(start.count):
        weights = job.weights + block_begin * size * size * LANES
        for block in range(block_begin, block_end, 2):
            for i in range(WINDOW_ROWS * HALF):
                first[i] = v_load(job.bias + block * LANES)
                second[i] = v_load(job.bias + (block + 1) * LANES)
            x = tile.x + block * LANES
            steps_of(job.x_column, steps)
            for r in range((WINDOW_ROWS - 1) * stride + size):
                half_row(size, stride, r, v_anew(x), weights, first, steps)
                half_row(size, stride, r, v_anew(x + LANES), weights + size * size * LANES, second, steps)
                x += job.x_row
            finish(HALF, job, out_row, out_column, WINDOW_ROWS, first, tile.out + block * LANES)
            finish(HALF, job, out_row, out_column, WINDOW_ROWS, second, tile.out + (block + 1) * LANES)
            weights += 2 * size * size * LANES
        tile.x += HALF * stride * job.x_column
        tile.out += HALF * out_column


cdef inline void side_tile(
    const int size, const int stride, const int columns, const Job *job, const Tile *tile, i64 block_begin,
    i64 block_end
) noexcept nogil:
    """WINDOW_ROWS x `columns` outputs at a side: every row of the patch is read, of its columns those that the mask names.

    Of single columns any tap may be outside the image; of more, size / 2 columns at each side of the patch.
    """
    cdef int edge = size // 2 if columns > 1 else size
    cdef vec acc[WINDOW_ROWS * WINDOW_COLUMNS]
    cdef vec kept[MOST_KEPT]
    cdef vec v
    cdef i64 x_column = job.x_column, out_row = job.out_row, out_column = job.out_column, column_mask = tile.column_mask
    cdef i64 steps[4]
    cdef const real *x
    cdef const real *y
    cdef Block block
    cdef int r, i
    first_block(&block, size * size, job, tile, block_begin, block_end)
    while True:
        if job.straddles:
            ask_lines(columns, job, WINDOW_ROWS, block.out + LANES - 1)
        v = v_load(block.bias)
        for i in range(WINDOW_ROWS * columns):
            acc[i] = v
        x = y = block.x
        for r in range(stride):
            y = bytes_on(y, job.x_rows[r])
        steps_of(x_column, steps)
        for r in range((WINDOW_ROWS - 1) * stride + size if KEEPS_WEIGHTS(size, stride, columns) else 0):
            keep_weights(size, stride, r, block.weights, kept)
            patch_row(size, stride, columns, 0, edge, r, v_anew(x), kept, column_mask, acc, steps)
            x = bytes_on(x, job.x_rows[r])
        for r in range(0 if KEEPS_WEIGHTS(size, stride, columns) else size):
            x = v_anew(x)
            y = v_anew(y)
            window_row(size, stride, columns, edge, x, y, block.weights + r * size * LANES, column_mask, acc, steps)
            x = bytes_on(x, job.x_rows[r])
            y = bytes_on(y, job.x_rows[r + stride])
        finish(columns, job, out_row, out_column, WINDOW_ROWS, acc, block.out)
        if not next_block(&block, size * size):
            break


cdef inline void border_tile(
    const int size, const int stride, const int columns, const Job *job, const Tile *tile, i64 block_begin,
    i64 block_end
) noexcept nogil:
    """As `side_tile`, but of rows too only those that the mask names are read, and tile.rows are written.

    Columns that may be outside are tested, and loaded, for each output that sees them, or once (patch_row). Both in one
    function would share registers: rows that are cut took a tenth longer.
    """
    cdef int edge = size // 2 if columns > 1 else size, last = (columns - 1) * stride + size - edge
    cdef vec acc[WINDOW_ROWS * MOST_NARROW]
    cdef vec line[MOST_PATCH_COLUMNS]
    cdef vec w[WINDOW_ROWS]
    cdef vec kept[MOST_KEPT]
    cdef vec v
    cdef i64 x_column = job.x_column, out_row = job.out_row, out_column = job.out_column
    cdef i64 row_mask = tile.row_mask, column_mask = tile.column_mask, rows = tile.rows
    cdef i64 steps[4]
    cdef const real *x
    cdef Block block
    cdef int r, i, j, k, q
    first_block(&block, size * size, job, tile, block_begin, block_end)
    while True:
        ask_weights(size * size, tile, &block)
        if job.straddles:
            ask_lines(columns, job, WINDOW_ROWS, block.out + LANES - 1)
        v = v_load(block.bias)
        for i in range(WINDOW_ROWS * columns):
            acc[i] = v
        x = block.x
        steps_of(x_column, steps)
        for r in range((WINDOW_ROWS - 1) * stride + size):
            x = v_anew(x)
            if KEEPS_WEIGHTS(size, stride, columns):
                keep_weights(size, stride, r, block.weights, kept)
            if v_likely(row_mask & (<i64> 1 << r)):
                if KEEPS_WEIGHTS(size, stride, columns):
                    patch_row(size, stride, columns, 0, edge, r, x, kept, column_mask, acc, steps)
                for k in range(0 if KEEPS_WEIGHTS(size, stride, columns) else size):
                    weights_of(size, stride, r, k, False, block.weights, w)
                    for j in range(columns):
                        q = k + j * stride
                        if q < edge or q >= last:
                            if v_likely(column_mask & (<i64> 1 << q)):
                                v = v_load(v_beside(x, q, steps))
                                multiply(size, stride, r, v, w, acc + j, columns)
                        else:
                            if k < stride or j == columns - 1:
                                line[q] = v_load(v_beside(x, q, steps))
                            multiply(size, stride, r, line[q], w, acc + j, columns)
            x = bytes_on(x, job.x_rows[r])
        finish(columns, job, out_row, out_column, rows, acc, block.out)
        if not next_block(&block, size * size):
            break
