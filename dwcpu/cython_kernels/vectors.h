/* Vectors in C vector extensions: with lanes.h and tile.h all that differs between instruction sets, and all C of kernels.

   setup.py compiles it once per instruction set and dtype, with
     DWCPU_VECTOR_BYTES  width of a vector: 64 (AVX-512), 32 (AVX2 and FMA), 16 (NEON, SSE, anything else)
     DWCPU_DOUBLE        1 for float64, 0 for float32

   Loads and stores need no alignment beyond that of one element. A NaN that enters v_clamp leaves it. v_fma rounds
   once where the instruction set has a fused multiply-add; elsewhere (SSE) it multiplies, rounds, and adds. */
#ifndef DWCPU_VECTORS_H
#define DWCPU_VECTORS_H

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* Every `cdef inline` function of the kernels is a template: its first arguments are constants at each call, which only
   inlining turns into register tiles. */
#undef CYTHON_INLINE
#define CYTHON_INLINE inline __attribute__((always_inline))
#define V_INLINE static inline __attribute__((always_inline))

#if DWCPU_DOUBLE
typedef double real;
typedef int64_t bits;
#else
typedef float real;
typedef int32_t bits;
#endif

#include "abi.h" /* Plan, and constants of the activations: written from dwcpu/abi.py by setup.py */

#define LANES (DWCPU_VECTOR_BYTES / (DWCPU_DOUBLE ? 8 : 4)) /* reals in a vector */

typedef real vec __attribute__((vector_size(DWCPU_VECTOR_BYTES)));
typedef bits vec_bits __attribute__((vector_size(DWCPU_VECTOR_BYTES)));
typedef real vec_in_memory __attribute__((vector_size(DWCPU_VECTOR_BYTES), aligned(sizeof(real)), may_alias));

#if DWCPU_VECTOR_BYTES == 64 && defined(__AVX512F__)
#define V_AVX512 1
#elif DWCPU_VECTOR_BYTES == 32 && defined(__AVX2__) && defined(__FMA__)
#define V_AVX2 1
#elif DWCPU_VECTOR_BYTES == 16 && defined(__SSE2__)
#define V_SSE 1
#elif DWCPU_VECTOR_BYTES == 16 && defined(__aarch64__)
#define V_NEON 1
#elif DWCPU_VECTOR_BYTES != 16
#error "DWCPU_VECTOR_BYTES does not fit the instruction set that the compiler was told to use"
#endif

/* Picks the float32 or the float64 form of an intrinsic. */
#if DWCPU_DOUBLE
#define V_FORM(f32, f64) f64
#else
#define V_FORM(f32, f64) f32
#endif

#define HAS_HALVES (DWCPU_VECTOR_BYTES == 64) /* half a vector may take half the time: see v_store_half */

/* Whether the CPU computes a vector of 64 bytes in two turns of 32: AMD's family 19h (Zen 4), as cpuid says it. Others may,
   too, but none was at hand. */
V_INLINE int v_in_two_turns(void) {
#if V_AVX512
    unsigned leaf, vendor, version, more[3];
    return __get_cpuid(0, &leaf, &vendor, more, more + 1) && vendor == signature_AMD_ebx &&
           __get_cpuid(1, &version, more, more + 1, more + 2) && (version >> 8 & 15) + (version >> 20 & 255) == 0x19;
#else
    return 0;
#endif
}

/* p, as if the compiler did not know where it came from. It forgets what it loaded through it: else it loads every
   weight of a window once and spills most of them to the stack. And it computes addresses from p: else it keeps a
   pointer for each element of a tile, on the stack. Both cost 30 % on 16 registers. */
V_INLINE const real *v_anew(const real *p) {
    __asm__ volatile("" : "+r"(p) : : "memory");
    return p;
}

/* n, likewise: its multiples are not computed before this. */
V_INLINE int64_t v_anew_step(int64_t n) {
    __asm__ volatile("" : "+r"(n));
    return n;
}

/* v, as if it were new: what is computed from it comes later, and stores that stand before this stay before. Left to
   itself GCC computes all results of a tile and then stores them one after the other: one of 16 inputs took Zen 3 113
   cycles in L1, and takes 104 with a clamp between two stores. */
