"""Closed forms: compute the parameters of a network from a given weight, if its family defines how."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..arrays import convert_params, norm_of, relative_error, to_numpy
from ..base import Array, Params
from ..errors import LayoutError, SpecError
from ..init import weight_exponents
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
    unit = unit_of(dense)
    params = family.closed_form(net.spec, net.layout.to_legs(dense / unit if unit else np.ones_like(dense)))
    if params is None:
        raise SpecError(
            f"{describe(family)} has no closed-form decomposition; fit it by gradient: deeptn_torch.fit(net, weight)"
        )
    # Convert to the weight's dtype first, so that the error is that of the returned arrays.
    if unit != 1:
        params = scaled(net, params, unit) if unit else zeroed(net, params)
    params = convert_params(params, weight)
    return Decomposition(net, params, relative_error(net.materialize(params), weight))


def unit_of(weight: np.ndarray, safe: float = 1e100) -> float:
    """Return what a weight should be divided by, so that squares of its entries are normal numbers.

    That is 1 for a weight whose norm is between ``1 / safe`` and `safe`, else its root mean square; 0 if it is zero.

    Examples
    --------
    >>> unit_of(np.ones(3)), unit_of(np.full(3, 1e-200)), unit_of(np.zeros(3))
    (1.0, 1e-200, 0.0)
    """
    norm = norm_of(weight)
    return 1.0 if 1 / safe < norm < safe else norm / math.sqrt(weight.size)


def scaled(net: Network, params: Params, factor: float) -> Params:
    """Multiply the weight by a factor; see `deeptn.init.weight_exponents`, which says when that is possible."""
    powers = weight_exponents(net.spec)
    return {name: array * factor ** powers[name] if name in powers else array for name, array in params.items()}


def zeroed(net: Network, params: Params) -> Params:
    """Make the weight zero by one parameter of each stage that sums to it, so that gradients still flow into these."""
    held = [[node.param for node in net.spec.stages[k].nodes if node.param is not None] for k in net.spec.summands]
    names = {params_of_stage[-1] for params_of_stage in held if params_of_stage}
    return {name: array * 0 if name in names else array for name, array in params.items()}
