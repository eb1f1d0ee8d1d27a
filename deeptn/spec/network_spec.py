"""The specification of a deep tensor network: stages of nodes, without arrays."""

# pyright: reportUnnecessaryIsInstance=false
# Arguments are checked at run time, whatever their annotations say.
from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Annotated, Any

from msgspec import Meta
from msgspec.structs import astuple

from ..base import Owner, Part, converted, is_list, owner_of, positive_int
from ..errors import FormatError, SpecError
from .layout import LEGS, Leg, Size
from .nodes import Node, Stage, count_nodes


@dataclass(frozen=True)
class NetworkSpec:
    """A deep tensor network without arrays: frozen, hashable, validated.

    Parameters
    ----------
    legs : tuple of Leg
        The open indices of the generated tensor, in order. They are the output of the last stage.
    stages : tuple of Stage
        Each stage takes the result of the previous one (or the results of its `sources`); the result of the last is the
        generated tensor. An activation, normalization, product or sum separates two stages.
    sizes : mapping or tuple of pairs
        Sizes of all indices except the legs.

    Raises
    ------
    SpecError
        If an index has no size or two sizes, dangles, or is an output of no node; the message names node and index.

    Examples
    --------
    >>> spec = NetworkSpec(
    ...     legs=(Leg("a0_0", 2, 0), Leg("a1_0", 3, 1)),
    ...     stages=(Stage((Node("U", ("a0_0", "b")), Node("V", ("b", "a1_0"))), ("a0_0", "a1_0")),),
    ...     sizes={"b": 4},
    ... )
    >>> spec.num_params, spec.param_shapes
    (20, {'U': (2, 4), 'V': (4, 3)})
    """

    legs: tuple[Leg, ...]
    stages: tuple[Stage, ...]
    sizes: tuple[tuple[str, int], ...] = ()

    def __post_init__(self):
        sizes = {str(name): positive_int(size, f"size of index {name!r}") for name, size in dict(self.sizes).items()}
        legs = tuple(Leg(str(leg.name), int(leg.size), int(leg.axis)) for leg in self.legs)
        object.__setattr__(self, "legs", legs)
        object.__setattr__(self, "stages", tuple(self.stages))
        object.__setattr__(self, "sizes", tuple(sorted(sizes.items())))
        _validate(self)

    def __hash__(self):
        return int(self.digest[:15], 16)

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # what is cached belongs to this process

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all fields: the same for equal specifications, in every process."""
        return hashlib.sha256(repr((self.legs, self.stages, self.sizes)).encode()).hexdigest()

    @cached_property
    def owner(self) -> Owner:
        """What is compiled for this specification belongs to it, and is released with the last equal one that has it.

        Networks ask for it when they are made.
        """
        return owner_of(self.digest)

    @cached_property
    def index_sizes(self) -> dict[str, int]:
        """Size of every index, including the legs."""
        return dict(self.sizes) | {leg.name: leg.size for leg in self.legs}

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, stage by stage."""
        return tuple(node for stage in self.stages for node in stage.nodes)

    def node_shape(self, node: Node) -> tuple[int, ...]:
        """Return the sizes of a node's axes."""
        return tuple(self.index_sizes[ix] for ix in node.indices)

    @cached_property
    def param_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter, in the order in which the nodes first use them."""
        return {node.param: self.node_shape(node) for node in self.nodes if node.param is not None}

    @cached_property
    def num_params(self) -> int:
        """Number of trainable entries; a shared parameter counts once."""
        return sum(math.prod(shape) for shape in self.param_shapes.values())

    def sources(self, number: int) -> tuple[int, ...]:
        """Return the numbers of the stages whose results a stage reads."""
        named = self.stages[number].sources
        return named if named is not None else (number - 1,) * (number > 0)

    @cached_property
    def is_linear(self) -> bool:
        """Whether W is a multilinear network or a sum of them, so that it can be applied without being formed."""
        return not any(
            stage.activation or stage.normalize or stage.multiply or self.sources(number)
            for number, stage in enumerate(self.stages)
        )

    @cached_property
    def summands(self) -> tuple[int, ...]:
        """Numbers of the stages that sum to W: the last one, those it adds, and so on. Their outputs are the legs."""
        found = [len(self.stages) - 1]
        for number in found:
            found += self.stages[number].add
            if len(found) > len(self.stages):  # some stage is added along two paths; `_validate_between` rejects it
                break
        return tuple(sorted(found))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, without the fields of nodes and stages that have their default value."""
        stages = [_said(stage) | {"nodes": [_said(node) for node in stage.nodes]} for stage in self.stages]
        for stage in stages:
            for node in stage["nodes"]:
                if node.get("param") == node["name"]:
                    del node["param"]
        return {
            "legs": [[leg.name, leg.size, leg.axis] for leg in self.legs],
            "sizes": [list(pair) for pair in self.sizes],
            "stages": stages,
        }

    @classmethod
    def from_dict(cls, data: Any) -> NetworkSpec:
        """Inverse of `to_dict`; raises `FormatError` for malformed data or an invalid network."""
        return cls.of(converted(data, SpecData, "bad network"))

    @classmethod
    def of(cls, data: SpecData) -> NetworkSpec:
        """Build the specification in a file; raises `FormatError` for an invalid network."""
        if len(data.legs) > LEGS:
            raise FormatError(f"a network of a file has at most {LEGS:,} legs")
        try:
            stages = tuple(
                Stage(tuple(Node(*astuple(node)) for node in stage.nodes), *astuple(stage)[1:]) for stage in data.stages
            )
            return cls(tuple(Leg(*leg) for leg in data.legs), stages, data.sizes)
        except SpecError as error:
            raise FormatError(f"bad network: {error!s:.500}") from error


