"""Convert networks to and from the package TensorNetwork."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..base import Array, Params, ParamsLike, optional
from ..errors import SpecError
from ..network import Network
from ..params import check_params
from ..spec import Layout
from .tensors import _connect, import_tensors, stage_tensors


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
        Copy nodes become hyper-indices, the others become nodes ``T0, T1, …`` in this order. In a sequence, as
        `to_tensornetwork` returns it, ``"STATE"`` and ``"FACTOR"`` nodes mean the same as those tags in `from_quimb`.
    output : sequence of tensornetwork.Edge
        The dangling edges, in the order of the legs; for a sequence, by default those of its last group.
    shape, layout, activation, normalize
        As for `from_quimb`.

    Returns
    -------
    net : Network
    params : dict of str to array

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
    groups: Any = list(nodes)
    if not (groups and isinstance(groups[0], tuple)):
        groups = [(groups, output)]
    merged: dict[int, int] = {}

    def find(edge: Any) -> int:
        label = id(edge)
        while label in merged:
            label = merged[label]
        return label

    def unite(edges: Iterable[Any]) -> None:
        labels = {find(edge) for edge in edges}
        keep = min(labels, default=0)
        merged.update({label: keep for label in labels if label != keep})

    before: Sequence[Any] | None = None
    last = groups[-1][1] if output is None else output
    for number, (group, edges) in enumerate(groups):
        following = groups[number + 1][0] if number + 1 < len(groups) else ()
        if number + 1 < len(groups) and not any(node.name == "STATE" for node in following):
            for pair in zip(edges, last or ()):  # a term ends here; its legs are the weight's legs
                unite(pair)
        for node in group:
            if not isinstance(node, tn.AbstractNode):
                raise SpecError(f"nodes must be tensornetwork nodes, got {type(node).__name__}")
            if isinstance(node, tn.CopyNode):
                unite(node.edges)
            elif before is not None and node.name == "STATE":
                for pair in zip(node.edges, before):
                    unite(pair)
        before = edges
    stages = []
    for number, (group, _) in enumerate(groups):
        held: list[tuple[tuple[str, ...], Array]] = []
        states: list[tuple[str, ...]] = []
        factors = 0
        for node in group:
            if not isinstance(node, tn.CopyNode):
                indices = tuple(str(find(edge)) for edge in node.edges)
                if number and node.name == "STATE":
                    states.append(indices)
                elif number and node.name == "FACTOR":
                    factors += 1
                else:
                    held.append((indices, node.tensor))
        stages.append((held, states, factors))
    if last is None:
        raise SpecError("output is missing; name the dangling edges in the order of the legs")
    return import_tensors(stages, tuple(str(find(edge)) for edge in last), shape, layout, activation, normalize)
