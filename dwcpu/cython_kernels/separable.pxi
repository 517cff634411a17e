# Fused depthwise + pointwise: blocks of depthwise output rows stay in the cache until the pointwise kernel has read
# them.
#
# Assumes: plan.depthwise_kernel and plan.pointwise_kernel are kernels of this dtype, of whichever family, with plans
# and numbers of blocks of their own; scratch holds plan.block_rows output rows of the depthwise result. Rows are
# output rows (of batch * out_height); there is one block.
# Guarantees: the same bits as the two kernels one after the other.

cdef void separable(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Kernel depthwise = <Kernel> plan.depthwise_kernel
    cdef Kernel pointwise = <Kernel> plan.pointwise_kernel
    cdef const Plan *first = <const Plan *> plan.depthwise_plan
    cdef const Plan *second = <const Plan *> plan.pointwise_plan
    cdef i64 width = first.out_width, step = larger(plan.block_rows, 1)
    cdef i64 row = row_begin, stop
    cdef real *buffer  # such that the kernels find the block's rows where they would lie in the whole intermediate
    while row < row_end:
        stop = smaller(row + step, row_end)
        buffer = <real *> scratch - row * width * first.out_channels
        depthwise(first, x, NULL, buffer, NULL, row, stop, 0, plan.depthwise_blocks)
        pointwise(second, buffer, residual, out, NULL, row * width, stop * width, 0, plan.pointwise_blocks)
        row = stop
