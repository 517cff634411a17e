# Standard and grouped convolution: an indirect GEMM through the micro-kernel of gemm.pxi, which reads windows where
# they lie in x.
#
# Assumes: x (batch, height, width, in_channels) contiguous, or three planes, with x_step 1 (colours.pxi); pixels
# of out plan.out_step apart; weights in panels, group after group, each group padded to whole vectors; rows are output
# rows (of batch * out_height), or with plan.segment, and one group, stretches of the only row of each image, blocks are
# panels, group by group. Block rows: output rows, or stretches, whose inputs stay in L2 while all panels pass (0: all).
# Guarantees: gemm.pxi or colours.pxi; the runs go in the order kernel row, kernel column, input channel; taps in the
# padding are left out.
# Loops, outermost first: blocks of output rows; panels; runs of output pixels with the same valid taps. The inner
# pixels of a row are such a run; so are the pixels of a border column, top to bottom, or of every column where images are
# narrow, and neighbours at the border of a single row. An activation of its own comes after each panel, where a tile's
# outputs are in L1; with groups, whose rows are short, after all panels of a block.
#
# With plan.ring_rows the inner pixels of rows are left to few_outputs.pxi.
#
# With plan.gathers the window is one pixel, all outputs lie inside, and there is one group: the pixels that strides leave
# are copied into scratch, which holds those of plan.block_rows rows, and the pointwise kernel takes them as they lie
# there, without the short tiles at each row's end.
#
# With plan.by_taps small images are computed tap by tap: see conv_taps.pxi.
#
# With plan.joined groups of few channels share vectors: see joined_groups.pxi.

cdef inline i64 first_tap(i64 position, i64 dilation, i64 taps) noexcept nogil:
    """First tap k with position + k * dilation >= 0, or `taps`."""
    return smaller(larger(ceil_div(-position, dilation), 0), taps)


cdef inline i64 end_tap(i64 position, i64 dilation, i64 taps, i64 size) noexcept nogil:
    """One past the last tap k with position + k * dilation < size."""
    return smaller(larger(ceil_div(size - position, dilation), 0), taps)


cdef inline i64 inner_begin(i64 outputs, i64 stride, i64 pad) noexcept nogil:
    """First output all of whose taps lie behind the beginning of the axis, or `outputs`."""
    return smaller(larger(ceil_div(pad, stride), 0), outputs)


cdef inline i64 inner_end(
    i64 begin, i64 outputs, i64 stride, i64 pad, i64 dilation, i64 taps, i64 size
) noexcept nogil:
    """One past the last output all of whose taps lie before the end of the axis, at least `begin`."""
    return larger(begin, smaller(outputs, ceil_div(size + pad - (taps - 1) * dilation, stride)))


cdef void conv_run(
    const Plan *plan, const Panel *whole, const real *image, const real *residual, real *out,
    i64 row, i64 column, i64 pixels, i64 a_step, i64 out_step
) noexcept nogil:
    """`pixels` output pixels with the valid taps of the first one, at (row, column) of one image and one panel."""
    cdef Panel panel = whole[0]
    cdef i64 top = row * plan.stride_h - plan.pad_top, left = column * plan.stride_w - plan.pad_left
    cdef i64 kh = first_tap(top, plan.dilation_h, plan.kernel_h)
    cdef i64 kw = first_tap(left, plan.dilation_w, plan.kernel_w)
    cdef i64 rows = end_tap(top, plan.dilation_h, plan.kernel_h, plan.height) - kh
    cdef i64 columns = end_tap(left, plan.dilation_w, plan.kernel_w, plan.width) - kw
    cdef i64 channels = plan.in_channels // plan.groups, width = panel.vectors * LANES
    cdef i64 place = (row * plan.out_width + column) * plan.out_step
    panel.a_step = a_step
    panel.out_step = out_step
    panel.row_taps = rows
    panel.a_row = plan.dilation_h * plan.width * plan.x_step
    panel.w_row = plan.kernel_w * channels * width
    panel.weights += (kh * plan.kernel_w + kw) * channels * width
    if plan.groups == 1 and plan.dilation_w == 1:
        panel.column_taps = 1
        panel.a_column = panel.w_column = 0
        panel.depth = columns * channels
    else:
        panel.column_taps = columns
        panel.a_column = plan.dilation_w * plan.x_step
        panel.w_column = channels * width
        panel.depth = channels
    image += ((top + kh * plan.dilation_h) * plan.width + left + kw * plan.dilation_w) * plan.x_step
    if plan.x_step < plan.in_channels:
        panel.column_taps = columns
        panel.a_column = plan.height * plan.width
        colour_pixels(plan, &panel, pixels, image, out + place)
        return
    gemm_panel(plan, &panel, pixels, image, moved(residual, place), out + place)


