# Elements of tensors, each on its own: sums, products and quotients, broadcast as NumPy does it, and functions.
#
# Assumes: out is contiguous, plan.height elements in all; rows are runs of plan.width of them, and there is one block.
# For those of two tensors plan.weights points to ELEMENT_AXES sizes, the axes of out from the outermost to the
# innermost, as many steps of the first tensor and of the second, and a number that says where these are: 0: x and
# residual, 1: x and what plan.bias points to, 2: that and x. Steps of the innermost axis are 0 or 1, and not
# both 0 unless there is one element. Then the addresses of two functions (0: none) that the tensors go through before,
# and the bits of their parameters as float64; both steps are 1 if there is one.
# Guarantees: every output is one operation, clamped and activated: the same bits however the rows are shared. NaN
# passes.
# What is read comes from memory or L2 once; nothing is blocked.

cdef enum:
    ELEMENT_AXES = 4
    GATED = 512  # elements whose functions are in L1

cdef enum:
    PLUS = 0
    MINUS = 1
    TIMES = 2
    OVER = 3
    LEAST = 4
    MOST = 5
    SLOPE = 6  # what is below zero, times the other one


cdef inline vec combined(const int op, vec a, vec b) noexcept nogil:
    if op == PLUS:
        return v_add(a, b)
    if op == MINUS:
        return v_sub(a, b)
    if op == TIMES:
        return v_mul(a, b)
    if op == OVER:
        return v_div(a, b)
    if op == LEAST:
        return v_minimum(a, b)
    if op == MOST:
        return v_maximum(a, b)
    return v_select_less(a, v_zero(), v_mul(a, b), a)


cdef inline void combine_run(
    const int op, const bint one_a, const bint one_b, i64 count, const real *a, const real *b, vec low, vec high,
    real *out
) noexcept nogil:
    """`count` elements; `one_a`, `one_b`: of one number with all of the other's."""
    cdef vec v = v_splat(a[0]), w = v_splat(b[0]), made = v_zero(), before
    cdef i64 at = 0
    cdef int rest
    while at + LANES <= count:
        if not one_a:
            v = v_load(a + at)
        if not one_b:
            w = v_load(b + at)
        made = v_clamp(combined(op, v, w), low, high)
        v_store(out + at, made)
        at += LANES
    if at < count:
        before = made
        rest = <int> (count - at)
        if not one_a:
            v = v_load_part(a + at, 0, rest)
        if not one_b:
            w = v_load_part(b + at, 0, rest)
        made = v_clamp(combined(op, v, w), low, high)
        if at > 0:
            v_store_end(out + at, before, made, v_numbers_from(rest), rest)
        else:
            v_store_part(out + at, made, 0, rest)


cdef const real *through(i64 function, i64 alpha, i64 count, const real *x, real *values) noexcept nogil:
    """x, or `values`, which hold a function of it."""
    if function == 0:
        return x
    copy_runs(1, count, 0, 0, x, values)
    (<Activation> function)(values, 1, 0, count, (<double *> &alpha)[0])
    return values


cdef inline void combine_gated(
    const int op, const i64 *functions, i64 count, const real *a, const real *b, vec low, vec high, real *out
) noexcept nogil:
    """As `combine_run`, of functions of the elements."""
    cdef real first[GATED]
    cdef real second[GATED]
    cdef i64 some
    while count > 0:
        some = smaller(count, GATED)
        combine_run(
            op, False, False, some, through(functions[0], functions[2], some, a, first),
            through(functions[1], functions[3], some, b, second), low, high, out)
        a += some
        b += some
        out += some
        count -= some


cdef inline void combine_part(
    const int op, const bint one_a, const bint one_b, const i64 *functions, i64 count, const real *a, const real *b,
    vec low, vec high, real *out
) noexcept nogil:
    if not one_a and not one_b and functions[0] | functions[1]:
        combine_gated(op, functions, count, a, b, low, high, out)
    else:
        combine_run(op, one_a, one_b, count, a, b, low, high, out)


