"""To and from quimb and TensorNetwork; both are imported on use."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from autoray import do, infer_backend

from ._typing import Array, Params, ParamsLike
from .errors import MissingBackendError, SpecError
from .layout import Layout
from .network import Network
from .params import check_params, constant
from .runner import activate
from .spec import NetworkSpec, Node, Stage


def optional(module: str, extra: str) -> Any:
    """Import a package on use; `MissingBackendError` says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingBackendError(module.partition(".")[0], extra) from error


def to_quimb(net: Network, params: ParamsLike) -> list[Any]:
    """Return the network as quimb tensor networks, one per stage.

    Parameters
    ----------
    net : Network
    params : mapping of str to array
        Of any library; they are not copied.

    Returns
    -------
    list of quimb.tensor.TensorNetwork
        Tensors carry the node's name and ``"STAGE{k}"`` as tags. The activated result of an earlier stage that enters
        is one more tensor, tagged ``"STATE"``, or ``"FACTOR"`` where it is only multiplied element by element. The last
        network has the legs as outer indices (a hyper-index has to be named in ``output_inds``). Where the last stage
        adds others, W is the sum over ``net.spec.summands``.

    Raises
    ------
    SpecError
        If the parameters are not those of the network.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> net = dtn.network(dtn.BrickWall(layers=2), (4, 4))
    >>> params = net.init(dtype="float64")
    >>> *_, last = dtn.to_quimb(net, params)
    >>> W = last.contract(output_inds=[leg.name for leg in net.layout.axis_legs]).data.reshape(4, 4)
    >>> bool(np.allclose(W, net.materialize(params)))
    True
    """
    import quimb.tensor as qtn

    check_params(net.spec, params)
    return [
        qtn.TensorNetwork([qtn.Tensor(array, ix, tags=(name, f"STAGE{number}")) for name, ix, array in tensors])
        for number, tensors in enumerate(stage_tensors(net.spec, params))
    ]


def from_quimb(
    tn: Any,
    output: Sequence[str] | None = None,
    shape: Sequence[int] | None = None,
    layout: Layout | None = None,
    activation: str | None = None,
    normalize: str | None = None,
) -> tuple[Network, Params]:
    """Make a network of any quimb tensor network, or of several, one per stage.

    Parameters
    ----------
    tn : quimb.tensor.TensorNetwork, or a sequence of them
        Hyper-indices are kept. Tensors become nodes ``T0, T1, …`` in the order of ``tn.tensors``. In a sequence, as
        `to_quimb` returns it, the tensor tagged ``"STATE"`` stands for the result of the network before; a network
        without one begins a new term. Terms are added up, but those for which a tensor tagged ``"FACTOR"`` stands.
    output : sequence of str, optional
        The open indices, in the order of the legs; ``tn.outer_inds()`` by default.
    shape : sequence of int, optional
        Shape of the weight: legs that follow one another make up an axis. By default one axis per open index.
    layout : Layout, optional
        Instead of `shape`, where the legs lie otherwise; its legs are the open indices, one by one.
    activation, normalize : str, optional
        What stands between the networks of a sequence.

    Returns
    -------
    net : Network
    params : dict of str to array
        The tensors' own arrays.

    Raises
    ------
    SpecError
        If an open index is left out of `output`, or belongs to no tensor.
    LayoutError
        If the legs do not make up the shape.

    Examples
    --------
    >>> import quimb.tensor as qtn, deeptn as dtn
    >>> mps = qtn.MPS_rand_state(6, bond_dim=4, seed=1)
    >>> net, params = dtn.from_quimb(mps, shape=(8, 8))
    >>> net.materialize(params).shape, net.num_params
    ((8, 8), 144)
    """
    networks = list(tn) if isinstance(tn, (list, tuple)) else [tn]
    stages = []
    for number, network in enumerate(networks):
        if not hasattr(network, "tensors") or not hasattr(network, "outer_inds"):
            raise SpecError(f"tn must be a quimb TensorNetwork or a list of them, got {type(network).__name__}")
        names = ["STATE" if "STATE" in t.tags else "FACTOR" if "FACTOR" in t.tags else "" for t in network.tensors]
        names = names if number else [""] * len(names)
        tensors = [(tuple(t.inds), t.data) for name, t in zip(names, network.tensors) if not name]
        if getattr(network, "exponent", 0.0):
            tensors[0] = (tensors[0][0], tensors[0][1] * 10.0**network.exponent)
        states = [tuple(t.inds) for name, t in zip(names, network.tensors) if name == "STATE"]
        stages.append((tensors, states, names.count("FACTOR")))
    last = tuple(networks[-1].outer_inds() if output is None else output)
    return import_tensors(stages, last, shape, layout, activation, normalize)


