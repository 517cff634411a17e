"""Vectors of several multiples, put into the order of output channels while they are in registers.

A depthwise convolution with `m` outputs a channel sums up `m` vectors, each of one multiple of some channels; output
channel c * m + k is lane c of vector k. Shuffles of x86 move 32 bits within pieces of 128, or whole pieces: two
vectors take four of these, four vectors twelve (LLVM, shown the order as a whole, takes twenty).
"""

from __future__ import annotations

from llvmlite import ir
from numba.extending import intrinsic

from dwcpu.numba_kernels.tile import I32, lanes_of, packed, unpacked

__all__ = ["interleave"]


@intrinsic
def interleave(typingctx, tile):
    """Tile whose columns hold what those of `tile` do, lane by lane in place of vector by vector.

    Element c * rows + m of a column is lane c of its vector m: the channel order of a depthwise convolution's output.
    """

    def codegen(context, builder, signature, args):
        held = unpacked(builder, tile, args[0])
        for j in range(tile.columns):
            vectors = _interleaved(builder, [held[i, j] for i in range(tile.rows)])
            held.update({(i, j): vector for i, vector in enumerate(vectors)})
        return packed(builder, tile, held)

    return tile(tile), codegen


def _interleaved(builder, vectors):
    """Vectors that hold the lanes of some in turn: at first within pieces of 128 bits, as x86 likes it."""
    count, number = vectors[0].type.count, len(vectors)
    piece = min(count, 4 if vectors[0].type.element == ir.FloatType() else 2)
    pieces = [(i, first) for first in range(0, count, piece) for i in range(number)]
    vectors = _interleaved_pieces(builder, vectors, piece)
    if piece == count:
        return vectors
    here = [pieces[k : k + count // piece] for k in range(0, len(pieces), count // piece)]
    return [_picked(builder, vectors, [(i, first + k) for i, first in each for k in range(piece)]) for each in here]


def _interleaved_pieces(builder, vectors, piece):
    """The same piece by piece: the first vector has the first lanes of each piece, the next one those that follow."""
    count, number = vectors[0].type.count, len(vectors)
    if number == 1:
        return vectors
    if number == 2 or number % 2:
        places = [[divmod(i * piece + k, number)[::-1] for k in range(piece)] for i in range(number)]
        firsts = range(0, count, piece)
        return [_picked(builder, vectors, [(i, f + k) for f in firsts for i, k in each]) for each in places]
    halves = [_interleaved_pieces(builder, vectors[i::2], piece) for i in range(2)]
    return [each for pair in zip(*halves, strict=True) for each in _interleaved_pieces(builder, list(pair), piece)]


def _picked(builder, vectors, places):
    """Vector of lanes of others: of (number of the vector, lane) each."""
    used = sorted({i for i, _ in places})
    whole = vectors[used[0]]
    for i in used[1:]:
        whole = _joined(builder, whole, vectors[i])
    count = vectors[0].type.count
    order = [used.index(i) * count + lane for i, lane in places]
    undefined = ir.Constant(whole.type, ir.Undefined)
    return builder.shuffle_vector(whole, undefined, ir.Constant(ir.VectorType(I32, len(order)), order))


def _joined(builder, first, second):
    """The lanes of two vectors behind each other; the second is no longer than the first."""
    count, more = first.type.count, second.type.count
    wide = lanes_of(builder, second, 0, count)
    order = ir.Constant(ir.VectorType(I32, count + more), list(range(count + more)))
    return builder.shuffle_vector(first, wide, order)
