"""Convert networks to and from networkx graphs, and from adjacency matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base import positive_int, positive_ints
from ..errors import SpecError
from ..network import Network, network
from ..spec import Layout
from ..topologies import Graph

if TYPE_CHECKING:
    import networkx as nx


def from_adjacency(matrix: Any, shape: Sequence[int] | None = None, layout: Layout | None = None) -> Network:
    """Make a network from an adjacency matrix, the format of structure search.

    Parameters
    ----------
    matrix : array_like of int, shape (n, n)
        See `deeptn.Graph.from_adjacency`: leg sizes on the diagonal, bond sizes off it.
    shape : sequence of int, optional
        Shape of the weight: consecutive legs form an axis. By default one axis per leg.
    layout : Layout, optional
        Use instead of `shape` if the legs are arranged differently.

    Returns
    -------
    Network

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.from_adjacency([[4, 2, 0], [2, 0, 3], [0, 3, 6]])
    >>> net.shape, net.num_params
    ((4, 6), 32)
    """
    graph = Graph.from_adjacency(matrix)
    if not graph.output[-1]:
        raise SpecError("the diagonal of the adjacency matrix is zero: no node has a leg")
    sizes = dict(graph.sizes)
    return network(graph, [sizes[ix] for ix in graph.output[-1]] if shape is None else shape, layout)


def from_networkx(
    graph: nx.Graph, shape: Sequence[int] | None = None, layout: Layout | None = None, rank: int = 2
) -> Network:
    """Make a network from a networkx graph: its nodes become the tensors, its edges the bonds.

    Parameters
    ----------
    graph : networkx.Graph or networkx.MultiGraph
        A node may have an attribute ``legs``: the sizes of its open indices, as an integer or a sequence of them (or a
        mapping, as `to_networkx` writes it). An edge may have an attribute ``size``. A node with the attribute
        ``hyper`` is a hyper-index that its neighbors share; with a leg, it is open.
    shape, layout
        As for `from_adjacency`. The legs follow the order of the graph's nodes.
    rank : int
        Size of the edges without a ``size``.

    Returns
    -------
    Network
        Its nodes are named ``T0, T1, …`` in the order of the graph's nodes.

    Raises
    ------
    SpecError
        For an edge from a node to itself, or a graph without nodes or legs.

    Examples
    --------
    >>> import networkx as nx, deeptn as dtn
    >>> graph = nx.cycle_graph(4)
    >>> nx.set_node_attributes(graph, 3, "legs")
    >>> net = dtn.from_networkx(graph, shape=(9, 9))
    >>> net.num_params
    48
    """
    import networkx as nx  # on use: it is slow to import

    if not isinstance(graph, nx.Graph) or graph.is_directed():
        raise SpecError(f"graph must be an undirected networkx graph, got {type(graph).__name__}")
    hubs = {node: f"h{k}" for k, node in enumerate(graph) if graph.nodes[node].get("hyper")}
    tensors = [node for node in graph if node not in hubs]
    indices: dict[Any, list[str]] = {node: [] for node in tensors}
    sizes: dict[str, int] = {}
    output: list[str] = []
    for k, (one, other, data) in enumerate(graph.edges(data=True)):
        if one == other:
            raise SpecError(f"node {one!r} has an edge to itself; a tensor cannot have an index twice")
        if one in hubs and other in hubs:
            raise SpecError(f"{one!r} and {other!r} are both hyper-indices; make them one node")
        bond = hubs.get(one) or hubs.get(other) or f"b{k}"
        size = positive_int(data.get("size", rank), f"size of the edge {one!r} - {other!r}")
        if sizes.setdefault(bond, size) != size:
            raise SpecError(f"the edge {one!r} - {other!r} has size {size}, but its index has size {sizes[bond]}")
        for node in (one, other):
            if node not in hubs:
                indices[node].append(bond)
    for node in graph:
        legs = graph.nodes[node].get("legs", ())
        if isinstance(legs, Mapping):
            legs = legs.values()
        for size in positive_ints(legs if isinstance(legs, Iterable) else (legs,), f"legs of node {node!r}"):
            output.append(hubs.get(node, f"o{len(output)}"))
            if sizes.setdefault(output[-1], size) != size:
                raise SpecError(f"node {node!r} has a leg of size {size}, but its edges have size {sizes[output[-1]]}")
            if node not in hubs:
                indices[node].append(output[-1])
    if not tensors or not output:
        what = "no nodes" if not tensors else "no legs; add them with nx.set_node_attributes(graph, {…: 4}, 'legs')"
        raise SpecError(f"the graph has {what}")
    topology = Graph(nodes={f"T{k}": indices[node] for k, node in enumerate(tensors)}, output=output, sizes=sizes)
    return network(topology, [sizes[ix] for ix in output] if shape is None else shape, layout)


def to_networkx(net: Network) -> nx.MultiGraph:
    """Return the structure of a network as a networkx graph.

    Parameters
    ----------
    net : Network

    Returns
    -------
    networkx.MultiGraph
        A node for every node of the network, with the attributes ``stage``, ``shape``, ``constant`` and ``legs`` (a
        mapping of leg names to sizes); an edge for every bond, with ``index`` and ``size``. A hyper-index is a node
        with the attribute ``hyper``; the result of a stage that a later one uses is a node ``"STATE{k}"``.

    Examples
    --------
    >>> import deeptn as dtn
    >>> graph = dtn.to_networkx(dtn.network(dtn.TensorTrain(rank=2), (4, 4)))
    >>> len(graph), graph.number_of_edges(), graph.nodes["core0"]["legs"]
    (4, 3, {'a0_0': 2})
    """
    import networkx as nx

    spec, graph = net.spec, nx.MultiGraph()
    sizes = spec.index_sizes
    prefix = "STATE"
    while any(node.name.startswith(prefix) for node in spec.nodes):
        prefix = f"_{prefix}"
    for number, stage in enumerate(spec.stages):
        state = f"{prefix}{number}"
        last = number == len(spec.stages) - 1
        if not last:
            graph.add_node(state, stage=number, shape=tuple(sizes[ix] for ix in stage.output), legs={}, constant=False)
        holders: dict[str, list[str]] = {}
        for source in spec.sources(number):
            for ix in spec.stages[source].output:
                holders.setdefault(ix, []).append(f"{prefix}{source}")
        for node in stage.nodes:
            graph.add_node(
                node.name, stage=number, shape=spec.node_shape(node), legs={}, constant=node.constant is not None
            )
            for ix in node.indices:
                holders.setdefault(ix, []).append(node.name)
        for ix, names in holders.items():
            ends = names + [state] * (ix in stage.output and not last)
            open_here = last and ix in stage.output
            if len(ends) + open_here > 2:
                hub = f"{number}:{ix}"
                graph.add_node(hub, stage=number, hyper=True, legs={ix: sizes[ix]} if open_here else {})
                graph.add_edges_from((name, hub, {"index": ix, "size": sizes[ix]}) for name in ends)
            elif len(ends) == 2:
                graph.add_edge(*ends, index=ix, size=sizes[ix])
            elif open_here:
                graph.nodes[ends[0]]["legs"][ix] = sizes[ix]
        for other in stage.multiply + stage.add:
            graph.add_edge(f"{prefix}{other}", stage.nodes[0].name if last else state, index=None, size=1)
    return graph
