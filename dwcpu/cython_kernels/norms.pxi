# Softmax and normalisations: statistics of elements that belong together, and then each of them once more.
#
# Assumes: contiguous tensors. Rows are rows of plan.in_channels elements, blocks are one; for `stretch_moments` rows
# are stretches of MOMENT_STRETCH pixels of channel-last images, blocks runs of MOMENT_RUN channels; for `moments` rows
# are images; for `group_norm` rows are pixels.
# Guarantees: sums are taken in an order that depends neither on vectors nor on how rows are shared. NaN passes.

cdef enum:
    EXPS = 4             # vectors step by step
    MOMENT_RUN = 32      # channels
    MOMENT_VECTORS = 16  # that they are, at most
    MOMENT_STRETCH = 64  # pixels that are read twice while they are in L1
    TURN_PIXELS = 16     # that are normalised, and then activated


cdef inline real sum_of_vectors(const int count, const vec *v) noexcept nogil:
    """Sum of a row, as `sum_of` adds it up."""
    cdef vec parts[SUMS]
    cdef int i, half = SUMS // LANES
    for i in range(count):
        parts[i % half] = v_add(parts[i % half], v[i]) if i >= half else v[i]
    while half > 1:
        half //= 2
        for i in range(half):
            if i + half < count:
                parts[i] = v_add(parts[i], parts[i + half])
    return v_sum(parts[0])


cdef inline real sum_of(const real *x, i64 count, real centre, const bint squares) noexcept nogil:
    """Sum of x, or of (x - centre)^2, in SUMS parts that are added halves on halves."""
    cdef vec parts[SUMS]
    cdef vec d, middle = v_splat(centre)
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
        if at + i * LANES < count:
            d = v_load_where(v_inside(0, count - at - i * LANES), x + at + i * LANES)
            if squares:
                d = v_sub(d, middle)
                d = v_select(v_inside(0, count - at - i * LANES), v_mul(d, d), v_zero())
            parts[i] = v_add(parts[i], d)
    return sum_of_vectors(vectors, parts)


cdef inline real most_of(const real *x, i64 count) noexcept nogil:
    """The largest of x; NaN if there is one."""
    cdef vec most[EXPS]
    cdef i64 at = 0
    cdef int i
    if count < LANES:
        return v_largest(v_select(v_inside(0, count), v_load_where(v_inside(0, count), x), v_splat(x[0])))
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
    return v_largest(v_maximum(v_maximum(most[0], most[1]), v_maximum(most[2], most[3])))


cdef inline void store_last(real *out, i64 at, vec before, vec v, vec_bits numbers, int last) noexcept nogil:
    """The last vector of a row, of `last` lanes, at out + at; `before` is the one in front of it, if there is one."""
    if last == LANES:
        v_store(out + at, v)
    elif at > 0:
        v_store_end(out + at, before, v, numbers, last)
    else:
        v_store_part(out, v, 0, last)


cdef inline void exps_of(const int count, vec *v, vec most, vec least) noexcept nogil:
    """exp(v - most), or 0 where v - most is less than `least`."""
    cdef vec d[EXPS]
    cdef int i
    for i in range(count):
        d[i] = v_sub(v[i], most)
        v[i] = v_at_least(v_neg_abs(d[i]), least)
    exp_of(count, v)
    for i in range(count):
        v[i] = v_select_less(d[i], least, v_zero(), v[i])


cdef inline void softmax_short(
    const int count, int last, i64 rows, i64 columns, const real *x, vec least, vec_bits numbers, real *out
) noexcept nogil:
    """Of rows that are `count` vectors, the last with `last` lanes."""
    cdef vec v[EXPS]
    cdef vec most, share
    cdef vec_lanes inside = v_inside(0, last)
    cdef i64 row
    cdef int i
    for row in range(rows):
        for i in range(count - 1):
            v[i] = v_load(x + i * LANES)
        v[count - 1] = v_select(inside, v_load_where(inside, x + (count - 1) * LANES), v_splat(x[0]))
        most = v[0]
        for i in range(1, count):
            most = v_maximum(most, v[i])
        exps_of(count, v, v_splat(v_largest(most)), least)
        v[count - 1] = v_select(inside, v[count - 1], v_zero())
        share = v_splat(1 / sum_of_vectors(count, v))
        for i in range(count):
            v[i] = v_mul(v[i], share)
            if i < count - 1:
                v_store(out + i * LANES, v[i])
        store_last(out, (count - 1) * LANES, v[count - 2] if count > 1 else share, v[count - 1], numbers, last)
        x += columns
        out += columns


