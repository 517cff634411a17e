"""What does not depend on the inputs is computed once, and what does nothing is left out."""

from __future__ import annotations

import numpy as np

from ..eager import compute
from ..ir import Graph

__all__ = ["fold_constants"]

#: Larger results are not kept: they are cheaper to make than to hold.
_MOST_BYTES = 1 << 26
#: What makes much out of little is left to plans, whose inputs have sizes to compare with.
_GROWING = ("ConstantOfShape", "Expand", "Tile", "Pad", "Resize", "Range")


def fold_constants(graph: Graph) -> None:
    """Replace nodes whose inputs are all constant by constants, and take out those that pass on what they get."""
    kept = []
    outputs = {spec.name for spec in graph.outputs}
    aliases: dict[str, str] = {}
    for node in graph.nodes:
        node.inputs = [aliases.get(name, name) for name in node.inputs]
        if node.op in ("Identity", "Dropout") and len(node.outputs) == 1 and len(node.inputs) < 3:
            if node.outputs[0] not in outputs:
                aliases[node.outputs[0]] = node.inputs[0]
                continue
        elif all(name in graph.constants or not name for name in node.inputs) and node.op not in _GROWING:
            results = compute(node, [graph.constants[name] if name else None for name in node.inputs])
            if sum(result.nbytes for result in results) <= _MOST_BYTES:
                for name, result in zip(node.outputs, results, strict=False):
                    result = np.array(result, order="C")
                    result.flags.writeable = False
                    graph.constants[name] = result
                continue
        kept.append(node)
    graph.nodes = kept
    graph.sweep()
