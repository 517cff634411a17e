"""Kernels compiled ahead of time: which instruction sets are there, which one runs, and where its kernels are.

`setup.py` compiles the same sources once per instruction set and dtype. At import, the widest set that was compiled and
that the CPU and the operating system support is chosen; the environment variable `DWCPU_ISA` caps it: "x86-64-v4"
(AVX-512), "x86-64-v3" (AVX2 and FMA), "x86-64-v2" (SSE4.2), or "none" for no compiled kernels. Machines of other kinds
have one set, "neon" or "baseline".

A kernel is an address with the C signature of `dwcpu.abi`; `run` cuts its grid of rows and blocks into tasks and runs
them, on threads of its own, without the GIL. It runs the kernels of the Numba family just as well. The sources are the
`.pxi` files, `vectors.h`, `lanes.h`, `tile.h` and `threads.h`; each opens with its contract. Packed layouts:

- depthwise weights `[block][kh][kw][m][lane]` and bias `[block][m][lane]`, a block being `lanes` channels from
  `min(block * lanes, channels - lanes)` on; fewer channels than `lanes` are one block, padded with zeros, or where
  vectors run on from pixel to pixel the channels as often as fill whole vectors;
- pointwise and convolution weights, per group: panels of `tile_columns * lanes` output channels (`abi.panel_widths`),
  `[kh][kw][cin][column]`, the last panel only as many vectors wide as it needs and padded with zeros; bias alike.
  Groups that share a vector (`grid.joined_groups`) count as one.

Arrays need no alignment beyond that of one element; 64 bytes for weights and outputs make loads and stores up to twice
as fast.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from dwcpu.abi import ABI, MOST_MULTIPLES
from dwcpu.cython_kernels.levels import LEVELS, Words, supported

__all__ = [
    "activations",
    "address",
    "available",
    "calls",
    "compiled",
    "functions",
    "fused",
    "isa",
    "pixels",
    "rows",
    "run",
    "run_steps",
    "status",
]

#: From narrowest to widest, as modules are named. A machine has sets of one kind only.
ISAS = ("baseline", "neon", "x86_64_v2", "x86_64_v3", "x86_64_v4")

_DTYPES = {"float32": "f32", "float64": "f64"}


#: Names of modules that were compiled from other sources than these.
_others: list[str] = []


def _load(name: str) -> ModuleType | None:
    try:
        module = import_module(f"{__name__}.{name}")
    except ImportError:
        return None
    if getattr(module, "ABI", None) != ABI:
        _others.append(name)
        return None
    return module


def _shown(name: str) -> str:
    return name.replace("x86_64", "x86-64").replace("64_v", "64-v")


def _cap(value: str | None) -> int:
    """Number of names of `ISAS` that the environment variable lets through."""
    name = (value or "").strip().lower().replace("-", "_")
    if not name:
        return len(ISAS)
    if name == "none":
        return 0
    known = _of_this_machine()
    if name not in known:
        names = ", ".join(["none", *map(_shown, known)])
        warnings.warn(
            f"dwcpu: DWCPU_ISA is {value!r}; it must be one of {names}; it is ignored", RuntimeWarning, stacklevel=2
        )
        return len(ISAS)
    return ISAS.index(name) + 1


def _of_this_machine() -> tuple[str, ...]:
    """Names of the instruction sets that machines of this kind have; all where no module tells the kind."""
    if _driver is None:
        return ISAS
    return tuple(LEVELS) if _driver.MACHINE == "x86_64" else (_driver.MACHINE,)


def _able() -> list[str]:
    """Names of the instruction sets that this CPU and its operating system can execute, from narrowest to widest."""
    if _driver is None:
        return []
    return supported(Words(*_driver.cpuid())) if _driver.MACHINE == "x86_64" else [_driver.MACHINE]


def _choose(cap: int) -> tuple[str | None, dict[str, ModuleType]]:
    """Widest instruction set, among the first `cap`, whose modules are there and that can run here; and its modules."""
    for name in reversed(_able()):
        if name in ISAS[:cap]:
            modules = {dtype: _load(f"_{name}_{short}") for dtype, short in _DTYPES.items()}
            loaded = {dtype: module for dtype, module in modules.items() if module is not None}
            if len(loaded) == len(modules):
                return name, loaded
    return None, {}


def _missing_driver(*_: object) -> Any:
    raise RuntimeError(f"cython_kernels.run: there is no compiled driver; {status()}; use the Numba backend")


_driver: Any = _load("_driver")
#: The compiled half of `dwcpu.calls`, or None; it needs no kernels of ours.
calls: Any = _load("_calls")
_isa, _modules = _choose(_cap(os.environ.get("DWCPU_ISA")))

#: run(kernel, plan, x, residual, out, scratch, scratch_stride, rows, row_granule, row_parts, blocks, block_parts,
#: tasks, threads, waking): all integers, addresses included (0: none); scratch_stride in bytes. Each of the tasks gets
#: scratch + number * scratch_stride.
run: Callable[..., None] = _missing_driver if _driver is None else _driver.run

#: run_steps(steps, count, threads, where): integers, and a tuple of these; see `dwcpu.abi.STEP_FIELDS`.
run_steps: Callable[..., None] = _missing_driver if _driver is None else _driver.run_steps

#: Addresses of both for compiled callers; the first takes the arguments from scratch_stride on as an array.
run_addresses: tuple[int, int] = (0, 0) if _driver is None else (_driver.RUN, _driver.RUN_STEPS)

#: Address of the kernel that takes images through a row of steps: see `dwcpu.abi.IMAGES_FIELDS`.
images: int = 0 if _driver is None else _driver.IMAGES

#: address(array): of the first element of a C-contiguous array.
address: Callable[..., int] = _missing_driver if _driver is None else _driver.address


def available() -> bool:
    """Whether there are kernels to run."""
    return _isa is not None


def isa() -> str | None:
    """Name of the instruction set that is used, e.g. "x86-64-v3"; None if there are no compiled kernels to use."""
    return None if _isa is None else _shown(_isa)


def fused() -> bool:
    """Whether a multiply-add rounds once, so that results are the same bits as those of Numba's kernels."""
    return _isa in ("neon", "x86_64_v3", "x86_64_v4")


