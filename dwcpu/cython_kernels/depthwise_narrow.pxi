# Register tiles of depthwise.pxi for narrow images: a row of outputs from end to end, of one vector of channels.
#
# Tiles of four columns leave three, five, six or seven to be computed by two that overlap, or by short ones. Here a row
# of sums is what there is, and each input is loaded once for a row of the window, whose weights stay in registers; where
# registers keep those of several rows, both rows of a tile at once (border_tile), longer rows as several of seven, too.
# Assumes and guarantees what depthwise_tiles.pxi does.

cdef enum:
    MOST_TAPS = 7         # of a row of a window of the menu


cdef inline void narrow_line(
    const int size, const int stride, const int columns, const real *x, const real *weights, i64 column_mask, vec *acc,
    i64 *steps
) noexcept nogil:
    """A row of the window, input after input, onto a row of `columns` sums; of the outermost inputs those of the mask."""
    cdef vec w[MOST_TAPS]
    cdef vec v
    cdef int j, k, q, edge = size // 2, patch = (columns - 1) * stride + size
    for k in range(size):
        w[k] = v_load(weights + k * LANES)
    for q in range(patch):
        if (q >= edge and q < patch - edge) or v_likely(column_mask & (<i64> 1 << q)):
            v = v_in_register(v_load(v_beside(x, q, steps)))
            for j in range(columns):
                k = q - j * stride
                if k >= 0 and k < size:
                    acc[j] = v_fma_onto(v, w[k], acc[j])


cdef inline void narrow_tile(
    const int size, const int stride, const int columns, const Job *job, const Tile *tile, i64 block_begin,
    i64 block_end
) noexcept nogil:
    """Rows of `columns` outputs from end to end, one after the other: tiles of WINDOW_COLUMNS would overlap.

    Rows and columns are tested as in `border_tile`.
    """
    cdef vec acc[MOST_NARROW]
    cdef vec v
    cdef i64 x_column = job.x_column, out_column = job.out_column, column_mask = tile.column_mask, row_mask, i
    cdef i64 steps[4]
    cdef const i64 *apart
    cdef const real *x
    cdef const real *line
    cdef real *out
    cdef Block block
    cdef int r, j
    if KEEPS_WEIGHTS(size, stride, columns) and tile.rows == WINDOW_ROWS:
        border_tile(size, stride, columns, job, tile, block_begin, block_end)
        return
    first_block(&block, size * size, job, tile, block_begin, block_end)
    while True:
        ask_weights(size * size, tile, &block)
        x, out, row_mask, apart = block.x, block.out, tile.row_mask, job.x_rows
        for i in range(tile.rows):
            if job.straddles:
                ask_lines(columns, job, 1, out + LANES - 1)
            v = v_load(block.bias)
            for j in range(columns):
                acc[j] = v
            line = x
            steps_of(x_column, steps)
            for r in range(size):
                line = v_anew(line)
                if v_likely(row_mask & (<i64> 1 << r)):
                    narrow_line(size, stride, columns, line, block.weights + r * size * LANES, column_mask, acc, steps)
                line = bytes_on(line, apart[r])
            finish(columns, job, 0, out_column, 1, acc, out)
            for r in range(stride):
                x = bytes_on(x, apart[r])
            out += job.out_row
            apart += stride
            row_mask >>= stride
        if not next_block(&block, size * size):
            break


cdef void narrow_3_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(3, 1, 3, job, tile, block_begin, block_end)


cdef void narrow_5_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(3, 1, 5, job, tile, block_begin, block_end)


cdef void narrow_6_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(3, 1, 6, job, tile, block_begin, block_end)


cdef void narrow_7_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(3, 1, 7, job, tile, block_begin, block_end)


cdef void narrow_3_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(3, 2, 3, job, tile, block_begin, block_end)


cdef void narrow_5_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(3, 2, 5, job, tile, block_begin, block_end)


cdef void narrow_6_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(3, 2, 6):
        narrow_tile(3, 2, 6, job, tile, block_begin, block_end)


cdef void narrow_7_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(3, 2, 7):
        narrow_tile(3, 2, 7, job, tile, block_begin, block_end)


cdef void narrow_3_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(5, 1, 3, job, tile, block_begin, block_end)


cdef void narrow_5_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(5, 1, 5, job, tile, block_begin, block_end)


cdef void narrow_6_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(5, 1, 6, job, tile, block_begin, block_end)


cdef void narrow_7_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(5, 1, 7, job, tile, block_begin, block_end)


cdef void narrow_3_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(5, 2, 3, job, tile, block_begin, block_end)


cdef void narrow_5_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(5, 2, 5, job, tile, block_begin, block_end)


cdef void narrow_6_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(5, 2, 6, job, tile, block_begin, block_end)


cdef void narrow_7_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(5, 2, 7, job, tile, block_begin, block_end)


cdef void narrow_3_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(7, 1, 3, job, tile, block_begin, block_end)


cdef void narrow_5_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(7, 1, 5, job, tile, block_begin, block_end)


cdef void narrow_6_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(7, 1, 6, job, tile, block_begin, block_end)


cdef void narrow_7_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(7, 1, 7, job, tile, block_begin, block_end)


cdef void narrow_3_7x7s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(7, 2, 3, job, tile, block_begin, block_end)


cdef void narrow_5_7x7s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(7, 2, 5, job, tile, block_begin, block_end)


cdef void narrow_6_7x7s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(7, 2, 6, job, tile, block_begin, block_end)


cdef void narrow_7_7x7s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    narrow_tile(7, 2, 7, job, tile, block_begin, block_end)
