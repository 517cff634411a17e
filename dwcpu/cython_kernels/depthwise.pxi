# Depthwise convolution with a window of the menu: square, of 3, 5 or 7 taps, at effective stride 1 or 2.
#
# Assumes: channel-last, contiguous x and out; in_channels >= LANES; weights [block][kh][kw][m][lane] and bias
# [block][m][lane] of blocks of LANES channels, the last of which slides back to end with the last channel. Rows are
# output rows (of batch * out_height), blocks are vectors of channels. "Effective stride" is stride / gcd(stride,
# dilation). The channel multiplier is 1: more is left to depthwise_any.pxi.
# Guarantees: each output has one accumulator, from the bias, taps by row and column, taps in the padding left out.
# The part of the last block that overlaps its neighbour is computed, and stored, twice: whole vectors are several
# times as fast as parts of them. Only before a second-pass activation, which the neighbour may already have had, is
# it left out.
# Loops, outermost first: images; rows of tiles; passes of plan.block_channels channel blocks (0: all), whose input
# rows and weights stay in L1 along the row; tiles; channel blocks. A tile of WINDOW_ROWS x WINDOW_COLUMNS outputs
# stays in registers; an input that is loaded serves all its outputs.
#
# Dilation. With g = gcd(stride, dilation), output o = a + (dilation / g) * t reads the inputs at a * stride - pad +
# dilation * ((stride / g) * t + k): for each phase a an undilated convolution of stride stride / g on every
# dilation-th input. So dilated outputs share their inputs in a register tile as others do.

cdef struct Phase:
    i64 outputs       # of this phase
    i64 first         # first input
    i64 inputs        # number of inputs, from the first on, dilation apart
    i64 pad           # how many inputs are missing before the first


cdef struct Steps:    # in elements
    i64 x_row         # from one input row of a phase to the next
    i64 x_column
    i64 out_row
    i64 out_column
    real bounds[2]    # of the clamp


cdef struct Tile:
    const real *x     # first tap of the first output, channel 0; may lie outside the image
    const real *residual
    real *out
    i64 row_mask      # which input rows and columns of the tile's patch are in the image and wanted
    i64 column_mask
    i64 rows          # outputs to store
    i64 columns


cdef inline i64 gcd(i64 a, i64 b) noexcept nogil:
    while b > 0:
        a, b = b, a % b
    return a


cdef inline void phase_of(
    Phase *phase, i64 number, i64 phases, i64 stride, i64 dilation, i64 pad, i64 size, i64 outputs
) noexcept nogil:
    cdef i64 base = number * stride - pad
    phase.pad = ceil_div(-base, dilation) if base < 0 else 0
    phase.first = base + dilation * phase.pad
    phase.inputs = larger(ceil_div(size - phase.first, dilation), 0)
    phase.outputs = larger(ceil_div(outputs - number, phases), 0)


cdef inline i64 mask_of(i64 position, i64 size, i64 count) noexcept nogil:
    """Bit r is set where 0 <= position + r < size, for r < count."""
    cdef i64 low = larger(-position, 0), high = smaller(size - position, count)
    return (<i64> 1 << high) - (<i64> 1 << low) if high > low else 0


cdef inline void inner_tile(
    const int size, const int stride, const Steps *steps,
    const real *x, const real *weights, const real *bias, const real *residual, real *out
) noexcept nogil:
    """A whole tile, all of whose taps are valid, for one vector of channels.

    One input row at a time: its columns pass through a sliding window of registers, and each weight is loaded when its
    turn comes.
    """
    cdef vec acc[WINDOW_ROWS][WINDOW_COLUMNS]
    cdef vec w, low, high
    cdef i64 x_row = steps.x_row, x_column = steps.x_column, out_row = steps.out_row, out_column = steps.out_column
    cdef const real *bounds
    cdef int r, i, j, k
    w = v_load(bias)
    for i in range(WINDOW_ROWS):
        for j in range(WINDOW_COLUMNS):
            acc[i][j] = w
    for r in range((WINDOW_ROWS - 1) * stride + size):
        x = v_anew(x)
        for k in range(size):
            for i in range(WINDOW_ROWS):
                if r - i * stride >= 0 and r - i * stride < size:
                    w = v_load(weights + ((r - i * stride) * size + k) * LANES)
                    for j in range(WINDOW_COLUMNS):
                        acc[i][j] = v_fma(v_load(x + (k + j * stride) * x_column), w, acc[i][j])
        x += x_row
    bounds = v_anew(steps.bounds)
    low = v_splat(bounds[0])
    high = v_splat(bounds[1])
    out = v_anew_out(out)
    for i in range(WINDOW_ROWS):
        for j in range(WINDOW_COLUMNS):
            if residual != NULL:
                acc[i][j] = v_add(acc[i][j], v_load(residual + i * out_row + j * out_column))
            v_store(out + i * out_row + j * out_column, v_clamp(acc[i][j], low, high))