cdef inline void combine_rows(
    const int op, const bint one_a, const bint one_b, const Plan *plan, const real *a, const real *b, real *out,
    i64 begin, i64 end
) noexcept nogil:
    """Elements from `begin` on: the rest of a run, whole runs, and the beginning of one."""
    cdef const i64 *sizes = <const i64 *> plan.weights
    cdef const i64 *a_steps = sizes + ELEMENT_AXES
    cdef const i64 *b_steps = a_steps + ELEMENT_AXES
    cdef const i64 *functions = b_steps + ELEMENT_AXES + 1
    cdef i64 size = sizes[3], a_step = a_steps[2], b_step = b_steps[2], at = begin, count, run
    cdef i64 k = at // size, inner = at - k * size, j = k // sizes[2], i = j // sizes[1]
    cdef const real *first
    cdef const real *second
    cdef vec low = v_splat(<real> plan.low), high = v_splat(<real> plan.high)
    k -= j * sizes[2]
    j -= i * sizes[1]
    while at < end:
        first = a + i * a_steps[0] + j * a_steps[1] + k * a_step
        second = b + i * b_steps[0] + j * b_steps[1] + k * b_step
        if inner > 0 or end - at < size:
            count = smaller(size - inner, end - at)
            combine_part(
                op, one_a, one_b, functions, count, first + inner * a_steps[3], second + inner * b_steps[3], low, high,
                out + at)
            at += count
            k += 1
        else:
            count = smaller(sizes[2] - k, (end - at) // size)
            for run in range(count):
                combine_part(op, one_a, one_b, functions, size, first, second, low, high, out + at)
                first += a_step
                second += b_step
                at += size
            k += count
        inner = 0
        if k == sizes[2]:
            k = 0
            j += 1
            if j == sizes[1]:
                j = 0
                i += 1


cdef inline void combine(
    const int op, const Plan *plan, const real *x, const real *residual, real *out, i64 row_begin, i64 row_end
) noexcept nogil:
    cdef const i64 *table = <const i64 *> plan.weights
    cdef const real *known = <const real *> plan.bias
    cdef const real *a = x
    cdef const real *b = residual
    cdef i64 begin = row_begin * plan.width, end = smaller(row_end * plan.width, plan.height)
    if table[3 * ELEMENT_AXES] == 1:
        b = known
    elif table[3 * ELEMENT_AXES] == 2:
        a = known
        b = x
    if table[2 * ELEMENT_AXES - 1] == 0:
        combine_rows(op, True, False, plan, a, b, out, begin, end)
    elif table[3 * ELEMENT_AXES - 1] == 0:
        combine_rows(op, False, True, plan, a, b, out, begin, end)
    else:
        combine_rows(op, False, False, plan, a, b, out, begin, end)
    activate(plan, out + begin, 1, 0, end - begin)


cdef void add_elements(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    combine(PLUS, plan, x, residual, out, row_begin, row_end)


cdef void subtract_elements(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    combine(MINUS, plan, x, residual, out, row_begin, row_end)


cdef void multiply_elements(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    combine(TIMES, plan, x, residual, out, row_begin, row_end)


cdef void divide_elements(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    combine(OVER, plan, x, residual, out, row_begin, row_end)


cdef void minimum_elements(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    combine(LEAST, plan, x, residual, out, row_begin, row_end)


cdef void maximum_elements(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    combine(MOST, plan, x, residual, out, row_begin, row_end)


cdef void prelu(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """What is below zero in the first, times the second."""
    combine(SLOPE, plan, x, residual, out, row_begin, row_end)


cdef void map_elements(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """x times one number plus another, which plan.weights points to, clamped and activated."""
    cdef i64 begin = row_begin * plan.width, end = smaller(row_end * plan.width, plan.height), at = begin
    cdef const real *numbers = <const real *> plan.weights
    cdef vec low = v_splat(<real> plan.low), high = v_splat(<real> plan.high)
    cdef vec factor = v_splat(numbers[0]), shift = v_splat(numbers[1])
    cdef int rest
    while at + LANES <= end:
        v_store(out + at, v_clamp(v_add(v_mul(v_load(x + at), factor), shift), low, high))
        at += LANES
    if at < end:
        rest = <int> (end - at)
        v_store_part(
            out + at, v_clamp(v_add(v_mul(v_load_part(x + at, 0, rest), factor), shift), low, high), 0, rest)
    activate(plan, out + begin, 1, 0, end - begin)


cdef void fill(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """plan.low everywhere."""
    cdef i64 at
    for at in range(row_begin * plan.width, smaller(row_end * plan.width, plan.height)):
        out[at] = <real> plan.low


def elementwise():
    """Name -> address of each kernel of this file."""
    return {
        "add": <uintptr_t> &add_elements,
        "divide": <uintptr_t> &divide_elements,
        "fill": <uintptr_t> &fill,
        "map": <uintptr_t> &map_elements,
        "maximum": <uintptr_t> &maximum_elements,
        "minimum": <uintptr_t> &minimum_elements,
        "multiply": <uintptr_t> &multiply_elements,
        "prelu": <uintptr_t> &prelu,
        "subtract": <uintptr_t> &subtract_elements,
    }
