"""Weights that a kernel would wait for, asked for by the kernels before it.

A matrix product of one pixel, such as a classifier, uses each weight once: it takes as long as memory needs to deliver
them, three times as long as from the L3 cache. Products of many pixels before it leave memory idle meanwhile, and each
of their tiles has instructions that ask for cache lines anyway. `Pass.room` says how many bytes they can ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pipeline import Pass

__all__ = ["asking"]


def asking(passes: Sequence[Pass]) -> list[Pass]:
    """The passes of a pipeline, in order, with plans that ask for what later ones await.

    What a pass awaits is shared out backwards: the pass right before it asks for as many of the last weights as it has
    room for, the one before that for those in front of them. A pass asks for weights of one other at most.
    """
    result = list(passes)
    for at, awaiting in enumerate(passes):
        address, size = awaiting.awaited
        for before in range(at - 1, -1, -1):
            host = passes[before]
            some = min(size, host.room)
            if host.asking is None or result[before] is not host or some == 0:
                continue
            size -= some
            result[before] = host.asking(host, address + size, some)
    return result
