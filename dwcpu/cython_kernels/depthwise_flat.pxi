# Depthwise convolution of few channels, at stride 1 along rows, with any window and dilation.
#
# A row of such pixels is one run of reals: a vector holds the channels of several pixels, or one and a part of the next,
# and its tap kw is a vector of the row, too, kw pixels further on. Weights repeat the channels; after lcm(channels, LANES)
# reals, a period, the pattern starts again.
#
# Assumes: channel-last x and out without gaps, one output a channel, plan.stride_w is 1; the channels are no whole number
# of vectors; weights [vector][kh][kw][lane] and bias [vector][lane] of the vectors of a period. Rows are output rows (of
# batch * out_height), or with plan.segment stretches of the only row of each image; there is one block.
# Guarantees: those of depthwise.pxi.
# Loops, outermost first: groups of FLAT_ROWS output rows that share inputs, plan.dilation_h apart; tiles of FLAT_VECTORS
# vectors of each, or FLAT_SINGLE of a single one, a period apart, so that they share weights; input rows; kernel columns. A
# tile stays in registers, and each input is loaded once for all of its rows: mostly it lies across two lines. Where lanes of
# a vector have taps outside the image, or are outside themselves, it is computed alone, those taps by masks.

cdef enum:
    FLAT_SINGLE = 8       # vectors of a tile of one row
    MOST_FLAT_KEPT = 9    # weights of a window that registers keep
    MOST_FLAT_WINDOW = 7  # taps in a row of square windows that have code of their own


cdef struct FlatRows:          # output rows that share inputs, or a stretch of one
    const Plan *plan
    const real *x              # the image
    i64 top                    # row of the image that the first one's first tap meets
    i64 begin                  # kernel rows, counted from there and on to those of the last output row, that meet the image
    i64 end
    i64 column                 # what of a row of the image the first output's first tap meets, which may be outside
    i64 count                  # outputs of each row
    i64 width                  # reals in a row of the image
    i64 line                   # from one kernel row's inputs to the next one's
    i64 step                   # from one tap to the next
    i64 vectors                # in a period
    const real *residual
    real *out
    i64 out_row                # from one output row to the next
    i64 (*window)(const FlatRows *, i64, i64) noexcept nogil  # flat_window, or null
    i64 (*cut_window)(const FlatRows *, i64, i64) noexcept nogil  # the same of vectors with taps outside


cdef inline void put_flat(
    const int rows, const int vectors, const FlatRows *flat, i64 at, vec (*acc)[FLAT_SINGLE]
) noexcept nogil:
    """Epilogue of a tile."""
    cdef const Plan *plan = flat.plan
    cdef vec low = v_splat(<real> plan.low), high = v_splat(<real> plan.high)
    cdef i64 period = flat.vectors * LANES, out_row = flat.out_row
    cdef const real *residual = flat.residual
    cdef real *out = flat.out + at
    cdef int i, j
    if residual != NULL:
        residual += at
        for i in range(rows):
            residual = v_anew(residual)
            for j in range(vectors):
                acc[i][j] = v_add(acc[i][j], v_load(residual + j * period))
            residual += out_row
    if plan.hardswish:
        for i in range(rows):
            for j in range(vectors):
                acc[i][j] = ended(True, acc[i][j], low, high)
    else:
        for i in range(rows):
            for j in range(vectors):
                acc[i][j] = ended(False, acc[i][j], low, high)
    for i in range(rows):
        out = v_anew_out(out)  # or all addresses are computed before, and kept on the stack
        for j in range(vectors):
            v_store(out + j * period, acc[i][j])
        out += out_row


cdef inline void put_flat_part(const int rows, const FlatRows *flat, i64 at, vec (*acc)[FLAT_SINGLE]) noexcept nogil:
    """Of vectors at the end of rows, some of whose lanes may be no outputs."""
    cdef const Plan *plan = flat.plan
    cdef vec low = v_splat(<real> plan.low), high = v_splat(<real> plan.high)
    cdef i64 place = at
    cdef int lanes = <int> smaller(LANES, flat.count - at), i
    for i in range(rows):
        if flat.residual != NULL:
            acc[i][0] = v_add(acc[i][0], v_load_part(flat.residual + place, 0, lanes))
        v_store_part(flat.out + place, ended(plan.hardswish, acc[i][0], low, high), 0, lanes)
        place += flat.out_row


cdef struct FlatTaps:          # of a tile; its own, not FlatRows', so that loops need not read them again
    const real *x              # what the first output's first tap meets in the next row of inputs
    const real *weights        # of output row 0 there
    i64 place                  # of x, from the beginning of its row on
    i64 width                  # of the row
    i64 count                  # taps in it
    i64 step                   # from one to the next
    i64 line                   # from one row of inputs to the next
    i64 period


