# Activations that are not a clamp: a second pass over values that a kernel has just written, still in L1.
#
# Assumes: rows x columns values, rows `row_stride` apart. Guarantees: the operations, and their order, are those of
# the Numba family, so that both give the same bits: additions, multiplications, divisions, fused multiply-adds,
# comparisons and bit operations, no library function. Constants come from dwcpu/abi.py. exp(v) for v <= 0: v = n ln 2
# + r, the Taylor series of exp(r), times 2^n. gelu: erfc from exp and a polynomial.

cdef enum:
    HARDSWISH = 1
    HARDSIGMOID = 2
    LEAKY_RELU = 3
    SIGMOID = 4
    SILU = 5
    GELU = 6

cdef enum:
    TOGETHER = 6  # vectors, step by step: one alone is a chain of operations that wait for each other


cdef inline void exp_of(const int count, vec *v) noexcept nogil:
    """exp(v) for v <= 0 with the sign bit set."""
    cdef vec shifted[TOGETHER]
    cdef vec r[TOGETHER]
    cdef vec lowest = v[0]
    cdef int i, k
    for i in range(1, count):
        lowest = v_more_bits(lowest, v[i])
    for i in range(count):
        r[i] = v_at_least(v[i], v_splat(EXP_LOWEST))
    for i in range(count):
        shifted[i] = v_fma(r[i], v_splat(INVERSE_LN2), v_splat(EXP_SHIFT))
    for i in range(count):
        v[i] = v_sub(v_splat(EXP_SHIFT), shifted[i])
    for i in range(count):
        r[i] = v_fma(v[i], v_splat(LN2_HEAD), r[i])
    for i in range(count):
        r[i] = v_fma(v[i], v_splat(LN2_TAIL), r[i])
    for i in range(count):
        v[i] = v_splat(EXP_SERIES[EXP_COUNT - 1])
    for k in range(EXP_COUNT - 1):
        for i in range(count):
            v[i] = v_fma(v[i], r[i], v_splat(EXP_SERIES[EXP_COUNT - 2 - k]))
    if v_any_more_bits(lowest, v_splat(EXP_NORMAL)):
        for i in range(count):
            v[i] = v_scale(shifted[i], v[i])
    else:
        for i in range(count):
            v[i] = v_scale_normal(shifted[i], v[i])


cdef inline void sigmoid_of(const int count, vec *v) noexcept nogil:
    cdef vec e[TOGETHER]
    cdef vec one = v_splat(1)
    cdef int i
    for i in range(count):
        e[i] = v_neg_abs(v[i])
    exp_of(count, e)
    for i in range(count):
        v[i] = v_div(v_select_negative(v[i], e[i], one), v_add(one, e[i]))


cdef inline void gelu_of(const int count, vec *v) noexcept nogil:
    cdef vec e[TOGETHER]
    cdef vec t[TOGETHER]
    cdef vec y[TOGETHER]
    cdef vec w, z, square
    cdef vec one = v_splat(1), minus_half = v_splat(-0.5)
    cdef int i, k
    for i in range(count):
        z = v_mul(gelu_size(v[i]), v_splat(INVERSE_SQRT2))
        t[i] = v_div(v_sub(z, v_splat(ERFC_CENTRE)), v_add(z, v_splat(ERFC_CENTRE)))
        y[i] = v_splat(ERFC_SERIES[ERFC_COUNT - 1])
    for k in range(ERFC_COUNT - 1):
        for i in range(count):
            y[i] = v_fma(y[i], t[i], v_splat(ERFC_SERIES[ERFC_COUNT - 2 - k]))
    for i in range(count):
        w = gelu_size(v[i])
        e[i] = v_mul(minus_half, v_mul(w, w))
    exp_of(count, e)
    for i in range(count):
        w = gelu_size(v[i])
        square = v_mul(w, w)
        e[i] = v_fma(v_mul(minus_half, v_fma(w, w, v_neg(square))), e[i], e[i])
        z = v_mul(w, v_splat(INVERSE_SQRT2))
        t[i] = v_div(v_mul(e[i], y[i]), v_fma(v_splat(2), z, one))  # erfc(z) / 2
        v[i] = v_mul(v[i], v_select_negative(v[i], t[i], v_sub(one, t[i])))


cdef inline vec gelu_size(vec v) noexcept nogil:
    """|v|, at most 64: beyond that gelu is v or 0."""
    return v_at_most(v_abs(v), v_splat(64))


cdef inline void activation_of(const int code, const int count, vec *v, vec alpha) noexcept nogil:
    cdef vec x[TOGETHER]
    cdef int i
    if code == GELU:
        gelu_of(count, v)
    elif code == SIGMOID:
        sigmoid_of(count, v)
    elif code == SILU:
        for i in range(count):
            x[i] = v[i]
        sigmoid_of(count, x)
        for i in range(count):
            v[i] = v_mul(v[i], x[i])
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
    const int code, real *values, i64 rows, i64 row_stride, i64 columns
) noexcept nogil:
    """Long chains of operations, TOGETHER vectors step by step, from row to row."""
    cdef vec alpha = v_zero()
    cdef vec v[TOGETHER]
    cdef real *places[TOGETHER]
    cdef real *place = values
    cdef i64 whole = columns // LANES, left = rows * whole, in_row = whole, turn = row_stride - whole * LANES
    cdef int count, i, rest = <int> (columns - whole * LANES)
    while left > 0:
        count = TOGETHER if left >= TOGETHER else 1
        for i in range(TOGETHER):
            if i < count:
                places[i] = place
                place += LANES
                in_row -= 1
                if in_row == 0:
                    place += turn
                    in_row = whole
        if count == TOGETHER:
            for i in range(TOGETHER):
                v[i] = v_load(places[i])
            activation_of(code, TOGETHER, v, alpha)
            for i in range(TOGETHER):
                v_store(places[i], v[i])
        else:
            v[0] = v_load(places[0])
            activation_of(code, 1, v, alpha)
            v_store(places[0], v[0])
        left -= count
    values += whole * LANES
    if rest:
        while rows > 0:
            v[0] = v_load_part(values, 0, rest)
            activation_of(code, 1, v, alpha)
            v_store_first(values, v[0], rest)
            values += row_stride
            rows -= 1


cdef void hardswish(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_rows(HARDSWISH, values, rows, row_stride, columns, alpha)


cdef void hardsigmoid(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_rows(HARDSIGMOID, values, rows, row_stride, columns, alpha)


cdef void leaky_relu(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_rows(LEAKY_RELU, values, rows, row_stride, columns, alpha)


cdef void sigmoid(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_together(SIGMOID, values, rows, row_stride, columns)


cdef void silu(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_together(SILU, values, rows, row_stride, columns)


cdef void gelu(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_together(GELU, values, rows, row_stride, columns)