cdef bint is_narrow(const Plan *plan, const Panel *panel, i64 across, i64 begin, i64 end) noexcept nogil:
    """Whether the `across` inner pixels of rows `begin` to `end` are faster computed column by column."""
    cdef i64 first = inner_begin(plan.out_height, plan.stride_h, plan.pad_top)
    cdef i64 last = inner_end(
        first, plan.out_height, plan.stride_h, plan.pad_top, plan.dilation_h, plan.kernel_h, plan.height)
    cdef i64 down = larger(smaller(last, end) - larger(first, begin), 0)
    return across * (pace(down, panel.vectors) + (end - begin - down) * pace(1, panel.vectors)) < (
        (end - begin) * pace(across, panel.vectors))


cdef void conv_columns(
    const Plan *plan, const Panel *panel, const real *image, const real *residual, real *out, i64 column, i64 end
) noexcept nogil:
    """Columns of the only row of an image and one panel."""
    cdef i64 first = inner_begin(plan.out_width, plan.stride_w, plan.pad_left), count, left, kw, taps
    cdef i64 last = inner_end(
        first, plan.out_width, plan.stride_w, plan.pad_left, plan.dilation_w, plan.kernel_w, plan.width)
    while column < end:
        count = smaller(last, end) - column
        if column < first or count <= 0:
            left = column * plan.stride_w - plan.pad_left
            kw = first_tap(left, plan.dilation_w, plan.kernel_w)
            taps = end_tap(left, plan.dilation_w, plan.kernel_w, plan.width)
            count = 1
            left += plan.stride_w
            while column + count < end and column + count != first and (
                kw == first_tap(left, plan.dilation_w, plan.kernel_w)
            ) and taps == end_tap(left, plan.dilation_w, plan.kernel_w, plan.width):
                count += 1
                left += plan.stride_w
        conv_run(plan, panel, image, residual, out, 0, column, count, plan.stride_w * plan.x_step, plan.out_step)
        column += count


cdef void conv_panel(
    const Plan *plan, const Panel *panel, const real *image, const real *residual, real *out, void *scratch,
    i64 begin, i64 end
) noexcept nogil:
    """Output rows `begin` to `end` of one image and one panel."""
    cdef i64 row, column, stop, kh, taps
    cdef i64 step = plan.stride_w * plan.x_step
    cdef i64 row_step = plan.stride_h * plan.width * plan.x_step
    cdef i64 out_row = plan.out_width * plan.out_step
    cdef i64 first = inner_begin(plan.out_width, plan.stride_w, plan.pad_left)
    cdef i64 last = inner_end(
        first, plan.out_width, plan.stride_w, plan.pad_left, plan.dilation_w, plan.kernel_w, plan.width)
    if plan.by_taps:
        conv_by_taps(plan, panel, image, residual, out, begin, end)
        return
    if plan.out_height == 1 and plan.ring_rows == 0:  # rows are never none
        conv_columns(plan, panel, image, residual, out, 0, plan.out_width)
        return
    if plan.ring_rows > 0:
        few_outputs(plan, panel, image, residual, out, <real *> scratch, begin, end, first, last)
    elif is_narrow(plan, panel, last - first, begin, end):
        last = first
    else:
        for row in range(begin, end):
            conv_run(plan, panel, image, residual, out, row, first, last - first, step, plan.out_step)
    if last - first == plan.out_width:
        return
    row = begin
    while row < end:
        kh = first_tap(row * plan.stride_h - plan.pad_top, plan.dilation_h, plan.kernel_h)
        taps = end_tap(row * plan.stride_h - plan.pad_top, plan.dilation_h, plan.kernel_h, plan.height)
        stop = row + 1
        while stop < end and kh == first_tap(
            stop * plan.stride_h - plan.pad_top, plan.dilation_h, plan.kernel_h
        ) and taps == end_tap(stop * plan.stride_h - plan.pad_top, plan.dilation_h, plan.kernel_h, plan.height):
            stop += 1
        for column in range(plan.out_width):
            if column < first or column >= last:
                conv_run(plan, panel, image, residual, out, row, column, stop - row, row_step, out_row)
        row = stop


