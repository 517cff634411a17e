/* The floating-point environment of compiled code, which is the standard one whatever the caller's: round to nearest,
   denormals kept, no traps. Libraries built with -ffast-math make threads flush denormals, and a new thread inherits its
   maker's mode: results would depend on who called, and on which thread a task ran. What the caller had, the flags that
   say what happened included, comes back at the end. Both together take some nanoseconds. */

#ifndef DWCPU_FLOATS
#define DWCPU_FLOATS

#include <stdint.h>

#if defined(__x86_64__)

typedef unsigned floats_t;

static inline floats_t begin_floats(void) {
    floats_t before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(0x1F80);
    return before;
}

static inline void end_floats(floats_t before) { __builtin_ia32_ldmxcsr(before); }

#elif defined(__aarch64__)

typedef struct {
    uint64_t mode, flags;
} floats_t;

static inline floats_t begin_floats(void) {
    floats_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before.mode) : : "memory");
    __asm__ volatile("mrs %0, fpsr" : "=r"(before.flags) : : "memory");
    if (before.mode) __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0) : "memory");
    return before;
}

static inline void end_floats(floats_t before) {
    if (before.mode) __asm__ volatile("msr fpcr, %0" : : "r"(before.mode) : "memory");
    __asm__ volatile("msr fpsr, %0" : : "r"(before.flags) : "memory");
}

#else

typedef int floats_t;

static inline floats_t begin_floats(void) { return 0; }
static inline void end_floats(floats_t before) { (void)before; }

#endif

#endif
