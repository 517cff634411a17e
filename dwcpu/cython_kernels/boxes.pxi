# Boxes of groups: of each group, in order, those go that one before them which stays overlaps too much.
#
# Assumes: x holds four rows of plan.in_channels coordinates (least of both axes, then largest), plan.weights points to
# where groups begin, and one more number; plan.alpha is the share of their union that two may have in common, and
# plan.out_channels of each group stay at most. Rows of the grid are groups; there is one block.
# Guarantees: out is 1 for boxes that go and 0 for others, by the operations of `_overlap` in graph/operators/detecting.py,
# in the same order. A group of a few hundred boxes stays in L1.


cdef void boxes(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef const i64 *groups = <const i64 *> plan.weights
    cdef i64 row = plan.in_channels, begin, end, one, at, kept
    cdef vec share = v_splat(<real> plan.alpha)
    while row_begin < row_end:
        begin, end = groups[row_begin], groups[row_begin + 1]
        for at in range(begin, end):
            out[at] = 0
        kept = 0
        for one in range(begin, end):
            if out[one] == 0 and kept == plan.out_channels:
                out[one] = 1
            elif out[one] == 0:
                kept += 1
                overlapped(x + one, row, end - one - 1, share, x + one + 1, out + one + 1)
        row_begin += 1


cdef inline void overlapped(
    const real *one, i64 row, i64 count, vec share, const real *x, real *out
) noexcept nogil:
    """Those of `count` boxes go that one box overlaps."""
    cdef vec top = v_splat(one[0]), left = v_splat(one[row]), bottom = v_splat(one[2 * row]), right = v_splat(one[3 * row])
    cdef vec area = v_mul(v_sub(bottom, top), v_sub(right, left))
    while count >= LANES:
        v_store(out, now_gone(
            top, left, bottom, right, area, v_load(x), v_load(x + row), v_load(x + 2 * row), v_load(x + 3 * row), share,
            v_load(out)))
        x += LANES
        out += LANES
        count -= LANES
    if count > 0:
        v_store_first(
            out, now_gone(
                top, left, bottom, right, area, v_load_part(x, 0, <int> count), v_load_part(x + row, 0, <int> count),
                v_load_part(x + 2 * row, 0, <int> count), v_load_part(x + 3 * row, 0, <int> count), share,
                v_load_part(out, 0, <int> count)),
            <int> count)


cdef inline vec now_gone(
    vec top, vec left, vec bottom, vec right, vec area, vec tops, vec lefts, vec bottoms, vec rights, vec share, vec gone
) noexcept nogil:
    cdef vec height = v_at_least(v_sub(v_at_most(bottoms, bottom), v_at_least(tops, top)), v_zero())
    cdef vec width = v_at_least(v_sub(v_at_most(rights, right), v_at_least(lefts, left)), v_zero())
    cdef vec inner = v_mul(height, width)
    cdef vec whole = v_sub(v_add(area, v_mul(v_sub(bottoms, tops), v_sub(rights, lefts))), inner)
    return v_select_less(share, v_div(inner, whole), v_splat(1), gone)
