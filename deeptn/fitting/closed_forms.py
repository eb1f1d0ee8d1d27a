"""Closed forms: the parameters of a shallow network from a given weight."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import singledispatch
from typing import NamedTuple

import numpy as np

from ..arrays import convert_params, relative_error, to_numpy
from ..base import Array, Params
from ..errors import LayoutError, SpecError
from ..network import Network, network
from ..spec import Layout, Node, pad_axes
from ..topologies import BrickWall, HierarchicalTucker, LowRank, TensorTrain, Topology, Tree, TTMatrix, Tucker, describe
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
    >>> import numpy as np
    >>> decompose(np.eye(4), LowRank(rank=2)).error == 0.5**0.5
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
    topology : LowRank, TensorTrain, TTMatrix, Tucker, linear Tree, HierarchicalTucker or linear BrickWall
        With the ranks to keep. A tree takes over a tensor train of rank r exactly if its bonds have r² or more. A
        brick wall of legs of size 2 takes over one of rank 2, in its first layer; further layers pass it on.
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
    params = closed_form(family, net, net.layout.to_legs(dense))
    # From arrays that are already in the dtype of the weight, so that the error holds for what is returned.
    params = convert_params(params, weight)
    return Decomposition(net, params, relative_error(net.materialize(params), weight))


def has_closed_form(topology: Topology) -> bool:
    """Whether `decompose` knows the family and its weight is as good as the family can make it, or nearly so.

    Shared cores and activations have no closed form; a linear brick wall of several layers has one, which uses only the
    first, and a fit by gradient is better.
    """
    if getattr(topology, "shared", False) or getattr(topology, "activation", None) is not None:
        return False
    if isinstance(topology, BrickWall):
        return _is_chain(topology) and topology.layers == 1
    return closed_form.dispatch(type(topology)) is not closed_form.dispatch(object)


@singledispatch
def closed_form(topology: object, net: Network, tensor: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters of `net` from the weight as a tensor over its legs. Register a family of your own here."""
    raise _unknown(type(topology).__name__)


def _unknown(what: str) -> SpecError:
    return SpecError(f"{what} has no closed-form decomposition; fit it by gradient: deeptn_torch.fit(net, weight)")


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
        raise _unknown(f"{type(topology).__name__}(shared=True)")
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


@closed_form.register(Tree)
@closed_form.register(HierarchicalTucker)
def _(topology: Tree | HierarchicalTucker, net: Network, tensor: np.ndarray) -> dict[str, np.ndarray]:
    if not net.is_linear:
        raise _unknown(f"{describe(topology)}, with its activations,")
    axes = [leg.name for leg in net.layout.legs]
    params = {}
    makers = {ix: node for node in net.spec.nodes for ix in node.outputs}
    # Every node after those that hang on it; the root, which nothing is above, at last.
    for node in sorted(net.spec.nodes, key=lambda node: -_depth(node, makers)):
        axes, tensor = _bring_forward(axes, tensor, node.outputs)
        shape = dict(zip(node.indices, net.spec.node_shape(node)))
        outputs, rest = [shape[ix] for ix in node.outputs], tensor.shape[len(node.outputs) :]
        if node.inputs:
            (bond,) = node.inputs
            u, s, v = np.linalg.svd(tensor.reshape(math.prod(outputs), -1), full_matrices=False)
            size = shape[bond]
            tensor = pad_axes(s[:size, None] * v[:size], (size, v.shape[1])).reshape(size, *rest)
            axes = [bond, *axes[len(outputs) :]]
            found = pad_axes(u[:, :size], (len(u), size)).reshape(*outputs, size)
        else:
            found = tensor.reshape(outputs)
        own = [*node.outputs, *node.inputs]
        params[node.name] = found.transpose([own.index(ix) for ix in node.indices])
    return params


def _depth(node: Node, makers: dict[str, Node]) -> int:
    """Number of nodes above one of a tree."""
    return 1 + _depth(makers[node.inputs[0]], makers) if node.inputs else 0


def _bring_forward(axes: list[str], tensor: np.ndarray, first: Sequence[str]) -> tuple[list[str], np.ndarray]:
    order = [*first, *(ix for ix in axes if ix not in first)]
    return order, tensor.transpose([axes.index(ix) for ix in order])


def _is_chain(wall: BrickWall) -> bool:
    """Whether the first layer of a brick wall is a tensor train of merged legs."""
    return wall.activation is None and not wall.cyclic and (wall.sites, wall.pattern, wall.bond) == (2, "brick", None)


@closed_form.register
def _(topology: BrickWall, net: Network, tensor: np.ndarray) -> dict[str, np.ndarray]:
    if not _is_chain(topology):
        raise _unknown(describe(topology))
    # The legs (0), (1, 2), (3, 4), … as a tensor train, whose bonds are the wires between the two half-layers; the
    # gates in the middle of the first half-layer, and all further layers, pass them on.
    sizes = net.layout.leg_sizes
    count, params = len(sizes), {}
    groups = [slice(0, 1), *(slice(k, k + 2) for k in range(1, count, 2))]
    caps = [min(sizes[group.stop - 1 : group.stop + 1]) for group in groups[:-1]]
    cores, rest = [], tensor.reshape(1, -1)
    for group, cap in zip(groups, caps):
        left = rest.shape[0]
        u, s, v = np.linalg.svd(rest.reshape(left * math.prod(sizes[group]), -1), full_matrices=False)
        cores.append(u[:, :cap].reshape(left, *sizes[group], -1))
        rest = s[:cap, None] * v[:cap]
    cores.append(rest.reshape(-1, *sizes[groups[-1]], 1))
    half = count // 2
    for name, shape in net.spec.param_shapes.items():
        layer, gate = (int(part) for part in name[1:].split("_g"))
        if layer > 1:
            params[name] = np.eye(math.prod(shape[:2])).reshape(shape)
        elif gate == 0:
            params[name] = pad_axes(cores[0][0], shape) if count > 2 else tensor
        elif gate < half:
            params[name] = (
                np.eye(shape[0], shape[1]) if 2 * gate + 1 < count - 1 else pad_axes(cores[-1][..., 0], shape)
            )
        else:  # axes: two legs, the wires on their left and on their right
            params[name] = pad_axes(np.moveaxis(cores[gate - half + 1], 0, 2), shape)
    return params
