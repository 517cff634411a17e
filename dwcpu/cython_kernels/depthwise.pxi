# Depthwise convolution with a window of the menu: square, of 3, 5 or 7 taps, at effective stride 1 or 2.
#
# Assumes: channel-last x and out, pixels plan.x_step and plan.out_step apart; in_channels >= LANES; weights [block][kh][kw][m][lane] and bias
# [block][m][lane] of blocks of LANES channels, the last of which slides back to end with the last channel. Rows are
# output rows (of batch * out_height), blocks are vectors of channels. "Effective stride" is stride / gcd(stride,
# dilation). The channel multiplier is 1: more is left to depthwise_any.pxi.
# Guarantees: each output has one accumulator, from the bias, taps by row and column, taps in the padding left out.
# What the last block and the last tile of a row share with their neighbours, having slid back over them, is computed
# and stored twice: whole vectors and tiles are several times as fast as parts of them.
# Loops, outermost first: images; phases (see below); rows of tiles; passes of plan.block_channels channel blocks (0:
# all), whose input rows and weights stay in L1 along the row; tiles; channel blocks. A tile of WINDOW_ROWS x
# WINDOW_COLUMNS outputs stays in registers; an input that is loaded serves all its outputs.
#
# Dilation. With g = gcd(stride, dilation), output o = a + (dilation / g) * t reads the inputs at a * stride - pad +
# dilation * ((stride / g) * t + k): for each phase a an undilated convolution of stride stride / g on every
# dilation-th input. So dilated outputs share their inputs in a register tile as others do.

cdef struct Phase:
    i64 outputs       # of this phase
    i64 first         # first input
    i64 inputs        # number of inputs, from the first on, dilation apart
    i64 pad           # how many inputs are missing before the first


cdef struct Job:      # distances in elements
    const real *weights
    const real *bias
    i64 last          # first channel of the last block
    i64 x_row         # from one input row of a phase to the next
    i64 x_column
    i64 out_row
    i64 out_column
    real bounds[2]    # of the clamp
    i64 hardswish


cdef struct Tile:
    const real *x     # first tap of the first output, channel 0; may lie outside the image
    const real *residual
    real *out
    i64 count         # inner tiles in a row
    i64 rows          # outputs to store
    i64 columns
    i64 row_mask      # which input rows and columns of the tile's patch are in the image and wanted
    i64 column_mask


