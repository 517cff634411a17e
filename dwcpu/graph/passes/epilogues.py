"""Sums with other tensors and activations go into the kernel that has just computed the value."""

from __future__ import annotations

from ..ir import Graph, Node
from .matching import Links

__all__ = ["fuse_activations", "fuse_residuals"]

#: With weights, or the like, which must be known.
_WEIGHTED = (
    "Affine", "Conv", "ConvTranspose", "Gemm", "GroupNorm", "GroupNormalization", "InstanceNormalization", "MatMul",
)  # fmt: skip
#: Of any two tensors.
_PAIRS = ("Add", "Div", "Mul", "Sub")
#: That move elements and change none.
_VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def _takes_epilogue(graph: Graph, node: Node | None) -> bool:
    """Whether what a node computes may be activated at once, and nothing comes after it yet."""
    return (
        node is not None
        and node.get("activation") is None
        and (node.op in _PAIRS or not any(name not in graph.constants for name in node.inputs[1:3] if name))
        and len(node.outputs) == 1
    )


def fuse_residuals(graph: Graph) -> None:
    """Let a Conv whose result is added to another tensor add it itself, as its fourth input.

    Whether the two have one shape, which they must, is seen when a plan is made; it adds them apart if they have not.
    """
    links = Links(graph)
    order = {id(node): at for at, node in enumerate(graph.nodes)}
    gone = []
    for at, node in enumerate(graph.nodes):
        if node.op != "Add" or len(node.inputs) != 2 or any(name in graph.constants for name in node.inputs):
            continue
        makers = [links.maker(name, "Conv") for name in node.inputs]
        ready = [
            (order[id(maker)], index, maker)
            for index, maker in enumerate(makers)
            if maker is not None
            and _takes_epilogue(graph, maker)
            and not maker.input(3)
            and links.single(node.inputs[index])
        ]
        if not ready:
            continue
        _, index, conv = max(ready, key=lambda each: each[0])  # the other summand is there by then, or at least here
        fused = conv.copy()
        fused.inputs += [""] * (4 - len(fused.inputs))
        fused.inputs[3] = node.inputs[1 - index]
        fused.outputs = list(node.outputs)
        graph.nodes[at] = fused
        links.made[node.outputs[0]] = fused
        order[id(fused)] = at
        gone.append(conv)
    graph.remove(gone)


def fuse_activations(graph: Graph) -> None:
    """Let convolutions, matrix products, normalisations and sums do the activation that follows them.

    Also where views of the result stand between: elements are the same in any order.
    """
    links = Links(graph)
    gone = []
    for node in graph.nodes:
        if node.op != "Activation":
            continue
        last, source = links.maker(node.inputs[0]), node.inputs[0]
        while links.maker(source, *_VIEWS) is not None and links.alone(source):
            source = links.made[source].inputs[0]
        before = links.maker(source, *_WEIGHTED, *_PAIRS)
        if before is None or last is None or not _takes_epilogue(graph, before) or not links.alone(source):
            continue
        before.attributes["activation"] = node.get("activation")
        last.outputs = list(node.outputs)
        links.made[node.outputs[0]] = last
        for each in links.read[node.inputs[0]]:
            if each is not node and each is not None:  # asks for its shape
                each.inputs = list(node.outputs)
        gone.append(node)
    graph.remove(gone)
