"""Which compiled module runs follows from CPUID and the operating system's state, and no module is beyond its level.

The choice is a pure function of a few registers, so other CPUs are words written down here. What is in the modules is
read from their disassembly, by the bytes of each instruction: in 64-bit code a VEX or EVEX prefix is nothing else.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from dwcpu import cython_kernels
from dwcpu.cython_kernels.levels import FEATURES, LEVELS, Words, supported

# The choice

V2, V3, V4 = LEVELS

#: The levels of the System V ABI, said once more; in XCR0 the registers that their instructions have.
ABI = {
    V2: ["cx16", "lahf", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3"],
    V3: ["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe", "osxsave", "xmm", "ymm"],
    V4: [
        *("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
        *("opmask", "zmm0 to zmm15", "zmm16 to zmm31"),
    ],
}


def without(words: Words, *features: str) -> Words:
    """The words of a CPU that lacks some features, or of which a virtual machine hides them."""
    for feature in features:
        word, bit = FEATURES[feature]
        words = words._replace(**{word: getattr(words, word) & ~(1 << bit)})
    return words


HASWELL = Words(0x7FFAFBBF, 0x000027AB, 0x21, 0x7)
SKYLAKE_X = Words(0x7FFEFBFF, 0xD39FFFFB, 0x121, 0x2FF)

#: CPU -> (its words, the widest level that it and its operating system can execute).
MACHINES = {
    "Core 2": (Words(0x0000E3BD, 0, 0x1), None),
    "Nehalem": (Words(0x0098E3BD, 0, 0x1), V2),
    "Piledriver, FMA without AVX2": (Words(0x3E98320B, 0x8, 0x01EBBFFF, 0x7), V2),
    "Haswell": (HASWELL, V3),
    "Zen 2": (Words(0x7ED8320B, 0x219C91A9, 0x75C237FF, 0x207), V3),
    "Alder Lake": (Words(0x7FFAFBFF, 0x239CA7EB, 0x121, 0x207), V3),
    "Knights Landing, another AVX-512": (Words(0x7FF8F3BF, 0x1C0D23AB, 0x121, 0xE7), V3),
    "Skylake-X": (SKYLAKE_X, V4),
    "Skylake-X, zmm not saved": (SKYLAKE_X._replace(xcr0=0x7), V3),
    "Skylake-X, opmask alone not saved": (without(SKYLAKE_X, "opmask"), V3),
    "Skylake-X, ymm not saved": (SKYLAKE_X._replace(xcr0=0xE3), V2),
    "Haswell, ymm not saved": (HASWELL._replace(xcr0=0x3), V2),
    "Haswell, XSAVE not switched on": (without(HASWELL, "osxsave")._replace(xcr0=0), V2),
    "nothing known": (Words(), None),
}


def choice(monkeypatch: pytest.MonkeyPatch, machine: str, *words: int) -> str | None:
    """What a machine that says this runs, if all modules are there; none is loaded in truth."""
    loaded = []

    def load(name: str) -> ModuleType:
        loaded.append(name)
        return ModuleType(name)

    monkeypatch.setattr(cython_kernels, "_driver", SimpleNamespace(MACHINE=machine, cpuid=lambda: words))
    monkeypatch.setattr(cython_kernels, "_load", load)
    name, modules = cython_kernels._choose(len(cython_kernels.ISAS))
    assert loaded == [module.__name__ for module in modules.values()], "modules that cannot run must not be loaded"
    assert loaded == ([] if name is None else [f"_{name}_f32", f"_{name}_f64"])
    return name


@pytest.mark.parametrize("cpu", MACHINES)
def test_the_widest_module_that_can_run_is_chosen(monkeypatch: pytest.MonkeyPatch, cpu: str) -> None:
    words, widest = MACHINES[cpu]
    assert supported(words) == ([] if widest is None else list(LEVELS)[: list(LEVELS).index(widest) + 1])
    assert choice(monkeypatch, "x86_64", *words) == widest


@pytest.mark.parametrize(("level", "feature"), [(level, each) for level in ABI for each in ABI[level]])
def test_a_level_needs_every_feature_of_it(level: str, feature: str) -> None:
    """Whatever else is there: a virtual machine may hide any of them."""
    assert supported(without(SKYLAKE_X, feature)) == list(LEVELS)[: list(LEVELS).index(level)]


@pytest.mark.parametrize("machine", ["neon", "baseline"])
def test_other_machines_have_one_set(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    assert choice(monkeypatch, machine) == machine


#: Names in /proc/cpuinfo, where they are others.
LINUX = {"sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "lahf": "lahf_lm", "lzcnt": "abm"}


@pytest.mark.skipif(cython_kernels._driver is None, reason="there are no compiled modules")
def test_the_operating_system_says_the_same() -> None:
    """Linux lists what the CPU has and it supports: of registers that it does not save, no instructions."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^flags\s*:(.*)$", path.read_text("ascii", "replace"), re.M) if path.exists() else None
    if found is None or cython_kernels._driver.MACHINE != "x86_64":
        pytest.skip("no flags of an x86-64 CPU in /proc/cpuinfo")
    flags = set(found[1].split())
    beyond_flags = {name for name, (word, _) in FEATURES.items() if word == "xcr0"} | {"osxsave"}
    able = []
    for level, features in LEVELS.items():
        if not {LINUX.get(feature, feature) for feature in features if feature not in beyond_flags} <= flags:
            break
        able.append(level)
    assert supported(Words(*cython_kernels._driver.cpuid())) == able