# Computes tiles for a pass of channel blocks. By address: a function of its own has all registers to itself.
ctypedef void (*Micro)(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil


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


cdef struct Block:    # where a tile meets a channel block, and what is left to do
    const real *x
    const real *residual
    real *out
    const real *weights
    const real *bias
    i64 left          # blocks, this one included
    i64 slide         # how far the last block slides back


cdef inline void first_block(
    Block *block, const int taps, const Job *job, const Tile *tile, i64 block_begin, i64 block_end
) noexcept nogil:
    block.x = tile.x + block_begin * LANES
    block.residual = moved(tile.residual, block_begin * LANES)
    block.out = tile.out + block_begin * LANES
    block.weights = job.weights + block_begin * taps * LANES
    block.bias = job.bias + block_begin * LANES
    block.slide = larger((block_end - 1) * LANES - job.last, 0)
    block.left = block_end - block_begin


cdef inline void next_block(Block *block, const int taps) noexcept nogil:
    """Moving pointers, and few of them: the loops around a tile are short of registers and of instruction slots."""
    block.left -= 1
    block.x += LANES
    block.out += LANES
    block.weights += taps * LANES
    block.bias += LANES
    if block.residual != NULL:
        block.residual += LANES
    if block.left == 1 and block.slide > 0:
        block.x -= block.slide
        block.out -= block.slide
        block.residual = moved(block.residual, -block.slide)


cdef inline void finish(
    const int columns, const Job *job, i64 out_row, i64 out_column, i64 rows, i64 stored,
    vec *acc, const real *residual, real *out
) noexcept nogil:
    """Epilogue and store of the first `rows` rows and `stored` columns of a tile."""
    cdef const real *bounds = v_anew(job.bounds)
    cdef vec low = v_splat(bounds[0]), high = v_splat(bounds[1])
    cdef int i, j
    out = v_anew_out(out)
    if residual != NULL:
        for i in range(WINDOW_ROWS):
            if i < rows:
                for j in range(columns):
                    if j < stored:
                        acc[i * columns + j] = v_add(
                            acc[i * columns + j], v_load(residual + i * out_row + j * out_column))
    if job.hardswish:  # with stores of its own: joined to the others, sums are spilled in the loop
        hardswish_of(WINDOW_ROWS * columns, acc)
        for i in range(WINDOW_ROWS):
            if i < rows:
                for j in range(columns):
                    if j < stored:
                        v_store(out + i * out_row + j * out_column, acc[i * columns + j])
        return
    for i in range(WINDOW_ROWS):
        if i < rows:
            for j in range(columns):
                if j < stored:
                    v_store(out + i * out_row + j * out_column, v_clamp(acc[i * columns + j], low, high))


cdef inline void inner_tiles(
    const int size, const int stride, const Job *job, const Tile *start, i64 block_begin, i64 block_end
) noexcept nogil:
    """`start.count` whole tiles side by side, all of whose taps are valid.

    One input row at a time: its columns pass through a sliding window of registers, and each weight is loaded when its
    turn comes.
    """
    cdef vec acc[WINDOW_ROWS * WINDOW_COLUMNS]
    cdef vec w
    cdef i64 x_row = job.x_row, x_column = job.x_column, out_row = job.out_row, out_column = job.out_column, t
    cdef const real *x
    cdef Tile tile = start[0]
    cdef Block block
    cdef int r, i, j, k
    for t in range(start.count):
        first_block(&block, size * size, job, &tile, block_begin, block_end)
        while block.left > 0:
            w = v_load(block.bias)
            for i in range(WINDOW_ROWS * WINDOW_COLUMNS):
                acc[i] = w
            x = block.x
            for r in range((WINDOW_ROWS - 1) * stride + size):
                x = v_anew(x)
                for k in range(size):
                    for i in range(WINDOW_ROWS):
                        if r - i * stride >= 0 and r - i * stride < size:
                            w = v_load(block.weights + ((r - i * stride) * size + k) * LANES)
                            for j in range(WINDOW_COLUMNS):
                                acc[i * WINDOW_COLUMNS + j] = v_fma(
                                    v_load(x + (k + j * stride) * x_column), w, acc[i * WINDOW_COLUMNS + j])
                x += x_row
            finish(
                WINDOW_COLUMNS, job, out_row, out_column, WINDOW_ROWS, WINDOW_COLUMNS, acc,
                block.residual, block.out)
            next_block(&block, size * size)
        tile.x += WINDOW_COLUMNS * stride * x_column
        tile.out += WINDOW_COLUMNS * out_column
        tile.residual = moved(tile.residual, WINDOW_COLUMNS * out_column)


cdef inline void wide_tiles(
    const int size, const int stride, const Job *job, const Tile *start, i64 block_begin, i64 block_end
) noexcept nogil:
    """As `inner_tiles`, with HALF columns and two blocks at a time, whose number is even.

    A vector and its neighbour share cache lines, unless a vector is a line (PAIRED is 0). Where the lines of a tile are
    more than their sets hold, they are gone before the neighbour's turn comes, unless both are computed at once.
    """
    cdef vec first[WINDOW_ROWS * HALF]
    cdef vec second[WINDOW_ROWS * HALF]
    cdef vec v, w
    cdef i64 x_row = job.x_row, x_column = job.x_column, out_row = job.out_row, out_column = job.out_column, t
    cdef const real *x
    cdef Tile tile = start[0]
    cdef Block block
    cdef int r, i, j, k
    for t in range(start.count):
        first_block(&block, size * size, job, &tile, block_begin, block_end)
        while block.left > 0:
            v = v_load(block.bias)
            w = v_load(block.bias + LANES)
            for i in range(WINDOW_ROWS * HALF):
                first[i] = v
                second[i] = w
            x = block.x
            for r in range(size):
                x = v_anew(x)
                for k in range(size):
                    v = v_load(block.weights + (r * size + k) * LANES)
                    w = v_load(block.weights + (size * size + r * size + k) * LANES)
                    for i in range(WINDOW_ROWS):
                        for j in range(HALF):
                            first[i * HALF + j] = v_fma(
                                v_load(x + i * stride * x_row + (k + j * stride) * x_column), v, first[i * HALF + j])
                            second[i * HALF + j] = v_fma(
                                v_load(x + i * stride * x_row + (k + j * stride) * x_column + LANES), w,
                                second[i * HALF + j])
                x += x_row
            finish(HALF, job, out_row, out_column, WINDOW_ROWS, HALF, first, block.residual, block.out)
            next_block(&block, size * size)
            finish(HALF, job, out_row, out_column, WINDOW_ROWS, HALF, second, block.residual, block.out)
            next_block(&block, size * size)
        tile.x += HALF * stride * x_column
        tile.out += HALF * out_column
        tile.residual = moved(tile.residual, HALF * out_column)


cdef inline void masked_tile(
    const int size, const int stride, const int columns, const int edge, const Job *job, const Tile *tile,
    i64 block_begin, i64 block_end
) noexcept nogil:
    """A tile of WINDOW_ROWS x `columns` outputs at a border: only the inputs named by the masks are read, and only
    tile.rows x tile.columns outputs are written.

    `edge`: how many patch columns at each side may be outside. That many are tested, each at every row, which costs as
    much as two multiply-adds; 0 stands for all, and for fewer outputs than columns.
    """
    cdef vec acc[WINDOW_ROWS * WINDOW_COLUMNS]
    cdef vec v
    cdef i64 x_row = job.x_row, x_column = job.x_column, out_row = job.out_row, out_column = job.out_column
    cdef i64 row_mask = tile.row_mask, column_mask = tile.column_mask, rows = tile.rows, stored = tile.columns
    cdef const real *x
    cdef Block block
    cdef int r, q, i, j
    first_block(&block, size * size, job, tile, block_begin, block_end)
    while block.left > 0:
        v = v_load(block.bias)
        for i in range(WINDOW_ROWS * columns):
            acc[i] = v
        x = block.x
        for r in range((WINDOW_ROWS - 1) * stride + size):
            if v_likely(row_mask & (<i64> 1 << r)):
                x = v_anew(x)
                for q in range((columns - 1) * stride + size):
                    if (edge > 0 and edge <= q and q < (columns - 1) * stride + size - edge) or v_likely(
                        column_mask & (<i64> 1 << q)
                    ):
                        v = v_load(x + q * x_column)
                        for i in range(WINDOW_ROWS):
                            if r - i * stride >= 0 and r - i * stride < size:
                                for j in range(columns):
                                    if q - j * stride >= 0 and q - j * stride < size:
                                        acc[i * columns + j] = v_fma(
                                            v,
                                            v_load(
                                                block.weights + ((r - i * stride) * size + q - j * stride) * LANES),
                                            acc[i * columns + j])
            x += x_row
        finish(
            columns, job, out_row, out_column, rows, columns if edge > 0 else stored, acc,
            block.residual, block.out)
        next_block(&block, size * size)


cdef void compute(
    Micro micro, const Plan *plan, const Job *job, const Tile *tile, i64 block_begin, i64 block_end
) noexcept nogil:
    """Tiles for a pass of channel blocks, and their second-pass activation."""
    cdef i64 first = block_begin * LANES, stored = smaller(block_end * LANES, plan.in_channels) - first, i
    micro(job, tile, block_begin, block_end)
    if plan.activation != NULL:
        for i in range(tile.rows):
            if stored == job.out_column:
                activate(plan, tile.out + i * job.out_row, 1, 0, tile.count * tile.columns * stored)
            else:
                activate(plan, tile.out + i * job.out_row + first, tile.count * tile.columns, job.out_column, stored)


cdef void tile_row(
    i64 size, i64 stride, i64 edge, Micro inner, Micro wide, Micro border, Micro half, Micro other, const Plan *plan,
    const Job *job, const Phase *phase, const Tile *start, i64 block_begin, i64 block_end
) noexcept nogil:
    """The tiles of a row of tiles, of one column phase; start.x and start.out are in its first column.

    `inner` computes whole tiles; `wide` in its place pairs of blocks, on HALF columns, where the plan wants that.
    `border` computes whole tiles with up to `edge` columns of the patch outside on each side, `half` the same with HALF
    columns, and single columns are left to `other`. If `edge` is 0, `border` computes any part of a tile.
    """
    cdef i64 step = plan.block_channels if plan.block_channels > 0 else block_end - block_begin
    cdef i64 block = block_begin, end, column, at, left, patch, sure
    cdef bint paired = (
        plan.tile_columns == HALF and wide != NULL and (block_end - block_begin) % 2 == 0 and step % 2 == 0
        and phase.outputs >= HALF)
    cdef i64 wanted = HALF if paired else WINDOW_COLUMNS
    cdef bint whole = start.row_mask == (<i64> 1 << ((WINDOW_ROWS - 1) * stride + size)) - 1
    cdef Tile tile = start[0]
    cdef Micro micro
    while block < block_end:
        end = smaller(block + step, block_end)
        if end == plan.in_channels // LANES:
            end = block_end  # the last block, which slides back, not without its neighbour
        column = 0
        while column < phase.outputs:
            tile.count = 1
            micro = border
            if edge == 0:
                at = column
                tile.columns = smaller(WINDOW_COLUMNS, phase.outputs - column)
            else:
                tile.columns = WINDOW_COLUMNS
                if paired or (phase.outputs - column <= HALF and phase.outputs >= HALF):
                    micro = half
                    tile.columns = HALF
                at = smaller(column, phase.outputs - tile.columns)
            left = at * stride - phase.pad
            patch = (tile.columns - 1) * stride + size
            tile.column_mask = mask_of(left, phase.inputs, patch)
            sure = ((<i64> 1 << (patch - 2 * edge)) - 1) << edge
            if whole and tile.columns == wanted and tile.column_mask == (<i64> 1 << patch) - 1:
                micro = wide if paired else inner
                tile.count = smaller(
                    (phase.inputs - left - patch) // (wanted * stride) + 1, (phase.outputs - at) // wanted)
            elif edge > 0 and (at < 0 or tile.column_mask & sure != sure):
                micro = other
                tile.columns = 1
                at = column
                left = at * stride - phase.pad
                tile.column_mask = mask_of(left, phase.inputs, size)
            tile.x = start.x + left * job.x_column
            tile.out = start.out + at * job.out_column
            tile.residual = moved(start.residual, at * job.out_column)
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


cdef void phase_rows(
    i64 size, i64 stride, i64 edge, Micro inner, Micro wide, Micro border, Micro half, Micro other, const Plan *plan,
    Job *job, const Phase *rows, const Phase *columns, const real *x, const real *residual, real *out,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """Output rows of one phase of one image; x, residual and out are at the phase's first input and output.

    With plan.copy_rows, so many at a time, for one pass of channel blocks after the other, from copies of their inputs;
    what the next ones need too moves to the copy's start.
    """
    cdef vec buffer[COPY_VECTORS]
    cdef real *copy = <real *> buffer
    cdef i64 block, end, t, t_end, top, first, last, held, held_last
    cdef i64 x_row = plan.dilation_h * plan.width * plan.x_step, x_column = plan.dilation_w * plan.x_step
    cdef const real *origin = x
    cdef Tile tile
    block = block_begin
    while block < block_end:
        end = smaller(block + plan.block_channels, block_end) if plan.copy_rows > 0 else block_end
        job.x_row = x_row
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
                job.x_row = columns.inputs * job.x_column
                if held_last > first:
                    memmove(copy, copy + (first - held) * job.x_row, (held_last - first) * job.x_row * sizeof(real))
                held = first
                held_last = larger(held_last, first)
                copy_rows(
                    x + held_last * x_row + block * LANES, x_row, x_column, last - held_last, columns.inputs,
                    end - block, copy + (held_last - first) * job.x_row)
                held_last = larger(held_last, last)
                origin = copy - first * job.x_row - block * LANES
            while t < t_end:
                top = t * stride - rows.pad
                tile.rows = smaller(WINDOW_ROWS, t_end - t)
                tile.row_mask = mask_of(top, rows.inputs, (tile.rows - 1) * stride + size)
                tile.x = origin + top * job.x_row
                tile.out = out + t * job.out_row
                tile.residual = moved(residual, t * job.out_row)
                tile_row(size, stride, edge, inner, wide, border, half, other, plan, job, columns, &tile, block, end)
                t += WINDOW_ROWS
        block = end


cdef void window(
    i64 size, i64 stride, i64 edge, Micro inner, Micro wide, Micro border, Micro half, Micro other, const Plan *plan,
    const real *x, const real *residual, real *out, i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef i64 width = plan.out_width
    cdef i64 row_phases = plan.dilation_h // gcd(plan.stride_h, plan.dilation_h)
    cdef i64 column_phases = plan.dilation_w // gcd(plan.stride_w, plan.dilation_w)
    cdef i64 row = row_begin, image, begin, end, a, c, place
    cdef Job job
    cdef Phase rows, columns
    job.weights = <const real *> plan.weights
    job.bias = <const real *> plan.bias
    job.last = plan.in_channels - LANES
    job.out_row = row_phases * width * plan.out_step
    job.out_column = column_phases * plan.out_step
    job.hardswish = plan.hardswish
    job.bounds[0] = <real> plan.low
    job.bounds[1] = <real> plan.high
    while row < row_end:
        image = row // plan.out_height
        begin = row - image * plan.out_height
        end = smaller(plan.out_height, begin + row_end - row)
        row += end - begin
        for a in range(smaller(row_phases, plan.out_height)):
            phase_of(
                &rows, a, row_phases, plan.stride_h, plan.dilation_h, plan.pad_top, plan.height, plan.out_height)
            for c in range(smaller(column_phases, width)):
                phase_of(
                    &columns, c, column_phases, plan.stride_w, plan.dilation_w, plan.pad_left, plan.width, width)
                place = ((image * plan.out_height + a) * width + c) * plan.out_step
                phase_rows(
                    size, stride, edge, inner, wide, border, half, other, plan, &job, &rows, &columns,
                    x + ((image * plan.height + rows.first) * plan.width + columns.first) * plan.x_step,
                    moved(residual, place), out + place,
                    ceil_div(begin - a, row_phases), ceil_div(end - a, row_phases), block_begin, block_end)


cdef void inner_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(3, 1, job, tile, block_begin, block_end)


cdef void border_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    masked_tile(3, 1, WINDOW_COLUMNS, 1, job, tile, block_begin, block_end)


cdef void half_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    masked_tile(3, 1, HALF, 1, job, tile, block_begin, block_end)


cdef void other_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    masked_tile(3, 1, 1, 0, job, tile, block_begin, block_end)


cdef void depthwise_3x3s1(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    window(
        3, 1, 1, inner_3x3s1, NULL, border_3x3s1, half_3x3s1, other_3x3s1, plan, x, residual, out,
        row_begin, row_end, block_begin, block_end)


cdef void inner_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(3, 2, job, tile, block_begin, block_end)


cdef void wide_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if PAIRED:
        wide_tiles(3, 2, job, tile, block_begin, block_end)


cdef void border_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    masked_tile(3, 2, WINDOW_COLUMNS, 1, job, tile, block_begin, block_end)


cdef void half_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    masked_tile(3, 2, HALF, 1, job, tile, block_begin, block_end)


cdef void other_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    masked_tile(3, 2, 1, 0, job, tile, block_begin, block_end)


cdef void depthwise_3x3s2(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Micro wide = NULL
    if PAIRED:
        wide = wide_3x3s2
    window(
        3, 2, 1, inner_3x3s2, wide, border_3x3s2, half_3x3s2, other_3x3s2,
        plan, x, residual, out, row_begin, row_end, block_begin, block_end)


cdef void inner_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(5, 1, job, tile, block_begin, block_end)


cdef void border_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    masked_tile(5, 1, WINDOW_COLUMNS, 2, job, tile, block_begin, block_end)


cdef void half_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    masked_tile(5, 1, HALF, 2, job, tile, block_begin, block_end)


cdef void other_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    masked_tile(5, 1, 1, 0, job, tile, block_begin, block_end)


cdef void depthwise_5x5s1(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    window(
        5, 1, 2, inner_5x5s1, NULL, border_5x5s1, half_5x5s1, other_5x5s1, plan, x, residual, out,
        row_begin, row_end, block_begin, block_end)


cdef void inner_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(5, 2, job, tile, block_begin, block_end)


cdef void border_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    masked_tile(5, 2, WINDOW_COLUMNS, 2, job, tile, block_begin, block_end)


cdef void half_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    masked_tile(5, 2, HALF, 2, job, tile, block_begin, block_end)


cdef void other_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    masked_tile(5, 2, 1, 0, job, tile, block_begin, block_end)


cdef void depthwise_5x5s2(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    window(
        5, 2, 2, inner_5x5s2, NULL, border_5x5s2, half_5x5s2, other_5x5s2, plan, x, residual, out,
        row_begin, row_end, block_begin, block_end)


cdef void inner_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(7, 1, job, tile, block_begin, block_end)


cdef void border_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    masked_tile(7, 1, WINDOW_COLUMNS, 0, job, tile, block_begin, block_end)


cdef void depthwise_7x7s1(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    window(
        7, 1, 0, inner_7x7s1, NULL, border_7x7s1, NULL, NULL, plan, x, residual, out,
        row_begin, row_end, block_begin, block_end)


cdef void inner_7x7s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(7, 2, job, tile, block_begin, block_end)


cdef void border_7x7s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    masked_tile(7, 2, WINDOW_COLUMNS, 0, job, tile, block_begin, block_end)


cdef void depthwise_7x7s2(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    window(
        7, 2, 0, inner_7x7s2, NULL, border_7x7s2, NULL, NULL, plan, x, residual, out,
        row_begin, row_end, block_begin, block_end)
