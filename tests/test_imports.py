"""Who may import whom, and what ``import dwcpu`` costs: data goes one way, down, and numba waits until it is needed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGE = Path(find_spec("dwcpu").origin).parent

#: Module or folder -> what of ours it may import. A folder's modules may always import each other.
FOUNDATION = {"abi", "padding", "epilogue", "geometry", "fused_geometry", "shapes"}
BELOW_DISPATCH = FOUNDATION | {"arrays", "grid", "packing", "reference", "runtime", "numba_kernels", "cython_kernels"}
FRONT_DOOR = BELOW_DISPATCH | {
    "ahead",
    "background",
    "pipeline",
    "prepared",
    "fused",
    "dispatch",
    "frontdoor",
    "calls",
    "cost",
    "batchnorm",
    "ops",
    "layers",
}
ALLOWED: dict[str, set[str]] = {
    "abi": set(),
    "padding": {"shapes"},
    "epilogue": {"abi", "shapes"},
    "shapes": set(),
    "geometry": {"padding", "shapes"},
    "fused_geometry": {"geometry", "shapes"},
    "cost": {"fused_geometry", "geometry", "padding"},
    "batchnorm": {"arrays", "epilogue"},
    "arrays": set(),
    "reference": FOUNDATION,
    "packing": FOUNDATION | {"pages"},
    "pages": {"arrays"},
    "grid": FOUNDATION,
    "folders": set(),
    "cpus": set(),
    "interrupts": set(),
    "numba_kernels": {"abi", "folders", "interrupts"},
    "cython_kernels": {"abi"},
    "runtime": {"abi", "cpus", "numba_kernels", "cython_kernels", "interrupts"},
    "choices": {"folders", "fused_geometry", "runtime"},
    "background": {"numba_kernels"},
    "rules": FOUNDATION | {"arrays", "grid", "runtime"},
    "dispatch": BELOW_DISPATCH | {"choices", "fused", "interrupts", "prepared", "rules"},
    "explanations": {"dispatch", "fused", "fused_geometry", "geometry", "runtime"},
    "calls": {"arrays", "geometry", "pipeline", "pixels", "prepared", "runtime"},
    "ahead": {"pipeline"},
    "pipeline": {"abi", "ahead", "arrays", "background", "grid", "pages", "runtime"},
    "caches": FOUNDATION | {"arrays", "runtime"},
    "taps": FOUNDATION,
    "prepared": BELOW_DISPATCH | {"caches", "interrupts", "pipeline", "taps"},
    "fused": BELOW_DISPATCH | {"caches", "pipeline", "prepared"},
    "frontdoor": BELOW_DISPATCH | {"background", "dispatch", "explanations", "pipeline", "prepared"},
    "ops": FRONT_DOOR,
    "layers": FRONT_DOOR,
    "batches": {"abi", "grid", "pipeline", "runtime"},
    "sequential": FRONT_DOOR | {"batches", "report"},
    "tuning": FRONT_DOOR | {"batches", "choices", "sequential"},
    "pixels": {"abi", "epilogue", "grid", "pipeline", "runtime"},
    "elementwise": {"epilogue", "pipeline", "pixels", "runtime"},
    "products": {"abi", "dispatch", "epilogue", "geometry", "pixels", "runtime"},
    "recurrent": {"dispatch", "geometry", "pixels", "runtime"},
    "transposed": {"dispatch", "epilogue", "geometry", "pixels", "runtime"},
    "report": set(),
    "threadpools": {"runtime"},
    "models": {
        "arrays",
        "background",
        "batches",
        "epilogue",
        "layers",
        "padding",
        "pipeline",
        "pixels",
        "report",
        "runtime",
        "shapes",
    },
    "graph": {
        "arrays",
        "background",
        "calls",
        "elementwise",
        "epilogue",
        "frontdoor",
        "layers",
        "models",
        "ops",
        "padding",
        "products",
        "pipeline",
        "pixels",
        "recurrent",
        "report",
        "runtime",
        "transposed",
    },
    "bench_command": set(),
    "model_commands": {"graph", "model_inputs", "runtime"},
    "model_inputs": {"graph", "models"},
    "cli": {"models", "ops", "layers", "runtime", "bench_command", "model_commands", "model_inputs"},
    "__main__": {"cli"},
    "benchmarks": FRONT_DOOR | {"models", "__init__"},  # there in an installed copy only
    "__init__": FRONT_DOOR | {"graph", "models", "sequential", "tuning"},
}

#: What they may import besides, inside functions only: `warmup` and `show_config` look at everything.
LATER: dict[str, set[str]] = {
    "choices": {"__init__"},
    "runtime": {"dispatch", "__init__"},
    "tuning": {"models"},
    "cli": {"__init__"},
}

COMPILERS = {"numba", "llvmlite"}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def unit(path: Path) -> str:
    """The name that `ALLOWED` has for a file: its folder below the package, or its own name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path: Path) -> set[tuple[str, bool]]:
    """Dotted names that a file imports, wherever in it, each with whether that happens when the file is loaded.

    ``if TYPE_CHECKING`` blocks are left out: they import nothing.
    """
    package = ["dwcpu", *path.relative_to(PACKAGE).parent.parts]
    found: set[tuple[str, bool]] = set()

    def walk(node: ast.AST, at_load: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                walk(child, at_load)
            return
        if isinstance(node, ast.Import):
            found.update((alias.name, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            # "from dwcpu import ops" imports dwcpu.ops; "from dwcpu.ops import f" does not import a module f.
            inside = source == "dwcpu" or source in {f"dwcpu.{p.name}" for p in PACKAGE.iterdir() if p.is_dir()}
            found.update((f"{source}.{alias.name}" if inside else source, at_load) for alias in node.names)
        in_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            walk(child, at_load and not in_function)

    walk(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_only_what_lies_below_them(path: Path) -> None:
    mine = unit(path)
    assert mine in ALLOWED, f"{path.name} is new: say in {Path(__file__).name} what it may import"
    for at_load, allowed in ((True, ALLOWED[mine]), (False, ALLOWED[mine] | LATER.get(mine, set()))):
        found = [name.split(".") for name, when in imports(path) if when == at_load]
        names = {[*parts, "__init__"][1] for parts in found if parts[0] == "dwcpu"}
        ours = {name if name in ALLOWED else "__init__" for name in names}  # from . import show_config: the package
        assert ours - {mine} <= allowed


def test_only_the_numba_kernels_import_numba() -> None:
    for path in modules():
        at_load = {name.split(".")[0] for name, when in imports(path) if when}
        if unit(path) != "numba_kernels":
            assert not at_load & COMPILERS, f"{path.name} loads numba with itself; import it inside a function"


def test_importing_the_package_at_load_time_never_goes_in_circles() -> None:
    names = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in modules()}
    edges = {
        name: {
            other for target, when in imports(path) if when for other in names if target == f"dwcpu.{other}"
        } - {name}
        for name, path in names.items()
        if path.name != "__init__.py"
    }  # fmt: skip
    done: set[str] = set()
    while ready := {name for name, needed in edges.items() if name not in done and needed & edges.keys() <= done}:
        done |= ready
    assert done == edges.keys(), f"these import each other: {sorted(edges.keys() - done)}"


def run(code: str, folder: Path) -> str:
    """Output of a fresh interpreter that imports the same copy of the package as this one."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_dwcpu_does_not_import_numba(tmp_path: Path) -> None:
    loaded = set(run("import sys, dwcpu; print(*sys.modules)", tmp_path).split())
    assert "dwcpu" in loaded
    assert not loaded & {*COMPILERS, "onnx", "onnxruntime", "torch", "scipy", "matplotlib", "PIL", "skimage", "tqdm"}


def test_numba_waits_for_the_first_numba_kernel(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, dwcpu; x, w = np.ones((1, 4, 4, 2)), np.ones((3, 3, 2));"
        "dwcpu.depthwise_conv2d(x, w, backend='reference'); print('numba' in sys.modules)"
    )
    assert run(code, tmp_path).strip() == "False"


def test_import_time_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No threshold: the machine is shared. The promise is NumPy's import plus 50 ms."""
    code = "import time; a = time.perf_counter(); import {}; print(time.perf_counter() - a)"
    best = {
        name: min(float(run(code.format(name), tmp_path)) for _ in range(3)) * 1e3 for name in ("numpy", "numpy, dwcpu")
    }
    with capsys.disabled():
        added = best["numpy, dwcpu"] - best["numpy"]
        print(f"\nimport numpy {best['numpy']:.0f} ms, dwcpu on top of it {added:.0f} ms")