class NodeData(Part, frozen=True):
    """A node in a file, with the fields of `Node`."""

    name: str
    indices: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    param: str | None = None
    constant: tuple[float, ...] | None = None
    isometric: bool = False


class StageData(Part, frozen=True):
    """A stage in a file, with the fields of `Stage`."""

    nodes: tuple[NodeData, ...]
    output: tuple[str, ...]
    activation: str | None = None
    normalize: str | None = None
    sources: tuple[int, ...] | None = None
    multiply: tuple[int, ...] = ()
    add: tuple[int, ...] = ()


class SpecData(Part, frozen=True):
    """A specification in a file, as `NetworkSpec.to_dict` writes it: legs are names, sizes and axes."""

    legs: tuple[tuple[str, Size, Annotated[int, Meta(ge=0)]], ...]
    sizes: tuple[tuple[str, Size], ...]
    stages: tuple[StageData, ...]


def _said(part: Node | Stage) -> dict[str, Any]:
    """Return the fields of a node or stage that differ from their defaults, with tuples as lists."""
    values = ((name, getattr(part, name), default) for name, default in DEFAULTS[type(part)])
    return {name: list(value) if is_list(value) else value for name, value, default in values if value != default}


#: Fields of nodes and stages with their defaults, except the nodes of stages.
DEFAULTS = {
    cls: [(field.name, field.default) for field in fields(cls) if field.name != "nodes"] for cls in (Node, Stage)
}


def stack(
    layers: Iterable[tuple[Sequence[Node], Sequence[str]]], activation: str | None, normalize: str | None
) -> tuple[Stage, ...]:
    """Turn layers `(nodes, open indices)` into stages: one per layer with an activation, one in total without.

    Parameters
    ----------
    layers : iterable of (nodes, output)
        In the order in which they act. Each layer takes the open indices of the previous one by name.
    activation, normalize : str or None
        Applied after every layer except the last. Without an activation, the network is linear and never normalized.

    Returns
    -------
    tuple of Stage

    Examples
    --------
    >>> layers = [([Node("A", ("x", "y"))], ("x", "y")), ([Node("B", ("i", "x"))], ("i", "y"))]
    >>> len(stack(layers, activation="relu", normalize="rms")), len(stack(layers, activation=None, normalize=None))
    (2, 1)
    """
    layers = [(tuple(nodes), tuple(output)) for nodes, output in layers]
    if activation is None:
        return (Stage(tuple(node for nodes, _ in layers for node in nodes), layers[-1][1]),)
    stages = [Stage(nodes, output, activation, normalize) for nodes, output in layers]
    stages[-1] = replace(stages[-1], activation=None, normalize=None)
    return tuple(stages)


def _validate(spec: NetworkSpec) -> None:
    legs = [leg.name for leg in spec.legs]
    if len(set(legs)) != len(legs):
        raise SpecError(f"the legs {legs} repeat a name")
    if not spec.stages:
        raise SpecError("a network needs at least one stage")
    own = set(legs)
    for name, _ in spec.sizes:
        if name in own:
            raise SpecError(f"sizes names {name!r}, which is a leg and gets its size from the layout; leave it out")
    names: set[str] = set()
    shapes: dict[str, tuple[int, ...]] = {}
    for number, stage in enumerate(spec.stages):
        where = f"stage {number}"
        if not stage.nodes:
            raise SpecError(f"{where} has no nodes")
        for node in stage.nodes:
            if node.name in names:
                raise SpecError(f"two nodes are named {node.name!r}")
            names.add(node.name)
            _validate_node(spec, node, shapes)
        _validate_joins(spec, number)
        _validate_indices(stage, [(s, spec.stages[s].output) for s in spec.sources(number)], where)
    if list(spec.stages[-1].output) != legs:
        raise SpecError(f"the last stage has the output {spec.stages[-1].output}, but the legs are {tuple(legs)}")
    _validate_between(spec)
    if not shapes:
        raise SpecError("the network has no parameters: every node is constant")


