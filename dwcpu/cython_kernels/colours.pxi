# Windows on three planes: pictures whose three colours lie one after the other, (N, C, H, W), are convolved without
# being turned first. It is what the first layer of most networks is given.
#
# Assumes: a panel as `conv_run` fills it in, `a_column` from one plane to the next; no residual, and out is nothing
# that is read.
# Guarantees: each output has one accumulator, which starts from the bias and takes the inputs in the order kernel row,
# kernel column, colour: the same bits as of channel-last pictures. Outputs may be computed twice, where the last tile
# of a run slides back over the one before it.
# Loops, outermost first: tiles, kernel rows, kernel columns; colours are unrolled. The tile stays in registers. Lines of
# outputs are asked for two tiles ahead: large results that are in no near cache take 0.81 to 0.94 of the time for it.

cdef inline void colour_tiles(
    const int rows, const int vectors, const bint half, const bint short, const int stride,
    const Plan *plan, const Panel *panel, i64 pixels, const real *x, real *y
) noexcept nogil:
    """A run of `pixels` pixels by tiles of `rows` pixels and `vectors` vectors, and their activation.

    Of the last vector all is computed or, if that will do, `half`. `stride` is how many elements of x lie from one pixel
    to the next, or 0 for `a_step`.
    """
    cdef vec acc[ROWS_LIMIT][MOST_VECTORS]
    cdef vec b[MOST_VECTORS]
    cdef vec v
    cdef const real *a
    cdef const real *p
    cdef const real *w
    cdef real *out
    cdef i64 step, plane = panel.a_column, row, column, at = 0, raw = 0, end
    cdef i64 columns = panel.column_taps
    cdef int i, j, c
    while True:
        a = x + at * panel.a_step
        out = y + at * panel.out_step
        w = panel.weights
        for j in range(vectors):
            b[j] = v_load(panel.bias + j * LANES)
            for i in range(rows):
                acc[i][j] = b[j]
        for i in range(rows):
            v_prefetch_out(out + (2 * rows + i) * panel.out_step)
        for row in range(panel.row_taps):
            for column in range(columns):
                p = a + column
                for c in range(3):
                    w = v_anew(w)
                    step = stride if stride else v_anew_step(panel.a_step)
                    for j in range(vectors):
                        b[j] = v_load(w + (c * vectors + j) * LANES)
                    for i in range(rows):
                        if half or splats_on(rows, vectors, short, i):
                            for j in range(vectors):
                                acc[i][j] = put_on(half and j == vectors - 1, p + i * step, b[j], acc[i][j])
                            continue
                        v = v_splat(p[i * step])
                        for j in range(vectors):
                            acc[i][j] = v_fma_onto(v, b[j], acc[i][j])
                    p = v_anew(p + plane)
                w += 3 * vectors * LANES
            a += panel.a_row
            w += panel.w_row - columns * 3 * vectors * LANES
        put_tile(rows, vectors, <int> panel.last, panel, acc, out)
        end = at + rows
        if end == pixels or end - raw >= ACTIVATION_TILES * rows:
            activate(plan, y + raw * panel.out_step, end - raw, panel.out_step, columns_of(panel))
            raw = smaller(end, pixels - rows)  # the last tile makes raw outputs again
        if end == pixels:
            return
        at = smaller(end, pixels - rows)


cdef inline void colour_tiles_of(
    const int rows, const int vectors, const bint short, const Plan *plan, const Panel *panel, i64 pixels, const real *x,
    real *y
) noexcept nogil:
    if pixels < rows:
        colour_tiles(1, vectors, False, short, 0, plan, panel, pixels, x, y)
    elif panel.a_step != 2:
        colour_tiles(rows, vectors, False, short, 0, plan, panel, pixels, x, y)
    elif ends_in_half(panel):  # only of rows: border columns are too few for code of their own
        colour_tiles(rows, vectors, True, short, 2, plan, panel, pixels, x, y)
    else:
        colour_tiles(rows, vectors, False, short, 2, plan, panel, pixels, x, y)


cdef void colour_pixels(
    const Plan *plan, const Panel *panel, i64 pixels, const real *x, real *y
) noexcept nogil:
    """A run of pixels of a panel of any width."""
    if panel.vectors == 1:
        colour_tiles_of(TILE_ROWS(2), 1, False, plan, panel, pixels, x, y)
    elif panel.vectors == 2 and SHORT_ROWS > 0 and rows_of_tiles(panel) == SHORT_ROWS:
        colour_tiles_of(SHORT_ROWS, 2, True, plan, panel, pixels, x, y)
    elif panel.vectors == 2:
        colour_tiles_of(TILE_ROWS(2), 2, False, plan, panel, pixels, x, y)
    elif panel.vectors == 3:
        colour_tiles_of(TILE_ROWS(3), 3, False, plan, panel, pixels, x, y)
    elif MOST_VECTORS >= 4:
        colour_tiles_of(TILE_ROWS(4), 4, False, plan, panel, pixels, x, y)
