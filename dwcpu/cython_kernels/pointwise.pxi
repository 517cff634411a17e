# Pointwise (1x1) convolution: pixels x input channels times a packed weight matrix.
#
# Assumes: pixels plan.x_step apart in x, plan.out_step in out; weights in panels (gemm.pxi); rows are pixels and blocks
# are panels. Guarantees: gemm.pxi.
# Loops, outermost first: blocks of plan.block_rows pixels, whose inputs stay in L2 while all panels pass; with
# plan.block_channels, stretches of so many inputs, between which sums wait in `out`, where nothing rounds them; panels;
# tiles. With plan.across: tiles of pixels, then panels.

cdef enum:
    ACROSS_PANELS = 64  # that take turns at most


cdef inline void product_panel(Panel *panel, const Plan *plan, i64 block) noexcept nogil:
    """Panel number `block` of the weights."""
    panel_of(panel, plan, plan.out_channels, plan.in_channels, block)
    panel.row_taps = panel.column_taps = 1
    panel.a_row = panel.w_row = panel.a_column = panel.w_column = 0
    panel.a_step = plan.x_step
    panel.depth = plan.in_channels


cdef void tiles_across(
    const Plan *plan, Panel *panels, i64 count, i64 rows, i64 tiles, const real *a, const real *residual, real *out
) noexcept nogil:
    """`tiles` tiles of `rows` pixels, each of all of `count` panels, with their activation."""
    cdef i64 width = panel_vectors(plan) * LANES, out_step = panels.out_step, last = count - 1, q
    cdef Tiles inner = tiles_of(panels), end = tiles_of(&panels[last])
    ask_inputs(panels, rows, a)
    while tiles > 0:
        for q in range(last):
            inner(rows, &panels[q], 1, a, moved(residual, q * width), out + q * width)
        end(rows, &panels[last], 1, a, moved(residual, last * width), out + last * width)
        activate(plan, out, rows, out_step, last * width + columns_of(&panels[last]))
        a += rows * panels.a_step
        residual = moved(residual, rows * out_step)
        out += rows * out_step
        tiles -= 1


