"""What a benchmark run found, and what follows from it: ratios, shares, means, the worst."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import geometric_mean
from typing import Any

from roofline import Limits
from timing import Times

__all__ = ["BRIEF", "LONG", "Figure", "Regret", "Results", "Row", "Scaling", "mean_ratio", "names", "scaling"]


@dataclass(frozen=True)
class Row:
    """One shape or network, raced. `times` begins with ours; `flops`, `bytes` and `bound` (us) are its cost.

    `beside` is what multiply-adds alone, as many, took in turns between those of the race.
    """

    suite: str
    threads: int
    id: str
    flops: int
    bytes: int
    bound: float
    kernel: str
    times: dict[str, Times]
    beside: Times | None = None

    @property
    def mine(self) -> Times:
        """Our times."""
        return next(iter(self.times.values()))

    @property
    def peers(self) -> list[str]:
        """Names of all contenders that are not ours in another form."""
        return [name for name in self.times if not name.startswith("dwcpu")]

    @property
    def best_peer(self) -> str | None:
        """Name of the fastest peer, by its best round."""
        others = self.peers
        return min(others, key=lambda name: self.times[name].best) if others else None

    @property
    def ratio(self) -> float | None:
        """Best peer's time over ours: above 1 we are faster."""
        return None if self.best_peer is None else self.times[self.best_peer].best / self.mine.best

    @property
    def median_ratio(self) -> float | None:
        """The same for median rounds, of the peer whose median is lowest: what a shared machine makes of it."""
        others = [self.times[name].median for name in self.peers]
        return min(others) / self.mine.median if others else None

    @property
    def share(self) -> float:
        """Share of the roofline bound that we reach."""
        return self.bound / self.mine.best

    @property
    def share_beside(self) -> float | None:
        """Share that the median round reaches of what multiply-adds alone took in the median, or of a longer bound."""
        return None if self.beside is None else max(self.bound, self.beside.median) / self.mine.median

    @property
    def gflops(self) -> float:
        """Our GFLOP/s."""
        return self.flops / self.mine.best * 1e-3


@dataclass(frozen=True)
class Regret:
    """What the dispatcher's choice costs: microseconds of the chosen kernel and of the best one for a shape."""

    suite: str
    threads: int
    id: str
    chosen: str
    chosen_us: float
    best: str
    best_us: float

    @property
    def ratio(self) -> float:
        """Time of the chosen kernel over that of the best."""
        return self.chosen_us / self.best_us


@dataclass(frozen=True)
class Figure:
    """A number of its own: what it is, its value, and the target if there is one."""

    section: str
    name: str
    value: float
    unit: str
    target: float | None = None


@dataclass
class Results:
    """Everything that a run found.

    By number of threads, `turns` counts the turns of measuring, and `disturbed` those when the machine was not at rest.
    """

    command: str
    machine: dict[str, str]
    limits: list[Limits] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    regrets: list[Regret] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    turns: dict[int, int] = field(default_factory=dict)
    disturbed: dict[int, int] = field(default_factory=dict)

    def tables(self) -> list[tuple[str, int, list[Row]]]:
        """Rows by suite and thread count, in the order in which they were measured."""
        found: dict[tuple[str, int], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row.suite, row.threads), []).append(row)
        return [(suite, threads, rows) for (suite, threads), rows in found.items()]

    def to_json(self) -> dict[str, Any]:
        """As objects that JSON has, with ratios and shares."""
        made = asdict(self)
        for row, entry in zip(self.rows, made["rows"], strict=True):
            entry |= {"ratio": row.ratio, "median_ratio": row.median_ratio}
            entry |= {"best_peer": row.best_peer, "share": row.share, "share_beside": row.share_beside}
        for regret, entry in zip(self.regrets, made["regrets"], strict=True):
            entry["ratio"] = regret.ratio
        return made


@dataclass(frozen=True)
class Scaling:
    """What several threads gain in one suite: one thread's time over theirs, by contender."""

    suite: str
    threads: int
    rows: int
    gains: dict[str, float]
    slower: list[str]


#: Microseconds of a bound up to which what stands around a call is much of it.
BRIEF = 15.0
#: Microseconds on one thread above which several are expected to gain.
LONG = 200.0


def scaling(results: Results) -> list[Scaling]:
    """Geometric means over rows above `LONG`, and all rows on which several threads are slower for us than one."""
    one = {(row.suite, row.id): row for row in results.rows if row.threads == 1}
    found = []
    for suite, threads, rows in results.tables():
        pairs = [(one[suite, row.id], row) for row in rows if threads > 1 and (suite, row.id) in one]
        long = [pair for pair in pairs if pair[0].mine.best > LONG]
        if not pairs:
            continue
        both = [name for name in names(results.rows) if all(name in a.times and name in b.times for a, b in long)]
        both = both if long else []
        gains = {name: geometric_mean(a.times[name].best / b.times[name].best for a, b in long) for name in both}
        slower = [b.id for a, b in pairs if b.mine.best > 1.05 * a.mine.best]
        found.append(Scaling(suite, threads, len(long), gains, slower))
    return found


def mean_ratio(rows: Sequence[Row], peer: str | None = None) -> float | None:
    """Geometric mean of the ratios to one peer, or to the best of each row; None where there is nothing to compare."""
    if peer is None:
        ratios = [row.ratio for row in rows if row.ratio is not None]
    else:
        ratios = [row.times[peer].best / row.mine.best for row in rows if peer in row.times]
    return geometric_mean(ratios) if ratios else None


def names(rows: Iterable[Row]) -> list[str]:
    """Names of all contenders, ours first."""
    return list(dict.fromkeys(name for row in rows for name in row.times))
