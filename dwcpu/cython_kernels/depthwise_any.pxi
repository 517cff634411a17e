# Depthwise convolution with any window, stride, dilation, channel multiplier and number of channels; large windows are
# faster from copies of their inputs (depthwise_strips.pxi).
#
# Assumes: channel-last x and out, pixels plan.x_step and plan.out_step apart; weights [block][kh][kw][m][lane] and bias
# [block][m][lane] of blocks of LANES channels, the last of which slides back to end with the last channel; fewer
# channels than LANES are one block, padded. Rows are output rows (of batch * out_height), or with plan.segment
# stretches of the only row of each image; blocks are vectors of input channels.
# Guarantees: those of depthwise.pxi.
# Loops, outermost first: output rows, or neighbouring stretches of one together; passes of plan.block_channels channel
# blocks (0: all), whose inputs and weights stay in L1 along the row; strips of up to STRIP columns; channel blocks;
# multiplier; taps. A strip stays in registers and loads each weight once. Where neighbouring columns share inputs
# (stride and dilation are equal), whole strips go over the borders too, each input serving CHUNK taps, and the last
# strip slides back over its neighbour. Else columns whose window leaves the image are done with their valid taps
# only; of single ones up to four channel blocks side by side. Tiles of one column: depthwise_stream.pxi.

cdef enum:
    STRIP = 8
    ABREAST = 4
    CHUNK = 4      # taps
    STREAM = 64    # columns between second passes: see depthwise_stream.pxi


cdef struct Lanes:
    i64 block          # number of the block
    i64 channel        # its first channel, slid back if need be
    int first          # its own lanes are first .. last - 1
    int last


cdef struct Taps:
    i64 row            # first valid kernel row, and their number
    i64 rows
    i64 column         # likewise for columns
    i64 columns


cdef struct Run:       # neighbouring output columns with the same taps
    const Plan *plan
    const Lanes *lanes
    const Taps *taps
    const real *x      # first tap of the first column
    const real *residual
    real *out


cdef inline void lanes_of(Lanes *lanes, i64 block, i64 channels) noexcept nogil:
    lanes.block = block
    lanes.channel = larger(smaller(block * LANES, channels - LANES), 0)
    lanes.first = <int> (block * LANES - lanes.channel)
    lanes.last = <int> smaller(LANES, channels - lanes.channel)


cdef void put_parts(
    const Plan *plan, const Lanes *lanes, i64 m, i64 count, i64 lanes_step, i64 out_step,
    const real *sums, const real *residual, real *out
) noexcept nogil:
    """Epilogue where vectors are not written whole: `count` vectors of sums go to output channels (channel + lane) *
    multiplier + m, of pixels `out_step` apart, or of one pixel and lanes[0], lanes[1], … if `lanes_step` is 1."""
    cdef vec low = v_splat(<real> plan.low), high = v_splat(<real> plan.high), v
    cdef i64 multiplier = plan.multiplier, place, j
    cdef real buffer[LANES]
    cdef int lane
    for j in range(count):
        place = lanes.channel * multiplier + m
        v = v_load(sums)
        if multiplier == 1:
            if residual != NULL:
                v = v_add(v, v_load_part(residual + place, lanes.first, lanes.last))
            v_store_part(out + place, ended(plan.hardswish, v, low, high), lanes.first, lanes.last)
        else:
            if residual != NULL:
                v_store(buffer, v_zero())
                for lane in range(lanes.first, lanes.last):
                    buffer[lane] = residual[place + lane * multiplier]
                v = v_add(v, v_load(buffer))
            v_store(buffer, ended(plan.hardswish, v, low, high))
            for lane in range(lanes.first, lanes.last):
                out[place + lane * multiplier] = buffer[lane]
        sums += LANES
        lanes += lanes_step
        if lanes_step == 0:
            residual = moved(residual, out_step)
            out += out_step


