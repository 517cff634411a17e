"""The compiled modules under GCC's and clang's sanitizers: no bad access, no undefined behaviour, no race.

Pages that nobody may touch guard the arrays of kernels (in other tests of kernels). Here kernels are compiled such
that every access is checked, those to arrays on their stacks too, and every integer operation; then their tests run.
ThreadSanitizer has to see all of a process: see `test_pool`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nightly
import pytest
from building import BUILD, CC, ROOT, compiles, copied_tree

from dwcpu import cython_kernels as kernels

pytest.importorskip("setuptools", minversion="77")
pytest.importorskip("Cython", minversion="3.1")

FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1", "-O1"]

#: Tests to run: none for which Numba compiles.
FILES = ["test_kernels.py", "test_convolutions.py", "test_pixels.py", "test_elementwise.py", "test_calls.py"]
CHOSEN = "__cython or test_pixels or test_elementwise or test_calls"

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the Cython kernels were not built")


@pytest.fixture(scope="module")
def sanitized() -> dict[str, str]:
    """Environment of processes that load what was compiled with `FLAGS`."""
    if sys.platform != "linux" or not compiles(*FLAGS):
        pytest.skip("there is no compiler with these sanitizers")
    libraries = [
        subprocess.check_output([*CC, f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(Path(each).is_absolute() for each in libraries):
        pytest.skip("the sanitizers of this compiler are not shared libraries")
    environment = {name: value for name, value in os.environ.items() if name != nightly.VARIABLE}
    return {
        **environment,
        "LD_PRELOAD": ":".join(libraries),  # before anything that allocates
        # The interpreter leaks; and stacks that are kept for the sake of returned addresses are aligned to 32 bytes,
        # where frames with vectors of 64 count on 64 (https://github.com/llvm/llvm-project/pull/152819).
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # so that every object has bounds of its own
        "DWCPU_ISA": kernels.isa() or "none",
    }


def built(tree: Path, modules: list[str]) -> list[Path]:
    """Compile modules in a copy of the sources; those of the others that are installed are copied."""
    package = copied_tree(tree) / "dwcpu" / "cython_kernels"
    for path in Path(kernels.__file__).parent.glob("*.so"):
        shutil.copy(path, package)
    command = [sys.executable, "-c", BUILD, " ".join(FLAGS), " ".join(modules)]
    environment = {**os.environ, "LDFLAGS": FLAGS[0], "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    made = [path for path in package.glob("*.so") if path.name.partition(".")[0] in modules]
    assert len(made) == len(modules), done.stderr[-5000:]
    return made


@pytest.fixture(scope="module")
def tree(sanitized: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the package whose compiled modules check all that they do."""
    isa = (kernels.isa() or "").replace("-", "_")
    modules = ["_driver", "_calls", f"_{isa}_f32", f"_{isa}_f64"]
    folder = tmp_path_factory.mktemp("sanitized") / "tree"
    for path in built(folder, modules):
        content = path.read_bytes()
        assert b"__asan_report_load" in content and b"__ubsan_handle_" in content, path.name
        # Arrays on the stack have bounds too: frames that hold some register them.
        assert b"__asan_stack_malloc" in content or path.name.startswith("_driver"), path.name
    yield folder
    shutil.rmtree(folder)


@pytest.mark.nightly
def test_tests_of_kernels_pass(tree: Path, sanitized: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-x", "-s", "-k", CHOSEN]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    command += [str(ROOT / "tests" / name) for name in FILES]
    # In the copy, since Python finds its package first; with -s, for what is said by a process that ends at once.
    done = subprocess.run(command, cwd=tree, env=sanitized, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert f"dwcpu: {tree / 'dwcpu'}," in done.stdout
    assert " passed" in done.stdout


#: Functions that do what must not be done, each with a word of what is then said.
FAULTS = {
    "past_the_stack": "stack-buffer-overflow",
    "before_the_stack": "stack-buffer-underflow",
    "past_the_heap": "heap-buffer-overflow",
    "past_the_index": "out of bounds",
    "overflow": "signed integer overflow",
    "shift": "shift exponent",
}

FAULTY = """
#include <stdint.h>
#include <stdlib.h>
#define PUBLIC __attribute__((visibility("default")))
__attribute__((noinline)) static float sum(const float *values, int64_t first, int64_t count) {
    float total = 0;
    for (int64_t i = first; i < count; ++i) total += values[i];
    return total;
}
static float sum_on_stack(int64_t first, int64_t count) {
    float values[8];
    for (int i = 0; i < 8; ++i) values[i] = i;
    return sum(values, first, count);
}
PUBLIC int64_t past_the_stack(int64_t n) { return sum_on_stack(0, 8 + n); }
PUBLIC int64_t before_the_stack(int64_t n) { return sum_on_stack(-n, 8); }
PUBLIC int64_t past_the_heap(int64_t n) {
    float *values = calloc(8, sizeof(float)), total = sum(values, 0, 8 + n);
    free(values);
    return total;
}
PUBLIC int64_t past_the_index(int64_t n) {
    volatile float values[8] = {0};
    return values[7 + n];
}
PUBLIC int64_t overflow(int64_t n) { return INT64_MAX + n; }
PUBLIC int64_t shift(int64_t n) { return UINT64_C(1) << (63 + n); }
"""


@pytest.fixture(scope="module")
def faulty(sanitized: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`FAULTY`, compiled as the kernels are."""
    library = tmp_path_factory.mktemp("faulty") / "faulty.so"
    command = [*CC, "-x", "c", "-", "-shared", "-fPIC", *FLAGS, "-o", str(library)]
    subprocess.run(command, input=FAULTY, text=True, check=True)
    return library


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault: str, faulty: Path, sanitized: dict[str, str]) -> None:
    """One element too far, one too much: and none of it where there is no fault."""

    def run(beyond: int) -> subprocess.CompletedProcess[str]:
        code = f"import ctypes; ctypes.CDLL({str(faulty)!r}).{fault}(ctypes.c_int64({beyond})); print('went on')"
        return subprocess.run([sys.executable, "-c", code], env=sanitized, capture_output=True, text=True, check=False)

    right, wrong = run(0), run(1)
    assert (right.returncode, right.stdout) == (0, "went on\n"), right.stderr
    assert wrong.returncode != 0
    assert wrong.stdout == ""
    assert FAULTS[fault] in wrong.stderr
