# The GEMM micro-kernel: a tile of pixels x one panel of output channels, in registers from the bias to the clamp.
#
# Assumes: weights packed in panels of `vectors` vectors, [tap][input channel][panel width], the columns beyond the
# last output channel padded; bias padded alike. Reads inputs straight from x: the pixels of a tile lie `a_step`
# apart, and the sum runs over row_taps x column_taps runs of `depth` consecutive inputs. Pointwise is one run; a
# standard convolution without column dilation is one run per kernel row; other convolutions one run per tap.
# An empty sum is the bias alone.
# Guarantees: each output has one accumulator, which starts from the bias and takes the inputs in the order of the
# runs.
# Loops, outermost first: runs, inputs of a run. The tile stays in registers, a panel in L1 or L2 from tile to tile.

cdef struct Panel:
    const real *weights        # of the first tap of the sum
    const real *bias
    i64 vectors                # width of the panel
    i64 last                   # columns in its last vector, 1 to LANES
    i64 a_step                 # from one pixel of the tile to the next, in x
    i64 out_step               # likewise in out and residual
    i64 row_taps
    i64 a_row                  # from one kernel row to the next, in x
    i64 w_row                  # likewise in the weights
    i64 column_taps
    i64 a_column
    i64 w_column
    i64 depth
    i64 ahead                  # from these weights to the next panel, which the first tile prefetches
    real low
    real high


cdef inline void gemm_tile(
    const int rows, const int vectors, const Panel *panel, const real *a, const real *residual, real *out
) noexcept nogil:
    """One tile of `rows` pixels and `vectors` vectors of output channels."""
    cdef vec acc[GEMM_ROWS][GEMM_VECTORS]
    cdef vec b[GEMM_VECTORS]
    cdef vec x, low, high
    cdef const real *p
    cdef const real *w
    cdef i64 step = panel.a_step, ahead = panel.ahead, k, h = 0, g
    cdef int i, j, last
    for j in range(vectors):
        b[j] = v_load(panel.bias + j * LANES)
        for i in range(rows):
            acc[i][j] = b[j]
    while True:  # the sum is not empty: loops that test at their end keep the tile in registers all the way
        g = 0
        while True:
            p = a + h * panel.a_row + g * panel.a_column
            w = panel.weights + h * panel.w_row + g * panel.w_column
            k = panel.depth
            while True:
                for j in range(vectors):
                    if j * LANES * sizeof(real) % 64 == 0:
                        v_prefetch(w + ahead + j * LANES)
                    b[j] = v_load(w + j * LANES)
                for i in range(rows):
                    x = v_splat(p[i * step])
                    for j in range(vectors):
                        acc[i][j] = v_fma(x, b[j], acc[i][j])
                p += 1
                w += vectors * LANES
                k -= 1
                if k == 0:
                    break
            g += 1
            if g == panel.column_taps:
                break
        h += 1
        if h == panel.row_taps:
            break

    low = v_splat(panel.low)
    high = v_splat(panel.high)
    step = panel.out_step
    last = <int> panel.last
    if last == LANES:
        for i in range(rows):
            for j in range(vectors):
                if residual != NULL:
                    acc[i][j] = v_add(acc[i][j], v_load(residual + i * step + j * LANES))
                v_store(out + i * step + j * LANES, v_clamp(acc[i][j], low, high))
        return
    for i in range(rows):
        for j in range(vectors):
            if j < vectors - 1:
                if residual != NULL:
                    acc[i][j] = v_add(acc[i][j], v_load(residual + i * step + j * LANES))
                v_store(out + i * step + j * LANES, v_clamp(acc[i][j], low, high))
            else:
                if residual != NULL:
                    acc[i][j] = v_add(acc[i][j], v_load_part(residual + i * step + j * LANES, 0, last))
                v_store_part(out + i * step + j * LANES, v_clamp(acc[i][j], low, high), 0, last)


cdef void gemm_nothing(
    const Panel *panel, i64 rows, const real *residual, real *out
) noexcept nogil:
    """Outputs of an empty sum: of windows that lie in the padding altogether."""
    cdef vec low = v_splat(panel.low), high = v_splat(panel.high), v
    cdef i64 i, j
    cdef int last
    for i in range(rows):
        for j in range(panel.vectors):
            last = <int> panel.last if j == panel.vectors - 1 else LANES
            v = v_load(panel.bias + j * LANES)
            if residual != NULL:
                v = v_add(v, v_load_part(residual + i * panel.out_step + j * LANES, 0, last))
            v_store_part(out + i * panel.out_step + j * LANES, v_clamp(v, low, high), 0, last)


