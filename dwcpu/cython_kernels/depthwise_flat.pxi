# Depthwise convolution of fewer channels than a vector has lanes, at stride 1 along rows, with any window and dilation.
#
# A row of such pixels is one run of reals: a vector holds the channels of several pixels, and its tap kw is a vector of
# the row, too, kw pixels further on. Weights repeat the channels; after lcm(channels, LANES) reals, a period, the pattern
# starts again.
#
# Assumes: channel-last x and out without gaps, one output a channel, plan.stride_w is 1; weights [vector][kh][kw][lane]
# and bias [vector][lane] of the vectors of a period. Rows are output rows (of batch * out_height), or with plan.segment
# stretches of the only row of each image; there is one block.
# Guarantees: those of depthwise.pxi.
# Loops, outermost first: groups of output rows that share inputs, plan.dilation_h apart; tiles of FLAT_VECTORS vectors of
# each, a period apart, so that they share weights; input rows; kernel columns. A tile stays in registers, and each input
# is loaded once for all of its rows. Where some lanes of a vector have taps outside the image, or are outside themselves,
# it is computed alone, those taps by masks.

cdef struct FlatRows:          # output rows that share inputs, or a stretch of one
    const Plan *plan
    const real *x              # the image
    i64 top                    # row of the image that the first one's first tap meets
    i64 begin                  # kernel rows, counted from there and on to those of the last output row, that meet the image
    i64 end
    i64 column                 # what of a row of the image the first output's first tap meets, which may be outside
    i64 count                  # outputs of each row
    i64 width                  # reals in a row of the image
    i64 step                   # from one tap to the next
    i64 vectors                # in a period
    const real *residual
    real *out
    i64 out_row                # from one output row to the next


cdef inline void put_flat(
    const int rows, const int vectors, const FlatRows *flat, i64 at, i64 lanes, vec (*acc)[FLAT_VECTORS]
) noexcept nogil:
    """Epilogue of a tile, or of the first `lanes` of a vector."""
    cdef const Plan *plan = flat.plan
    cdef vec low = v_splat(<real> plan.low), high = v_splat(<real> plan.high)
    cdef i64 place, period = flat.vectors * LANES
    cdef int i, j
    for i in range(rows):
        place = at + i * flat.out_row
        for j in range(vectors):
            if vectors == 1 and lanes < LANES:
                if flat.residual != NULL:
                    acc[i][j] = v_add(acc[i][j], v_load_part(flat.residual + place, 0, <int> lanes))
                v_store_part(flat.out + place, ended(plan.hardswish, acc[i][j], low, high), 0, <int> lanes)
                continue
            if flat.residual != NULL:
                acc[i][j] = v_add(acc[i][j], v_load(flat.residual + place))
            v_store(flat.out + place, ended(plan.hardswish, acc[i][j], low, high))
            place += period


cdef inline void flat_tile(const int rows, const int vectors, const FlatRows *flat, i64 at) noexcept nogil:
    """A tile all of whose taps lie in the columns of the image; its vectors are a period apart and share weights."""
    cdef const Plan *plan = flat.plan
    cdef vec acc[FLAT_ROWS_LIMIT][FLAT_VECTORS]
    cdef vec w[FLAT_ROWS_LIMIT]
    cdef vec v
    cdef i64 row_size = plan.kernel_w * LANES, which = at // LANES % flat.vectors, period = flat.vectors * LANES, t, k
    cdef const real *weights = <const real *> plan.weights + which * plan.kernel_h * row_size
    cdef const real *p
    cdef const real *tap
    cdef int i, j
    v = v_load(<const real *> plan.bias + which * LANES)
    for j in range(vectors):
        for i in range(rows):
            acc[i][j] = v
    t = flat.begin
    while t < flat.end:
        p = flat.x + (flat.top + t * plan.dilation_h) * flat.width + flat.column + at
        tap = weights + t * row_size
        k = plan.kernel_w
        if t >= rows - 1 and t < plan.kernel_h:
            while True:  # loops that test at their end keep the sums in registers
                p = v_anew(p)
                for i in range(rows):
                    w[i] = v_load(tap - i * row_size)
                for j in range(vectors):
                    v = v_load(p + j * period)
                    for i in range(rows):
                        acc[i][j] = v_fma(v, w[i], acc[i][j])
                p += flat.step
                tap += LANES
                k -= 1
                if k == 0:
                    break
        else:  # of the first input rows and the last not all outputs have a tap
            while True:
                p = v_anew(p)
                for i in range(rows):
                    if t >= i and t - i < plan.kernel_h:
                        w[i] = v_load(tap - i * row_size)
                        for j in range(vectors):
                            acc[i][j] = v_fma(v_load(p + j * period), w[i], acc[i][j])
                p += flat.step
                tap += LANES
                k -= 1
                if k == 0:
                    break
        t += 1
    put_flat(rows, vectors, flat, at, LANES, acc)


