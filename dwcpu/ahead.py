"""Weights that a kernel would wait for, asked for by the kernels before it.

Matrix products leave memory idle, and each of their tiles has instructions that ask for cache lines. The last panel has
no next one to ask for: its tiles ask for what the next kernel reads first, before anybody else could. And a product of
one pixel, such as a classifier, uses each weight once: it takes as long as memory needs to deliver them, three times as
long as from the L3 cache. Tiles of panels between the first and the last, if more than ask for the next panel, ask for
those. `Pass.room` says how many bytes there is time for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pipeline import Pass, Span

__all__ = ["asking"]


def asking(passes: Sequence[Pass]) -> list[Pass]:
    """The passes of a pipeline, in order, with plans that ask for what later ones wait for.

    What a pass awaits, all of its weights, is shared out backwards: the pass right before it asks for as many of the
    last weights as it has room for, the one before that for those in front of them. A pass asks for weights of one
    other at most, besides those of the next.
    """
    awaited = [each.awaited for each in passes]
    later: dict[int, Span] = {}
    soon: dict[int, Span] = {}
    for at, host in enumerate(passes):
        after = next((number for number in range(at + 1, len(passes)) if passes[number].reads.size), None)
        if host.asking is None or after is None or host.room.soon == 0:
            continue
        if awaited[after].size:
            awaited[after], soon[at] = awaited[after].parted(host.room.soon)
        else:
            soon[at] = passes[after].reads.begun(host.room.soon)
    for at, rest in enumerate(awaited):
        for before in range(at - 1, -1, -1):
            host = passes[before]
            if host.asking is not None and before not in later and min(rest.size, host.room.later) > 0:
                rest, later[before] = rest.parted(host.room.later)
    return [
        each
        if each.asking is None or not (at in later or at in soon)
        else each.asking(each, later.get(at), soon.get(at))
        for at, each in enumerate(passes)
    ]
