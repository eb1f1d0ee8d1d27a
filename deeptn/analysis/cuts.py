"""Cuts of a weight: its ranks, the bounds that a network sets on them, and what reaches what."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..base import optional
from ..errors import SpecError, near_match
from ..network import Network
from ..spec import NetworkSpec

#: Singular values below this times the largest one count as zero, unless asked otherwise.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Cut:
    """A bipartition of the legs: the generated tensor as a matrix from some legs to the others.

    Attributes
    ----------
    name : str
        For example ``"rows | columns"``.
    sizes : tuple of int
        Sides of the matrix, padding left out for rows | columns.
    bound : int or None
        No rank is larger, whatever the parameters: `rank_bound`.
    rank : int or None
        Numerical rank.
    effective_rank : float or None
        exp of `entropy`: the number of equal singular values with this entropy.
    entropy : float or None
        Entanglement entropy ``-Σ p ln p`` of ``p = s² / Σ s²`` [nats].
    spectrum : tuple of float
        Singular values, the largest first, divided by the root of the sum of their squares.

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
    """Rank, spectrum, effective rank and entropy of one matrix."""
    sizes = matrix.shape[0], matrix.shape[1]
    values = np.linalg.svd(matrix.astype(np.result_type(matrix.dtype, np.float64)), compute_uv=False)
    norm = float(np.linalg.norm(values))
    if norm == 0.0:
        return Cut("", sizes, None, 0, 0.0, 0.0, tuple(0.0 for _ in values))
    share = (values / norm) ** 2
    entropy = float(-sum(p * math.log(p) for p in share if p > 0.0))
    rank = int((values > tolerance * values[0]).sum())
    return Cut("", sizes, None, rank, math.exp(entropy), entropy, tuple(float(v / norm) for v in values))


def rank_bound(net: Network, legs: Iterable[str]) -> int:
    """The largest rank that the matrix from some legs to the others can have, by a minimal cut of the network.

    The bonds between the two sides of any bipartition of the nodes bound the rank by the product of their sizes; a
    hyper-index counts once. In a network with activations the states that enter the last stage count as one dense node
    each, since nothing is known of their rank. Summands add up.

    Parameters
    ----------
    net : Network
    legs : iterable of str
        Names of legs; one at least, and not all of them.

    Returns
    -------
    int
        An upper bound. A random draw need not reach it.

    Raises
    ------
    SpecError
        For an unknown leg, or where one side has none.

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
        raise SpecError(f"a cut has legs on both sides, got {len(inside)} of {len(names)}")
    sizes = net.spec.index_sizes
    sides = (inside, set(names) - inside)
    largest = min(math.prod(sizes[name] for name in side) for side in sides)
    return min(largest, sum(_min_cut(net.spec, number, *sides) for number in net.spec.summands))


def _min_cut(spec: NetworkSpec, number: int, inside: set[str], outside: set[str]) -> int:
    """The product of the sizes of the indices in a minimal cut of one stage."""
    nx = optional("networkx", "networkx")
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
            graph.add_edge(name, ("in", ix))  # no capacity: without a limit
            graph.add_edge(("out", ix), name)
    for ix in inside:
        graph.add_edge("source", ("in", ix))
    for ix in outside:
        graph.add_edge(("out", ix), "sink")
    _, (reached, _) = nx.minimum_cut(graph, "source", "sink")  # its value is rounded, a product of sizes is not
    cut = [
        ix for kind, ix in (n for n in reached if isinstance(n, tuple) and n[0] == "in") if (("out", ix) not in reached)
    ]
    return math.prod(sizes[ix] for ix in cut)


def light_cone(net: Network, leg: str) -> tuple[str, ...]:
    """The nodes on which a leg depends: those from which a directed path (inputs to outputs) leads to it.

    Parameters
    ----------
    net : Network
    leg : str
        Name of a leg.

    Returns
    -------
    tuple of str
        Names of nodes, in the order of the network. A node without inputs or outputs on the way passes on everything;
        a state that is normalised depends on all nodes before it, which this leaves out.

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
