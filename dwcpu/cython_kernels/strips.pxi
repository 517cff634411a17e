# Strips of depthwise_strips.pxi: up to MOST_STRIP outputs of a row whose sums stay in registers.
#
# Inputs are what that holds: what a tap of neighbouring outputs reads is a run of vectors. Where neighbours share inputs,
# SHARED taps at a time load each once: from L1 not even one load for each multiply-add can be had. At the borders of the
# image the first taps of a row are for the last outputs only, and the last taps for the first. Windows one input apart
# then take input after input, each for all outputs whose windows it is in, of which there are no more than taps. Others
# take tap after tap: as many loops as there are outputs, one behind the other, each of which knows which.
# Loops, outermost first: multiplier; rows of taps; taps.

cdef enum:
    MOST_STRIP = 10
    SHARED = 3       # taps


cdef struct Strip:         # neighbouring outputs of a phase, of a channel block
    const real *x          # what is held of the block, moved by the place of the first of them
    const i64 *places
    const real *weights    # of the first row of taps that is in the image
    const real *bias
    i64 row                # of the image, modulo plan.ring_rows, that this reads
    i64 rows               # of taps
    bint cut               # whether some of their windows' columns are outside
    i64 begin              # inputs of these columns that are not, where neighbouring outputs share inputs
    i64 end
    i64 begins[MOST_STRIP] # first tap in a row of each output that is in the image
    i64 ends[MOST_STRIP]   # and one past the last


cdef inline i64 plan_row(const Plan *plan) noexcept nogil:
    """Elements of an input row that is held: no more remainders than columns."""
    return smaller(phases_of(plan.stride_w, plan.dilation_w) * plan.stride_w, plan.width) * plan.window_size


cdef void put_strip(
    const Plan *plan, const Lanes *lanes, i64 m, i64 count, i64 out_step, const real *sums, const real *residual, real *out
) noexcept nogil:
    """Epilogue of a strip's sums, a loop and not unrolled: there are many strips, and a large window hides it."""
    cdef vec low = v_splat(<real> plan.low), high = v_splat(<real> plan.high), v
    count = v_anew_step(count)
    if plan.multiplier > 1 or lanes.first > 0:
        put_parts(plan, lanes, m, count, 0, out_step, sums, residual, out)
        return
    residual = moved(residual, lanes.channel)
    out += lanes.channel
    while count > 0:
        v = v_load(sums)
        if residual != NULL:
            v = v_add(v, v_load(residual))
            residual += out_step
        v_store(out, ended(plan.hardswish, v, low, high))
        sums += LANES
        out += out_step
        count -= 1


cdef inline void add_taps(
    const int first, const int last, vec *acc, const real *x, const i64 **places, const real **weights, i64 w_step,
    i64 *tap, i64 end
) noexcept nogil:
    """The taps before `end` of a row, for the outputs first .. last - 1."""
    cdef const real *p
    cdef vec w
    cdef int j
    while tap[0] < end:
        w = v_load(weights[0])
        p = x + places[0][0]
        for j in range(first, last):
            acc[j] = v_fma(v_load(p + j * LANES), w, acc[j])
        weights[0] += w_step
        places[0] += 1
        tap[0] += 1


cdef inline void taps_close(
    const int count, vec *acc, const real *x, const real *weights, i64 w_step
) noexcept nogil:
    """SHARED taps where neighbouring outputs share inputs."""
    cdef vec w[SHARED]
    cdef vec v
    cdef int k, q
    for k in range(SHARED):
        w[k] = v_load(weights + k * w_step)
    x = v_anew(x)
    for q in range(count + SHARED - 1):
        v = v_in_register(v_load(x + q * LANES))
        for k in range(SHARED):
            if q - k >= 0 and q - k < count:
                acc[q - k] = v_fma_onto(v, w[k], acc[q - k])


cdef inline void taps_by_two(
    const int count, vec *acc, const real *x, const real *other, const real *weights, i64 w_step
) noexcept nogil:
    """SHARED taps where outputs share every second one's inputs; `other` is where those of the second tap are."""
    cdef vec first = v_load(weights), second = v_load(weights + w_step), third = v_load(weights + 2 * w_step), v
    cdef int j
    x = v_anew(x)
    other = v_anew(other)
    for j in range(count + 1):
        v = v_in_register(v_load(x + j * LANES))
        if j > 0:
            acc[j - 1] = v_fma_onto(v, third, acc[j - 1])
        if j < count:
            acc[j] = v_fma_onto(v, first, acc[j])
            acc[j] = v_fma_onto_from(second, other + j * LANES, acc[j])


cdef inline void input_of(const int first, const int last, vec *acc, const real *x, const real *weights) noexcept nogil:
    """One input for the outputs first .. last - 1; for output 0 it is that of the tap that `weights` are of."""
    cdef vec v = v_in_register(v_load(x))
    cdef int j
    for j in range(first, last):
        acc[j] = v_fma_onto_from(v, weights - j * LANES, acc[j])