cdef inline void put(
    const int count, const Plan *plan, const Lanes *lanes, i64 m, i64 lanes_step,
    vec *acc, const real *residual, real *out
) noexcept nogil:
    """Epilogue of `count` vectors (see put_parts), written whole where possible."""
    cdef vec low, high
    cdef real sums[STRIP * LANES]
    cdef i64 out_step = 0 if lanes_step == 1 else plan.out_step
    cdef int j
    if plan.multiplier == 1 and lanes[0].first == 0 and lanes[(count - 1) * lanes_step].last == LANES and (
        lanes[(count - 1) * lanes_step].first == 0
    ):
        low = v_splat(<real> plan.low)
        high = v_splat(<real> plan.high)
        residual = moved(residual, lanes.channel)
        out += lanes.channel
        if lanes_step == 1:
            out_step = LANES
        for j in range(count):
            if residual != NULL:
                acc[j] = v_add(acc[j], v_load(residual + j * out_step))
            v_store(out + j * out_step, ended(plan.hardswish, acc[j], low, high))
    else:
        for j in range(count):
            v_store(sums + j * LANES, acc[j])
        put_parts(plan, lanes, m, count, lanes_step, out_step, sums, residual, out)


cdef void no_taps(
    const Plan *plan, const Lanes *lanes, i64 count, const real *residual, real *out
) noexcept nogil:
    """`count` neighbouring columns of one channel block whose windows lie in the padding altogether."""
    cdef const real *bias = <const real *> plan.bias + lanes.block * plan.multiplier * LANES
    cdef i64 m, j
    for m in range(plan.multiplier):
        for j in range(count):
            put_parts(
                plan, lanes, m, 1, 0, 0, bias + m * LANES,
                moved(residual, j * plan.out_step), out + j * plan.out_step)


cdef inline void strip(const int count, const bint partial, const Run *run) noexcept nogil:
    """`count` columns, one channel block, all multipliers. `partial`: there are fewer channels than lanes."""
    cdef const Plan *plan = run.plan
    cdef const Lanes *lanes = run.lanes
    cdef const Taps *taps = run.taps
    cdef vec acc[STRIP]
    cdef vec w
    cdef i64 multiplier = plan.multiplier, m, h, k
    cdef i64 step = plan.stride_w * plan.x_step
    cdef i64 x_column = plan.dilation_w * plan.x_step, x_row = plan.dilation_h * plan.width * plan.x_step
    cdef i64 size = plan.kernel_h * plan.kernel_w * multiplier * LANES
    cdef const real *weights = <const real *> plan.weights + lanes.block * size
    cdef const real *bias = <const real *> plan.bias + lanes.block * multiplier * LANES
    cdef const real *p
    cdef const real *q
    cdef int j
    cdef const real *x = run.x + lanes.channel
    weights += (taps.row * plan.kernel_w + taps.column) * multiplier * LANES
    for m in range(multiplier):
        w = v_load(bias + m * LANES)
        for j in range(count):
            acc[j] = w
        h = 0
        while True:  # there are taps: loops that test at their end keep the sums in registers
            p = x + h * x_row
            q = weights + (h * plan.kernel_w * multiplier + m) * LANES
            k = taps.columns
            while True:
                w = v_load(q)
                p = v_anew(p)
                for j in range(count):
                    if partial:
                        acc[j] = v_fma(v_load_part(p + j * step, 0, lanes.last), w, acc[j])
                    else:
                        acc[j] = v_fma(v_load(p + j * step), w, acc[j])
                p += x_column
                q += multiplier * LANES
                k -= 1
                if k == 0:
                    break
            h += 1
            if h == taps.rows:
                break
        put(count, plan, lanes, m, 0, acc, run.residual, run.out)


