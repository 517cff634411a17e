"""Interleaved timing: contenders take turns, so that a disturbance of the machine hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Times", "quickest", "race"]

#: One turn lasts about this long, in seconds: far above the clock's grain, far below the scheduler's patience.
TURN = 2e-3

#: Thread pools spin for a while after their call; the next contender must not have to share its cores with them.
SETTLE = 5e-3


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


def race(runs: Sequence[Callable[[], object]], rounds: int = 30, threads: int = 1) -> list[Times]:
    """Time calls round by round, each in turn, the first one changing from round to round.

    Every turn starts with one call that is not timed: it brings the contender's own data back into the caches.
    """
    inner = []
    for run in runs:
        run()
        once = min(_turn(run, 1) for _ in range(3))
        inner.append(max(1, round(TURN * 1e6 / max(once, 0.1))))
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds):
        for at in range(len(runs)):
            which = (at + turn) % len(runs)
            if threads > 1:
                time.sleep(SETTLE)
            runs[which]()
            times[which].append(_turn(runs[which], inner[which]))
    return [Times(min(series), statistics.median(series)) for series in times]


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