cdef inline void flat_taps(
    const bint cut, const int first, const int end, const int vectors, FlatTaps *taps, vec (*acc)[FLAT_SINGLE]
) noexcept nogil:
    """The taps in the next row of inputs, of output rows `first` to `end`; `cut`: some are outside the image's columns."""
    cdef const real *p = taps.x
    cdef const real *tap = taps.weights
    cdef i64 k = taps.count, place = taps.place
    cdef vec w[FLAT_ROWS_LIMIT]
    cdef vec v
    cdef vec_lanes where
    cdef int i, j
    while True:  # loops that test at their end keep the sums in registers
        p = v_anew(p)
        for i in range(first, end):
            w[i] = v_in_register(v_load(tap - i * taps.count * LANES))
        if cut:
            where = v_inside(place, taps.width)
            v = v_load_where(where, p)
            for i in range(first, end):
                acc[i][0] = v_fma_where(where, v, w[i], acc[i][0])
            place += taps.step
        else:
            for j in range(vectors):
                v = v_load(p + j * taps.period)
                if end - first > 1:  # read once: it may lie across two lines
                    v = v_in_register(v)
                for i in range(first, end):
                    acc[i][j] = v_fma(v, w[i], acc[i][j])
        p += taps.step
        tap += LANES
        k -= 1
        if k == 0:
            break
    taps.x += taps.line
    taps.weights = tap


cdef inline void flat_tile(
    const bint cut, const int rows, const int vectors, const FlatRows *flat, i64 at, i64 which
) noexcept nogil:
    """Vectors that are a period apart, number `which` of it; a single one where lanes are cut off, or are no outputs."""
    cdef const Plan *plan = flat.plan
    cdef vec acc[FLAT_ROWS_LIMIT][FLAT_SINGLE]
    cdef vec v
    cdef i64 begin = flat.begin, end = flat.end, size = plan.kernel_h, t
    cdef int i, j
    cdef FlatTaps taps
    taps.place = flat.column + at
    taps.x = flat.x + flat.top * flat.width + begin * flat.line + taps.place
    taps.weights = <const real *> plan.weights + (which * size + begin) * plan.kernel_w * LANES
    taps.width = flat.width
    taps.count = plan.kernel_w
    taps.step = flat.step
    taps.line = flat.line
    taps.period = flat.vectors * LANES
    v = v_load(<const real *> plan.bias + which * LANES)
    for j in range(vectors):
        for i in range(rows):
            acc[i][j] = v
    # Of the first rows of inputs, and of the last, not all rows of outputs have a tap; rows <= kernel_h.
    if rows > 1 and begin <= 0 < end:
        flat_taps(cut, 0, 1, vectors, &taps, acc)
    if rows > 2 and begin <= 1 < end:
        flat_taps(cut, 0, 2, vectors, &taps, acc)
    if rows > 3 and begin <= 2 < end:
        flat_taps(cut, 0, 3, vectors, &taps, acc)
    for t in range(larger(begin, rows - 1), smaller(end, size)):
        flat_taps(cut, 0, rows, vectors, &taps, acc)
    if rows > 1 and begin <= size < end:
        flat_taps(cut, 1, rows, vectors, &taps, acc)
    if rows > 2 and begin <= size + 1 < end:
        flat_taps(cut, 2, rows, vectors, &taps, acc)
    if rows > 3 and begin <= size + 2 < end:
        flat_taps(cut, 3, rows, vectors, &taps, acc)
    if cut:
        put_flat_part(rows, flat, at, acc)
    else:
        put_flat(rows, vectors, flat, at, acc)


