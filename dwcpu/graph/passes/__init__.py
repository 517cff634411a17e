"""Passes: each makes a graph that computes the same, up to rounding, with less to do. Any of them can be left out."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ..ir import Graph
from .activations import recognise_activations
from .affine import fold_affine
from .chains import fuse_chains
from .constants import fold_constants
from .epilogues import fuse_activations, fuse_residuals
from .gates import fuse_gates
from .norms import join_group_norms, recognise_norms
from .pads import fold_pads
from .responses import join_responses
from .scales import move_scales
from .twins import join_twins

__all__ = ["PASSES", "PLANNED", "optimise"]

#: Name -> pass, in the order in which they run.
PASSES = {
    "constants": fold_constants,
    "twins": join_twins,
    "pads": fold_pads,
    "activations": recognise_activations,  # before a shift by 3 that is part of one goes into a bias
    "norms": recognise_norms,
    "groups": join_group_norms,
    "responses": join_responses,
    "scales": move_scales,
    "affine": fold_affine,
    "residuals": fuse_residuals,
    "epilogues": fuse_activations,
    "gates": fuse_gates,
    "chains": fuse_chains,
}


#: Those whose nodes only plans can run.
PLANNED = ("groups", "residuals", "epilogues", "gates", "chains")


def optimise(graph: Graph, without: Collection[str] = ()) -> Graph:
    """A graph that computes the same with fewer nodes; `graph` itself stays as it is.

    Parameters
    ----------
    graph : Graph
    without : collection of str
        Passes to leave out.

    Raises
    ------
    ValueError
        If there is no pass of such a name.
    """
    for name in without:
        if name not in PASSES:
            raise ValueError(
                f"load_onnx: there is no pass {name!r}; passes are {', '.join(PASSES)}; name some of these"
            )
    graph = graph.copy()
    graph.sweep()
    for name, change in PASSES.items():
        if name not in without:
            try:
                with np.errstate(all="ignore"):
                    change(graph)
            except MemoryError:
                raise
            except Exception as error:  # attributes and shapes that do not fit make NumPy raise anything
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise ValueError(f"the graph {graph.name!r:.80} is not consistent: {reason:.300}") from error
    return graph
