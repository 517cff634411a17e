# Softmax and normalisations: statistics of elements that belong together, and then each of them once more.
#
# Assumes: contiguous tensors. Rows are rows of plan.in_channels elements, blocks are one; for `instance_norm` rows are
# channel-last images, blocks runs of NORM_RUN channels.
# Guarantees: sums are taken in an order that depends neither on vectors nor on how rows are shared. NaN passes.

cdef enum:
    SUMS = 16      # parts of a sum, of which every vector has a whole number
    EXPS = 4       # vectors step by step
    NORM_RUN = 16  # channels
    STRETCH = 256  # pixels of a row that are added up by themselves: a sum of a million would lose digits


cdef inline real sum_of(const real *x, i64 count, real centre, const bint squares) noexcept nogil:
    """Sum of x, or of (x - centre)^2, in SUMS parts that are added in order."""
    cdef vec parts[SUMS]
    cdef vec d, middle = v_splat(centre)
    cdef real apart[SUMS]
    cdef real rest
    cdef i64 at = 0
    cdef int i, vectors = SUMS // LANES
    for i in range(vectors):
        parts[i] = v_zero()
    while at + SUMS <= count:
        for i in range(vectors):
            d = v_load(x + at + i * LANES)
            if squares:
                d = v_sub(d, middle)
                d = v_mul(d, d)
            parts[i] = v_add(parts[i], d)
        at += SUMS
    for i in range(vectors):
        v_store(apart + i * LANES, parts[i])
    for i in range(<int> (count - at)):
        rest = x[at + i] - centre if squares else x[at + i]
        apart[i] += rest * rest if squares else rest
    for i in range(1, SUMS):
        apart[0] += apart[i]
    return apart[0]


cdef inline real most_of(const real *x, i64 count) noexcept nogil:
    """The largest of x; NaN if there is one."""
    cdef vec most[EXPS]
    cdef real apart[LANES_LIMIT]
    cdef real found = x[0]
    cdef i64 at = 0
    cdef int i, lanes = 1
    apart[0] = x[0]
    if count >= LANES:
        lanes = LANES
        for i in range(EXPS):
            most[i] = v_load(x)
        while at + EXPS * LANES <= count:
            for i in range(EXPS):
                most[i] = v_maximum(most[i], v_load(x + at + i * LANES))
            at += EXPS * LANES
        while at < count:
            at = smaller(at, count - LANES)  # the last vector slides back over its neighbour
            most[0] = v_maximum(most[0], v_load(x + at))
            at += LANES
        for i in range(1, EXPS):
            most[0] = v_maximum(most[0], most[i])
        v_store(apart, most[0])
    for i in range(lanes):
        if apart[i] > found or apart[i] != apart[i]:  # a NaN stays, since nothing is greater
            found = apart[i]
    if count < LANES:
        for at in range(count):
            if x[at] > found or x[at] != x[at]:
                found = x[at]
    return found


cdef inline void powers(const int count, const int lanes, const real *x, vec most, real *out) noexcept nogil:
    """exp(x - most) of `count` vectors; `lanes`: of one alone."""
    cdef vec v[EXPS]
    cdef int i
    for i in range(count):
        v[i] = v_load(x + i * LANES) if lanes == LANES else v_load_part(x, 0, lanes)
        v[i] = exp_domain(v_sub(v[i], most))
    exp_of(count, v)
    for i in range(count):
        if lanes == LANES:
            v_store(out + i * LANES, v[i])
        else:
            v_store_part(out, v[i], 0, lanes)