def _validate_joins(spec: NetworkSpec, number: int) -> None:
    """Check that a stage reads only earlier stages, and multiplies or adds only results of its own shape."""
    stage = spec.stages[number]
    for field, others in (("sources", spec.sources(number)), ("multiply", stage.multiply), ("add", stage.add)):
        if len(set(others)) != len(others):
            raise SpecError(f"stage {number} repeats a stage in {field} = {others}")
        own = [spec.index_sizes.get(ix) for ix in stage.output]
        for other in others:
            if not 0 <= other < number:
                raise SpecError(f"stage {number} names stage {other} in {field}; a stage can only read earlier stages")
            count_nodes(len(spec.stages[other].output) // 8)
            if field == "sources":
                continue
            if (sizes := [spec.index_sizes.get(ix) for ix in spec.stages[other].output]) != own:
                raise SpecError(f"stage {number} has sizes {own}, but stage {other}, named in {field}, has {sizes}")


def _validate_between(spec: NetworkSpec) -> None:
    """Check that every result except the last is read, and that no two stages could be merged into one."""
    last = len(spec.stages) - 1
    joined = {other for stage in spec.stages for other in stage.multiply + stage.add}
    read = Counter(source for number in range(last + 1) for source in spec.sources(number))
    if spec.stages[last].activation or spec.stages[last].normalize:
        raise SpecError(
            f"stage {last} is the last one and has an activation or normalization; these belong between stages"
        )
    for number, stage in enumerate(spec.stages[:-1]):
        if not read[number] and number not in joined:
            raise SpecError(f"no other stage reads the result of stage {number}")
        bare = not (stage.activation or stage.normalize or stage.multiply or stage.add)
        if bare and read[number] == 1 and number not in joined:
            raise SpecError(
                f"stage {number} has neither activation nor normalization; move its nodes into the next stage"
            )
    legs = tuple(leg.name for leg in spec.legs)
    for number in spec.summands[:-1]:
        stage, what = spec.stages[number], f"stage {number} is added to the weight itself"
        if spec.summands.count(number) > 1:
            raise SpecError(f"{what} along two paths; add it once")
        if stage.activation or stage.normalize:
            raise SpecError(
                f"{what} and has an activation or normalization, so its scale cannot be chosen; "
                "add it to a stage before the last one"
            )
        if all(node.param is None for node in stage.nodes):
            raise SpecError(f"{what} and has no parameter, so its scale cannot be chosen")
        if stage.output != legs:
            raise SpecError(f"{what}, so its output must be the legs {legs}, in this order; got {stage.output}")


def _validate_node(spec: NetworkSpec, node: Node, shapes: dict[str, tuple[int, ...]]) -> None:
    for ix in node.indices:
        if ix not in spec.index_sizes:
            raise SpecError(f"node {node.name!r}: the index {ix!r} has no size and is not a leg")
    shape = spec.node_shape(node)
    if node.constant is not None:
        if len(node.constant) != math.prod(shape):
            raise SpecError(f"node {node.name!r} has the shape {shape}, but {len(node.constant)} constant entries")
    elif node.param is not None and shapes.setdefault(node.param, shape) != shape:
        raise SpecError(
            f"node {node.name!r} shares the parameter {node.param!r} of shape {shapes[node.param]}, "
            f"but its indices have sizes {shape}"
        )


def _validate_indices(stage: Stage, states: Sequence[tuple[int, tuple[str, ...]]], where: str) -> None:
    holders: dict[str, str] = {}
    count: Counter[str] = Counter()
    for holder, indices in (
        *((f"the result of stage {number}", indices) for number, indices in states),
        *((f"node {node.name!r}", node.indices) for node in stage.nodes),
    ):
        count.update(indices)
        for ix in indices:
            holders.setdefault(ix, holder)
    output = set(stage.output)
    if len(output) != len(stage.output):
        raise SpecError(f"{where} repeats an index in its output {stage.output}")
    for ix in stage.output:
        if not count[ix]:
            raise SpecError(f"{where}: the output index {ix!r} belongs to no node")
    for ix, times in count.items():
        if times == 1 and ix not in output:
            raise SpecError(
                f"{where}: the index {ix!r} of {holders[ix]} dangles; join it to another node or add it to output "
                "(or, in a Graph, sum over it with einsum=True)"
            )
