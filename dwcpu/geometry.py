"""Shapes: padding rules, output sizes, and the work of a convolution.

Every rule about sizes lives here and is checked here once. What comes out is a frozen `ConvGeometry` that everything
below (dispatch, kernels, reference) trusts without looking again. Images are channel-last, ``(N, H, W, C)``; other
layouts are undone before this module is reached.

Error texts read ``operation: what was got; the rule; the fix``. A wrong type is a `TypeError`, a wrong value a
`ValueError`. How users write padding and strides is `padding`'s matter, whose names are at hand here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from math import gcd, prod

from . import shapes
from .padding import Padding, normalise_int, normalise_padding, normalise_padding_1d, normalise_pair

__all__ = [
    "ConvGeometry",
    "Padding",
    "normalise_int",
    "normalise_pair",
    "normalise_padding",
    "normalise_padding_1d",
]

#: Kernels multiply sizes in int64; products below this cannot wrap.
_LARGEST_PRODUCT = 2**62
_LARGEST_ITEMSIZE = 8
#: Inputs that are counted one by one.
_MOST_COUNTED = 10_000


def taps_inside(outputs: int, taps: int, stride: int, dilation: int, pad: int, size: int) -> int:
    """Along one axis: how often a tap of the window lies on an input, over all outputs.

    Transposed convolutions have the same number with inputs and outputs in each other's place.
    """
    return sum(_met(outputs, taps, stride, dilation, pad, size))


def _met(outputs: int, taps: int, stride: int, dilation: int, pad: int, size: int) -> Iterator[int]:
    """Along one axis: for each tap of the window how many outputs have an input there."""
    for place in range(-pad, taps * dilation - pad, dilation):
        yield max(0, min(outputs, (size - 1 - place) // stride + 1) - max(0, -(place // stride)))


def _inputs_read(outputs: int, taps: int, stride: int, dilation: int, pad: int, size: int) -> int:
    """Along one axis: inputs that any output reads; a part of them where it would take long to count them."""
    if (dilation == 1 and stride <= taps) or (stride == 1 and dilation <= outputs):  # without gaps
        last = (outputs - 1) * stride + (taps - 1) * dilation - pad
        return max(0, min(size, last + 1) - max(0, -pad))
    if outputs * taps > _MOST_COUNTED:
        return max(_met(outputs, taps, stride, dilation, pad, size))
    places = {o * stride + k * dilation - pad for o in range(outputs) for k in range(taps)}
    return sum(0 <= place < size for place in places)


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """Every size of one convolution, checked.

    Make one with `ConvGeometry.depthwise`, `.depthwise1d`, `.pointwise` or `.conv`: they validate. Filling in the
    fields by hand does not.

    Attributes
    ----------
    op : {"depthwise", "pointwise", "conv"}
    batch, height, width, in_channels, out_channels : int
        `batch` may be 0; the others are at least 1.
    kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w : int
        At least 1.
    pad_top, pad_bottom, pad_left, pad_right : int
        At least 0.
    groups : int
        1 for pointwise, `in_channels` for depthwise.

    Examples
    --------
    >>> g = ConvGeometry.depthwise((1, 112, 112, 32), (3, 3, 32), stride=2, padding="same")
    >>> g.out_shape, g.multiplier, g.macs
    ((1, 56, 56, 32), 1, 903168)
    """

    op: str
    batch: int
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel_h: int = 1
    kernel_w: int = 1
    stride_h: int = 1
    stride_w: int = 1
    dilation_h: int = 1
    dilation_w: int = 1
    pad_top: int = 0
    pad_bottom: int = 0
    pad_left: int = 0
    pad_right: int = 0
    groups: int = 1

    @classmethod
    def depthwise(
        cls,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        *,
        stride: object = 1,
        padding: object = 0,
        dilation: object = 1,
        operation: str = "depthwise_conv2d",
        names: tuple[str, str] = ("x", "w"),
    ) -> ConvGeometry:
        """Geometry of a depthwise convolution: each input channel has its own M windows.

        Parameters
        ----------
        x_shape : (N, H, W, C)
        w_shape : (KH, KW, C) or (KH, KW, C, M)
            Output channel ``c * M + m`` is input channel `c` seen through window ``w[:, :, c, m]``.
        stride, dilation : int or (int, int)
        padding : see `normalise_padding`
        operation, names : str
            What error texts call the operation, the image and the weights.

        Raises
        ------
        TypeError, ValueError
            If the shapes do not fit, a parameter is out of range or the output would be empty.
        """
        x, w = names
        batch, height, width, channels = shapes.image(x_shape, operation, x)
        if len(w_shape) not in (3, 4):
            fix = f"reshape {w}"
            if len(w_shape) == 2:
                # A layer asks before it has seen an image, as if there were one channel.
                many = f"np.repeat({w}[..., None], {channels if channels > 1 else 'C'}, axis=2)"
                one = f"{w}[..., None], or for C channels " if channels == 1 else ""
                fix = f"repeat one window for all channels, {one}{many}"
                if w_shape[1] == channels:
                    fix += f", or if it is (K, C), pass {w}[None] for windows along rows, {w}[:, None] down columns"
                fix += ", or if it is the matrix of a pointwise convolution, give it as that"
            raise ValueError(
                f"{operation}: {w} has shape {tuple(w_shape)}; it must be (KH, KW, C) or (KH, KW, C, M); {fix}"
            )
        kernel_h, kernel_w, w_channels = w_shape[:3]
        multiplier = w_shape[3] if len(w_shape) == 4 else 1
        shapes.nonempty_weights(w_shape, operation, w)
        if w_channels != channels:
            raise ValueError(
                f"{operation}: {w} has {w_channels} channels but {x} has {channels}; "
                f"the third axis of {w} must equal the channels of {x}" + shapes.windows(tuple(w_shape), x_shape, names)
            )
        return cls._windowed(
            "depthwise", (batch, height, width, channels), channels * multiplier, (kernel_h, kernel_w),
            stride, padding, dilation, channels, operation,
        )  # fmt: skip

    @classmethod
    def depthwise1d(
        cls,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        *,
        stride: object = 1,
        padding: object = 0,
        dilation: object = 1,
        operation: str = "depthwise_conv1d",
        names: tuple[str, str] = ("x", "w"),
    ) -> ConvGeometry:
        """Geometry of a 1-D depthwise convolution, as the 2-D one over an image of height 1.

        Parameters
        ----------
        x_shape : (N, T, C)
        w_shape : (K, C) or (K, C, M)
        stride, dilation : int
        padding : see `normalise_padding_1d`
        operation, names : str
            What error texts call the operation, the image and the weights.

        Raises
        ------
        TypeError, ValueError
            As `depthwise`.

        Examples
        --------
        >>> ConvGeometry.depthwise1d((1, 100, 8), (4, 8), padding="causal").out_shape
        (1, 1, 100, 8)
        """
        x, w = names
        if len(x_shape) != 3:
            raise ValueError(
                f"{operation}: {x} has shape {tuple(x_shape)}; it must be (N, T, C) or (T, C); reshape {x}"
            )
        batch, length, channels = x_shape
        if channels < 1 or length < 1:
            raise ValueError(
                f"{operation}: {x} has {length} steps and {channels} channels; each must be at least 1; enlarge {x}"
            )
        if len(w_shape) not in (2, 3):
            fix = f"reshape {w}"
            if len(w_shape) == 1:
                fix = f"repeat one window for all channels, np.repeat({w}[:, None], {channels}, axis=1)"
            raise ValueError(f"{operation}: {w} has shape {tuple(w_shape)}; it must be (K, C) or (K, C, M); {fix}")
        shapes.nonempty_weights(w_shape, operation, w)
        if w_shape[1] != channels:
            raise ValueError(
                f"{operation}: {w} has {w_shape[1]} channels but {x} has {channels}; "
                f"the second axis of {w} must equal the channels of {x}" + shapes.signal(w_shape, x_shape, names)
            )
        step = normalise_int(stride, "stride", operation)
        spread = normalise_int(dilation, "dilation", operation)
        sides = normalise_padding_1d(padding, length, w_shape[0], step, spread, operation)
        multiplier = w_shape[2] if len(w_shape) == 3 else 1
        return cls._windowed(
            "depthwise", (batch, 1, length, channels), channels * multiplier, (1, w_shape[0]),
            (1, step), ((0, 0), sides), (1, spread), channels, operation,
        )  # fmt: skip

    @classmethod
    def pointwise(
        cls,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        *,
        operation: str = "pointwise_conv2d",
        names: tuple[str, str] = ("x", "w"),
    ) -> ConvGeometry:
        """Geometry of a 1x1 convolution: one matrix product over all pixels.

        Parameters
        ----------
        x_shape : (N, H, W, Cin)
        w_shape : (Cin, Cout)
        operation, names : str
            What error texts call the operation, the image and the weights.

        Raises
        ------
        ValueError
            If the shapes do not fit.

        Examples
        --------
        >>> ConvGeometry.pointwise((1, 7, 7, 320), (320, 1280)).out_shape
        (1, 7, 7, 1280)
        """
        x, w = names
        batch, height, width, channels = shapes.image(x_shape, operation, x)
        if len(w_shape) != 2:
            raise ValueError(
                f"{operation}: {w} has shape {tuple(w_shape)}; it must be (Cin, Cout); {shapes.matrix(w_shape, w)}"
            )
        shapes.nonempty_weights(w_shape, operation, w)
        if w_shape[0] != channels:
            raise ValueError(
                f"{operation}: {w} has {w_shape[0]} input channels but {x} has {channels}; "
                f"the first axis of {w} must equal the channels of {x}" + shapes.turned(w_shape, x_shape, names)
            )
        return cls._windowed(
            "pointwise", (batch, height, width, channels), w_shape[1], (1, 1), (1, 1), 0, (1, 1), 1, operation
        )

    @classmethod
    def conv(
        cls,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        *,
        stride: object = 1,
        padding: object = 0,
        dilation: object = 1,
        groups: object = 1,
        operation: str = "conv2d",
        names: tuple[str, str] = ("x", "w"),
    ) -> ConvGeometry:
        """Geometry of a standard or grouped convolution.

        Parameters
        ----------
        x_shape : (N, H, W, Cin)
        w_shape : (KH, KW, Cin / groups, Cout)
            Output channels ``g * Cout / groups`` and following see input channels ``g * Cin / groups`` and following.
        stride, dilation : int or (int, int)
        padding : see `normalise_padding`
        groups : int
            Must divide Cin and Cout.
        operation, names : str
            What error texts call the operation, the image and the weights.

        Raises
        ------
        TypeError, ValueError
            As `depthwise`.

        Examples
        --------
        >>> ConvGeometry.conv((1, 224, 224, 3), (3, 3, 3, 32), stride=2, padding="same").out_shape
        (1, 112, 112, 32)
        """
        try:
            return cls._conv(x_shape, w_shape, stride, padding, dilation, groups, operation, names)
        except ValueError as error:
            problem = str(error)
        if len(w_shape) == 4 and operation != "dwconv2d":  # which takes PyTorch's order
            with suppress(ValueError):
                turned = w_shape[2], w_shape[3], w_shape[1], w_shape[0]
                cls._conv(x_shape, turned, stride, padding, dilation, groups, operation, names)
                problem += shapes.filters(names[1])
        raise ValueError(problem)

    @classmethod
    def _conv(
        cls,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: object,
        padding: object,
        dilation: object,
        groups: object,
        operation: str,
        names: tuple[str, str],
    ) -> ConvGeometry:
        """As `conv`, without advice."""
        x, w = names
        batch, height, width, channels = shapes.image(x_shape, operation, x)
        if len(w_shape) != 4:
            raise ValueError(
                f"{operation}: {w} has shape {tuple(w_shape)}; it must be (KH, KW, Cin / groups, Cout); reshape {w}"
            )
        kernel_h, kernel_w, per_group, out_channels = w_shape
        shapes.nonempty_weights(w_shape, operation, w)
        parts = normalise_int(groups, "groups", operation)
        if out_channels % parts and channels == per_group * parts:
            raise ValueError(
                f"{operation}: groups is {parts} but {w} has {out_channels} output channels; groups must divide them; "
                f"give {w} {out_channels // parts * parts or parts} or {-(-out_channels // parts) * parts}"
            )
        if channels % parts or out_channels % parts:
            raise ValueError(
                f"{operation}: groups is {parts} but {x} has {channels} channels and {w} has {out_channels} output "
                f"channels; groups must divide both" + shapes.regrouped(w_shape, parts, x_shape, names)
            )
        if per_group * parts != channels:
            raise ValueError(
                f"{operation}: {w} has {per_group} input channels but {x} has {channels} and groups is {parts}; "
                f"the third axis of {w} must equal the channels of {x} divided by groups, {channels // parts}"
                + shapes.regrouped(w_shape, parts, x_shape, names)
            )
        return cls._windowed(
            "conv", (batch, height, width, channels), out_channels, (kernel_h, kernel_w),
            stride, padding, dilation, parts, operation,
        )  # fmt: skip

    @classmethod
    def _windowed(
        cls,
        op: str,
        x_shape: tuple[int, int, int, int],
        out_channels: int,
        window: tuple[int, int],
        stride: object,
        padding: object,
        dilation: object,
        groups: int,
        operation: str,
    ) -> ConvGeometry:
        """The rules common to all operations: strides, padding, output size, magnitudes."""
        batch, height, width, channels = x_shape
        stride_h, stride_w = normalise_pair(stride, "stride", operation)
        dilation_h, dilation_w = normalise_pair(dilation, "dilation", operation)
        (top, bottom), (left, right) = normalise_padding(
            padding, (height, width), window, (stride_h, stride_w), (dilation_h, dilation_w), operation
        )
        geometry = cls(
            op, batch, height, width, channels, out_channels, window[0], window[1], stride_h, stride_w,
            dilation_h, dilation_w, top, bottom, left, right, groups,
        )  # fmt: skip
        for axis, size, taps, step, before, after in (
            ("rows", height, window[0], dilation_h, top, bottom),
            ("columns", width, window[1], dilation_w, left, right),
        ):
            span = (taps - 1) * step + 1
            if size + before + after < span:
                raise ValueError(
                    f"{operation}: the window spans {span} {axis} ({taps} taps, dilation {step}) but the padded image "
                    f"has {size + before + after}; the output would be empty; use more padding or a smaller window"
                )
        images = max(batch, 1)
        elements = max(
            images * height * width * channels,
            images * geometry.out_height * geometry.out_width * out_channels,
            prod(geometry.w_shape),
            # Not memory, but a kernel may form this offset before it finds that it lies in the padding.
            (height + top + bottom) * (width + left + right) * channels,
        )
        macs = geometry.macs if batch else geometry.macs_of(1)
        if elements * _LARGEST_ITEMSIZE >= _LARGEST_PRODUCT or macs >= _LARGEST_PRODUCT:
            raise ValueError(
                f"{operation}: x of shape {x_shape} and w of shape {geometry.w_shape} make {max(elements, macs)} "
                f"elements or operations; 2**62 is the limit; split the work"
            )
        return geometry

    @property
    def out_height(self) -> int:
        """Rows of the output."""
        span = (self.kernel_h - 1) * self.dilation_h + 1
        return (self.height + self.pad_top + self.pad_bottom - span) // self.stride_h + 1

    @property
    def out_width(self) -> int:
        """Columns of the output."""
        span = (self.kernel_w - 1) * self.dilation_w + 1
        return (self.width + self.pad_left + self.pad_right - span) // self.stride_w + 1

    @property
    def multiplier(self) -> int:
        """Outputs per input channel of a depthwise convolution; 1 for the other operations."""
        return self.out_channels // self.in_channels if self.op == "depthwise" else 1

    @property
    def effective_window(self) -> tuple[int, int, int, int]:
        """Window and strides once dilation is dealt with phase by phase: strides divided by what they share with it.

        With g = gcd(stride, dilation), outputs that lie dilation / g apart form a convolution of stride s / g and
        dilation 1 over every dilation-th input.
        """
        shared_h, shared_w = gcd(self.stride_h, self.dilation_h), gcd(self.stride_w, self.dilation_w)
        return self.kernel_h, self.kernel_w, self.stride_h // shared_h, self.stride_w // shared_w

    @property
    def taps(self) -> int:
        """Positions of the window: ``kernel_h * kernel_w``."""
        return self.kernel_h * self.kernel_w

    @property
    def repeated(self) -> ConvGeometry:
        """Of a depthwise one: the same with one output a channel, of inputs that stand there `multiplier` times."""
        return replace(self, in_channels=self.out_channels, groups=self.out_channels)

    @property
    def parts(self) -> tuple[ConvGeometry, ...]:
        """Itself: fused operations have several."""
        return (self,)

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        """``(N, H, W, C)`` of the input."""
        return self.batch, self.height, self.width, self.in_channels

    @property
    def w_shape(self) -> tuple[int, ...]:
        """Depthwise ``(KH, KW, C, M)``, always with M; pointwise ``(Cin, Cout)``; conv ``(KH, KW, Cin / g, Cout)``."""
        if self.op == "depthwise":
            return self.kernel_h, self.kernel_w, self.in_channels, self.multiplier
        if self.op == "pointwise":
            return self.in_channels, self.out_channels
        return self.kernel_h, self.kernel_w, self.in_channels // self.groups, self.out_channels

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """``(N, OH, OW, Cout)`` of the output."""
        return self.batch, self.out_height, self.out_width, self.out_channels

    @property
    def macs(self) -> int:
        """Multiply-adds, taps on padding counted like the others (the usual way of counting)."""
        return self.macs_of(self.batch)

    def macs_of(self, batch: int) -> int:
        """Multiply-adds for another batch size."""
        per_output = self.taps * (self.in_channels // self.groups)
        return batch * self.out_height * self.out_width * self.out_channels * per_output

    @property
    def flops(self) -> int:
        """Floating-point operations that have to be done: two for each tap of the window that lies on the image."""
        taps = prod(taps_inside(*axis) for axis in self._axes)
        return 2 * self.batch * taps * self.out_channels * (self.in_channels // self.groups)

    @property
    def pixels_read(self) -> int:
        """Pixels of an image that lie under any window: strides may leave some out."""
        return prod(_inputs_read(*axis) for axis in self._axes)

    @property
    def weights_read(self) -> int:
        """Weights whose taps lie on the image for any output."""
        taps = prod(sum(outputs > 0 for outputs in _met(*axis)) for axis in self._axes)
        return taps * self.out_channels * (self.in_channels // self.groups)

    def bytes(self, itemsize: int) -> int:
        """Bytes that have to move at least: of input and weights what is needed, read once, output written once."""
        image = self.batch * self.pixels_read * self.in_channels
        return itemsize * (image + self.weights_read + prod(self.out_shape))

    @property
    def _axes(self) -> tuple[tuple[int, int, int, int, int, int], ...]:
        return (
            (self.out_height, self.kernel_h, self.stride_h, self.dilation_h, self.pad_top, self.height),
            (self.out_width, self.kernel_w, self.stride_w, self.dilation_w, self.pad_left, self.width),
        )
