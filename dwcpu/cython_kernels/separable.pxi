# Fused depthwise + pointwise: blocks of depthwise output rows stay in the cache until the pointwise kernel has read
# them.
#
# Assumes: plan.depthwise_kernel and plan.pointwise_kernel are kernels of this dtype, of whichever family, with plans
# and numbers of blocks of their own; plan.depthwise_plan is an array of plan.column_blocks plans, one for each stretch of
# the output's width; scratch holds plan.block_rows output rows of the widest, and from
# plan.depthwise_scratch bytes on what the depthwise kernel needs. Rows are output rows (of batch * out_height); there is
# one block.
# Guarantees: the same bits as the two kernels one after the other.
#
# With plan.asks_ahead the pointwise kernel, which leaves memory idle, asks for the input rows that the next block begins
# to need: the depthwise kernel would wait for them. They come to L2, which has room for them beside the block. What its
# plan asks for, which later kernels read, is for the last block.

cdef inline i64 rows_read(const Plan *plan, i64 rows) noexcept nogil:
    """How many input rows, those of all images one after the other, the first `rows` output rows take up."""
    cdef i64 image = (rows - 1) // plan.out_height
    cdef i64 top = (rows - 1 - image * plan.out_height) * plan.stride_h - plan.pad_top
    cdef i64 end = top + (plan.kernel_h - 1) * plan.dilation_h + 1
    return image * plan.height + larger(0, smaller(end, plan.height))


cdef void separable(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Kernel depthwise = <Kernel> plan.depthwise_kernel
    cdef Kernel pointwise = <Kernel> plan.pointwise_kernel
    cdef const Plan *first
    cdef const Plan *second = <const Plan *> plan.pointwise_plan
    cdef i64 step = larger(plan.block_rows, 1), channels = plan.in_channels
    cdef i64 begin = row_begin, end, block, row, column, pixel, read, line
    cdef real *rows = <real *> scratch
    cdef Plan asking = second[0]
    asking.later_size = asking.soon_size = 0
    # The kernels address whole tensors: pointers are moved so that the block's part of the intermediate lies where
    # they look for it.
    while begin < row_end:
        end = smaller(begin + step, row_end)
        column = 0
        for block in range(plan.column_blocks):
            first = <const Plan *> plan.depthwise_plan + block
            depthwise(
                first, x, NULL, rows - begin * first.out_width * channels, <char *> scratch + plan.depthwise_scratch,
                begin, end, 0, plan.depthwise_blocks)
            if plan.column_blocks == 1:
                pixel = begin * plan.out_width
                if plan.asks_ahead and end < row_end:
                    read, line = rows_read(first, end), first.width * first.x_step
                    asking.later = <void *> (x + read * line)
                    asking.later_size = (
                        (rows_read(first, smaller(end + step, row_end)) - read) * line * <i64> sizeof(real))
                pointwise(
                    &asking if end < row_end else second, rows - pixel * channels, residual, out, NULL, pixel,
                    end * plan.out_width, 0, plan.pointwise_blocks)
            else:
                for row in range(begin, end):
                    pixel = row * plan.out_width + column
                    pointwise(
                        second, rows + ((row - begin) * first.out_width - pixel) * channels, residual, out, NULL,
                        pixel, pixel + first.out_width, 0, plan.pointwise_blocks)
            column += first.out_width
        begin = end