def to_tensornetwork(net: Network, params: ParamsLike) -> list[tuple[list[Any], list[Any]]]:
    """Return the network as nodes of google's TensorNetwork, one group per stage.

    Parameters
    ----------
    net : Network
    params : mapping of str to array
        Of any library.

    Returns
    -------
    list of (nodes, edges)
        For each stage its connected nodes, and the dangling edges in the order of the stage's output. An index in
        more than two tensors becomes a `tensornetwork.CopyNode`. The activated result of an earlier stage that enters
        is a node named ``"STATE"`` (``"FACTOR"`` where it is only multiplied element by element). Where the last stage
        adds others, W is the sum over ``net.spec.summands``.

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
    """Make a network of connected nodes of google's TensorNetwork, or of several groups of them, one per stage.

    Parameters
    ----------
    nodes : iterable of tensornetwork.Node, or a sequence of (nodes, edges)
        Copy nodes become hyper-indices; the others nodes ``T0, T1, …`` in this order. In a sequence, as
        `to_tensornetwork` returns it, nodes named ``"STATE"`` and ``"FACTOR"`` are read as by `from_quimb`.
    output : sequence of tensornetwork.Edge
        The dangling edges, in the order of the legs; for a sequence those of its last group.
    shape, layout, activation, normalize
        As for `from_quimb`.

    Returns
    -------
    net : Network
    params : dict of str to array

    Raises
    ------
    SpecError
        If a dangling edge is left out of `output`, or an edge leads to a node that is not among `nodes`.

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
            for pair in zip(edges, last or ()):  # a term that ends here; its legs are those of the weight
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


_Tensors: TypeAlias = list[tuple[str, tuple[str, ...], Array]]


def stage_tensors(spec: NetworkSpec, params: ParamsLike) -> list[_Tensors]:
    """The tensors of every stage (name, indices, array): results that enter, ``"STATE"`` or ``"FACTOR"``, and nodes."""
    import quimb.tensor as qtn

    sample = params[next(iter(spec.param_shapes))]
    found: list[_Tensors] = []
    results: list[Array] = []
    for number, stage in enumerate(spec.stages):
        tensors = [("STATE", spec.stages[source].output, results[source]) for source in spec.sources(number)]
        tensors += [("FACTOR", stage.output, results[other]) for other in stage.multiply]
        for node in stage.nodes:
            if node.param is not None:
                tensors.append((node.name, node.indices, params[node.param]))
            elif node.constant is not None:
                array = constant(node.constant, spec.node_shape(node), sample)
                tensors.append((node.name, node.indices, array))
        found.append(tensors)
        if number < len(spec.stages) - 1:
            network: Any = qtn.TensorNetwork([qtn.Tensor(array, indices) for _, indices, array in tensors])
            result = network.contract(output_inds=stage.output, optimize="greedy", preserve_tensor=True).data
            for other in stage.add:
                result = result + results[other]
            results.append(activate(result, stage.activation, stage.normalize is not None))
    return found


def _connect(
    tn: Any, tensors: list[tuple[str, tuple[str, ...], Array]], output: Sequence[str], sizes: dict[str, int]
) -> tuple[list[Any], list[Any]]:
    backend = {"torch": "pytorch"}.get(infer_backend(tensors[0][2]), infer_backend(tensors[0][2]))
    nodes = [tn.Node(array, name=name, axis_names=list(indices), backend=backend) for name, indices, array in tensors]
    ends: dict[str, list[Any]] = {}
    for node, (_, indices, _) in zip(nodes, tensors):
        for ix in indices:
            ends.setdefault(ix, []).append(node[ix])
    open_edges = {}
    for ix, edges in ends.items():
        if len(edges) + (ix in output) > 2:
            copy = tn.CopyNode(len(edges) + (ix in output), sizes[ix], name=f"copy_{ix}", backend=backend)
            nodes.append(copy)
            for k, edge in enumerate(edges):
                tn.connect(edge, copy[k])
            edges = [copy[len(edges)]] if ix in output else []
        elif len(edges) == 2:
            tn.connect(*edges)
        if ix in output:
            open_edges[ix] = edges[0]
    return nodes, [open_edges[ix] for ix in output]