V_INLINE vec v_in_turn(vec v) {
#if V_AVX512
    __asm__ volatile("" : "+v"(v) : : "memory");
#elif V_AVX2 || V_SSE
    __asm__ volatile("" : "+x"(v) : : "memory");
#elif V_NEON
    __asm__ volatile("" : "+w"(v) : : "memory");
#endif
    return v;
}

/* v, in a register: GCC prefers to read again what is in memory. */
V_INLINE vec v_in_register(vec v) {
#if V_AVX512
    __asm__("" : "+v"(v));
#elif V_AVX2 || V_SSE
    __asm__("" : "+x"(v));
#elif V_NEON
    __asm__("" : "+w"(v));
#endif
    return v;
}

/* p and so many columns on, up to 18, where steps are 1, 3, 5 and 7 columns in bytes: an address of one load or store, for
   which x86 adds a register times 1, 2, 4 or 8; of odd ones from 9 on, and from 16 on, after an addition. Each use makes
   its step new: of several multiples of one number GCC makes a chain of additions. */
V_INLINE const real *v_beside(const real *p, int columns, int64_t steps[4]) {
    const char *at = (const char *)p;
    if (columns == 0) return p;
    if (columns > 16) {
        steps[0] = v_anew_step(steps[0]);
        at += steps[0] * 16;
        columns -= 16;
    }
    if (columns > 8 && columns % 2) {
        steps[0] = v_anew_step(steps[0]);
        at += steps[0] * 8;
        columns -= 8;
    }
    int twos = __builtin_ctz(columns), which = (columns >> twos) / 2;
    steps[which] = v_anew_step(steps[which]);
    return (const real *)(at + steps[which] * (1 << twos));
}

/* Whether any bit is set; most likely one is. */
V_INLINE int v_likely(int64_t bits) { return __builtin_expect(bits != 0, 1); }

/* Ask for a cache line, into L2. */
V_INLINE void v_prefetch(const real *p) { __builtin_prefetch(p, 0, 2); }

/* Ask for a cache line that will be written. */
V_INLINE void v_prefetch_out(real *p) { __builtin_prefetch(p, 1, 3); }

V_INLINE vec v_load(const real *p) { return *(const vec_in_memory *)p; }

/* As many elements from p on as fill half of a vector, and as many from q on. To load one half over another takes no
   shuffle, of which many CPUs begin one a cycle. */
V_INLINE vec v_load_halves(const real *p, const real *q) {
#if V_AVX512
    return V_FORM(_mm512_mask_broadcast_f32x8(_mm512_castps256_ps512(_mm256_loadu_ps(p)), 0xff00, _mm256_loadu_ps(q)),
                  _mm512_mask_broadcast_f64x4(_mm512_castpd256_pd512(_mm256_loadu_pd(p)), 0xf0, _mm256_loadu_pd(q)));
#elif V_AVX2
    return V_FORM(_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(q), 1),
                  _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(p)), _mm_loadu_pd(q), 1));
#else
    vec v;
    memcpy(&v, p, sizeof v / 2);
    memcpy((char *)&v + sizeof v / 2, q, sizeof v / 2);
    return v;
#endif
}

V_INLINE void v_store(real *p, vec v) { *(vec_in_memory *)p = v; }

V_INLINE vec v_splat(real s) { return s - (vec){0}; } /* unlike s + 0 this keeps the sign of -0; it costs nothing */

/* a[0], b[0], a[1], b[1], ...: of the first halves of both, and of the second ones. */
#if LANES == 16
#define V_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define V_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LANES == 8
#define V_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define V_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif LANES == 4
#define V_LOW 0, 4, 1, 5
#define V_HIGH 2, 6, 3, 7
#else
#define V_LOW 0, 2
#define V_HIGH 1, 3
#endif
#if defined(__clang__)
#define V_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define V_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vec_bits){__VA_ARGS__})
#endif
#define LANES_LIMIT 16 /* of any vector */

/* F of as many numbers as there are lanes, from `first` on. */
#define V_EACH_2(F, first) F(first), F((first) + 1)
#define V_EACH_4(F, first) V_EACH_2(F, first), V_EACH_2(F, (first) + 2)
#define V_EACH_8(F, first) V_EACH_4(F, first), V_EACH_4(F, (first) + 4)
#define V_EACH_16(F, first) V_EACH_8(F, first), V_EACH_8(F, (first) + 8)
#if LANES == 16
#define V_EACH V_EACH_16
#elif LANES == 8
#define V_EACH V_EACH_8
#elif LANES == 4
#define V_EACH V_EACH_4
#else
#define V_EACH V_EACH_2
#endif

