# Convolutions with few outputs, such as colours or a mask: lanes are pixels of a row, not outputs, of which there are
# fewer than lanes. Standard ones read input rows that were turned into planes before; of a matrix product, which reads
# every input once, LANES channels of LANES pixels are turned in registers.
#
# Assumes: one panel as for gemm.pxi. For `few_outputs` stride_w is 1, there is one group of at most FEW_OUTPUTS outputs,
# and scratch holds plan.ring_rows input rows, as many as a window spans, each as its channels' planes of plan.window_size
# elements; what is to be computed of a row are 2 * LANES pixels at least, for which all columns of the window are valid.
# For `gemm_few` there are LANES pixels and LANES channels at least.
# Guarantees: each output has one accumulator, which starts from the bias and takes the inputs in the order kernel row,
# kernel column, input channel. Outputs may be computed twice, where the last tile of a row slides back over the one
# before it.
# Loops of `few_outputs`, outermost first: output rows, each after the input rows that it is the first to read have been
# turned into the ring; tiles of `vectors` vectors of pixels and all outputs, in registers; kernel rows, kernel columns,
# input channels.

cdef enum:
    FEW_VECTORS = 8   # of pixels in a tile, at most
    FEW_TILE = 12     # vectors of outputs in a tile, at most
    FEW_COLUMNS = 4   # of a matrix product, and half a vector, at most: with more it gains nothing


cdef struct Few:
    const Plan *plan
    const Panel *panel
    const real *ring
    i64 top           # first kernel row's input row
    i64 first_tap     # valid kernel rows
    i64 taps
    i64 left          # first kernel column's input column, of the first pixel
    const real *residual
    real *out         # of the first pixel


cdef inline void few_tile(const int outputs, const int vectors, const Few *few, i64 at) noexcept nogil:
    """All outputs of `vectors` vectors of pixels, from pixel `at` of the row on."""
    cdef const Plan *plan = few.plan
    cdef vec acc[FEW_TILE]
    cdef vec sums[FEW_TILE]
    cdef vec side[FEW_VECTORS]
    cdef vec v
    cdef i64 channels = plan.in_channels, line = plan.window_size, width = few.panel.vectors * LANES, step = plan.out_step
    cdef i64 h, g, c
    cdef const real *w = few.panel.weights + few.first_tap * plan.kernel_w * channels * width
    cdef const real *row
    cdef const real *p
    cdef int o, i
    for o in range(outputs):
        for i in range(vectors):
            acc[o * vectors + i] = v_splat(few.panel.bias[o])
    for h in range(few.first_tap, few.first_tap + few.taps):
        row = few.ring + (few.top + h * plan.dilation_h) % plan.ring_rows * channels * line + few.left + at
        for g in range(plan.kernel_w):
            p = row + g * plan.dilation_w
            for c in range(channels):
                if outputs <= vectors:  # whichever are fewer are kept
                    for o in range(outputs):
                        side[o] = v_splat(w[o])
                    for i in range(vectors):
                        v = v_load(p + i * LANES)
                        for o in range(outputs):
                            acc[o * vectors + i] = v_fma_onto(v, side[o], acc[o * vectors + i])
                else:
                    for i in range(vectors):
                        side[i] = v_load(p + i * LANES)
                    for o in range(outputs):
                        v = v_splat(w[o])
                        for i in range(vectors):
                            acc[o * vectors + i] = v_fma_onto(side[i], v, acc[o * vectors + i])
                p += line
                w += width
    for i in range(outputs * vectors):  # what others see is not in registers
        sums[i] = acc[i]
    few_end(outputs, vectors, few.panel, step, sums, moved(few.residual, at * step), few.out + at * step)


