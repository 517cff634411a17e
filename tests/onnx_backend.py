"""dwcpu as a backend of the onnx package: the interface that ONNX's own test data is made for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.base import Backend, BackendRep, Device, DeviceType

import dwcpu

__all__ = ["DwcpuBackend", "DwcpuBackendRep", "as_array"]


def as_array(value: Any) -> np.ndarray:
    """A value of the test data as dwcpu takes it: tensors as arrays, text as arrays of `str` objects."""
    array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    if array.dtype.kind not in "OSU":
        return array
    made = np.empty(array.shape, object)
    made.reshape(-1)[:] = [each.decode() if isinstance(each, bytes) else str(each) for each in array.reshape(-1)]
    return made


class DwcpuBackendRep(BackendRep):
    """A loaded model.

    Attributes
    ----------
    model : dwcpu.Model
    """

    def __init__(self, model: dwcpu.Model) -> None:
        self.model = model

    def run(self, inputs: Sequence[Any], **kwargs: Any) -> tuple[np.ndarray, ...]:
        """The outputs for these inputs, in order; always a tuple. Keywords go to the call of the model."""
        results = self.model(*map(as_array, inputs), **kwargs)
        return results if isinstance(results, tuple) else (results,)


class DwcpuBackend(Backend):
    """Runs models with `dwcpu.load_onnx`, as they are: ONNX's checker does not look at them first."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether dwcpu has everything that the model needs."""
        try:
            cls.prepare(model, device, **kwargs)
        except dwcpu.UnsupportedOperator:
            return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> DwcpuBackendRep:
        """Load a model. Keywords go to `dwcpu.load_onnx`.

        Raises
        ------
        ValueError
            The device is no CPU, or the model cannot be loaded.
        """
        if not cls.supports_device(device):
            raise ValueError(f"dwcpu runs on CPUs only; the device is {device!r}")
        return DwcpuBackendRep(dwcpu.load_onnx(model.SerializeToString(), **kwargs))

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: Sequence[Any], device: str = "CPU", **kwargs: Any
    ) -> tuple[np.ndarray, ...]:
        """Load a model and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Sequence[Any],
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None,
        *,
        opset_version: int | None = None,
        **kwargs: Any,
    ) -> tuple[np.ndarray, ...]:
        """Run one node.

        Parameters
        ----------
        node : NodeProto
        inputs : sequence
            Values of the inputs that the node names; none for those that it leaves out.
        device : str
        outputs_info : sequence of (dtype, shape), optional
            Not needed: dwcpu works out both.
        opset_version : int, optional
            Version of the operator; by default the newest.
        """
        arrays = [as_array(value) for value in inputs]
        names = [name for name in node.input if name]
        graph = onnx.helper.make_graph(
            [node],
            node.op_type,
            [
                onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                for name, array in zip(names, arrays, strict=True)
            ],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
        )
        opset = onnx.helper.make_opsetid("", opset_version or onnx.defs.onnx_opset_version())
        return cls.run_model(onnx.helper.make_model(graph, opset_imports=[opset]), arrays, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether a device such as "CPU" or "CUDA:1" is a CPU."""
        return Device(device).type == DeviceType.CPU
