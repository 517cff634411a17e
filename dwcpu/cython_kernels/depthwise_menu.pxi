# The tiles of depthwise_tiles.pxi for each window that is compiled, as depthwise.pxi has their addresses.

cdef void inner_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(3, 1, WINDOW_COLUMNS, 0, False, job, tile, block_begin, block_end)


cdef void ring_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(3, 1, WINDOW_COLUMNS, 0, True, job, tile, block_begin, block_end)


cdef void border_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(3, 1, WINDOW_COLUMNS, job, tile, block_begin, block_end)


cdef void side_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(3, 1, WINDOW_COLUMNS, job, tile, block_begin, block_end)


cdef void half_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(3, 1, HALF, job, tile, block_begin, block_end)


cdef void side_half_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(3, 1, HALF, job, tile, block_begin, block_end)


cdef void single_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(3, 1, 1, job, tile, block_begin, block_end)


cdef void side_single_3x3s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(3, 1, 1, job, tile, block_begin, block_end)


cdef void inner_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(3, 2, WINDOW_COLUMNS, 0, False, job, tile, block_begin, block_end)


cdef void ring_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(3, 2, WINDOW_COLUMNS, 0, True, job, tile, block_begin, block_end)


cdef void wide_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    if PAIRED:
        wide_tiles(3, 2, job, tile, block_begin, block_end)


cdef void border_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(3, 2, WINDOW_COLUMNS, job, tile, block_begin, block_end)


cdef void side_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(3, 2, WINDOW_COLUMNS, job, tile, block_begin, block_end)


cdef void half_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(3, 2, HALF, job, tile, block_begin, block_end)


cdef void side_half_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(3, 2, HALF, job, tile, block_begin, block_end)


cdef void single_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(3, 2, 1, job, tile, block_begin, block_end)


cdef void side_single_3x3s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(3, 2, 1, job, tile, block_begin, block_end)


cdef void inner_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(5, 1, WINDOW_COLUMNS, 0, False, job, tile, block_begin, block_end)


cdef void ring_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(5, 1, WINDOW_COLUMNS, 0, True, job, tile, block_begin, block_end)


cdef void border_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(5, 1, WINDOW_COLUMNS, job, tile, block_begin, block_end)


cdef void side_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(5, 1, WINDOW_COLUMNS, job, tile, block_begin, block_end)


cdef void half_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(5, 1, HALF, job, tile, block_begin, block_end)


cdef void side_half_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(5, 1, HALF, job, tile, block_begin, block_end)


cdef void single_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(5, 1, 1, job, tile, block_begin, block_end)


cdef void side_single_5x5s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(5, 1, 1, job, tile, block_begin, block_end)


cdef void inner_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(5, 2, WINDOW_COLUMNS, 0, False, job, tile, block_begin, block_end)


cdef void ring_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(5, 2, WINDOW_COLUMNS, 0, True, job, tile, block_begin, block_end)


cdef void border_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(5, 2, WINDOW_COLUMNS, job, tile, block_begin, block_end)


cdef void side_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(5, 2, WINDOW_COLUMNS, job, tile, block_begin, block_end)


cdef void half_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(5, 2, HALF, job, tile, block_begin, block_end)


cdef void side_half_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(5, 2, HALF, job, tile, block_begin, block_end)


cdef void single_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(5, 2, 1, job, tile, block_begin, block_end)


cdef void side_single_5x5s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(5, 2, 1, job, tile, block_begin, block_end)


cdef void inner_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(7, 1, WINDOW_COLUMNS, 0, False, job, tile, block_begin, block_end)


cdef void ring_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(7, 1, WINDOW_COLUMNS, 0, True, job, tile, block_begin, block_end)


cdef void border_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(7, 1, WINDOW_COLUMNS, job, tile, block_begin, block_end)


cdef void side_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(7, 1, WINDOW_COLUMNS, job, tile, block_begin, block_end)


cdef void half_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(7, 1, HALF, job, tile, block_begin, block_end)


cdef void side_half_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(7, 1, HALF, job, tile, block_begin, block_end)


cdef void single_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(7, 1, 1, job, tile, block_begin, block_end)


cdef void side_single_7x7s1(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(7, 1, 1, job, tile, block_begin, block_end)


cdef void inner_7x7s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(7, 2, WINDOW_COLUMNS, 0, False, job, tile, block_begin, block_end)


cdef void ring_7x7s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    inner_tiles(7, 2, WINDOW_COLUMNS, 0, True, job, tile, block_begin, block_end)


cdef void border_7x7s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(7, 2, WINDOW_COLUMNS, job, tile, block_begin, block_end)


cdef void side_7x7s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(7, 2, WINDOW_COLUMNS, job, tile, block_begin, block_end)


cdef void half_7x7s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(7, 2, HALF, job, tile, block_begin, block_end)


cdef void side_half_7x7s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(7, 2, HALF, job, tile, block_begin, block_end)


cdef void single_7x7s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    border_tile(7, 2, 1, job, tile, block_begin, block_end)


cdef void side_single_7x7s2(const Job *job, const Tile *tile, i64 block_begin, i64 block_end) noexcept nogil:
    side_tile(7, 2, 1, job, tile, block_begin, block_end)
