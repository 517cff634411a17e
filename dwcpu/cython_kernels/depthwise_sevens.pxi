# Tiles of seven columns for windows whose weights registers keep (KEEPS_WEIGHTS), as depthwise.pxi has their addresses.
#
# Two rows of seven are 14 sums, beside 14 weights of a 7x7 window or 15 of a 5x5 one at stride 2: what 32 registers hold.
# At stride 1 there are such for patches of which size / 2 columns are outside at one side or both; narrow_7, which tests
# columns and rows, is for what else is at borders.


cdef void inner_seven_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(3, 1, MOST_NARROW):
        inner_tiles(3, 1, MOST_NARROW, 0, False, job, tile, block_begin, block_end)


cdef void ring_seven_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(3, 1, MOST_NARROW):
        inner_tiles(3, 1, MOST_NARROW, 0, True, job, tile, block_begin, block_end)


cdef void left_seven_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(3, 1, MOST_NARROW):
        inner_tiles(3, 1, MOST_NARROW, CUT_LEFT, False, job, tile, block_begin, block_end)


cdef void right_seven_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(3, 1, MOST_NARROW):
        inner_tiles(3, 1, MOST_NARROW, CUT_RIGHT, False, job, tile, block_begin, block_end)


cdef void both_seven_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(3, 1, MOST_NARROW):
        inner_tiles(3, 1, MOST_NARROW, CUT_LEFT | CUT_RIGHT, False, job, tile, block_begin, block_end)


cdef void inner_seven_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(5, 1, MOST_NARROW):
        inner_tiles(5, 1, MOST_NARROW, 0, False, job, tile, block_begin, block_end)


cdef void ring_seven_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(5, 1, MOST_NARROW):
        inner_tiles(5, 1, MOST_NARROW, 0, True, job, tile, block_begin, block_end)


cdef void left_seven_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(5, 1, MOST_NARROW):
        inner_tiles(5, 1, MOST_NARROW, CUT_LEFT, False, job, tile, block_begin, block_end)


cdef void right_seven_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(5, 1, MOST_NARROW):
        inner_tiles(5, 1, MOST_NARROW, CUT_RIGHT, False, job, tile, block_begin, block_end)


cdef void both_seven_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(5, 1, MOST_NARROW):
        inner_tiles(5, 1, MOST_NARROW, CUT_LEFT | CUT_RIGHT, False, job, tile, block_begin, block_end)


cdef void inner_seven_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(5, 2, MOST_NARROW):
        inner_tiles(5, 2, MOST_NARROW, 0, False, job, tile, block_begin, block_end)


cdef void ring_seven_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(5, 2, MOST_NARROW):
        inner_tiles(5, 2, MOST_NARROW, 0, True, job, tile, block_begin, block_end)


cdef void inner_seven_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(7, 1, MOST_NARROW):
        inner_tiles(7, 1, MOST_NARROW, 0, False, job, tile, block_begin, block_end)


cdef void ring_seven_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(7, 1, MOST_NARROW):
        inner_tiles(7, 1, MOST_NARROW, 0, True, job, tile, block_begin, block_end)


cdef void left_seven_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(7, 1, MOST_NARROW):
        inner_tiles(7, 1, MOST_NARROW, CUT_LEFT, False, job, tile, block_begin, block_end)


cdef void right_seven_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(7, 1, MOST_NARROW):
        inner_tiles(7, 1, MOST_NARROW, CUT_RIGHT, False, job, tile, block_begin, block_end)


cdef void both_seven_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if KEEPS_WEIGHTS(7, 1, MOST_NARROW):
        inner_tiles(7, 1, MOST_NARROW, CUT_LEFT | CUT_RIGHT, False, job, tile, block_begin, block_end)