cdef inline i64 flat_window(const bint cut, const int size, const FlatRows *flat, i64 at, i64 end) noexcept nogil:
    """As flat_tile, of square windows all of whose rows are in the image: all whole tiles from `at` until `end`, or vectors
    that are cut; returns the first that is neither.

    Without loops over taps, whose ends come by surprise: about 0.7 of the time of 5x5 on 224x224 pixels of one channel.
    """
    cdef vec acc[FLAT_ROWS_LIMIT][FLAT_SINGLE]
    cdef vec w[FLAT_ROWS_LIMIT]
    cdef vec v
    cdef vec kept[MOST_FLAT_KEPT]
    cdef vec_lanes where[MOST_FLAT_WINDOW]
    cdef bint keeps = size == 3 and not IS_SHORT_OF_REGISTERS
    cdef i64 step = flat.step, line = flat.line, period = flat.vectors * LANES
    cdef i64 which = at // LANES % flat.vectors, done = 0  # vectors of the period
    cdef const real *weights
    cdef const real *row
    cdef const real *p
    cdef int i, j, t, k
    if not cut:
        end -= (FLAT_VECTORS - 1) * period
    while at < end:
        weights = v_anew(<const real *> flat.plan.weights + which * size * size * LANES)
        v = v_load(<const real *> flat.plan.bias + which * LANES)
        if keeps:
            for k in range(MOST_FLAT_KEPT):
                kept[k] = v_in_register(v_load(weights + k * LANES))
        for j in range(1 if cut else FLAT_VECTORS):
            for i in range(FLAT_ROWS):
                acc[i][j] = v
        if cut:
            for k in range(size):
                where[k] = v_inside(flat.column + at + k * step, flat.width)
        row = flat.x + flat.top * flat.width + flat.column + at
        for t in range(FLAT_ROWS - 1 + size):
            p = row
            for k in range(size):
                p = v_anew(p)
                for i in range(FLAT_ROWS):
                    if 0 <= t - i < size:
                        if keeps:
                            w[i] = kept[((t - i) * size + k) % MOST_FLAT_KEPT]  # which other sizes would exceed
                        else:
                            w[i] = v_load(weights + ((t - i) * size + k) * LANES)
                            if not cut:
                                w[i] = v_in_register(w[i])
                if cut:
                    v = v_load_where(where[k], p)
                    for i in range(FLAT_ROWS):
                        if 0 <= t - i < size:
                            acc[i][0] = v_fma_where(where[k], v, w[i], acc[i][0])
                else:
                    for j in range(FLAT_VECTORS):
                        v = v_in_register(v_load(p + j * period))
                        for i in range(FLAT_ROWS):
                            if 0 <= t - i < size:
                                acc[i][j] = v_fma(v, w[i], acc[i][j])
                p += step
            row += line
        if cut:
            put_flat_part(FLAT_ROWS, flat, at, acc)
        else:
            put_flat(FLAT_ROWS, FLAT_VECTORS, flat, at, acc)
        at += LANES
        which += 1
        if which == flat.vectors:
            which = 0
        done += 1
        if not cut and done == flat.vectors:
            done = 0
            at += (FLAT_VECTORS - 1) * period
    return at


cdef i64 flat_window_3(const FlatRows *flat, i64 at, i64 end) noexcept nogil: return flat_window(False, 3, flat, at, end)
cdef i64 flat_window_5(const FlatRows *flat, i64 at, i64 end) noexcept nogil: return flat_window(False, 5, flat, at, end)
cdef i64 flat_window_7(const FlatRows *flat, i64 at, i64 end) noexcept nogil: return flat_window(False, 7, flat, at, end)
cdef i64 flat_cut_window_3(const FlatRows *flat, i64 at, i64 end) noexcept nogil: return flat_window(True, 3, flat, at, end)
cdef i64 flat_cut_window_5(const FlatRows *flat, i64 at, i64 end) noexcept nogil: return flat_window(True, 5, flat, at, end)
cdef i64 flat_cut_window_7(const FlatRows *flat, i64 at, i64 end) noexcept nogil: return flat_window(True, 7, flat, at, end)


