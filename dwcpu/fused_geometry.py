"""Shapes of operations of several steps: what `geometry` is to one convolution, for the fused ones.

Each step is a checked `ConvGeometry`, made for what the step before it gives; no rule about sizes is written here.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from . import shapes
from .geometry import ConvGeometry

__all__ = ["Geometry", "InvertedResidualGeometry", "SeparableGeometry"]


class _Fused:
    """What operations of several steps have in common: `parts` are their steps, each taking what the last one gives."""

    __slots__ = ()

    @property
    def parts(self) -> tuple[ConvGeometry, ...]:
        """The steps."""
        raise NotImplementedError  # by each subclass

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        """``(N, H, W, C)`` of the input."""
        return self.parts[0].x_shape

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """``(N, OH, OW, Cout)`` of the output."""
        return self.parts[-1].out_shape

    @property
    def batch(self) -> int:
        """Images in the batch."""
        return self.parts[0].batch

    @property
    def macs(self) -> int:
        """Multiply-adds of all steps."""
        return sum(part.macs for part in self.parts)

    @property
    def flops(self) -> int:
        """Floating-point operations that have to be done, in all steps: taps on padding are none."""
        return sum(part.flops for part in self.parts)

    @property
    def pixels_read(self) -> int:
        """Pixels of an image that are needed."""
        return self.parts[0].pixels_read

    def bytes(self, itemsize: int) -> int:
        """Bytes that have to move at least; the images between the steps need not leave the cache."""
        weights = sum(part.weights_read for part in self.parts)
        image = self.batch * self.pixels_read * self.parts[0].in_channels
        return itemsize * (image + weights + prod(self.out_shape))


@dataclass(frozen=True, slots=True)
class SeparableGeometry(_Fused):
    """A depthwise convolution followed by a pointwise one, seen as one operation.

    Attributes
    ----------
    depthwise, pointwise : ConvGeometry
        The second takes what the first gives.

    Examples
    --------
    >>> g = SeparableGeometry.of((1, 56, 56, 128), (3, 3, 128), (128, 256), stride=2, padding=1)
    >>> g.out_shape
    (1, 28, 28, 256)
    """

    depthwise: ConvGeometry
    pointwise: ConvGeometry

    @classmethod
    def of(
        cls,
        x_shape: tuple[int, ...],
        dw_shape: tuple[int, ...],
        pw_shape: tuple[int, ...],
        *,
        stride: object = 1,
        padding: object = 0,
        dilation: object = 1,
        operation: str = "separable_conv2d",
        names: tuple[str, str, str] = ("x", "dw", "pw"),
    ) -> SeparableGeometry:
        """Geometry from the shapes of the image, the depthwise and the pointwise weights.

        Parameters
        ----------
        x_shape : (N, H, W, C)
        dw_shape : (KH, KW, C) or (KH, KW, C, M)
        pw_shape : (C * M, Cout)
        stride, padding, dilation
            Of the depthwise step.
        operation, names : str
            What error texts call the operation, the image and the weights.

        Raises
        ------
        TypeError, ValueError
            If the shapes do not fit, a parameter is out of range or the output would be empty.
        """
        x, dw, pw = names
        depthwise = ConvGeometry.depthwise(
            x_shape, dw_shape, stride=stride, padding=padding, dilation=dilation, operation=operation, names=(x, dw)
        )
        shapes.turned_windows(dw_shape, pw_shape, depthwise.out_channels, operation, (dw, pw))
        between = f"the output of {dw}"
        return cls(
            depthwise, ConvGeometry.pointwise(depthwise.out_shape, pw_shape, operation=operation, names=(between, pw))
        )

    @property
    def op(self) -> str:
        """Always "separable"."""
        return "separable"

    @property
    def parts(self) -> tuple[ConvGeometry, ...]:
        """Both steps."""
        return self.depthwise, self.pointwise


@dataclass(frozen=True, slots=True)
class InvertedResidualGeometry(_Fused):
    """A pointwise convolution that widens, and the separable one that follows it, seen as one operation.

    Attributes
    ----------
    expand : ConvGeometry
    separable : SeparableGeometry
        Takes what `expand` gives.

    Examples
    --------
    >>> g = InvertedResidualGeometry.of((1, 14, 14, 64), (64, 384), (3, 3, 384), (384, 96), padding="same")
    >>> g.out_shape
    (1, 14, 14, 96)
    """

    expand: ConvGeometry
    separable: SeparableGeometry

    @classmethod
    def of(
        cls,
        x_shape: tuple[int, ...],
        expand_shape: tuple[int, ...],
        dw_shape: tuple[int, ...],
        project_shape: tuple[int, ...],
        *,
        stride: object = 1,
        padding: object = 0,
        dilation: object = 1,
        operation: str = "inverted_residual",
    ) -> InvertedResidualGeometry:
        """Geometry from the shapes of the image and of the three weights; the rest as in `SeparableGeometry.of`."""
        expand = ConvGeometry.pointwise(x_shape, expand_shape, operation=operation, names=("x", "expand"))
        separable = SeparableGeometry.of(
            expand.out_shape,
            dw_shape,
            project_shape,
            stride=stride,
            padding=padding,
            dilation=dilation,
            operation=operation,
            names=("the output of expand", "dw", "project"),
        )
        return cls(expand, separable)

    @property
    def op(self) -> str:
        """Always "inverted_residual"."""
        return "inverted_residual"

    @property
    def parts(self) -> tuple[ConvGeometry, ...]:
        """All three steps."""
        return self.expand, *self.separable.parts

    @property
    def pixels_read(self) -> int:
        """Pixels of an image that are needed, and expanded: those that the depthwise step reads."""
        return self.separable.pixels_read

    @property
    def flops(self) -> int:
        """As in `SeparableGeometry`, and two for each multiply-add that expands a pixel which is read."""
        pixels = self.expand.height * self.expand.width
        return self.expand.flops * self.pixels_read // pixels + self.separable.flops


#: What a kernel computes.
Geometry = ConvGeometry | SeparableGeometry | InvertedResidualGeometry