cdef inline void flat_edge(const int rows, const FlatRows *flat, i64 at) noexcept nogil:
    """A vector some of whose lanes have taps outside the image, or are none of the outputs."""
    cdef const Plan *plan = flat.plan
    cdef vec acc[FLAT_ROWS_LIMIT][FLAT_VECTORS]
    cdef vec v
    cdef const real *p
    cdef const real *weights
    cdef i64 row_size = plan.kernel_w * LANES, which = at // LANES % flat.vectors, t, k, tap, place, count
    cdef i64 lanes = smaller(LANES, flat.count - at)
    cdef int i, first, last
    weights = <const real *> plan.weights + which * plan.kernel_h * row_size
    for i in range(rows):
        acc[i][0] = v_load(<const real *> plan.bias + which * LANES)
    t = flat.begin
    while t < flat.end:
        place = flat.column + at
        p = flat.x + (flat.top + t * plan.dilation_h) * flat.width + place
        tap = t * row_size
        k = plan.kernel_w
        while True:
            count = 0 if place < 0 or lanes < LANES else smaller(k, (flat.width - place - LANES) // flat.step + 1)
            if count > 0 and place + LANES <= flat.width:  # so many taps of all lanes
                k -= count
                place += count * flat.step
                while True:
                    v = v_load(p)
                    p = v_anew(p)
                    for i in range(rows):
                        if t >= i and t - i < plan.kernel_h:
                            acc[i][0] = v_fma(v, v_load(weights + (tap - i * row_size)), acc[i][0])
                    p += flat.step
                    tap += LANES
                    count -= 1
                    if count == 0:
                        break
                if k == 0:
                    break
                continue
            first = <int> larger(0, smaller(-place, LANES))
            last = <int> larger(first, smaller(lanes, flat.width - place))
            if first < last:
                v = v_load_part(p, first, last)
                for i in range(rows):
                    if t >= i and t - i < plan.kernel_h:
                        acc[i][0] = v_select_part(
                            v_fma(v, v_load(weights + (tap - i * row_size)), acc[i][0]), acc[i][0], first, last)
            place += flat.step
            p += flat.step
            tap += LANES
            k -= 1
            if k == 0:
                break
        t += 1
    put_flat(rows, 1, flat, at, lanes, acc)


cdef inline bint is_inside(const FlatRows *flat, i64 at, i64 size) noexcept nogil:
    """Whether `size` outputs are there, and all of their taps in the columns of the image."""
    cdef i64 place = flat.column + at
    return place >= 0 and at + size <= flat.count and (
        place + size + (flat.plan.kernel_w - 1) * flat.step <= flat.width)


cdef inline void flat_rows(const int rows, const FlatRows *flat) noexcept nogil:
    cdef i64 at = 0, which, i
    while at < flat.count:
        if is_inside(flat, at, FLAT_VECTORS * flat.vectors * LANES):
            for which in range(flat.vectors):
                flat_tile(rows, FLAT_VECTORS, flat, at + which * LANES)
            at += FLAT_VECTORS * flat.vectors * LANES
        elif is_inside(flat, at, LANES):
            flat_tile(rows, 1, flat, at)
            at += LANES
        else:
            flat_edge(rows, flat, at)
            at += LANES
    for i in range(rows):
        activate(flat.plan, flat.out + i * flat.out_row, 1, flat.count, flat.count)


cdef void flat_rows_1(const FlatRows *flat) noexcept nogil: flat_rows(1, flat)
cdef void flat_rows_2(const FlatRows *flat) noexcept nogil: flat_rows(2, flat)
cdef void flat_rows_4(const FlatRows *flat) noexcept nogil:
    if FLAT_ROWS == 4:
        flat_rows(4, flat)


cdef void flat_image(
    const Plan *plan, FlatRows *flat, i64 y, i64 y_end, const real *residual, real *out
) noexcept nogil:
    """Output rows y to y_end of an image, or a stretch of one; residual and out begin with the first of them."""
    cdef i64 apart = plan.dilation_h if plan.stride_h == 1 else 1
    cdef i64 phase, row, rows
    flat.out_row = apart * plan.out_width * plan.in_channels
    for phase in range(smaller(apart, y_end - y)):
        row = y + phase
        while row < y_end:
            rows = 1
            if plan.stride_h == 1:
                rows = smaller(ceil_div(y_end - row, apart), smaller(FLAT_ROWS, plan.kernel_h))
                rows = 2 if rows == 3 else rows
            flat.top = row * plan.stride_h - plan.pad_top
            flat.begin = larger(0, ceil_div(-flat.top, plan.dilation_h))
            flat.end = smaller(plan.kernel_h + rows - 1, ceil_div(plan.height - flat.top, plan.dilation_h))
            flat.residual = moved(residual, (row - y) * plan.out_width * plan.in_channels)
            flat.out = out + (row - y) * plan.out_width * plan.in_channels
            (flat_rows_1 if rows == 1 else flat_rows_2 if rows == 2 else flat_rows_4)(flat)
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
