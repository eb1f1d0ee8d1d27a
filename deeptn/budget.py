"""Find the largest network of a family within a parameter budget."""

from __future__ import annotations

from collections.abc import Sequence

from .base import positive_int
from .errors import SpecError
from .network import Network, network
from .spec import Layout
from .topologies import Topology, describe
from .topologies import topology as as_topology


def at_budget(topology: Topology | str, shape: Sequence[int], params: int, layout: Layout | None = None) -> Network:
    """Return the largest network of a family with at most `params` parameters.

    Only the topology's ``size_field`` (layers, rank) changes.

    Parameters
    ----------
    topology : Topology or str
        The family; the size in it is ignored, its other fields stay as they are.
    shape : sequence of int
        Shape of the weight.
    params : int
        The budget. A family that stops growing (its ranks are full) is returned at its largest.
    layout : Layout, optional
        By default the topology's own layout.

    Returns
    -------
    Network

    Raises
    ------
    SpecError
        If the smallest network of the family has more parameters; the message states that minimum.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.at_budget("TensorTrain", (120, 400), params=864)
    >>> net.topology.rank, net.num_params
    (6, 856)
    >>> dtn.at_budget("LowRank", (120, 400), params=144)
    Traceback (most recent call last):
    deeptn.errors.SpecError: a LowRank network of shape (120, 400) has at least 520 parameters (rank=1), more than 144
    """
    family = as_topology(topology)
    budget = positive_int(params, "params")

    def build(size: int) -> Network:
        return network(family.resized(size), shape, layout)

    best = build(1)
    if best.num_params > budget:
        raise SpecError(
            f"a {type(family).__name__} network of shape {best.shape} has at least {best.num_params} parameters "
            f"({describe(best.topology).partition('(')[2]}, more than {budget}"
        )
    low, high = 1, 2
    while True:  # double until the budget is exceeded, or until the network stops growing
        candidate = build(high)
        if candidate.num_params > budget:
            break
        if candidate.num_params == best.num_params:
            return best
        low, best, high = high, candidate, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        candidate = build(middle)
        if candidate.num_params <= budget:
            low, best = middle, candidate
        else:
            high = middle
    return best