cdef inline void softmax_long(
    int last, i64 rows, i64 columns, const real *x, vec least, vec_bits numbers, real *out
) noexcept nogil:
    cdef vec v[EXPS]
    cdef vec most, share, before = v_zero()
    cdef i64 row, at
    cdef int i
    for row in range(rows):
        most = v_splat(most_of(x, columns))
        at = 0
        while at + EXPS * LANES < columns:
            for i in range(EXPS):
                v[i] = v_load(x + at + i * LANES)
            exps_of(EXPS, v, most, least)
            for i in range(EXPS):
                v_store(out + at + i * LANES, v[i])
            at += EXPS * LANES
            before = v[EXPS - 1]
        while at < columns:
            v[0] = v_load(x + at) if at + LANES <= columns else v_load_part(x + at, 0, last)
            exps_of(1, v, most, least)
            store_last(out, at, before, v[0], numbers, LANES if at + LANES < columns else last)
            before = v[0]
            at += LANES
        share = v_splat(1 / sum_of(out, columns, 0, False))
        at = 0
        while at + LANES < columns:
            before = v_mul(v_load(out + at), share)
            v_store(out + at, before)
            at += LANES
        v[0] = v_load(out + at) if last == LANES else v_load_part(out + at, 0, last)
        store_last(out, at, before, v_mul(v[0], share), numbers, last)
        x += columns
        out += columns