cdef inline void abreast(const int count, const Run *run) noexcept nogil:
    """One output pixel, `count` channel blocks side by side, so that their multiply-adds overlap in time."""
    cdef const Plan *plan = run.plan
    cdef const Lanes *lanes = run.lanes
    cdef const Taps *taps = run.taps
    cdef vec acc[ABREAST]
    cdef i64 multiplier = plan.multiplier, m, h, k
    cdef i64 x_column = plan.dilation_w * plan.x_step, x_row = plan.dilation_h * plan.width * plan.x_step
    cdef i64 size = plan.kernel_h * plan.kernel_w * multiplier * LANES
    cdef const real *weights = <const real *> plan.weights + lanes.block * size
    cdef const real *bias = <const real *> plan.bias + lanes.block * multiplier * LANES
    cdef const real *p
    cdef const real *q
    cdef int j
    weights += (taps.row * plan.kernel_w + taps.column) * multiplier * LANES
    for m in range(multiplier):
        for j in range(count):
            acc[j] = v_load(bias + (j * multiplier + m) * LANES)
        h = 0
        while True:
            p = run.x + h * x_row
            q = weights + (h * plan.kernel_w * multiplier + m) * LANES
            k = taps.columns
            while True:
                for j in range(count):
                    acc[j] = v_fma(v_load(p + lanes[j].channel), v_load(q + j * size), acc[j])
                p += x_column
                q += multiplier * LANES
                k -= 1
                if k == 0:
                    break
            h += 1
            if h == taps.rows:
                break
        put(count, plan, lanes, m, 1, acc, run.residual, run.out)


# Each in a function of its own that is called by its address: GCC takes far longer for all in one.

ctypedef void (*Columns)(const Run *run) noexcept nogil

cdef void whole_1(const Run *run) noexcept nogil: strip(1, False, run)
cdef void whole_2(const Run *run) noexcept nogil: strip(2, False, run)
cdef void whole_3(const Run *run) noexcept nogil: strip(3, False, run)
cdef void whole_4(const Run *run) noexcept nogil: strip(4, False, run)
cdef void whole_5(const Run *run) noexcept nogil: strip(5, False, run)
cdef void whole_6(const Run *run) noexcept nogil: strip(6, False, run)
cdef void whole_7(const Run *run) noexcept nogil: strip(7, False, run)
cdef void whole_8(const Run *run) noexcept nogil: strip(8, False, run)
cdef void partial_1(const Run *run) noexcept nogil: strip(1, True, run)
cdef void partial_2(const Run *run) noexcept nogil: strip(2, True, run)
cdef void partial_3(const Run *run) noexcept nogil: strip(3, True, run)
cdef void partial_4(const Run *run) noexcept nogil: strip(4, True, run)
cdef void partial_5(const Run *run) noexcept nogil: strip(5, True, run)
cdef void partial_6(const Run *run) noexcept nogil: strip(6, True, run)
cdef void partial_7(const Run *run) noexcept nogil: strip(7, True, run)
cdef void partial_8(const Run *run) noexcept nogil: strip(8, True, run)
cdef void abreast_1(const Run *run) noexcept nogil: abreast(1, run)
cdef void abreast_2(const Run *run) noexcept nogil: abreast(2, run)
cdef void abreast_3(const Run *run) noexcept nogil: abreast(3, run)
cdef void abreast_4(const Run *run) noexcept nogil: abreast(4, run)


cdef inline Columns strip_of(bint partial, i64 count) noexcept nogil:
    if count == 1:
        return partial_1 if partial else whole_1
    if count == 2:
        return partial_2 if partial else whole_2
    if count == 3:
        return partial_3 if partial else whole_3
    if count == 4:
        return partial_4 if partial else whole_4
    if count == 5:
        return partial_5 if partial else whole_5
    if count == 6:
        return partial_6 if partial else whole_6
    if count == 7:
        return partial_7 if partial else whole_7
    return partial_8 if partial else whole_8


cdef inline Columns abreast_of(i64 count) noexcept nogil:
    if count == 1:
        return abreast_1
    if count == 2:
        return abreast_2
    if count == 3:
        return abreast_3
    return abreast_4


cdef inline void chunk(
    const int taps, const bint whole, vec *acc, const real *x, i64 x_column, const real *weights, i64 w_step, i64 mask
) noexcept nogil:
    """`taps` neighbouring taps of a row of the window for STRIP columns, each input loaded once; those of the mask."""
    cdef vec w[CHUNK]
    cdef vec v
    cdef int k, q
    for k in range(taps):
        w[k] = v_load(weights + k * w_step)
    x = v_anew(x)
    for q in range(STRIP + taps - 1):
        if whole or v_likely(mask & (<i64> 1 << q)):
            v = v_load(x)
            for k in range(taps):
                if q - k >= 0 and q - k < STRIP:
                    acc[q - k] = v_fma(v, w[k], acc[q - k])
        x += x_column


