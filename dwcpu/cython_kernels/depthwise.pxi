# Depthwise convolution with a window of the menu: square, of 3, 5 or 7 taps, at effective stride 1 or 2.
#
# Assumes: channel-last x and out, pixels plan.x_step and plan.out_step apart; in_channels >= LANES; weights
# [block][kh][kw][m][lane] and bias [block][m][lane] of blocks of LANES channels, the last of which slides back to end
# with the last channel. Rows are output rows (of batch * out_height), blocks are vectors of channels. "Effective
# stride" is stride / gcd(stride, dilation). The channel multiplier is 1: more is left to depthwise_any.pxi.
# Guarantees: each output has one accumulator, from the bias, taps by row and column, taps in the padding left out.
# What the last block and the last tile of a row share with their neighbours, having slid back over them, is computed
# and stored twice: whole vectors and tiles are several times as fast as parts of them.
# Ring. With plan.ring_rows, row r of the image lies r modulo that rows behind x, whatever image it is of; there are no
# phases of rows then, and no copies (see abi.py).
# Loops, outermost first: images; phases (see below), those of columns in turn after plan.block_rows rows (0: all);
# rows of tiles; passes of plan.block_channels channel blocks (0: all), whose input rows and weights stay in L1 along
# the row; tiles (depthwise_tiles.pxi, depthwise_sevens.pxi), or narrow rows from end to end (depthwise_narrow.pxi); channel
# blocks.
#
# Dilation. With g = gcd(stride, dilation), output o = a + (dilation / g) * t reads the inputs at a * stride - pad +
# dilation * ((stride / g) * t + k): for each phase a an undilated convolution of stride stride / g on every
# dilation-th input. So dilated outputs share their inputs in a register tile as others do.

cdef enum:
    MOST_BYTES_IN_SEVENS = 27 << 9  # of a row of 3x3's inputs; measured on 48 KiB of L1


cdef struct Phase:
    i64 outputs       # of this phase
    i64 first         # first input
    i64 inputs        # number of inputs, from the first on, dilation apart
    i64 pad           # how many inputs are missing before the first


cdef struct Window:   # of the menu, and what computes its tiles
    i64 size
    i64 stride
    Micro inner       # whole tiles side by side
    Micro ring        # the same where rows of their patch wrap
    Micro wide        # the same of HALF columns and pairs of blocks, or null; where the plan wants that
    Micro border      # a whole tile, size / 2 of whose patch's columns may be outside on each side
    Micro half        # the same of HALF columns
    Micro single      # of one column, whatever is outside
    Micro side        # as border, half and single, where no row of the patch is outside or not wanted
    Micro side_half
    Micro side_single
    Micro narrow_3    # rows of so many outputs from end to end, or null: of 3x3 at stride 2, 6 and 7 gain two at once only
    Micro narrow_5
    Micro narrow_6
    Micro narrow_7
    Micro inner_seven # as inner and ring, of seven columns
    Micro ring_seven
    Micro left_seven  # the same where size / 2 columns are outside, or null: narrow_7 is for any border
    Micro right_seven
    Micro both_seven
    i64 most_sevens   # longest row of outputs that tiles of seven columns compute, with others
    bint one_by_one   # whether narrow rows are computed one by one, not two at once


cdef inline i64 phases_of(i64 stride, i64 dilation) noexcept nogil:
    cdef i64 a = stride, b = dilation
    if dilation == 1:
        return 1
    while b > 0:
        a, b = b, a % b
    return dilation // a


cdef inline void phase_of(
    Phase *phase, i64 number, i64 phases, i64 stride, i64 dilation, i64 pad, i64 size, i64 outputs
) noexcept nogil:
    cdef i64 base = number * stride - pad
    phase.pad = ceil_div(-base, dilation) if base < 0 else 0
    phase.first = base + dilation * phase.pad
    phase.inputs = larger(ceil_div(size - phase.first, dilation), 0)
    phase.outputs = larger(ceil_div(outputs - number, phases), 0)