cdef inline void border_tile(
    const int size, const int stride, const Steps *steps, const Tile *tile, int first_lane,
    const real *x, const real *weights, const real *bias, const real *residual, real *out
) noexcept nogil:
    """A tile at a border, or a part of one: only the inputs named by the masks are read, and only tile.rows x
    tile.columns outputs, from `first_lane` on, are written."""
    cdef vec acc[WINDOW_ROWS][WINDOW_COLUMNS]
    cdef vec v, low, high
    cdef i64 x_row = steps.x_row, x_column = steps.x_column, out_row = steps.out_row, out_column = steps.out_column
    cdef i64 row_mask = tile.row_mask, column_mask = tile.column_mask, rows = tile.rows, columns = tile.columns
    cdef const real *bounds
    cdef int r, q, i, j
    v = v_load(bias)
    for i in range(WINDOW_ROWS):
        for j in range(WINDOW_COLUMNS):
            acc[i][j] = v
    for r in range((WINDOW_ROWS - 1) * stride + size):
        if row_mask & (<i64> 1 << r):
            x = v_anew(x)
            for q in range((WINDOW_COLUMNS - 1) * stride + size):
                if column_mask & (<i64> 1 << q):
                    v = v_load(x + q * x_column)
                    for i in range(WINDOW_ROWS):
                        if r - i * stride >= 0 and r - i * stride < size:
                            for j in range(WINDOW_COLUMNS):
                                if q - j * stride >= 0 and q - j * stride < size:
                                    acc[i][j] = v_fma(
                                        v,
                                        v_load(weights + ((r - i * stride) * size + q - j * stride) * LANES),
                                        acc[i][j])
        x += x_row
    bounds = v_anew(steps.bounds)
    low = v_splat(bounds[0])
    high = v_splat(bounds[1])
    out = v_anew_out(out)
    for i in range(WINDOW_ROWS):
        if i < rows:
            for j in range(WINDOW_COLUMNS):
                if j < columns:
                    if first_lane == 0:
                        if residual != NULL:
                            acc[i][j] = v_add(acc[i][j], v_load(residual + i * out_row + j * out_column))
                        v_store(out + i * out_row + j * out_column, v_clamp(acc[i][j], low, high))
                    else:
                        if residual != NULL:
                            acc[i][j] = v_add(
                                acc[i][j],
                                v_load_part(residual + i * out_row + j * out_column, first_lane, LANES))
                        v_store_part(
                            out + i * out_row + j * out_column, v_clamp(acc[i][j], low, high), first_lane, LANES)


