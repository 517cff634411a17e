# Functions that stand by themselves in a graph, not after a convolution: second passes, as in activations.pxi.
#
# Assumes: as there. Guarantees: the operations, and their order, do not depend on the vectors. tanh, elu: exp(v) - 1
# from the polynomial of exp without its constant term. erf: its series near zero, elsewhere 1 - erfc. Gelu by tanh and
# mish by sigmoid and exp, of which tanh is made: tanh(u) = 2 sigmoid(2 u) - 1.

cdef inline void exp_minus_one_of(const int count, vec *v) noexcept nogil:
    """exp(v) - 1 for v <= 0; below -60 that is -1, rounded."""
    cdef vec r[TOGETHER]
    cdef vec shifted[TOGETHER]
    cdef vec one = v_splat(1), power
    cdef int i, k
    for i in range(count):
        v[i] = v_at_least(v[i], v_splat(-60))
        shifted[i] = v_fma(v[i], v_splat(INVERSE_LN2), v_splat(EXP_SHIFT))
    for i in range(count):
        r[i] = v_fma(v_sub(v_splat(EXP_SHIFT), shifted[i]), v_splat(LN2_HEAD), v[i])
    for i in range(count):
        r[i] = v_fma(v_sub(v_splat(EXP_SHIFT), shifted[i]), v_splat(LN2_TAIL), r[i])
        v[i] = v_splat(EXP_SERIES[EXP_COUNT - 1])
    for k in range(EXP_COUNT - 2):
        for i in range(count):
            v[i] = v_fma_over(v[i], r[i], v_splat(EXP_SERIES[EXP_COUNT - 2 - k]))
    for i in range(count):
        power = v_scale_normal(shifted[i], one)
        v[i] = v_fma(power, v_mul(v[i], r[i]), v_sub(power, one))


cdef inline void tanh_of(const int count, vec *v) noexcept nogil:
    cdef vec m[TOGETHER]
    cdef vec two = v_splat(2), size
    cdef int i
    for i in range(count):
        m[i] = v_mul(v_neg_abs(v[i]), two)
    exp_minus_one_of(count, m)
    for i in range(count):
        size = v_div(m[i], v_add(two, m[i]))
        v[i] = v_select_negative(v[i], v_neg_abs(size), v_abs(size))


cdef inline void erf_of(const int count, vec *v) noexcept nogil:
    cdef vec far[TOGETHER]
    cdef vec half[TOGETHER]
    cdef vec near[TOGETHER]
    cdef vec one = v_splat(1), twice
    cdef int i, k
    for i in range(count):
        far[i] = v_at_most(v_abs(v_mul(v[i], v_splat(ROOT_TWO))), v_splat(GELU_HIGHEST))
    half_erfc_of(count, far, half)
    for i in range(count):
        far[i] = v_mul(v[i], v[i])
        near[i] = v_splat(ERF_SERIES[ERF_COUNT - 1])
    for k in range(ERF_COUNT - 1):
        for i in range(count):
            near[i] = v_fma_over(near[i], far[i], v_splat(ERF_SERIES[ERF_COUNT - 2 - k]))
    for i in range(count):
        twice = v_add(half[i], half[i])
        v[i] = v_select_less(
            v_abs(v[i]), v_splat(ERF_NEAR), v_mul(v[i], near[i]),
            v_select_negative(v[i], v_sub(twice, one), v_sub(one, twice)))


cdef inline void gelu_tanh_of(const int count, vec *v) noexcept nogil:
    """v sigmoid(2 sqrt(2 / pi) (v + 0.044715 v^3))."""
    cdef vec gate[TOGETHER]
    cdef int i
    for i in range(count):
        gate[i] = v_mul(v[i], v_fma(v_mul(v[i], v[i]), v_splat(GELU_CUBE), v_splat(GELU_LINE)))
    sigmoid_times(count, gate, v)
    for i in range(count):
        v[i] = gate[i]


cdef inline void mish_of(const int count, vec *v) noexcept nogil:
    """v tanh(ln(1 + exp(v))): v a / (a + b) with a = exp(v) (exp(v) + 2) and b = 2, both times exp(-2 v) above zero."""
    cdef vec e[TOGETHER]
    cdef vec two = v_splat(2), a, b
    cdef int i
    for i in range(count):
        e[i] = exp_domain(v[i])
    exp_of(count, e)
    for i in range(count):
        a = v_select_negative(v[i], v_mul(e[i], v_add(e[i], two)), v_fma(two, e[i], v_splat(1)))
        b = v_select_negative(v[i], two, v_mul(two, v_mul(e[i], e[i])))
        v[i] = v_mul(v[i], v_div(a, v_add(a, b)))


cdef inline void function_of(const int code, const int count, vec *v, vec alpha) noexcept nogil:
    cdef vec x[TOGETHER]
    cdef int i
    if code == TANH:
        tanh_of(count, v)
    elif code == ERF:
        erf_of(count, v)
    elif code == GELU_TANH:
        gelu_tanh_of(count, v)
    elif code == MISH:
        mish_of(count, v)
    elif code == ROOT or code == SIZE:
        for i in range(count):
            v[i] = v_roots(v[i]) if code == ROOT else v_abs(v[i])
    else:
        for i in range(count):
            x[i] = v_at_most(v[i], v_zero())
        exp_minus_one_of(count, x)
        for i in range(count):
            v[i] = v_select_less(v[i], v_zero(), v_mul(alpha, x[i]), v[i])


cdef void tanh_pass(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_together(TANH, 4, values, rows, row_stride, columns, 0)


cdef void erf_pass(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_together(ERF, 4, values, rows, row_stride, columns, 0)


cdef void gelu_tanh_pass(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_together(GELU_TANH, 4, values, rows, row_stride, columns, 0)


cdef void mish_pass(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_together(MISH, 4, values, rows, row_stride, columns, 0)


cdef void elu_pass(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_together(ELU, 4, values, rows, row_stride, columns, alpha)


cdef void root_pass(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_rows(ROOT, values, rows, row_stride, columns, 0)


cdef void size_pass(real *values, i64 rows, i64 row_stride, i64 columns, double alpha) noexcept nogil:
    activate_rows(SIZE, values, rows, row_stride, columns, 0)


def functions():
    """Name -> address of each function."""
    return {
        "abs": <uintptr_t> &size_pass,
        "elu": <uintptr_t> &elu_pass,
        "erf": <uintptr_t> &erf_pass,
        "gelu_tanh": <uintptr_t> &gelu_tanh_pass,
        "mish": <uintptr_t> &mish_pass,
        "sqrt": <uintptr_t> &root_pass,
        "tanh": <uintptr_t> &tanh_pass,
    }
