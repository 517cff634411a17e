"""Tables of a network's layers: what runs, how long it takes, how near that is to the machine's peak."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["LayerRow", "Report"]

#: What the small kernels of networks from files do, where the name alone leaves it open.
LEGEND = {
    "view": "nothing to do, results lie where they are needed",
    "constant": "known beforehand",
    "shape": "sizes, known beforehand",
    "copy": "elements are moved, nothing is computed",
    "map": "one number times every element plus another, or an activation alone",
    "scale": "a factor for every channel",
    "products": "of matrices that are both computed",
    "transposed": "a transposed convolution",
    "numpy": "no kernel of ours, NumPy does it",
    "values": "shapes depend on values: computed node by node, when these are known",
}


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes
    ----------
    name, kernel : str
        The layer, and what computes it.
    in_shape, out_shape : tuple of int
    flops, bytes : int
        Work and least memory traffic.
    bound_us : float or None
        Microseconds that the layer would take at the machine's limit, where that is known.
    microseconds, gflops, share : float or None
        Time, speed, and speed as a share of the machine's peak; None before timing.
    """

    name: str
    kernel: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    flops: int
    bytes: int
    bound_us: float | None = None
    microseconds: float | None = None
    gflops: float | None = None
    share: float | None = None

    def timed(self, seconds: float, peak: float | None) -> LayerRow:
        """The same row with its time in; `peak` in GFLOP/s."""
        gflops = self.flops / max(seconds, 1e-9) / 1e9
        return replace(self, microseconds=seconds * 1e6, gflops=gflops, share=gflops / peak if peak else None)


@dataclass(frozen=True)
class Report:
    """The layers of a network in order. `str()` of it is a table.

    Attributes
    ----------
    title : str
    rows : tuple of LayerRow
    peak : float or None
        GFLOP/s of fused multiply-adds that this machine reached, where it was measured.
    memory : (int, int) or None
        Bytes of the arena in which all results between layers and all scratch of kernels find a place, and their sum.
    """

    title: str
    rows: tuple[LayerRow, ...]
    peak: float | None = None
    memory: tuple[int, int] | None = None

    @property
    def total(self) -> LayerRow:
        """All layers together."""
        rows = self.rows
        timed = all(row.microseconds is not None for row in rows)
        bounds = [row.bound_us for row in rows if row.bound_us is not None]
        total = LayerRow(
            "total",
            "",
            rows[0].in_shape if rows else (),
            rows[-1].out_shape if rows else (),
            sum(row.flops for row in rows),
            sum(row.bytes for row in rows),
            sum(bounds) if bounds else None,
        )
        if rows and timed:
            total = total.timed(sum(row.microseconds or 0.0 for row in rows) / 1e6, self.peak)
        return total

    def __str__(self) -> str:
        total = self.total
        timed = total.microseconds is not None
        head = ["layer", "output", "kernel", "MFLOP"]
        head += ["us", "GFLOP/s", "of peak"] if timed else ["MB", "bound us"]
        lines = [head]
        for row in (*self.rows, total):
            cells = [
                row.name,
                "x".join(map(str, row.out_shape[1:])) if row is not total else "",
                row.kernel,
                f"{row.flops / 1e6:.2f}",
            ]
            if timed:
                cells += [
                    f"{row.microseconds:.0f}" if row.microseconds is not None else "",
                    f"{row.gflops:.1f}" if row.gflops is not None else "",
                    f"{row.share:.0%}" if row.share is not None else "",
                ]
            else:
                cells += [f"{row.bytes / 1e6:.2f}", f"{row.bound_us:.0f}" if row.bound_us is not None else ""]
            lines.append(cells)
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        text = [self.title]
        for number, line in enumerate(lines):
            left = [cell.ljust(width) for cell, width in zip(line[:3], widths[:3], strict=True)]
            right = [cell.rjust(width) for cell, width in zip(line[3:], widths[3:], strict=True)]
            if number in {1, len(lines) - 1}:
                text.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
            text.append("  ".join(left + right).rstrip())
        if self.peak is not None:
            text.append(f"peak: {self.peak:.1f} GFLOP/s of fused multiply-adds, measured now")
        if self.memory is not None:
            arena, values = (f"{size / 1e6:.2f} MB" for size in self.memory)
            more = f" in place of {values}" if values != arena else ""
            text.append(f"memory between layers: one arena of {arena}{more}")
        if any("+" in row.name for row in self.rows):
            text.append("a+b: done together; activations, normalisations and sums that went into a kernel have no name")
        kernels = {part for row in self.rows for part in row.kernel.split(", ")}
        text += [f"{kernel}: {meaning}" for kernel, meaning in LEGEND.items() if kernel in kernels]
        return "\n".join(text)