cdef inline void channel_blocks(
    const int size, const int stride, const Plan *plan, const Steps *steps, const Tile *tile,
    i64 block_begin, i64 block_end
) noexcept nogil:
    """One tile, for a pass of channel blocks, and its second-pass activation."""
    cdef i64 channels = plan.in_channels, channel = block_begin * LANES, start, i
    cdef i64 stored = smaller(block_end * LANES, channels) - channel, end = channel + stored
    cdef i64 whole_end = end if plan.activation == NULL else smaller(block_end, channels // LANES) * LANES
    cdef const real *weights = <const real *> plan.weights + block_begin * size * size * LANES
    cdef const real *bias = <const real *> plan.bias + channel
    if (
        tile.row_mask == (<i64> 1 << ((WINDOW_ROWS - 1) * stride + size)) - 1
        and tile.column_mask == (<i64> 1 << ((WINDOW_COLUMNS - 1) * stride + size)) - 1
    ):
        while channel < whole_end:
            start = smaller(channel, channels - LANES)
            inner_tile(
                size, stride, steps, tile.x + start, weights, bias, moved(tile.residual, start), tile.out + start)
            weights += size * size * LANES
            bias += LANES
            channel += LANES
    while channel < end:
        start = smaller(channel, channels - LANES)
        border_tile(
            size, stride, steps, tile, 0 if channel < whole_end else <int> (channel - start), tile.x + start, weights, bias,
            moved(tile.residual, start), tile.out + start)
        weights += size * size * LANES
        bias += LANES
        channel += LANES
    if plan.activation != NULL:
        for i in range(tile.rows):
            if stored == steps.out_column:
                activate(plan, tile.out + i * steps.out_row, 1, 0, tile.columns * stored)
            else:
                activate(
                    plan, tile.out + i * steps.out_row + block_begin * LANES, tile.columns, steps.out_column, stored)


cdef inline void tile_row(
    const int size, const int stride, const Plan *plan, const Steps *steps, i64 number, i64 phases,
    const Tile *start, i64 block_begin, i64 block_end
) noexcept nogil:
    """The tiles of a row of tiles, of one column phase; start.x and start.out are in column 0 of the image."""
    cdef i64 width = plan.out_width, channels = plan.in_channels
    cdef i64 step = plan.block_channels if plan.block_channels > 0 else block_end - block_begin
    cdef i64 block, column, left
    cdef Phase phase
    cdef Tile tile = start[0]
    phase_of(&phase, number, phases, plan.stride_w, plan.dilation_w, plan.pad_left, plan.width, width)
    block = block_begin
    while block < block_end:
        column = 0
        while column < phase.outputs:
            left = column * stride - phase.pad
            tile.columns = smaller(WINDOW_COLUMNS, phase.outputs - column)
            tile.column_mask = mask_of(left, phase.inputs, (tile.columns - 1) * stride + size)
            tile.x = start.x + (phase.first + left * plan.dilation_w) * channels
            tile.out = start.out + (number + column * phases) * channels
            tile.residual = moved(start.residual, (number + column * phases) * channels)
            channel_blocks(size, stride, plan, steps, &tile, block, smaller(block + step, block_end))
            column += WINDOW_COLUMNS
        block += step


cdef inline void window(
    const int size, const int stride, const Plan *plan, const real *x, const real *residual, real *out,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef i64 channels = plan.in_channels, width = plan.out_width
    cdef i64 row_phases = plan.dilation_h // gcd(plan.stride_h, plan.dilation_h)
    cdef i64 column_phases = plan.dilation_w // gcd(plan.stride_w, plan.dilation_w)
    cdef i64 row = row_begin, image, begin, end, a, c, t, t_end, top, place
    cdef Steps steps
    cdef Phase phase
    cdef Tile tile
    steps.x_row = plan.dilation_h * plan.width * channels
    steps.x_column = plan.dilation_w * channels
    steps.out_row = row_phases * width * channels
    steps.out_column = column_phases * channels
    steps.bounds[0] = <real> plan.low
    steps.bounds[1] = <real> plan.high
    while row < row_end:
        image = row // plan.out_height
        begin = row - image * plan.out_height
        end = smaller(plan.out_height, begin + row_end - row)
        row += end - begin
        for a in range(smaller(row_phases, plan.out_height)):
            phase_of(
                &phase, a, row_phases, plan.stride_h, plan.dilation_h, plan.pad_top, plan.height, plan.out_height)
            t = ceil_div(begin - a, row_phases)
            t_end = ceil_div(end - a, row_phases)
            while t < t_end:
                top = t * stride - phase.pad
                place = (image * plan.out_height + a + t * row_phases) * width * channels
                tile.rows = smaller(WINDOW_ROWS, t_end - t)
                tile.row_mask = mask_of(top, phase.inputs, (tile.rows - 1) * stride + size)
                tile.x = x + (image * plan.height + phase.first + top * plan.dilation_h) * plan.width * channels
                tile.out = out + place
                tile.residual = moved(residual, place)
                for c in range(smaller(column_phases, plan.out_width)):
                    tile_row(size, stride, plan, &steps, c, column_phases, &tile, block_begin, block_end)
                t += WINDOW_ROWS


cdef void depthwise_3x3s1(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    window(3, 1, plan, x, residual, out, row_begin, row_end, block_begin, block_end)


cdef void depthwise_3x3s2(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    window(3, 2, plan, x, residual, out, row_begin, row_end, block_begin, block_end)


cdef void depthwise_5x5s1(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    window(5, 1, plan, x, residual, out, row_begin, row_end, block_begin, block_end)


cdef void depthwise_5x5s2(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    window(5, 2, plan, x, residual, out, row_begin, row_end, block_begin, block_end)


cdef void depthwise_7x7s1(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    window(7, 1, plan, x, residual, out, row_begin, row_end, block_begin, block_end)


cdef void depthwise_7x7s2(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    window(7, 2, plan, x, residual, out, row_begin, row_end, block_begin, block_end)
