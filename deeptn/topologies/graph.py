"""Custom networks: graphs written as index strings, one graph per stage."""

# pyright: reportUnnecessaryIsInstance=false
# Arguments are checked at run time, whatever their annotations say.
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from ..base import positive_int
from ..errors import LayoutError, SpecError
from ..spec import Layout, Leg, NetworkSpec, Node, Stage, check_between, separate
from .base import Choices, Topology
from .registry import register_topology

_EXAMPLE = "nodes={'A': 'abx', …}, sizes={'x': 3, …} and output='ab…' (for several stages, lists of nodes and outputs)"


@register_topology
@dataclass(frozen=True, kw_only=True)
class Graph(Topology):
    """Any network, written as an einsum (nodes with their indices, and the open indices), or as one einsum per stage.

    Parameters
    ----------
    nodes : mapping of str to str or sequence of str, or a sequence of such mappings
        The indices of each node, as a string of one-letter names or as a sequence of names. An index in more than
        two nodes, or open and in two, is a hyper-index. A sequence of mappings means several stages; the result of
        each stage is one more tensor of the next.
    output : str or sequence of str, or a sequence of these
        The open indices; the k-th one (of the last stage) is the k-th leg of the layout. With several stages, one
        entry per stage.
    sizes : mapping of str to int
        Sizes of indices. Bonds that are not listed have the size `rank`; open indices get their sizes from the layout.
    rank : int
        Size of the bonds that `sizes` does not list.
    activation : str or None, or a sequence
        The activation between any two stages, or one for each gap.
    normalize : {"rms", None}
        As in `BrickWall`.
    einsum : bool
        Whether a node may repeat an index (its diagonal), and an index that one node alone has is summed over, as in
        `numpy.einsum`. By default, both are errors, because they are usually mistakes.

    Notes
    -----
    Diagonals and sums become constant nodes: identities and vectors of ones. The number of parameters is the sum, over
    all other nodes, of the product of their index sizes.

    Examples
    --------
    A ring of three nodes:

    >>> import deeptn as dtn
    >>> nodes = {"A": "xay", "B": "ybz", "C": "zcx"}
    >>> ring = dtn.Graph(nodes=nodes, sizes={"a": 4, "b": 5, "c": 6}, output="abc", rank=2)
    >>> net = dtn.network(ring, (20, 6))
    >>> net.layout.factors, net.num_params
    (((4, 5), (6,)), 60)

    Two stages: a state with the indices p and q passes through ReLU into a network with the legs a, b and c:

    >>> deep = dtn.Graph(nodes=[{"S": "pq"}, {"U": "pax", "V": "xbq", "W": "xc"}], output=["pq", "abc"])
    >>> net = dtn.network(deep, (20, 6), dtn.Layout((20, 6), factors=((4, 5), (6,))))
    >>> len(net.spec.stages), net.num_params
    (2, 52)
    """

    nodes: Any = (("A", ("a", "x")), ("B", ("x", "b")))
    output: Any = ("a", "b")
    sizes: Any = ()
    rank: int = 2
    activation: Any = "relu"
    normalize: str | None = "rms"
    einsum: bool = False
    size_field: ClassVar[str] = "rank"
    choices: ClassVar[Choices] = None

    def __post_init__(self):
        object.__setattr__(self, "rank", positive_int(self.rank, "Graph.rank"))
        try:
            stages = [_pairs(nodes) for nodes in (self.nodes if _is_deep(self.nodes) else (self.nodes,))]
            outputs = [tuple(output) for output in (self.output if _is_deep(self.nodes) else (self.output,))]
            given: dict[str, Any] = dict(self.sizes)
            sizes = tuple(sorted((ix, positive_int(n, f"sizes[{ix!r}]")) for ix, n in given.items()))
            words: Any = self.activation
            between: tuple[str, ...] | str | None = words if isinstance(words, str | None) else tuple(words)
            hash((tuple(stages), tuple(outputs), sizes, between))
        except SpecError:
            raise
        except (TypeError, ValueError) as error:
            raise SpecError(
                f"a Graph needs {_EXAMPLE}; "
                f"got nodes={self.nodes!r:.60}, sizes={self.sizes!r:.60}, output={self.output!r:.60}"
            ) from error
        if len(stages) != len(outputs) or (_is_deep(self.nodes) and isinstance(self.output, str)):
            raise SpecError(
                f"the Graph has {len(stages)} stages and the output {self.output!r:.60}; pass one output per stage"
            )
        for name, value in (("nodes", tuple(stages)), ("output", tuple(outputs)), ("sizes", sizes)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "activation", between)
        for activation in self._between:
            check_between(activation, self.normalize)

    @classmethod
    def from_einsum(cls, equation: str, rank: int = 2, sizes: Mapping[str, int] | None = None) -> Graph:
        """Read an einsum equation such as ``"abx,bcy->acxy"``; its operands become the nodes A, B, C and so on.

        Parameters
        ----------
        equation : str
            As for `numpy.einsum`, without an ellipsis: operands separated by commas, then ``->`` and the open indices
            (by default those that appear once, in alphabetical order). Any characters can be indices.
        rank, sizes
            As in `Graph`.

        Raises
        ------
        SpecError
            For an ellipsis, or if the output repeats an index or names one that no operand has.

        Examples
        --------
        >>> import deeptn as dtn
        >>> dtn.network(dtn.Graph.from_einsum("axy,xb,yc->abc", rank=3), (4, 5, 6)).num_params
        69

        A trace over x, and a sum over y:

        >>> dtn.network(dtn.Graph.from_einsum("xxa,by->ab", rank=3), (4, 5)).num_params
        51
        """
        if not isinstance(equation, str) or set(equation.replace("->", "", 1)) & set(".->"):
            raise SpecError(f"equation = {equation!r:.80}; write for example 'abx,bcy->acxy', without an ellipsis")
        # Of whitespace, only ASCII: cotengra's symbols include other characters that Python would split at.
        left, arrow, output = equation.translate(dict.fromkeys(b" \t\r\n")).partition("->")
        count = Counter(left.replace(",", ""))
        if not arrow:
            output = "".join(sorted(ix for ix, times in count.items() if times == 1))
        for ix in output:
            if output.count(ix) > 1:
                raise SpecError(f"equation = {equation!r:.80}: the output repeats the index {ix!r}; name it once")
            if not count[ix]:
                raise SpecError(f"equation = {equation!r:.80}: the output has the index {ix!r}, but no operand has it")
        names = left.split(",")
        loose = any(times == 1 and ix not in output for ix, times in count.items())
        loose = loose or any(len(set(name)) < len(name) for name in names)
        nodes = dict(zip(_node_names(len(names)), names))
        return cls(nodes=nodes, output=output, rank=rank, sizes=sizes or {}, einsum=loose)

    @classmethod
    def from_adjacency(cls, matrix: Any) -> Graph:
        """Read a structure-search matrix: node k has a leg of size ``m[k][k]`` and bonds of sizes ``m[j][k]``.

        Parameters
        ----------
        matrix : array_like of int, shape (n, n)
            Symmetric. The diagonal contains the sizes of the legs, 0 for a node without a leg; the other entries are
            the sizes of the bonds, 0 or 1 for no bond.

        Notes
        -----
        Source: Li & Sun, "Evolutionary topology search for tensor network decomposition" (ICML 2020).

        Examples
        --------
        >>> import deeptn as dtn
        >>> ring = dtn.Graph.from_adjacency([[4, 2, 3], [2, 5, 2], [3, 2, 6]])
        >>> dtn.network(ring, (4, 30)).num_params
        80
        """
        try:
            rows = [[int(entry.__index__()) for entry in row] for row in matrix]
        except (TypeError, AttributeError) as error:
            raise SpecError(f"an adjacency matrix must have rows of integers, got {matrix!r:.80}") from error
        count = len(rows)
        if not count or any(len(row) != count for row in rows):
            raise SpecError(f"an adjacency matrix must be square, got rows of lengths {[len(row) for row in rows]}")
        for j in range(count):
            for k in range(count):
                if rows[j][k] != rows[k][j] or rows[j][k] < 0:
                    raise SpecError(
                        f"entry ({j}, {k}) = {rows[j][k]}, entry ({k}, {j}) = {rows[k][j]}; they must be equal and >= 0"
                    )
        legs = [f"o{k}" for k in range(count) if rows[k][k]]
        bonds = {frozenset((j, k)): f"b{j}_{k}" for j in range(count) for k in range(j + 1, count) if rows[j][k] > 1}
        nodes: dict[str, list[str]] = {}
        for k, name in enumerate(_node_names(count)):
            own = [f"o{k}"] if rows[k][k] else []
            nodes[name] = own + [bond for ends, bond in bonds.items() if k in ends]
        sizes = {bond: rows[min(ends)][max(ends)] for ends, bond in bonds.items()}
        sizes |= {f"o{k}": rows[k][k] for k in range(count) if rows[k][k]}
        return cls(nodes=nodes, output=legs, sizes=sizes)

    @property
    def _between(self) -> tuple[str | None, ...]:
        """The activation for each gap between stages."""
        gaps = len(self.nodes) - 1
        words: tuple[str | None, ...] | str | None = self.activation
        if not isinstance(words, tuple):
            return (words,) * gaps
        if len(words) != gaps:
            raise SpecError(f"activation has {len(words)} entries, expected {gaps} (one per gap) or a single name")
        return words

    def default_layout(self, shape: Sequence[int]) -> Layout:
        """Group consecutive legs into axes according to `sizes`, or use one leg per axis."""
        sizes, output = dict(self.sizes), self.output[-1]
        if len(output) == len(shape) and not any(ix in sizes for ix in output):
            return Layout.single(shape)
        missing = [ix for ix in output if ix not in sizes]
        if missing:
            raise LayoutError(f"sizes does not name the open index {missing[0]!r}; add it, or pass layout=")
        return Layout.grouped(shape, [sizes[ix] for ix in output])

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        output: tuple[str, ...] = self.output[-1]
        if len(legs) != len(output):
            raise SpecError(f"the Graph has {len(output)} open indices {output}, but the layout has {len(legs)} legs")
        repeated = [ix for ix, count in Counter(output).items() if count > 1]
        if repeated:
            raise SpecError(f"output repeats the index {repeated[0]!r}")
        given = dict(self.sizes)
        for ix, leg in zip(output, legs):
            if given.get(ix, leg.size) != leg.size:
                raise SpecError(f"index {ix!r} has size {given[ix]} in the Graph and {leg.size} in the layout")
        names = dict(zip(output, (leg.name for leg in legs)))
        held = {ix for nodes in self.nodes for _, indices in nodes for ix in indices}
        bonds = (held | {ix for part in self.output[:-1] for ix in part}) - set(names)
        unused = set(given) - bonds - set(names)
        if unused:
            raise SpecError(f"sizes names {sorted(unused)[0]!r}, which no node of the Graph has")
        clash = bonds & set(names.values())
        if clash:
            raise SpecError(f"the bond {sorted(clash)[0]!r} has the name of a leg; rename it")

        def renamed(indices: Sequence[str]) -> tuple[str, ...]:
            return tuple(str(names.get(ix, ix)) for ix in indices)

        stages: list[Stage] = []
        sizes = {ix: given.get(ix, self.rank) for ix in sorted(bonds)} | {leg.name: leg.size for leg in legs}
        before: tuple[str, ...] = ()
        for number, (nodes, indices) in enumerate(zip(self.nodes, self.output)):
            last = number == len(self.nodes) - 1
            operands: list[tuple[str, tuple[str, ...]]] = [(name, renamed(held)) for name, held in nodes]
            constants: list[Node] = []
            if self.einsum:
                separated, constants = separate(operands, before, renamed(indices), sizes, number)
                operands = [(name, held) for (name, _), held in zip(operands, separated)]
            states = frozenset(before)
            made = (*(Node(name, held, _inputs(held, states)) for name, held in operands), *constants)
            before = renamed(indices)
            activation, normalize = (None, None) if last else (self._between[number], self.normalize)
            stages.append(Stage(made, before, activation, normalize))
        for leg in legs:
            del sizes[leg.name]
        return NetworkSpec(legs, tuple(stages), tuple(sizes.items()))


def _is_deep(nodes: Any) -> bool:
    """Return whether nodes are given stage by stage, rather than as one mapping or as pairs (name, indices)."""
    if isinstance(nodes, Mapping) or not isinstance(nodes, Sequence) or not nodes:
        return False
    first = cast("Sequence[Any]", nodes)[0]
    return isinstance(first, Mapping) or (
        isinstance(first, Sequence) and not isinstance(next(iter(cast("Sequence[Any]", first)), ""), str)
    )


def _pairs(nodes: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    pairs: Iterable[tuple[str, Iterable[str]]] = list(
        cast("Any", nodes).items() if isinstance(nodes, Mapping) else nodes
    )
    return tuple((name, tuple(indices)) for name, indices in pairs)


def _inputs(indices: tuple[str, ...], states: frozenset[str]) -> tuple[str, ...]:
    """Return the indices through which a node reads the state; none if it has no other indices."""
    found = tuple(ix for ix in indices if ix in states)
    return found if len(found) < len(indices) else ()


def _node_names(count: int) -> list[str]:
    """Return A, B, …, or N0, N1, … if there are more than 26."""
    return [chr(ord("A") + k) for k in range(count)] if count <= 26 else [f"N{k}" for k in range(count)]