cdef inline void inputs_close(
    const int count, vec *acc, const real *x, const real *weights, i64 taps, i64 begin, i64 end
) noexcept nogil:
    """A row of taps, no fewer than outputs, where the inputs begin .. end - 1 of count + taps - 1 are in the image.

    The first inputs are for the first outputs only, the last ones for the last; `end` is not among the first, nor
    `begin` among the last.
    """
    cdef i64 q = larger(begin, count - 1), stop = smaller(end, taps)
    if count > 1 and begin < 1: input_of(0, 1, acc, x + 0 * LANES, weights + 0 * LANES)
    if count > 2 and begin < 2: input_of(0, 2, acc, x + 1 * LANES, weights + 1 * LANES)
    if count > 3 and begin < 3: input_of(0, 3, acc, x + 2 * LANES, weights + 2 * LANES)
    if count > 4 and begin < 4: input_of(0, 4, acc, x + 3 * LANES, weights + 3 * LANES)
    if count > 5 and begin < 5: input_of(0, 5, acc, x + 4 * LANES, weights + 4 * LANES)
    if count > 6 and begin < 6: input_of(0, 6, acc, x + 5 * LANES, weights + 5 * LANES)
    if count > 7 and begin < 7: input_of(0, 7, acc, x + 6 * LANES, weights + 6 * LANES)
    if count > 8 and begin < 8: input_of(0, 8, acc, x + 7 * LANES, weights + 7 * LANES)
    if count > 9 and begin < 9: input_of(0, 9, acc, x + 8 * LANES, weights + 8 * LANES)
    while q < stop:
        input_of(0, count, acc, x + q * LANES, weights + q * LANES)
        q += 1
    x += taps * LANES
    weights += taps * LANES
    end -= taps
    if count > 1 and end > 0: input_of(1, count, acc, x + 0 * LANES, weights + 0 * LANES)
    if count > 2 and end > 1: input_of(2, count, acc, x + 1 * LANES, weights + 1 * LANES)
    if count > 3 and end > 2: input_of(3, count, acc, x + 2 * LANES, weights + 2 * LANES)
    if count > 4 and end > 3: input_of(4, count, acc, x + 3 * LANES, weights + 3 * LANES)
    if count > 5 and end > 4: input_of(5, count, acc, x + 4 * LANES, weights + 4 * LANES)
    if count > 6 and end > 5: input_of(6, count, acc, x + 5 * LANES, weights + 5 * LANES)
    if count > 7 and end > 6: input_of(7, count, acc, x + 6 * LANES, weights + 6 * LANES)
    if count > 8 and end > 7: input_of(8, count, acc, x + 7 * LANES, weights + 7 * LANES)
    if count > 9 and end > 8: input_of(9, count, acc, x + 8 * LANES, weights + 8 * LANES)


cdef inline void strip_outputs(
    const int count, const int apart, const Plan *plan, const Strip *strip, const Lanes *lanes, i64 out_step,
    const real *residual, real *out
) noexcept nogil:
    """`count` outputs of every multiple, whose windows are 1 or 2 inputs apart, or more (0)."""
    cdef vec acc[MOST_STRIP]
    cdef vec v
    cdef real sums[MOST_STRIP * LANES]
    cdef i64 w_step = v_anew_step(plan.multiplier * LANES), m, h, tap, end, row, row_size = plan_row(plan)
    cdef const i64 *places
    cdef const i64 *begins = strip.begins
    cdef const i64 *ends = strip.ends
    cdef const real *x
    cdef const real *w
    cdef const real *row_weights
    cdef int j
    for m in range(plan.multiplier):
        v = v_load(strip.bias + m * LANES)
        for j in range(count):
            acc[j] = v
        row_weights = strip.weights + m * LANES
        row = strip.row
        for h in range(strip.rows):
            x = strip.x + row * row_size
            tap = begins[count - 1]
            places = strip.places + tap
            w = row_weights + tap * w_step
            row_weights += plan.kernel_w * w_step
            row += plan.dilation_h
            if row >= plan.ring_rows:
                row -= plan.ring_rows
            if apart == 1 and strip.cut:
                inputs_close(
                    count, acc, x + strip.places[0], w - tap * w_step, plan.kernel_w, strip.begin, strip.end)
                continue
            if apart != 1 and tap < begins[0]:
                if count > 9: add_taps(9, count, acc, x, &places, &w, w_step, &tap, begins[8])
                if count > 8: add_taps(8, count, acc, x, &places, &w, w_step, &tap, begins[7])
                if count > 7: add_taps(7, count, acc, x, &places, &w, w_step, &tap, begins[6])
                if count > 6: add_taps(6, count, acc, x, &places, &w, w_step, &tap, begins[5])
                if count > 5: add_taps(5, count, acc, x, &places, &w, w_step, &tap, begins[4])
                if count > 4: add_taps(4, count, acc, x, &places, &w, w_step, &tap, begins[3])
                if count > 3: add_taps(3, count, acc, x, &places, &w, w_step, &tap, begins[2])
                if count > 2: add_taps(2, count, acc, x, &places, &w, w_step, &tap, begins[1])
                if count > 1: add_taps(1, count, acc, x, &places, &w, w_step, &tap, begins[0])
            end = ends[count - 1]
            if apart > 0:
                while tap + SHARED <= end:
                    if apart == 1:
                        taps_close(count, acc, x + places[0], w, w_step)
                    else:
                        taps_by_two(count, acc, x + places[0], x + places[1], w, w_step)
                    w += SHARED * w_step
                    places += SHARED
                    tap += SHARED
            add_taps(0, count, acc, x, &places, &w, w_step, &tap, end)
            if apart != 1 and end < ends[0]:
                if count > 9: add_taps(0, 9, acc, x, &places, &w, w_step, &tap, ends[8])
                if count > 8: add_taps(0, 8, acc, x, &places, &w, w_step, &tap, ends[7])
                if count > 7: add_taps(0, 7, acc, x, &places, &w, w_step, &tap, ends[6])
                if count > 6: add_taps(0, 6, acc, x, &places, &w, w_step, &tap, ends[5])
                if count > 5: add_taps(0, 5, acc, x, &places, &w, w_step, &tap, ends[4])
                if count > 4: add_taps(0, 4, acc, x, &places, &w, w_step, &tap, ends[3])
                if count > 3: add_taps(0, 3, acc, x, &places, &w, w_step, &tap, ends[2])
                if count > 2: add_taps(0, 2, acc, x, &places, &w, w_step, &tap, ends[1])
                if count > 1: add_taps(0, 1, acc, x, &places, &w, w_step, &tap, ends[0])
        for j in range(count):
            v_store(sums + j * LANES, acc[j])
        put_strip(plan, lanes, m, count, out_step, sums, residual, out)


