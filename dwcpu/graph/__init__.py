"""Networks from ONNX files.

==================  ===================================================================================
file                what is in it
==================  ===================================================================================
model.py            `load_onnx`, `load_model`, `Model`: what users see
reader.py           from a file to a graph; the only file that needs the onnx package
versions.py         older operator sets, brought to the newest
ir.py               the graph
passes/             what makes a graph smaller: one file each, listed in its ``__init__``
planner.py          from a graph and the shapes of its inputs to a pipeline
lowering.py         which nodes run on kernels
moves.py            of those, the ones that only move elements
operators/          what every operator computes, on NumPy arrays
layouts.py          images with their channels first or last
plans.py            pipelines for the shapes that a graph meets
parts.py            graphs in which shapes depend on values: what can be planned, and the rest
stretches.py        what of that rest is worth a plan once shapes are known
eager.py            running what is left node by node
work.py             how much there is to compute
store.py            the file format of `Model.save`
errors.py           `UnsupportedOperator`
==================  ===================================================================================
"""

from __future__ import annotations

from .errors import UnsupportedOperator
from .ir import Spec
from .model import Model, load_model, load_onnx

__all__ = ["Model", "Spec", "UnsupportedOperator", "load_model", "load_onnx"]
