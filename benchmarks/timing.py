"""Interleaved timing: contenders take turns, so that a disturbance of the machine hits all of them alike.

On a shared machine that is not enough: for seconds at a time both of our "cores" may be the two hardware threads of
one, or each may share its own with a neighbour, caches and reorder buffer included. Then what leaves most of it idle
loses least. With patience, a turn counts only if a probe runs at full speed on all threads before and after it.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from dwcpu import DepthwiseConv2d

__all__ = ["Gauge", "Times", "quickest", "race"]

#: One turn lasts about this long, in seconds: far above the clock's grain, far below the scheduler's patience.
TURN = 2e-3

#: Thread pools spin for a while after their call, and the next contender must not have to share its cores with them.
#: That time, in seconds, is spent at work on all cores: a host takes away those that sleep.
SETTLE = 8e-3

#: So long each contender runs, in seconds and at least once, before its turn is timed: its own data comes back into the
#: caches, its own threads awake, and whatever worked before goes to sleep.
WARM = 0.3e-3


@dataclass(frozen=True)
class Times:
    """Microseconds a call: the best round and the median round."""

    best: float
    median: float


def _turn(run: Callable[[], object], inner: int) -> float:
    start = time.perf_counter()
    for _ in range(inner):
        run()
    return (time.perf_counter() - start) / inner * 1e6


class Gauge:
    """Whether the machine is at rest: whether it computes as fast, on every thread, as it was ever seen to.

    `patience` is the number of seconds that one race may last longer for that. `turns` and `disturbed` count, over all
    races and by number of threads, the turns that were taken into account and those when the machine was not at rest.
    """

    #: A probe that takes this much longer than the shortest has been disturbed.
    SLACK = 1.1

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.turns: Counter[int] = Counter()
        self.disturbed: Counter[int] = Counter()
        self._probes: dict[int, Callable[[], object]] = {}
        self._shortest = float("inf")

    def _probe_of(self, threads: int) -> Callable[[], object]:
        """A 7x7 window on two images for each thread, about 40 us: far more than it takes to hand work over, and in L2.

        It needs multiply-adds, both caches and what keeps instructions in flight; multiply-adds alone run at full speed
        beside many a neighbour.
        """
        ones = np.ones((7, 7, 64), np.float32)
        layer, x = DepthwiseConv2d(ones), np.ones((2 * threads, 22, 22, 64), np.float32)
        out = np.empty((2 * threads, 16, 16, 64), np.float32)
        return partial(layer, x, out=out, num_threads=threads)

    def at_rest(self, threads: int) -> bool:
        """Probe now, some times, since the first may have to wake a thread."""
        return self._probe(threads, 4)

    def await_rest(self, threads: int, seconds: float) -> bool:
        """Probe until the machine is at rest, for so long at most: load makes a host give us cores of our own."""
        end = time.perf_counter() + seconds
        while not self._probe(threads, 100):
            if time.perf_counter() > end:
                return False
        return True

    def settle(self, threads: int) -> None:
        """Wait for the end of others' spinning, if there are several threads, with all of ours at work."""
        end = time.perf_counter() + SETTLE
        while threads > 1 and time.perf_counter() < end:
            self._known(threads)()

    def _known(self, threads: int) -> Callable[[], object]:
        if threads not in self._probes:
            for known in {1, threads} - self._probes.keys():
                probe = self._probes[known] = self._probe_of(known)
                self._shortest = min(self._shortest, *(_turn(probe, 1) for _ in range(30)))
        return self._probes[threads]

    def _probe(self, threads: int, times: int) -> bool:
        probe = self._known(threads)
        for _ in range(times):
            took = _turn(probe, 1)
            self._shortest = min(self._shortest, took)
            if took <= self.SLACK * self._shortest:
                return True
        return False


def race(
    runs: Sequence[Callable[[], object]], rounds: int = 30, threads: int = 1, gauge: Gauge | None = None
) -> list[Times]:
    """Time calls round by round, each in turn, the first one changing from round to round.

    Every turn starts with calls that are not timed: see `WARM`.
    """
    inner = []
    for run in runs:
        run()
        once = min(_turn(run, 1) for _ in range(3))
        inner.append(max(1, round(TURN * 1e6 / max(once, 0.1))))
    gauge = gauge or Gauge(0.0)
    patience = gauge.patience
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds):
        for at in range(len(runs)):
            which = (at + turn) % len(runs)
            while True:
                start = time.perf_counter()
                gauge.settle(threads)
                undisturbed = gauge.await_rest(threads, patience)
                _warm(runs[which])
                took = _turn(runs[which], inner[which])
                gauge.settle(threads)
                undisturbed = undisturbed and gauge.at_rest(threads)
                if undisturbed or patience <= 0:
                    break
                patience -= time.perf_counter() - start
            times[which].append(took)
            gauge.turns[threads] += 1
            gauge.disturbed[threads] += not undisturbed
    return [Times(min(series), statistics.median(series)) for series in times]


def _warm(run: Callable[[], object]) -> None:
    end = time.perf_counter() + WARM
    run()
    while time.perf_counter() < end:
        run()


def quickest(ways: Mapping[str, Callable[[], object]], rounds: int = 15) -> str:
    """The name of the fastest of several ways to do one thing, from the best of a few calls in turn."""
    for run in ways.values():
        for _ in range(3):
            run()
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, run in ways.items():
            best[name] = min(best[name], _turn(run, 1))
    return min(best, key=lambda name: best[name])
