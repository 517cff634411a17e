# Recurrences, which hand a state from step to step of a sequence: LSTM, GRU and RNN as ONNX's standard has them.
#
# Assumes: x holds what inputs give, (plan.height steps, plan.width sequences, plan.groups directions, gates, units), the
# gates in the order "iofc" of an LSTM, "zrh" of a GRU; there are plan.in_channels units, and plan.out_channels numbers for
# all gates. Directions from plan.pad_top on go backwards. residual is null, or holds what states begin with, (directions,
# sequences, units), and behind them likewise the cells of an LSTM. plan.pointwise_kernel gives the products of states and
# weights: plan.pointwise_plan has a plan for each direction, of plan.pointwise_blocks blocks. A GRU that resets states
# before its last product (`gru_before`) has plans for that one, likewise, in plan.expand_plan. Rows are groups of
# plan.block_rows sequences, direction by direction; there is one block. scratch holds as many sequences' sums, and the
# states that are reset.
# Guarantees: out holds (steps, directions, sequences, units), and behind these what states, and cells, end with. Each
# sequence is computed by itself: its bits depend neither on others nor on threads.
# Loops, outermost first: groups, whose weights stay in L2; steps; sequences; units.

cdef enum:
    RNN = 0
    LSTM = 1
    GRU = 2
    GRU_BEFORE = 3
    UNITS = 2  # vectors of units, step by step

cdef struct Units:  # of one sequence at one step, from some unit on
    i64 size             # of all of them, which is from one gate to the next
    i64 rest             # how many are left
    const real *given    # what the input gives
    real *sums           # what the state gives; of `gru_before`, then the update gate
    real *product        # likewise for the last gate of a GRU
    real *reset          # of `gru_before`: the state that the last product is of
    const real *before   # the state
    real *after          # what it becomes
    real *cell


cdef inline vec load_units(const bint whole, const Units *u, const real *p) noexcept nogil:
    return v_load(p) if whole else v_load_part(p, 0, <int> u.rest)


cdef inline void store_units(const bint whole, const Units *u, real *p, vec v) noexcept nogil:
    if whole:
        v_store(p, v)
    else:
        v_store_first(p, v, <int> u.rest)


cdef inline void sums_of(const int gate, const int count, const bint whole, const Units *u, vec *v) noexcept nogil:
    """What the input and the state give for a gate."""
    cdef i64 at = gate * u.size
    cdef int j
    for j in range(count):
        v[j] = v_add(
            load_units(whole, u, u.sums + at + j * LANES), load_units(whole, u, u.given + at + j * LANES))


cdef inline void rnn_units(const int count, const bint whole, const Units *u) noexcept nogil:
    cdef vec new[UNITS]
    cdef int j
    sums_of(0, count, whole, u, new)
    tanh_of(count, new)
    for j in range(count):
        store_units(whole, u, u.after + j * LANES, new[j])


cdef inline void lstm_units(const int count, const bint whole, const Units *u) noexcept nogil:
    cdef vec gates[3 * UNITS]  # input, output and forget
    cdef vec new[UNITS]
    cdef int j, gate
    for gate in range(3):
        sums_of(gate, count, whole, u, gates + gate * count)
    sums_of(3, count, whole, u, new)
    activation_of(SIGMOID, 3 * count, gates, v_zero())
    tanh_of(count, new)
    for j in range(count):
        new[j] = v_fma(
            gates[2 * count + j], load_units(whole, u, u.cell + j * LANES), v_mul(gates[j], new[j]))
        store_units(whole, u, u.cell + j * LANES, new[j])
    tanh_of(count, new)
    for j in range(count):
        store_units(whole, u, u.after + j * LANES, v_mul(gates[count + j], new[j]))


cdef inline void gru_gates(const int count, const bint whole, const Units *u, vec *gates) noexcept nogil:
    """Update and reset."""
    sums_of(0, count, whole, u, gates)
    sums_of(1, count, whole, u, gates + count)
    activation_of(SIGMOID, 2 * count, gates, v_zero())


cdef inline void gru_reset(const int count, const bint whole, const Units *u) noexcept nogil:
    """Of `gru_before`: what the last product is of, and the update gate in place of its sums."""
    cdef vec gates[2 * UNITS]
    cdef int j
    gru_gates(count, whole, u, gates)
    for j in range(count):
        store_units(whole, u, u.sums + j * LANES, gates[j])
        store_units(
            whole, u, u.reset + j * LANES, v_mul(gates[count + j], load_units(whole, u, u.before + j * LANES)))


