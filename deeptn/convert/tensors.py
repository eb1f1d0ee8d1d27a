"""A network as lists of arrays with their indices, the form that all conversions go through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from autoray import do

from ..arrays import DTYPES, constant, dtype_of, library_of
from ..base import Array, Params, ParamsLike
from ..engine import activate
from ..errors import SpecError, near_match
from ..network import Network
from ..spec import Layout, NetworkSpec, Node, Stage

_Tensors: TypeAlias = list[tuple[str, tuple[str, ...], Array]]


def stage_tensors(spec: NetworkSpec, params: ParamsLike) -> list[_Tensors]:
    """Return each stage's tensors (name, indices, array): incoming results (``"STATE"``, ``"FACTOR"``), then nodes."""
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
    name = library_of(tensors[0][2]).name
    backend = {"torch": "pytorch"}.get(name, name)
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
    """Rename indices in their order of appearance, validate, and build the network.

    A stage consists of its tensors, the indices of the previous stage's result, and the number of terms that it
    multiplies. Without such a result, a new term starts; terms that nothing multiplies are summed.
    """
    sizes: dict[str, int] = {}
    flat = [tensor for tensors, _, _ in stages for tensor in tensors]
    for number, (indices, array) in enumerate(flat):
        if dtype_of(array) not in DTYPES:
            raise SpecError(
                f"tensor {number} has the dtype {dtype_of(array)}; {near_match('', DTYPES)}; convert it first, "
                "for example with array.astype('float64')"
            )
        for ix, size in zip(indices, do("shape", array)):
            if sizes.setdefault(ix, int(size)) != size:
                raise SpecError(f"tensor {number}: the index {ix!r} has size {size} here and {sizes[ix]} elsewhere")
    for number, (_, states, _) in enumerate(stages):
        if len(states) > (number > 0):
            raise SpecError(f"network {number} has {len(states)} STATE tensors; only chains of stages can be read")
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
        raise SpecError(f"the layout has leg sizes {layout.leg_sizes}, but the open indices have {tuple(legs_sizes)}")
    names = {ix: leg.name for ix, leg in zip(output, layout.legs)}
    bonds = [ix for ix in sizes if ix not in names]
    names |= {ix: f"b{k}" for k, ix in enumerate(bonds)}
    made: list[Stage] = []
    params: Params = {}
    ends: list[int] = []  # the last stages of the previous terms
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
        raise SpecError("the networks contain a product of sums, which is not supported; import its terms one by one")
    made[-1] = replace(made[-1], add=tuple(ends[:-1]))
    if len(ends) == 1 and not made[-1].multiply:  # a plain chain needs no stage numbers
        made = [replace(stage, sources=None) for stage in made]
    spec = NetworkSpec(layout.legs, tuple(made), tuple((names[ix], sizes[ix]) for ix in bonds))
    return Network(spec, layout), params
