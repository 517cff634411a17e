"""Us against the peers in one run, behind ``python -m dwcpu bench``.

Contenders take turns round by round; a peer whose result is not ours stops the run. Then come the dispatcher's regret,
the overhead of calls, and cold starts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import networks
import onnx_files
import peers
import plots
import problem
import regret
import report
import roofline
import shapes
import startup
from results import Results, Row
from timing import Gauge, Times, race

from dwcpu import list_kernels, runtime

__all__ = ["prepare"]

#: Networks by the size of the batch; 0 is what `--batch` says.
BATCHES = {"networks": 0, "networks_batch8": 8}

SUITES = (*shapes.SUITES, *BATCHES, "onnx", "regret", "overhead", "cold")

#: A turn of a network is a single call of many milliseconds, which seldom pass undisturbed: so many times the rounds.
NETWORK_ROUNDS = 4

#: Relative to the largest value; float32 sums of a few thousand terms in another order differ by less.
TOLERANCE, NETWORK_TOLERANCE = 2e-5, 1e-4


def prepare(options: argparse.Namespace) -> Callable[[], int]:
    """Check the options of `dwcpu.bench_command`; returns the run."""
    suites = options.suite or ([] if options.models else ["all"])
    suites = list(SUITES) if "all" in suites else suites
    _known("--suite", suites, [*SUITES, "all"])
    if options.peers is None:
        options.peers = peers.available()
        if not options.peers:
            print("no peers are installed, there is nobody to race: pip install 'dwcpu[bench]'", file=sys.stderr)
    _known("--peers", options.peers, peers.PEERS)
    missing = [name for name in options.peers if name not in peers.available()]
    if missing:
        advice = "pip install torch" if missing == ["torch"] else "pip install 'dwcpu[bench]'"
        raise ValueError(f"--peers: {', '.join(missing)} cannot be imported: {advice}")
    for asked, option in (("onnx" in suites, "--suite onnx"), (options.models, "--models")):
        if asked and importlib.util.find_spec("onnx") is None:
            raise ValueError(f"{option}: onnx cannot be imported: pip install 'dwcpu[bench]'")
    for path in options.models:
        onnx_files.check(path)
    if options.plot is not None:
        plots.check(options.plot)
    for path in (options.json, options.markdown, options.plot):
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"{path}: there is no directory {path.parent}")
        if path is not None and path.is_dir():
            raise ValueError(f"{path}: this is a directory; the name of a file in it is needed")
    if not 0 <= options.patience < float("inf"):
        raise ValueError(f"--patience: {options.patience} seconds; it must be 0 or more")
    groups = {group for suite in shapes.SUITES for shape in shapes.select(suite) for group in shape.groups}
    groups |= {*networks.NAMES, *onnx_files.NAMES}
    if options.group is not None and options.group not in groups:
        raise ValueError(f"--group: {options.group} is not known; there are {', '.join(sorted(groups))}")
    if options.backend not in ("auto", "numba", "cython", *list_kernels()):
        raise ValueError(f"--backend: {options.backend} is not known; there are auto, numba, cython and list_kernels()")
    raced = {suite: _chosen(suite, options) for suite in suites if suite in shapes.SUITES}
    named = [name for name in networks.NAMES if options.group in (None, name) and options.filter in name]
    filed = _files(options)
    rest = set(suites) - raced.keys() - BATCHES.keys() - {"onnx"}
    found = (named and BATCHES.keys() & set(suites)) or (filed and "onnx" in suites)
    if not (any(raced.values()) or rest or found or options.models):
        group = f" of group {options.group}" if options.group else ""
        raise ValueError(f"--filter: no shape{group} in {', '.join(suites)} has {options.filter!r} in its name")
    return _Run(options, suites, raced, named).all


def _known(option: str, names: Sequence[str], table: Collection[str]) -> None:
    unknown = [name for name in names if name not in table]
    if unknown:
        raise ValueError(f"{option}: {', '.join(unknown)} is not known; there are {', '.join(table)}")


def _chosen(suite: str, options: argparse.Namespace) -> list[shapes.Shape]:
    found = shapes.select(suite, options.group, smoke=options.smoke)
    found = [shape for shape in found if options.filter in shape.id]
    if options.batch == 1:
        return found
    return [
        replace(shape, id=f"n{options.batch}_{shape.id}", x_shape=(options.batch, *shape.x_shape[1:]))
        for shape in found
        if shape.x_shape[0] == 1
    ]


def _files(options: argparse.Namespace) -> list[str]:
    """Names of models from files."""
    return [name for name in onnx_files.available() if options.group in (None, name) and options.filter in name]


class _Progress:
    """What is being measured, on stderr: in place on a terminal, line by line in a file."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        end = "" if self.terminal else "\n"
        print(f"\r\033[K{text}" if self.terminal else text, end=end, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Make place for a row."""
        if self.terminal:
            self("")


@dataclass
class _Run:
    """One run of the command."""

    options: argparse.Namespace
    suites: list[str]
    raced: dict[str, list[shapes.Shape]]
    networks: list[str]
    progress: _Progress = field(default_factory=_Progress)
    gauge: Gauge = field(init=False)

    def __post_init__(self) -> None:
        self.gauge = Gauge(self.options.patience)

    def all(self) -> int:
        """Measure, print and write everything."""
        options = self.options
        os.environ["DWCPU_BACKGROUND_COMPILE"] = "0"  # the kernels that are chosen, not those that stand in for them
        results = self.results = Results(
            shlex.join(["python", "-m", "dwcpu", *options.arguments]), _machine(options.peers)
        )
        for name, value in results.machine.items():
            print(f"{name:<16} {value}")
        try:
            self.measure(results)
        except KeyboardInterrupt:
            self.progress.clear()
            print("interrupted: what was measured so far follows, and is written", file=sys.stderr)
            self.finish(results)
            raise
        self.finish(results)
        return 0

    def measure(self, results: Results) -> None:
        """Measure everything, into `results`."""
        for threads in self.options.threads:
            results.limits.append(roofline.limits(threads))
            print(report.limits_text(results.limits[-1]), flush=True)
        for suite in self.suites:
            for threads in self.options.threads:
                if suite in self.raced:
                    self.layers(suite, threads)
                elif suite in BATCHES:
                    self.whole_networks(suite, threads, BATCHES[suite] or self.options.batch)
                elif suite == "onnx":
                    chosen = _files(self.options)
                    chosen = chosen[:1] if self.options.smoke else chosen
                    self.onnx_files(suite, threads, chosen, onnx_files.make)
                elif suite == "regret":
                    self.regret(threads)
            if suite in ("overhead", "cold"):
                self.figures(suite)
        for threads in self.options.threads if self.options.models else ():
            self.onnx_files("models", threads, self.options.models, partial(onnx_files.read, batch=self.options.batch))

    def finish(self, results: Results) -> None:
        """Say how disturbed the machine was, and write the files that were asked for."""
        results.turns, results.disturbed = dict(self.gauge.turns), dict(self.gauge.disturbed)
        if results.turns:
            print("\n" + report.disturbance(results))
        options = self.options
        drawn: list[Path] = [] if options.plot is None else plots.draw(results, options.plot)
        if options.json is not None:
            options.json.write_text(json.dumps(results.to_json(), indent=1) + "\n", encoding="utf-8")
        if options.markdown is not None:
            beside = [Path(os.path.relpath(path, options.markdown.parent)).as_posix() for path in drawn]
            options.markdown.write_text(report.markdown(results, beside), encoding="utf-8")

    def race(
        self,
        row: Row,
        ours: problem.Prepared,
        graph: Callable[[str], problem.Prepared],
        rounds: int,
        others: Sequence[problem.Prepared] = (),
    ) -> Row:
        """Race ours against every peer that can do it, all of them with the same result; returns `row` with times.

        `others` are no peers but run along.
        """
        ready = [ours]
        for name in self.options.peers:
            try:
                ready.append(graph(name))
            except peers.Unsupported as reason:
                self.progress.clear()
                print(f"{row.id}: {name} left out: {reason}", file=sys.stderr)
        ready += others
        for contender in ready:
            contender.run()
        for peer in ready[1:]:
            error = problem.agree(ours.result(), peer.result())
            if not error <= (NETWORK_TOLERANCE if row.suite in (*BATCHES, "onnx", "models") else TOLERANCE):
                raise SystemExit(f"{row.id}: dwcpu and {peer.name} differ by {error:.1e} of the largest value")
        alone, flops = runtime.multiply_adds(self.options.dtype, row.threads)
        *times, least = race([*(contender.run for contender in ready), alone], rounds, row.threads, self.gauge)
        beside = Times(*(each * row.flops / flops for each in (least.best, least.median)))
        named = dict(zip((contender.name for contender in ready), times, strict=True))
        return replace(row, times=named, beside=beside)

    def layers(self, suite: str, threads: int) -> None:
        """Race every chosen shape of a suite."""
        chosen, options = self.raced[suite], self.options
        if not chosen:
            return
        mine = "dwcpu" if options.backend == "auto" else f"dwcpu-{options.backend}"
        table = report.Table(_title(suite, threads), [mine, *options.peers])
        rows = []
        for at, shape in enumerate(chosen, 1):
            self.progress(f"{suite} {at}/{len(chosen)} {shape.id}")
            made = problem.make(shape, options.dtype)
            ours = problem.ours(made, threads, options.backend)
            bound = roofline.bound_of(made.flops, made.bytes, options.dtype, threads)
            row = Row(suite, threads, shape.id, made.flops, made.bytes, bound, ours.note, {})
            rows.append(self.race(row, ours, partial(peers.prepare, graph=made.graph, threads=threads), options.rounds))
            self.results.rows.append(rows[-1])
            self.progress.clear()
            table.add(rows[-1])
        table.close(rows)

    def whole_networks(self, suite: str, threads: int, batch: int) -> None:
        """Race whole networks, 224 x 224, with weights made up."""
        if self.options.dtype != "float32" or not self.networks:
            return
        table = report.Table(_title(suite, threads), ["dwcpu", *self.options.peers])
        rows = []
        for name in self.networks:
            self.progress(f"{suite} {name}")
            made = networks.make(name, batch, self.options.backend)
            title = name if batch == 1 else f"n{batch}_{name}"
            row = Row(suite, threads, title, made.flops, made.bytes, made.bound(threads), "", {})
            prepare = partial(peers.prepare, graph=made.graph, threads=threads)
            rounds = self.options.rounds * (NETWORK_ROUNDS if batch == 1 else 1)
            rows.append(self.race(row, made.ours(threads), prepare, rounds))
            self.results.rows.append(rows[-1])
            self.progress.clear()
            table.add(rows[-1])
        table.close(rows)

    def onnx_files(
        self, suite: str, threads: int, chosen: Sequence[Any], make: Callable[[Any], onnx_files.File]
    ) -> None:
        """Race models from ONNX files, and the same networks built from layers."""
        contenders = ["dwcpu", *self.options.peers, "dwcpu layers"]
        table = report.Table(_title(suite, threads), contenders)
        rows = []
        for each in chosen:
            self.progress(f"{suite} {each}")
            file = make(each)
            total = file.total(threads)
            row = Row(suite, threads, file.name, total.flops, total.bytes, total.bound_us or 0.0, "", {})
            prepare = partial(peers.prepare_file, file=file, threads=threads)
            layers = file.layers(threads)
            rounds = self.options.rounds * NETWORK_ROUNDS
            rows.append(self.race(row, file.ours(threads), prepare, rounds, [layers] if layers else []))
            self.results.rows.append(rows[-1])
            self.progress.clear()
            table.add(rows[-1])
        table.close(rows)

    def regret(self, threads: int) -> None:
        """Time every kernel that can compute a shape against the one that is chosen."""
        print(f"\n{_title('regret', threads):<34}{'regret':>7}{'us':>10} {'chosen':<46}{'us':>10} fastest")
        found = []
        for suite in regret.SUITES:
            chosen = _chosen(suite, self.options)
            for at, shape in enumerate(chosen, 1):
                self.progress(f"regret {suite} {at}/{len(chosen)} {shape.id}")
                rounds = min(self.options.rounds, 10)
                found.append(regret.measure(shape, threads, self.options.dtype, rounds, self.gauge))
                self.results.regrets.append(found[-1])
                self.progress.clear()
                print(report.regret_line(found[-1]), flush=True)
        if found:
            print(report.regret_summary(found))

    def figures(self, suite: str) -> None:
        """Measure what is no race: the overhead of calls, or cold starts."""
        print(f"\n{suite}")
        measure = startup.overhead if suite == "overhead" else startup.cold
        for figure in measure(self.options.peers, self.progress):
            self.progress.clear()
            print(report.figure_line(figure), flush=True)
            self.results.figures.append(figure)


def _title(suite: str, threads: int) -> str:
    return suite if threads == 1 else f"{suite}, {threads} threads"


def _machine(names: Sequence[str]) -> dict[str, str]:
    """CPU and versions."""
    shown = {"CPU": _cpu()}
    wanted = ("machine", "caches", "dwcpu", "python", "numpy", "numba", "cython kernels", "numba kernels")
    configuration = runtime.configuration()
    shown |= {name: configuration[name] for name in wanted if name in configuration}
    return shown | {name: peers.version(name) for name in names}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
