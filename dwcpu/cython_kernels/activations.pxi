# Activations that are not a clamp: a second pass over values that a kernel has just written, still in L1.
#
# Assumes: rows x columns values, rows `row_stride` apart. Guarantees: the operations, and their order, are those of
# the Numba family, so that both give the same bits: additions, multiplications, divisions, fused multiply-adds,
# comparisons and bit operations, no library function. Constants come from dwcpu/abi.py. exp(v): v = n ln 2 + r, a
# polynomial for exp(r), times 2^n. sigmoid: one division by 1 + exp(-v). gelu: erfc from exp and a polynomial.

cdef enum:
    HARDSWISH = 1
    HARDSIGMOID = 2
    LEAKY_RELU = 3
    SIGMOID = 4
    SILU = 5
    GELU = 6
    # these are not among the activations of convolutions: see functions.pxi
    TANH = 7
    ERF = 8
    GELU_TANH = 9
    ELU = 10
    MISH = 11
    ROOT = 12
    SIZE = 13

cdef enum:
    TOGETHER = 6  # vectors at most, step by step: one alone is a chain of operations that wait for each other


cdef inline vec exp_domain(vec v) noexcept nogil:
    """-|v|, no lower than where exp is zero, rounded."""
    return v_at_least(v_neg_abs(v), v_splat(EXP_LOWEST))


cdef inline void exp_parts(
    const int count, const real scale, const real shift, vec *v, const vec *rest, vec *shifted
) noexcept nogil:
    """exp(scale * (v + rest)) as a number near 1, in place of v, times a power of two, with exponent + `shift` in `shifted`.

    `scale` is 1, -1 or minus one half, which constants take in without a rounding. `shift` is EXP_SHIFT, or EXP_BIASED for
    `v_power`. `rest`: what rounding took from v, or NULL.
    """
    cdef vec r[TOGETHER]
    cdef real power
    cdef int i, k
    for i in range(count):
        shifted[i] = v_fma(v[i], v_splat(scale * INVERSE_LN2), v_splat(shift))
    for i in range(count):
        r[i] = v[i]
        v[i] = v_sub(v_splat(shift), shifted[i])
    for i in range(count):
        r[i] = v_fma(v[i], v_splat(LN2_HEAD / scale), r[i])
    for i in range(count):
        r[i] = v_fma(v[i], v_splat(LN2_TAIL / scale), r[i])
    if rest != NULL:
        for i in range(count):
            r[i] = v_add(r[i], rest[i])
    power = 1
    for k in range(EXP_COUNT - 1):
        power *= scale
    for i in range(count):
        v[i] = v_splat(EXP_SERIES[EXP_COUNT - 1] * power)
    for k in range(EXP_COUNT - 1):
        power /= scale
        for i in range(count):
            v[i] = v_fma_over(v[i], r[i], v_splat(EXP_SERIES[EXP_COUNT - 2 - k] * power))


cdef inline void exp_of(const int count, vec *v) noexcept nogil:
    """exp(v), for EXP_LOWEST <= v <= 0 with the sign bit set."""
    cdef vec shifted[TOGETHER]
    cdef vec lowest = v[0]
    cdef int i
    for i in range(1, count):
        lowest = v_more_bits(lowest, v[i])
    exp_parts(count, 1, EXP_SHIFT, v, NULL, shifted)
    if v_any_more_bits(lowest, v_splat(EXP_NORMAL)):
        for i in range(count):
            v[i] = v_scale(shifted[i], v[i])
    else:
        for i in range(count):
            v[i] = v_scale_normal(shifted[i], v[i])


cdef vec sigmoid_anywhere(vec v, vec factor) noexcept nogil:
    """factor * sigmoid(v), also where that nears the smallest normal numbers: there sigmoid(v) is exp(v), rounded."""
    cdef vec e = v_clamp(v, v_splat(EXP_LOWEST), v_splat(SIGMOID_HIGHEST)), shifted, far, one = v_splat(1)
    exp_parts(1, -1, EXP_BIASED, &e, NULL, &shifted)
    far = v_scale(v_add(v_splat(EXP_SHIFT), v_sub(v_splat(EXP_BIASED), shifted)), v_div(one, e))
    return v_select_less(
        v, v_splat(EXP_NORMAL), v_mul(factor, far), v_div(factor, v_fma(e, v_power(shifted), one)))


cdef inline void sigmoid_times(const int count, vec *v, const vec *factors) noexcept nogil:
    """factors * sigmoid(v), as factors / (1 + exp(-v)): of the chains of operations here the shortest."""
    cdef vec e[TOGETHER]
    cdef vec shifted[TOGETHER]
    cdef vec one = v_splat(1)
    cdef vec lowest = v[0]
    cdef int i
    for i in range(1, count):
        lowest = v_at_most(lowest, v[i])  # a NaN after the first is passed over
    if not v_all_at_least(lowest, v_splat(EXP_NORMAL)):
        for i in range(count):
            v[i] = sigmoid_anywhere(v[i], factors[i])
        return
    for i in range(count):
        e[i] = v_at_most(v[i], v_splat(SIGMOID_HIGHEST))
    exp_parts(count, -1, EXP_BIASED, e, NULL, shifted)
    for i in range(count):
        v[i] = v_div(factors[i], v_fma(e[i], v_power(shifted[i]), one))


