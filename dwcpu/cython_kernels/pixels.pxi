# What stands between convolutions in a graph: pooling, resizing. More is in elementwise, copies, norms and reductions.pxi.
#
# Assumes: channel-last images, for pooling with pixels plan.x_step and plan.out_step apart, else contiguous; at least
# one pixel and one channel. There is one block. Rows are output rows (of batch * out_height).
# Guarantees: every output is one operation after the other in a fixed order (windows: each row by itself, then the
# rows), taps in the padding left out: the same bits however the rows are shared. NaN passes.
# What is read comes from memory or L2 once; nothing is blocked.

cdef enum:
    MAXIMUM = 0
    AVERAGE = 1     # of the taps in the image
    PADDED = 2      # of all taps of the window
    POOLED = 4      # vectors of channels side by side


cdef inline void pool_vectors(
    const int kind, const int size, const int count, const int lanes, const Plan *plan, const real *x,
    i64 rows, i64 columns, real share, real *out
) noexcept nogil:
    """`count` vectors of channels of one output; x is at the first of rows x columns taps, which are `size` x `size`
    unless that is 0. `lanes`: of one vector.
    """
    cdef vec acc[POOLED]
    cdef vec part[POOLED]
    cdef vec v
    cdef i64 x_row = plan.dilation_h * plan.width * plan.x_step, x_column = plan.dilation_w * plan.x_step
    cdef i64 h, w
    cdef const real *p
    cdef int j
    if size > 0:
        rows = columns = size
    for j in range(count):
        acc[j] = v_splat(<real> plan.low) if kind == MAXIMUM else v_zero()
    for h in range(rows):
        p = x + h * x_row
        for j in range(count):
            part[j] = acc[j] if kind == MAXIMUM else v_zero()
        for w in range(columns):
            for j in range(count):
                v = v_load(p + j * LANES) if lanes == LANES else v_load_part(p, 0, lanes)
                part[j] = v_maximum(part[j], v) if kind == MAXIMUM else v_add(part[j], v)
            p += x_column
        for j in range(count):
            acc[j] = part[j] if kind == MAXIMUM else v_add(acc[j], part[j])
    for j in range(count):
        if kind != MAXIMUM:
            acc[j] = v_mul(acc[j], v_splat(share))
        if lanes == LANES:
            v_store(out + j * LANES, acc[j])
        else:
            v_store_part(out, acc[j], 0, lanes)


cdef inline void pool_pixel(
    const int kind, const int size, const Plan *plan, const real *x, i64 rows, i64 columns, real share, real *out
) noexcept nogil:
    """All channels of one output."""
    cdef i64 channels = plan.in_channels, at = 0
    while at + POOLED * LANES <= channels:
        pool_vectors(kind, size, POOLED, LANES, plan, x + at, rows, columns, share, out + at)
        at += POOLED * LANES
    if at + 2 * LANES <= channels:
        pool_vectors(kind, size, 2, LANES, plan, x + at, rows, columns, share, out + at)
        at += 2 * LANES
    while at + LANES <= channels:
        pool_vectors(kind, size, 1, LANES, plan, x + at, rows, columns, share, out + at)
        at += LANES
    if at < channels:
        pool_vectors(kind, 0, 1, <int> (channels - at), plan, x + at, rows, columns, share, out + at)


