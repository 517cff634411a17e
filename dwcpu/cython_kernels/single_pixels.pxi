# Products of one pixel, such as classifiers: several panels at a time, since one has too few sums for a single row.
#
# Assumes: whole panels that are neighbours, one run, no empty sum. Guarantees: gemm.pxi.
# Loops: inputs; panels and vectors are unrolled.

cdef inline void gemm_pixel_of(
    const int panels, const int vectors, const bint asks, const Plan *plan, const Panel *panel, const real *a, const real *residual, real *out
) noexcept nogil:
    cdef vec acc[PIXEL_PANELS][MOST_VECTORS]
    cdef vec x, low = v_splat(panel.low), high = v_splat(panel.high)
    cdef const real *w = panel.weights
    cdef i64 size = panel.depth * vectors * LANES, k
    cdef int q, j, place
    for q in range(panels):
        for j in range(vectors):
            acc[q][j] = v_load(panel.bias + (q * vectors + j) * LANES)
    for k in range(panel.depth):
        x = v_splat(a[k])
        for q in range(panels):
            if asks:
                v_prefetch(w + q * size + PIXEL_AHEAD)
            for j in range(vectors):
                acc[q][j] = v_fma(x, v_load(w + q * size + j * LANES), acc[q][j])
        w += vectors * LANES
    for q in range(panels):
        for j in range(vectors):
            place = (q * vectors + j) * LANES
            if residual != NULL:
                acc[q][j] = v_add(acc[q][j], v_load(residual + place))
            v_store(out + place, ended(panel.hardswish != NULL, acc[q][j], low, high))
    activate(plan, out, 1, panel.out_step, panels * vectors * LANES)


cdef inline void gemm_pixel_asking(
    const int vectors, const bint asks,
    i64 panels, const Plan *plan, const Panel *panel, const real *a, const real *residual, real *out
) noexcept nogil:
    if panels == 2:
        gemm_pixel_of(2, vectors, asks, plan, panel, a, residual, out)
    elif panels == 3:
        gemm_pixel_of(3, vectors, asks, plan, panel, a, residual, out)
    else:
        gemm_pixel_of(PIXEL_PANELS, vectors, asks, plan, panel, a, residual, out)


cdef void gemm_pixel(
    i64 panels, const Plan *plan, const Panel *panel, const real *a, const real *residual, real *out
) noexcept nogil:
    """2 to PIXEL_PANELS whole panels, neighbours, for one pixel: one has too few accumulators for a single row."""
    if SHORT_ROWS > 0 and panel.short:
        if panel.asks_in:
            gemm_pixel_asking(SHORT_VECTORS, True, panels, plan, panel, a, residual, out)
        else:
            gemm_pixel_asking(SHORT_VECTORS, False, panels, plan, panel, a, residual, out)
    elif panel.asks_in:
        gemm_pixel_asking(GEMM_VECTORS, True, panels, plan, panel, a, residual, out)
    else:
        gemm_pixel_asking(GEMM_VECTORS, False, panels, plan, panel, a, residual, out)