/* Of hardswish in a tile, v * min(max(v + 3, 0), 6) / 6: vectors of each, for instructions that read them where they
   are, from one cache line. */
#define V_3(lane) 3
#define V_6(lane) 6
#define V_SIXTH(lane) (real)(1.0 / 6.0)
static const real HARDSWISH_NUMBERS[] __attribute__((aligned(DWCPU_VECTOR_BYTES))) = {
    V_EACH(V_3, 0), V_EACH(V_6, 0), V_EACH(V_SIXTH, 0),
};

/* a[0], b[0], c[0], a[1], ...: one of the three vectors of it. The third of every three lanes comes last. */
#define V_OF_TWO(n) ((n) % 3 == 1 ? LANES + (n) / 3 : (n) / 3)
#define V_THIRD(n) ((n) % 3 == 2 ? LANES + (n) / 3 : (n) % LANES)
#define V_THREE(name, part)                                                                                       \
    V_INLINE vec name(vec a, vec b, vec c) {                                                                      \
        return V_SHUFFLE(V_SHUFFLE(a, b, V_EACH(V_OF_TWO, part *LANES)), c, V_EACH(V_THIRD, part *LANES));        \
    }
V_THREE(v_interleave_3_first, 0)
V_THREE(v_interleave_3_second, 1)
V_THREE(v_interleave_3_third, 2)

V_INLINE vec v_interleave_low(vec a, vec b) { return V_SHUFFLE(a, b, V_LOW); }
V_INLINE vec v_interleave_high(vec a, vec b) { return V_SHUFFLE(a, b, V_HIGH); }

/* Blocks of 128 bits, which are all that most shuffles of AVX reach across: how many lanes they have, and a vector. The
   reals of each block of two vectors in turns; and every second block of both, for which AVX-512 has a shuffle that reads
   no table (of blocks in turns it has none: heads of one to four outputs took 1.03 to 1.14 times as long). */
#define BLOCK_LANES (16 / (int)sizeof(real))
#define BLOCKS (LANES / BLOCK_LANES)
#define V_TURNS(n, size, first) ((n) / (size) % 2 * LANES + (n) / (2 * (size)) * (size) + (n) % (size) + (first))
#define V_IN(n, first) ((n) / BLOCK_LANES * BLOCK_LANES + V_TURNS((n) % BLOCK_LANES, 1, first))
#define V_IN_LOW(n) V_IN(n, 0)
#define V_IN_HIGH(n) V_IN(n, BLOCK_LANES / 2)
#define V_OF_EACH ((BLOCKS + 1) / 2)
#define V_BLOCK(n, odd) ((n) / V_OF_EACH * LANES + (2 * ((n) % V_OF_EACH) + (odd)) * BLOCK_LANES)
#define V_BLOCKS_EVEN(n) (V_BLOCK((n) / BLOCK_LANES, 0) + (n) % BLOCK_LANES)
#define V_BLOCKS_ODD(n) (V_BLOCK((n) / BLOCK_LANES, 1) + (n) % BLOCK_LANES)
V_INLINE vec v_in_blocks_low(vec a, vec b) { return V_SHUFFLE(a, b, V_EACH(V_IN_LOW, 0)); }
V_INLINE vec v_in_blocks_high(vec a, vec b) { return V_SHUFFLE(a, b, V_EACH(V_IN_HIGH, 0)); }
V_INLINE vec v_blocks_even(vec a, vec b) { return V_SHUFFLE(a, b, V_EACH(V_BLOCKS_EVEN, 0)); }
V_INLINE vec v_blocks_odd(vec a, vec b) { return V_SHUFFLE(a, b, V_EACH(V_BLOCKS_ODD, 0)); }

/* Lanes of a by their numbers, and of a and b, whose lanes are numbered from LANES on. */
V_INLINE vec_bits v_numbers(const bits *p) {
    vec_bits numbers;
    memcpy(&numbers, p, sizeof numbers);
    return numbers;
}

