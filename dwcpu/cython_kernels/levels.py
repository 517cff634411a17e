"""Which levels of x86-64 a CPU and its operating system can execute: a function of what CPUID and XCR0 say.

A level is what the System V ABI calls so, and what compilers take `-march=x86-64-v3` for: they may use any instruction
of it, so all of its features must be there. That the CPU has wide registers is not enough: an operating system that
does not save them when it switches threads, as XCR0 tells, would mix up those of two threads.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["FEATURES", "LEVELS", "Words", "supported"]


class Words(NamedTuple):
    """What the CPU says: registers of three leaves of CPUID, and XCR0, which is 0 where it cannot be read."""

    leaf_1_ecx: int = 0
    leaf_7_ebx: int = 0
    leaf_80000001_ecx: int = 0
    xcr0: int = 0


_WHERE = {
    "leaf_1_ecx": {
        "sse3": 0, "ssse3": 9, "fma": 12, "cx16": 13, "sse4.1": 19, "sse4.2": 20, "movbe": 22, "popcnt": 23,
        "osxsave": 27, "avx": 28, "f16c": 29,
    },
    "leaf_7_ebx": {
        "bmi1": 3, "avx2": 5, "bmi2": 8, "avx512f": 16, "avx512dq": 17, "avx512cd": 28, "avx512bw": 30, "avx512vl": 31,
    },
    "leaf_80000001_ecx": {"lahf": 0, "lzcnt": 5},
    "xcr0": {"xmm": 1, "ymm": 2, "opmask": 5, "zmm0 to zmm15": 6, "zmm16 to zmm31": 7},
}  # fmt: skip

#: Feature -> the word that tells, by its name, and the number of its bit.
FEATURES = {feature: (word, bit) for word, bits in _WHERE.items() for feature, bit in bits.items()}

#: Level, as modules are named -> what it has beyond the one before it.
LEVELS = {
    "x86_64_v2": ("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "cx16", "lahf"),
    "x86_64_v3": ("osxsave", "xmm", "ymm", "avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "lzcnt", "movbe"),
    "x86_64_v4": (
        "opmask", "zmm0 to zmm15", "zmm16 to zmm31", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl",
    ),
}  # fmt: skip


def supported(words: Words) -> list[str]:
    """Names of the levels that can be executed, narrowest first.

    Examples
    --------
    >>> supported(Words(leaf_1_ecx=0x029EE3FF, leaf_80000001_ecx=0x1))  # a Westmere
    ['x86_64_v2']
    """
    able = []
    for level, features in LEVELS.items():
        if not all(getattr(words, word) >> bit & 1 for word, bit in map(FEATURES.__getitem__, features)):
            break
        able.append(level)
    return able
