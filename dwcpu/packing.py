"""Weights in the order in which kernels read them, padded so that kernels only ever load whole vectors.

Two layouts, each described at its function; `dispatch` asks for them with the sizes of the kernel's tile.
"""

from __future__ import annotations

import numpy as np

from . import pages
from .abi import panel_widths

__all__ = ["depthwise_panels", "gemm_panels"]


def _lasting(count: int, dtype: np.dtype) -> np.ndarray:
    return pages.lasting(count * dtype.itemsize).view(dtype)


def _packed(*pieces: np.ndarray) -> np.ndarray:
    """The pieces, flattened and one after the other, in aligned memory."""
    result = _lasting(sum(piece.size for piece in pieces), pieces[0].dtype)
    first = 0
    for piece in pieces:
        result[first : first + piece.size].reshape(piece.shape)[...] = piece
        first += piece.size
    return result


def depthwise_panels(w: np.ndarray, bias: np.ndarray | None, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """Depthwise weights by channel vector: ``[block][kh][kw][m][lane]`` and bias ``[block][m][lane]``.

    Block b starts at channel ``min(b * lanes, C - lanes)``: the last one slides back over its neighbour instead of
    being padded, so that kernels load and store whole vectors of the image too. Fewer channels than lanes make one
    block, padded with zeros.

    Parameters
    ----------
    w : ndarray, shape (KH, KW, C, M)
    bias : ndarray, shape (C * M,), or None
        None is zeros.
    lanes : int
        Channels in a vector.

    Returns
    -------
    weights, bias : 1-D ndarrays

    Examples
    --------
    >>> import numpy as np
    >>> w = np.arange(3.0).reshape(1, 1, 3, 1)
    >>> depthwise_panels(w, None, 2)[0]
    array([0., 1., 1., 2.])
    """
    channels, multiplier = w.shape[2:]
    rows = np.zeros((channels, multiplier), w.dtype) if bias is None else bias.reshape(channels, multiplier)
    if channels < lanes:
        w = np.pad(w, ((0, 0), (0, 0), (0, lanes - channels), (0, 0)))
        rows = np.pad(rows, ((0, lanes - channels), (0, 0)))
        channels = lanes
    starts = np.minimum(np.arange(0, channels, lanes), channels - lanes)
    members = starts[:, None] + np.arange(lanes)
    return _packed(w[:, :, members].transpose(2, 0, 1, 4, 3)), _packed(rows[members].transpose(0, 2, 1))


def gemm_panels(
    w: np.ndarray, bias: np.ndarray | None, outputs: int, lanes: int, vectors: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a matrix product in panels of output channels, group by group, as wide as `panel_widths` says.

    Each panel is ``[tap, input channel][width]``. Channels that the last vector of a group lacks are zero; so is their
    bias. The last group has what channels are left.

    Parameters
    ----------
    w : ndarray, shape (KH, KW, Cin / groups, Cout) or (Cin, Cout)
    bias : ndarray, shape (Cout,), or None
        None is zeros.
    outputs, lanes, vectors : int
        Channels of a group, of a vector, and vectors of a panel.

    Returns
    -------
    weights, bias : 1-D ndarrays

    Examples
    --------
    >>> import numpy as np
    >>> gemm_panels(np.arange(6.0).reshape(2, 3), None, 3, 2, 1)[0]
    array([0., 1., 3., 4., 2., 0., 5., 0.])
    """
    rows = w.reshape(-1, w.shape[-1])
    groups = [(start, min(start + outputs, rows.shape[1])) for start in range(0, rows.shape[1], outputs)]
    padded = sum(-(-(end - start) // lanes) * lanes for start, end in groups)
    weights, packed_bias = _lasting(rows.shape[0] * padded, w.dtype), _lasting(padded, w.dtype)
    packed_bias[:] = 0
    first = place = 0
    for start, end in groups:
        if bias is not None:
            packed_bias[place : place + end - start] = bias[start:end]
        column = start
        for wide in panel_widths(end - start, lanes, vectors):
            columns, filled = wide * lanes, min(wide * lanes, end - column)
            panel = weights[first : first + rows.shape[0] * columns].reshape(rows.shape[0], columns)
            panel[:, :filled] = rows[:, column : column + filled]
            panel[:, filled:] = 0
            first += panel.size
            place += columns
            column += columns
    return weights, packed_bias
