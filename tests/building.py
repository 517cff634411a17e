"""Building the package from a copy of its sources, with compilers that fail on demand or compile less."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: What setuptools compiles with.
CC = shlex.split(os.environ.get("CC", "") or sysconfig.get_config_var("CC") or "cc")

#: A compiler that fails when an argument contains one of the words in DWCPU_TEST_REFUSED, else the real one, with more
#: flags if DWCPU_TEST_FLAGS has some. If DWCPU_TEST_COMPILED names a folder, modules come from there.
COMPILER = """#!/bin/sh
for word in $DWCPU_TEST_REFUSED; do
    case "$*" in *"$word"*) echo "refused: $word" >&2; exit 1;; esac
done
if [ -n "$DWCPU_TEST_COMPILED" ]; then
    made=$(printf '%s\\n' "$@" | sed -n '/^-o$/{n;p;}')
    case "$made" in
        *.so) exec cp "$DWCPU_TEST_COMPILED/${made##*/}" "$made";;
        */_*.o) : > "$made"; exit;;
    esac
fi
exec cc "$@" $DWCPU_TEST_FLAGS
"""

#: setup.py with more flags at the end of its own, for some of its modules: both are its arguments.
BUILD = """
import sys
import setup as building
flags, modules = sys.argv[1].split(), sys.argv[2].split()
building.FLAGS += flags
chosen = [extension for extension in building.declared() if building.short(extension) in modules]
sys.argv[1:] = ["build_ext", "--inplace"]
building.setup(ext_modules=chosen, cmdclass={"build_ext": building.BuildKernels})
"""

#: What leaves one of the instruction sets of x86-64, by its name. Flags for compilers that do not know the levels by
#: name begin like this.
REFUSED = {
    f"x86-64-v{level}": " ".join(["-mssse3", *(f"-march=x86-64-v{other}" for other in (2, 3, 4) if other != level)])
    for level in (2, 3, 4)
}


def compiles(*flags: str) -> bool:
    """Whether there is a compiler that can make and run programs with these flags."""
    program = "int main(void) { return 0; }"
    command = [*CC, "-x", "c", "-", *flags, "-o", os.devnull]
    try:
        done = subprocess.run(command, input=program, text=True, capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def copied_tree(copy: Path) -> Path:
    """A copy of what a source distribution contains, without compiled modules, and with `COMPILER` as `compiler`."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "build_info.json")
    for name in ("dwcpu", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    compiler = copy / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    return copy


def source_archive(tree: Path) -> Path:
    """The source distribution of a tree."""
    code = "from setuptools import build_meta; print(build_meta.build_sdist('sdist'))"
    (tree / "sdist").mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, check=True)
    (archive,) = (tree / "sdist").iterdir()
    return archive


def copying_compiler(tree: Path, modules: Path) -> dict[str, str]:
    """Environment in which modules are not compiled, but copied from a folder."""
    return {**os.environ, "CC": str(tree / "compiler"), "DWCPU_TEST_COMPILED": str(modules)}


def quick_compiler(tree: Path, isa: str | None) -> dict[str, str]:
    """Environment in which only the modules of one instruction set are compiled, without optimisation."""
    refused = REFUSED.get(isa or "", "")
    return {**os.environ, "CC": str(tree / "compiler"), "DWCPU_TEST_REFUSED": refused, "DWCPU_TEST_FLAGS": "-O0"}