cdef inline void gemm_tile_of(
    const int vectors, i64 rows, const Panel *panel, const real *a, const real *residual, real *out
) noexcept nogil:
    """The tile of 1 to GEMM_ROWS rows: a remainder of pixels has its own unrolled micro-kernel, as fast per row."""
    if rows == 1:
        gemm_tile(1, vectors, panel, a, residual, out)
    elif rows == 2:
        gemm_tile(2, vectors, panel, a, residual, out)
    elif rows == 3:
        gemm_tile(3, vectors, panel, a, residual, out)
    elif rows == 4:
        gemm_tile(4, vectors, panel, a, residual, out)
    elif rows == 5:
        gemm_tile(5, vectors, panel, a, residual, out)
    elif rows == 6:
        gemm_tile(6, vectors, panel, a, residual, out)
    elif GEMM_ROWS > 6:
        if rows == 7:
            gemm_tile(7, vectors, panel, a, residual, out)
        elif rows == 8:
            gemm_tile(8, vectors, panel, a, residual, out)
        elif rows == 9:
            gemm_tile(9, vectors, panel, a, residual, out)
        elif rows == 10:
            gemm_tile(10, vectors, panel, a, residual, out)
        elif rows == 11:
            gemm_tile(11, vectors, panel, a, residual, out)
        elif rows == 12:
            gemm_tile(12, vectors, panel, a, residual, out)
        elif rows == 13:
            gemm_tile(13, vectors, panel, a, residual, out)
        elif rows == 14:
            gemm_tile(14, vectors, panel, a, residual, out)


cdef void gemm_tile_1(i64 rows, const Panel *panel, const real *a, const real *residual, real *out) noexcept nogil:
    gemm_tile_of(1, rows, panel, a, residual, out)


cdef void gemm_tile_2(i64 rows, const Panel *panel, const real *a, const real *residual, real *out) noexcept nogil:
    gemm_tile_of(2, rows, panel, a, residual, out)


cdef void gemm_tile_3(i64 rows, const Panel *panel, const real *a, const real *residual, real *out) noexcept nogil:
    if GEMM_VECTORS > 2:
        gemm_tile_of(3, rows, panel, a, residual, out)


cdef void gemm_tile_4(i64 rows, const Panel *panel, const real *a, const real *residual, real *out) noexcept nogil:
    if GEMM_VECTORS > 2:
        gemm_tile_of(4, rows, panel, a, residual, out)


cdef void gemm_panel(
    const Plan *plan, Panel *panel, i64 pixels, const real *a, const real *residual, real *out
) noexcept nogil:
    """One panel for `pixels` pixels, dealt to tiles whose heights differ by one at most."""
    cdef i64 tiles = ceil_div(pixels, GEMM_ROWS)
    cdef i64 first = 0, rows, t
    cdef i64 columns = (panel.vectors - 1) * LANES + panel.last
    for t in range(tiles):
        rows = pixels * (t + 1) // tiles - first
        if panel.row_taps <= 0 or panel.column_taps <= 0 or panel.depth <= 0:
            gemm_nothing(panel, rows, residual, out)
        elif panel.vectors == 1:
            gemm_tile_1(rows, panel, a, residual, out)
        elif panel.vectors == 2:
            gemm_tile_2(rows, panel, a, residual, out)
        elif panel.vectors == 3:
            gemm_tile_3(rows, panel, a, residual, out)
        else:
            gemm_tile_4(rows, panel, a, residual, out)
        activate(plan, out, rows, panel.out_step, columns)
        panel.ahead = 0
        first += rows
        a += rows * panel.a_step
        residual = moved(residual, rows * panel.out_step)
        out += rows * panel.out_step


cdef inline void panel_of(Panel *panel, const Plan *plan, i64 channels, i64 depth, i64 block) noexcept nogil:
    """Place and width of panel number `block` of a weight matrix of `channels` columns and `depth` rows."""
    cdef i64 first = block * GEMM_VECTORS * LANES
    cdef i64 rest = smaller(channels - first, GEMM_VECTORS * LANES)
    panel.vectors = ceil_div(rest, LANES)
    panel.last = rest - (panel.vectors - 1) * LANES
    panel.weights = <const real *> plan.weights + first * depth
    panel.bias = <const real *> plan.bias + first
    panel.ahead = 0
    panel.low = <real> plan.low
    panel.high = <real> plan.high
    panel.out_step = plan.out_channels
