# A panel of a product's weights: what its tiles of pixels need to know (gemm.pxi), how tall they are, and what they ask for
# ahead.

cdef struct Panel:
    const real *weights        # of the first tap of the sum
    const real *bias
    i64 vectors                # width of the panel
    i64 last                   # columns in its last vector, 1 to LANES
    i64 a_step                 # from one pixel of the tile to the next, in x
    i64 out_step               # likewise in out and residual
    i64 row_taps
    i64 a_row                  # from one kernel row to the next, in x
    i64 w_row                  # likewise in the weights
    i64 column_taps
    i64 a_column
    i64 w_column
    i64 depth
    bint more                  # whether sums begin with what `out` has, not with the bias
    bint joined                # whether each input of a pixel is a vector: see joined_groups.pxi
    const real *ahead          # what the next tile prefetches: where the last one stopped
    const real *ahead_end      # NEVER where nothing is left to ask for
    i64 ahead_step             # for each input: the first AHEAD_TILES tiles, or more, ask for a part of the next panel each
    const real *inputs_end     # of inputs that are asked for in place of that, two tiles ahead; null for none
    const real *later          # what is asked for when all of that is: weights of a later kernel
    const real *later_end
    bint asks_out              # whether tiles ask for lines that the second one below writes to: see ask_out
    bint asks_in               # whether tiles with pixels as lanes ask for the inputs of the next (few_outputs.pxi), and
                               # single pixels for weights
    i64 crowded_rows           # most rows of tiles whose pixels share a set of L1; 0: any number
    const real *hardswish      # in place of the clamp: its numbers, or null
    real low
    real high
    bint short                 # whether the CPU computes a vector in two turns (SHORT_ROWS in tile.h). Not among the first:
                               # runs copy panels by vectors, and what is read of a copy across two of them waits


cdef inline bint is_short(const Plan *plan) noexcept nogil:
    """Whether tiles are those of a CPU that computes a vector in two turns."""
    return SHORT_ROWS > 0 and plan.tile_rows == SHORT_ROWS


cdef inline i64 panel_vectors(const Plan *plan) noexcept nogil:
    """Vectors of a panel that is not the last."""
    return SHORT_VECTORS if is_short(plan) else GEMM_VECTORS


cdef inline i64 columns_of(const Panel *panel) noexcept nogil:
    return (panel.vectors - 1) * LANES + panel.last


cdef inline bint ends_in_half(const Panel *panel) noexcept nogil:
    """Whether half of the last vector is computed, which is worth it where a vector takes two turns. Other CPUs multiply
    and add halves in one unit where they do whole vectors in two: 42x42x56 to 8 took 2.1 times as long as to 16."""
    return HAS_HALVES and panel.short and 2 * panel.last <= LANES


cdef inline i64 rows_of_tiles(const Panel *panel) noexcept nogil:
    """Most rows of the tiles of a panel: as many as the CPU writes at a time without a pause, or more of half vectors.
    Fewer where pixels share a set of L1 (`abi.crowded_rows`), or outputs come from no near cache: of 14 all at once."""
    cdef i64 most = TILE_ROWS(<int> panel.vectors)
    if panel.asks_out:
        most = smaller(most, ASKING_ROWS)
    if panel.short and panel.vectors > 1 and not (panel.vectors == 2 and ends_in_half(panel)):
        most = smaller(most, SHORT_ROWS)
    if panel.crowded_rows > 0 and panel.a_step * <i64> sizeof(real) % SET_BYTES == 0:
        return smaller(most, panel.crowded_rows)
    return most


cdef inline i64 panels_of(const Plan *plan, i64 channels) noexcept nogil:
    """Number of panels of a weight matrix of that many columns: as `abi.panel_widths`."""
    cdef i64 vectors = ceil_div(channels, LANES), width = panel_vectors(plan)
    if vectors > width and vectors % width == 1 and width < MOST_VECTORS:
        return vectors // width
    return ceil_div(vectors, width)


cdef inline void ask_nothing(Panel *panel) noexcept nogil:
    """Tiles ask for a line that is in L1 anyway, which costs least, and never come to an end of it: what is done at an
    end took 12 cycles of each tile."""
    panel.ahead = panel.later = panel.later_end = panel.weights
    panel.ahead_end = NEVER
    panel.ahead_step = 0


cdef inline int later_lines(const int rows) noexcept nogil:
    """As `abi.later_lines`."""
    return 2 if LANES == LINE and rows * TURN > LINE else 1


cdef inline void ask_later(Panel *panel, int turn, int lines) noexcept nogil:
    """All that was to be asked for ahead is: then for what is to be asked for later, `lines` a turn."""
    cdef const real *later = panel.later
    cdef const real *later_end = panel.later_end
    ask_nothing(panel)
    if later < later_end:
        panel.ahead = later
        panel.ahead_end = later_end
        panel.ahead_step = lines * LINE // turn


cdef inline void panel_of(Panel *panel, const Plan *plan, i64 channels, i64 depth, i64 block) noexcept nogil:
    """Place and width of panel number `block` of a weight matrix of `channels` columns and `depth` rows."""
    cdef i64 width = panel_vectors(plan) * LANES, first = block * width, rest = channels - first
    if block < panels_of(plan, channels) - 1:
        rest = width
    panel.vectors = ceil_div(rest, LANES)
    panel.last = rest - (panel.vectors - 1) * LANES
    panel.weights = <const real *> plan.weights + first * depth
    panel.bias = <const real *> plan.bias + first
    panel.short = is_short(plan)
    panel.inputs_end = NULL
    panel.joined = panel.more = False
    ask_nothing(panel)
    panel.asks_out = plan.asks_out != 0
    panel.asks_in = plan.asks_in != 0
    panel.crowded_rows = plan.crowded_rows
    panel.hardswish = HARDSWISH_NUMBERS if plan.hardswish else NULL
    panel.low = <real> plan.low
    panel.high = <real> plan.high
    panel.out_step = plan.out_step
