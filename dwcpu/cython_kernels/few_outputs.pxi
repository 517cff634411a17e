# Standard convolution with few outputs, such as colours or a mask: lanes are pixels of a row, not outputs, of which
# there are fewer than lanes.
#
# Assumes: stride_w is 1, there is one group of at most FEW_OUTPUTS outputs, and scratch holds plan.ring_rows input rows,
# as many as a window spans, each as its channels' planes of plan.window_size elements; one panel as for gemm.pxi. What is
# to be computed of a row are 2 * LANES pixels at least, for which all columns of the window are valid.
# Guarantees: each output has one accumulator, which starts from the bias and takes the inputs in the order kernel row,
# kernel column, input channel. Outputs may be computed twice, where the last tile of a row slides back over the one
# before it.
# Loops, outermost first: output rows, each after the input rows that it is the first to read have been turned into the
# ring; tiles of `vectors` vectors of pixels and all outputs, in registers; kernel rows, kernel columns, input channels.

cdef enum:
    FEW_VECTORS = 8   # of pixels in a tile, at most
    FEW_TILE = 12     # vectors of outputs in a tile, at most


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
    cdef vec acc[FEW_OUTPUTS][FEW_VECTORS]
    cdef vec side[FEW_VECTORS]
    cdef vec v, low = v_splat(few.panel.low), high = v_splat(few.panel.high)
    cdef real apart[FEW_TILE * LANES_LIMIT]
    cdef i64 channels = plan.in_channels, line = plan.window_size, width = few.panel.vectors * LANES, step = plan.out_step
    cdef i64 h, g, c
    cdef const real *w = few.panel.weights + few.first_tap * plan.kernel_w * channels * width
    cdef const real *row
    cdef const real *p
    cdef const real *residual
    cdef real *out = few.out + at * step
    cdef int o, i
    for o in range(outputs):
        for i in range(vectors):
            acc[o][i] = v_splat(few.panel.bias[o])
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
                            acc[o][i] = v_fma_onto(v, side[o], acc[o][i])
                else:
                    for i in range(vectors):
                        side[i] = v_load(p + i * LANES)
                    for o in range(outputs):
                        v = v_splat(w[o])
                        for i in range(vectors):
                            acc[o][i] = v_fma_onto(side[i], v, acc[o][i])
                p += line
                w += width
    if few.residual != NULL:
        residual = few.residual + at * step
        for c in range(vectors * LANES):
            for o in range(outputs):
                apart[o * vectors * LANES + c] = residual[c * step + o]
        for o in range(outputs):
            for i in range(vectors):
                acc[o][i] = v_add(acc[o][i], v_load(apart + (o * vectors + i) * LANES))
    for o in range(outputs):
        for i in range(vectors):
            v_store(apart + (o * vectors + i) * LANES, ended(few.panel.hardswish, acc[o][i], low, high))
    for c in range(vectors * LANES):
        for o in range(outputs):
            out[c * step + o] = apart[o * vectors * LANES + c]


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
        if plan.out_step == plan.out_channels:
            activate(plan, few.out, 1, 0, pixels * plan.out_channels)
        else:
            activate(plan, few.out, pixels, plan.out_step, plan.out_channels)
