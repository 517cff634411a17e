"""Activations, however an exporter has spelled them, become nodes of one kind.

==========================================================  =============
pattern                                                     activation
==========================================================  =============
Relu                                                        relu
Clip, or Min and Max of numbers                             relu6, clip
LeakyRelu, PRelu of one number                              leaky_relu
Sigmoid                                                     sigmoid
HardSigmoid; clip(x + 3, 0, 6) / 6                          hardsigmoid
HardSwish; x hardsigmoid(x); x clip(x + 3, 0, 6) / 6        hardswish
Swish; x sigmoid(x)                                         silu
Gelu; x (1 + erf(x / sqrt(2))) / 2                          gelu
==========================================================  =============

``x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`` becomes a Gelu that is approximated so.

Products are looked at as a whole: in whatever order, with the number divided or multiplied in anywhere.
"""

from __future__ import annotations

import math

from ..ir import Graph, Node
from .matching import Links, scalar

__all__ = ["recognise_activations"]

_CLOSE = 1e-5
#: Factors of a product at most.
_MOST_FACTORS = 4
_TANH = "tanh"


def recognise_activations(graph: Graph) -> None:
    """Turn every pattern of the table into an Activation."""
    links = Links(graph)
    for node in graph.nodes:
        found = _one_node(graph, node) or _product(graph, links, node)
        if found is not None:
            source, activation = found
            if activation == _TANH:
                node.op, node.inputs, node.attributes = "Gelu", [source], {"approximate": _TANH}
                continue
            node.op, node.inputs, node.attributes = "Activation", [source], {"activation": activation}
    graph.sweep()


def _close(value: float | None, wanted: float) -> bool:
    return value is not None and math.isclose(value, wanted, rel_tol=_CLOSE)


def _one_node(graph: Graph, node: Node) -> tuple[str, object] | None:
    """What a node is on its own: its input and activation."""
    x = node.input(0)
    simple = {"Relu": "relu", "Sigmoid": "sigmoid", "HardSwish": "hardswish"}
    if node.op in simple:
        return x, simple[node.op]
    if node.op == "LeakyRelu":
        return x, ("leaky_relu", float(node.get("alpha", 0.01)))
    if node.op == "PRelu":
        slope = scalar(graph, node.input(1))
        return None if slope is None or not math.isfinite(slope) else (x, ("leaky_relu", slope))
    if node.op == "HardSigmoid" and _close(node.get("alpha", 0.2), 1 / 6) and _close(node.get("beta", 0.5), 0.5):
        return x, "hardsigmoid"
    if node.op == "Gelu" and node.get("approximate", "none") == "none":
        return x, "gelu"
    if node.op == "Swish" and node.get("alpha", 1.0) == 1.0:
        return x, "silu"
    if node.op in ("Clip", "Max", "Min"):
        return _clamp(graph, node)
    return None


def _clamp(graph: Graph, node: Node) -> tuple[str, object] | None:
    """Clip, or Min or Max of a tensor and a number."""
    x, low, high = node.input(0), -math.inf, math.inf
    if node.op == "Clip":
        bounds = []
        for index, default in ((1, low), (2, high)):
            bound = default if not node.input(index) else scalar(graph, node.input(index))
            if bound is None or math.isnan(bound):
                return None
            bounds.append(bound)
        low, high = bounds
    else:
        if len(node.inputs) != 2:
            return None
        first, second = (scalar(graph, name) for name in node.inputs)
        bound = second if first is None else first
        if bound is None or math.isnan(bound):
            return None
        # A constant of more axes than the tensor would add axes.
        if graph.constants[node.inputs[1 if first is None else 0]].ndim > 0:
            return None
        x = node.inputs[0 if first is None else 1]
        low, high = (bound, high) if node.op == "Max" else (low, bound)
    if low > high:
        return None
    if (low, high) == (0.0, math.inf):
        return x, "relu"
    return x, "relu6" if (low, high) == (0.0, 6.0) else ("clip", low, high)


