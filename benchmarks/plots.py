"""Figures of a run: every shape under the roofline, and how many times as fast as the best peer each one is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from results import Results, Row

__all__ = ["check", "draw"]

_COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink")


def check(path: Path) -> None:
    """Refuse what cannot be drawn before anything is measured."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"--plot {path}: the name must end in .png")
    try:
        import matplotlib  # noqa: F401  (only asked whether it is there)
    except ImportError as error:
        raise ValueError(f"--plot needs matplotlib ({error}): pip install 'dwcpu[bench]'") from error


def draw(results: Results, path: Path) -> list[Path]:
    """Draw the figures, one of ratios for each thread count, and return their names; none where nothing was raced."""
    figures = {"roofline": _roofline(results)}
    for threads in sorted({row.threads for row in results.rows}):
        figures["speedup" if threads == 1 else f"speedup-{threads}-threads"] = _speedup(results, threads)
    made = []
    for name, figure in figures.items():
        if figure is not None:
            made.append(path.with_name(f"{path.stem}-{name}.png"))
            figure.savefig(made[-1], dpi=110)
    return made


def _figure(width: float, height: float, columns: int) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def _roofline(results: Results) -> Any:
    """GFLOP/s over FLOPs per byte, one panel for each thread count, with the ceilings that were measured."""
    limits = [each for each in results.limits if any(row.threads == each.threads for row in results.rows)]
    if not limits:
        return None
    suites = list(dict.fromkeys(row.suite for row in results.rows))
    figure, panels = _figure(8 * len(limits), 6, len(limits))
    for axes, limit in zip(panels, limits, strict=True):
        rows = [row for row in results.rows if row.threads == limit.threads]
        intensities = [row.flops / row.bytes for row in rows]
        low, high = min(intensities) / 2, max(intensities) * 2
        (peaks, *_) = limit.gflops.values()
        peak = max(peaks.values())
        for level, bandwidth in limit.gigabytes.items():
            axes.plot([low, peak / bandwidth], [low * bandwidth, peak], color="0.6", linewidth=1)
            axes.annotate(level, (low, low * bandwidth), fontsize=8, color="0.3")
        for bits, value in peaks.items():
            axes.axhline(value, color="0.6", linewidth=1)
            axes.annotate(f"{bits}-bit FMA", (high, value), fontsize=8, color="0.3", ha="right", va="bottom")
        for suite, color in zip(suites, _COLORS, strict=False):
            points = [(row.flops / row.bytes, row.gflops) for row in rows if row.suite == suite]
            if points:
                axes.scatter(*zip(*points, strict=True), s=14, color=color, label=suite)
        axes.set(xscale="log", yscale="log", xlim=(low, high), xlabel="FLOPs per byte", ylabel="GFLOP/s")
        axes.set_title(f"Roofline, {limit.threads} thread{'s' * (limit.threads != 1)}")
        axes.legend(fontsize=8)
    return figure


def _speedup(results: Results, threads: int) -> Any:
    """A bar for each shape, as long as its ratio to the best peer, sorted; one panel for each suite."""
    tables: list[tuple[str, list[Row]]] = [
        (suite, [row for row in rows if row.ratio is not None])
        for suite, count, rows in results.tables()
        if count == threads
    ]
    tables = [table for table in tables if table[1]]
    if not tables:
        return None
    tallest = max(len(rows) for _, rows in tables)
    figure, panels = _figure(5.5 * len(tables), max(3.0, 0.16 * tallest + 1.5), len(tables))
    for axes, (suite, rows) in zip(panels, tables, strict=True):
        ordered = sorted(rows, key=lambda row: row.ratio or 0.0)
        ratios = [row.ratio or 0.0 for row in ordered]
        bars = axes.barh(
            [row.id for row in ordered], ratios, color=["tab:red" if r < 1 else "tab:blue" for r in ratios]
        )
        axes.bar_label(bars, [f"{row.ratio:.2f} {row.best_peer}" for row in ordered], padding=2, fontsize=5.5)
        axes.axvline(1, color="0.3", linewidth=1)
        axes.tick_params(axis="y", labelsize=5.5)
        axes.margins(x=0.2, y=0.005)
        axes.set_xlabel("best peer's time / ours")
        axes.set_title(f"{suite}, {threads} thread{'s' * (threads != 1)}", fontsize=10)
    return figure
