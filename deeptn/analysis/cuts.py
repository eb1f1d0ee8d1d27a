"""Cuts of a weight: their ranks, the bounds that a network puts on them, and the nodes that a leg depends on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arrays import norm_of
from ..errors import SpecError, near_match
from ..network import Network
from ..spec import NetworkSpec

#: Singular values below this times the largest one count as zero by default.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Cut:
    """A bipartition of the legs, which makes the generated tensor a matrix from one side to the other.

    Attributes
    ----------
    name : str
        For example ``"rows | columns"``.
    sizes : tuple of int
        Sides of the matrix; for rows | columns without padding.
    bound : int or None
        Upper bound of the rank for any parameters; see `rank_bound`.
    rank : int or None
        Numerical rank.
    effective_rank : float or None
        exp of `entropy`: the number of equal singular values with this entropy.
    entropy : float or None
        Entanglement entropy ``-Σ p ln p`` of ``p = s² / Σ s²`` [nats].
    spectrum : tuple of float
        Singular values in descending order, normalized so that their squares sum to 1.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> cut = dtn.analysis.inspect(np.eye(4)).cuts[0]
    >>> cut.rank, round(cut.effective_rank, 6), [round(s, 3) for s in cut.spectrum]
    (4, 4.0, [0.5, 0.5, 0.5, 0.5])
    """

    name: str
    sizes: tuple[int, int]
    bound: int | None = None
    rank: int | None = None
    effective_rank: float | None = None
    entropy: float | None = None
    spectrum: tuple[float, ...] = ()


def _cut(name: str, sizes: tuple[int, int], bound: int | None, matrix: np.ndarray | None, tolerance: float) -> Cut:
    measured = Cut(name, sizes) if matrix is None else measure_cut(matrix, tolerance)
    return replace(measured, name=name, bound=bound)


def measure_cut(matrix: np.ndarray, tolerance: float = TOLERANCE) -> Cut:
    """Measure the rank, spectrum, effective rank and entropy of a matrix."""
    sizes = matrix.shape[0], matrix.shape[1]
    values = np.linalg.svd(matrix.astype(np.result_type(matrix.dtype, np.float64)), compute_uv=False)
    norm = norm_of(values)
    if norm == 0.0:
        return Cut("", sizes, None, 0, 0.0, 0.0, tuple(0.0 for _ in values))
    share = (values / norm) ** 2
    entropy = float(-sum(p * math.log(p) for p in share if p > 0.0))
    rank = int((values > tolerance * values[0]).sum())
    return Cut("", sizes, None, rank, math.exp(entropy), entropy, tuple(float(v / norm) for v in values))


def rank_bound(net: Network, legs: Iterable[str]) -> int:
    """Bound the rank of the matrix from some legs to the others, by a minimum cut of the network.

    For any bipartition of the nodes, the product of the sizes of the bonds between the two sides bounds the rank; a
    hyper-index counts once. In a network with activations, each state that enters the last stage counts as one dense
    node, because nothing is known about its rank. The bounds of summands add up.

    Parameters
    ----------
    net : Network
    legs : iterable of str
        Names of legs; at least one, but not all of them.

    Returns
    -------
    int
        An upper bound, which random parameters need not reach.

    Raises
    ------
    SpecError
        For an unknown leg, or if one side has no legs.

    Notes
    -----
    Source: Cui, Freedman, Sattath, Stong & Minton, "Quantum max-flow/min-cut", J. Math. Phys. 57, 062206 (2016).

    Examples
    --------
    >>> import deeptn as dtn
    >>> rank_bound(dtn.network(dtn.LowRank(rank=3), (12, 10)), ["a0_0"])
    3
    """
    names = [leg.name for leg in net.layout.legs]
    inside = set(legs)
    for name in inside:
        if name not in names:
            raise SpecError(f"unknown leg {name!r}; {near_match(str(name), names)}")
    if not 0 < len(inside) < len(names):
        raise SpecError(f"a cut needs legs on both sides, got {len(inside)} of {len(names)}")
    sizes = net.spec.index_sizes
    sides = (inside, set(names) - inside)
    largest = min(math.prod(sizes[name] for name in side) for side in sides)
    return min(largest, sum(_min_cut(net.spec, number, *sides) for number in net.spec.summands))


def _min_cut(spec: NetworkSpec, number: int, inside: set[str], outside: set[str]) -> int:
    """Return the product of the sizes of the indices in a minimum cut of one stage."""
    import networkx as nx  # on use: it is slow to import

    stage, sizes = spec.stages[number], spec.index_sizes
    holders: list[tuple[Any, Sequence[str]]] = [(node.name, node.indices) for node in stage.nodes]
    holders += [(("state", source), spec.stages[source].output) for source in spec.sources(number)]
    holders += [(("factor", other), stage.output) for other in stage.multiply]
    graph = nx.DiGraph()
    graph.add_nodes_from(("source", "sink"))
    for ix in {ix for _, indices in holders for ix in indices}:
        graph.add_edge(("in", ix), ("out", ix), capacity=math.log(sizes[ix]))
    for name, indices in holders:
        for ix in indices:
            graph.add_edge(name, ("in", ix))  # no capacity means unlimited
            graph.add_edge(("out", ix), name)
    for ix in inside:
        graph.add_edge("source", ("in", ix))
    for ix in outside:
        graph.add_edge(("out", ix), "sink")
    _, (reached, _) = nx.minimum_cut(graph, "source", "sink")  # the cut value is rounded, a product of sizes exact
    cut = [
        ix for kind, ix in (n for n in reached if isinstance(n, tuple) and n[0] == "in") if (("out", ix) not in reached)
    ]
    return math.prod(sizes[ix] for ix in cut)


def light_cone(net: Network, leg: str) -> tuple[str, ...]:
    """Return the nodes that a leg depends on: those with a directed path (inputs to outputs) to it.

    Parameters
    ----------
    net : Network
    leg : str
        Name of a leg.

    Returns
    -------
    tuple of str
        Names of nodes, in the order of the network. A node without inputs connects all of its indices. A normalized
        state depends on all nodes before it; this dependence is ignored.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.BrickWall(layers=1), (16,))
    >>> light_cone(net, "a0_0")
    ('L1_g0',)
    >>> light_cone(net, "a0_1")
    ('L1_g0', 'L1_g1', 'L1_g2')
    """
    names = [leg.name for leg in net.layout.legs]
    if leg not in names:
        raise SpecError(f"unknown leg {leg!r}; {near_match(str(leg), names)}")
    spec = net.spec
    cone: set[str] = set()
    wanted: list[set[str]] = [set() for _ in spec.stages]
    for number in spec.summands:
        wanted[number].add(leg)
    for number in reversed(range(len(spec.stages))):
        stage = spec.stages[number]
        reached = set(wanted[number])
        grown = True
        while grown:
            grown = False
            for node in stage.nodes:
                outputs = node.outputs if node.inputs else node.indices
                if node.name not in cone and reached & set(outputs):
                    cone.add(node.name)
                    reached |= set(node.inputs or node.indices)
                    grown = True
        for other in (*stage.multiply, *stage.add):
            places = [k for k, ix in enumerate(stage.output) if ix in wanted[number]]
            wanted[other] |= {spec.stages[other].output[k] for k in places}
        for source in spec.sources(number):
            wanted[source] |= reached & set(spec.stages[source].output)
    return tuple(node.name for node in spec.nodes if node.name in cone)