cdef inline void chunk_of(
    const int taps, vec *acc, const real *x, i64 x_column, const real *weights, i64 w_step, i64 first, i64 last
) noexcept nogil:
    """`chunk` of which inputs first .. last - 1 are in the image."""
    cdef i64 mask = mask_of(-first, last - first, STRIP + taps - 1)
    if mask == (<i64> 1 << (STRIP + taps - 1)) - 1:
        chunk(taps, True, acc, x, x_column, weights, w_step, mask)
    elif mask != 0:
        chunk(taps, False, acc, x, x_column, weights, w_step, mask)


cdef void shared_strip(
    const Plan *plan, const Lanes *lanes, i64 row, i64 rows, i64 left, const real *x, const real *residual, real *out
) noexcept nogil:
    """STRIP neighbouring columns that share inputs, one channel block, all multipliers: kernel rows `row` and the next
    `rows` - 1, from image column `left` on. x is in column 0 of the image row that the first of them meets."""
    cdef vec acc[STRIP]
    cdef vec v
    cdef i64 multiplier = plan.multiplier, m, h, k, w_step = multiplier * LANES
    cdef i64 x_column = plan.dilation_w * plan.x_step, x_row = plan.dilation_h * plan.width * plan.x_step
    cdef i64 first = larger(ceil_div(-left, plan.dilation_w), 0), last = ceil_div(plan.width - left, plan.dilation_w)
    cdef const real *weights = <const real *> plan.weights + (
        lanes.block * plan.kernel_h + row) * plan.kernel_w * w_step
    cdef const real *bias = <const real *> plan.bias + lanes.block * w_step
    cdef const real *p
    cdef const real *q
    cdef int j
    x += lanes.channel + left * plan.x_step
    for m in range(multiplier):
        v = v_load(bias + m * LANES)
        for j in range(STRIP):
            acc[j] = v
        q = weights + m * LANES
        for h in range(rows):
            p = x + h * x_row
            k = 0
            while k + CHUNK <= plan.kernel_w:
                chunk_of(CHUNK, acc, p + k * x_column, x_column, q, w_step, first - k, last - k)
                q += CHUNK * w_step
                k += CHUNK
            if plan.kernel_w - k == 3:
                chunk_of(3, acc, p + k * x_column, x_column, q, w_step, first - k, last - k)
            elif plan.kernel_w - k == 2:
                chunk_of(2, acc, p + k * x_column, x_column, q, w_step, first - k, last - k)
            elif plan.kernel_w - k == 1:
                chunk_of(1, acc, p + k * x_column, x_column, q, w_step, first - k, last - k)
            q += (plan.kernel_w - k) * w_step
        put(STRIP, plan, lanes, m, 0, acc, residual, out)


cdef void shared_columns(
    const Plan *plan, const Taps *taps, i64 column, i64 column_end, const real *x, const real *residual, real *out,
    i64 block_begin, i64 block_end
) noexcept nogil:
    """Columns of a row, STRIP or more, in strips that share inputs; x is in column 0 of the image row of the first valid
    tap, residual and out in column 0 of the row."""
    cdef Lanes lanes
    cdef i64 at, block, place
    cdef i64 first = block_begin * LANES * plan.multiplier
    cdef i64 stored = smaller(block_end * LANES, plan.in_channels) * plan.multiplier - first
    while column < column_end:
        at = smaller(column, column_end - STRIP)
        place = at * plan.out_step
        for block in range(block_begin, block_end):
            lanes_of(&lanes, block, plan.in_channels)
            shared_strip(
                plan, &lanes, taps.row, taps.rows, at * plan.stride_w - plan.pad_left, x, moved(residual, place),
                out + place)
        column = at + STRIP
        activate(plan, out + place + first, STRIP, plan.out_step, stored)


