"""Builds the Cython kernels, once per instruction set and dtype; everything else is in pyproject.toml.

Modules, all of them optional: `dwcpu.cython_kernels._driver` (baseline instruction set, threads), `._calls` (baseline,
needs NumPy's headers) and `dwcpu.cython_kernels._<instruction set>_<f32 or f64>`. Without a working C compiler the
package installs all the same and runs on Numba; the build log says so, and so does `dwcpu.cython_kernels.status()`,
which reads the `build_info.json` that is written here.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
KERNELS = ROOT / "dwcpu" / "cython_kernels"
PACKAGE = "dwcpu.cython_kernels"

DTYPES = ("f32", "f64")
DIRECTIVES = "# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False\n"

# No -ffast-math and nothing like it: NaN, infinities, denormals and the order of additions are promised. No
# contraction: a multiply-add is fused where the source says so and nowhere else. Python's own flags make overflow of
# integers wrap, which costs the largest register tiles spills and hides overflow from sanitizers.
FLAGS = ["-O3", "-g0", "-fno-wrapv", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wno-psabi"]
FLAGS += ["-DCYTHON_COMPRESS_STRINGS=0"]  # names of modules stay in sight: see `generate`

# Register tiles are loops that must unroll to the last one. The first alternative that the compiler takes is used: GCC
# knows the one, clang the other.
UNROLLING = [
    [f"--param={name}=1000000" for name in ("max-completely-peeled-insns", "max-peel-branches")]
    + ["--param=max-completely-peel-times=64"],
    ["-mllvm", "-unroll-threshold=20000"],
]


class InstructionSet(NamedTuple):
    """Name of the module, bytes of a vector, and flags to try: the first that the compiler takes."""

    name: str
    vector_bytes: int
    flags: tuple[str, ...]


def instruction_sets(machine: str) -> list[InstructionSet]:
    """What to build for: every level that machines of this kind may have; the choice is made where the wheel runs."""
    machine = machine.lower()
    if machine in ("x86_64", "amd64"):
        v2 = "-mssse3 -msse4.2 -mpopcnt"
        v3 = v2 + " -mavx2 -mfma -mbmi -mbmi2 -mlzcnt"
        v4 = v3 + " -mavx512f -mavx512bw -mavx512cd -mavx512dq -mavx512vl"
        return [
            InstructionSet("x86_64_v2", 16, ("-march=x86-64-v2", v2)),
            InstructionSet("x86_64_v3", 32, ("-march=x86-64-v3", v3)),
            InstructionSet("x86_64_v4", 64, ("-march=x86-64-v4", v4)),
        ]
    if machine in ("aarch64", "arm64"):
        return [InstructionSet("neon", 16, ("",))]
    return [InstructionSet("baseline", 16, ("",))]


def abi() -> dict[str, Any]:
    """The names of dwcpu/abi.py, without importing the package."""
    path = ROOT / "dwcpu" / "abi.py"
    names: dict[str, Any] = {"__name__": "abi"}
    exec(compile(path.read_text("utf-8"), str(path), "exec"), names)
    return names


def abi_declarations(abi: dict[str, Any]) -> tuple[str, str]:
    """The plan structure and the constants of the activations as C header and as Cython declarations."""
    types = {"p": "void *", "i": "int64_t ", "d": "double "}
    members = [types[kind] + name for name, kind in abi["FIELDS"].items()]
    header = "#include <stdint.h>\n\ntypedef struct {\n" + "".join(f"    {m};\n" for m in members) + "} Plan;\n"
    same = (
        "AHEAD_TILES",
        "TURN",
        "SET_BYTES",
        "ASKING_ROWS",
        "COPY_BYTES",
        "HELD_BYTES",
        "HELD_ROWS",
        "HELD_COLUMNS",
        "FEW_OUTPUTS",
        "FLAT_VECTORS",
        "MOST_MULTIPLES",
        "MOST_STREAMED",
        "TWO_TURN_ROWS",
    )
    shared = {name: name for name in same} | {"HALF": "HALF_COLUMNS"}
    header += f"enum {{ {', '.join(f'{ours} = {abi[name]}' for ours, name in shared.items())} }};\n"
    for dtype in ("float32", "float64"):
        header += f"\n#if {'' if dtype == 'float64' else '!'}DWCPU_DOUBLE\n" + constants(abi, dtype) + "#endif\n"
    pxi = 'cdef extern from "tile.h":\n    ctypedef struct Plan:\n' + "".join(f"        {m}\n" for m in members)
    pxi += "    enum:\n        EXP_COUNT\n        ERFC_COUNT\n        ERF_COUNT\n"
    pxi += "".join(f"        {name}\n" for name in shared)
    pxi += "    const real EXP_SERIES[]\n    const real ERFC_SERIES[]\n    const real ERF_SERIES[]\n"
    for name in (
        "EXP_LOWEST", "EXP_NORMAL", "EXP_SHIFT", "EXP_BIASED", "INVERSE_LN2", "LN2_HEAD", "LN2_TAIL", "SIGMOID_HIGHEST",
        "GELU_LOWEST", "GELU_HIGHEST", "ERFC_CENTRE", "ROOT_TWO", "ERF_NEAR", "GELU_LINE", "GELU_CUBE",
    ):  # fmt: skip
        pxi += f"    const real {name}\n"
    return header, pxi


def constants(abi: dict[str, Any], dtype: str) -> str:
    """Constants of one dtype as C definitions: doubles that `real` rounds once."""
    double = dtype == "float64"
    shift = 1.5 * 2.0 ** (52 if double else 23)  # adding it rounds to an integer
    scalars = {
        "EXP_LOWEST": abi["EXP_LOWEST"][dtype],
        "EXP_NORMAL": abi["EXP_NORMAL"][dtype],
        "EXP_SHIFT": shift,
        "EXP_BIASED": shift + (1023 if double else 127),
        "INVERSE_LN2": 1 / math.log(2),
        "LN2_HEAD": abi["LN2"][dtype][0],
        "LN2_TAIL": abi["LN2"][dtype][1],
        "SIGMOID_HIGHEST": abi["SIGMOID_HIGHEST"],
        "GELU_LOWEST": abi["GELU_LOWEST"][dtype],
        "GELU_HIGHEST": abi["GELU_HIGHEST"][dtype],
        "ERFC_CENTRE": abi["ERFC_CENTRE"][dtype],
        "ROOT_TWO": math.sqrt(2),
        "ERF_NEAR": 0.75,  # up to here the series of erf, of so many terms, is as good as 1 - erfc
        "GELU_LINE": math.sqrt(8 / math.pi),
        "GELU_CUBE": math.sqrt(8 / math.pi) * 0.044715,
    }
    series = {
        "EXP": abi["EXP_TERMS"][dtype],
        "ERFC": abi["ERFC_TERMS"][dtype],
        # Maclaurin's, in x^2, times x
        "ERF": [
            2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(16 if double else 9)
        ],
    }
    text = "".join(f"static const real {name} = (real){value!r};\n" for name, value in scalars.items())
    for name, terms in series.items():
        numbers = ", ".join(f"(real){term!r}" for term in terms)
        text += f"enum {{ {name}_COUNT = {len(terms)} }};\nstatic const real {name}_SERIES[] = {{{numbers}}};\n"
    return text


class Probe:
    """Asks the compiler what it can do, by compiling small programs."""

    def __init__(self, command: list[str], link_command: list[str]) -> None:
        self.command, self.link_command = command, link_command
        self.error = ""

    def works(self, program: str, flags: list[str], link_flags: list[str] | None = None) -> bool:
        """Whether `program` compiles with `flags`, and links where `link_flags` is not None; `error` says why not."""
        with tempfile.TemporaryDirectory() as folder:
            source, obj = Path(folder, "probe.c"), Path(folder, "probe.o")
            source.write_text(program)
            commands = [[*self.command, *flags, "-Werror", "-c", str(source), "-o", str(obj)]]
            if link_flags is not None:
                commands.append([*self.link_command, str(obj), "-o", str(Path(folder, "probe")), *link_flags])
            for command in commands:
                try:
                    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
                except OSError as error:
                    self.error = f"{command[0]}: {error.strerror}"
                    return False
                if done.returncode:
                    self.error = (done.stderr.strip().splitlines() or [f"{command[0]} failed"])[0]
                    return False
        return True

    def first(self, alternatives: list[list[str]]) -> list[str] | None:
        """The first of the flag lists that the compiler takes."""
        return next((flags for flags in alternatives if self.works("int main(void) { return 0; }\n", flags)), None)


class BuildKernels(build_ext):
    """build_ext that finds out what the compiler can do, generates the sources, and says loudly what is missing."""

    def finalize_options(self) -> None:
        """Compile as many modules at a time as there are CPUs."""
        super().finalize_options()
        if self.parallel is None:
            self.parallel = os.cpu_count() or 1

    def build_extensions(self) -> None:
        """Build what can be built; note it in `info_file`; say what is missing."""
        problems: list[str] = []
        info: dict[str, Any] = {"compiler": "", "made_from": self.made_from(), "modules": [], "problems": problems}
        if self.reused(info):
            return
        try:
            self.extensions = self.prepared(info)
        except Exception as error:
            problems.append(f"the kernels could not be prepared: {type(error).__name__}: {error}")
            self.extensions = []
        for extension in self.extensions:
            Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
        super().build_extensions()
        built = [e for e in self.extensions if Path(self.get_ext_fullpath(e.name)).exists()]
        info["modules"] = [short(e) for e in built]
        missing = [short(e) for e in self.extensions if e not in built]
        if missing:
            problems.append(f"did not compile: {', '.join(missing)} (the compiler's messages are further up)")
        self.extensions = built
        self.info_file.parent.mkdir(parents=True, exist_ok=True)
        self.info_file.write_text(json.dumps(info, indent=1) + "\n", "utf-8")
        self.report(info["modules"], problems)

    def made_from(self) -> str:
        """A digest of all that the modules depend on, as far as it can be told without compiling."""
        digest = hashlib.sha256()
        for path in sorted([*KERNELS.glob("*.p[yx]*"), *KERNELS.glob("*.h"), ROOT / "dwcpu/abi.py", Path(__file__)]):
            digest.update(path.read_bytes())
        compiler = list(getattr(self.compiler, "compiler_so", []))
        try:
            version = subprocess.run([*compiler[:1], "--version"], capture_output=True, check=False).stdout
        except (OSError, ValueError):
            version = b""
        made_with = {name: version_of(name) for name in ("cython", "numpy", "setuptools")}
        flags = {name: os.environ.get(name) for name in ("CFLAGS", "CPPFLAGS", "LDFLAGS")}
        digest.update(repr((compiler, version, flags, sys.version, platform.machine(), made_with)).encode())
        return digest.hexdigest()

    def reused(self, info: dict[str, Any]) -> bool:
        """Whether the modules that an installation in place left in the source folder are what would be built now."""
        if not self.editable_mode:
            return False
        try:
            noted = json.loads((KERNELS / self.info_file.name).read_text("utf-8"))
        except (OSError, ValueError):
            return False
        if not isinstance(noted, dict) or noted.get("made_from") != info["made_from"] or noted.get("problems"):
            return False
        ready = {short(e): (e, KERNELS / Path(self.get_ext_filename(e.name)).name) for e in self.extensions}
        modules = noted.get("modules")
        if not isinstance(modules, list) or set(map(str, modules)) != set(ready):
            return False
        if not all(path.exists() for _, path in ready.values()):
            return False
        for extension, path in ready.values():
            target = Path(self.get_ext_fullpath(extension.name))
            if target != path:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        self.info_file.parent.mkdir(parents=True, exist_ok=True)
        self.info_file.write_text(json.dumps(noted, indent=1) + "\n", "utf-8")
        print(f"dwcpu: {len(ready)} compiled modules are as they were", file=sys.stderr)
        return True

    def copy_extensions_to_source(self) -> None:
        """Finish an in-place or editable build."""
        super().copy_extensions_to_source()
        shutil.copyfile(self.info_file, KERNELS / self.info_file.name)

    @property
    def info_file(self) -> Path:
        """What `status()` reads."""
        return Path(self.build_lib, *PACKAGE.split("."), "build_info.json")

    def report(self, built: list[str], problems: list[str]) -> None:
        """One line when all is well, a banner when something is missing."""
        if not problems:
            print(f"dwcpu: {len(built)} compiled modules: {', '.join(built)}", file=sys.stderr)
            return
        head = "some compiled kernels are missing" if built else "NO COMPILED KERNELS: only Numba's will be there"
        line = "*" * 100
        print("\n".join([line, f"dwcpu: {head}", *(f"  - {p}" for p in problems), line]), file=sys.stderr)

    def prepared(self, info: dict) -> list[Extension]:
        """The extensions, their C sources generated, as far as this compiler can build them."""
        problems = info["problems"]
        if sys.maxsize < 2**32 or not hasattr(self.compiler, "compiler_so") or self.compiler.compiler_type != "unix":
            problems.append("the kernels need a 64-bit Python and GCC or clang")
            return []
        probe = Probe(list(self.compiler.compiler_so), list(self.compiler.linker_exe))
        info["compiler"] = shlex.join(probe.command[:1])
        if not probe.works("#include <Python.h>\n", ["-I" + d for d in self.include_dirs]):
            problems.append(f"no C compiler that works: {probe.error}")
            return []

        flags = {"_driver": (["-pthread"], ["-pthread"])}
        numpy = numpy_include()
        if numpy is None:
            problems.append("no NumPy where the package is built: every call costs some microseconds more")
        else:
            flags["_calls"] = ([f"-I{numpy}"], [])
        unrolling = probe.first(UNROLLING) or []
        for isa in instruction_sets(platform.machine()):
            known = probe.first([f.split() for f in isa.flags])
            if known is None:
                problems.append(f"{isa.name}: the compiler does not know it ({probe.error})")
                continue
            for double in (0, 1):
                macros = [f"-DDWCPU_VECTOR_BYTES={isa.vector_bytes}", f"-DDWCPU_DOUBLE={double}"]
                flags[f"_{isa.name}_{DTYPES[double]}"] = ([*unrolling, *known, *macros], [])

        version = f"-DDWCPU_ABI={abi()['ABI']}LL"
        extensions = [e for e in self.extensions if short(e) in flags]
        for extension in extensions:
            compile_flags, extension.extra_link_args = flags[short(extension)]
            extension.extra_compile_args = [*FLAGS, version, *compile_flags]
            extension.include_dirs = [str(KERNELS), str(self.generated)]
        self.generate(extensions)
        return extensions

    @property
    def generated(self) -> Path:
        """Folder of the generated sources."""
        return Path(self.build_temp, "cython").resolve()

    def generate(self, extensions: list[Extension]) -> None:
        """Write the plan's declarations, and translate all to C: kernels once for all instruction sets and dtypes."""
        self.generated.mkdir(parents=True, exist_ok=True)
        header, pxi = abi_declarations(abi())
        (self.generated / "abi.h").write_text(header)
        (self.generated / "abi.pxi").write_text(pxi)
        for extension in extensions:
            extension.sources = [str(self.generated / f"{short(extension)}.c")]
        own = [e for e in extensions if (KERNELS / f"{short(e)}.pyx").exists()]
        kernels = [e for e in extensions if e not in own]
        with ThreadPoolExecutor(max(1, self.parallel)) as pool:  # each in a process of its own, for three seconds
            list(pool.map(self.translate, [*kernels[:1], *own]))
        for extension in kernels[1:]:  # which differ in their names alone
            assert len(short(extension)) == len(short(kernels[0])), "lengths of names are in the sources, too"
            text = Path(kernels[0].sources[0]).read_text("utf-8").replace(short(kernels[0]), short(extension))
            Path(extension.sources[0]).write_text(text, "utf-8")

    def translate(self, extension: Extension) -> None:
        """The module's C source, from its Cython source beside it."""
        target = Path(extension.sources[0])
        own, source = KERNELS / f"{short(extension)}.pyx", target.with_suffix(".pyx")
        source.write_text(own.read_text("utf-8") if own.exists() else DIRECTIVES + 'include "kernels.pxi"\n', "utf-8")
        command = [sys.executable, "-m", "cython", "-3", f"--include-dir={KERNELS}", f"--include-dir={self.generated}"]
        command += [f"--module-name={extension.name}", str(source), "--output-file", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise RuntimeError(f"Cython: {done.stdout}{done.stderr}")


def version_of(package: str) -> str:
    """Version of an installed package, "" if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def numpy_include() -> str | None:
    """Folder of NumPy's headers."""
    try:
        import numpy
    except ImportError:
        return None
    return numpy.get_include()


def short(extension: Extension) -> str:
    """Module name without the package."""
    return extension.name.rpartition(".")[2]


def declared() -> list[Extension]:
    """Extensions as setuptools must know them beforehand; their sources are generated when they are built."""
    names = ["_driver", "_calls"]
    names += [f"_{isa.name}_{dtype}" for isa in instruction_sets(platform.machine()) for dtype in DTYPES]
    return [Extension(f"{PACKAGE}.{name}", [], optional=True) for name in names]


if __name__ == "__main__":
    setup(ext_modules=declared(), cmdclass={"build_ext": BuildKernels})
