# A tensor from one order of memory to another.
#
# Assumes: x and out do not overlap. plan.weights points to COPY_AXES sizes, as many steps in x, and in out, all in
# elements: three outer axes and then a plane, whose last axis has the smallest step in out, and whose other one that in
# x, where these differ. Rows are those of the outermost axis times plan.height runs of plan.width entries of the
# plane's first axis, the last run having what is left; there is one block.
# Guarantees: bits are moved, whatever they mean.
# A plane is copied in runs where one axis is contiguous on both sides; where one is so in x and the other in out, as
# between channel-first and channel-last images, in tiles that are turned in registers.

cdef enum:
    COPY_AXES = 5
    LEAST_TURNED = 4  # rows or columns that are turned in registers, though fewer than LANES


cdef inline void copy_runs(i64 count, i64 size, i64 x_step, i64 out_step, const real *x, real *out) noexcept nogil:
    """`count` runs of `size` elements."""
    cdef i64 run, at
    for run in range(count):
        if size < LANES:
            for at in range(size):
                out[at] = x[at]
        else:
            for at in range(size // LANES):
                v_store(out + at * LANES, v_load(x + at * LANES))
            if size % LANES:
                v_store(out + size - LANES, v_load(x + size - LANES))
        x += x_step
        out += out_step


cdef inline void turn_tile(i64 x_step, i64 out_step, const real *x, real *out) noexcept nogil:
    """LANES x LANES elements."""
    cdef vec rows[LANES_LIMIT]
    cdef int i
    for i in range(LANES):
        rows[i] = v_load(x + i * x_step)
    turn_rows(rows)
    for i in range(LANES):
        v_store(out + i * out_step, rows[i])


cdef inline void turn_part(
    i64 across, i64 down, i64 x_step, i64 out_step, const real *x, real *out
) noexcept nogil:
    """`down` rows of `across` elements, LANES of each at most."""
    cdef vec rows[LANES_LIMIT]
    cdef int i
    for i in range(LANES):
        rows[i] = v_load_part(x + i * x_step, 0, <int> across) if i < down else v_zero()
    turn_rows(rows)
    for i in range(LANES):
        if i < across:
            if down == LANES:
                v_store(out + i * out_step, rows[i])
            else:
                v_store_first(out + i * out_step, rows[i], <int> down)


cdef inline void turn_few(
    const int down, i64 across, i64 x_step, i64 out_step, const real *x, real *out
) noexcept nogil:
    cdef i64 a
    cdef int b
    for a in range(across):
        for b in range(down):
            out[a * out_step + b] = x[b * x_step + a]


cdef void turn_plane(i64 across, i64 down, i64 x_step, i64 out_step, const real *x, real *out) noexcept nogil:
    """out[a][b] = x[b][a]: `down` rows of `across` elements, `x_step` apart, become columns."""
    cdef i64 a, b, n, last_a, last_b
    if across >= LANES and down >= LANES:
        b = 0
        while b < down:
            for a in range(ceil_div(across, LANES)):
                last_a = smaller(a * LANES, across - LANES)
                for n in range(ceil_div(smaller(LINE, down - b), LANES)):
                    last_b = smaller(b + n * LANES, down - LANES)  # the last tile slides back over its neighbour
                    turn_tile(x_step, out_step, x + last_b * x_step + last_a, out + last_a * out_step + last_b)
            b += LINE
    elif down == 2 and out_step == 2:
        for a in range(across // LANES):
            v_store(out, v_interleave_low(v_load(x), v_load(x + x_step)))
            v_store(out + LANES, v_interleave_high(v_load(x), v_load(x + x_step)))
            x += LANES
            out += 2 * LANES
        turn_few(2, across % LANES, x_step, 2, x, out)
    elif down == 3 and out_step == 3:  # colours
        for a in range(across // LANES):
            v_store(out, v_interleave_3_first(v_load(x), v_load(x + x_step), v_load(x + 2 * x_step)))
            v_store(out + LANES, v_interleave_3_second(v_load(x), v_load(x + x_step), v_load(x + 2 * x_step)))
            v_store(out + 2 * LANES, v_interleave_3_third(v_load(x), v_load(x + x_step), v_load(x + 2 * x_step)))
            x += LANES
            out += 3 * LANES
        turn_few(3, across % LANES, x_step, 3, x, out)
    elif down == 3:
        turn_few(3, across, x_step, out_step, x, out)
    elif down == 4:
        turn_few(4, across, x_step, out_step, x, out)
    elif LEAST_TURNED <= LANES // 2 and smaller(across, down) >= LEAST_TURNED:
        for b in range(ceil_div(down, LANES)):
            for a in range(ceil_div(across, LANES)):
                turn_part(
                    smaller(LANES, across - a * LANES), smaller(LANES, down - b * LANES), x_step, out_step,
                    x + b * LANES * x_step + a * LANES, out + a * LANES * out_step + b * LANES)
    elif down < across:
        for b in range(down):
            for a in range(across):
                out[a * out_step + b] = x[b * x_step + a]
    else:
        for a in range(across):
            for b in range(down):
                out[a * out_step + b] = x[b * x_step + a]


cdef void copy_strided(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef const i64 *sizes = <const i64 *> plan.weights
    cdef const i64 *x_steps = sizes + COPY_AXES
    cdef const i64 *out_steps = x_steps + COPY_AXES
    cdef i64 x_across = x_steps[3], x_down = x_steps[4], out_across = out_steps[3], out_down = out_steps[4]
    cdef i64 down = sizes[4], row, outer, b, c, first, across, i, j
    cdef const real *source
    cdef real *target
    for row in range(row_begin, row_end):
        outer = row // plan.height
        first = (row - outer * plan.height) * plan.width
        across = plan.width if (row + 1) % plan.height else sizes[3] - first
        for b in range(sizes[1]):
            for c in range(sizes[2]):
                source = x + outer * x_steps[0] + b * x_steps[1] + c * x_steps[2] + first * x_across
                target = out + outer * out_steps[0] + b * out_steps[1] + c * out_steps[2] + first * out_across
                if x_down == 1 and out_down == 1:
                    copy_runs(across, down, x_across, out_across, source, target)
                elif x_across == 1 and out_down == 1:
                    turn_plane(across, down, x_down, out_across, source, target)
                else:
                    for i in range(across):
                        for j in range(down):
                            target[i * out_across + j * out_down] = source[i * x_across + j * x_down]
