"""``python -m dwcpu bench``: its options, and the way to the benchmarks, which are no part of the importable package.

In a source tree they are the folder `benchmarks` beside the package, in an installation `dwcpu/benchmarks`. Their
modules import each other by plain names, so the folder goes on the path of the process that runs the command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

__all__ = ["add_arguments", "prepare"]

_SUITES = (
    "depthwise, pointwise, separable, inverted_residual, conv, networks, networks_batch8, onnx, regret, overhead, cold"
)


def add_arguments(
    parser: argparse.ArgumentParser, positive: Callable[[str], int], threads: Callable[[str], int]
) -> None:
    """Add the options of the command; `positive` reads a whole number from 1 on, `threads` a number of threads."""
    add = parser.add_argument
    add("--suite", nargs="+", metavar="NAME", help=f"{_SUITES}; all")
    add("--peers", nargs="*", metavar="NAME", help="whom to race; by default all that are installed; no name: nobody")
    add(
        "--models", type=Path, nargs="+", default=[], metavar="FILE.onnx",
        help="race these, with one input and one output each, against peers that read ONNX; suites only if named",
    )  # fmt: skip
    add("--group", metavar="NAME", help="only shapes of this group: mobilenet_v1, odd, audio, …; or this network")
    add("--filter", default="", metavar="TEXT", help="only shapes whose id contains this")
    add("--smoke", action="store_true", help="only the smallest shape of each group")
    add("--threads", type=threads, nargs="+", default=[1], metavar="N", help="thread counts, one table for each (1)")
    add("--batch", type=positive, default=1, metavar="N", help="images of each input whose shape does not say (1)")
    add("--dtype", choices=["float32", "float64"], default="float32")
    add("--backend", default="auto", metavar="NAME", help="ours: auto, numba, cython or the name of a kernel")
    add("--rounds", type=positive, default=30, metavar="N", help="turns of each contender (30)")
    add(
        "--patience", type=float, default=0.0, metavar="SECONDS",
        help="how much longer each race may last to repeat turns in which the machine was not at rest (0)",
    )  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write everything that was measured to this file")
    add("--markdown", type=Path, metavar="FILE", help="write the tables to this file")
    add("--plot", type=Path, metavar="FILE.png", help="draw FILE-roofline.png and FILE-speedup.png")


def prepare(options: argparse.Namespace) -> Callable[[], int]:
    """The work that the options ask for, as a function that does it and returns the exit status.

    Raises
    ------
    ValueError, OSError, ImportError
        If an option asks for what there is not.
    """
    where = str(folder())
    if where not in sys.path:
        sys.path.insert(0, where)
    work: Callable[[], int] = import_module("bench").prepare(options)
    return work


def folder() -> Path:
    """Where the benchmarks lie."""
    package = Path(__file__).resolve().parent
    for where in (package.parent / "benchmarks", package / "benchmarks"):
        if (where / "bench.py").is_file():
            return where
    raise FileNotFoundError(
        f"bench: there is no folder benchmarks beside or in {package}; the command needs it; run it in a source tree"
    )
