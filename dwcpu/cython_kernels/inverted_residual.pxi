# Fused inverted residual: a window of expanded rows slides down the image; the separable kernel reads it from cache.
#
# Assumes: plan.expand_kernel is a pointwise kernel and plan.separable_kernel a separable one, of this dtype, with plans
# of their own; the plan's image is the expanded one, that is the separable kernel's input; scratch holds
# plan.window_size elements, for the rows of it that plan.block_rows output rows need, and the scratch of the separable
# kernel behind them. Rows are output rows (of batch * out_height); there is one block.
# Guarantees: the same bits as the two kernels one after the other.
# Loops: images, blocks of plan.block_rows output rows. Rows that the next block needs too stay where they are if the
# window is a ring of plan.ring_rows; else they move to the window's start, which in the L2 cache costs less than
# expanding them again.
#
# With plan.panel_rows each panel of expanded channels has a ring of its own, in which its pixels lie side by side, and
# the loops inside a block are panels, then so many output rows: what the pointwise kernel writes, the window reads from
# L1. Expanded channels are then whole panels, the steps of both kernels' plans say how wide these are, and the separable
# kernel has one stretch of columns.

cdef inline i64 first_read(const Plan *plan, i64 row) noexcept nogil:
    """First row of the image that an output row reads; where it reads none, one of its ends."""
    return larger(0, smaller(row * plan.stride_h - plan.pad_top, plan.height))


cdef inline i64 end_read(const Plan *plan, i64 row) noexcept nogil:
    """One past the last row of the image that an output row reads."""
    return larger(
        first_read(plan, row),
        smaller(row * plan.stride_h - plan.pad_top + (plan.kernel_h - 1) * plan.dilation_h + 1, plan.height))


cdef void expand_rows(
    const Plan *plan, const real *x, real *window, i64 image, i64 begin, i64 end, i64 place, i64 panel_begin,
    i64 panel_end
) noexcept nogil:
    """Rows of the expanded image, the first one `place` rows behind the window's start, these panels of each pixel."""
    cdef Kernel expand = <Kernel> plan.expand_kernel
    cdef const Plan *own = <const Plan *> plan.expand_plan
    cdef i64 count, pixel
    while begin < end:
        count = end - begin
        if plan.ring_rows > 0:
            count = smaller(count, plan.ring_rows - place)
        pixel = (image * plan.height + begin) * plan.width
        # The kernel addresses whole tensors: the pointer is moved so that rows lie where it looks for them.
        expand(
            own, x, NULL, window + (place * plan.width - pixel) * own.out_step, NULL, pixel,
            pixel + count * plan.width, panel_begin, panel_end)
        begin += count
        place = 0


cdef void block_by_panels(
    const Plan *plan, const real *x, const real *residual, real *out, real *window, i64 image, i64 begin, i64 end,
    i64 held
) noexcept nogil:
    """Output rows of an image; of the expanded one, rows up to `held` are in the rings."""
    cdef const Plan *separable = <const Plan *> plan.separable_plan
    cdef Kernel depthwise = <Kernel> separable.depthwise_kernel
    cdef Kernel pointwise = <Kernel> separable.pointwise_kernel
    cdef i64 panel_channels = (<const Plan *> plan.expand_plan).out_step, panel_blocks = panel_channels // LANES
    cdef i64 step = (<const Plan *> separable.depthwise_plan).out_step
    cdef i64 first = image * plan.out_height, pixel = (first + begin) * plan.out_width
    cdef i64 panel, row, row_end, start, stop
    cdef real *between = window + plan.window_size
    cdef real *own
    for panel in range(plan.expand_blocks):
        own = window + panel * (plan.ring_rows * plan.width - 1) * panel_channels  # both kernels add the panel's first channel
        start = held
        row = begin
        while row < end:
            row_end = smaller(row + plan.panel_rows, end)
            start = larger(start, first_read(plan, row))
            stop = larger(start, end_read(plan, row_end - 1))
            expand_rows(plan, x, own, image, start, stop, start % plan.ring_rows, panel, panel + 1)
            depthwise(
                <const Plan *> separable.depthwise_plan, own, NULL, between - pixel * step, NULL, first + row,
                first + row_end, panel * panel_blocks, (panel + 1) * panel_blocks)
            start = stop
            row = row_end
    pointwise(
        <const Plan *> separable.pointwise_plan, between - pixel * step, residual, out, NULL, pixel,
        (first + end) * plan.out_width, 0, separable.pointwise_blocks)


cdef void inverted_residual(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Kernel separable = <Kernel> plan.separable_kernel
    cdef i64 length = plan.width * plan.in_channels
    cdef i64 row = row_begin, image, begin, end, stop, first, last, held, held_last, start, place
    cdef real *window = <real *> scratch
    cdef real *rows
    while row < row_end:
        image = row // plan.out_height
        begin = row - image * plan.out_height
        end = smaller(plan.out_height, begin + row_end - row)
        row += end - begin
        held = held_last = 0  # rows of the image that are in the window
        while begin < end:
            stop = smaller(begin + plan.block_rows, end)
            first = first_read(plan, begin)
            last = larger(first, end_read(plan, stop - 1))
            if plan.panel_rows > 0:
                block_by_panels(plan, x, residual, out, window, image, begin, stop, held_last)
            else:
                start = larger(first, held_last)
                rows = window
                if plan.ring_rows > 0:
                    place = start % plan.ring_rows
                else:
                    if held_last > first:
                        memmove(window, window + (first - held) * length, (held_last - first) * length * sizeof(real))
                    place = start - first
                    rows -= (image * plan.height + first) * length
                expand_rows(plan, x, window, image, start, last, place, 0, plan.expand_blocks)
                separable(
                    <const Plan *> plan.separable_plan, rows, residual, out, window + plan.window_size,
                    image * plan.out_height + begin, image * plan.out_height + stop, 0, 1)
            held, held_last = first, larger(last, held_last)
            begin = stop