cdef void gathered_conv(
    const Plan *plan, const real *x, const real *residual, real *out, real *pixels,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """A 1x1 window: the pixels that it reads, some rows' at a time, side by side, and then the pointwise kernel."""
    cdef Plan own = plan[0]
    cdef i64 row = row_begin, end, at, image, column, pixel, channels = plan.in_channels
    cdef const real *line
    cdef real *target
    own.block_rows = plan.block_rows * plan.out_width
    while row < row_end:
        end = smaller(row + plan.block_rows, row_end)
        target = pixels
        for at in range(row, end):
            image = at // plan.out_height
            line = x + (image * plan.height + (at - image * plan.out_height) * plan.stride_h) * plan.width * channels
            for column in range(plan.out_width):
                memmove(target, line + column * plan.stride_w * channels, channels * sizeof(real))
                target += channels
        pixel = row * plan.out_width
        pointwise(
            &own, pixels - pixel * channels, residual, out, NULL, pixel, end * plan.out_width, block_begin, block_end)
        row = end


cdef inline i64 first_column(const Plan *plan, i64 block, i64 panels, i64 channels) noexcept nogil:
    """First output channel of a block, of groups of `channels` channels and `panels` panels."""
    cdef i64 group = block // panels
    return group * channels + (block - group * panels) * panel_vectors(plan) * LANES


cdef void conv(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Plan own = plan[0]
    cdef Panel panel
    cdef i64 in_channels = plan.in_channels // plan.groups, out_channels = plan.out_channels // plan.groups
    cdef i64 depth = plan.kernel_h * plan.kernel_w * in_channels
    cdef i64 padded = ceil_div(out_channels, LANES) * LANES, panels = panels_of(plan, out_channels)
    cdef i64 step = plan.block_rows if plan.block_rows > 0 else row_end - row_begin
    cdef i64 image_size = plan.height * plan.width * plan.in_channels
    cdef i64 out_size = plan.out_height * plan.out_width * plan.out_step
    cdef i64 cuts = ceil_div(plan.out_width, plan.segment) if plan.segment > 0 else plan.out_height
    cdef i64 row = row_begin, rows, begin, image, block, group, column
    if plan.gathers:
        gathered_conv(plan, x, residual, out, <real *> scratch, row_begin, row_end, block_begin, block_end)
        return
    if plan.joined:
        joined_conv(plan, x, residual, out, <real *> scratch, row_begin, row_end, block_begin, block_end)
        return
    if plan.groups > 1:
        own.activation = NULL
    while row < row_end:
        image = row // cuts
        begin = row - image * cuts
        rows = smaller(smaller(step, row_end - row), cuts - begin)
        for block in range(block_begin, block_end):
            group = block // panels
            panel_of(&panel, plan, out_channels, depth, block - group * panels)
            panel.weights += group * depth * padded
            panel.bias += group * padded
            column = first_column(plan, block, panels, out_channels)
            if plan.segment > 0:
                conv_columns(
                    &own, &panel, x + image * image_size, moved(residual, image * out_size + column),
                    out + image * out_size + column, begin * plan.segment,
                    smaller((begin + rows) * plan.segment, plan.out_width))
                continue
            conv_panel(
                &own, &panel, x + image * image_size + group * in_channels,
                moved(residual, image * out_size + column), out + image * out_size + column, scratch, begin, begin + rows)
        if plan.groups > 1:
            column = first_column(plan, block_begin, panels, out_channels)
            activate(
                plan, out + image * out_size + begin * plan.out_width * plan.out_step + column, rows * plan.out_width,
                plan.out_step, first_column(plan, block_end, panels, out_channels) - column)
        row += rows
