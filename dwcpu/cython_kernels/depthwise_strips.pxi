# Depthwise convolution with any window, stride, dilation and channel multiplier, of LANES channels or more.
#
# Assumes: channel-last x and out, pixels plan.x_step and plan.out_step apart; weights [block][kh][kw][m][lane] and bias
# [block][m][lane] of blocks of LANES channels, the last of which slides back to end with the last channel; scratch as
# `PreparedSingle` measures it. Rows are output rows (of batch * out_height), or with plan.segment stretches of the only
# row of each image; blocks are vectors of input channels.
# Guarantees: those of depthwise.pxi.
#
# A window of many taps reads each input so often that a copy costs little, and copies lie as the sums want them. The
# columns of a row are held in the order of their remainder by the least common multiple of stride and dilation, the
# step from an output of a column phase (see depthwise.pxi) to the next: whatever these are, what a tap of neighbouring
# outputs reads is a run of vectors. And it is of no matter which lines of the image share sets of the cache.
# What is computed from them are tiles of outputs of several rows (held_tiles.pxi) or strips of one (strips.pxi), which
# meanwhile ask for the inputs that are copied next, which lie all over the image.
# Loops, outermost first: images, or stretches of their only row; plan.block_columns output columns; passes of
# plan.block_channels channel blocks; plan.block_rows output rows, whose inputs are held at a time; channel blocks;
# rows of tiles, or output rows; column phases; tiles, or strips.

cdef struct Asked:         # pixels that will be copied next
    const real *x          # the next of them
    i64 rows               # that are left, this one too
    i64 columns            # of a row
    i64 column             # that are left in this one
    i64 lines              # of a pixel
    i64 quota              # pixels for which a strip or a tile asks


cdef struct Held:          # inputs of some columns, of some channel blocks
    real *x                # [block][row modulo plan.ring_rows][column modulo step][column / step - origin][lane]
    i64 *places            # [phase][tap]: of the first output of a phase, in a row
    i64 row                # elements of a row
    i64 block              # elements of a block
    i64 step
    i64 origin
    i64 begin              # columns
    i64 end
    i64 last               # one past the last row


cdef inline void hold_pixels(
    const int vectors, const real *x, i64 x_step, i64 pixels, real *target, i64 block
) noexcept nogil:
    """Copy so many vectors of each pixel, each vector to its block."""
    cdef int v
    while pixels > 0:
        for v in range(vectors):
            v_store(target + v * block, v_load(x + v * LANES))
        x += x_step
        target += LANES
        pixels -= 1


