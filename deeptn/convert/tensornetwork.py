"""Convert networks to and from the package TensorNetwork."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..arrays import dtype_of, library_of, numpy_dtype
from ..base import Array, Params, ParamsLike, optional
from ..errors import SpecError
from ..network import Network
from ..params import check_params
from ..spec import Layout
from .tensors import Part, import_tensors, stage_tensors


def to_tensornetwork(net: Network, params: ParamsLike) -> list[tuple[list[Any], list[Any]]]:
    """Return the network as nodes of Google's TensorNetwork, one group per stage.

    Parameters
    ----------
    net : Network
    params : mapping of str to array
        Arrays of any library.

    Returns
    -------
    list of (nodes, edges)
        For each stage, its connected nodes, and the dangling edges in the order of the stage's output. An index in
        more than two tensors becomes a `tensornetwork.CopyNode`. The activated result of an earlier stage is a node
        named ``"STATE"`` (``"FACTOR"`` if it is only multiplied element by element). If the last stage adds others, W
        is the sum over ``net.spec.summands``.

    Raises
    ------
    MissingBackendError
        If tensornetwork is not installed.

    Examples
    --------
    >>> import numpy as np, tensornetwork as tn, deeptn as dtn
    >>> net = dtn.network(dtn.TensorTrain(rank=2), (4, 4))
    >>> params = net.init(dtype="float64")
    >>> nodes, edges = dtn.to_tensornetwork(net, params)[-1]
    >>> W = tn.contractors.auto(nodes, output_edge_order=edges).tensor.reshape(4, 4)
    >>> bool(np.allclose(W, net.materialize(params)))
    True
    """
    tn = optional("tensornetwork", "tensornetwork")
    check_params(net.spec, params)
    sizes = net.spec.index_sizes
    return [
        _connect(tn, tensors, stage.output, sizes)
        for stage, tensors in zip(net.spec.stages, stage_tensors(net.spec, params))
    ]


def from_tensornetwork(
    nodes: Iterable[Any],
    output: Sequence[Any] | None = None,
    shape: Sequence[int] | None = None,
    layout: Layout | None = None,
    activation: str | None = None,
    normalize: str | None = None,
) -> tuple[Network, Params]:
    """Make a network from connected nodes of Google's TensorNetwork, or from several groups of them, one per stage.

    Parameters
    ----------
    nodes : iterable of tensornetwork.Node, or a sequence of (nodes, edges)
        Copy nodes become hyper-indices, the others become nodes ``T0, T1, …`` in this order. A copy node may have
        several dangling edges, and a node an edge to itself (a trace). In a sequence, as `to_tensornetwork` returns it,
        ``"STATE"`` and ``"FACTOR"`` nodes mean the same as those tags in `from_quimb`.
    output : sequence of tensornetwork.Edge
        The dangling edges, in the order of the legs; for a sequence, by default those of its last group. If there is at
        most one, it need not be named; without any, the network generates a scalar, of shape ().
    shape, layout, activation, normalize
        As for `from_quimb`.

    Returns
    -------
    net : Network
    params : dict of str to array
        The nodes' own arrays; integers, and arrays of different dtypes, are converted as in `from_quimb`.

    Raises
    ------
    SpecError
        If a dangling edge is missing from `output`, or an edge leads to a node that is not among `nodes`.

    Examples
    --------
    >>> import numpy as np, tensornetwork as tn, deeptn as dtn
    >>> a, b = tn.Node(np.ones((2, 3))), tn.Node(np.ones((3, 4)))
    >>> _ = a[1] ^ b[0]
    >>> net, params = dtn.from_tensornetwork([a, b], [a[0], b[1]])
    >>> net.materialize(params).tolist()[0]
    [3.0, 3.0, 3.0, 3.0]
    """
    tn = optional("tensornetwork", "tensornetwork")
    if not isinstance(nodes, Iterable):
        raise SpecError(
            f"nodes must be tensornetwork nodes, in a list, got {type(nodes).__name__}; write for example [a, b]"
        )
    groups: Any = list(nodes)
    if not (groups and isinstance(groups[0], tuple)):
        groups = [(groups, output)]
    given = [node for group, _ in groups for node in group]
    for node in given:
        if not isinstance(node, tn.AbstractNode):
            raise SpecError(f"nodes must be tensornetwork nodes, got {type(node).__name__}")
    last = _open_edges(given if len(groups) == 1 else [], groups[-1][1] if output is None else output)
    indices = _Indices()
    before: Sequence[Any] | None = None
    for number, (group, edges) in enumerate(groups):
        following = groups[number + 1][0] if number + 1 < len(groups) else ()
        if number + 1 < len(groups) and not any(node.name == "STATE" for node in following):
            for pair in zip(edges, last):  # a term ends here; its legs are the weight's legs
                indices.unite(pair)
        for node in group:
            if isinstance(node, tn.CopyNode):
                indices.unite(node.edges)
            elif before is not None and node.name == "STATE":
                for pair in zip(node.edges, before):
                    indices.unite(pair)
        before = edges
    parts = []
    for number, (group, edges) in enumerate(groups):
        _check_edges(group, last if number + 1 == len(groups) else edges)
        part = Part([], [], 0, {})
        for place, node in enumerate(group):
            own = tuple(indices.name(edge) for edge in node.edges)
            if isinstance(node, tn.CopyNode):
                part.copies.update(dict.fromkeys(own, int(node.dimension)))
            elif number and node.name == "STATE":
                part.states.append(own)
            elif number and node.name == "FACTOR":
                part = replace(part, factors=part.factors + 1)
            else:
                part.tensors.append((_called(place, node), own, node.tensor))
        parts.append(part)
    return import_tensors(parts, [indices.name(edge) for edge in last], shape, layout, activation, normalize)


class _Indices:
    """Names for edges: those that a copy node joins, or that stand for the same index of a state, have one name."""

    def __init__(self):
        self.merged: dict[int, int] = {}
        self.names: dict[int, str] = {}

    def find(self, edge: Any) -> int:
        label = id(edge)
        while label in self.merged:
            label = self.merged[label]
        return label

    def unite(self, edges: Iterable[Any]) -> None:
        labels = {self.find(edge) for edge in edges}
        keep = min(labels, default=0)
        self.merged.update({label: keep for label in labels if label != keep})

    def name(self, edge: Any) -> str:
        return self.names.setdefault(
            self.find(edge), f"edge {len(self.names)} (axis {edge.axis1} of {edge.node1.name!r})"
        )


def _called(place: int, node: Any) -> str:
    return f"node {place} ({node.name!r})"


def _open_edges(nodes: Sequence[Any], output: Any) -> list[Any]:
    """Return the dangling edges in the order of the legs; `SpecError` if there are several, in no order."""
    if output is not None:
        edges = list(output) if isinstance(output, Iterable) else []
        wrong = [edge for edge in edges if not hasattr(edge, "is_dangling")]
        if wrong or not isinstance(output, Iterable):
            raise SpecError(
                f"output must be a list of edges of tensornetwork, got {type([*wrong, output][0]).__name__}; write for "
                "example output=[a[0], b[1]]"
            )
        return edges
    dangling = [edge for node in nodes for edge in node.edges if edge.is_dangling()]
    if len(dangling) > 1:
        raise SpecError(
            f"output is missing; the nodes have {len(dangling)} dangling edges: name them in the order of the legs, "
            "for example output=[a[0], b[1]]"
        )
    return dangling


def _check_edges(nodes: Sequence[Any], output: Sequence[Any]) -> None:
    """Raise `SpecError`, which names a node and an axis, unless all edges stay among the nodes or are in `output`."""
    known = set(map(id, nodes))
    places = {id(edge): k for k, edge in enumerate(output)}
    if len(places) < len(output):
        repeated = next(edge for k, edge in enumerate(output) if places[id(edge)] != k)
        raise SpecError(f"output repeats the edge of axis {repeated.axis1} of the node {repeated.node1.name!r}")
    for place, node in enumerate(nodes):
        for axis, edge in enumerate(node.edges):
            if edge.is_dangling():
                if places.pop(id(edge), None) is None:
                    raise SpecError(f"{_called(place, node)}: the edge of axis {axis} dangles; add it to output")
                continue
            other = edge.node2 if edge.node1 is node else edge.node1
            if id(other) not in known:
                raise SpecError(
                    f"{_called(place, node)}: the edge of axis {axis} leads to the node {other.name!r}, which is not "
                    "among nodes; add it"
                )
    if places:
        raise SpecError(f"output[{min(places.values())}] is not a dangling edge of one of the nodes")


def _connect(
    tn: Any, tensors: list[tuple[str, tuple[str, ...], Array]], output: Sequence[str], sizes: dict[str, int]
) -> tuple[list[Any], list[Any]]:
    name = library_of(tensors[0][2]).name
    backend = {"torch": "pytorch"}.get(name, name)
    dtype = numpy_dtype(dtype_of(tensors[0][2]))
    nodes = [tn.Node(array, name=name, axis_names=list(indices), backend=backend) for name, indices, array in tensors]
    ends: dict[str, list[Any]] = {}
    for node, (_, indices, _) in zip(nodes, tensors):
        for ix in indices:
            ends.setdefault(ix, []).append(node[ix])
    open_edges = {}
    for ix, edges in ends.items():
        if len(edges) + (ix in output) > 2:
            rank = len(edges) + (ix in output)
            copy = tn.CopyNode(rank, sizes[ix], name=f"copy_{ix}", backend=backend, dtype=dtype)
            nodes.append(copy)
            for k, edge in enumerate(edges):
                tn.connect(edge, copy[k])
            edges = [copy[len(edges)]] if ix in output else []
        elif len(edges) == 2:
            tn.connect(*edges)
        if ix in output:
            open_edges[ix] = edges[0]
    return nodes, [open_edges[ix] for ix in output]
