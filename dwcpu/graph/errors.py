"""What loading a model can find wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["UnsupportedOperator"]

#: Nodes of one sort that an error text names.
_NAMED = 4


class UnsupportedOperator(ValueError):
    """A model needs operators, attribute values or types that dwcpu lacks; the text lists all of them.

    Attributes
    ----------
    problems : tuple of (str, str)
        What is missing, and the name of the node that needs it.

    Examples
    --------
    >>> from onnx import TensorProto, helper
    >>> import dwcpu
    >>> x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    >>> graph = helper.make_graph([helper.make_node("Det", ["x"], ["y"])], "trace", [x], [y])
    >>> dwcpu.load_onnx(helper.make_model(graph).SerializeToString())
    Traceback (most recent call last):
    dwcpu.graph.errors.UnsupportedOperator: load_onnx: the model needs what dwcpu does not have; ...
      operator Det: 'y'
    """

    def __init__(self, model: str, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        self._model = model
        where: dict[str, list[str]] = {}
        for what, node in problems:
            where.setdefault(what, []).append(node)
        lines = []
        for what, nodes in where.items():
            more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
            lines.append(f"  {what}: {', '.join(map(repr, nodes[:_NAMED]))}{more}")
        super().__init__(
            f"load_onnx: {model} needs what dwcpu does not have; every node must be of a known operator; export it "
            f"without these, or run it elsewhere:\n" + "\n".join(lines)
        )

    def __reduce__(self) -> tuple:
        return type(self), (self._model, self.problems)
