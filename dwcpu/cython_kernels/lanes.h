/* Some lanes of a vector: loads, multiply-adds and stores that leave the others alone.

   `first` and `last` name lanes: the _part functions touch the elements p[first] .. p[last - 1] and no other byte. */
#ifndef DWCPU_LANES_H
#define DWCPU_LANES_H

#include "vectors.h"

#if V_AVX512
V_INLINE V_FORM(__mmask16, __mmask8) v_lanes(int first, int last) {
    return (V_FORM(__mmask16, __mmask8))(((1u << last) - 1u) & ~((1u << first) - 1u));
}
#elif V_AVX2
static const bits v_ones[3 * LANES] = {[LANES] = -1, -1, -1, -1,
#if LANES == 8
                                       -1, -1, -1, -1,
#endif
                                       0};
/* All bits set in lanes first .. last - 1. */
V_INLINE __m256i v_lanes(int first, int last) {
    __m256i from_first = _mm256_loadu_si256((const __m256i *)(v_ones + LANES - first));
    __m256i below_last = _mm256_loadu_si256((const __m256i *)(v_ones + 2 * LANES - last));
    return _mm256_and_si256(from_first, below_last);
}
#endif

/* p[first] .. p[last - 1] in their lanes, zero in the others */
V_INLINE vec v_load_part(const real *p, int first, int last) {
#if V_AVX512
    return V_FORM(_mm512_maskz_loadu_ps, _mm512_maskz_loadu_pd)(v_lanes(first, last), p);
#elif V_AVX2
    return V_FORM(_mm256_maskload_ps, _mm256_maskload_pd)(p, v_lanes(first, last));
#else
    vec v = {0};
    for (int i = 0; i < LANES; i++)
        if (i >= first && i < last) v[i] = p[i];
    return v;
#endif
}

/* The lanes whose number plus `at` is one of 0 .. count - 1, both of which are less than 2^30. */
#if V_AVX512
typedef V_FORM(__mmask16, __mmask8) vec_lanes;
#else
typedef vec_bits vec_lanes;
#endif
#define V_NUMBER(lane) lane
V_INLINE vec_lanes v_inside(int64_t at, int64_t count) {
    vec_bits place = (bits)at + (vec_bits){V_EACH(V_NUMBER, 0)}, end = (bits)count - (vec_bits){0};
#if V_AVX512
    return V_FORM(_mm512_cmplt_epu32_mask, _mm512_cmplt_epu64_mask)((__m512i)place, (__m512i)end);
#else
    return (place >= 0) & (place < end);
#endif
}

/* p[lane] in these lanes, zero in the others, whose elements are not touched */
V_INLINE vec v_load_where(vec_lanes where, const real *p) {
#if V_AVX512
    return V_FORM(_mm512_maskz_loadu_ps, _mm512_maskz_loadu_pd)(where, p);
#elif V_AVX2
    return V_FORM(_mm256_maskload_ps, _mm256_maskload_pd)(p, (__m256i)where);
#else
    vec v = {0};
    for (int i = 0; i < LANES; i++)
        if (where[i]) v[i] = p[i];
    return v;
#endif
}

/* a * b + c in these lanes, c in the others */
V_INLINE vec v_fma_where(vec_lanes where, vec a, vec b, vec c) {
#if V_AVX512
    return V_FORM(_mm512_mask3_fmadd_ps, _mm512_mask3_fmadd_pd)(a, b, c, where);
#elif V_AVX2
    return V_FORM(_mm256_blendv_ps, _mm256_blendv_pd)(c, v_fma(a, b, c), (vec)where);
#else
    return (vec)(((vec_bits)v_fma(a, b, c) & where) | ((vec_bits)c & ~where));
#endif
}

/* yes in these lanes, no in the others */
V_INLINE vec v_select(vec_lanes where, vec yes, vec no) {
#if V_AVX512
    return V_FORM(_mm512_mask_mov_ps, _mm512_mask_mov_pd)(no, where, yes);
#else
    return (vec)(((vec_bits)yes & where) | ((vec_bits)no & ~where));
#endif
}

/* All lanes together, halves on halves: their sum, and the largest, NaN if there is one. */
#define V_AWAY_8(n) (((n) + 8) % LANES)
#define V_AWAY_4(n) (((n) + 4) % LANES)
#define V_AWAY_2(n) (((n) + 2) % LANES)
#define V_AWAY_1(n) (((n) + 1) % LANES)
#define V_TOGETHER(name, of_two)                                                                                  \
    V_INLINE real name(vec v) {                                                                                   \
        if (LANES > 8) v = of_two(v, V_SHUFFLE(v, v, V_EACH(V_AWAY_8, 0)));                                       \
        if (LANES > 4) v = of_two(v, V_SHUFFLE(v, v, V_EACH(V_AWAY_4, 0)));                                       \
        if (LANES > 2) v = of_two(v, V_SHUFFLE(v, v, V_EACH(V_AWAY_2, 0)));                                       \
        return of_two(v, V_SHUFFLE(v, v, V_EACH(V_AWAY_1, 0)))[0];                                                \
    }
V_TOGETHER(v_sum, v_add)
V_TOGETHER(v_largest, v_maximum)

V_INLINE void v_store_part(real *p, vec v, int first, int last) {
#if V_AVX512
    V_FORM(_mm512_mask_storeu_ps, _mm512_mask_storeu_pd)(p, v_lanes(first, last), v);
#elif V_AVX2
    V_FORM(_mm256_maskstore_ps, _mm256_maskstore_pd)(p, v_lanes(first, last), v);
#else
    for (int i = 0; i < LANES; i++)
        if (i >= first && i < last) p[i] = v[i];
#endif
}

/* The lanes from number `first` on, of two vectors in a row. */
V_INLINE vec_bits v_numbers_from(int first) { return (bits)first + (vec_bits){V_EACH(V_NUMBER, 0)}; }

/* p[0] .. p[count - 1] from the lanes of v, where `before` was stored right before p: once more, in one store with v, whose
   `numbers` are those from `count` on. A load of what comes next would wait for a masked store, which reaches into it:
   rows of 40 reals in place took three times as long. */
V_INLINE void v_store_end(real *p, vec before, vec v, vec_bits numbers, int count) {
    v_store(p + count - LANES, v_pick_of_two(before, v, numbers));
}

/* p[0] .. p[count - 1] from their lanes, fewer than all. In pieces: masked stores are slow on many CPUs, and branches on
   a count that stays the same are not. */
V_INLINE void v_store_first(real *p, vec v, int count) {
#if V_AVX2
    __m128i half = _mm256_castsi256_si128((__m256i)v);
    if (count & (LANES / 2)) {
        _mm_storeu_si128((__m128i *)p, half);
        half = _mm256_extracti128_si256((__m256i)v, 1);
        p += LANES / 2;
    }
    if (count & (LANES / 4)) {
        _mm_storel_epi64((__m128i *)p, half);
        half = _mm_unpackhi_epi64(half, half);
        p += LANES / 4;
    }
#if !DWCPU_DOUBLE
    if (count & 1) _mm_store_ss(p, (__m128)half);
#endif
#else
    if (HAS_HALVES && count == LANES / 2)
        v_store_half(p, v);
    else
        v_store_part(p, v, 0, count);
#endif
}

#endif
