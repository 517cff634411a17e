# Products of matrices that are both computed, as in attention: many pairs, one after the other.
#
# Assumes: x holds (plan.height, plan.in_channels) matrices whose columns are neighbours, residual (plan.in_channels,
# plan.out_channels) ones with any steps, out C-contiguous ones. plan.weights points to PRODUCT_STEPS numbers of elements
# (ProductSteps); plan.bias to zeros for every column. Rows are pairs, of plan.width for each step of the outer axis;
# blocks are panels of the second matrix; scratch has room for all of them.
# Guarantees: gemm.pxi, from zero.
# Loops, outermost first: pairs, whose second matrix is packed; blocks of plan.block_rows rows of the first, which stay in
# L2 while all panels pass; panels; tiles.

cdef struct ProductSteps:  # as in dwcpu/products.py
    i64 x_outer
    i64 x_inner
    i64 x_row
    i64 residual_outer
    i64 residual_inner
    i64 residual_row
    i64 residual_column


cdef void pack_panel(
    const ProductSteps *steps, i64 depth, i64 columns, i64 width, const real *w, real *packed
) noexcept nogil:
    """`columns` columns of a matrix as a panel that is `width` wide."""
    cdef i64 k, at
    if steps.residual_column == 1:
        copy_runs(depth, columns, steps.residual_row, width, w, packed)
    elif steps.residual_row == 1:
        turn_plane(depth, columns, steps.residual_column, width, w, packed)
    else:
        for k in range(depth):
            for at in range(columns):
                packed[k * width + at] = w[k * steps.residual_row + at * steps.residual_column]
    if columns < width:
        for k in range(depth):
            for at in range(columns, width):
                packed[k * width + at] = 0


cdef void products(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef const ProductSteps *steps = <const ProductSteps *> plan.weights
    cdef i64 height = plan.height, depth = plan.in_channels, columns = plan.out_channels
    cdef i64 pair, outer, inner, block, row, rows, first, width = panel_vectors(plan) * LANES, start = block_begin * width
    cdef real *packed = <real *> scratch
    cdef const real *a
    cdef Panel panel
    for pair in range(row_begin, row_end):
        outer = pair // plan.width
        inner = pair - outer * plan.width
        a = x + outer * steps.x_outer + inner * steps.x_inner
        row = 0
        while row < height:
            rows = smaller(plan.block_rows, height - row)
            for block in range(block_begin, block_end):
                panel_of(&panel, plan, columns, depth, block)
                first = block * width
                panel.weights = packed + (first - start) * depth
                ask_nothing(&panel)
                panel.row_taps = panel.column_taps = 1
                panel.a_row = panel.w_row = panel.a_column = panel.w_column = 0
                panel.a_step = steps.x_row
                panel.depth = depth
                if row == 0:
                    pack_panel(
                        steps, depth, columns_of(&panel), panel.vectors * LANES,
                        residual + outer * steps.residual_outer + inner * steps.residual_inner
                        + first * steps.residual_column,
                        <real *> panel.weights)
                gemm_panel(
                    plan, &panel, rows, a + row * steps.x_row, NULL, out + (pair * height + row) * columns + first)
            row += rows
