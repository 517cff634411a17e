# Transposed convolution: the products of every pixel with all taps, each added to the output that it belongs to.
#
# Assumes: channel-last, contiguous images. Pixel (i, j) and tap (h, w) belong to output (i * stride + h * dilation -
# pad, ...). Rows are output rows (of batch * out_height); there is one block. plan.bias has one number for each of
# plan.out_channels. For `transposed`, plan.pointwise_kernel is a pointwise kernel of this dtype, with a plan and number
# of blocks of its own, that gives (kernel_h, kernel_w, out_channels) products for each pixel; scratch holds those of
# plan.block_rows rows of pixels, of plan.window_size elements each, and the number of each. plan.block_rows is how far
# rows reach that belong to one output, (kernel_h - 1) * dilation // stride + 1, or all of an image: so none of them takes
# the place of another.
# Guarantees: each output starts from its bias and takes the products tap by tap, by row and column of the window.
# Loops: output rows; taps; pixels. A row of pixels is multiplied once for all outputs that it belongs to, which follow
# one another: its products come from L2.

cdef inline void scatter_run(
    const bint weighted, i64 count, i64 channels, const real *x, i64 x_step, const real *w, real *out, i64 out_step
) noexcept nogil:
    """Add `count` pixels of x to pixels of out; times weights, one a channel, where `weighted`."""
    cdef i64 pixel, at
    cdef int lanes
    cdef vec v, sums
    for pixel in range(count):
        at = 0
        lanes = LANES
        while at < channels:
            if at + LANES > channels:
                lanes = <int> (channels - at)
            v = v_load(x + at) if lanes == LANES else v_load_part(x + at, 0, lanes)
            sums = v_load(out + at) if lanes == LANES else v_load_part(out + at, 0, lanes)
            if weighted:
                sums = v_fma(v, v_load(w + at) if lanes == LANES else v_load_part(w + at, 0, lanes), sums)
            else:
                sums = v_add(sums, v)
            if lanes == LANES:
                v_store(out + at, sums)
            else:
                v_store_part(out + at, sums, 0, lanes)
            at += LANES
        x += x_step
        out += out_step


cdef const real *product_row(const Plan *plan, const real *x, void *scratch, i64 number) noexcept nogil:
    """Products of row `number` of x, of all images one after the other; the last ones are kept."""
    cdef i64 place = number % plan.block_rows, begin = number * plan.width
    cdef i64 step = plan.kernel_h * plan.kernel_w * plan.out_channels
    cdef real *target = <real *> scratch + place * plan.window_size
    cdef i64 *numbers = <i64 *> (<real *> scratch + plan.block_rows * plan.window_size)
    if numbers[place] != number:
        numbers[place] = number
        # The kernel addresses whole tensors: the pointer is moved so that the row lies where it looks for it.
        (<Kernel> plan.pointwise_kernel)(
            <const Plan *> plan.pointwise_plan, x, NULL, target - begin * step, NULL, begin, begin + plan.width, 0,
            plan.pointwise_blocks)
    return target


cdef inline void transposed_rows(
    const bint weighted, const Plan *plan, const real *x, real *out, void *scratch, i64 row_begin, i64 row_end
) noexcept nogil:
    cdef i64 channels = plan.out_channels, size = plan.out_width * channels
    cdef i64 step = channels if weighted else plan.kernel_h * plan.kernel_w * channels
    cdef i64 row, image, at, h, w, y, shift, first, end
    cdef vec low = v_splat(<real> plan.low), high = v_splat(<real> plan.high)
    cdef const real *source
    cdef const real *weights
    cdef real *target
    for row in range(row_begin, row_end):
        image = row // plan.out_height
        target = out + row * size
        copy_runs(plan.out_width, channels, 0, channels, <const real *> plan.bias, target)
        for h in range(plan.kernel_h):
            y = row - image * plan.out_height + plan.pad_top - h * plan.dilation_h
            if y < 0 or y % plan.stride_h != 0 or y // plan.stride_h >= plan.height:
                continue
            y = image * plan.height + y // plan.stride_h
            source = x + y * plan.width * channels if weighted else product_row(plan, x, scratch, y)
            for w in range(plan.kernel_w):
                at = (h * plan.kernel_w + w) * channels
                weights = <const real *> plan.weights + at if weighted else NULL
                shift = w * plan.dilation_w - plan.pad_left
                first = larger(ceil_div(-shift, plan.stride_w), 0)
                end = smaller(ceil_div(plan.out_width - shift, plan.stride_w), plan.width)
                scatter_run(
                    weighted, end - first, channels, source + first * step + (0 if weighted else at), step, weights,
                    target + (first * plan.stride_w + shift) * channels, plan.stride_w * channels)
        for at in range(size // LANES):
            v_store(target + at * LANES, v_clamp(v_load(target + at * LANES), low, high))
        if size % LANES:
            at = size - size % LANES
            v_store_part(
                target + at, v_clamp(v_load_part(target + at, 0, <int> (size % LANES)), low, high), 0,
                <int> (size % LANES))
        activate(plan, target, 1, 0, size)


cdef void transposed(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef i64 *numbers = <i64 *> (<real *> scratch + plan.block_rows * plan.window_size)
    cdef i64 place
    for place in range(plan.block_rows):
        numbers[place] = -1
    transposed_rows(False, plan, x, out, scratch, row_begin, row_end)


cdef void transposed_depthwise(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """One weight a tap and channel: plan.weights are (kernel_h, kernel_w, channels). No scratch."""
    transposed_rows(True, plan, x, out, scratch, row_begin, row_end)