cdef void softmax(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """exp(x - m) / sum of that, m being the largest of a row."""
    cdef i64 count = plan.in_channels, row, at
    cdef int rest = <int> (count % LANES)
    cdef const real *source
    cdef real *target
    cdef vec most, total
    for row in range(row_begin, row_end):
        source = x + row * count
        target = out + row * count
        most = v_splat(most_of(source, count))
        at = 0
        while at + EXPS * LANES <= count:
            powers(EXPS, LANES, source + at, most, target + at)
            at += EXPS * LANES
        while at + LANES <= count:
            powers(1, LANES, source + at, most, target + at)
            at += LANES
        if rest:
            powers(1, rest, source + at, most, target + at)
        total = v_splat(sum_of(target, count, 0, False))
        at = 0
        while at + LANES <= count:
            v_store(target + at, v_div(v_load(target + at), total))
            at += LANES
        if rest:
            v_store_part(target + at, v_div(v_load_part(target + at, 0, rest), total), 0, rest)


cdef inline vec normal(vec v, vec mean, vec inverse, vec scale, vec bias) noexcept nogil:
    return v_add(v_mul(v_mul(v_sub(v, mean), inverse), scale), bias)


cdef void layer_norm(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """(x - mean) / sqrt(variance + plan.alpha) of every row, times scale plus bias.

    plan.weights points to the scale of every channel, plan.bias to their biases.
    """
    cdef i64 count = plan.in_channels, row, at
    cdef int rest = <int> (count % LANES)
    cdef const real *scale = <const real *> plan.weights
    cdef const real *bias = <const real *> plan.bias
    cdef const real *source
    cdef real *target
    cdef real middle
    cdef vec mean, inverse
    for row in range(row_begin, row_end):
        source = x + row * count
        target = out + row * count
        middle = sum_of(source, count, 0, False) / <real> count
        mean = v_splat(middle)
        inverse = v_splat(1 / v_root(sum_of(source, count, middle, True) / <real> count + <real> plan.alpha))
        at = 0
        while at + LANES <= count:
            v_store(target + at, normal(v_load(source + at), mean, inverse, v_load(scale + at), v_load(bias + at)))
            at += LANES
        if rest:
            v_store_part(
                target + at,
                normal(
                    v_load_part(source + at, 0, rest), mean, inverse, v_load_part(scale + at, 0, rest),
                    v_load_part(bias + at, 0, rest)),
                0, rest)


cdef inline void instance_vectors(
    const int count, const int lanes, const Plan *plan, const real *x, const real *scale, const real *bias,
    real epsilon, real *out
) noexcept nogil:
    """`count` vectors of channels of an image; `lanes`: of one alone."""
    cdef vec mean[NORM_RUN]
    cdef vec inverse[NORM_RUN]
    cdef vec part[NORM_RUN]       # of a stretch, of a row, and of the image
    cdef vec long_part[NORM_RUN]
    cdef vec total[NORM_RUN]
    cdef vec v, low = v_splat(<real> plan.low), high = v_splat(<real> plan.high)
    cdef real pixels = <real> (plan.height * plan.width)
    cdef i64 row, column, begin, channels = plan.in_channels
    cdef const real *source
    cdef real deviations[LANES_LIMIT]
    cdef int i, j, turn
    for turn in range(2):  # first the means, and then squares of what is beside them
        source = x
        for i in range(count):
            total[i] = v_zero()
        for row in range(plan.height):
            for i in range(count):
                long_part[i] = v_zero()
            begin = 0
            while begin < plan.width:
                for i in range(count):
                    part[i] = v_zero()
                for column in range(begin, smaller(begin + STRETCH, plan.width)):
                    for i in range(count):
                        v = v_load(source + i * LANES) if lanes == LANES else v_load_part(source, 0, lanes)
                        if turn == 1:
                            v = v_sub(v, mean[i])
                            v = v_mul(v, v)
                        part[i] = v_add(part[i], v)
                    source += channels
                for i in range(count):
                    long_part[i] = v_add(long_part[i], part[i])
                begin += STRETCH
            for i in range(count):
                total[i] = v_add(total[i], long_part[i])
        for i in range(count):
            if turn == 0:
                mean[i] = v_div(total[i], v_splat(pixels))
            else:
                v_store(deviations, v_add(v_div(total[i], v_splat(pixels)), v_splat(epsilon)))
                for j in range(LANES):
                    deviations[j] = 1 / v_root(deviations[j])
                inverse[i] = v_load(deviations)
    for i in range(count):
        part[i] = v_load(scale + i * LANES) if lanes == LANES else v_load_part(scale, 0, lanes)
        total[i] = v_load(bias + i * LANES) if lanes == LANES else v_load_part(bias, 0, lanes)
    source = x
    for row in range(plan.height * plan.width):
        for i in range(count):
            v = v_load(source + i * LANES) if lanes == LANES else v_load_part(source, 0, lanes)
            v = v_clamp(normal(v, mean[i], inverse[i], part[i], total[i]), low, high)
            if lanes == LANES:
                v_store(out + row * channels + i * LANES, v)
            else:
                v_store_part(out + row * channels, v, 0, lanes)
        source += channels


cdef void instance_norm(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """(x - mean) / sqrt(variance + epsilon) of every channel of an image, times scale plus bias, activated.

    plan.weights points to the scale of every channel, plan.bias to their biases and, after these, epsilon.
    """
    cdef i64 channels = plan.in_channels, size = plan.height * plan.width * channels, row, at, end
    cdef const real *scale = <const real *> plan.weights
    cdef const real *bias = <const real *> plan.bias
    cdef const real *image
    cdef real *target
    for row in range(row_begin, row_end):
        image = x + row * size
        target = out + row * size
        at = block_begin * NORM_RUN
        end = smaller(block_end * NORM_RUN, channels)
        while at + NORM_RUN <= end:
            instance_vectors(
                NORM_RUN // LANES, LANES, plan, image + at, scale + at, bias + at, bias[channels], target + at)
            at += NORM_RUN
        while at < end:
            if at + LANES <= end:
                instance_vectors(1, LANES, plan, image + at, scale + at, bias + at, bias[channels], target + at)
            else:
                instance_vectors(
                    1, <int> (end - at), plan, image + at, scale + at, bias + at, bias[channels], target + at)
            at += LANES
        at = block_begin * NORM_RUN
        activate(plan, target + at, plan.height * plan.width, channels, end - at)
