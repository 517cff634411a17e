# Depthwise windows of few taps, pixel by pixel: what depthwise_any.pxi does with runs of columns where tiles of one column
# are asked for.
#
# Tiles of several columns read channels of one pixel, then the same channels of the next; images that come from L3 or
# memory come faster in the order in which they lie, and with few taps it costs little to load each input and each weight
# for every output. Assumes: as many channels as lanes or more, one output each; all blocks of a pixel, since
# the last one, which slides back, writes its neighbour's channels again. Guarantees: those of depthwise_any.pxi.
# Loops, outermost first: columns; channel blocks; taps, unrolled.

cdef inline void stream(const int taps, const Run *run, i64 columns, i64 block_begin, i64 block_end) noexcept nogil:
    """`columns` neighbouring columns, of which `taps` taps are valid."""
    cdef const Plan *plan = run.plan
    cdef vec acc, low = v_splat(<real> plan.low), high = v_splat(<real> plan.high)
    cdef i64 x_row = plan.dilation_h * plan.width * plan.x_step, x_column = plan.dilation_w * plan.x_step
    cdef i64 size = plan.kernel_h * plan.kernel_w * LANES, h = 0, k = 0, t, column, block
    cdef i64 last = larger(block_end * LANES - plan.in_channels, 0)  # how far the last block slides back
    cdef i64 places[MOST_STREAMED]
    cdef i64 weight_places[MOST_STREAMED]
    cdef const real *first = <const real *> plan.weights + (
        (block_begin * plan.kernel_h + run.taps.row) * plan.kernel_w + run.taps.column) * LANES
    cdef const real *x = run.x + block_begin * LANES
    cdef const real *residual = run.residual
    cdef const real *weights
    cdef const real *bias
    cdef const real *p
    cdef real *out = run.out + block_begin * LANES
    cdef real *q
    cdef i64 added = (<i64> residual - <i64> run.out) // <i64> sizeof(real)
    for t in range(taps):
        places[t] = h * x_row + k * x_column
        weight_places[t] = (h * plan.kernel_w + k) * LANES
        k += 1
        if k == run.taps.columns:
            k = 0
            h += 1
    for column in range(columns):
        weights = first
        bias = <const real *> plan.bias + block_begin * LANES
        p = x
        q = out
        for block in range(block_begin, block_end):
            if block + 1 == block_end:
                p -= last
                q -= last
            acc = v_load(bias)
            for t in range(taps):
                acc = v_fma(v_load(p + places[t]), v_load(weights + weight_places[t]), acc)
            if residual != NULL:
                acc = v_add(acc, v_load(q + added))
            v_store(q, ended(plan.hardswish, acc, low, high))
            weights += size
            bias += LANES
            p += LANES
            q += LANES
        x += plan.stride_w * plan.x_step
        out += plan.out_step


ctypedef void (*Stream)(const Run *run, i64 columns, i64 block_begin, i64 block_end) noexcept nogil

cdef void stream_1(const Run *run, i64 columns, i64 begin, i64 end) noexcept nogil: stream(1, run, columns, begin, end)
cdef void stream_2(const Run *run, i64 columns, i64 begin, i64 end) noexcept nogil: stream(2, run, columns, begin, end)
cdef void stream_3(const Run *run, i64 columns, i64 begin, i64 end) noexcept nogil: stream(3, run, columns, begin, end)
cdef void stream_4(const Run *run, i64 columns, i64 begin, i64 end) noexcept nogil: stream(4, run, columns, begin, end)
cdef void stream_5(const Run *run, i64 columns, i64 begin, i64 end) noexcept nogil: stream(5, run, columns, begin, end)
cdef void stream_6(const Run *run, i64 columns, i64 begin, i64 end) noexcept nogil: stream(6, run, columns, begin, end)
cdef void stream_7(const Run *run, i64 columns, i64 begin, i64 end) noexcept nogil: stream(7, run, columns, begin, end)
cdef void stream_8(const Run *run, i64 columns, i64 begin, i64 end) noexcept nogil: stream(8, run, columns, begin, end)
cdef void stream_9(const Run *run, i64 columns, i64 begin, i64 end) noexcept nogil: stream(9, run, columns, begin, end)


cdef inline Stream stream_of(i64 taps) noexcept nogil:
    if taps == 1:
        return stream_1
    if taps == 2:
        return stream_2
    if taps == 3:
        return stream_3
    if taps == 4:
        return stream_4
    if taps == 5:
        return stream_5
    if taps == 6:
        return stream_6
    if taps == 7:
        return stream_7
    if taps == 8:
        return stream_8
    return stream_9
