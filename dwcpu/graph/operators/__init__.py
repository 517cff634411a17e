"""The operators, one file for each sort; `registry` has the table, and says how they are written."""

from __future__ import annotations

from . import convolution, elementwise, moving, pooling, reducing, resizing
from .registry import OPERATORS, Operator

__all__ = ["OPERATORS", "Operator", "convolution", "elementwise", "moving", "pooling", "reducing", "resizing"]