cdef void softmax(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """exp(x - m) over the sum of that, m being the largest of a row.

    Below exp(plan.alpha) it is 0: what would not be normal over the largest sum that so many elements may have. Masks that
    attention adds make such numbers, with which products take many times as long.
    """
    cdef i64 columns = plan.in_channels, rows = row_end - row_begin, count = ceil_div(columns, LANES)
    cdef int last = <int> ((columns - 1) % LANES) + 1
    cdef vec least = v_splat(<real> plan.alpha)
    cdef vec_bits numbers = v_numbers_from(last)
    x += row_begin * columns
    out += row_begin * columns
    if count == 1:
        softmax_short(1, last, rows, columns, x, least, numbers, out)
    elif count == 2:
        softmax_short(2, last, rows, columns, x, least, numbers, out)
    elif count == 3:
        softmax_short(3, last, rows, columns, x, least, numbers, out)
    elif count == 4:
        softmax_short(4, last, rows, columns, x, least, numbers, out)
    else:
        softmax_long(last, rows, columns, x, least, numbers, out)


cdef inline vec normal(vec v, vec mean, vec inverse, vec scale, vec bias) noexcept nogil:
    return v_add(v_mul(v_mul(v_sub(v, mean), inverse), scale), bias)


cdef inline void layer_norm_short(
    const int count, int last, i64 rows, i64 columns, const real *x, real epsilon, const real *scale, const real *bias,
    vec_bits numbers, real *out
) noexcept nogil:
    """Of rows that are `count` vectors, the last with `last` lanes."""
    cdef vec v[EXPS]
    cdef vec parts[EXPS]
    cdef vec factor[EXPS]
    cdef vec shift[EXPS]
    cdef vec mean, inverse
    cdef vec_lanes inside = v_inside(0, last)
    cdef i64 row
    cdef int i, end = (count - 1) * LANES
    for i in range(count):
        factor[i] = v_load(scale + i * LANES) if i < count - 1 else v_load_where(inside, scale + end)
        shift[i] = v_load(bias + i * LANES) if i < count - 1 else v_load_where(inside, bias + end)
    for row in range(rows):
        for i in range(count):
            v[i] = v_load(x + i * LANES) if i < count - 1 else v_load_where(inside, x + end)
            parts[i] = v_add(v_zero(), v[i])
        mean = v_splat(sum_of_vectors(count, parts) / <real> columns)
        for i in range(count):
            v[i] = v_sub(v[i], mean)
            parts[i] = v_mul(v[i], v[i])
        parts[count - 1] = v_select(inside, parts[count - 1], v_zero())
        inverse = v_splat(1 / v_root(sum_of_vectors(count, parts) / <real> columns + epsilon))
        for i in range(count):
            v[i] = v_add(v_mul(v_mul(v[i], inverse), factor[i]), shift[i])
            if i < count - 1:
                v_store(out + i * LANES, v[i])
        store_last(out, end, v[count - 2] if count > 1 else mean, v[count - 1], numbers, last)
        x += columns
        out += columns


cdef inline void layer_norm_long(
    int last, i64 rows, i64 columns, const real *x, real epsilon, const real *scale, const real *bias, vec_bits numbers,
    real *out
) noexcept nogil:
    cdef real middle
    cdef vec mean, inverse, before
    cdef i64 row, at
    for row in range(rows):
        middle = sum_of(x, columns, 0, False) / <real> columns
        mean = v_splat(middle)
        inverse = v_splat(1 / v_root(sum_of(x, columns, middle, True) / <real> columns + epsilon))
        at = 0
        before = v_zero()
        while at + LANES < columns:
            before = normal(v_load(x + at), mean, inverse, v_load(scale + at), v_load(bias + at))
            v_store(out + at, before)
            at += LANES
        store_last(
            out, at, before,
            normal(
                v_load_part(x + at, 0, last), mean, inverse, v_load_part(scale + at, 0, last),
                v_load_part(bias + at, 0, last)),
            numbers, last)
        x += columns
        out += columns


cdef void layer_norm(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """(x - mean) / sqrt(variance + plan.alpha) of every row, times scale plus bias.

    plan.weights points to the scale of every channel, plan.bias to their biases.
    """
    cdef i64 columns = plan.in_channels, rows = row_end - row_begin, count = ceil_div(columns, LANES)
    cdef int last = <int> ((columns - 1) % LANES) + 1
    cdef const real *scale = <const real *> plan.weights
    cdef const real *bias = <const real *> plan.bias
    cdef real epsilon = <real> plan.alpha
    cdef vec_bits numbers = v_numbers_from(last)
    x += row_begin * columns
    out += row_begin * columns
    if count == 1:
        layer_norm_short(1, last, rows, columns, x, epsilon, scale, bias, numbers, out)
    elif count == 2:
        layer_norm_short(2, last, rows, columns, x, epsilon, scale, bias, numbers, out)
    elif count == 3:
        layer_norm_short(3, last, rows, columns, x, epsilon, scale, bias, numbers, out)
    elif count == 4:
        layer_norm_short(4, last, rows, columns, x, epsilon, scale, bias, numbers, out)
    else:
        layer_norm_long(last, rows, columns, x, epsilon, scale, bias, numbers, out)


cdef inline void stretch_vectors(
    const int count, const int lanes, i64 pixels, i64 channels, const real *x, real *means, real *squares
) noexcept nogil:
    """`count` vectors of channels of `pixels` pixels; `lanes`: of one alone."""
    cdef vec mean[MOMENT_VECTORS]
    cdef vec part[MOMENT_VECTORS]
    cdef vec v
    cdef const real *source = x
    cdef i64 pixel
    cdef int i
    for i in range(count):
        part[i] = v_zero()
    for pixel in range(pixels):
        for i in range(count):
            v = v_load(source + i * LANES) if lanes == LANES else v_load_part(source, 0, lanes)
            part[i] = v_add(part[i], v)
        source += channels
    for i in range(count):
        mean[i] = v_div(part[i], v_splat(<real> pixels))
        part[i] = v_zero()
    source = x
    for pixel in range(pixels):
        for i in range(count):
            v = v_load(source + i * LANES) if lanes == LANES else v_load_part(source, 0, lanes)
            v = v_sub(v, mean[i])
            part[i] = v_add(part[i], v_mul(v, v))
        source += channels
    for i in range(count):
        if lanes == LANES:
            v_store(means + i * LANES, mean[i])
            v_store(squares + i * LANES, part[i])
        else:
            v_store_part(means, mean[i], 0, lanes)
            v_store_part(squares, part[i], 0, lanes)


cdef void stretch_moments(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """Of every channel of a stretch its mean, and then sums of (x - mean)^2: two rows of channels.

    An image of plan.width pixels has plan.height stretches.
    """
    cdef i64 channels = plan.in_channels, row, image, begin, pixels, at, end
    cdef const real *source
    cdef real *target
    for row in range(row_begin, row_end):
        image = row // plan.height
        begin = (row - image * plan.height) * MOMENT_STRETCH
        pixels = smaller(MOMENT_STRETCH, plan.width - begin)
        source = x + (image * plan.width + begin) * channels
        target = out + row * 2 * channels
        at = block_begin * MOMENT_RUN
        end = smaller(block_end * MOMENT_RUN, channels)
        while at + MOMENT_RUN <= end:
            stretch_vectors(
                MOMENT_RUN // LANES, LANES, pixels, channels, source + at, target + at, target + channels + at)
            at += MOMENT_RUN
        while at + 2 * LANES <= end:
            stretch_vectors(2, LANES, pixels, channels, source + at, target + at, target + channels + at)
            at += 2 * LANES
        while at < end:
            stretch_vectors(
                1, <int> smaller(LANES, end - at), pixels, channels, source + at, target + at, target + channels + at)
            at += LANES


cdef void moments(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """The same of whole images, from what `stretch_moments` has found of their stretches, one added after the other.

    T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the sample variance", The American Statistician 37
    (1983).
    """
    cdef i64 channels = plan.in_channels, row, stretch, begin, end, at
    cdef int lanes
    cdef const real *found
    cdef real share
    cdef vec mean, square, lost, v, step, sum  # lost: of the mean, when stretches were added to it: there may be many
    for row in range(row_begin, row_end):
        at = block_begin * MOMENT_RUN
        while at < smaller(block_end * MOMENT_RUN, channels):
            lanes = <int> smaller(LANES, channels - at)
            found = x + row * plan.height * 2 * channels + at
            mean = square = lost = v_zero()
            for stretch in range(plan.height):
                begin = stretch * MOMENT_STRETCH
                end = smaller(begin + MOMENT_STRETCH, plan.width)
                share = <real> (end - begin) / <real> end
                v = v_sub(v_load_part(found, 0, lanes), mean)
                step = v_add(v_mul(v, v_splat(share)), lost)
                sum = v_add(mean, step)
                lost = v_sub(step, v_sub(sum, mean))
                mean = sum
                square = v_add(square, v_add(
                    v_load_part(found + channels, 0, lanes), v_mul(v_mul(v, v), v_splat(<real> begin * share))))
                found += 2 * channels
            v_store_part(out + row * 2 * channels + at, mean, 0, lanes)
            v_store_part(out + (row * 2 + 1) * channels + at, square, 0, lanes)
            at += LANES


cdef void group_factors(const Plan *plan, const real *means, real *middles, real *factors) noexcept nogil:
    """From the moments of each channel the mean of its group, and its scale over the group's deviation."""
    cdef i64 channels = plan.in_channels, each = channels // plan.groups, first = 0, c
    cdef const real *squares = means + channels
    cdef const real *scale = <const real *> plan.weights
    cdef double epsilon = (<const real *> plan.bias)[channels], pixels = plan.width, mean, square, beside
    cdef real root
    while first < channels:
        mean = square = 0  # in float64: there may be many channels, far from zero
        for c in range(first, first + each):
            mean += means[c]
        mean /= each
        for c in range(first, first + each):
            beside = means[c] - mean
            square += squares[c] + pixels * (beside * beside)
        root = v_root(<real> (square / (pixels * each) + epsilon))
        for c in range(first, first + each):
            middles[c] = <real> mean
            factors[c] = scale[c] / root
        first += each


cdef void group_norm(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """(x - mean) / sqrt(variance + epsilon) of groups of channels, times a scale plus a bias of each channel, activated.

    plan.weights points to the scale of every channel, plan.bias to their biases and, after these, epsilon; `residual`
    is what `moments` has found, and scratch has room for as much.
    """
    cdef i64 channels = plan.in_channels, row = row_begin, image, end, some, pixel, at
    cdef int last = <int> ((channels - 1) % LANES) + 1
    cdef vec_bits numbers = v_numbers_from(last)
    cdef real *middles = <real *> scratch
    cdef real *factors = middles + channels
    cdef const real *bias = <const real *> plan.bias
    cdef const real *source
    cdef real *target
    cdef vec low = v_splat(<real> plan.low), high = v_splat(<real> plan.high), before = v_zero()
    while row < row_end:
        image = row // plan.width
        end = smaller(row_end, (image + 1) * plan.width)
        group_factors(plan, residual + image * 2 * channels, middles, factors)
        while row < end:
            some = smaller(TURN_PIXELS, end - row)
            source = x + row * channels
            target = out + row * channels
            for pixel in range(some):
                at = 0
                while at + LANES < channels:
                    before = v_clamp(v_add(v_mul(
                        v_sub(v_load(source + at), v_load(middles + at)), v_load(factors + at)),
                        v_load(bias + at)), low, high)
                    v_store(target + at, before)
                    at += LANES
                store_last(
                    target, at, before,
                    v_clamp(v_add(v_mul(
                        v_sub(v_load_part(source + at, 0, last), v_load_part(middles + at, 0, last)),
                        v_load_part(factors + at, 0, last)), v_load_part(bias + at, 0, last)), low, high),
                    numbers, last)
                source += channels
                target += channels
            activate(plan, out + row * channels, 1, 0, some * channels)
            row += some
