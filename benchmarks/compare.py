"""Us against the peers, shape by shape, in one run: ``python benchmarks/compare.py --group mobilenet_v1``.

Results are compared before anything is timed. A row shows microseconds a call (best round, median in brackets) for
each contender, how many times as fast as the best peer we are (best round against best round), GFLOP/s, and which share
of the roofline bound our best round reaches; then the kernels that were chosen. The last line of a suite is the
geometric mean of the ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import networks
import peers
import problem
import roofline
import shapes
from timing import Times, race

#: Relative to the largest value; float32 sums of a few thousand terms in another order differ by less.
TOLERANCE = 2e-5


def contenders(made: problem.Problem, options: argparse.Namespace) -> list[problem.Prepared]:
    """Ours first, then every peer that can do it; all of them with the same result."""
    ready = [problem.ours(made, options.threads, options.backend)]
    for name in options.peers:
        try:
            ready.append(peers.prepare(name, made, options.threads))
        except peers.Unsupported as reason:
            print(f"{name} left out: {reason}", file=sys.stderr)
    check(made.shape.id, ready)
    return ready


def check(what: str, ready: Sequence[problem.Prepared], tolerance: float = TOLERANCE) -> None:
    """Stop if a peer's result is not ours."""
    for contender in ready:
        contender.run()
    for peer in ready[1:]:
        error = problem.agree(ready[0].result(), peer.result())
        if not error <= tolerance:
            raise SystemExit(f"{what}: dwcpu and {peer.name} differ by {error:.1e} of the largest value")


class Table:
    """Prints rows as they come and remembers them for the mean and for the file."""

    def __init__(self, title: str, names: Iterable[str], width: int = 36) -> None:
        self.names, self.width = list(names), width
        self.rows: list[dict[str, Any]] = []
        head = "".join(f"{name + ', us':>22}" for name in self.names)
        print(f"\n{title:<{width}}{head}{'vs best':>9}{'GFLOP/s':>9}{'bound, us':>11}{'share':>7}  kernel")

    def add(self, row: str, times: dict[str, Times], flops: int, bound: float, note: str = "") -> None:
        """Print one row; the first of `times` is ours."""
        mine, *others = times.values()
        ratio = min(other.best for other in others) / mine.best if others else float("nan")
        texts = {name: f"{t.best:.1f} ({t.median:.1f})" for name, t in times.items()}
        cells = "".join(f"{texts.get(name, '-'):>22}" for name in self.names)
        gflops, share = flops / mine.best * 1e-3, bound / mine.best
        print(f"{row:<{self.width}}{cells}{ratio:>9.2f}{gflops:>9.1f}{bound:>11.1f}{share:>7.0%}  {note}", flush=True)
        self.rows.append(
            {
                "row": row,
                "times": {name: vars(t) for name, t in times.items()},
                "ratio": ratio,
                "bound_us": bound,
                "kernel": note,
            }
        )

    def close(self) -> None:
        """Print the geometric mean of the ratios, against the best peer of each row and against each peer."""
        if len(self.names) < 2 or not self.rows:
            return
        mine = self.names[0]
        print(f"{f'geometric mean of {len(self.rows)}':<{self.width}}{'':>22}", end="")
        for name in self.names[1:]:
            ratios = [r["times"][name]["best"] / r["times"][mine]["best"] for r in self.rows if name in r["times"]]
            print(f"{f'{geometric_mean(ratios):.3f}' if ratios else '-':>22}", end="")
        ratios = [row["ratio"] for row in self.rows if len(row["times"]) > 1]
        print(f"{geometric_mean(ratios) if ratios else float('nan'):>9.3f}")


def compare_layers(suite: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Race every chosen shape of a suite."""
    chosen = shapes.select(suite, options.group, smoke=options.smoke)
    chosen = [shape for shape in chosen if options.filter in shape.id]
    if not chosen:
        return []
    mine = "dwcpu" if options.backend == "auto" else f"dwcpu-{options.backend}"
    table = Table(suite, [mine, *options.peers])
    for shape in chosen:
        made = problem.make(shape, options.dtype)
        ready = contenders(made, options)
        times = race([contender.run for contender in ready], options.rounds, options.threads)
        bound = roofline.bound_of(made.flops, made.bytes, options.dtype, options.threads)
        named = dict(zip((c.name for c in ready), times, strict=True))
        table.add(shape.id, named, made.flops, bound, ready[0].note)
    table.close()
    return table.rows


def compare_networks(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Race whole networks, 224 x 224, with weights made up where the real ones are not installed."""
    table = Table("networks", ["dwcpu", "onnxruntime"])
    for name in networks.NAMES:
        if options.group not in (None, name):
            continue
        ready, flops, bound = networks.contenders(name, options.threads, options.backend)
        check(name, ready, tolerance=1e-4)
        times = race([contender.run for contender in ready], options.rounds, options.threads)
        table.add(name, dict(zip((c.name for c in ready), times, strict=True)), flops, bound)
    table.close()
    return table.rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, race, print."""
    suites = [*shapes.SUITES, "networks"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=[*suites, "all"], default="all")
    parser.add_argument("--group", help="only shapes of this group: mobilenet_v1, odd, audio, …")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only shapes whose id contains this")
    parser.add_argument("--smoke", action="store_true", help="only the smallest shape of each group")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="auto", help="auto, numba, cython or the name of a kernel")
    parser.add_argument("--peers", nargs="*", choices=list(peers.PEERS), default=peers.available(), metavar="NAME")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times to this file too")
    options = parser.parse_args(arguments)
    if options.dtype == "float64":
        options.peers = [name for name in options.peers if name != "onnxruntime"]
    print(roofline.report(options.dtype, options.threads))
    results = {}
    for suite in suites if options.suite == "all" else [options.suite]:
        results[suite] = compare_networks(options) if suite == "networks" else compare_layers(suite, options)
    if not any(results.values()):
        raise SystemExit(f"compare: no shape of {options.suite} is in group {options.group!r} with this filter")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
