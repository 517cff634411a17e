"""The operators, one file for each sort; `registry` has the table, and says how they are written."""

from __future__ import annotations

from . import convolution, elementwise, indexing, moving, pooling, reducing, resizing
from .registry import OPERATORS, OURS, Operator, check_size

__all__ = [
    "OPERATORS",
    "OURS",
    "Operator",
    "check_size",
    "convolution",
    "elementwise",
    "indexing",
    "moving",
    "pooling",
    "reducing",
    "resizing",
]
