# Regions of images, cut into cells: of each the mean of points, between pixels (RoiAlign in ONNX's standard).
#
# Assumes: channel-last, contiguous images; residual has four numbers for each region, where it begins and ends across and
# down; plan.weights points to the numbers of their images. A cell has plan.kernel_h points along an axis, or, if that is
# 0, about one for each pixel; regions shorter than plan.alpha count as that long. Rows are regions; there is one block.
# scratch holds two tables (Places), of plan.out_height and plan.out_width cells, with plan.dilation_h and plan.dilation_w
# entries each.
# Guarantees: out is (regions, out_height, out_width, in_channels); points outside the image count as zero. The pixels of a
# cell are added up row by row.
# Both axes have weights of their own, since a point's four neighbours are two by two: of the points of a cell only those of
# each axis are looked at, and neighbours that points share are added up once.

cdef enum:
    CELL_VECTORS = 4  # of channels, side by side

cdef struct Places:  # of an axis: which pixels the points of each cell lie between, and their weights
    i64 most        # entries of each cell, at most
    i64 *counts
    i64 *pixels
    real *weights


cdef inline Places places_in(void *scratch, i64 cells, i64 most) noexcept nogil:
    cdef Places places
    places.most = most
    places.counts = <i64 *> scratch
    places.pixels = places.counts + cells
    places.weights = <real *> (places.pixels + cells * most)
    return places


cdef inline void add_place(Places *places, i64 cell, i64 pixel, real weight) noexcept nogil:
    """A pixel and its weight, which may be one of the last two; others cannot come again, since points are in order."""
    cdef i64 *pixels = places.pixels + cell * places.most
    cdef real *weights = places.weights + cell * places.most
    cdef i64 count = places.counts[cell], at
    for at in range(larger(count - 2, 0), count):
        if pixels[at] == pixel:
            weights[at] += weight
            return
    pixels[count], weights[count] = pixel, weight
    places.counts[cell] = count + 1


cdef inline i64 rounded_up(real v) noexcept nogil:
    cdef i64 whole = <i64> v
    return whole + 1 if <real> whole < v else whole


cdef void find_places(Places *places, real begin, real end, i64 cells, i64 samples, real least, i64 size) noexcept nogil:
    cdef real length = end - begin, each, share, place
    cdef i64 points, cell, point, low
    if length < least:
        length = least
    each = length / <real> cells
    points = samples if samples > 0 else larger(rounded_up(each), 0)
    share = 1 / <real> larger(points, 1)
    for cell in range(cells):
        places.counts[cell] = 0
        for point in range(points):
            place = begin + <real> cell * each + (<real> point + <real> 0.5) * each / <real> points
            if not (place >= -1 and place <= <real> size):
                continue
            place = smallest_of(largest_of(place, 0), <real> (size - 1))
            low = <i64> place
            add_place(places, cell, low, (1 - (place - <real> low)) * share)
            if low + 1 < size:
                add_place(places, cell, low + 1, (place - <real> low) * share)


cdef inline real largest_of(real a, real b) noexcept nogil:
    return a if a > b else b


cdef inline real smallest_of(real a, real b) noexcept nogil:
    return a if a < b else b


cdef inline void cell_vectors(
    const int count, const int lanes, i64 rest, i64 row_step, i64 step, const Places *down, i64 row, const Places *across,
    i64 column, const real *x, real *out
) noexcept nogil:
    """`count` vectors of channels of a cell, or, where `lanes` is 0, the first `rest` lanes of one."""
    cdef const i64 *rows = down.pixels + row * down.most
    cdef const i64 *columns = across.pixels + column * across.most
    cdef const real *by_row = down.weights + row * down.most
    cdef const real *by_column = across.weights + column * across.most
    cdef vec acc[CELL_VECTORS]
    cdef vec weight
    cdef const real *line
    cdef const real *p
    cdef i64 h, w
    cdef int j
    for j in range(count):
        acc[j] = v_zero()
    for h in range(down.counts[row]):
        line = x + rows[h] * row_step
        for w in range(across.counts[column]):
            weight = v_splat(by_row[h] * by_column[w])
            p = line + columns[w] * step
            for j in range(count):
                acc[j] = v_fma(v_load(p + j * LANES) if lanes else v_load_part(p, 0, <int> rest), weight, acc[j])
    for j in range(count):
        if lanes:
            v_store(out + j * LANES, acc[j])
        else:
            v_store_first(out, acc[j], <int> rest)


cdef void regions(
    const Plan *plan, const real *x, const real *residual, real *out, void *scratch,
    i64 row_begin, i64 row_end, i64 block_begin, i64 block_end
) noexcept nogil:
    cdef const i64 *images = <const i64 *> plan.weights
    cdef i64 channels = plan.in_channels, line = plan.width * channels, region, row, column, at
    cdef Places down = places_in(scratch, plan.out_height, plan.dilation_h), across
    cdef const real *corners
    cdef const real *image
    cdef real *target = out + row_begin * plan.out_height * plan.out_width * channels
    across = places_in(<void *> (down.weights + plan.out_height * down.most), plan.out_width, plan.dilation_w)
    for region in range(row_begin, row_end):
        corners = residual + 4 * region
        image = x + images[region] * plan.height * line
        find_places(&across, corners[0], corners[2], plan.out_width, plan.kernel_h, <real> plan.alpha, plan.width)
        find_places(&down, corners[1], corners[3], plan.out_height, plan.kernel_h, <real> plan.alpha, plan.height)
        for row in range(plan.out_height):
            for column in range(plan.out_width):
                at = 0
                while at + CELL_VECTORS * LANES <= channels:
                    cell_vectors(
                        CELL_VECTORS, 1, 0, line, channels, &down, row, &across, column, image + at, target + at)
                    at += CELL_VECTORS * LANES
                while at + LANES <= channels:
                    cell_vectors(1, 1, 0, line, channels, &down, row, &across, column, image + at, target + at)
                    at += LANES
                if at < channels:
                    cell_vectors(
                        1, 0, channels - at, line, channels, &down, row, &across, column, image + at, target + at)
                target += channels
