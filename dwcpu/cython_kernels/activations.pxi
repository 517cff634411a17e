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


cdef inline vec exp_of(vec v) noexcept nogil:
    """exp(v) for v <= 0."""
    cdef vec shift = v_splat(EXP_SHIFT), shifted, n, r, y
    cdef int k
    v = v_select_less(v, v_splat(EXP_LOWEST), v_splat(EXP_LOWEST), v)
    shifted = v_fma(v, v_splat(INVERSE_LN2), shift)
    n = v_neg(v_sub(shifted, shift))
    r = v_fma(n, v_splat(LN2_TAIL), v_fma(n, v_splat(LN2_HEAD), v))
    y = v_splat(EXP_SERIES[EXP_COUNT - 1])
    for k in range(EXP_COUNT - 1):
        y = v_fma(y, r, v_splat(EXP_SERIES[EXP_COUNT - 2 - k]))
    return v_scale(shifted, y)


cdef inline vec sigmoid_of(vec v) noexcept nogil:
    cdef vec one = v_splat(1)
    cdef vec e = exp_of(v_select_less(v_zero(), v, v_neg(v), v))
    return v_div(v_select_less(v, v_zero(), e, one), v_add(one, e))


cdef inline vec gelu_of(vec v) noexcept nogil:
    cdef vec one = v_splat(1), minus_half = v_splat(-0.5), farthest = v_splat(64)
    cdef vec w, z, square, rest, e, t, y, tail
    cdef int k
    w = v_select_less(v, v_zero(), v_neg(v), v)
    w = v_select_less(farthest, w, farthest, w)
    z = v_mul(w, v_splat(INVERSE_SQRT2))
    square = v_mul(w, w)
    rest = v_fma(w, w, v_neg(square))
    e = exp_of(v_mul(minus_half, square))
    e = v_fma(v_mul(minus_half, rest), e, e)
    t = v_div(v_sub(z, v_splat(ERFC_CENTRE)), v_add(z, v_splat(ERFC_CENTRE)))
    y = v_splat(ERFC_SERIES[ERFC_COUNT - 1])
    for k in range(ERFC_COUNT - 1):
        y = v_fma(y, t, v_splat(ERFC_SERIES[ERFC_COUNT - 2 - k]))
    tail = v_div(v_mul(e, y), v_add(one, v_mul(v_splat(2), z)))  # erfc(z) / 2
    return v_mul(v, v_select_less(v, v_zero(), tail, v_sub(one, tail)))


cdef inline vec hardsigmoid_of(vec v) noexcept nogil:
    return v_mul(v_clamp(v_add(v, v_splat(3)), v_zero(), v_splat(6)), v_splat(<real> (1.0 / 6.0)))


cdef inline vec activation_of(const int code, vec v, vec alpha) noexcept nogil:
    if code == HARDSWISH:
        return v_mul(v, hardsigmoid_of(v))
    elif code == HARDSIGMOID:
        return hardsigmoid_of(v)
    elif code == LEAKY_RELU:
        return v_select_less(v, v_zero(), v_mul(alpha, v), v)
    elif code == SIGMOID:
        return sigmoid_of(v)
    elif code == SILU:
        return v_mul(v, sigmoid_of(v))
    else:
        return gelu_of(v)


cdef inline void activate_all(
    const int code, real *values, i64 rows, i64 row_stride, i64 columns, double slope
) noexcept nogil:
    cdef vec alpha = v_splat(<real> slope)
    cdef i64 row, column
    cdef int rest
    for row in range(rows):
        column = 0
        while column + LANES <= columns:
            v_store(values + column, activation_of(code, v_load(values + column), alpha))
            column += LANES
        rest = <int> (columns - column)
        if rest > 0:
            v_store_first(
                values + column, activation_of(code, v_load_part(values + column, 0, rest), alpha), rest)
        values += row_stride


cdef void hardswish(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_all(HARDSWISH, values, rows, row_stride, columns, alpha)


cdef void hardsigmoid(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_all(HARDSIGMOID, values, rows, row_stride, columns, alpha)


cdef void leaky_relu(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_all(LEAKY_RELU, values, rows, row_stride, columns, alpha)


cdef void sigmoid(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_all(SIGMOID, values, rows, row_stride, columns, alpha)


cdef void silu(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_all(SILU, values, rows, row_stride, columns, alpha)


cdef void gelu(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_all(GELU, values, rows, row_stride, columns, alpha)
