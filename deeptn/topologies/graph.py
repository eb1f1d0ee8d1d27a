"""The user's own network: a graph written down as index strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .._check import positive_int
from ..errors import LayoutError, SpecError
from ..layout import Layout, Leg
from ..spec import NetworkSpec, Node, Stage
from .base import Topology, register_topology


@register_topology
@dataclass(frozen=True, kw_only=True)
class Graph(Topology):
    """Any network of one stage, as an einsum: nodes with their indices, and the open indices.

    Parameters
    ----------
    nodes : mapping of str to str or sequence of str
        For each node its indices, as a word of one-letter names or as a sequence of names. An index in more than
        two nodes, or open and in two, is a hyper-index.
    output : str or sequence of str
        The open indices; the k-th one is the k-th leg of the layout.
    sizes : mapping of str to int
        Sizes of indices. Bonds that are not named have the size `rank`; open ones take theirs from the layout.
    rank : int
        Size of the bonds that `sizes` does not name.

    Examples
    --------
    A ring of three nodes:

    >>> import deeptn as dtn
    >>> nodes = {"A": "xay", "B": "ybz", "C": "zcx"}
    >>> ring = dtn.Graph(nodes=nodes, sizes={"a": 4, "b": 5, "c": 6}, output="abc", rank=2)
    >>> net = dtn.network(ring, (20, 6))
    >>> net.layout.factors, net.num_params
    (((4, 5), (6,)), 60)
    """

    nodes: Any = (("A", ("a", "x")), ("B", ("x", "b")))
    output: Any = ("a", "b")
    sizes: Any = ()
    rank: int = 2
    size_field: ClassVar[str] = "rank"

    def __post_init__(self):
        object.__setattr__(self, "rank", positive_int(self.rank, "Graph.rank"))
        nodes = self.nodes.items() if isinstance(self.nodes, Mapping) else self.nodes
        sizes = self.sizes.items() if isinstance(self.sizes, Mapping) else self.sizes
        try:
            object.__setattr__(self, "nodes", tuple((name, tuple(indices)) for name, indices in nodes))
            object.__setattr__(self, "sizes", tuple(sorted((ix, positive_int(n, f"sizes[{ix!r}]")) for ix, n in sizes)))
            object.__setattr__(self, "output", tuple(self.output))
            hash(self)
        except SpecError:
            raise
        except (TypeError, ValueError) as error:
            raise SpecError(
                f"a Graph needs nodes={{'A': 'abx', …}}, sizes={{'x': 3, …}} and output='ab…'; "
                f"got nodes={self.nodes!r:.60}, sizes={self.sizes!r:.60}, output={self.output!r:.60}"
            ) from error

    def default_layout(self, shape: Sequence[int]) -> Layout:
        """Legs that follow one another make up an axis: by `sizes`, or one leg per axis."""
        sizes = dict(self.sizes)
        if len(self.output) == len(shape) and not any(ix in sizes for ix in self.output):
            return Layout.single(shape)
        missing = [ix for ix in self.output if ix not in sizes]
        if missing:
            raise LayoutError(f"sizes does not name the open index {missing[0]!r}; add it, or pass layout=")
        return Layout.grouped(shape, [sizes[ix] for ix in self.output])

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        if len(legs) != len(self.output):
            raise SpecError(f"the Graph has {len(self.output)} open indices {self.output}, the layout {len(legs)} legs")
        given = dict(self.sizes)
        for ix, leg in zip(self.output, legs):
            if given.get(ix, leg.size) != leg.size:
                raise SpecError(f"index {ix!r} has size {given[ix]} in the Graph and {leg.size} in the layout")
        names = dict(zip(self.output, (leg.name for leg in legs)))
        bonds = {ix for _, indices in self.nodes for ix in indices if ix not in names}
        unused = set(given) - bonds - set(names)
        if unused:
            raise SpecError(f"sizes names {sorted(unused)[0]!r}, which no node of the Graph has")
        clash = bonds & set(names.values())
        if clash:
            raise SpecError(f"the bond {sorted(clash)[0]!r} has the name of a leg; rename it")
        nodes = tuple(Node(name, tuple(str(names.get(ix, ix)) for ix in indices)) for name, indices in self.nodes)
        stage = Stage(nodes, tuple(leg.name for leg in legs))
        return NetworkSpec(legs, (stage,), tuple((ix, given.get(ix, self.rank)) for ix in bonds))
