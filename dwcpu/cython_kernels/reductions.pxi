# Sums, the largest and the smallest of elements over axes that lie together in memory, sums of squares and their roots.
#
# Assumes: contiguous tensors. For row_... rows are rows of plan.in_channels elements, which are taken together; there is
# one block. For the others these are images, channels last, and all pixels of one are taken together: rows are images,
# blocks runs of REDUCE_RUN channels. plan.alpha is what sums are multiplied by.
# Guarantees: sums are taken in an order that depends neither on vectors nor on how rows are shared: pixels in stretches of
# STRETCH, these in rows, and these in images; elements of a row in SUMS parts, in stretches of ROW_STRETCH. NaN passes.

cdef enum:
    TOTAL = 0
    LARGEST = 1
    SMALLEST = 2
    SQUARES = 3
    LENGTHS = 4         # roots of sums of squares
    ROOTS = 5           # of sums
    MOST_SUMS = 8       # vectors side by side
    REDUCE_RUN = 64     # channels
    STRETCH = 256       # pixels of a row that are added up by themselves: a sum of a million would lose digits
    ROW_STRETCH = 4096  # elements


cdef inline vec reduced(const int kind, vec a, vec b) noexcept nogil:
    if kind == LARGEST:
        return v_maximum(a, b)
    if kind == SMALLEST:
        return v_minimum(a, b)
    return v_add(a, b)


cdef inline vec taken(const int kind, const real *x, const int lanes) noexcept nogil:
    cdef vec v = v_load(x) if lanes == LANES else v_load_part(x, 0, lanes)
    return v_mul(v, v) if kind == SQUARES or kind == LENGTHS else v


cdef inline void reduce_vectors(
    const int kind, const int count, const int lanes, const Plan *plan, const real *x, real *out
) noexcept nogil:
    """`count` vectors of channels of an image; `lanes`: of one vector."""
    cdef vec total[MOST_SUMS]
    cdef vec in_row[MOST_SUMS]
    cdef vec part[MOST_SUMS]
    cdef vec share = v_splat(<real> plan.alpha)
    cdef i64 row, begin, pixel
    cdef int j
    for row in range(plan.height):
        begin = 0
        while begin < plan.width:
            for j in range(count):
                part[j] = taken(kind, x + j * LANES, lanes)
            x += plan.in_channels
            for pixel in range(begin + 1, smaller(begin + STRETCH, plan.width)):
                for j in range(count):
                    part[j] = reduced(kind, part[j], taken(kind, x + j * LANES, lanes))
                x += plan.in_channels
            for j in range(count):
                in_row[j] = reduced(kind, in_row[j], part[j]) if begin > 0 else part[j]
            begin += STRETCH
        for j in range(count):
            total[j] = reduced(kind, total[j], in_row[j]) if row > 0 else in_row[j]
    for j in range(count):
        if kind != LARGEST and kind != SMALLEST:
            total[j] = v_mul(total[j], share)
        if kind == LENGTHS or kind == ROOTS:
            total[j] = v_roots(total[j])
        if lanes == LANES:
            v_store(out + j * LANES, total[j])
        else:
            v_store_part(out, total[j], 0, lanes)


cdef inline void reduce_images(
    const int kind, const Plan *plan, const real *x, real *out, i64 row_begin, i64 row_end, i64 block_begin,
    i64 block_end
) noexcept nogil:
    cdef i64 channels = plan.in_channels, row, at, end
    cdef const real *image
    cdef real *target
    for row in range(row_begin, row_end):
        image = x + row * plan.height * plan.width * channels
        target = out + row * channels
        at = block_begin * REDUCE_RUN
        end = smaller(block_end * REDUCE_RUN, channels)
        while at + MOST_SUMS * LANES <= end:
            reduce_vectors(kind, MOST_SUMS, LANES, plan, image + at, target + at)
            at += MOST_SUMS * LANES
        while at + 2 * LANES <= end:
            reduce_vectors(kind, 2, LANES, plan, image + at, target + at)
            at += 2 * LANES
        while at < end:
            if at + LANES <= end:
                reduce_vectors(kind, 1, LANES, plan, image + at, target + at)
            else:
                reduce_vectors(kind, 1, <int> (end - at), plan, image + at, target + at)
            at += LANES


cdef void sums(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    reduce_images(TOTAL, plan, x, out, row_begin, row_end, block_begin, block_end)


cdef void maxima(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    reduce_images(LARGEST, plan, x, out, row_begin, row_end, block_begin, block_end)


cdef void minima(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    reduce_images(SMALLEST, plan, x, out, row_begin, row_end, block_begin, block_end)


cdef void squares(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    reduce_images(SQUARES, plan, x, out, row_begin, row_end, block_begin, block_end)


cdef void lengths(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    reduce_images(LENGTHS, plan, x, out, row_begin, row_end, block_begin, block_end)


cdef void roots(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """Of sums: of squares of rows, as `squares` gives them, what `lengths` gives of images."""
    reduce_images(ROOTS, plan, x, out, row_begin, row_end, block_begin, block_end)


cdef inline real row_total(const Plan *plan, const real *x, const bint squares) noexcept nogil:
    """Sum of a row, or of its squares."""
    cdef i64 count = plan.in_channels, at = ROW_STRETCH
    cdef real total = sum_of(x, smaller(ROW_STRETCH, count), 0, squares)
    while at < count:
        total += sum_of(x + at, smaller(ROW_STRETCH, count - at), 0, squares)
        at += ROW_STRETCH
    return total * <real> plan.alpha


cdef void row_sums(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef i64 row
    for row in range(row_begin, row_end):
        out[row] = row_total(plan, x + row * plan.in_channels, False)


cdef void row_squares(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef i64 row
    for row in range(row_begin, row_end):
        out[row] = row_total(plan, x + row * plan.in_channels, True)


cdef void row_lengths(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef i64 row
    for row in range(row_begin, row_end):
        out[row] = v_root(row_total(plan, x + row * plan.in_channels, True))


cdef void row_maxima(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef i64 row
    for row in range(row_begin, row_end):
        out[row] = most_of(x + row * plan.in_channels, plan.in_channels)


def reductions():
    """Name -> address of each kernel of this file."""
    return {
        "lengths": <uintptr_t> &lengths,
        "maxima": <uintptr_t> &maxima,
        "minima": <uintptr_t> &minima,
        "roots": <uintptr_t> &roots,
        "row_lengths": <uintptr_t> &row_lengths,
        "row_maxima": <uintptr_t> &row_maxima,
        "row_squares": <uintptr_t> &row_squares,
        "row_sums": <uintptr_t> &row_sums,
        "squares": <uintptr_t> &squares,
        "sums": <uintptr_t> &sums,
    }
