"""Results as text: rows for a terminal while they come, and the whole as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import geometric_mean

from results import BRIEF, LONG, Figure, Regret, Results, Row, Scaling, mean_ratio, names, scaling
from roofline import Limits

__all__ = ["Table", "figure_line", "limits_text", "markdown", "regret_line", "regret_summary"]

#: Shapes that a summary names.
_WORST = 10


def limits_text(limits: Limits) -> str:
    """The measured limits, for the head of a table."""
    peaks = "; ".join(
        f"{dtype} " + ", ".join(f"{value:.0f} ({bits} bits)" for bits, value in values.items())
        for dtype, values in limits.gflops.items()
    )
    copies = ", ".join(f"{value:.0f} in {level}" for level, value in limits.gigabytes.items())
    return f"{_threads(limits.threads)}: peak GFLOP/s {peaks}; copies GB/s {copies}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"


class Table:
    """Prints the rows of a suite as they come: microseconds a call, best round (median) of each contender."""

    def __init__(self, title: str, contenders: Sequence[str], width: int = 34) -> None:
        self.contenders, self.width = contenders, width
        head = "".join(f"{name + ', us':>20}" for name in contenders)
        print(f"\n{title:<{width}}{head}{'vs best':>9}{'GFLOP/s':>9}{'bound':>9}{'share':>7}{'beside':>8}  kernel")

    def add(self, row: Row) -> None:
        """Print one row."""
        texts = {name: f"{t.best:.1f} ({t.median:.1f})" for name, t in row.times.items()}
        cells = "".join(f"{texts.get(name, '-'):>20}" for name in self.contenders)
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        limit = f"{row.gflops:>9.1f}{row.bound:>9.1f}{row.share:>7.0%}{_percent(row.share_beside):>8}"
        print(f"{row.id:<{self.width}}{cells}{ratio:>9}{limit}  {row.kernel}", flush=True)

    def close(self, rows: Sequence[Row]) -> None:
        """Print the geometric means of the ratios, to each peer and to the best of each row, and the worst shapes."""
        if mean_ratio(rows) is None:
            return
        means = [mean_ratio(rows, name) for name in self.contenders[1:]]
        cells = "".join(f"{'-' if mean is None else f'{mean:.3f}':>20}" for mean in means)
        print(f"{f'geometric mean of {len(rows)}':<{self.width}}{'':>20}{cells}{mean_ratio(rows):>9.3f}")
        print(f"worst: {_worst(rows)}")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _worst(rows: Iterable[Row]) -> str:
    raced = sorted((row.ratio, row.id, row.best_peer) for row in rows if row.ratio is not None)
    return ", ".join(f"{name} {ratio:.2f} ({peer})" for ratio, name, peer in raced[:_WORST])


def regret_line(regret: Regret) -> str:
    """One regret for a terminal."""
    return (
        f"{regret.id:<34}{regret.ratio:>7.2f}{regret.chosen_us:>10.1f} {regret.chosen:<46}"
        f"{regret.best_us:>10.1f} {regret.best}"
    )


def regret_summary(regrets: Sequence[Regret]) -> str:
    """Geometric mean and worst of some regrets."""
    worst = sorted(regrets, key=lambda regret: -regret.ratio)[:_WORST]
    named = ", ".join(f"{regret.id} {regret.ratio:.2f}" for regret in worst)
    return f"geometric mean of {len(regrets)}: {geometric_mean(r.ratio for r in regrets):.3f}; worst: {named}"


def figure_line(figure: Figure) -> str:
    """One number for a terminal."""
    target = "" if figure.target is None else f"  (target {figure.target:g})"
    return f"{figure.name:<66}{figure.value:>10.2f} {figure.unit}{target}"


def disturbance(results: Results) -> str:
    """How much of a run the machine was not ours."""
    parts = [
        f"{results.disturbed.get(threads, 0) / turns:.0%} of {turns} turns on {_threads(threads)}"
        for threads, turns in results.turns.items()
    ]
    return f"The machine was not at rest (a probe ran below full speed) in {' and '.join(parts)}."


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _grid(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    right = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(cells)} |" for cells in (head, right, *lines)]


def _bold(text: str, when: bool) -> str:
    return f"**{text}**" if when else text


def markdown(results: Results, plots: Sequence[str] = ()) -> str:
    """The whole run as a page."""
    text = [
        "# Results",
        "",
        "Times are microseconds a call, best of the interleaved rounds. *Ratio* is the best peer's time over ours:",
        "above 1 we are faster, below 1 it is bold. *Share* is the share of the roofline bound, measured once in the",
        "same run, that our best round reaches. *Beside* is the same for a machine that neighbours disturb: the median",
        "time of a loop of as many multiply-adds, which took turns with the contenders, or the bound if it is longer,",
        "over our median time. Above 100 % the loop was disturbed more than we were. Made by:",
        "",
        f"    {results.command}",
        "",
        *_grid(["", "machine and versions"], [[name, value] for name, value in results.machine.items()]),
    ]
    if results.turns:
        text += ["", disturbance(results)]
    if results.limits:
        text += ["", "## Limits", "", *_limits(results.limits)]
    if results.rows:
        text += ["", "## Summary", "", *_summary(results)]
    if gains := scaling(results):
        text += ["", "## Several threads against one", "", *_scaling(gains)]
    text += [line for name in plots for line in ("", f"![{name}]({name})")]
    for suite, threads, rows in results.tables():
        text += ["", f"## {suite}, {_threads(threads)}", "", *_rows(rows)]
    for threads in sorted({regret.threads for regret in results.regrets}):
        regrets = [regret for regret in results.regrets if regret.threads == threads]
        text += ["", f"## Regret of the dispatcher, {_threads(threads)}", "", *_regrets(regrets)]
    for section in dict.fromkeys(figure.section for figure in results.figures):
        chosen = [figure for figure in results.figures if figure.section == section]
        text += ["", f"## {section}", "", *_figures(chosen)]
    return "\n".join(text) + "\n"


def _limits(limits: Sequence[Limits]) -> list[str]:
    head = ["limit", *(_threads(each.threads) for each in limits)]
    lines = [
        [f"FMA peak, {dtype}, {bits}-bit vectors, GFLOP/s", *(f"{each.gflops[dtype][bits]:.1f}" for each in limits)]
        for dtype, values in limits[0].gflops.items()
        for bits in values
    ]
    lines += [
        [f"copies in {level}, GB/s", *(f"{each.gigabytes[level]:.1f}" for each in limits)]
        for level in limits[0].gigabytes
    ]
    return _grid(head, lines)


def _summary(results: Results) -> list[str]:
    lines = []
    for suite, threads, rows in results.tables():
        mean = mean_ratio(rows)
        lost = [row for row in rows if row.ratio is not None and row.ratio < 1]
        ratio = "-" if mean is None else f"{mean:.3f}"
        medians = [row.median_ratio for row in rows if row.median_ratio is not None]
        typical = f"{geometric_mean(medians):.3f}" if medians else "-"
        shares = [f"{geometric_mean(row.share for row in rows):.0%}"]
        long = [row.share for row in rows if row.bound > BRIEF]
        shares.append(f"{geometric_mean(long):.0%}" if long else "-")
        for chosen in rows, [row for row in rows if row.bound > BRIEF]:
            beside = [row.share_beside for row in chosen if row.share_beside is not None]
            shares.append(f"{geometric_mean(beside):.0%}" if beside else "-")
        lines.append([suite, str(threads), str(len(rows)), ratio, typical, str(len(lost)), *shares, _worst(rows)])
    brief = f"bound > {BRIEF:.0f} us"
    head = ["suite", "threads", "rows", "ratio, mean", "of medians", "lost", "share, mean", f"share, {brief}"]
    head += ["beside, mean", f"beside, {brief}", "worst ratios"]
    return _grid(head, lines)


def _scaling(gains: Sequence[Scaling]) -> list[str]:
    contenders = list(dict.fromkeys(name for each in gains for name in each.gains))
    lines = [
        [
            each.suite,
            str(each.threads),
            str(each.rows),
            *(f"{each.gains[name]:.2f}" if name in each.gains else "-" for name in contenders),
            ", ".join(each.slower),
        ]
        for each in gains
    ]
    return [
        f"Time on one thread over that on several: geometric mean of rows that take more than {LONG:.0f} us on one,",
        "and all rows, short ones included, on which several threads take us at least 5 % longer than one.",
        "",
        *_grid(["suite", "threads", "rows", *contenders, "slower"], lines),
    ]


def _rows(rows: Sequence[Row]) -> list[str]:
    contenders = names(rows)
    lines = []
    for row in rows:
        times = [f"{row.times[name].best:.1f}" if name in row.times else "-" for name in contenders]
        ratio = "-" if row.ratio is None else _bold(f"{row.ratio:.2f}", row.ratio < 1)
        shares = f"{row.share:.0%}", _percent(row.share_beside)
        lines.append([row.id, *times, ratio, f"{row.bound:.1f}", *shares, row.kernel])
    means = [mean_ratio(rows, name) for name in contenders[1:]] + [mean_ratio(rows)]
    if means[-1] is not None:
        texts = ["-" if mean is None else f"{mean:.3f}" for mean in means]
        lines.append(["ratio, geometric mean", "", *texts, "", "", "", ""])
    return _grid(["shape", *contenders, "ratio", "bound", "share", "beside", "kernel"], lines)


def _regrets(regrets: Sequence[Regret]) -> list[str]:
    lines = [
        [r.id, r.chosen, f"{r.chosen_us:.1f}", r.best, f"{r.best_us:.1f}", _bold(f"{r.ratio:.2f}", r.ratio > 1.15)]
        for r in regrets
    ]
    return [
        "Time of the chosen kernel over that of the fastest one; " + regret_summary(regrets) + ".",
        "",
        *_grid(["shape", "chosen", "us", "fastest", "us", "regret"], lines),
    ]


def _figures(figures: Sequence[Figure]) -> list[str]:
    lines = [[f.name, f"{f.value:.2f} {f.unit}", "" if f.target is None else f"{f.target:g}"] for f in figures]
    return _grid(["what", "measured", "target"], lines)