def compiled() -> list[str]:
    """Names of the instruction sets that this installation was compiled for and this machine can run."""
    return [_shown(name) for name in _able() if _load(f"_{name}_f32") is not None]


def _build_info() -> dict[str, Any]:
    """What setup.py noted: "compiler", "modules" and "problems"."""
    try:
        return json.loads(Path(__file__).with_name("build_info.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def status() -> str:
    """One line: what is used, and why it is no more than that."""
    info = _build_info()
    problems = "when it was built: " + "; ".join(info["problems"]) if info.get("problems") else ""
    if _others:
        names = ", ".join(sorted(set(_others)))
        problems = f"not used, since compiled from another version of dwcpu: {names}; install it again"
    if _isa is not None:
        text = f"{isa()} of {', '.join(compiled())}"
        return f"{text}; {problems}" if problems else text
    cap = os.environ.get("DWCPU_ISA", "").strip()
    if cap and compiled():
        return f"none: DWCPU_ISA={cap} rules out {', '.join(compiled())}"
    if problems:
        return f"none: {problems}"
    if not info.get("modules"):
        return "none: the package was not built by its setup.py; install it with pip, with a C compiler on the path"
    return f"none: this machine runs none of {', '.join(info['modules'])}"


_NO_LIMIT = 2**62


def rows(dtype: str) -> list[dict[str, Any]]:
    """Kernels of one dtype, "float32" or "float64", the most special first; empty if there are none.

    The keys are those of `dwcpu.numba_kernels.rows`. Depthwise kernels with a fixed window need multiplier 1 and at
    least `lanes` channels, the one in strips `lanes` channels, the flat one multiplier 1 and few channels (see
    `rules.runs_on`), the one on repeated inputs a larger multiplier; the other one takes any.
    """
    return [_row(kernel) for kernel in _modules[dtype].rows()] if dtype in _modules else []


def _row(kernel: dict[str, Any]) -> dict[str, Any]:
    op, lanes, address = kernel["op"], kernel["lanes"], kernel["address"]
    window = tuple(kernel[name] for name in ("kernel_h", "kernel_w", "stride_h", "stride_w"))
    fixed, way = op == "depthwise" and window[0] > 0, kernel["way"]
    fused = op in ("separable", "inverted_residual")
    full, single = fixed or way in ("strips", "stream"), fixed or way in ("flat", "stream")
    most = lanes + lanes // 4 if kernel["tile_rows"] > 2 else lanes - 1  # of pixels that run on: see rules.runs_on
    return {
        "op": op,
        "label": "{}x{}s{}".format(*window) if fixed else "fused" if fused else way if op == "depthwise" else "any",
        "window": window if fixed else (0, 0, 0, 0),
        "tile_rows": kernel["tile_rows"],
        "tile_columns": kernel["tile_cols"] if op == "depthwise" else kernel["vectors"],
        "lanes": lanes,
        "channels": (1, most) if way == "flat" else (lanes if full else 1, _NO_LIMIT),
        "multipliers": (2, MOST_MULTIPLES) if way == "repeated" else (1, 1 if single else _NO_LIMIT),
        "most_taps": 0,
        "copies": fixed,
        "layout": "flat" if way == "flat" else "",
        "address": lambda: address,
    }


def activations(dtype_name: str) -> dict[int, int]:
    """Code of each second-pass activation (`dwcpu.abi.ACTIVATION_CODES`) -> its address."""
    return _modules[dtype_name].activations() if dtype_name in _modules else {}


def functions(dtype_name: str) -> dict[str, int]:
    """Name of each function beside the activations (`functions.pxi`): its address; empty where they are not."""
    return _modules[dtype_name].functions() if dtype_name in _modules else {}


def pixels(dtype_name: str) -> dict[str, int]:
    """Name of each kernel between convolutions (`pixels.pxi` lists them): its address; empty where they are not."""
    return _modules[dtype_name].pixels() if dtype_name in _modules else {}
