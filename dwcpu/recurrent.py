"""Recurrences along sequences, on compiled kernels: see `cython_kernels/recurrent.pxi`."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import runtime
from .dispatch import choose
from .geometry import ConvGeometry
from .pixels import PixelKernel, made

__all__ = ["Recurrence"]

#: Bytes of sums, of the sequences that go step by step together: they stay in L1 or are near it.
_SUM_BYTES = 1 << 16
#: Sequences at least, so that tiles are tall.
_SEQUENCES = 32


class Recurrence:
    """What goes from step to step, of weights that are known.

    Parameters
    ----------
    kind : {"rnn", "lstm", "gru", "gru_before"}
        The last resets states before their product for the third gate.
    r : ndarray, shape (directions, H, gates * H)
    bias : ndarray, shape (directions, gates * H)
        Of the products of states.
    backwards : int
        The first of the directions that go from the end to the beginning.
    """

    def __init__(self, kind: str, r: np.ndarray, bias: np.ndarray, backwards: int) -> None:
        self._kind, self._backwards = kind, backwards
        self._size, self._gates = r.shape[1:]
        self._dtype, self._sides = r.dtype, len(r)
        first = self._gates - self._size if kind == "gru_before" else self._gates
        parts = [slice(first)] + [slice(first, None)] * (first < self._gates)
        #: Weights, bias and packed weights of each product, and of each direction.
        self._products: list[list[tuple[np.ndarray, np.ndarray, dict[Any, Any]]]] = [
            [
                (np.ascontiguousarray(w[:, part]), np.ascontiguousarray(b[part]), {})
                for w, b in zip(r, bias, strict=True)
            ]
            for part in parts
        ]

    def kernel(self, steps: int, sequences: int, threads: int) -> PixelKernel | None:
        """What a pipeline runs for so many steps of so many sequences; None where there are no compiled kernels.

        It reads (steps, sequences, directions, gates * H), what inputs give for each gate, and, in place of a residual,
        the states, and cells, to begin with. It writes (steps + 1, directions, sequences, H), the last of which are
        the states at the end; of an LSTM one more, its cells.
        """
        if runtime.cython_kernels() is None:
            return None
        size, gates, sides = self._size, self._gates, self._sides
        most = max(_SEQUENCES, _SUM_BYTES // (gates * self._dtype.itemsize))
        groups = max(-(-sequences // most), min(-(-threads // sides), sequences))
        together = -(-sequences // groups)
        plans, blocks, kept, address = [], [], [], 0
        for sides_of in self._products:
            rows = []
            for w, bias, packed in sides_of:
                geometry = ConvGeometry.pointwise((1, 1, together, size), w.shape)
                prepared = choose(geometry, self._dtype, 1, "cython").prepare(geometry, w, bias, packed=packed)
                (each,) = prepared.passes(1)
                rows.append(each.plan)
                kept.append(each)
            address = each.kernel
            plans.append(np.concatenate(rows))
            blocks.append(each.grid.blocks)
        fields: dict[str, Any] = {
            "height": steps, "width": sequences, "groups": sides, "in_channels": size, "out_channels": gates,
            "pad_top": self._backwards, "block_rows": together, "pointwise_kernel": address,
            "pointwise_plan": plans[0].ctypes.data, "pointwise_blocks": blocks[0],
            "expand_plan": plans[-1].ctypes.data, "expand_blocks": blocks[-1],
        }  # fmt: skip
        scratch = together * (gates + (size if len(plans) > 1 else 0)) * self._dtype.itemsize
        states = steps + 1 + (self._kind == "lstm")
        return made(
            self._kind, self._dtype, (steps, sequences, sides, gates), (states, sides, sequences, size),
            sides * -(-sequences // together), fields, (plans, kept), scratch=scratch,
            flops=2 * steps * sequences * sides * gates * size,
        )  # fmt: skip
