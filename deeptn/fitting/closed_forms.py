"""Closed forms: the parameters of a network from a given weight, where its family knows them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arrays import convert_params, relative_error, to_numpy
from ..base import Array, Params
from ..errors import LayoutError, SpecError
from ..network import Network, network
from ..spec import Layout
from ..topologies import Topology, describe
from ..topologies import topology as as_topology


class Decomposition(NamedTuple):
    """A network, its parameters, and the error of the weight it generates.

    Attributes
    ----------
    net : Network
    params : dict of str to array
    error : float
        ``‖W - W'‖ / ‖W‖`` (Frobenius), W' being the generated weight.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> dtn.decompose(np.eye(4), dtn.LowRank(rank=2)).error == 0.5**0.5
    True
    """

    net: Network
    params: Params
    error: float


def decompose(weight: Array, topology: Topology | str, layout: Layout | None = None) -> Decomposition:
    """Decompose a weight: SVD, TT-SVD, TT-matrix SVD, hierarchical SVD, or Tucker by HOOI.

    Parameters
    ----------
    weight : array
        Of NumPy, PyTorch or JAX.
    topology : Topology or str
        With the ranks to keep: LowRank, TensorTrain, TTMatrix, Tucker, HierarchicalTucker, a linear Tree or BrickWall,
        or a family of your own with a `Topology.closed_form`. A tree takes over a tensor train of rank r exactly if its
        bonds have r² or more. A brick wall of legs of size 2 takes over one of rank 2, in its first layer; further
        layers pass it on.
    layout : Layout, optional
        By default the topology's own.

    Returns
    -------
    Decomposition
        ``(net, params, error)``; the arrays have the library, dtype and device of the weight.

    Raises
    ------
    SpecError
        For a family without a closed form (fit it by gradient), or a weight with entries that are not finite.

    Notes
    -----
    SVD is optimal in the Frobenius norm (Eckart-Young); TT-SVD is within √(number of bonds) of the optimum (Oseledets,
    SIAM J. Sci. Comput. 33, 2295 (2011)), HOOI a local optimum (De Lathauwer, De Moor & Vandewalle, SIAM J. Matrix
    Anal. Appl. 21, 1324 (2000)), started from the HOSVD. Trees: from the legs up to the root (Grasedyck, SIAM J. Matrix
    Anal. Appl. 31, 2029 (2010)).

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> W = np.outer(np.arange(1.0, 9.0), np.ones(16))
    >>> net, params, error = dtn.decompose(W, dtn.LowRank(rank=1))
    >>> round(error, 12)
    0.0
    """
    family = as_topology(topology)
    shape = getattr(weight, "shape", None)
    if shape is None:
        raise LayoutError(f"weight must be an array, got {type(weight).__name__}")
    net = network(family, tuple(shape), layout)
    dense = to_numpy(weight)
    if not np.isfinite(dense).all():
        raise SpecError("weight has entries that are not finite (nan or inf); nothing can be decomposed")
    params = family.closed_form(net.spec, net.layout.to_legs(dense))
    if params is None:
        raise SpecError(
            f"{describe(family)} has no closed-form decomposition; fit it by gradient: deeptn_torch.fit(net, weight)"
        )
    # From arrays that are already in the dtype of the weight, so that the error holds for what is returned.
    params = convert_params(params, weight)
    return Decomposition(net, params, relative_error(net.materialize(params), weight))
