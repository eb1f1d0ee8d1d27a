"""Closed forms: the parameters of a shallow network from a given weight."""

from __future__ import annotations

import math
import warnings
from functools import singledispatch
from typing import NamedTuple

import numpy as np

from ._typing import Array, Params
from .errors import LayoutError, SpecError
from .layout import Layout, pad_axes
from .network import Network, network
from .params import convert_params, to_numpy
from .topologies import LowRank, TensorTrain, Topology, TTMatrix, Tucker
from .topologies import topology as as_topology


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
    >>> import numpy as np
    >>> decompose(np.eye(4), LowRank(rank=2)).error == 0.5**0.5
    True
    """

    net: Network
    params: Params
    error: float


def decompose(weight: Array, topology: Topology | str, layout: Layout | None = None) -> Decomposition:
    """Decompose a weight: SVD, TT-SVD, TT-matrix SVD, or Tucker by HOOI.

    Parameters
    ----------
    weight : array
        Of NumPy, PyTorch or JAX.
    topology : LowRank, TensorTrain, TTMatrix or Tucker
        With the ranks to keep.
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
    Anal. Appl. 21, 1324 (2000)), started from the HOSVD.

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
    params = closed_form(family, net, net.layout.to_legs(dense))
    # From arrays that are already in the dtype of the weight, so that the error holds for what is returned.
    params = convert_params(params, weight)
    return Decomposition(net, params, relative_error(net.materialize(params), weight))


def relative_error(found: Array, weight: Array) -> float:
    """``‖weight - found‖ / ‖weight‖``; 0 for two zeros."""
    dense = to_numpy(weight)
    norm = float(np.linalg.norm(dense))
    gap = float(np.linalg.norm(dense - to_numpy(found)))
    return gap / norm if norm else (0.0 if gap == 0.0 else math.inf)


def has_closed_form(topology: Topology) -> bool:
    """Whether `decompose` knows the family; cores that are shared between nodes have no closed form."""
    return not getattr(topology, "shared", False) and closed_form.dispatch(type(topology)) is not closed_form.dispatch(
        object
    )


@singledispatch
def closed_form(topology: object, net: Network, tensor: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters of `net` from the weight as a tensor over its legs. Register a family of your own here."""
    raise SpecError(
        f"{type(topology).__name__} has no closed-form decomposition; fit it by gradient: deeptn_torch.fit(net, weight)"
    )


@closed_form.register
def _(topology: LowRank, net: Network, tensor: np.ndarray) -> dict[str, np.ndarray]:
    rows = [k for k, leg in enumerate(net.layout.legs) if leg.axis == 0]
    columns = [k for k, leg in enumerate(net.layout.legs) if leg.axis != 0]
    shapes = net.spec.param_shapes
    rank = shapes["V"][0]
    matrix = tensor.transpose(rows + columns).reshape(math.prod(shapes["U"][:-1]), -1)
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(s[:rank])
    return {"U": (u[:, :rank] * root).reshape(shapes["U"]), "V": (root[:, None] * v[:rank]).reshape(shapes["V"])}


@closed_form.register(TensorTrain)
@closed_form.register(TTMatrix)
def _(topology: TensorTrain | TTMatrix, net: Network, tensor: np.ndarray) -> dict[str, np.ndarray]:
    if topology.shared:
        raise SpecError(
            f"{type(topology).__name__}(shared=True) has no closed-form decomposition; fit it by gradient: "
            "deeptn_torch.fit(net, weight)"
        )
    places = {leg.name: k for k, leg in enumerate(net.layout.legs)}
    order = [places[ix] for node in net.spec.nodes for ix in node.indices if ix in places]
    rest = tensor.transpose(order).reshape(1, -1)
    params = {}
    *head, tail = net.spec.nodes
    for node in head:
        shape = net.spec.node_shape(node)
        u, s, v = np.linalg.svd(rest.reshape(math.prod(shape[:-1]), -1), full_matrices=False)
        params[node.name] = u[:, : shape[-1]].reshape(shape)
        rest = s[: shape[-1], None] * v[: shape[-1]]
    params[tail.name] = rest.reshape(net.spec.node_shape(tail))
    return params


@closed_form.register
def _(topology: Tucker, net: Network, tensor: np.ndarray) -> dict[str, np.ndarray]:
    import tensorly
    from tensorly.decomposition import tucker

    ranks = net.spec.param_shapes["core"]
    with tensorly.backend.backend_context("numpy", local_threadsafe=True), warnings.catch_warnings():  # type: ignore[attr-defined]
        # Where a rank is above what the others allow, TensorLy says so and returns fewer columns; zeros fill them up.
        warnings.simplefilter("ignore", UserWarning)
        core, factors = tucker(tensor, rank=list(ranks), init="svd", n_iter_max=50, tol=1e-8)
    params = {"core": pad_axes(np.asarray(core), ranks)}
    for k, factor in enumerate(factors):
        params[f"U{k}"] = pad_axes(np.asarray(factor), net.spec.param_shapes[f"U{k}"])
    return params
