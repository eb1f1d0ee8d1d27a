"""A network as lists of arrays with their indices, the form that all conversions go through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from autoray import do, lazy

from ..arrays import DTYPES, constant, dtype_of, library_of
from ..base import Array, Params, ParamsLike
from ..engine import activate
from ..errors import SpecError, near_match
from ..network import Network
from ..spec import Layout, NetworkSpec, Node, Stage, identity, separate

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


@dataclass(frozen=True)
class Part:
    """What becomes one stage.

    Attributes
    ----------
    tensors : list of (str, tuple of str, array)
        What messages call the tensor, its indices, and its entries.
    states : list of tuple of str
        The indices of the previous stage's result, once for every time that it enters.
    factors : int
        Number of terms that the stage multiplies.
    copies : dict of str to int
        Sizes of the indices that copy tensors stand for, whether a tensor has them or not.
    """

    tensors: _Tensors
    states: list[tuple[str, ...]] = field(default_factory=list)
    factors: int = 0
    copies: dict[str, int] = field(default_factory=dict)


def import_tensors(
    parts: Sequence[Part],
    output: Sequence[str],
    shape: Sequence[int] | None,
    layout: Layout | None,
    activation: str | None = None,
    normalize: str | None = None,
) -> tuple[Network, Params]:
    """Rename indices in their order of appearance, validate, and build the network.

    A part that no result enters starts a new term; terms that nothing multiplies are summed. A tensor may repeat an
    index (its diagonal), and so may `output` (entries off the diagonal are zero). An index that a single tensor has and
    that is not open is summed over.
    """
    parts = _alike(parts)
    ends_in = [part.states[0] if part.states else output for part in parts[1:]] + [output]
    sizes = _checked_sizes(parts, ends_in)
    leg_sizes = [sizes[ix] for ix in output]
    if layout is None:
        layout = Layout.single(leg_sizes) if shape is None else Layout.grouped(shape, leg_sizes)
    elif layout.leg_sizes != tuple(leg_sizes):
        raise SpecError(f"the layout has leg sizes {layout.leg_sizes}, but the open indices have {tuple(leg_sizes)}")
    legs = tuple(leg.name for leg in layout.legs)
    names = dict(zip(reversed(output), reversed(legs)))
    pairs = [(names[ix], leg) for ix, leg in zip(output, legs) if names[ix] != leg]
    names |= {ix: f"b{k}" for k, ix in enumerate(ix for ix in sizes if ix not in names)}
    renamed = {names[ix]: size for ix, size in sizes.items()} | {leg.name: leg.size for leg in layout.legs}
    made: list[Stage] = []
    params: Params = {}
    ends: list[int] = []  # the last stages of the previous terms
    for number, (part, end) in enumerate(zip(parts, ends_in)):
        operands: list[tuple[str, tuple[str, ...]]] = []
        for _, indices, array in part.tensors:
            operands.append((f"T{len(params)}", tuple(names[ix] for ix in indices)))
            params[operands[-1][0]] = array
        entering = [names[ix] for indices in part.states for ix in indices]
        open_here = tuple(dict.fromkeys(names[ix] for ix in end))
        separated, nodes = separate(operands, entering, open_here, renamed, number)
        nodes = [Node(name, own, _inputs(own, entering)) for (name, _), own in zip(operands, separated)] + nodes
        held = {*entering, *open_here, *(ix for _, indices in operands for ix in indices)}
        loops = [float(size) for ix, size in part.copies.items() if names[ix] not in held]
        nodes += [Node(f"loop{number}_{k}", (), constant=(size,)) for k, size in enumerate(loops)]
        sources = (number - 1,) * len(part.states)
        if number + 1 < len(parts) and parts[number + 1].states:
            made.append(Stage(tuple(nodes), open_here, activation, normalize, sources))
            continue
        nodes += [identity(f"open{number}_{leg}", ix, leg, renamed[leg]) for ix, leg in pairs]
        multiply = tuple(ends[len(ends) - part.factors :])
        ends = [*ends[: len(ends) - part.factors], number]
        made.append(Stage(tuple(nodes), legs, sources=sources, multiply=multiply))
    if len(ends) > 1 and any(stage.multiply for stage in made):
        raise SpecError("the networks contain a product of sums, which is not supported; import its terms one by one")
    made[-1] = replace(made[-1], add=tuple(ends[:-1]))
    if len(ends) == 1 and not made[-1].multiply:  # a plain chain needs no stage numbers
        made = [replace(stage, sources=None) for stage in made]
    used = {ix for stage in made for node in stage.nodes for ix in node.indices} - set(legs)
    spec = NetworkSpec(layout.legs, tuple(made), tuple((ix, size) for ix, size in renamed.items() if ix in used))
    return Network(spec, layout), params


def _inputs(indices: tuple[str, ...], entering: Sequence[str]) -> tuple[str, ...]:
    """Return the indices through which a node reads the state; none if it has no other indices."""
    found = tuple(ix for ix in indices if ix in entering)
    return found if len(found) < len(indices) else ()


def _alike(parts: Sequence[Part]) -> list[Part]:
    """Convert all arrays to one dtype that parameters can have; raise `SpecError`, which names a tensor, if none fits.

    Arrays that have this dtype already are kept as they are.
    """
    if not parts or not all(part.tensors for part in parts):
        raise SpecError("the network has no tensors, so it would have no parameters; add one")
    parts = [
        replace(part, tensors=[(what, ixs, _computed(a, what)) for what, ixs, a in part.tensors]) for part in parts
    ]
    tensors = [tensor for part in parts for tensor in part.tensors]
    first, _, sample = tensors[0]
    lib = library_of(sample)
    found: dict[str, Array] = {}
    for what, _, array in tensors:
        if (name := library_of(array).name) != lib.name:
            raise SpecError(f"{what} is an array of {name}, but {first} is one of {lib.name}; convert one of them")
        dtype = dtype_of(array)
        if dtype not in DTYPES and dtype.strip("u0123456789") not in ("int", "bool"):
            raise SpecError(
                f"{what} has the dtype {dtype}; {near_match('', DTYPES)}, or integers; convert it first, for example "
                "with array.astype('float64')"
            )
        found.setdefault(dtype, do("reshape", array, (-1,))[:0])
    dtype = dtype_of(math.prod(list(found.values())[1:], start=next(iter(found.values()))))  # as the library promotes
    if dtype not in DTYPES:
        dtype = "float64" if lib.integers == "int64" else "float32"
    if set(found) == {dtype}:
        return parts

    def cast(tensor: tuple[str, tuple[str, ...], Array]) -> tuple[str, tuple[str, ...], Array]:
        what, indices, array = tensor
        return what, indices, array if dtype_of(array) == dtype else lib.astype(array, dtype)

    return [replace(part, tensors=[*map(cast, part.tensors)]) for part in parts]


def _computed(array: Any, what: str) -> Array:
    """Turn numbers, lists and autoray's lazy arrays into arrays; raise `SpecError` for masked and sparse ones."""
    if isinstance(array, lazy.LazyArray):
        array = array.compute()
    if isinstance(array, np.ma.MaskedArray):
        raise SpecError(f"{what} is a masked array, but every entry counts; write for example array.filled(0)")
    if hasattr(array, "todense") or str(getattr(array, "layout", "")).startswith("torch.sparse"):
        dense = next(name for name in ("toarray", "todense", "to_dense") if hasattr(array, name))
        raise SpecError(f"{what} is a sparse array, a {type(array).__name__}; write array.{dense}()")
    return array if hasattr(array, "shape") and not isinstance(array, np.generic) else np.asarray(array)