cdef inline void few_end(
    const int outputs, const int vectors, const Panel *panel, i64 step, vec *acc, const real *residual, real *out
) noexcept nogil:
    """From the sums of `vectors` vectors of pixels, one output after the other, what is written."""
    cdef vec low = v_splat(panel.low), high = v_splat(panel.high)
    cdef vec even, odd
    cdef real apart[FEW_TILE * LANES_LIMIT]
    cdef int o, i, half, pixel
    if residual != NULL:
        for pixel in range(vectors * LANES):
            for o in range(outputs):
                apart[o * vectors * LANES + pixel] = residual[pixel * step + o]
        for i in range(outputs * vectors):
            acc[i] = v_add(acc[i], v_load(apart + i * LANES))
    for i in range(outputs * vectors):
        acc[i] = ended(panel.hardswish != NULL, acc[i], low, high)
    if outputs <= 4 and step == outputs:
        for i in range(vectors):
            if outputs == 1:
                v_store(out, acc[i])
            elif outputs == 2:
                v_store(out, v_interleave_low(acc[i], acc[vectors + i]))
                v_store(out + LANES, v_interleave_high(acc[i], acc[vectors + i]))
            elif outputs == 3:
                v_store(out, v_interleave_3_first(acc[i], acc[vectors + i], acc[2 * vectors + i]))
                v_store(out + LANES, v_interleave_3_second(acc[i], acc[vectors + i], acc[2 * vectors + i]))
                v_store(out + 2 * LANES, v_interleave_3_third(acc[i], acc[vectors + i], acc[2 * vectors + i]))
            else:
                for half in range(2):
                    if half == 0:
                        even = v_interleave_low(acc[i], acc[2 * vectors + i])
                        odd = v_interleave_low(acc[vectors + i], acc[3 * vectors + i])
                    else:
                        even = v_interleave_high(acc[i], acc[2 * vectors + i])
                        odd = v_interleave_high(acc[vectors + i], acc[3 * vectors + i])
                    v_store(out + 2 * half * LANES, v_interleave_low(even, odd))
                    v_store(out + (2 * half + 1) * LANES, v_interleave_high(even, odd))
            out += outputs * LANES
        return
    for i in range(outputs * vectors):
        v_store(apart + i * LANES, acc[i])
    for pixel in range(vectors * LANES):
        for o in range(outputs):
            out[pixel * step + o] = apart[o * vectors * LANES + pixel]


cdef inline void few_row(
    const int outputs, const int most, const int some, const int least, const Few *few, i64 pixels
) noexcept nogil:
    """A row of pixels, by tiles of as many vectors as there are pixels for."""
    cdef i64 at = 0
    while at < pixels:
        if pixels - at > some * LANES and pixels >= most * LANES:
            few_tile(outputs, most, few, smaller(at, pixels - most * LANES))
            at += most * LANES
        elif pixels - at > least * LANES and pixels >= some * LANES:
            few_tile(outputs, some, few, smaller(at, pixels - some * LANES))
            at += some * LANES
        else:
            few_tile(outputs, least, few, smaller(at, pixels - least * LANES))
            at += least * LANES


cdef void few_1(const Few *few, i64 pixels) noexcept nogil:
    few_row(1, 8, 4, 2, few, pixels)


cdef void few_2(const Few *few, i64 pixels) noexcept nogil:
    few_row(2, 6, 4, 2, few, pixels)


cdef void few_3(const Few *few, i64 pixels) noexcept nogil:
    few_row(3, 4, 3, 2, few, pixels)


cdef void few_4(const Few *few, i64 pixels) noexcept nogil:
    few_row(4, 3, 2, 1, few, pixels)


cdef void few_5(const Few *few, i64 pixels) noexcept nogil:
    few_row(5, 2, 1, 1, few, pixels)


cdef void few_6(const Few *few, i64 pixels) noexcept nogil:
    few_row(6, 2, 1, 1, few, pixels)


cdef void few_outputs(
    const Plan *plan, const Panel *panel, const real *image, const real *residual, real *out, real *ring,
    i64 begin, i64 end, i64 first, i64 last
) noexcept nogil:
    """Columns `first` to `last` of output rows `begin` to `end` of an image."""
    cdef Few few
    cdef i64 row, stop, ready = 0, pixels = last - first, place
    cdef i64 line = plan.window_size
    few.plan = plan
    few.panel = panel
    few.ring = ring
    few.left = first - plan.pad_left
    for row in range(begin, end):
        few.top = row * plan.stride_h - plan.pad_top
        stop = smaller(few.top + plan.ring_rows, plan.height)
        ready = larger(ready, few.top)
        while ready < stop:
            turn_plane(
                plan.in_channels, plan.width, plan.x_step, line, image + ready * plan.width * plan.x_step,
                ring + ready % plan.ring_rows * plan.in_channels * line)
            ready += 1
        few.first_tap = first_tap(few.top, plan.dilation_h, plan.kernel_h)
        few.taps = end_tap(few.top, plan.dilation_h, plan.kernel_h, plan.height) - few.first_tap
        place = (row * plan.out_width + first) * plan.out_step
        few.residual = moved(residual, place)
        few.out = out + place
        if plan.out_channels == 1:
            few_1(&few, pixels)
        elif plan.out_channels == 2:
            few_2(&few, pixels)
        elif plan.out_channels == 3:
            few_3(&few, pixels)
        elif plan.out_channels == 4:
            few_4(&few, pixels)
        elif plan.out_channels == 5:
            few_5(&few, pixels)
        else:
            few_6(&few, pixels)
        activate(plan, few.out, pixels, plan.out_step, plan.out_channels)


