"""The short way of calls of a model with one array, of shapes that it has a plan for: see `dwcpu.calls`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import ref

import numpy as np

from .. import calls, runtime
from .planner import Plan

__all__ = ["ShortCalls"]

#: Axes at most of what calls take and give.
_MOST_AXES = 4


class ShortCalls(calls.Caller):
    """Calls of one layout.

    Parameters
    ----------
    model : Model
        Which this does not keep alive.
    layout : str
    threads : int or None
        Where a call does not say; None: what `dwcpu.get_num_threads` says.
    """

    def __init__(self, model: Any, layout: str, threads: int | None) -> None:
        self._model, self._layout = ref(model), layout
        self._default = runtime.get_num_threads if threads is None else lambda: threads
        # Replaced, never changed in place: reading it needs no lock.
        self._calls: dict[Any, Any] = {}

    def _long_way(self, x: Any, residual: Any, out: Any, num_threads: Any) -> Any:
        model = self._model()
        assert model is not None  # it is being called
        return model._run((x,), {}, self._layout, num_threads)

    def keep(
        self, plan: Plan, threads: int, key: Any, known: Mapping[Any, Plan | None], x: np.ndarray, out: np.ndarray
    ) -> None:
        """Remember how a plan makes `out` from C-contiguous arrays like `x`, both as callers see them.

        `key` is that of the plan among all `known` ones.
        """
        if key in self._calls or any(plan.known) or plan.jobs:
            return
        pipeline, axes, launch = plan.pipeline, (x.ndim, out.ndim), plan.pipeline.launch()
        same = x.dtype == out.dtype and x.dtype.char in "fd"
        if launch is None or not same or min(axes) < 1 or max(axes) > _MOST_AXES:
            return

        def run(x: np.ndarray, residual: np.ndarray | None, out: np.ndarray, threads: int) -> None:
            pipeline.run(x, residual, out)

        launch = launch if pipeline.arena_bytes <= runtime.MOST_SCRATCH else None
        call = calls.call_on_arrays(x.shape, out.shape, x.dtype, threads, run, launch)
        kept = {each: call for each, call in self._calls.items() if each in known}
        kept[key] = call
        self._remember(tuple(reversed(kept.values())), self._default)
        self._calls = kept  # last: an interrupt before that leaves all of this to the next call