cdef inline void pool_rows(
    const int kind, const Plan *plan, const real *x, real *out, i64 row_begin, i64 row_end
) noexcept nogil:
    cdef i64 row, image, column, top, left, h, w, rows, columns
    cdef const real *first
    cdef real *target = out + row_begin * plan.out_width * plan.out_step
    cdef real share = 1
    for row in range(row_begin, row_end):
        image = row // plan.out_height
        top = (row - image * plan.out_height) * plan.stride_h - plan.pad_top
        h = first_tap(top, plan.dilation_h, plan.kernel_h)
        rows = larger(end_tap(top, plan.dilation_h, plan.kernel_h, plan.height) - h, 0)
        for column in range(plan.out_width):
            left = column * plan.stride_w - plan.pad_left
            w = first_tap(left, plan.dilation_w, plan.kernel_w)
            columns = larger(end_tap(left, plan.dilation_w, plan.kernel_w, plan.width) - w, 0)
            if kind == PADDED:
                share = 1 / <real> (plan.kernel_h * plan.kernel_w)
            elif kind == AVERAGE:
                share = 1 / <real> larger(rows * columns, 1)
            first = x + (
                (image * plan.height + top + h * plan.dilation_h) * plan.width + left + w * plan.dilation_w
            ) * plan.x_step
            if rows == 2 and columns == 2:  # loops whose ends are known
                pool_pixel(kind, 2, plan, first, 2, 2, share, target)
            elif rows == 3 and columns == 3:
                pool_pixel(kind, 3, plan, first, 3, 3, share, target)
            else:
                pool_pixel(kind, 0, plan, first, rows, columns, share, target)
            target += plan.out_step


