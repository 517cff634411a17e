"""Cost of a standard convolution against that of the separable one in its place."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from .fused_geometry import SeparableGeometry
from .geometry import ConvGeometry
from .padding import normalise_int, normalise_pair

__all__ = ["CostComparison", "compare_cost"]


@dataclass(frozen=True, slots=True)
class CostComparison:
    """Parameters and multiply-adds of a standard convolution and of the separable one that replaces it.

    Attributes
    ----------
    standard_parameters, separable_parameters : int
        Weights, without biases.
    standard_macs, separable_macs : int
        Multiply-adds for one image.
    """

    standard_parameters: int
    separable_parameters: int
    standard_macs: int
    separable_macs: int

    @property
    def ratio(self) -> float:
        """Separable over standard: ``1 / out_channels + 1 / (kernel_h * kernel_w)``, for weights and for MACs alike."""
        return self.separable_macs / self.standard_macs

    def __str__(self) -> str:
        rows = (
            ("", "parameters", "MACs"),
            ("standard", f"{self.standard_parameters:,}", f"{self.standard_macs:,}"),
            ("separable", f"{self.separable_parameters:,}", f"{self.separable_macs:,}"),
            ("ratio", f"{self.separable_parameters / self.standard_parameters:.4f}", f"{self.ratio:.4f}"),
        )
        wide = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(f"{a:<{wide[0]}}  {b:>{wide[1]}}  {c:>{wide[2]}}" for a, b, c in rows)


def compare_cost(
    height: int, width: int, in_channels: int, out_channels: int, kernel_size: object, stride: object = 1
) -> CostComparison:
    """What a separable convolution saves, with "same" padding.

    Parameters
    ----------
    height, width, in_channels, out_channels : int
        Of one input image, and the channels to make of it.
    kernel_size, stride : int or (int, int)

    Returns
    -------
    CostComparison
        It prints as a small table.

    Raises
    ------
    TypeError, ValueError
        If an argument is no integer of at least 1.

    Examples
    --------
    >>> import dwcpu
    >>> cost = dwcpu.compare_cost(56, 56, 128, 128, kernel_size=3)
    >>> cost.standard_macs, cost.separable_macs
    (462422016, 54992896)
    >>> round(cost.ratio, 4) == round(1 / 128 + 1 / 9, 4)
    True
    """
    operation = "compare_cost"
    sizes = [
        normalise_int(value, what, operation)
        for value, what in (
            (height, "height"),
            (width, "width"),
            (in_channels, "in_channels"),
            (out_channels, "out_channels"),
        )
    ]
    window = normalise_pair(kernel_size, "kernel_size", operation)
    x_shape = (1, sizes[0], sizes[1], sizes[2])
    standard = ConvGeometry.conv(
        x_shape, (*window, sizes[2], sizes[3]), stride=stride, padding="same", operation=operation
    )
    separable = SeparableGeometry.of(
        x_shape, (*window, sizes[2]), (sizes[2], sizes[3]), stride=stride, padding="same", operation=operation
    )
    return CostComparison(
        prod(standard.w_shape),
        prod(separable.depthwise.w_shape) + prod(separable.pointwise.w_shape),
        standard.macs,
        separable.macs,
    )
