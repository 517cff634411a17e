"""Writing ONNX graphs of convolutions with random weights, for benchmarks and tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Builder"]


class Builder:
    """A graph that is being written: methods add nodes and give the names of their results."""

    def __init__(self, seed: int = 0, *, folded: bool = False, constants_as_nodes: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.folded, self.constants_as_nodes = folded, constants_as_nodes
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        """Name of a constant."""
        name = f"c{len(self.constants)}"
        array = self.constants[name] = np.asarray(array, dtype)
        if self.constants_as_nodes:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        return name

    def ints(self, *values: int) -> str:
        """Name of a constant of integers."""
        return self.constant(values, np.int64)

    def random(self, *shape: int, scale: float = 1.0) -> str:
        """Name of a constant of random numbers."""
        return self.constant(self.rng.standard_normal(shape) * scale)

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node: the name of its result, or names of `outputs` of them."""
        names = [f"v{len(self.nodes)}_{at}" for at in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"{op}.{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def norm(self, x: str, channels: int) -> str:
        """Add a batch normalisation."""
        low, high = self.rng.uniform(0.5, 1.5, (2, channels))
        mean, shift = self.rng.standard_normal((2, channels)) * 0.1
        return self.add("BatchNormalization", x, *map(self.constant, (low, shift, mean, high)), epsilon=1e-3)

    def conv(
        self, x: str, cin: int, cout: int, k: Any = 1, *, stride: int = 1, groups: int = 1, act: str | None = None,
        norm: bool = True, pads: Any = None, dilation: int = 1, bias: bool = False, axes: int = 2,
    ) -> str:  # fmt: skip
        """Add a convolution, its normalisation (unless `folded`) and activation."""
        kernel = (k,) * axes if isinstance(k, int) else tuple(k)
        fan = cin // groups * int(np.prod(kernel))
        w = self.random(cout, cin // groups, *kernel, scale=(2.0 / fan) ** 0.5)
        pads = pads if pads is not None else [(size - 1) // 2 * dilation for size in kernel] * 2
        inputs = [x, w] + ([self.random(cout, scale=0.1)] if bias or self.folded or not norm else [])
        x = self.add(
            "Conv", *inputs, strides=[stride] * axes, group=groups, pads=pads, dilations=[dilation] * axes,
            kernel_shape=kernel,
        )  # fmt: skip
        if norm and not self.folded:
            x = self.norm(x, cout)
        return self.act(x, act)

    def act(self, x: str, kind: str | None) -> str:
        """Add an activation, as different exporters write them."""
        number = self.constant
        if kind is None:
            return x
        if kind == "relu6":
            return self.add("Clip", x, number(0), number(6))
        if kind == "hardswish_decomposed":
            inner = self.add("Clip", self.add("Add", x, number(3)), number(0), number(6))
            return self.add("Div", self.add("Mul", x, inner), number(6))
        if kind == "hardswish_gate":
            return self.add("Mul", x, self.add("HardSigmoid", x, alpha=1 / 6, beta=0.5))
        if kind == "hardsigmoid_decomposed":
            return self.add("Div", self.add("Clip", self.add("Add", x, number(3)), number(0), number(6)), number(6))
        if kind == "silu":
            return self.add("Mul", x, self.add("Sigmoid", x))
        if kind == "gelu":
            erf = self.add("Erf", self.add("Div", x, number(2**0.5)))
            return self.add("Mul", self.add("Mul", x, self.add("Add", erf, number(1))), number(0.5))
        return self.add({"relu": "Relu", "sigmoid": "Sigmoid", "hardswish": "HardSwish", "tanh": "Tanh"}[kind], x)

    def squeeze_excite(self, x: str, channels: int, inner: int, act: str, gate: str, *, mean: bool = False) -> str:
        """Add a squeeze-and-excite block, its gate multiplied."""
        s = self.add("ReduceMean", x, self.ints(2, 3), keepdims=1) if mean else self.add("GlobalAveragePool", x)
        s = self.conv(s, channels, inner, norm=False, act=act)
        return self.add("Mul", x, self.conv(s, inner, channels, norm=False, act=gate))

    def classifier(self, x: str, channels: int, classes: int = 10, *, softmax: bool = False) -> str:
        """Add pooling and a matrix product."""
        x = self.add("Flatten", self.add("GlobalAveragePool", x))
        x = self.add("Gemm", x, self.random(classes, channels, scale=0.1), self.random(classes), transB=1)
        return self.add("Softmax", x, axis=-1) if softmax else x

    def model(self, name: str, outputs: list[str], x_shape: Any = ("n", 3, "h", "w"), opset: int = 18) -> bytes:
        """The graph as the contents of a file."""
        initializers = [] if self.constants_as_nodes else self.constants.items()
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)],
            [helper.make_tensor_value_info(out, TensorProto.FLOAT, None) for out in outputs],
            [numpy_helper.from_array(array, key) for key, array in initializers],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        return bytes(model.SerializeToString())
