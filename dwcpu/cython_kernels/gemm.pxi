# The GEMM micro-kernel: a tile of pixels x one panel of output channels, in registers from the bias to the clamp.
#
# Assumes: weights packed in panels of `vectors` vectors, [tap][input channel][panel width], the columns beyond the
# last output channel padded; bias padded alike. Reads inputs straight from x, or from what joined_groups.pxi makes of
# it, where each is a vector: the pixels of a tile lie `a_step` apart, and the sum runs over row_taps x column_taps
# runs of `depth` consecutive inputs. Pointwise is one run; a standard convolution without column dilation is one run
# per kernel row; other convolutions one run per tap. An empty sum is the bias alone.
# Guarantees: each output has one accumulator, which starts from the bias and takes the inputs in the order of the
# runs.
# Loops, outermost first: runs, inputs of a run. The tile stays in registers, a panel in L1 or L2 from tile to tile.

cdef inline real *put_hardswish(
    const int rows, const int vectors, int last, const real *numbers, vec (*acc)[MOST_VECTORS], real *out, i64 out_step
) noexcept nogil:
    """As `put_tile`, hardswish in place of the clamp. Of copies of the sums: GCC keeps those in registers too, but no
    longer moves the sums of every tile about, with and without hardswish, to have registers free for it here."""
    cdef real copies[ROWS_LIMIT * MOST_VECTORS * LANES_LIMIT]
    cdef vec v, six
    cdef int i, j
    for i in range(rows):
        for j in range(vectors):
            v_store(copies + (i * vectors + j) * LANES, acc[i][j])
    six = v_load(numbers + LANES)
    for i in range(rows):
        for j in range(vectors):
            v = hardswish_of(v_load(copies + (i * vectors + j) * LANES), numbers, six)
            if j < vectors - 1 or last == LANES:
                v_store(out + j * LANES, v)
            else:
                v_store_first(out + j * LANES, v, last)
        out += out_step
    return out


cdef inline void load_sums(
    const int rows, const int vectors, int last, i64 out_step, vec (*acc)[MOST_VECTORS], const real *out
) noexcept nogil:
    """What earlier tiles of the same outputs came to."""
    cdef int i, j
    for i in range(rows):
        for j in range(vectors):
            if j < vectors - 1 or last == LANES:
                acc[i][j] = v_load(out + j * LANES)
            else:
                acc[i][j] = v_load_part(out + j * LANES, 0, last)
        out = v_anew(out + out_step)


cdef inline real *put_tile(
    const int rows, const int vectors, int last, const Panel *panel, vec (*acc)[MOST_VECTORS], real *out
) noexcept nogil:
    """Epilogue of a tile whose residual is in its sums; returns where the next tile goes."""
    cdef i64 out_step = v_anew_step(panel.out_step)  # its multiples must not take the registers of the sum's
    cdef vec low, high
    cdef int i, j
    if panel.hardswish != NULL:
        return put_hardswish(rows, vectors, last, panel.hardswish, acc, out, out_step)
    low = v_splat(panel.low)
    high = v_splat(panel.high)
    for i in range(rows):
        if i > 0 and i % 3 == 0:
            out = v_anew_out(out + 3 * out_step)
        for j in range(vectors):
            acc[i][j] = v_in_turn(acc[i][j])
            if j < vectors - 1 or last == LANES:
                v_store(out + i % 3 * out_step + j * LANES, v_clamp(acc[i][j], low, high))
            else:
                v_store_first(out + i % 3 * out_step + j * LANES, v_clamp(acc[i][j], low, high), last)
    return out + ((rows - 1) % 3 + 1) * out_step