def _checked_sizes(parts: Sequence[Part], ends_in: Sequence[Sequence[str]]) -> dict[str, int]:
    """Return the size of every index, in order of appearance; raise `SpecError` for those that do not fit."""
    sizes: dict[str, int] = {}
    for number, part in enumerate(parts):
        if len(part.states) > (number > 0):
            raise SpecError(f"network {number} has {len(part.states)} STATE tensors; only chains of stages can be read")
    for number, (part, end) in enumerate(zip(parts, ends_in)):
        for what, indices, array in part.tensors:
            shape = tuple(map(int, do("shape", array)))
            if len(shape) != len(indices):
                raise SpecError(f"{what} has {len(indices)} indices, but its array has shape {shape}")
            for ix, size in zip(indices, shape):
                if size < 1:
                    raise SpecError(f"{what}: the index {ix!r} has size 0; every index must have at least size 1")
                if sizes.setdefault(ix, size) != size:
                    raise SpecError(f"{what}: the index {ix!r} has size {size} here and {sizes[ix]} elsewhere")
        sizes |= part.copies
        where = f"network {number}" if len(parts) > 1 else "the network"
        for indices in part.states:
            if len(set(indices)) < len(indices):
                raise SpecError(f"{where} has a STATE tensor that repeats an index, {indices}; take its diagonal")
        held = {ix for _, indices, _ in part.tensors for ix in indices}.union(*part.states, part.copies)
        for ix in end:
            if ix not in held:
                raise SpecError(f"the open index {ix!r} belongs to no tensor of {where}, which has {sorted(held)[:12]}")
    return sizes