cdef inline void column_phase(Phase *phase, const Plan *plan, i64 number, i64 phases) noexcept nogil:
    phase_of(
        phase, number, phases, plan.stride_w, plan.dilation_w, plan.pad_left, plan.width, plan.out_width)


cdef inline bint few_outside(const Window *window, const Phase *phase) noexcept nogil:
    """Whether no more columns are outside than tiles test that are wider than one."""
    cdef i64 edge = window.size // 2
    return phase.pad <= edge and (phase.outputs - 1) * window.stride + window.size - phase.pad - phase.inputs <= edge


cdef inline Micro narrow_of(const Window *window, const Phase *phase) noexcept nogil:
    """What computes rows of so many outputs, or null, where tiles do."""
    cdef i64 outputs = phase.outputs
    cdef Micro found = NULL
    if outputs > MOST_NARROW:  # at once: of short calls every test counts
        return NULL
    if outputs == 7:
        found = window.narrow_7
    elif outputs == 6:
        found = window.narrow_6
    elif outputs == 5:
        found = window.narrow_5
    elif outputs == 3:
        found = window.narrow_3
    return found if found != NULL and few_outside(window, phase) else NULL


cdef inline i64 in_sevens(const Window *window, const Phase *phase) noexcept nogil:
    """How many outputs of a row tiles of seven columns compute, from the first on.

    One column or five are left to two or three tiles of four, together with the seven before them; six are a tile of
    seven that slides back. Each takes less than what else there is.
    """
    cdef i64 rest
    if phase.outputs <= MOST_NARROW or phase.outputs > window.most_sevens or not few_outside(window, phase):
        return 0
    rest = phase.outputs % MOST_NARROW
    if rest == MOST_NARROW - 1:
        return phase.outputs
    return phase.outputs - rest - (MOST_NARROW if rest == 1 or rest == 5 else 0)


cdef inline Micro seven_at_border(const Window *window, const Phase *phase, i64 left) noexcept nogil:
    """What computes a tile of seven columns whose patch begins at `left`, all of whose rows are in the image."""
    cdef i64 edge = window.size // 2, beyond = left + (MOST_NARROW - 1) * window.stride + window.size - phase.inputs
    cdef Micro found = NULL
    if left == -edge:
        found = window.both_seven if beyond == edge else window.left_seven if beyond <= 0 else NULL
    elif left >= 0 and beyond == edge:
        found = window.right_seven
    return found if found != NULL else window.narrow_7


cdef void compute(
    Micro micro, const Plan *plan, const Job *job, const Tile *tile, i64 block_begin, i64 block_end
) noexcept nogil:
    """Tiles for a pass of channel blocks, and their second-pass activation."""
    cdef i64 first = block_begin * LANES, stored = smaller(block_end * LANES, plan.in_channels) - first, i
    micro(job, tile, block_begin, block_end)
    if plan.activation != NULL:
        for i in range(tile.rows):
            activate(plan, tile.out + i * job.out_row + first, tile.count * tile.columns, job.out_column, stored)