cdef inline void gru_units(const int kind, const int count, const bint whole, const Units *u) noexcept nogil:
    cdef vec gates[2 * UNITS]
    cdef vec new[UNITS]
    cdef vec given, product
    cdef int j
    if kind == GRU:
        gru_gates(count, whole, u, gates)
    for j in range(count):
        given = load_units(whole, u, u.given + 2 * u.size + j * LANES)
        product = load_units(whole, u, u.product + j * LANES)
        if kind == GRU:
            new[j] = v_fma(gates[count + j], product, given)
        else:
            gates[j] = load_units(whole, u, u.sums + j * LANES)
            new[j] = v_add(product, given)
    tanh_of(count, new)
    for j in range(count):
        store_units(
            whole, u, u.after + j * LANES,
            v_fma(gates[j], v_sub(load_units(whole, u, u.before + j * LANES), new[j]), new[j]))


cdef inline void some_units(
    const int kind, const bint resets, const int count, const bint whole, Units *u
) noexcept nogil:
    """`count` vectors of units, to the next of which `u` moves."""
    cdef i64 step = count * LANES
    if resets:
        gru_reset(count, whole, u)
    elif kind == RNN:
        rnn_units(count, whole, u)
    elif kind == LSTM:
        lstm_units(count, whole, u)
    else:
        gru_units(kind, count, whole, u)
    u.rest -= step
    u.given += step
    u.sums += step
    u.product += step
    u.reset += step
    u.before += step
    u.after += step
    u.cell += step


cdef inline void all_units(const int kind, const bint resets, Units u) noexcept nogil:
    while u.rest >= UNITS * LANES:
        some_units(kind, resets, UNITS, True, &u)
    if u.rest >= LANES:
        some_units(kind, resets, 1, True, &u)
    if u.rest > 0:
        some_units(kind, resets, 1, False, &u)


cdef inline void recurrence(
    const int kind, const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end
) noexcept nogil:
    cdef Kernel product = <Kernel> plan.pointwise_kernel
    cdef const Plan *plans = <const Plan *> plan.pointwise_plan
    cdef const Plan *resets = <const Plan *> plan.expand_plan
    cdef i64 size = plan.in_channels, sequences = plan.width, gates = plan.out_channels
    cdef i64 states = plan.groups * sequences * size, groups = ceil_div(sequences, plan.block_rows)
    # what one product gives for a sequence: all gates, or all but the last
    cdef i64 summed = gates - size if kind == GRU_BEFORE else gates
    cdef i64 row, side, first, count, place, step, at, n, bytes
    cdef real *sums = <real *> scratch
    cdef real *reset = sums + plan.block_rows * gates
    cdef real *last
    cdef Units own, u
    for row in range(row_begin, row_end):
        side = row // groups
        first = (row - side * groups) * plan.block_rows
        count = smaller(plan.block_rows, sequences - first)
        place = (side * sequences + first) * size
        last = out + plan.height * states + place
        bytes = count * size * <i64> sizeof(real)
        begin_with(count * size, moved(residual, place), last)
        if kind == LSTM:
            begin_with(count * size, moved(residual, states + place), last + states)
        own.size, own.before = size, last
        for step in range(plan.height):
            at = plan.height - 1 - step if side >= plan.pad_top else step
            own.given = x + ((at * sequences + first) * plan.groups + side) * gates
            own.after, own.cell = out + at * states + place, last + states
            own.sums, own.reset = sums, reset
            own.product = sums + count * summed if kind == GRU_BEFORE else sums + 2 * size
            product(plans + side, own.before, NULL, sums, NULL, 0, count, 0, plan.pointwise_blocks)
            if kind == GRU_BEFORE:
                for n in range(count):
                    all_units(kind, True, sequence_of(own, n, summed, plan.groups * gates))
                product(resets + side, reset, NULL, own.product, NULL, 0, count, 0, plan.expand_blocks)
            for n in range(count):
                u = sequence_of(own, n, summed, plan.groups * gates)
                if kind == GRU_BEFORE:
                    u.product = own.product + n * size
                all_units(kind, False, u)
            own.before = own.after
        if plan.height > 0:
            memmove(last, own.before, bytes)


cdef inline Units sequence_of(Units u, i64 number, i64 summed, i64 given) noexcept nogil:
    """That of sequence `number`, of whose sums there are `summed`, and whose inputs begin `given` elements apart."""
    u.rest = u.size
    u.given += number * given
    u.sums += number * summed
    u.product += number * summed
    u.reset += number * u.size
    u.before += number * u.size
    u.after += number * u.size
    u.cell += number * u.size
    return u


cdef inline void begin_with(i64 count, const real *source, real *target) noexcept nogil:
    cdef i64 at
    for at in range(count):
        target[at] = source[at] if source != NULL else 0


cdef void rnn(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    recurrence(RNN, plan, x, residual, out, scratch, row_begin, row_end)


cdef void lstm(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    recurrence(LSTM, plan, x, residual, out, scratch, row_begin, row_end)


cdef void gru(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    recurrence(GRU, plan, x, residual, out, scratch, row_begin, row_end)


cdef void gru_before(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    recurrence(GRU_BEFORE, plan, x, residual, out, scratch, row_begin, row_end)
