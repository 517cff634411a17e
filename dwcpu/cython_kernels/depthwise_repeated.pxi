# Depthwise convolutions with several outputs a channel, as one with an output a channel on repeated inputs.
#
# Assumes: the plan's image is the repeated one, whose channels are those of x, each plan.multiplier times, side by side
# (MOST_MULTIPLES at most); plan.depthwise_kernel is a depthwise kernel of this dtype, of whichever family, with a plan of
# its own for that image and one output a channel; scratch holds the rows of it that plan.block_rows output rows need, and
# from plan.depthwise_scratch bytes on what that kernel needs. Rows are output rows (of batch * out_height), or with
# plan.segment, which is that of both plans, stretches of the only row of each image; there is one block. (Where
# images have several rows and outputs one, neither plan has segments.)
# Guarantees: the same bits as any other way; reads nothing but the channels of x's pixels, plan.x_step apart.
# Loops: images, blocks of plan.block_rows output rows or stretches. Repeated rows that the next block needs too move to the
# window's start; what stretches share, which is little, is repeated again.
#
# Vectors of x's channels would be mostly empty lanes where there are few; the outputs' are not, and have kernels of
# their own. A vector of inputs becomes plan.multiplier vectors, by a shuffle each.

cdef void repeat(i64 times, const bits *lanes, const real *x, i64 count, real *to) noexcept nogil:
    """Each of `count` elements `times` times; `lanes` says which element of LANES goes where."""
    cdef i64 left, i
    cdef vec v
    while count >= LANES:
        v = v_load(x)
        for i in range(times):
            v_store(to + i * LANES, v_pick(v, v_numbers(lanes + i * LANES)))
        x += LANES
        to += times * LANES
        count -= LANES
    if count > 0:
        v = v_load_part(x, 0, <int> count)
        left = count * times
        while left > 0:
            v_store_part(to, v_pick(v, v_numbers(lanes)), 0, <int> smaller(left, LANES))
            lanes += LANES
            to += LANES
            left -= LANES


cdef void repeat_pixels(
    const Plan *plan, const bits *lanes, const real *x, real *window, i64 begin, i64 end
) noexcept nogil:
    """Pixels `begin` to `end` of all images, one after the other."""
    cdef i64 channels = plan.in_channels // plan.multiplier, pixel
    if plan.x_step == channels:
        repeat(plan.multiplier, lanes, x + begin * channels, (end - begin) * channels, window)
        return
    for pixel in range(begin, end):
        repeat(plan.multiplier, lanes, x + pixel * plan.x_step, channels, window + (pixel - begin) * plan.in_channels)


cdef void repeated_stretches(
    const Plan *plan, const bits *lanes, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end
) noexcept nogil:
    """Images of one row."""
    cdef Kernel depthwise = <Kernel> plan.depthwise_kernel
    cdef i64 cuts = plan.out_width // plan.segment, row = row_begin, image, stop, end, first, last
    cdef real *window = <real *> scratch
    while row < row_end:
        image = row // cuts
        stop = smaller(smaller(row + plan.block_rows, row_end), (image + 1) * cuts)
        end = plan.out_width if stop == (image + 1) * cuts else (stop - image * cuts) * plan.segment
        first = (row - image * cuts) * plan.segment * plan.stride_w - plan.pad_left
        last = (end - 1) * plan.stride_w - plan.pad_left + (plan.kernel_w - 1) * plan.dilation_w + 1
        first = image * plan.width + larger(0, smaller(first, plan.width))
        last = larger(first, image * plan.width + smaller(last, plan.width))
        repeat_pixels(plan, lanes, x, window, first, last)
        depthwise(
            <const Plan *> plan.depthwise_plan, window - first * plan.in_channels, residual, out,
            <char *> scratch + plan.depthwise_scratch, row, stop, 0, plan.depthwise_blocks)
        row = stop


cdef void depthwise_repeated(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Kernel depthwise = <Kernel> plan.depthwise_kernel
    cdef i64 length = plan.width * plan.in_channels
    cdef i64 row = row_begin, image, begin, end, stop, first, last, held, held_last, start, i
    cdef bits lanes[MOST_MULTIPLES * LANES_LIMIT]
    cdef real *window = <real *> scratch
    for i in range(plan.multiplier * LANES):
        lanes[i] = <bits> (i // plan.multiplier)
    if plan.segment > 0:
        repeated_stretches(plan, lanes, x, residual, out, scratch, row_begin, row_end)
        return
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
            start = larger(first, held_last)
            if held_last > first:
                memmove(window, window + (first - held) * length, (held_last - first) * length * sizeof(real))
            repeat_pixels(
                plan, lanes, x, window + (start - first) * length, (image * plan.height + start) * plan.width,
                (image * plan.height + last) * plan.width)
            # The kernel addresses whole tensors: the pointer is moved so that rows lie where it looks for them.
            depthwise(
                <const Plan *> plan.depthwise_plan, window - (image * plan.height + first) * length, residual, out,
                <char *> scratch + plan.depthwise_scratch, image * plan.out_height + begin,
                image * plan.out_height + stop, 0, plan.depthwise_blocks)
            held, held_last = first, larger(last, held_last)
            begin = stop
