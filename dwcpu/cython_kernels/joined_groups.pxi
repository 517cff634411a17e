# Grouped convolutions of few channels: several groups share a vector of outputs, since a vector of each would be mostly
# empty lanes.
#
# Assumes: groups of plan.in_channels / groups inputs and as many outputs that plan.joined of them fit one vector, their
# inputs two; weights and bias as gemm_panels packs them, these groups as one; rows as for conv.pxi, blocks are vectors of
# outputs; scratch holds the spread inputs of plan.block_rows output rows.
# Guarantees: conv.pxi.
# Loops, outermost first: blocks of output rows; vectors of outputs, for each of which the inputs of these rows are spread:
# each input of a pixel becomes a vector, which has that of its own group in the lane of each output. Then a window is a
# sum over vectors of inputs, and conv_panel computes it as it computes others. Spread inputs are read once a tap, mostly
# from L2.

cdef inline void spread_pixels(
    const bint two, const bits *lanes, i64 inputs, i64 count, i64 safe, const real *x, i64 x_step, i64 pixels, real *to
) noexcept nogil:
    """`inputs` vectors for each of `pixels` pixels: `lanes` says which channel goes where.

    They are made of `count` channels, which fill more than one vector if `two` do; around those of the first `safe`
    pixels whole vectors may be read.
    """
    cdef vec first, second
    cdef i64 pixel, i
    for pixel in range(pixels):
        if pixel < safe:
            first = v_load(x)
            if two:
                second = v_load(x + LANES)
        else:
            first = v_load_part(x, 0, <int> smaller(count, LANES))
            if two:
                second = v_load_part(x + LANES, 0, <int> larger(count - LANES, 0))
        for i in range(inputs):
            if two:
                v_store(to, v_pick_of_two(first, second, v_numbers(lanes + i * LANES)))
            else:
                v_store(to, v_pick(first, v_numbers(lanes + i * LANES)))
            to += LANES
        x += x_step


cdef void joined_conv(
    const Plan *plan, const real *x, const real *residual, real *out, real *spread,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Plan own = plan[0]  # of the spread inputs
    cdef Panel panel
    cdef bits lanes[LANES_LIMIT * LANES_LIMIT]
    cdef i64 inputs = plan.in_channels // plan.groups, outputs = plan.out_channels // plan.groups
    cdef i64 depth = plan.kernel_h * plan.kernel_w * inputs
    cdef i64 image_size = plan.height * plan.width * plan.in_channels
    cdef i64 out_size = plan.out_height * plan.out_width * plan.out_step
    cdef i64 row = row_begin, image, begin, rows, top, end, block, group, members, count, safe, at, i, lane
    cdef const real *source
    own.groups = 1
    own.activation = NULL
    own.in_channels = inputs
    own.x_step = inputs * LANES
    for i in range(inputs):
        for lane in range(LANES):
            lanes[i * LANES + lane] = <bits> (smaller(lane // outputs, plan.joined - 1) * inputs + i)
    while row < row_end:
        image = row // plan.out_height
        begin = row - image * plan.out_height
        rows = smaller(smaller(plan.block_rows, row_end - row), plan.out_height - begin)
        top = begin * plan.stride_h - plan.pad_top
        end = smaller(plan.height, top + (rows - 1) * plan.stride_h + (plan.kernel_h - 1) * plan.dilation_h + 1)
        top = larger(top, 0)
        for block in range(block_begin, block_end):
            group = block * plan.joined
            members = smaller(plan.joined, plan.groups - group)
            count = members * inputs
            source = x + image * image_size + top * plan.width * plan.in_channels + group * inputs
            # of all pixels of the rows, those around whose channels whole vectors lie inside of the rows
            at = LANES if plan.joined * inputs <= LANES else 2 * LANES
            safe = (end - top) * plan.width * plan.in_channels - group * inputs - at
            safe = safe // plan.in_channels + 1 if safe >= 0 else 0
            if at == LANES:
                spread_pixels(
                    False, lanes, inputs, count, safe, source, plan.in_channels, (end - top) * plan.width, spread)
            else:
                spread_pixels(
                    True, lanes, inputs, count, safe, source, plan.in_channels, (end - top) * plan.width, spread)
            panel_of(&panel, plan, members * outputs, depth, 0)
            panel.joined = True
            panel.weights += block * depth * LANES
            panel.bias += block * LANES
            at = image * out_size + group * outputs
            conv_panel(
                &own, &panel, spread - top * plan.width * own.x_step, moved(residual, at), out + at, NULL,
                begin, begin + rows)
        group = block_begin * plan.joined
        activate(
            plan, out + image * out_size + begin * plan.out_width * plan.out_step + group * outputs,
            rows * plan.out_width, plan.out_step, (smaller(block_end * plan.joined, plan.groups) - group) * outputs)
        row += rows