cdef inline void few_channels(
    const int outputs, const int known, const real *ahead, i64 step, i64 width, const real *a, const real *w, vec *sums
) noexcept nogil:
    """Add the products of LANES channels of LANES pixels, the first of which, `known`, have been added before.

    From `ahead` on, if it is not NULL, as many elements are asked for.
    """
    cdef vec rows[LANES_LIMIT]
    cdef int o, c
    load_turned(a, step, rows)
    if ahead != NULL:
        for c in range(LANES * LANES // LINE):
            v_prefetch(ahead + c * LINE)
    for c in range(LANES):
        if c >= known:
            for o in range(outputs):
                sums[o] = v_fma_onto_splat(w + o, rows[c], sums[o])
        w = v_anew(w + width)


cdef inline void few_products(
    const int outputs, const int vectors, const Panel *panel, const real *a, const real *residual, real *out
) noexcept nogil:
    """All columns of a panel for one vector of pixels or two, panel.a_step apart in a and panel.out_step in out."""
    cdef vec acc[2 * FEW_COLUMNS]
    cdef vec first[FEW_COLUMNS]  # these are in registers; of one alone, each product would wait for the one before it
    cdef vec second[FEW_COLUMNS]
    cdef i64 step = panel.a_step, width = panel.vectors * LANES, left = panel.depth
    cdef int o, known
    cdef const real *w = panel.weights
    cdef const real *ahead = a + vectors * LANES * step if panel.asks_in else NULL  # the next pixels
    for o in range(outputs):
        first[o] = second[o] = v_splat(panel.bias[o])
    while left >= LANES:
        few_channels(outputs, 0, ahead, step, width, a, w, first)
        ahead = moved(ahead, LANES * LANES)
        if vectors == 2:
            few_channels(outputs, 0, ahead, step, width, a + LANES * step, w, second)
            ahead = moved(ahead, LANES * LANES)
        a += LANES
        w += LANES * width
        left -= LANES
    if left:  # the last channels, and some before them
        known = <int> (LANES - left)
        a -= known
        w -= known * width
        few_channels(outputs, known, ahead, step, width, a, w, first)
        if vectors == 2:
            few_channels(outputs, known, ahead, step, width, a + LANES * step, w, second)
    for o in range(outputs):
        acc[o * vectors] = first[o]
        if vectors == 2:
            acc[o * vectors + 1] = second[o]
    few_end(outputs, vectors, panel, panel.out_step, acc, residual, out)


cdef inline void few_pixels(
    const int outputs, const int vectors, const Panel *panel, i64 pixels, const real *a, const real *residual, real *out
) noexcept nogil:
    """As `few_products`, of any number of pixels of at least LANES."""
    cdef i64 at = 0, place
    while at < pixels:
        if pixels - at > LANES and pixels >= vectors * LANES:
            place = smaller(at, pixels - vectors * LANES)
            few_products(
                outputs, vectors, panel, a + place * panel.a_step, moved(residual, place * panel.out_step),
                out + place * panel.out_step)
            at += vectors * LANES
        else:
            place = smaller(at, pixels - LANES)
            few_products(
                outputs, 1, panel, a + place * panel.a_step, moved(residual, place * panel.out_step),
                out + place * panel.out_step)
            at += LANES


cdef void few_pixels_1(const Panel *panel, i64 pixels, const real *a, const real *residual, real *out) noexcept nogil:
    few_pixels(1, 2, panel, pixels, a, residual, out)


cdef void few_pixels_2(const Panel *panel, i64 pixels, const real *a, const real *residual, real *out) noexcept nogil:
    few_pixels(2, 2, panel, pixels, a, residual, out)


cdef void few_pixels_3(const Panel *panel, i64 pixels, const real *a, const real *residual, real *out) noexcept nogil:
    few_pixels(3, 2, panel, pixels, a, residual, out)


cdef void few_pixels_4(const Panel *panel, i64 pixels, const real *a, const real *residual, real *out) noexcept nogil:
    few_pixels(4, 2, panel, pixels, a, residual, out)


cdef void gemm_few(
    const Plan *plan, const Panel *panel, i64 columns, i64 pixels, const real *a, const real *residual, real *out
) noexcept nogil:
    """A panel of few columns for at least LANES pixels, with their activation."""
    if columns == 1:
        few_pixels_1(panel, pixels, a, residual, out)
    elif columns == 2:
        few_pixels_2(panel, pixels, a, residual, out)
    elif columns == 3:
        few_pixels_3(panel, pixels, a, residual, out)
    else:
        few_pixels_4(panel, pixels, a, residual, out)
    activate(plan, out, pixels, panel.out_step, columns)