cdef inline void flat_cut(const int rows, const FlatRows *flat, i64 at, i64 end) noexcept nogil:
    """Vectors some of whose lanes have taps outside the columns of the image, until `end`."""
    if rows == FLAT_ROWS and flat.cut_window != NULL:
        flat.cut_window(flat, at, end)
        return
    while at < end:
        flat_tile(True, rows, 1, flat, at, at // LANES % flat.vectors)
        at += LANES


cdef inline void flat_inside(const int rows, const FlatRows *flat, i64 first, i64 end) noexcept nogil:
    """Vectors all of whose taps are inside, from `first` until `end`, in tiles of those that are a period apart."""
    cdef i64 period = flat.vectors * LANES, at = first, which, left
    cdef i64 done = 0  # vectors of the period
    if rows == FLAT_ROWS and flat.window != NULL:
        at = flat.window(flat, first, end)
        done = (at - first) // LANES % (FLAT_VECTORS * flat.vectors)
    which = at // LANES % flat.vectors
    while at < end:
        # Others of the period behind this one; of one vector without a division, which takes as long as half a tile.
        left = (end - at - 1) // period if flat.vectors > 1 else (end - at - 1) // LANES
        if rows == 1 and left >= 7:
            flat_tile(False, rows, 8, flat, at, which)
        elif rows == 1 and left == 6:
            flat_tile(False, rows, 7, flat, at, which)
        elif rows == 1 and left == 5:
            flat_tile(False, rows, 6, flat, at, which)
        elif rows == 1 and left == 4:
            flat_tile(False, rows, 5, flat, at, which)
        elif left >= 3:
            flat_tile(False, rows, 4, flat, at, which)
        elif left == 2:
            flat_tile(False, rows, 3, flat, at, which)
        elif left == 1:
            flat_tile(False, rows, 2, flat, at, which)
        else:
            flat_tile(False, rows, 1, flat, at, which)
        at += LANES
        which += 1
        if which == flat.vectors:
            which = 0
        done += 1
        if done == flat.vectors:
            done = 0
            at += ((FLAT_SINGLE if rows == 1 else FLAT_VECTORS) - 1) * period


cdef inline void flat_rows(const int rows, const FlatRows *flat) noexcept nogil:
    cdef i64 first, last, i
    first = smaller(ceil_div(larger(-flat.column, 0), LANES) * LANES, flat.count)
    last = smaller(flat.count, flat.width - flat.column - (flat.plan.kernel_w - 1) * flat.step)
    last = larger(first, first + (last - first) // LANES * LANES)
    flat_cut(rows, flat, 0, first)
    flat_inside(rows, flat, first, last)
    flat_cut(rows, flat, last, flat.count)
    for i in range(rows):
        activate(flat.plan, flat.out + i * flat.out_row, 1, flat.count, flat.count)


cdef void flat_rows_1(const FlatRows *flat) noexcept nogil: flat_rows(1, flat)
cdef void flat_rows_2(const FlatRows *flat) noexcept nogil: flat_rows(2, flat)
cdef void flat_rows_3(const FlatRows *flat) noexcept nogil:
    if FLAT_ROWS > 2:
        flat_rows(3, flat)
cdef void flat_rows_4(const FlatRows *flat) noexcept nogil:
    if FLAT_ROWS > 3:
        flat_rows(4, flat)


cdef void flat_image(
    const Plan *plan, FlatRows *flat, i64 y, i64 y_end, const real *residual, real *out
) noexcept nogil:
    """Output rows y to y_end of an image, or a stretch of one; residual and out begin with the first of them."""
    cdef i64 apart = plan.dilation_h if plan.stride_h == 1 else 1, size = plan.kernel_h, phase, row, rows
    cdef bint inside
    flat.out_row = apart * plan.out_width * plan.in_channels
    for phase in range(smaller(apart, y_end - y)):
        row = y + phase
        while row < y_end:
            flat.top = row * plan.stride_h - plan.pad_top
            rows = 1
            if plan.stride_h == 1:
                rows = smaller((y_end - row - 1) // apart + 1, FLAT_ROWS)
            inside = flat.top >= 0 and flat.top + (size + rows - 2) * plan.dilation_h < plan.height
            flat.window = flat.cut_window = NULL
            if inside and rows == FLAT_ROWS and size == plan.kernel_w:
                if size == 3:
                    flat.window, flat.cut_window = flat_window_3, flat_cut_window_3
                elif size == 5:
                    flat.window, flat.cut_window = flat_window_5, flat_cut_window_5
                elif size == 7:
                    flat.window, flat.cut_window = flat_window_7, flat_cut_window_7
            if flat.window == NULL:
                rows = smaller(rows, size)
            flat.begin = 0
            flat.end = size + rows - 1
            if not inside:
                flat.begin = larger(0, ceil_div(-flat.top, plan.dilation_h))
                flat.end = smaller(flat.end, ceil_div(plan.height - flat.top, plan.dilation_h))
            flat.residual = moved(residual, (row - y) * plan.out_width * plan.in_channels)
            flat.out = out + (row - y) * plan.out_width * plan.in_channels
            (flat_rows_1 if rows == 1 else flat_rows_2 if rows == 2 else flat_rows_3 if rows == 3 else flat_rows_4)(flat)
            row += rows * apart


cdef void depthwise_flat(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef FlatRows flat
    cdef i64 channels = plan.in_channels, cuts = plan.out_width // plan.segment if plan.segment > 0 else 1
    cdef i64 row = row_begin, line, row_next, image, y, begin, end, place
    flat.plan = plan
    flat.width = plan.width * channels
    flat.line = plan.dilation_h * flat.width
    flat.step = plan.dilation_w * channels
    flat.vectors = 1
    while flat.vectors * LANES % channels:
        flat.vectors += 1
    while row < row_end:  # what of an image is asked for: whole rows, or stretches of its only one
        line = row // cuts
        image = line // plan.out_height
        y = line - image * plan.out_height
        row_next = smaller(row_end, (image + 1) * plan.out_height * cuts)
        begin, end = 0, plan.out_width
        if plan.segment > 0:
            begin = (row - line * cuts) * plan.segment
            if row_next < (line + 1) * cuts:
                end = (row_next - line * cuts) * plan.segment
        flat.x = x + image * plan.height * flat.width
        flat.column = (begin - plan.pad_left) * channels
        flat.count = (end - begin) * channels
        place = (line * plan.out_width + begin) * channels
        flat_image(
            plan, &flat, y, y + 1 if plan.segment > 0 else y + row_next - row, moved(residual, place), out + place)
        row = row_next