cdef void pointwise_across(
    const Plan *plan, const real *x, const real *residual, real *out,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    """All panels, up to ACROSS_PANELS, take turns after each tile, so that outputs are written nearly in order.

    CPUs fetch the lines that are written to ahead where these follow one another, more of them at a time than a core
    can ask for itself.
    """
    cdef Panel panels[ACROSS_PANELS]
    cdef i64 count = smaller(block_end - block_begin, ACROSS_PANELS), width = panel_vectors(plan) * LANES
    cdef i64 first = block_begin * width, later = plan.later_size // <i64> sizeof(real), q, rows, tiles, taller
    cdef i64 panel_count = panels_of(plan, plan.out_channels)
    for q in range(count):
        product_panel(&panels[q], plan, block_begin + q)
    rows = smaller(rows_of_tiles(&panels[0]), rows_of_tiles(&panels[count - 1]))
    tiles = ceil_div(row_end - row_begin, rows)
    rows = (row_end - row_begin) // tiles
    taller = row_end - row_begin - rows * tiles
    if later > 0:
        for q in range(count):
            panels[q].later = <const real *> plan.later + later * (block_begin + q) // panel_count
            panels[q].later_end = <const real *> plan.later + later * (block_begin + q + 1) // panel_count
            ask_later(&panels[q], TURN, later_lines(<int> rows))
    else:
        panels[0].inputs_end = x + row_end * plan.x_step
    if taller > 0:
        tiles_across(
            plan, panels, count, rows + 1, taller, x + row_begin * plan.x_step,
            moved(residual, row_begin * plan.out_step + first), out + row_begin * plan.out_step + first)
    row_begin += taller * (rows + 1)
    tiles_across(
        plan, panels, count, rows, tiles - taller, x + row_begin * plan.x_step,
        moved(residual, row_begin * plan.out_step + first), out + row_begin * plan.out_step + first)


cdef void ask_for_others(
    Panel *panel, const Plan *plan, i64 rows, i64 panels, i64 block, i64 block_begin, i64 block_end
) noexcept nogil:
    """Have panel `block` of a part ask for what later kernels read, its share of that: see `ahead`.

    The first one asks for its inputs. The last has no next one to ask for: it asks for what is read soon, if there is
    such a thing, several lines a turn (`abi.lines_a_turn`), else for a share as the others do.
    """
    cdef i64 size = plan.later_size // <i64> sizeof(real), first, share, turn = block - block_begin - 1
    cdef i64 turns = block_end - block_begin - 1 - (1 if plan.soon_size > 0 else 0)
    cdef int height = <int> (rows // ceil_div(rows, rows_of_tiles(panel)))
    if turn == turns:
        size = plan.soon_size // <i64> sizeof(real)
        panel.later = <const real *> plan.soon + size * block_begin // panels
        panel.later_end = <const real *> plan.soon + size * block_end // panels
        ask_later(panel, TURN, <int> (ceil_div(height * TURN, LINE) + 1) // 2)
    elif size > 0:
        first = size * block_begin // panels
        share = size * block_end // panels - first
        panel.later = <const real *> plan.later + first + share * turn // turns
        panel.later_end = <const real *> plan.later + first + share * (turn + 1) // turns
        if block + 1 == block_end:
            ask_later(panel, TURN, later_lines(height))


cdef inline void stretch_of(Panel *panel, const Plan *plan, i64 first, i64 count) noexcept nogil:
    """Have a panel add up `count` inputs from number `first` on; all but the last end with what is kept for the next."""
    panel.weights += first * panel.vectors * LANES
    panel.depth = count
    panel.more = first > 0
    if first + count < plan.in_channels:
        panel.hardswish = NULL
        panel.low, panel.high = <real> -INFINITY, <real> INFINITY


cdef void pointwise(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef Panel panel
    cdef i64 step = larger(plan.block_rows, 1)
    cdef i64 row = row_begin, rows, block, place, width, first, count, together
    cdef Plan own = plan[0]
    cdef bint last
    cdef i64 panels = panels_of(plan, plan.out_channels)
    cdef i64 panel_width = panel_vectors(plan) * LANES
    cdef i64 whole = smaller(block_end, panels - (plan.out_channels != panels * panel_width))  # but for a last one of other width
    if plan.across and row_end > row_begin and plan.in_channels > 0:
        while block_begin < block_end:
            pointwise_across(plan, x, residual, out, row_begin, row_end, block_begin, block_end)
            block_begin += ACROSS_PANELS
        return
    while row < row_end:
        rows = smaller(step, row_end - row)
        count = plan.block_channels if plan.block_channels > 0 else plan.in_channels
        first = 0
        while first == 0 or first < plan.in_channels:
            count = smaller(count, plan.in_channels - first)
            last = first + count == plan.in_channels
            own.activation = plan.activation if last else NULL
            block = block_begin
            while block < block_end:
                product_panel(&panel, plan, block)
                if block + 1 < block_end:
                    width = panel_width
                    if block + 2 == panels:
                        width = ceil_div(plan.out_channels - (block + 1) * width, LANES) * LANES
                    panel.ahead += panel_width * panel.depth + first * width
                    panel.ahead_end = panel.ahead + width * count
                    # of three vectors by more tiles than of two: a turn asks for AHEAD_LINES, which hold no more
                    panel.ahead_step = smaller(ceil_div(width, AHEAD_TILES), panel_width // TURN)
                if block > block_begin and row + rows == row_end and last:
                    ask_for_others(&panel, plan, rows, panels, block, block_begin, block_end)
                if block == block_begin and count == plan.in_channels:  # also those of the next block of rows, at its end
                    panel.inputs_end = x + row_end * plan.x_step
                place = row * plan.out_step + block * panel_width
                together = smaller(PIXEL_PANELS, whole - block)
                if rows == 1 and together > 1 and panel.depth > 0:
                    if last:
                        gemm_pixel(
                            together, plan, &panel, x + row * plan.x_step, moved(residual, place), out + place)
                    block += together
                    continue
                stretch_of(&panel, plan, first, count)
                gemm_panel(
                    &own, &panel, rows, x + row * plan.x_step + first, moved(residual, place) if last else NULL,
                    out + place)
                block += 1
            first += larger(count, 1)
        row += rows