# The modules

#: Instructions without such a prefix that x86-64-v2 does not have. TZCNT is no sign: on older CPUs it is BSF, and where
#: the two give the same compilers write it for all.
BEYOND_V2 = r"lzcnt|movbe|ad[co]x|aes\w+|pclmul\w+|sha\d\w+|rdrand|rdseed|clflushopt|clwb|gf2p8\w+"
#: Of these x86-64-v3 has two.
BEYOND_V3 = BEYOND_V2.replace("lzcnt|movbe|", "")

DISASSEMBLED = re.compile(r"^\s*([0-9a-f]+):\t((?:[0-9a-f]{2} )+)\s*\t(.+)$", re.M)
PREFIXES = {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3}
VEX, EVEX = {0xC4, 0xC5}, {0x62}
#: What is named after a prefix that the disassembler spells out.
MNEMONIC = re.compile(r"^(?:(?:rep|repz|repnz|lock|bnd|notrack|data16|cs|ds|rex\S*) )*(\S+)")


def beyond(listing: str, level: str) -> Iterator[str]:
    """Instructions of a disassembly that a CPU of the level need not have."""
    for _, code, text in DISASSEMBLED.findall(listing):
        opcode = next(byte for byte in bytes.fromhex(code) if byte not in PREFIXES)
        named = MNEMONIC.match(text)
        mnemonic = named[1] if named else text
        if level == V2:
            wrong = opcode in VEX | EVEX or re.fullmatch(BEYOND_V2, mnemonic)
        else:
            wrong = opcode in EVEX or re.search(r"%zmm|%k[0-7]\b", text) or re.fullmatch(BEYOND_V3, mnemonic)
        if wrong:
            yield text


@cache
def disassembly(module: str) -> str:
    """All instructions of a compiled module, with their bytes."""
    spec = importlib.util.find_spec(f"dwcpu.cython_kernels.{module}")
    if spec is None or spec.origin is None:
        pytest.skip(f"{module} is not compiled")
    tool = shutil.which("objdump")
    said = "" if tool is None else subprocess.check_output([tool, "--version"], text=True)
    if platform.machine().lower() not in ("x86_64", "amd64") or not said.startswith("GNU"):
        pytest.skip("needs x86-64 and objdump, which is part of GNU's binutils")
    command = ["objdump", "--disassemble", "--wide", spec.origin]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


REALS = ("f32", "f64")


@pytest.mark.parametrize("module", ["_driver", "_calls", *(f"_{V2}_{real}" for real in REALS)])
def test_modules_for_every_machine_are_of_the_baseline(module: str) -> None:
    listing = disassembly(module)
    assert len(DISASSEMBLED.findall(listing)) > 1000
    assert list(beyond(listing, V2)) == []


@pytest.mark.parametrize("real", REALS)
def test_modules_for_avx2_have_nothing_of_avx512(real: str) -> None:
    assert list(beyond(disassembly(f"_{V3}_{real}"), V3)) == []


@pytest.mark.parametrize("real", REALS)
def test_the_scan_finds_what_is_there(real: str) -> None:
    """The wider modules do contain what the narrower must not."""
    found = list(beyond(disassembly(f"_{V3}_{real}"), V2))
    assert any("%ymm" in text for text in found)
    assert any(text.startswith("vfmadd") for text in found)
    found = list(beyond(disassembly(f"_{V4}_{real}"), V3))
    assert any("%zmm" in text for text in found)
    assert any(text.startswith("kmov") for text in found)


@pytest.mark.parametrize(
    ("code", "text", "level"),
    [
        ("c5 f8 77", "vzeroupper", V3),
        ("c4 e2 f3 f7 c0", "shlx   %rcx,%rax,%rax", V3),
        ("c4 e2 75 b8 c2", "vfmadd231ps %ymm2,%ymm1,%ymm0", V3),
        ("f3 48 0f bd c0", "lzcnt  %rax,%rax", V3),
        ("0f 38 f0 07", "movbe  (%rdi),%eax", V3),
        ("62 f1 7c 48 58 c1", "vaddps %zmm1,%zmm0,%zmm0", V4),
        ("62 f1 7c 28 58 c1", "vaddps %ymm1,%ymm0,%ymm0", V4),
        ("c5 fb 92 c8", "kmovd  %eax,%k1", V4),
        ("66 0f 38 dc c1", "aesenc %xmm1,%xmm0", V4),
        ("66 0f 38 40 c1", "pmulld %xmm1,%xmm0", V2),
        ("f3 48 0f b8 c0", "popcnt %rax,%rax", V2),
        ("f3 0f 1e fa", "endbr64", V2),
        ("f2 ff 25 c4 62 00 00", "bnd jmp *0x62c4(%rip)", V2),
    ],
)
def test_the_scan_knows_each_kind(code: str, text: str, level: str) -> None:
    """An instruction that a level brings is beyond those before it, and in none after it."""
    listing = f"    1000:\t{code} \t{text}\n"
    for each in (V2, V3):
        assert list(beyond(listing, each)) == ([text] if level > each else []), each