Tensors: TypeAlias = list[tuple[tuple[str, ...], Array]]


def import_tensors(
    stages: Sequence[tuple[Tensors, list[tuple[str, ...]], int]],
    output: tuple[str, ...],
    shape: Sequence[int] | None,
    layout: Layout | None,
    activation: str | None = None,
    normalize: str | None = None,
) -> tuple[Network, Params]:
    """Rename indices by their order of appearance, and validate.

    A stage is its tensors, the indices of what stands for the result of the one before, and the number of terms that it
    multiplies. Without such a result a new term begins; terms that nothing multiplies are added up.
    """
    sizes: dict[str, int] = {}
    flat = [tensor for tensors, _, _ in stages for tensor in tensors]
    for number, (indices, array) in enumerate(flat):
        for ix, size in zip(indices, do("shape", array)):
            if sizes.setdefault(ix, int(size)) != size:
                raise SpecError(f"tensor {number}: the index {ix!r} has size {size} here and {sizes[ix]} elsewhere")
    for number, (_, states, _) in enumerate(stages):
        if len(states) > (number > 0):
            raise SpecError(f"network {number} has {len(states)} tensors STATE; only chains of stages are read")
    for ix in output:
        if ix not in sizes:
            raise SpecError(f"the open index {ix!r} belongs to no tensor; the tensors have {sorted(sizes)[:12]}")
    repeated = [ix for ix, count in Counter(output).items() if count > 1]
    if repeated:
        raise SpecError(f"output repeats the index {repeated[0]!r}")
    legs_sizes = [sizes[ix] for ix in output]
    if layout is None:
        layout = Layout.single(legs_sizes) if shape is None else Layout.grouped(shape, legs_sizes)
    elif layout.leg_sizes != tuple(legs_sizes):
        raise SpecError(f"the layout has legs of sizes {layout.leg_sizes}, the open indices {tuple(legs_sizes)}")
    names = {ix: leg.name for ix, leg in zip(output, layout.legs)}
    bonds = [ix for ix in sizes if ix not in names]
    names |= {ix: f"b{k}" for k, ix in enumerate(bonds)}
    made: list[Stage] = []
    params: Params = {}
    ends: list[int] = []  # the last stages of the terms before
    legs = tuple(leg.name for leg in layout.legs)
    for number, (tensors, states, factors) in enumerate(stages):
        entering = {names[ix] for indices in states for ix in indices}
        nodes = []
        for indices, array in tensors:
            renamed = tuple(names[ix] for ix in indices)
            inputs = tuple(ix for ix in renamed if ix in entering)
            nodes.append(Node(f"T{len(params)}", renamed, inputs if len(inputs) < len(renamed) else ()))
            params[nodes[-1].name] = array
        state = next(iter(stages[number + 1][1]), None) if number + 1 < len(stages) else None
        sources = (number - 1,) * len(states)
        if state is not None:
            made.append(Stage(tuple(nodes), tuple(names[ix] for ix in state), activation, normalize, sources))
            continue
        multiply = tuple(ends[len(ends) - factors :])
        ends = [*ends[: len(ends) - factors], number]
        made.append(Stage(tuple(nodes), legs, sources=sources, multiply=multiply))
    if len(ends) > 1 and any(stage.multiply for stage in made):
        raise SpecError("the networks hold a product of sums, which does not come back; import its terms one by one")
    made[-1] = replace(made[-1], add=tuple(ends[:-1]))
    if len(ends) == 1 and not made[-1].multiply:  # a plain chain needs no numbers
        made = [replace(stage, sources=None) for stage in made]
    spec = NetworkSpec(layout.legs, tuple(made), tuple((names[ix], sizes[ix]) for ix in bonds))
    return Network(spec, layout), params
