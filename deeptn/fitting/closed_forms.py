"""Closed forms: compute the parameters of a network from a given weight, if its family defines how."""

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
        ``‖W - W'‖ / ‖W‖`` (Frobenius), where W' is the generated weight.

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
    """Decompose a weight by SVD, TT-SVD, TT-matrix SVD, hierarchical SVD, or HOOI (Tucker).

    Parameters
    ----------
    weight : array
        Array of NumPy, PyTorch or JAX.
    topology : Topology or str
        The family and the ranks to keep: LowRank, TensorTrain, TTMatrix, Tucker, HierarchicalTucker, a linear Tree or
        BrickWall, or your own family with a `Topology.closed_form`. A tree reproduces a tensor train of rank r without
        error if its bonds have size r² or more. A brick wall with legs of size 2 reproduces one of rank 2 in its first
        layer; further layers pass it through.
    layout : Layout, optional
        Defaults to the topology's own layout.

    Returns
    -------
    Decomposition
        ``(net, params, error)``; the arrays have the library, dtype and device of the weight.

    Raises
    ------
    SpecError
        For a family without a closed form (fit it by gradient), or a weight with non-finite entries.

    Notes
    -----
    SVD is optimal in the Frobenius norm (Eckart-Young); TT-SVD is within √(number of bonds) of the optimum (Oseledets,
    SIAM J. Sci. Comput. 33, 2295 (2011)). HOOI starts from the HOSVD and finds a local optimum (De Lathauwer, De Moor &
    Vandewalle, SIAM J. Matrix Anal. Appl. 21, 1324 (2000)). Trees are decomposed from the legs up to the root
    (Grasedyck, SIAM J. Matrix Anal. Appl. 31, 2029 (2010)).

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
        raise SpecError("weight has entries that are not finite (nan or inf); it cannot be decomposed")
    params = family.closed_form(net.spec, net.layout.to_legs(dense))
    if params is None:
        raise SpecError(
            f"{describe(family)} has no closed-form decomposition; fit it by gradient: deeptn_torch.fit(net, weight)"
        )
    # Convert to the weight's dtype first, so that the error is that of the returned arrays.
    params = convert_params(params, weight)
    return Decomposition(net, params, relative_error(net.materialize(params), weight))
