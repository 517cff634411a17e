"""The operators, one file for each sort; `registry` has the table, and says how they are written."""

from __future__ import annotations

from . import branching, convolution, detecting, elementwise, indexing, moving, pooling, recurrent, reducing, resizing
from .registry import OPERATORS, OURS, Operator, check_size

__all__ = [
    "OPERATORS",
    "OURS",
    "Operator",
    "branching",
    "check_size",
    "convolution",
    "detecting",
    "elementwise",
    "indexing",
    "moving",
    "pooling",
    "recurrent",
    "reducing",
    "resizing",
]