cdef void tile_row(
    const Window *window, const Plan *plan, const Job *job, const Phase *phase, const Tile *start,
    i64 block_begin, i64 block_end
) noexcept nogil:
    """The tiles of a row of tiles, of one column phase; start.x and start.out are in its first column."""
    cdef i64 size = window.size, stride = window.stride, edge = size // 2
    cdef i64 step = plan.block_channels if plan.block_channels > 0 else block_end - block_begin
    cdef i64 block = block_begin, end, column, at, left, patch, sure
    cdef bint paired = (
        plan.tile_columns == HALF and window.wide != NULL and not job.wraps and (block_end - block_begin) % 2 == 0
        and step % 2 == 0 and job.last % LANES == 0)
    cdef i64 wanted = HALF if paired else WINDOW_COLUMNS, shift = 1 if paired else 2
    cdef bint whole = start.row_mask == (<i64> 1 << ((WINDOW_ROWS - 1) * stride + size)) - 1
    cdef Micro narrow = NULL if paired else narrow_of(window, phase)
    cdef i64 sevens = in_sevens(window, phase)
    cdef Tile tile = start[0]
    cdef Micro micro
    while block < block_end:
        end = smaller(block + step, block_end)
        if end == plan.in_channels // LANES:
            end = block_end  # the last block, which slides back, not without its neighbour
        column = 0
        while column < phase.outputs:
            tile.columns = MOST_NARROW if column < sevens else wanted
            at = smaller(column, phase.outputs - tile.columns)
            left = at * stride - phase.pad
            patch = (tile.columns - 1) * stride + size
            if narrow == NULL and whole and at >= 0 and left >= 0 and left + patch <= phase.inputs and (
                    paired or column < sevens or phase.outputs - column > HALF):
                if column < sevens:
                    micro = window.ring_seven if job.wraps else window.inner_seven
                    tile.count = smaller(
                        (phase.inputs - left - patch) >> (stride // 2), sevens - at - MOST_NARROW) // MOST_NARROW + 1
                else:
                    micro = window.wide if paired else window.ring if job.wraps else window.inner
                    tile.count = smaller(  # without a division, which takes as long as half a tile
                        ((phase.inputs - left - patch) >> (stride // 2 + shift)) + 1, (phase.outputs - at) >> shift)
            else:
                tile.count = 1
                micro = window.side if whole else window.border
                if narrow != NULL or column < sevens:
                    micro = narrow
                    tile.columns = smaller(phase.outputs, MOST_NARROW)
                    if tile.columns == MOST_NARROW:
                        micro = window.narrow_7
                        if whole and not job.wraps:
                            at = smaller(column, phase.outputs - MOST_NARROW)
                            micro = seven_at_border(window, phase, at * stride - phase.pad)
                elif phase.outputs - column <= HALF and phase.outputs >= HALF:
                    micro = window.side_half if whole else window.half
                    tile.columns = HALF
                else:
                    tile.columns = WINDOW_COLUMNS
                at = smaller(column, phase.outputs - tile.columns)
                left = at * stride - phase.pad
                patch = (tile.columns - 1) * stride + size
                tile.column_mask = mask_of(left, phase.inputs, patch)
                sure = ((<i64> 1 << (patch - 2 * edge)) - 1) << edge
                if at < 0 or tile.column_mask & sure != sure:
                    micro = window.side_single if whole else window.single
                    tile.columns = 1
                    at = column
                    left = at * stride - phase.pad
                    tile.column_mask = mask_of(left, phase.inputs, size)
            tile.x = start.x + left * job.x_column
            tile.out = start.out + at * job.out_column
            compute(micro, plan, job, &tile, block, end)
            column = at + tile.count * tile.columns
        block = end


cdef inline void copy_pixels(
    const int vectors, const real *x, i64 x_row, i64 x_column, i64 rows, i64 columns, real *target
) noexcept nogil:
    cdef i64 row, column
    cdef int v
    for row in range(rows):
        for column in range(columns):
            for v in range(vectors):
                v_store(target + v * LANES, v_load(x + row * x_row + column * x_column + v * LANES))
            target += vectors * LANES


cdef void copy_rows(
    const real *x, i64 x_row, i64 x_column, i64 rows, i64 columns, i64 vectors, real *target
) noexcept nogil:
    """Rows x columns x vectors of input, from where they lie apart to where they lie together."""
    cdef i64 row, column, v
    if vectors == 8:
        copy_pixels(8, x, x_row, x_column, rows, columns, target)
    elif vectors == 4:
        copy_pixels(4, x, x_row, x_column, rows, columns, target)
    else:
        for row in range(rows):
            for column in range(columns):
                for v in range(vectors):
                    v_store(target, v_load(x + row * x_row + column * x_column + v * LANES))
                    target += LANES


cdef inline const real *placed_rows(
    const Window *window, Job *job, const real *origin, i64 top, i64 row, i64 ring
) noexcept nogil:
    """Where row `top` of a patch begins, which may lie before the image; in job, how far its rows are from each other.

    They lie `row` apart; with `ring`, row r where r modulo `ring` does.
    """
    cdef i64 r
    job.x_row = row
    job.wraps = False
    for r in range(MOST_PATCH_ROWS):
        job.x_rows[r] = row * <i64> sizeof(real)
    if ring > 0:
        top %= ring
        if top < 0:
            top += ring
        r = ring - 1 - top  # the last before the end; a ring is no shorter than what is read of a patch
        if r < (WINDOW_ROWS - 1) * window.stride + window.size - 1:
            job.x_rows[r] -= ring * row * <i64> sizeof(real)
            job.wraps = True
    return origin + top * row


cdef void phase_rows(
    const Window *window, const Plan *plan, Job *job, const Phase *rows, const Phase *columns,
    const real *x, real *out, i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """Output rows of one phase of one image; x and out are at the phase's first input and output.

    With plan.copy_rows, so many at a time, for one pass of channel blocks after the other, from copies of their inputs;
    what the next ones need too moves to the copy's start. Outputs share sets of the cache then as inputs do: two narrow
    rows at once would be more than a set holds.
    """
    cdef vec buffer[COPY_VECTORS]
    cdef real *copy = <real *> buffer
    cdef i64 size = window.size, stride = window.stride, block, end, t, t_end, top, first, last, held, held_last
    cdef i64 x_row = plan.dilation_h * plan.width * plan.x_step, x_column = plan.dilation_w * plan.x_step, row = x_row
    cdef bint one_by_one = plan.copy_rows > 0 or window.one_by_one
    cdef i64 at_once = 1 if one_by_one and narrow_of(window, columns) != NULL else WINDOW_ROWS
    cdef const real *origin = x
    cdef Tile tile
    block = block_begin
    while block < block_end:
        end = smaller(block + plan.block_channels, block_end) if plan.copy_rows > 0 else block_end
        job.x_column = x_column
        held = held_last = 0  # rows that the copy is of
        t = row_begin
        while t < row_end:
            t_end = row_end
            if plan.copy_rows > 0:
                t_end = smaller(t + plan.copy_rows, row_end)
                first = larger(t * stride - rows.pad, 0)
                last = smaller((t_end - 1) * stride - rows.pad + size, rows.inputs)
                job.x_column = (end - block) * LANES
                row = columns.inputs * job.x_column
                if held_last > first:
                    memmove(copy, copy + (first - held) * row, (held_last - first) * row * sizeof(real))
                held = first
                held_last = larger(held_last, first)
                copy_rows(
                    x + held_last * x_row + block * LANES, x_row, x_column, last - held_last, columns.inputs,
                    end - block, copy + (held_last - first) * row)
                held_last = larger(held_last, last)
                origin = copy - first * row - block * LANES
            while t < t_end:
                top = t * stride - rows.pad
                tile.rows = smaller(at_once, t_end - t)
                tile.row_mask = mask_of(top, rows.inputs, (tile.rows - 1) * stride + size)
                tile.x = placed_rows(window, job, origin, top, row, plan.ring_rows)
                tile.out = out + t * job.out_row
                tile_row(window, plan, job, columns, &tile, block, end)
                t += tile.rows
        block = end


cdef void compute_window(
    const Window *window, const Plan *plan, const real *x, const real *residual, real *out,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef i64 width = plan.out_width
    cdef i64 row_phases = phases_of(plan.stride_h, plan.dilation_h)
    cdef i64 column_phases = phases_of(plan.stride_w, plan.dilation_w)
    cdef i64 row = row_begin, image, begin, end, a, c, place, first, last, t, t_end
    cdef i64 step = plan.block_rows if plan.block_rows > 0 else plan.out_height
    cdef Job job
    cdef Phase rows
    cdef Phase phases[MOST_PHASES]
    cdef Phase *columns
    cdef const real *origin
    for c in range(smaller(smaller(column_phases, width), MOST_PHASES)):
        column_phase(&phases[c], plan, c, column_phases)
    job.weights = <const real *> plan.weights
    job.bias = <const real *> plan.bias
    job.last = plan.in_channels - LANES
    job.out_row = row_phases * width * plan.out_step
    job.out_column = column_phases * plan.out_step
    job.hardswish = HARDSWISH_NUMBERS if plan.hardswish else NULL
    job.adds = residual != NULL
    job.added = (<i64> residual - <i64> out) // <i64> sizeof(real) if job.adds else 0
    job.straddles = not PAIRED and plan.crowded_rows == 0 and (
        (<i64> out | plan.out_step * <i64> sizeof(real)) % <i64> (LINE * sizeof(real)) != 0)
    job.asks_out = job.straddles or plan.asks_out != 0
    job.special = job.adds or plan.hardswish
    job.low = <real> plan.low
    job.high = <real> plan.high
    while row < row_end:
        image = row // plan.out_height
        begin = row - image * plan.out_height
        end = smaller(plan.out_height, begin + row_end - row)
        row += end - begin
        for a in range(smaller(row_phases, plan.out_height)):
            phase_of(
                &rows, a, row_phases, plan.stride_h, plan.dilation_h, plan.pad_top, plan.height, plan.out_height)
            first, last = ceil_div(begin - a, row_phases), ceil_div(end - a, row_phases)
            t = first
            while t < last:
                t_end = smaller(t + step, last)
                for c in range(smaller(column_phases, width)):
                    columns = &phases[c % MOST_PHASES]
                    if column_phases > MOST_PHASES:
                        column_phase(columns, plan, c, column_phases)
                    place = ((image * plan.out_height + a) * width + c) * plan.out_step
                    origin = x + columns.first * plan.x_step
                    if plan.ring_rows == 0:
                        origin += (image * plan.height + rows.first) * plan.width * plan.x_step
                    phase_rows(
                        window, plan, &job, &rows, columns, origin, out + place, t, t_end, block_begin, block_end)
                t = t_end


cdef inline void keep_weights_of(Window *window, const Plan *plan, i64 most_sevens) noexcept nogil:
    """Have tiles that keep rows of weights compute two narrow rows at once, and rows of up to so many outputs by sevens.

    Not where pixels share sets of eight lines: one row of seven outputs of 3x3 reads 27.
    """
    if not KEEPS_WEIGHTS(window.size, window.stride, MOST_NARROW):
        # Those are empty then, and narrow_7 computes all rows of seven.
        window.left_seven = window.right_seven = window.both_seven = NULL
    else:
        window.one_by_one = plan.x_step * <i64> sizeof(real) % 1024 == 0 and plan.crowded_rows > 0
        if plan.copy_rows == 0 and not window.one_by_one:
            window.most_sevens = most_sevens


cdef void depthwise_3x3s1(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Window window = [
        3, 1, inner_3x3s1, ring_3x3s1, NULL, border_3x3s1, half_3x3s1, single_3x3s1, side_3x3s1, side_half_3x3s1,
        side_single_3x3s1, narrow_3_3x3s1, narrow_5_3x3s1, narrow_6_3x3s1, narrow_7_3x3s1,
        inner_seven_3x3s1, ring_seven_3x3s1, left_seven_3x3s1, right_seven_3x3s1, both_seven_3x3s1, 0, False]
    # By sevens wide rows take 0.94 to 0.96 of the time where L1 holds most of the four that two rows of outputs read, else
    # 1.01 to 1.04. Where pixels are an odd multiple of 1024 bytes apart, twelve lines of a set hold what tiles of four
    # columns read, but not those.
    cdef i64 pixel = plan.x_step * <i64> sizeof(real), most = 2 * MOST_NARROW
    if pixel % 2048 == 1024:
        most = 0
    elif plan.crowded_rows == 0 and plan.width * pixel <= MOST_BYTES_IN_SEVENS:
        most = INT64_MAX
    keep_weights_of(&window, plan, most)
    compute_window(&window, plan, x, residual, out, row_begin, row_end, block_begin, block_end)


cdef void depthwise_3x3s2(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Window window = [
        3, 2, inner_3x3s2, ring_3x3s2, NULL, border_3x3s2, half_3x3s2, single_3x3s2, side_3x3s2, side_half_3x3s2,
        side_single_3x3s2, narrow_3_3x3s2, narrow_5_3x3s2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, False]
    keep_weights_of(&window, plan, 0)
    if KEEPS_WEIGHTS(3, 2, MOST_NARROW) and plan.copy_rows == 0 and not window.one_by_one:
        window.narrow_6 = narrow_6_3x3s2
        window.narrow_7 = narrow_7_3x3s2
    if PAIRED:
        window.wide = wide_3x3s2
    compute_window(&window, plan, x, residual, out, row_begin, row_end, block_begin, block_end)


cdef void depthwise_5x5s1(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Window window = [
        5, 1, inner_5x5s1, ring_5x5s1, NULL, border_5x5s1, half_5x5s1, single_5x5s1, side_5x5s1, side_half_5x5s1,
        side_single_5x5s1, narrow_3_5x5s1, narrow_5_5x5s1, narrow_6_5x5s1, narrow_7_5x5s1,
        inner_seven_5x5s1, ring_seven_5x5s1, left_seven_5x5s1, right_seven_5x5s1, both_seven_5x5s1, 0, False]
    keep_weights_of(&window, plan, INT64_MAX)
    compute_window(&window, plan, x, residual, out, row_begin, row_end, block_begin, block_end)


cdef void depthwise_5x5s2(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Window window = [
        5, 2, inner_5x5s2, ring_5x5s2, NULL, border_5x5s2, half_5x5s2, single_5x5s2, side_5x5s2, side_half_5x5s2,
        side_single_5x5s2, narrow_3_5x5s2, narrow_5_5x5s2, narrow_6_5x5s2, narrow_7_5x5s2,
        inner_seven_5x5s2, ring_seven_5x5s2, NULL, NULL, NULL, 0, False]
    keep_weights_of(&window, plan, INT64_MAX)
    compute_window(&window, plan, x, residual, out, row_begin, row_end, block_begin, block_end)


cdef void depthwise_7x7s1(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Window window = [
        7, 1, inner_7x7s1, ring_7x7s1, NULL, border_7x7s1, half_7x7s1, single_7x7s1, side_7x7s1, side_half_7x7s1,
        side_single_7x7s1, narrow_3_7x7s1, narrow_5_7x7s1, narrow_6_7x7s1, narrow_7_7x7s1,
        inner_seven_7x7s1, ring_seven_7x7s1, left_seven_7x7s1, right_seven_7x7s1, both_seven_7x7s1, 0, False]
    keep_weights_of(&window, plan, INT64_MAX)
    compute_window(&window, plan, x, residual, out, row_begin, row_end, block_begin, block_end)


cdef void depthwise_7x7s2(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Window window = [
        7, 2, inner_7x7s2, ring_7x7s2, NULL, border_7x7s2, half_7x7s2, single_7x7s2, side_7x7s2, side_half_7x7s2,
        side_single_7x7s2, narrow_3_7x7s2, narrow_5_7x7s2, narrow_6_7x7s2, narrow_7_7x7s2,
        NULL, NULL, NULL, NULL, NULL, 0, False]
    compute_window(&window, plan, x, residual, out, row_begin, row_end, block_begin, block_end)