cdef inline void ask_out(const int rows, const int vectors, i64 out_step, real *out) noexcept nogil:
    """Ask for the lines of the tile after the next: those of the next one would come from memory too late. Where rows
    begin between lines, for those that end a vector: the panel before has written to the first of a row."""
    cdef int i, j
    for i in range(rows):
        for j in range(vectors * LANES // LINE):
            v_prefetch_out(out + (2 * rows + i) * out_step + (j + 1) * LINE - 1)


cdef inline bint splats_on(const int rows, const int vectors, const bint short, const int row) noexcept nogil:
    """Whether a tile's multiply-adds splat the input of a row, which elsewhere an instruction does: SHORT_ROWS."""
    return short and vectors > 1 and row < rows - 2


cdef inline vec put_on(const bint half, const real *a, vec b, vec c) noexcept nogil:
    """c + *a * b, of half of the lanes or all."""
    return v_fma_onto_splat_half(a, b, c) if half else v_fma_onto_splat(a, b, c)


cdef inline void gemm_tiles(
    const int rows, const int vectors, const int run, const bint short,
    Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    """`tiles` tiles of `rows` pixels and `vectors` vectors of output channels, one below the other.

    `run` is what is known of the runs: ONE_RUN leaves out the loops over taps, since what they keep at hand costs short
    sums a tenth of their time, and takes TURN inputs a turn. WHOLE_RUN is one too, of whole turns, with whole
    vectors of outputs: without the code for what is left, sums of 16 to 64 inputs take 3 to 10 % less. COLOUR_RUN is
    the length of each, which is one turn, one a kernel row, with whole vectors: that of a 3x3 window on three colours,
    the first layer of most networks. HALF_RUN is one of any length, and half of the last vector, or less, is outputs:
    only half of it is computed, and 24 outputs take 0.76 of the time of 32 where vectors of 64 bytes take two turns of
    the multiply-add; HALF_RUNS are any number of such runs. JOINED_RUNS have inputs that are vectors, a lane for each
    output. ANY_RUNS is nothing. `short` is whether tiles are those of a CPU that computes a vector in two turns.
    """
    cdef vec acc[ROWS_LIMIT][MOST_VECTORS]
    cdef vec b[MOST_VECTORS]
    cdef vec x
    cdef const real *p[ROWS_LIMIT]  # of every third pixel: the others are a step or two from it
    cdef const real *w
    cdef const real *ahead
    cdef i64 step, ahead_step, out_step, k, h, g
    cdef bint joined = run == JOINED_RUNS, half = run == HALF_RUN or run == HALF_RUNS
    cdef bint one = run == ONE_RUN or run == WHOLE_RUN or run == HALF_RUN
    cdef bint colours = run == COLOUR_RUN, whole = run == WHOLE_RUN or colours
    cdef int i, j, u, turn = COLOUR_RUN if colours else TURN, input = LANES if joined else 1
    cdef int last = LANES if whole else <int> panel.last
    while tiles > 0:
        for j in range(vectors):
            b[j] = v_load(panel.bias + j * LANES)
            for i in range(rows):
                acc[i][j] = b[j]
        if one and not whole and panel.more:
            load_sums(rows, vectors, last, panel.out_step, acc, out)
        if (one or colours) and panel.asks_out:
            ask_out(rows, vectors, panel.out_step, out)
        step = v_anew_step(panel.a_step)
        ahead = panel.ahead
        ahead_step = panel.ahead_step
        h = 0
        while True:  # the sum is not empty: loops that test at their end keep the tile in registers all the way
            g = 0
            while True:
                p[0] = a
                w = panel.weights
                if not one:
                    p[0] += h * panel.a_row
                    w += h * panel.w_row
                if run == ANY_RUNS or run == HALF_RUNS or joined:
                    p[0] += g * panel.a_column
                    w += g * panel.w_column
                for i in range(3, rows, 3):
                    p[i // 3] = v_anew(p[i // 3 - 1] + 3 * step)
                k = panel.depth
                if whole or ((one or half or joined) and k >= turn):
                    k = 1 if colours else <i64> (<uint64_t> k // turn)
                    while True:
                        if one:
                            for i in range(AHEAD_LINES(rows, vectors)):
                                v_prefetch(ahead + i * LINE)
                            ahead += turn * ahead_step
                        for i in range(0, rows, 3):  # anew, or GCC keeps what they were, too, in vector registers
                            p[i // 3] = v_anew(p[i // 3] + turn * input)
                        for u in range(turn):
                            step = v_anew_step(step)
                            w = v_anew(w)
                            for j in range(vectors):
                                b[j] = v_load(w + (u * vectors + j) * LANES)
                            for i in range(rows):
                                if joined:
                                    acc[i][0] = v_fma_onto_from(
                                        b[0], p[i // 3] + i % 3 * step + (u - turn) * LANES, acc[i][0])
                                    continue
                                if half or splats_on(rows, vectors, short, i):
                                    for j in range(vectors):
                                        acc[i][j] = put_on(
                                            half and j == vectors - 1, p[i // 3] + i % 3 * step + u - turn, b[j],
                                            acc[i][j])
                                    continue
                                x = v_splat(p[i // 3][i % 3 * step + u - turn])
                                for j in range(vectors):
                                    if vectors == 1:
                                        acc[i][j] = v_fma(x, b[j], acc[i][j])
                                    elif j == vectors - 1 and IS_FULL(rows, vectors):
                                        acc[i][j] = v_fma_onto_from(x, w + (u * vectors + j) * LANES, acc[i][j])
                                    else:
                                        acc[i][j] = v_fma_onto(x, b[j], acc[i][j])
                        w += turn * vectors * LANES
                        k -= 1
                        if k == 0:
                            break
                    k = panel.depth % turn
                while k > 0 and not whole:
                    for j in range(vectors):
                        b[j] = v_load(w + j * LANES)
                    for i in range(rows):
                        if joined:
                            acc[i][0] = v_fma_onto_from(b[0], p[i // 3] + i % 3 * step, acc[i][0])
                            continue
                        if half or splats_on(rows, vectors, short, i):
                            for j in range(vectors):
                                acc[i][j] = put_on(half and j == vectors - 1, p[i // 3] + i % 3 * step, b[j], acc[i][j])
                            continue
                        x = v_splat(p[i // 3][i % 3 * step])
                        for j in range(vectors):
                            acc[i][j] = v_fma(x, b[j], acc[i][j])
                    for i in range(0, rows, 3):
                        p[i // 3] += input
                    w += vectors * LANES
                    k -= 1
                g += 1
                if one or colours or g == panel.column_taps:
                    break
            h += 1
            if one or h == panel.row_taps:
                break
        if residual != NULL:
            out_step = v_anew_step(panel.out_step)
            for i in range(rows):
                if i > 0 and i % 3 == 0:
                    residual = v_anew(residual + 3 * out_step)
                for j in range(vectors):
                    if j < vectors - 1 or last == LANES:
                        acc[i][j] = v_add(acc[i][j], v_load(residual + i % 3 * out_step + j * LANES))
                    else:
                        acc[i][j] = v_add(acc[i][j], v_load_part(residual + i % 3 * out_step + j * LANES, 0, last))
            residual += ((rows - 1) % 3 + 1) * out_step
        out = put_tile(rows, vectors, last, panel, acc, out)
        a += rows * panel.a_step  # not the sum's own: its multiples would be computed, and spilled, at each turn
        panel.ahead = ahead
        if ahead >= panel.ahead_end:
            ask_later(panel, turn, later_lines(rows))
        tiles -= 1


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
            v_store_part(out + i * panel.out_step + j * LANES, ended(panel.hardswish != NULL, v, low, high), 0, last)


cdef inline int tallest(const int vectors, const bint short) noexcept nogil:
    return SHORT_ROWS if short and vectors > 1 else TILE_ROWS(vectors)


cdef inline void gemm_tiles_of(
    const int vectors, const int run, const bint short,
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    """Tiles of any height up to the tallest: a remainder of pixels has its own unrolled micro-kernel, as fast per row."""
    if rows == 1:
        gemm_tiles(1, vectors, run, short, panel, tiles, a, residual, out)
    elif rows == 2:
        gemm_tiles(2, vectors, run, short, panel, tiles, a, residual, out)
    elif rows == 3:
        gemm_tiles(3, vectors, run, short, panel, tiles, a, residual, out)
    elif rows == 4:
        gemm_tiles(4, vectors, run, short, panel, tiles, a, residual, out)
    elif tallest(vectors, short) >= 5 and rows == 5:
        gemm_tiles(5, vectors, run, short, panel, tiles, a, residual, out)
    elif tallest(vectors, short) >= 6 and rows == 6:
        gemm_tiles(6, vectors, run, short, panel, tiles, a, residual, out)
    elif tallest(vectors, short) >= 7 and rows == 7:
        gemm_tiles(7, vectors, run, short, panel, tiles, a, residual, out)
    elif tallest(vectors, short) >= 8 and rows == 8:
        gemm_tiles(8, vectors, run, short, panel, tiles, a, residual, out)
    elif tallest(vectors, short) >= 9 and rows == 9:
        gemm_tiles(9, vectors, run, short, panel, tiles, a, residual, out)
    elif tallest(vectors, short) >= 10 and rows == 10:
        gemm_tiles(10, vectors, run, short, panel, tiles, a, residual, out)
    elif tallest(vectors, short) >= 11 and rows == 11:
        gemm_tiles(11, vectors, run, short, panel, tiles, a, residual, out)
    elif tallest(vectors, short) >= 12 and rows == 12:
        gemm_tiles(12, vectors, run, short, panel, tiles, a, residual, out)
    elif tallest(vectors, short) >= 13 and rows == 13:
        gemm_tiles(13, vectors, run, short, panel, tiles, a, residual, out)
    elif tallest(vectors, short) >= 14 and rows == 14:
        gemm_tiles(14, vectors, run, short, panel, tiles, a, residual, out)


cdef void gemm_whole_2(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    gemm_tiles_of(2, WHOLE_RUN, False, rows, panel, tiles, a, residual, out)


cdef void gemm_whole_3(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if MOST_VECTORS >= 3:
        gemm_tiles_of(3, WHOLE_RUN, False, rows, panel, tiles, a, residual, out)


cdef void gemm_whole_4(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if MOST_VECTORS >= 4:
        gemm_tiles_of(4, WHOLE_RUN, False, rows, panel, tiles, a, residual, out)


cdef void gemm_one_1(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    gemm_tiles_of(1, ONE_RUN, False, rows, panel, tiles, a, residual, out)


cdef void gemm_one_2(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    gemm_tiles_of(2, ONE_RUN, False, rows, panel, tiles, a, residual, out)


cdef void gemm_one_3(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if MOST_VECTORS >= 3:
        gemm_tiles_of(3, ONE_RUN, False, rows, panel, tiles, a, residual, out)


cdef void gemm_one_4(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if MOST_VECTORS >= 4:
        gemm_tiles_of(4, ONE_RUN, False, rows, panel, tiles, a, residual, out)


cdef void gemm_colour_2(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    gemm_tiles_of(2, COLOUR_RUN, False, rows, panel, tiles, a, residual, out)


cdef void gemm_colour_3(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if MOST_VECTORS >= 3:
        gemm_tiles_of(3, COLOUR_RUN, False, rows, panel, tiles, a, residual, out)


cdef void gemm_colour_4(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if MOST_VECTORS >= 4:
        gemm_tiles_of(4, COLOUR_RUN, False, rows, panel, tiles, a, residual, out)


cdef void gemm_runs_1(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    gemm_tiles_of(1, ANY_RUNS, False, rows, panel, tiles, a, residual, out)


cdef void gemm_runs_2(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    gemm_tiles_of(2, ANY_RUNS, False, rows, panel, tiles, a, residual, out)


cdef void gemm_runs_3(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if MOST_VECTORS >= 3:
        gemm_tiles_of(3, ANY_RUNS, False, rows, panel, tiles, a, residual, out)


cdef void gemm_runs_4(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if MOST_VECTORS >= 4:
        gemm_tiles_of(4, ANY_RUNS, False, rows, panel, tiles, a, residual, out)


cdef void gemm_short_whole_2(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if SHORT_ROWS > 0:
        gemm_tiles_of(2, WHOLE_RUN, True, rows, panel, tiles, a, residual, out)


cdef void gemm_short_whole_3(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if SHORT_ROWS > 0:
        gemm_tiles_of(3, WHOLE_RUN, True, rows, panel, tiles, a, residual, out)


cdef void gemm_short_one_2(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if SHORT_ROWS > 0:
        gemm_tiles_of(2, ONE_RUN, True, rows, panel, tiles, a, residual, out)


cdef void gemm_short_one_3(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if SHORT_ROWS > 0:
        gemm_tiles_of(3, ONE_RUN, True, rows, panel, tiles, a, residual, out)


cdef void gemm_short_colour_2(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if SHORT_ROWS > 0:
        gemm_tiles_of(2, COLOUR_RUN, True, rows, panel, tiles, a, residual, out)


cdef void gemm_short_colour_3(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if SHORT_ROWS > 0:
        gemm_tiles_of(3, COLOUR_RUN, True, rows, panel, tiles, a, residual, out)


cdef void gemm_short_runs_2(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if SHORT_ROWS > 0:
        gemm_tiles_of(2, ANY_RUNS, True, rows, panel, tiles, a, residual, out)


cdef void gemm_short_runs_3(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if SHORT_ROWS > 0:
        gemm_tiles_of(3, ANY_RUNS, True, rows, panel, tiles, a, residual, out)


cdef void gemm_half_1(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if HAS_HALVES:
        gemm_tiles_of(1, HALF_RUN, False, rows, panel, tiles, a, residual, out)


cdef void gemm_half_2(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if HAS_HALVES:
        gemm_tiles_of(2, HALF_RUN, False, rows, panel, tiles, a, residual, out)


cdef void gemm_half_3(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if HAS_HALVES:
        gemm_tiles_of(3, HALF_RUN, False, rows, panel, tiles, a, residual, out)


cdef void gemm_half_runs_1(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if HAS_HALVES:
        gemm_tiles_of(1, HALF_RUNS, False, rows, panel, tiles, a, residual, out)


cdef void gemm_half_runs_2(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if HAS_HALVES:
        gemm_tiles_of(2, HALF_RUNS, False, rows, panel, tiles, a, residual, out)


cdef void gemm_half_runs_3(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    if HAS_HALVES:
        gemm_tiles_of(3, HALF_RUNS, False, rows, panel, tiles, a, residual, out)


cdef void gemm_joined(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    gemm_tiles_of(1, JOINED_RUNS, False, rows, panel, tiles, a, residual, out)


ctypedef void (*Tiles)(
    i64 rows, Panel *panel, i64 tiles, const real *a, const real *residual, real *out) noexcept nogil


cdef inline Tiles tiles_of(const Panel *panel) noexcept nogil:
    """The function for tiles of this panel."""
    cdef bint whole = panel.last == LANES
    if panel.joined:
        return gemm_joined
    if panel.row_taps == 1 and panel.column_taps == 1:
        if whole and panel.vectors > 1 and panel.depth % TURN == 0 and not panel.more:
            if panel.short:
                return gemm_short_whole_2 if panel.vectors == 2 else gemm_short_whole_3
            return gemm_whole_2 if panel.vectors == 2 else gemm_whole_3 if panel.vectors == 3 else gemm_whole_4
        return more_tiles_of(panel)
    if ends_in_half(panel):
        return gemm_half_runs_1 if panel.vectors == 1 else gemm_half_runs_2 if panel.vectors == 2 else gemm_half_runs_3
    if panel.vectors == 1:
        return gemm_runs_1
    if panel.column_taps == 1 and panel.depth == COLOUR_RUN and whole:
        if panel.short:
            return gemm_short_colour_2 if panel.vectors == 2 else gemm_short_colour_3
        return gemm_colour_2 if panel.vectors == 2 else gemm_colour_3 if panel.vectors == 3 else gemm_colour_4
    if panel.short:
        return gemm_short_runs_2 if panel.vectors == 2 else gemm_short_runs_3
    return gemm_runs_2 if panel.vectors == 2 else gemm_runs_3 if panel.vectors == 3 else gemm_runs_4


cdef inline Tiles more_tiles_of(const Panel *panel) noexcept nogil:
    """The function for tiles of this panel that begin with what `out` has."""
    if ends_in_half(panel):
        return gemm_half_1 if panel.vectors == 1 else gemm_half_2 if panel.vectors == 2 else gemm_half_3
    if panel.vectors == 1:
        return gemm_one_1
    if panel.short:
        return gemm_short_one_2 if panel.vectors == 2 else gemm_short_one_3
    return gemm_one_2 if panel.vectors == 2 else gemm_one_3 if panel.vectors == 3 else gemm_one_4


cdef inline void ask_inputs(Panel *panel, i64 rows, const real *a) noexcept nogil:
    """The first panel reads inputs from wherever they are. The CPU does not see what comes next in rows that tiles read
    side by side: 144 to 16 channels took twice as long."""
    if panel.inputs_end > a + 2 * rows * panel.a_step:
        panel.ahead = a + 2 * rows * panel.a_step
        panel.ahead_end = panel.inputs_end
        panel.ahead_step = rows


cdef void gemm_run(
    const Plan *plan, Panel *panel, i64 rows, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    """`tiles` tiles of `rows` pixels of one panel, with their activation."""
    cdef i64 columns = columns_of(panel), some
    ask_inputs(panel, rows, a)
    while tiles > 0:
        # an activation of its own is a second pass, over what is still in L1
        some = tiles if plan.activation == NULL else smaller(tiles, ACTIVATION_TILES)
        if panel.row_taps <= 0 or panel.column_taps <= 0 or panel.depth <= 0:
            gemm_nothing(panel, some * rows, residual, out)
        else:
            tiles_of(panel)(rows, panel, some, a, residual, out)
        activate(plan, out, some * rows, panel.out_step, columns)
        tiles -= some
        a += some * rows * panel.a_step
        residual = moved(residual, some * rows * panel.out_step)
        out += some * rows * panel.out_step


cdef void gemm_panel(
    const Plan *plan, Panel *panel, i64 pixels, const real *a, const real *residual, real *out
) noexcept nogil:
    """One panel for `pixels` pixels, dealt to tiles whose heights differ by one at most, the taller ones first.

    Few columns have pixels as lanes, where there are enough of these: see few_outputs.pxi.
    """
    cdef i64 columns = columns_of(panel)
    cdef i64 tiles, rows = rows_of_tiles(panel), taller = 0, first
    if columns <= FEW_COLUMNS and 2 * columns <= LANES and panel.row_taps == 1 and panel.column_taps == 1 and (
        panel.depth >= LANES and pixels >= LANES and not panel.joined and not panel.more
    ):
        gemm_few(plan, panel, columns, pixels, a, residual, out)
        return
    tiles = ceil_div(pixels, rows)
    if tiles * rows > pixels:
        rows = pixels // tiles
        taller = pixels - rows * tiles
    first = taller * (rows + 1)
    if taller > 0:
        gemm_run(plan, panel, rows + 1, taller, a, residual, out)
    gemm_run(
        plan, panel, rows, tiles - taller, a + first * panel.a_step, moved(residual, first * panel.out_step),
        out + first * panel.out_step)
