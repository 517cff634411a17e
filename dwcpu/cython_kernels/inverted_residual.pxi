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

cdef void inverted_residual(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Kernel expand = <Kernel> plan.expand_kernel
    cdef Kernel separable = <Kernel> plan.separable_kernel
    cdef i64 length = plan.width * plan.in_channels
    cdef i64 reach = (plan.kernel_h - 1) * plan.dilation_h + 1
    cdef i64 row = row_begin, image, begin, end, stop, first, last, held, held_last, start, place, count, pixel
    cdef real *window = <real *> scratch
    cdef real *rest = window + plan.window_size
    cdef real *rows
    while row < row_end:
        image = row // plan.out_height
        begin = row - image * plan.out_height
        end = smaller(plan.out_height, begin + row_end - row)
        row += end - begin
        held = held_last = 0  # rows of the image that are in the window
        while begin < end:
            stop = smaller(begin + plan.block_rows, end)
            first = larger(0, smaller(begin * plan.stride_h - plan.pad_top, plan.height))
            last = larger(first, smaller((stop - 1) * plan.stride_h - plan.pad_top + reach, plan.height))
            start = larger(first, held_last)
            if plan.ring_rows > 0:
                place = start - start // plan.ring_rows * plan.ring_rows
                rows = window
            else:
                if held_last > first:
                    memmove(window, window + (first - held) * length, (held_last - first) * length * sizeof(real))
                place = start - first
                # The kernel addresses whole tensors: the pointer is moved so that rows lie where it looks for them.
                rows = window - (image * plan.height + first) * length
            while start < last:
                count = last - start
                if plan.ring_rows > 0:
                    count = smaller(count, plan.ring_rows - place)
                pixel = (image * plan.height + start) * plan.width
                expand(
                    <const Plan *> plan.expand_plan, x, NULL, window + place * length - pixel * plan.in_channels, NULL,
                    pixel, pixel + count * plan.width, 0, plan.expand_blocks)
                start += count
                place = 0
            separable(
                <const Plan *> plan.separable_plan, rows, residual, out, rest, image * plan.out_height + begin,
                image * plan.out_height + stop, 0, 1)
            held, held_last = first, larger(last, held_last)
            begin = stop
