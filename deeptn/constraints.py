"""Keep nodes isometric: a pure map from any parameters to constrained ones, the same in every library."""

from __future__ import annotations

from collections.abc import Iterable

from autoray import do

from .arrays import cast_like, dtype_of
from .base import Array, Params, ParamsLike
from .errors import SpecError, near_match
from .init import NodeMatrix, isometric
from .network import Network
from .params import check_params
from .spec import Node
from .topologies import describe


def isometric_nodes(net: Network, nodes: Iterable[str] | None = None) -> tuple[Node, ...]:
    """Return the nodes to constrain: the named ones, or by default all nodes marked as isometric.

    Raises
    ------
    SpecError
        If no node is marked, or a name is unknown or belongs to a constant or to a node without inputs.

    Examples
    --------
    >>> import deeptn as dtn
    >>> [node.name for node in isometric_nodes(dtn.network(dtn.MERA(rank=2), (4, 4)))]
    ['L1_w0', 'L2_w0', 'L2_w1', 'L2_u0']
    """
    by_name = {node.name: node for node in net.spec.nodes}
    if nodes is None:
        found = [node for node in net.spec.nodes if node.isometric and node.param is not None]
        if not found:
            what = "this network" if net.topology is None else describe(net.topology)
            raise SpecError(f"no node of {what} is marked as isometric; name the nodes, for example nodes=[…]")
        return tuple(found)
    found = []
    for name in nodes:
        if name not in by_name:
            raise SpecError(f"unknown node {name!r}; {near_match(str(name), by_name)}")
        node = by_name[name]
        if node.param is None or not node.inputs:
            raise SpecError(f"node {name!r} is constant or has no inputs; it cannot become an isometry")
        found.append(node)
    return tuple(found)


def isometrize(net: Network, params: ParamsLike, nodes: Iterable[str] | None = None) -> Params:
    """Replace the tensors of isometric nodes with isometries, times a positive factor.

    View a node as the matrix A = Q R from its inputs to its outputs (transposed if it has fewer outputs), with a
    positive diagonal of R; it becomes ``Q ‖A‖ / ‖Q‖``. An isometry times a positive factor stays as it is, so the map
    is a projection. It is also differentiable: train the parameters that you pass in.

    Parameters
    ----------
    net : Network
    params : mapping of str to array
        Arrays of NumPy, PyTorch or JAX.
    nodes : iterable of str, optional
        Names of nodes; by default those marked ``isometric`` (`Tree`, `AugmentedTree`, `MERA`).

    Returns
    -------
    dict of str to array
        All parameters; those of other nodes are unchanged.

    Raises
    ------
    SpecError
        If no node is marked, or a named node cannot be an isometry.

    Notes
    -----
    The factor lets a layer learn its scale. Source of the map: Mezzadri, Notices of the AMS 54, 592 (2007).

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> net = dtn.network(dtn.Tree(rank=4), (16, 16))
    >>> made = dtn.isometrize(net, net.init(scheme="gaussian", dtype="float64"))
    >>> A = made["L3_t0"].reshape(4, 4)
    >>> square = A @ A.T
    >>> bool(np.allclose(square, square[0, 0] * np.eye(4)))
    True
    """
    check_params(net.spec, params)
    made = {name: params[name] for name in net.spec.param_shapes}
    for node in isometric_nodes(net, nodes):
        assert node.param is not None
        made[node.param] = isometry(node, params[node.param])
    return made


def isometry(node: Node, array: Array) -> Array:
    """Return the tensor of a node as an isometry times a positive factor."""
    name = dtype_of(array)
    if name in ("float16", "bfloat16"):  # no library has a QR decomposition for these
        return do("astype", isometry(node, do("astype", array, "float32")), name)
    view = NodeMatrix(node, array.shape)
    return view.tensor(scaled_isometry(view.matrix(array)))


def scaled_isometry(matrix: Array) -> Array:
    """Return ``Q ‖A‖ / ‖Q‖`` for a matrix ``A = Q R``."""
    norm = do("sqrt", do("sum", do("abs", matrix) ** 2) / min(matrix.shape))
    return isometric(matrix) * cast_like(norm, matrix)
