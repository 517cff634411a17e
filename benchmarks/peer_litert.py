"""LiteRT (TensorFlow Lite) with XNNPACK: the model is a flatbuffer written here, with the schema in its wheel.

Padding that is neither "same" nor "valid" becomes an operator PAD, which XNNPACK merges into the convolution behind it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from graph import Graph, Node, Unsupported
from problem import Prepared
from shapes import Conv

__all__ = ["flatbuffer", "prepare"]

#: Activations that an operator can carry; the others are operators of their own.
_FUSED = {None: "NONE", "relu": "RELU", "relu6": "RELU6"}


def prepare(graph: Graph, threads: int) -> Prepared:
    """Prepare XNNPACK through LiteRT's interpreter; its threads spin between calls."""
    from ai_edge_litert.interpreter import Interpreter

    if graph.x.dtype != np.float32:
        raise Unsupported("XNNPACK has no convolution in float64")
    interpreter = Interpreter(model_content=flatbuffer(graph), num_threads=threads)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    # The interpreter lists its operators and then what replaces them: one node from the input to the output.
    last = interpreter._get_ops_details()[-1]
    whole = source["index"] in last["inputs"] and target["index"] in last["outputs"]
    if last["op_name"] != "DELEGATE" or not whole:
        raise Unsupported("XNNPACK does not take the whole model; the rest would run on slow reference kernels")
    interpreter.set_tensor(source["index"], graph.x)
    return Prepared("litert", interpreter.invoke, lambda: interpreter.get_tensor(target["index"]), "XNNPACK")


def flatbuffer(graph: Graph) -> bytes:
    """Write a graph as a LiteRT model, NHWC like ours."""
    import flatbuffers

    model = _Model(graph)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.packed().Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class _Model:
    """Tensors, buffers and operators as they are written down."""

    def __init__(self, graph: Graph) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.codes: list[int] = []
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.buffers = [schema.BufferT()]  # number 0 is the empty one
        self.values = [self.tensor(graph.x.shape)]
        self.sources = [graph.x.shape]
        for node in graph.nodes:
            self.values.append(self.add(node))
            self.sources.append(node.out_shape)

    def tensor(self, shape: tuple[int, ...], data: np.ndarray | None = None) -> int:
        """Number of a new tensor, which is constant if it has data."""
        made = self.schema.TensorT()
        made.name, made.shape, made.hasRank = f"t{len(self.tensors)}", list(shape), True
        kinds = self.schema.TensorType
        made.type = kinds.INT32 if data is not None and data.dtype == np.int32 else kinds.FLOAT32
        if data is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data), np.uint8)
            self.buffers.append(buffer)
            made.buffer = len(self.buffers) - 1
        self.tensors.append(made)
        return len(self.tensors) - 1

    def constant(self, data: np.ndarray) -> int:
        """Number of a new constant tensor."""
        return self.tensor(data.shape, data)

    def operator(self, code: str, inputs: list[int], shape: tuple[int, ...], kind: str = "", **options: int) -> int:
        """Number of the result of a new operator; `kind` is the name of its options' table."""
        number = getattr(self.schema.BuiltinOperator, code)
        if number not in self.codes:
            self.codes.append(number)
        made = self.schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = self.codes.index(number), inputs, [self.tensor(shape)]
        if kind:
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, kind)
            made.builtinOptions = getattr(self.schema, kind + "T")()
            for name, value in options.items():
                setattr(made.builtinOptions, name, value)
        self.operators.append(made)
        return int(made.outputs[0])

    def add(self, node: Node) -> int:
        """Number of the result of a node."""
        inputs = [self.values[i] for i in node.inputs]
        shape = node.out_shape
        if node.op == "add":
            return self.operator("ADD", inputs, shape, "AddOptions")
        if node.op == "pool":
            axes = self.constant(np.array([1, 2], np.int32))
            return self.operator("MEAN", [*inputs, axes], shape, "ReducerOptions", keepDims=1)
        if node.op == "dense":
            w, b = node.matrix
            operands = [*inputs, self.constant(w.T), self.constant(b)]
            return self.operator("FULLY_CONNECTED", operands, shape, "FullyConnectedOptions")
        return self.convolution(node, inputs[0], self.sources[node.inputs[0]])

    def convolution(self, node: Node, source: int, x_shape: tuple[int, ...]) -> int:
        """Number of the result of a convolution and its activation."""
        conv, w, b = node.convolution
        options: dict[str, int] = {
            "strideH": conv.stride[0],
            "strideW": conv.stride[1],
            "dilationHFactor": conv.dilation[0],
            "dilationWFactor": conv.dilation[1],
        }
        source, options["padding"] = self.padded(conv, source, x_shape, node.out_shape)
        fused = getattr(self.schema.ActivationFunctionType, _FUSED.get(conv.activation, "NONE"))
        options["fusedActivationFunction"] = fused
        if conv.op == "depthwise":
            kind, code = "DepthwiseConv2DOptions", "DEPTHWISE_CONV_2D"
            options["depthMultiplier"] = conv.w_shape[3]
            w = w.reshape(1, *w.shape[:2], -1)
        else:
            kind, code = "Conv2DOptions", "CONV_2D"
            w = w.T[:, None, None] if conv.op == "pointwise" else w.transpose(3, 0, 1, 2)
        operands = [source, self.constant(w), self.constant(b)]
        value = self.operator(code, operands, node.out_shape, kind, **options)
        return self.activated(conv.activation, value, node.out_shape)

    def padded(self, conv: Conv, source: int, x_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> tuple[int, int]:
        """Number of what to convolve, and how that pads it."""
        kinds = self.schema.Padding
        if conv.padding == ((0, 0), (0, 0)):
            return source, kinds.VALID
        sizes = zip(x_shape[1:3], out_shape[1:3], conv.w_shape, conv.stride, conv.dilation, strict=False)
        same = []
        for size, out, window, stride, dilation in sizes:
            total = max((-(-size // stride) - 1) * stride + dilation * (window - 1) + 1 - size, 0)
            same.append((total // 2, total - total // 2) if out == -(-size // stride) else None)
        if tuple(same) == conv.padding:
            return source, kinds.SAME
        amounts = np.array([(0, 0), *conv.padding, (0, 0)], np.int32)
        shape = tuple(int(size + sum(pad)) for size, pad in zip(x_shape, amounts, strict=True))
        return self.operator("PAD", [source, self.constant(amounts)], shape, "PadOptions"), kinds.VALID

    def activated(self, activation: str | None, value: int, shape: tuple[int, ...]) -> int:
        """Number of the result of an activation that no operator can carry."""
        if activation in _FUSED:
            return value
        if activation == "hardswish":
            return self.operator("HARD_SWISH", [value], shape, "HardSwishOptions")
        if activation == "gelu":
            return self.operator("GELU", [value], shape, "GeluOptions")
        if activation in ("sigmoid", "silu"):
            gate = self.operator("LOGISTIC", [value], shape)
            return gate if activation == "sigmoid" else self.operator("MUL", [value, gate], shape, "MulOptions")
        raise Unsupported(f"LiteRT has no {activation}")

    def packed(self) -> Any:
        """The model as an object that can be packed into a flatbuffer."""
        schema = self.schema
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = [self.values[0]], [self.values[-1]]
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], self.buffers, []
        for number in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
            code.version = 2 if number == schema.BuiltinOperator.DEPTHWISE_CONV_2D else 1  # 2 has dilation
            model.operatorCodes.append(code)
        return model