def _product(graph: Graph, links: Links, node: Node) -> tuple[str, object] | None:
    """What a product is as a whole."""
    if node.op not in ("Mul", "Div"):
        return None
    number, factors = _factors(graph, links, node)
    if len(factors) == 1:
        x = _shifted_clip(graph, links, factors[0])
        return (x, "hardsigmoid") if x is not None and _close(number, 1 / 6) else None
    if len(factors) != 2:
        return None
    for x, gate in (factors, factors[::-1]):
        if _shifted_clip(graph, links, gate) == x and _close(number, 1 / 6):
            return x, "hardswish"
        if _one_plus_erf(graph, links, gate) == x and _close(number, 0.5):
            return x, "gelu"
        if _close(number, 0.5) and _one_plus_tanh(graph, links, gate, x):
            return x, _TANH
        made = links.maker(gate, "Activation")
        if made is not None and made.inputs[0] == x and _close(number, 1.0):
            named = {"sigmoid": "silu", "hardsigmoid": "hardswish"}.get(str(made.get("activation")))
            if named is not None:
                return x, named
    return None


def _factors(graph: Graph, links: Links, node: Node) -> tuple[float, list[str]]:
    """A product as one number and the values that are multiplied, those that nobody else reads taken apart."""
    number, open_nodes = 1.0, [node]
    factors: list[str] = []
    while open_nodes and len(factors) <= _MOST_FACTORS:
        each = open_nodes.pop()
        for at, name in enumerate(each.inputs):
            value = scalar(graph, name) if graph.constants.get(name) is not None else None
            made = links.maker(name, "Mul", "Div")
            divided = each.op == "Div" and at == 1
            if value is not None and graph.constants[name].ndim <= 1:
                number = number / value if divided and value else number * value
            elif divided:
                return math.nan, []
            elif made is not None and links.single(name):
                open_nodes.append(made)
            else:
                factors.append(name)
    return number, factors


def _shifted_clip(graph: Graph, links: Links, name: str) -> str | None:
    """x, if a value is clip(x + 3, 0, 6)."""
    clip = links.maker(name, "Activation")
    if clip is None or clip.get("activation") != "relu6":
        return None
    return _sum_with(graph, links, clip.inputs[0], 3.0)


def _one_plus_erf(graph: Graph, links: Links, name: str) -> str | None:
    """x, if a value is 1 + erf(x / sqrt(2))."""
    erf = links.maker(_sum_with(graph, links, name, 1.0) or "", "Erf")
    scaled = links.maker(erf.inputs[0], "Mul", "Div") if erf is not None else None
    if scaled is None:
        return None
    number, factors = _factors(graph, links, scaled)
    return factors[0] if len(factors) == 1 and _close(number, math.sqrt(0.5)) else None


def _one_plus_tanh(graph: Graph, links: Links, name: str, x: str) -> bool:
    """Whether a value is 1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))."""
    tanh = links.maker(_sum_with(graph, links, name, 1.0) or "", "Tanh")
    scaled = links.maker(tanh.inputs[0], "Mul", "Div") if tanh is not None else None
    number, factors = _factors(graph, links, scaled) if scaled is not None else (math.nan, [])
    if not _close(number, math.sqrt(2 / math.pi)):
        return False
    if len(factors) == 1:  # x + 0.044715 x^3
        both = links.maker(factors[0], "Add")
        return both is not None and any(
            first == x and _is_power(graph, links, second, x, 3) for first, second in (both.inputs, both.inputs[::-1])
        )
    return any(  # x (1 + 0.044715 x^2)
        first == x and _is_power(graph, links, _sum_with(graph, links, second, 1.0) or "", x, 2)
        for first, second in (factors, factors[::-1])
        if len(factors) == 2
    )


def _is_power(graph: Graph, links: Links, name: str, x: str, exponent: int) -> bool:
    """Whether a value is 0.044715 x^exponent."""
    product = links.maker(name, "Mul")
    number, factors = _factors(graph, links, product) if product is not None else (math.nan, [])
    power = links.maker(factors[0], "Pow") if len(factors) == 1 else None
    if power is not None:
        factors = [power.inputs[0]] * exponent if scalar(graph, power.inputs[1], "fiu") == exponent else []
    return _close(number, 0.044715) and factors == [x] * exponent


def _sum_with(graph: Graph, links: Links, name: str, number: float) -> str | None:
    """The other summand, if a value is the sum of something and that number."""
    made = links.maker(name, "Add")
    if made is None:
        return None
    for at in (0, 1):
        array = graph.constants.get(made.inputs[at])
        # a number of more axes than the tensor would add axes to it
        if array is not None and array.ndim <= 1 and _close(scalar(graph, made.inputs[at]), number):
            return made.inputs[1 - at]
    return None