cdef void max_pool(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    pool_rows(MAXIMUM, plan, x, out, row_begin, row_end)


cdef void average_pool(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    pool_rows(AVERAGE, plan, x, out, row_begin, row_end)


cdef void padded_pool(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    pool_rows(PADDED, plan, x, out, row_begin, row_end)


cdef inline void resize_pixel(
    const int taps, const i64 *columns, const real *across, i64 channels, const real *row, i64 left, real *target
) noexcept nogil:
    """One pixel of a row of another width: a weighted sum of `taps` pixels of `row`, `left` elements before x ends.

    Whole vectors are stored.
    """
    cdef vec acc
    cdef i64 at = 0, place, w
    while at < channels:
        if at > 0 and at + LANES > channels:
            at = channels - LANES  # the last vector slides back over its neighbour
        acc = v_zero()
        for w in range(taps):
            place = columns[w] * channels + at
            if place + LANES <= left:
                acc = v_fma(v_load(row + place), v_splat(across[w]), acc)
            else:
                acc = v_fma(v_load_part(row + place, 0, <int> smaller(LANES, channels - at)), v_splat(across[w]), acc)
        v_store(target + at, acc)
        at += LANES


cdef inline void resize_element(
    i64 taps, const i64 *columns, const real *across, const real *row, real *target
) noexcept nogil:
    """As `resize_pixel`, for one channel."""
    cdef vec acc = v_zero()
    cdef i64 w
    for w in range(taps):
        acc = v_fma(v_splat(row[columns[w]]), v_splat(across[w]), acc)
    v_store(target, acc)


cdef struct Resized:  # rows of another width
    const Plan *plan
    const real *x
    i64 end           # of x, in rows of all images
    real *kept        # plan.kernel_h rows, of plan.window_size elements each
    i64 *numbers      # of the rows of x that they are


cdef const real *resized_row(const Resized *resized, i64 number) noexcept nogil:
    """Row `number` of x, of all images one after the other, as wide as an output; the last ones are kept."""
    cdef const Plan *plan = resized.plan
    cdef i64 place = number % plan.kernel_h, channels = plan.in_channels, line = plan.width * channels, column
    cdef i64 taps = plan.kernel_w
    cdef const i64 *columns = <const i64 *> plan.weights + plan.out_height * plan.kernel_h
    cdef const real *across = <const real *> plan.bias + plan.out_height * plan.kernel_h
    cdef real *target = resized.kept + place * plan.window_size
    if resized.numbers[place] == number:
        return target
    resized.numbers[place] = number
    for column in range(plan.out_width):
        if channels == 1:
            resize_element(
                taps, columns + taps * column, across + taps * column, resized.x + number * line, target + column)
        elif taps == 2:
            resize_pixel(
                2, columns + 2 * column, across + 2 * column, channels, resized.x + number * line,
                (resized.end - number) * line, target + column * channels)
        else:
            resize_pixel(
                <int> taps, columns + taps * column, across + taps * column, channels, resized.x + number * line,
                (resized.end - number) * line, target + column * channels)
    return target


cdef inline void blend(
    const int count, i64 size, const real *first, const real *second, vec weight, vec other, real *out
) noexcept nogil:
    """The weighted sum of a row, or of two where `count` is 2; of what is in `out` and a row where it is 0."""
    cdef i64 at = 0
    cdef int lanes = LANES
    cdef vec acc
    while at < size:
        if at + LANES > size:
            lanes = <int> (size - at)
        acc = v_zero()
        if count == 0:
            acc = v_load(out + at) if lanes == LANES else v_load_part(out + at, 0, lanes)
        acc = v_fma(v_load(first + at), weight, acc)  # rows of scratch memory end with room for a vector
        if count == 2:
            acc = v_fma(v_load(second + at), other, acc)
        if lanes == LANES:
            v_store(out + at, acc)
        else:
            v_store_part(out + at, acc, 0, lanes)
        at += LANES


cdef void resize(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """Images of another size, every output a weighted sum of pixels: along rows, and then of rows.

    plan.weights points to the rows that each output row sees, kernel_h of them, and then the columns, kernel_w each;
    plan.bias to the weights of these in the same order. scratch holds kernel_h rows of out_width pixels, of
    plan.window_size elements each, and the number of each: outputs one below the other see the same rows.
    """
    cdef i64 size = plan.out_width * plan.in_channels, taps = plan.kernel_h, row, top, h
    cdef const i64 *rows
    cdef const real *down
    cdef const real *first
    cdef Resized resized
    resized.plan, resized.x = plan, x
    resized.end = ((row_end - 1) // plan.out_height + 1) * plan.height
    resized.kept = <real *> scratch
    resized.numbers = <i64 *> (resized.kept + taps * plan.window_size)
    for h in range(taps):
        resized.numbers[h] = -1
    for row in range(row_begin, row_end):
        top = row // plan.out_height * plan.height
        rows = <const i64 *> plan.weights + row % plan.out_height * taps
        down = <const real *> plan.bias + row % plan.out_height * taps
        first = resized_row(&resized, top + rows[0])
        if taps == 2 and (rows[0] == rows[1] or (rows[0] - rows[1]) % 2 != 0):  # both are kept
            blend(
                2, size, first, resized_row(&resized, top + rows[1]), v_splat(down[0]), v_splat(down[1]),
                out + row * size)
            continue
        blend(1, size, first, first, v_splat(down[0]), v_zero(), out + row * size)
        for h in range(1, taps):
            first = resized_row(&resized, top + rows[h])
            blend(0, size, first, first, v_splat(down[h]), v_zero(), out + row * size)


def pixels():
    """Name -> address of each kernel of this file, and of those that it names, boxes, products, recurrent,
    regions and transposed.pxi."""
    return elementwise() | reductions() | {
        "average_pool": <uintptr_t> &average_pool,
        "boxes": <uintptr_t> &boxes,
        "copy": <uintptr_t> &copy_strided,
        "group_norm": <uintptr_t> &group_norm,
        "gru": <uintptr_t> &gru,
        "gru_before": <uintptr_t> &gru_before,
        "layer_norm": <uintptr_t> &layer_norm,
        "lstm": <uintptr_t> &lstm,
        "max_pool": <uintptr_t> &max_pool,
        "moments": <uintptr_t> &moments,
        "padded_pool": <uintptr_t> &padded_pool,
        "products": <uintptr_t> &products,
        "regions": <uintptr_t> &regions,
        "resize": <uintptr_t> &resize,
        "rnn": <uintptr_t> &rnn,
        "softmax": <uintptr_t> &softmax,
        "stretch_moments": <uintptr_t> &stretch_moments,
        "transposed": <uintptr_t> &transposed,
        "transposed_depthwise": <uintptr_t> &transposed_depthwise,
    }