cdef void columns_of_row(Run *run, i64 columns, i64 block_begin, i64 block_end) noexcept nogil:
    """Neighbouring output columns, from those that `run` says on, which ends behind the last."""
    cdef const Plan *plan = run.plan
    cdef Lanes lanes[ABREAST]
    cdef i64 channels = plan.in_channels, block, count, j
    cdef i64 first = block_begin * LANES * plan.multiplier
    cdef i64 stored = smaller(block_end * LANES, channels) * plan.multiplier - first
    cdef bint none = run.taps.rows <= 0 or run.taps.columns <= 0
    run.lanes = lanes
    while columns > 0:
        count = smaller(columns, STRIP)
        if plan.tile_columns == 1 and not none:
            count = smaller(columns, STREAM)
            stream_of(run.taps.rows * run.taps.columns)(run, count, block_begin, block_end)
        elif count > 1 or channels < LANES or none:
            for block in range(block_begin, block_end):
                lanes_of(&lanes[0], block, channels)
                if none:
                    no_taps(plan, lanes, count, run.residual, run.out)
                else:
                    strip_of(channels < LANES, count)(run)
        else:
            block = block_begin
            while block < block_end:
                for j in range(smaller(ABREAST, block_end - block)):
                    lanes_of(&lanes[j], block + j, channels)
                abreast_of(block_end - block)(run)
                block += ABREAST
        activate(plan, run.out + first, count, plan.out_step, stored)
        columns -= count
        run.x += count * plan.stride_w * plan.x_step
        run.residual = moved(run.residual, count * plan.out_step)
        run.out += count * plan.out_step


cdef void depthwise_any(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Taps taps
    cdef Run run
    cdef i64 inner = inner_begin(plan.out_width, plan.stride_w, plan.pad_left)
    cdef i64 after = inner_end(
        inner, plan.out_width, plan.stride_w, plan.pad_left, plan.dilation_w, plan.kernel_w, plan.width)
    cdef i64 step = plan.block_channels if plan.block_channels > 0 else block_end - block_begin
    cdef i64 cuts = plan.out_width // plan.segment if plan.segment > 0 else 0
    cdef i64 line, image, y, top, left, last, column, count, place, block, row = row_begin, row_next, begin, end
    cdef bint shared = plan.stride_w == plan.dilation_w and plan.out_width >= STRIP and plan.in_channels >= LANES and (
        plan.tile_columns == STRIP)
    run.plan = plan
    run.taps = &taps
    while row < row_end:  # a row of the image, or a stretch of its only one
        line, row_next, begin, end = row, row + 1, 0, plan.out_width
        if cuts > 0:
            line = row // cuts
            row_next = smaller(row_end, (line + 1) * cuts)
            begin = (row - line * cuts) * plan.segment
            if row_next < (line + 1) * cuts:
                end = (row_next - line * cuts) * plan.segment
        row = row_next
        image = line // plan.out_height
        y = line - image * plan.out_height
        top = y * plan.stride_h - plan.pad_top
        taps.row = first_tap(top, plan.dilation_h, plan.kernel_h)
        taps.rows = end_tap(top, plan.dilation_h, plan.kernel_h, plan.height) - taps.row
        block = block_begin
        while block < block_end:
            column = begin
            if shared:
                place = line * plan.out_width * plan.out_step
                shared_columns(
                    plan, &taps, begin, end, x + (image * plan.height + top + taps.row * plan.dilation_h) * plan.width
                    * plan.x_step, moved(residual, place), out + place, block, smaller(block + step, block_end))
                column = end
            while column < end:
                left = column * plan.stride_w - plan.pad_left
                taps.column = first_tap(left, plan.dilation_w, plan.kernel_w)
                last = end_tap(left, plan.dilation_w, plan.kernel_w, plan.width)
                taps.columns = last - taps.column
                if inner <= column and column < after:
                    count = smaller(after, end) - column
                else:
                    count = 1  # and its neighbours that have the same taps
                    while column + count < end and column + count != inner and (
                        first_tap(left + count * plan.stride_w, plan.dilation_w, plan.kernel_w) == taps.column
                    ) and end_tap(left + count * plan.stride_w, plan.dilation_w, plan.kernel_w, plan.width) == last:
                        count += 1
                place = (line * plan.out_width + column) * plan.out_step
                run.x = x + ((image * plan.height + top + taps.row * plan.dilation_h) * plan.width
                             + left + taps.column * plan.dilation_w) * plan.x_step
                run.residual = moved(residual, place)
                run.out = out + place
                columns_of_row(&run, count, block, smaller(block + step, block_end))
                column += count
            block += step