cdef void hold_row(
    const Held *held, const Plan *plan, const real *x, i64 row, const Lanes *lanes, i64 blocks
) noexcept nogil:
    """Copy a row of the image; x is at its column 0."""
    cdef i64 remainder, column, pixels, b, step = held.step * plan.x_step
    cdef const real *source
    cdef real *target
    for remainder in range(smaller(held.step, held.end - held.begin)):
        column = held.begin + remainder
        source = x + column * plan.x_step
        target = held.x + row % plan.ring_rows * held.row + column % held.step * plan.window_size + (
            column // held.step - held.origin) * LANES
        pixels = ceil_div(held.end - column, held.step)
        b = 0
        while b < blocks:
            if b + 8 <= blocks and lanes[b + 7].first == 0:
                hold_pixels(8, source + lanes[b].channel, step, pixels, target + b * held.block, held.block)
                b += 8
            elif b + 4 <= blocks and lanes[b + 3].first == 0:
                hold_pixels(4, source + lanes[b].channel, step, pixels, target + b * held.block, held.block)
                b += 4
            else:
                hold_pixels(1, source + lanes[b].channel, step, pixels, target + b * held.block, held.block)
                b += 1


cdef void place_taps(const Held *held, const Plan *plan, i64 column, i64 phases) noexcept nogil:
    """Where the taps of the first output of each phase are, the first of which is that of `column`."""
    cdef i64 phase, tap, left, ahead = plan.pad_left // held.step + 1  # what makes no column negative
    for phase in range(phases):
        for tap in range(plan.kernel_w):
            left = (column + phase) * plan.stride_w - plan.pad_left + tap * plan.dilation_w + ahead * held.step
            held.places[phase * plan.kernel_w + tap] = (
                left % held.step * plan.window_size + (left // held.step - ahead - held.origin) * LANES)


cdef inline void ask(const Plan *plan, Asked *asked) noexcept nogil:
    """Ask for a share of what is copied next."""
    cdef i64 pixel, line
    for pixel in range(asked.quota):
        if asked.rows <= 0:
            break
        for line in range(asked.lines):
            v_prefetch(asked.x + line * LINE)
        asked.x += plan.x_step
        asked.column -= 1
        if asked.column == 0:
            asked.x += (plan.width - asked.columns) * plan.x_step
            asked.column = asked.columns
            asked.rows -= 1


cdef void row_of_phase(
    const Plan *plan, Strip *strip, const Lanes *lanes, Asked *asked, i64 left, i64 step, i64 outputs, i64 out_step,
    const real *residual, real *out
) noexcept nogil:
    """Outputs of a row and a phase; the window of the first begins at column `left`, of the next ones `step` on."""
    cdef i64 strips = ceil_div(outputs, MOST_STRIP), at = 0, most = MOST_STRIP, count, here, j
    cdef i64 apart = step // plan.dilation_w if plan.multiplier == 1 or step > plan.dilation_w else 0
    cdef bint alike
    cdef const real *x = strip.x
    if apart == 1:  # at the borders no more outputs than taps
        most = smaller(plan.kernel_w, MOST_STRIP)
        if outputs > most and most > 1:
            strips = 2 + ceil_div(larger(outputs - 2 * most, 0), MOST_STRIP)
    while at < outputs:
        count = ceil_div(outputs - at, strips)
        here = left + at * step
        strip.cut = here < 0 or here + (count - 1) * step + (plan.kernel_w - 1) * plan.dilation_w >= plan.width
        if strip.cut:
            count = smaller(count, most)
            for j in range(count):
                strip.begins[j] = first_tap(here + j * step, plan.dilation_w, plan.kernel_w)
                strip.ends[j] = end_tap(here + j * step, plan.dilation_w, plan.kernel_w, plan.width)
            strip.begin = larger(ceil_div(-here, plan.dilation_w), 0)
            strip.end = smaller(ceil_div(plan.width - here, plan.dilation_w), count + plan.kernel_w - 1)
            alike = strip.begins[0] <= strip.ends[count - 1]
            if apart == 1:
                alike = strip.begin <= plan.kernel_w and strip.end >= count - 1
            if not alike:  # narrow images, or far outside: one by one
                count = 1
        else:
            strip.begins[0] = strip.begins[count - 1] = 0
            strip.ends[0] = strip.ends[count - 1] = plan.kernel_w
        ask(plan, asked)
        strip.x = x + at * LANES
        outputs_of(apart, count)(
            plan, strip, lanes, out_step, moved(residual, at * out_step), out + at * out_step)
        at += count
        strips = larger(strips - 1, ceil_div(outputs - at, MOST_STRIP))


cdef void row_of_tiles(
    const Plan *plan, HeldTile *tile, const real *x, const Lanes *lanes, Asked *asked, i64 left, i64 outputs, i64 out_step,
    const real *residual, real *out
) noexcept nogil:
    """HELD_ROWS rows of outputs of a phase; the window of the first begins at column `left`. The last tile slides back."""
    cdef i64 at = 0, place, here, step = plan.dilation_w
    while at < outputs:
        place = smaller(at, outputs - HELD_COLUMNS)
        here = left + place * step
        tile.left = larger(ceil_div(-here, step), 0)
        tile.right = ceil_div(plan.width - here, step)
        tile.x = x + place * LANES
        ask(plan, asked)
        held_tile(plan, tile, lanes, out_step, moved(residual, place * out_step), out + place * out_step)
        at += HELD_COLUMNS


cdef inline i64 rows_before(const Plan *plan, i64 row) noexcept nogil:
    """One past the last row of the image that output rows before `row` read."""
    return smaller((row - 1) * plan.stride_h - plan.pad_top + (plan.kernel_h - 1) * plan.dilation_h + 1, plan.height)


cdef inline i64 columns_held(Held *held, const Plan *plan, i64 column, i64 columns) noexcept nogil:
    """Set the image's columns that output columns read; the first of them, which may be outside."""
    cdef i64 left = column * plan.stride_w - plan.pad_left
    held.begin = larger(left, 0)
    held.end = smaller(left + (columns - 1) * plan.stride_w + (plan.kernel_w - 1) * plan.dilation_w + 1, plan.width)
    held.origin = held.begin // held.step
    return left


cdef void rows_and_columns(
    const Plan *plan, Held *held, const Lanes *lanes, i64 blocks, Asked *after, const real *x, const real *residual,
    real *out, i64 row_begin, i64 row_end, i64 column, i64 columns
) noexcept nogil:
    """Some output rows and columns of an image, where x, residual and out begin. `after` is what will be read then."""
    cdef i64 phases = smaller(phases_of(plan.stride_w, plan.dilation_w), columns), phase, y, top, tap, r, b, end, pieces
    cdef i64 left = columns_held(held, plan, column, columns), place, w_row = plan.kernel_w * plan.multiplier * LANES
    cdef bint in_tiles = has_held_tiles(plan, columns, phases)
    cdef i64 stored = (lanes[blocks - 1].channel + LANES - lanes[0].block * LANES) * plan.multiplier
    cdef Asked asked
    cdef Strip strip
    cdef HeldTile tile
    held.last = 0
    place_taps(held, plan, column, phases)
    while row_begin < row_end:
        end = smaller(row_begin + plan.block_rows, row_end)
        top = row_begin * plan.stride_h - plan.pad_top
        for r in range(larger(larger(top, 0), held.last), rows_before(plan, end)):
            hold_row(held, plan, x + r * plan.width * plan.x_step, r, lanes, blocks)
            held.last = r + 1
        asked = after[0]
        if end < row_end:
            r = larger(held.last, end * plan.stride_h - plan.pad_top)
            asked.rows = rows_before(plan, smaller(end + plan.block_rows, row_end)) - r
            asked.columns = asked.column = held.end - held.begin
            asked.x = x + (r * plan.width + held.begin) * plan.x_step + lanes[0].channel
        asked.lines = ceil_div(blocks * LANES, LINE)
        pieces = (end - row_begin) * ceil_div(columns, phases * MOST_STRIP)
        if in_tiles and end - row_begin >= HELD_ROWS:
            pieces = ceil_div(end - row_begin, HELD_ROWS) * ceil_div(columns, phases * HELD_COLUMNS)
        asked.quota = ceil_div(asked.rows * asked.columns, blocks * phases * pieces)
        if asked.columns <= 0:
            asked.rows = 0
        for b in range(blocks):
            strip.bias = <const real *> plan.bias + lanes[b].block * plan.multiplier * LANES
            y = row_begin
            while in_tiles and y + HELD_ROWS <= end:
                top = y * plan.stride_h - plan.pad_top
                tile.weights = <const real *> plan.weights + lanes[b].block * plan.kernel_h * w_row
                tile.bias = strip.bias
                tile.begin = first_tap(top, plan.dilation_h, plan.kernel_h + HELD_ROWS - 1)
                tile.end = end_tap(top, plan.dilation_h, plan.kernel_h + HELD_ROWS - 1, plan.height)
                tile.row = (top + tile.begin * plan.dilation_h) % plan.ring_rows if tile.end > tile.begin else 0
                for phase in range(phases):
                    place = (y * plan.out_width + column + phase) * plan.out_step
                    row_of_tiles(
                        plan, &tile, held.x + b * held.block + held.places[phase * plan.kernel_w], &lanes[b], &asked,
                        left + phase * plan.stride_w, ceil_div(columns - phase, phases), phases * plan.out_step,
                        moved(residual, place), out + place)
                y += HELD_ROWS
            for y in range(y, end):
                top = y * plan.stride_h - plan.pad_top
                tap = first_tap(top, plan.dilation_h, plan.kernel_h)
                strip.weights = <const real *> plan.weights + (lanes[b].block * plan.kernel_h + tap) * w_row
                strip.rows = larger(end_tap(top, plan.dilation_h, plan.kernel_h, plan.height) - tap, 0)
                strip.row = (top + tap * plan.dilation_h) % plan.ring_rows if strip.rows > 0 else 0
                for phase in range(phases):
                    strip.x = held.x + b * held.block
                    strip.places = held.places + phase * plan.kernel_w
                    place = (y * plan.out_width + column + phase) * plan.out_step
                    row_of_phase(
                        plan, &strip, &lanes[b], &asked, left + phase * plan.stride_w, held.step,
                        ceil_div(columns - phase, phases), phases * plan.out_step, moved(residual, place), out + place)
        for y in range(row_begin, end):
            activate(
                plan, out + (y * plan.out_width + column) * plan.out_step + lanes[0].block * LANES * plan.multiplier,
                columns, plan.out_step, stored)
        row_begin = end


cdef void depthwise_strips(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Lanes lanes[MOST_HELD]
    cdef Held held
    cdef Held next
    cdef Asked after
    cdef i64 cuts = plan.out_width // plan.segment if plan.segment > 0 else 0
    cdef i64 in_image = cuts if cuts > 0 else plan.out_height
    cdef i64 row = row_begin, block, blocks, b, image, first, last, column, end, count, place
    cdef const real *image_x
    held.step = phases_of(plan.stride_w, plan.dilation_w) * plan.stride_w
    held.row = plan_row(plan)
    held.block = plan.ring_rows * held.row + LINE  # blocks begin in other sets
    held.x = <real *> scratch
    held.places = <i64 *> (held.x + plan.block_channels * held.block)
    while row < row_end:
        image = row // in_image
        first = row - image * in_image
        last = smaller(in_image, first + row_end - row)
        row += last - first
        column, end = 0, plan.out_width
        if cuts > 0:
            column = first * plan.segment
            if last < cuts:
                end = last * plan.segment
            first, last = 0, 1
        place = image * plan.out_height * plan.out_width * plan.out_step
        image_x = x + image * plan.height * plan.width * plan.x_step
        while column < end:
            count = smaller(plan.block_columns, end - column)
            block = block_begin
            while block < block_end:
                blocks = ceil_div(block_end - block, ceil_div(block_end - block, plan.block_channels))
                for b in range(blocks):
                    lanes_of(&lanes[b], block + b, plan.in_channels)
                block += blocks
                # Afterwards come other channels of these columns, or else the first of others, about as many.
                after.rows = after.columns = 0
                if block < block_end or column + count < end:
                    next = held
                    columns_held(
                        &next, plan, column if block < block_end else column + count,
                        count if block < block_end else smaller(count, end - column - count))
                    after.columns = after.column = next.end - next.begin
                    b = larger(first * plan.stride_h - plan.pad_top, 0)
                    after.rows = rows_before(plan, smaller(first + plan.block_rows, last)) - b
                    after.x = image_x + (b * plan.width + next.begin) * plan.x_step + (
                        block if block < block_end else block_begin) * LANES
                rows_and_columns(
                    plan, &held, lanes, blocks, &after, image_x, moved(residual, place), out + place, first, last,
                    column, count)
            column += count