# Each in a function of its own that is called by its address: GCC takes far longer for all in one.

ctypedef void (*Outputs)(
    const Plan *plan, const Strip *strip, const Lanes *lanes, i64 out_step, const real *residual, real *out
) noexcept nogil

cdef void far_1(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(1, 0, p, s, l, step, r, out)

cdef void close_2(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(2, 1, p, s, l, step, r, out)

cdef void by_two_2(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(2, 2, p, s, l, step, r, out)

cdef void far_2(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(2, 0, p, s, l, step, r, out)

cdef void close_3(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(3, 1, p, s, l, step, r, out)

cdef void by_two_3(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(3, 2, p, s, l, step, r, out)

cdef void far_3(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(3, 0, p, s, l, step, r, out)

cdef void close_4(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(4, 1, p, s, l, step, r, out)

cdef void by_two_4(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(4, 2, p, s, l, step, r, out)

cdef void far_4(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(4, 0, p, s, l, step, r, out)

cdef void close_5(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(5, 1, p, s, l, step, r, out)

cdef void by_two_5(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(5, 2, p, s, l, step, r, out)

cdef void far_5(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(5, 0, p, s, l, step, r, out)

cdef void close_6(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(6, 1, p, s, l, step, r, out)

cdef void by_two_6(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(6, 2, p, s, l, step, r, out)

cdef void far_6(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(6, 0, p, s, l, step, r, out)

cdef void close_7(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(7, 1, p, s, l, step, r, out)

cdef void by_two_7(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(7, 2, p, s, l, step, r, out)

cdef void far_7(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(7, 0, p, s, l, step, r, out)

cdef void close_8(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(8, 1, p, s, l, step, r, out)

cdef void by_two_8(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(8, 2, p, s, l, step, r, out)

cdef void far_8(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(8, 0, p, s, l, step, r, out)

cdef void close_9(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(9, 1, p, s, l, step, r, out)

cdef void by_two_9(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(9, 2, p, s, l, step, r, out)

cdef void far_9(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(9, 0, p, s, l, step, r, out)

cdef void close_10(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(10, 1, p, s, l, step, r, out)

cdef void by_two_10(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(10, 2, p, s, l, step, r, out)

cdef void far_10(
    const Plan *p, const Strip *s, const Lanes *l, i64 step, const real *r, real *out
) noexcept nogil: strip_outputs(10, 0, p, s, l, step, r, out)


cdef inline Outputs outputs_of(i64 apart, i64 count) noexcept nogil:
    """The function for so many outputs, whose windows are 1 or 2 inputs apart, or more."""
    if apart == 1:
        if count == 2:
            return close_2
        if count == 3:
            return close_3
        if count == 4:
            return close_4
        if count == 5:
            return close_5
        if count == 6:
            return close_6
        if count == 7:
            return close_7
        if count == 8:
            return close_8
        if count == 9:
            return close_9
        return far_1 if count == 1 else close_10
    if apart == 2:
        if count == 2:
            return by_two_2
        if count == 3:
            return by_two_3
        if count == 4:
            return by_two_4
        if count == 5:
            return by_two_5
        if count == 6:
            return by_two_6
        if count == 7:
            return by_two_7
        if count == 8:
            return by_two_8
        if count == 9:
            return by_two_9
        return far_1 if count == 1 else by_two_10
    if count == 2:
        return far_2
    if count == 3:
        return far_3
    if count == 4:
        return far_4
    if count == 5:
        return far_5
    if count == 6:
        return far_6
    if count == 7:
        return far_7
    if count == 8:
        return far_8
    if count == 9:
        return far_9
    return far_1 if count == 1 else far_10