#if V_AVX2
/* Numbers of lanes as numbers of their words of 32 bits. */
V_INLINE __m256i v_words(vec_bits numbers) {
    return (__m256i)(DWCPU_DOUBLE ? 2 * numbers + ((2 * numbers + 1) << V_FORM(0, 32)) : numbers);
}
#endif

V_INLINE vec v_pick(vec a, vec_bits numbers) {
#if V_AVX512
    return V_FORM(_mm512_permutexvar_ps, _mm512_permutexvar_pd)((__m512i)numbers, a);
#elif V_AVX2
    return (vec)_mm256_permutevar8x32_epi32((__m256i)a, v_words(numbers));
#else
    vec v = {0};
    for (int i = 0; i < LANES; i++) v[i] = a[numbers[i] % LANES];
    return v;
#endif
}

V_INLINE vec v_pick_of_two(vec a, vec b, vec_bits numbers) {
#if V_AVX512
    return V_FORM(_mm512_permutex2var_ps, _mm512_permutex2var_pd)(a, (__m512i)numbers, b);
#else
    vec_bits of_b = numbers >= LANES;
    return (vec)(((vec_bits)v_pick(b, numbers) & of_b) | ((vec_bits)v_pick(a, numbers) & ~of_b));
#endif
}

V_INLINE vec v_zero(void) { return (vec){0}; }
V_INLINE vec v_add(vec a, vec b) { return a + b; }
V_INLINE vec v_sub(vec a, vec b) { return a - b; }
V_INLINE vec v_mul(vec a, vec b) { return a * b; }
V_INLINE vec v_div(vec a, vec b) { return a / b; }
V_INLINE vec v_neg(vec a) { return -a; }

/* a * b + c */
V_INLINE vec v_fma(vec a, vec b, vec c) {
#if V_AVX512
    return (vec)V_FORM(_mm512_fmadd_ps, _mm512_fmadd_pd)(a, b, c);
#elif V_AVX2
    return (vec)V_FORM(_mm256_fmadd_ps, _mm256_fmadd_pd)(a, b, c);
#elif V_NEON
    return (vec)V_FORM(vfmaq_f32, vfmaq_f64)(c, a, b);
#elif defined(__FP_FAST_FMAF) && defined(__FP_FAST_FMA)
    for (int i = 0; i < LANES; i++) c[i] = V_FORM(__builtin_fmaf, __builtin_fma)(a[i], b[i], c[i]);
    return c;
#else
    return a * b + c;
#endif
}

