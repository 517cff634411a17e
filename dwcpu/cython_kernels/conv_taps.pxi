# Convolutions of small images, tap by tap: what the border of an image cuts off differs from pixel to pixel, so that sums
# of whole windows are tiles of one pixel or a few. Of a single tap, whole rows of pixels lie inside.
#
# Assumes: as conv.pxi, with plan.by_taps, which goes without ring_rows, gathers, joined and planes.
# Guarantees: as conv.pxi. Sums stay in `out` between taps, where nothing rounds them: each output still begins with the
# bias and takes the inputs in the order kernel row, kernel column, input channel.
# Loops, outermost first: panels (conv.pxi); kernel rows, kernel columns; output rows, or columns where rows are so short
# that they do not keep the arithmetic busy; tiles of pixels.

cdef inline i64 pace(i64 pixels, i64 vectors) noexcept nogil:
    """Multiply-adds of a vector that a run has time for at each of its inputs: few sums do not keep the units busy."""
    return larger(pixels * vectors, LEAST_SUMS)


cdef inline i64 outputs_of_tap(
    i64 tap, i64 stride, i64 pad, i64 dilation, i64 size, i64 begin, i64 end, i64 *first
) noexcept nogil:
    """How many of the outputs from `begin` to `end` see this tap inside of the axis, and the first of them."""
    cdef i64 place = tap * dilation - pad  # of the tap, for output 0
    first[0] = larger(begin, ceil_div(-place, stride))
    return larger(smaller(end, ceil_div(size - place, stride)) - first[0], 0)


cdef inline void add_run(Panel *panel, i64 pixels, const real *a, real *out) noexcept nogil:
    """Add the products of one tap to the sums of a run of pixels, dealt to tiles as `gemm_panel` deals them."""
    cdef Tiles tiles = more_tiles_of(panel)
    cdef i64 rows = rows_of_tiles(panel), count = ceil_div(pixels, rows), taller, first
    rows = pixels // count
    taller = pixels - rows * count
    first = taller * (rows + 1)
    if taller > 0:
        tiles(rows + 1, panel, taller, a, NULL, out)
    tiles(rows, panel, count - taller, a + first * panel.a_step, NULL, out + first * panel.out_step)


cdef void begin_sums(const Panel *panel, real *out, i64 pixels, i64 out_step) noexcept nogil:
    cdef i64 pixel
    cdef int j, last
    for pixel in range(pixels):
        for j in range(panel.vectors):
            last = <int> panel.last if j == panel.vectors - 1 else LANES
            v_store_part(out + j * LANES, v_load(panel.bias + j * LANES), 0, last)
        out += out_step


cdef void end_sums(const Panel *panel, const real *residual, real *out, i64 pixels, i64 out_step) noexcept nogil:
    """From sums, what is written: the residual is added, then the epilogue of tiles."""
    cdef vec low = v_splat(panel.low), high = v_splat(panel.high), v
    cdef i64 pixel
    cdef int j, last
    for pixel in range(pixels):
        for j in range(panel.vectors):
            last = <int> panel.last if j == panel.vectors - 1 else LANES
            v = v_load_part(out + j * LANES, 0, last)
            if residual != NULL:
                v = v_add(v, v_load_part(residual + j * LANES, 0, last))
            v_store_part(out + j * LANES, ended(panel.hardswish != NULL, v, low, high), 0, last)
        residual = moved(residual, out_step)
        out += out_step


cdef void conv_by_taps(
    const Plan *plan, const Panel *whole, const real *image, const real *residual, real *out, i64 begin, i64 end
) noexcept nogil:
    """Output rows `begin` to `end` of one image and one panel."""
    cdef Panel panel = whole[0]
    cdef i64 channels = plan.in_channels // plan.groups, width = panel.vectors * LANES, columns = columns_of(&panel)
    cdef i64 step = plan.stride_w * plan.x_step, row_step = plan.stride_h * plan.width * plan.x_step
    cdef i64 out_row = plan.out_width * plan.out_step, place = begin * out_row
    cdef i64 across = 0, down = 0, column = 0, row = 0, h, g, at
    cdef const real *a
    begin_sums(&panel, out + place, (end - begin) * plan.out_width, plan.out_step)
    panel.row_taps = panel.column_taps = 1
    panel.depth = channels
    panel.more = True
    panel.hardswish = NULL
    panel.low, panel.high = <real> -INFINITY, <real> INFINITY
    for h in range(plan.kernel_h):
        down = outputs_of_tap(h, plan.stride_h, plan.pad_top, plan.dilation_h, plan.height, begin, end, &row)
        for g in range(plan.kernel_w):
            across = outputs_of_tap(
                g, plan.stride_w, plan.pad_left, plan.dilation_w, plan.width, 0, plan.out_width, &column)
            panel.weights = whole.weights + (h * plan.kernel_w + g) * channels * width
            panel.ahead = panel.weights + channels * width  # of the next tap, or panel: mostly they come from afar
            panel.ahead_end = panel.ahead + channels * width
            panel.ahead_step = smaller(ceil_div(width, AHEAD_TILES), panel_vectors(plan) * LANES // TURN)
            a = image + (
                (row * plan.stride_h + h * plan.dilation_h - plan.pad_top) * plan.width
                + column * plan.stride_w + g * plan.dilation_w - plan.pad_left) * plan.x_step
            place = row * out_row + column * plan.out_step
            if down * pace(across, panel.vectors) <= across * pace(down, panel.vectors):
                panel.a_step = step
                panel.out_step = plan.out_step
                for at in range(down if across > 0 else 0):
                    add_run(&panel, across, a + at * row_step, out + place + at * out_row)
            else:
                panel.a_step = row_step
                panel.out_step = out_row
                for at in range(across if down > 0 else 0):
                    add_run(&panel, down, a + at * step, out + place + at * plan.out_step)
    place = begin * out_row
    end_sums(whole, moved(residual, place), out + place, (end - begin) * plan.out_width, plan.out_step)
    activate(plan, out + place, (end - begin) * plan.out_width, plan.out_step, columns)