cdef inline void half_erfc_of(const int count, const vec *w, vec *half) noexcept nogil:
    """erfc(w / sqrt(2)) / 2, for 0 <= w <= -GELU_LOWEST."""
    cdef vec e[TOGETHER]
    cdef vec rest[TOGETHER]
    cdef vec shifted[TOGETHER]
    cdef vec inverse[TOGETHER]
    cdef vec t[TOGETHER]
    cdef vec y[TOGETHER]
    cdef vec one = v_splat(1)
    cdef int i, k
    for i in range(count):  # exp is computed while the divisions go on
        inverse[i] = v_div(v_splat(2 * ERFC_CENTRE), v_add(w[i], v_splat(ERFC_CENTRE)))
    for i in range(count):
        e[i] = v_mul(w[i], w[i])
        rest[i] = v_square_rest(w[i], e[i])  # exp would magnify it
    exp_parts(count, -0.5, EXP_SHIFT, e, rest, shifted)
    for i in range(count):
        e[i] = v_scale_normal(shifted[i], e[i])
        t[i] = v_sub(one, inverse[i])
        y[i] = v_splat(ERFC_SERIES[ERFC_COUNT - 1])
    for k in range(ERFC_COUNT - 1):
        for i in range(count):
            y[i] = v_fma_over(y[i], t[i], v_splat(ERFC_SERIES[ERFC_COUNT - 2 - k]))
    for i in range(count):
        half[i] = v_mul(e[i], v_mul(y[i], inverse[i]))


cdef inline void gelu_of(const int count, vec *v) noexcept nogil:
    """max(v, 0) - |v| erfc(|v| / sqrt(2)) / 2. Far from zero no product is below the smallest normal number: those are slow."""
    cdef vec w[TOGETHER]
    cdef vec half[TOGETHER]
    cdef int i
    for i in range(count):
        w[i] = v_where_positive(v_sub(v[i], v_splat(GELU_LOWEST)), v_abs(v_at_most(v[i], v_splat(GELU_HIGHEST))))
    half_erfc_of(count, w, half)
    for i in range(count):
        v[i] = v_fma(v_neg(w[i]), half[i], v_at_least(v[i], v_splat(-0.0)))


cdef inline void activation_of(const int code, const int count, vec *v, vec alpha) noexcept nogil:
    cdef vec x[TOGETHER]
    cdef int i
    if code == GELU:
        gelu_of(count, v)
    elif code == SIGMOID:
        for i in range(count):
            x[i] = v_splat(1)
        sigmoid_times(count, v, x)
    elif code == SILU:
        for i in range(count):
            x[i] = v[i]
        sigmoid_times(count, v, x)
    elif code >= TANH:
        function_of(code, count, v, alpha)
    else:
        for i in range(count):
            if code == HARDSWISH:
                v[i] = v_mul(v[i], hardsigmoid_of(v[i]))
            elif code == HARDSIGMOID:
                v[i] = hardsigmoid_of(v[i])
            else:
                v[i] = v_select_less(v[i], v_zero(), v_mul(alpha, v[i]), v[i])


cdef inline void activate_rows(
    const int code, real *values, i64 rows, i64 row_stride, i64 columns, double slope
) noexcept nogil:
    """Short chains of operations, one vector after the other."""
    cdef vec alpha = v_splat(<real> slope), v
    cdef real *place
    cdef i64 left
    cdef int rest
    if row_stride == columns:  # one long row
        columns *= rows
        rows = 1
    rest = <int> (columns % LANES)
    while rows > 0:
        place = values
        left = columns // LANES
        while left > 0:
            v = v_load(place)
            activation_of(code, 1, &v, alpha)
            v_store(place, v)
            place += LANES
            left -= 1
        if rest:
            v = v_load_part(place, 0, rest)
            activation_of(code, 1, &v, alpha)
            v_store_first(place, v, rest)
        values += row_stride
        rows -= 1


cdef inline void activate_together(
    const int code, const int together, real *values, i64 rows, i64 row_stride, i64 columns, double parameter
) noexcept nogil:
    """Long chains of operations, `together` vectors step by step: whole vectors of all rows, then what is left of each.

    Where fewer than `together` are left the last one is computed several times, in place of code of its own.
    """
    cdef vec alpha = v_splat(<real> parameter)
    cdef vec v[TOGETHER]
    cdef real *places[TOGETHER]
    cdef real *place
    cdef real *last = NULL
    cdef i64 left, in_row, vectors
    cdef int i, rest, lanes = LANES
    if row_stride == columns:  # one long row
        columns *= rows
        rows = 1
    vectors = columns // LANES
    rest = <int> (columns - vectors * LANES)
    place = values
    while lanes > 0:  # two turns at most: in the second, a vector of `rest` lanes a row
        left = rows * vectors
        in_row = vectors
        while left > 0:
            for i in range(together):
                if i < left:
                    last = place
                    place += LANES
                    in_row -= 1
                    if in_row == 0:
                        place += row_stride - vectors * LANES
                        in_row = vectors
                places[i] = last
            if lanes == LANES:
                for i in range(together):
                    v[i] = v_load(places[i])
            else:
                for i in range(together):
                    v[i] = v_load_part(places[i], 0, lanes)
            activation_of(code, together, v, alpha)
            if lanes == LANES:
                for i in range(together):
                    v_store(places[i], v[i])
            else:
                for i in range(together):
                    v_store_first(places[i], v[i], lanes)
            left -= together
        place = values + vectors * LANES
        vectors = 1
        lanes = rest if lanes == LANES else 0


cdef void hardswish(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_rows(HARDSWISH, values, rows, row_stride, columns, alpha)


cdef void hardsigmoid(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_rows(HARDSIGMOID, values, rows, row_stride, columns, alpha)


cdef void leaky_relu(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_rows(LEAKY_RELU, values, rows, row_stride, columns, alpha)


cdef void sigmoid(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_together(SIGMOID, 4, values, rows, row_stride, columns, 0)


cdef void silu(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_together(SILU, 4, values, rows, row_stride, columns, 0)


cdef void gelu(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_together(GELU, TOGETHER, values, rows, row_stride, columns, 0)