/* The same, in the register of c: left to itself the compiler also takes those of a and b, and then lacks them. */
V_INLINE vec v_fma_onto(vec a, vec b, vec c) {
#if V_AVX512 || V_AVX2
    __asm__(V_FORM("vfmadd231ps", "vfmadd231pd") " %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
#else
    return v_fma(a, b, c);
#endif
}

/* The same with *a in every lane. AVX-512 splats it while it loads; v_splat, on Zen 4, takes time of
   the multiply-adds. */
V_INLINE vec v_fma_onto_splat(const real *a, vec b, vec c) {
#if V_AVX512
    __asm__(V_FORM("vfmadd231ps %2%{1to16%}", "vfmadd231pd %2%{1to8%}") ", %1, %0" : "+v"(c) : "v"(b), "m"(*a));
    return c;
#else
    return v_fma_onto(v_splat(*a), b, c);
#endif
}

/* The same with b where it is in memory. */
V_INLINE vec v_fma_onto_from(vec a, const real *b, vec c) {
#if V_AVX512 || V_AVX2
    __asm__(V_FORM("vfmadd231ps", "vfmadd231pd") " %2, %1, %0" : "+v"(c) : "v"(a), "m"(*(const vec_in_memory *)b));
    return c;
#else
    return v_fma(a, v_load(b), c);
#endif
}

/* Halves (HAS_HALVES): of the first LANES / 2 lanes alone; the others may be anything afterwards. Where vectors are of 64
   bytes these are instructions for 32, of which CPUs whose multiply-adds take two turns for 64 begin two in the time of
   one. Elsewhere nobody asks for them. */
V_INLINE void v_store_half(real *p, vec v) {
#if V_AVX512
    V_FORM(_mm256_storeu_ps, _mm256_storeu_pd)(p, V_FORM(_mm512_castps512_ps256, _mm512_castpd512_pd256)(v));
#else
    v_store(p, v);
#endif
}

V_INLINE vec v_fma_onto_splat_half(const real *a, vec b, vec c) {
#if V_AVX512
    __asm__(V_FORM("vfmadd231ps %2%{1to8%}", "vfmadd231pd %2%{1to4%}") ", %t1, %t0" : "+v"(c) : "v"(b), "m"(*a));
    return c;
#else
    return v_fma_onto_splat(a, b, c);
#endif
}

/* The same, in the register of a, with c where it is: a step of a polynomial. */
V_INLINE vec v_fma_over(vec a, vec b, vec c) {
#if V_AVX512 || V_AVX2
    __asm__(V_FORM("vfmadd213ps", "vfmadd213pd") " %2, %1, %0" : "+v"(a) : "v"(b), "vm"(c));
    return a;
#else
    return v_fma(a, b, c);
#endif
}

/* a * a - square, where that is a * a rounded: what the rounding took, exactly. Without a fused multiply-add from two halves
   of a (Veltkamp and Dekker), for |a| far from overflow. */
V_INLINE vec v_square_rest(vec a, vec square) {
#if V_AVX512 || V_AVX2 || V_NEON || (defined(__FP_FAST_FMAF) && defined(__FP_FAST_FMA))
    return v_fma(a, a, -square);
#else
    vec wide = a * (real)(DWCPU_DOUBLE ? 134217729 : 4097);
    vec high = wide - (wide - a), low = a - high;
    return ((high * high - square) + 2 * high * low) + low * low;
#endif
}

/* yes where a < b, else no; NaN compares false */
V_INLINE vec v_select_less(vec a, vec b, vec yes, vec no) {
    vec_bits mask = (vec_bits)(a < b);
    return (vec)(((vec_bits)yes & mask) | ((vec_bits)no & ~mask));
}

/* v < low ? low : v, so that NaN stays. On x86 that is one instruction: max and min return their second operand when
   either is NaN. */
V_INLINE vec v_at_least(vec v, vec low) {
#if V_AVX512
    return V_FORM(_mm512_max_ps, _mm512_max_pd)(low, v);
#elif V_AVX2
    return V_FORM(_mm256_max_ps, _mm256_max_pd)(low, v);
#elif V_SSE
    return V_FORM(_mm_max_ps, _mm_max_pd)(low, v);
#else
    return v_select_less(v, low, low, v);
#endif
}

/* v > high ? high : v, likewise. */
V_INLINE vec v_at_most(vec v, vec high) {
#if V_AVX512
    return V_FORM(_mm512_min_ps, _mm512_min_pd)(high, v);
#elif V_AVX2
    return V_FORM(_mm256_min_ps, _mm256_min_pd)(high, v);
#elif V_SSE
    return V_FORM(_mm_min_ps, _mm_min_pd)(high, v);
#else
    return v_select_less(high, v, high, v);
#endif
}

V_INLINE vec v_clamp(vec v, vec low, vec high) { return v_at_most(v_at_least(v, low), high); }

/* Square root of one number: what the compiler makes of it, an instruction, rounds correctly. */
V_INLINE real v_root(real a) {
#if DWCPU_DOUBLE
    return __builtin_sqrt(a);
#else
    return __builtin_sqrtf(a);
#endif
}

V_INLINE vec v_roots(vec a) {
#if V_AVX512
    return V_FORM(_mm512_sqrt_ps, _mm512_sqrt_pd)(a);
#else
    for (int i = 0; i < LANES; i++) a[i] = v_root(a[i]);
    return a;
#endif
}

/* The larger of two; NaN if either is. */
V_INLINE vec v_maximum(vec a, vec b) {
    vec_bits nan = (vec_bits)(a != a);
    return (vec)(((vec_bits)a & nan) | ((vec_bits)v_at_least(b, a) & ~nan));
}

/* The smaller of two, likewise. */
V_INLINE vec v_minimum(vec a, vec b) {
    vec_bits nan = (vec_bits)(a != a);
    return (vec)(((vec_bits)a & nan) | ((vec_bits)v_at_most(b, a) & ~nan));
}

V_INLINE vec v_abs(vec v) { return (vec)((vec_bits)v & ~(vec_bits)v_splat((real)-0.0)); }
V_INLINE vec v_neg_abs(vec v) { return (vec)((vec_bits)v | (vec_bits)v_splat((real)-0.0)); }

/* v, or zero where the sign bit of s is set, without a mask register, which on Zen 4 takes a turn of a multiply-add */
V_INLINE vec v_where_positive(vec s, vec v) { return (vec)((vec_bits)v & ~((vec_bits)s >> (8 * sizeof(bits) - 1))); }

/* yes where the sign bit of v is set, else no */
V_INLINE vec v_select_negative(vec v, vec yes, vec no) {
#if V_AVX2
    return V_FORM(_mm256_blendv_ps, _mm256_blendv_pd)(no, yes, v);
#else
    vec_bits mask = (vec_bits)v < 0;
    return (vec)(((vec_bits)yes & mask) | ((vec_bits)no & ~mask));
#endif
}

/* The larger one, both taken for integers. Of values with the sign bit set that is the lower one, or a NaN. */
V_INLINE vec v_more_bits(vec a, vec b) {
#if V_AVX2 && !DWCPU_DOUBLE
    return (vec)_mm256_max_epi32((__m256i)a, (__m256i)b);
#elif V_AVX512
    return (vec)V_FORM(_mm512_max_epi32, _mm512_max_epi64)((__m512i)a, (__m512i)b);
#else
    vec_bits mask = (vec_bits)a > (vec_bits)b;
    return (vec)(((vec_bits)a & mask) | ((vec_bits)b & ~mask));
#endif
}

/* Whether a, taken for an integer, is more than b in any lane. */
V_INLINE int v_any_more_bits(vec a, vec b) {
#if V_AVX512
    return V_FORM(_mm512_cmpgt_epi32_mask, _mm512_cmpgt_epi64_mask)((__m512i)a, (__m512i)b) != 0;
#elif V_AVX2
    return V_FORM(_mm256_movemask_ps, _mm256_movemask_pd)((vec)((vec_bits)a > (vec_bits)b)) != 0;
#else
    vec_bits more = (vec_bits)a > (vec_bits)b;
    bits any = 0;
    for (int i = 0; i < LANES; i++) any |= more[i];
    return any != 0;
#endif
}

/* Whether a >= b in all lanes: not where either is NaN. */
V_INLINE int v_all_at_least(vec a, vec b) {
#if V_AVX512
    return V_FORM(_mm512_cmp_ps_mask, _mm512_cmp_pd_mask)(a, b, _CMP_NGE_UQ) == 0;
#elif V_AVX2
    return V_FORM(_mm256_movemask_ps, _mm256_movemask_pd)(V_FORM(_mm256_cmp_ps, _mm256_cmp_pd)(a, b, _CMP_NGE_UQ)) == 0;
#else
    vec_bits yes = (vec_bits)(a >= b);
    bits all = -1;
    for (int i = 0; i < LANES; i++) all &= yes[i];
    return all != 0;
#endif
}

/* v * 2^n, where `shifted` is n + EXP_SHIFT: n stands in its low bits. In two factors, each a normal number, so that
   only the last product rounds. */
V_INLINE vec v_scale(vec shifted, vec v) {
    const int mantissa = DWCPU_DOUBLE ? 52 : 23;
    const bits bias = DWCPU_DOUBLE ? 1023 : 127;
    vec_bits n = (vec_bits)shifted - (vec_bits)v_splat(EXP_SHIFT);
    vec_bits half = n >> 1;
    return v * (vec)((half + bias) << mantissa) * (vec)((n - half + bias) << mantissa);
}

/* The same where v and the result are normal: n goes to the exponent, and what else is in `shifted` is shifted out. */
V_INLINE vec v_scale_normal(vec shifted, vec v) {
    return (vec)((vec_bits)v + ((vec_bits)shifted << (DWCPU_DOUBLE ? 52 : 23)));
}

/* 2^n, a normal number, where `shifted` is n + EXP_BIASED, in whose low bits stands n as an exponent. */
V_INLINE vec v_power(vec shifted) { return (vec)((vec_bits)shifted << (DWCPU_DOUBLE ? 52 : 23)); }

#endif
