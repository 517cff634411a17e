"""Transposed convolutions of images, on compiled kernels: see `cython_kernels/transposed.pxi`."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import runtime
from .dispatch import choose
from .epilogue import Activation
from .geometry import ConvGeometry, taps_inside
from .pixels import LINE, PixelKernel, epilogue, made

__all__ = ["TransposedConv"]


class TransposedConv:
    """A transposed convolution with fixed weights.

    Parameters
    ----------
    w : ndarray, shape (Cin, KH, KW, Cout), or (KH, KW, C) for a depthwise one
    bias : ndarray, shape (Cout,), optional
    activation : Activation
    """

    def __init__(self, w: np.ndarray, bias: np.ndarray | None, activation: Activation) -> None:
        self._w, self._activation = np.ascontiguousarray(w), activation
        self._bias = np.zeros(w.shape[-1], w.dtype) if bias is None else np.array(bias, w.dtype)
        self._packed: dict[Any, Any] = {}

    def kernel(
        self,
        x_shape: tuple[int, ...],
        outputs: tuple[int, int],
        stride: tuple[int, int],
        dilation: tuple[int, int],
        begin: tuple[int, int],
    ) -> PixelKernel | None:
        """What a pipeline runs for images (N, H, W, Cin); None where there are no compiled kernels.

        Parameters
        ----------
        x_shape : tuple of int
        outputs : (int, int)
            Rows and columns of the result.
        stride, dilation : (int, int)
        begin : (int, int)
            How many rows and columns are cut off before the first.
        """
        if runtime.cython_kernels() is None:
            return None
        dtype, depthwise = self._w.dtype, self._w.ndim == 3
        kernel_h, kernel_w, channels = self._w.shape[-3:]
        batch, height, width, in_channels = x_shape
        fields: dict[str, Any] = {
            "height": height, "width": width, "in_channels": in_channels, "out_channels": channels,
            "out_height": outputs[0], "out_width": outputs[1], "kernel_h": kernel_h, "kernel_w": kernel_w,
            "stride_h": stride[0], "stride_w": stride[1], "dilation_h": dilation[0], "dilation_w": dilation[1],
            "pad_top": begin[0], "pad_left": begin[1], "bias": self._bias.ctypes.data,
        }  # fmt: skip
        fields |= epilogue(dtype, self._activation)
        products = kernel_h * kernel_w * channels
        rows, columns = (
            taps_inside(inputs, taps, stride[axis], dilation[axis], begin[axis], outputs[axis])
            for axis, (inputs, taps) in enumerate(((height, kernel_h), (width, kernel_w)))
        )
        flops = 2 * batch * rows * columns * channels * (1 if depthwise else in_channels)
        kept: tuple[Any, ...] = self._w, self._bias
        scratch = 0
        if depthwise:
            fields["weights"] = self._w.ctypes.data
        else:
            geometry = ConvGeometry.pointwise(x_shape, (in_channels, products))
            kernel = choose(geometry, dtype, 1, "cython")
            prepared = kernel.prepare(geometry, self._w.reshape(in_channels, products), packed=self._packed)
            (each,) = prepared.passes(1)
            row = -(-width * products // LINE) * LINE
            # how far rows of x reach that belong to one output, which are neighbours
            rows = min((kernel_h - 1) * dilation[0] // stride[0] + 1, height)
            fields |= {
                "pointwise_kernel": each.kernel, "pointwise_plan": each.plan.ctypes.data,
                "pointwise_blocks": each.grid.blocks, "window_size": row, "block_rows": rows,
            }  # fmt: skip
            scratch = rows * (row * dtype.itemsize + np.dtype(np.int64).itemsize)
            kept = self._bias, each
        name = "transposed_depthwise" if depthwise else "transposed"
        out_shape = (batch, *outputs, channels)
        return made(
            name, dtype, x_shape, out_shape, batch * outputs[0], fields, kept, scratch=scratch, flops=flops
        )  # fmt: skip
