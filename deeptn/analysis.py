"""What a network can represent and what a weight is: rank bounds, spectra and entropies per cut, light cones."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ._text import text_table
from ._typing import Array, ParamsLike
from .bridge import optional
from .errors import SpecError, near_match
from .layout import Layout
from .network import Network
from .params import check_params, to_numpy
from .spec import NetworkSpec

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
    >>> cut = dtn.inspect(np.eye(4)).cuts[0]
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


@dataclass(frozen=True)
class Moments:
    """Of the entries of a weight, padding left out.

    Attributes
    ----------
    mean : float or complex
    std : float
    kurtosis : float
        ``E|w - mean|⁴ / std⁴``: 3 for a normal distribution, above for heavy tails. 0 where all entries are equal.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> dtn.inspect(np.array([[1.0, -1.0], [1.0, -1.0]])).moments
    Moments(mean=0.0, std=1.0, kurtosis=1.0)
    """

    mean: float | complex
    std: float
    kurtosis: float


@dataclass(frozen=True)
class Analysis:
    """The cuts of a network or of a weight; prints as a table.

    Attributes
    ----------
    label : str
        What was analysed.
    cuts : tuple of Cut
        Rows | columns first, where there are both; then along the order of the legs.
    moments : Moments or None
        None without parameters.

    Examples
    --------
    >>> import deeptn as dtn
    >>> print(dtn.analyze(dtn.network(dtn.LowRank(rank=2), (12, 10))))
    Network(LowRank(rank=2), shape=(12, 10), legs=(12, 10), num_params=44)
    cut             matrix   bound  rank  effective  entropy
    rows | columns  12 x 10  2      -     -          -
    a0_0 | a1_0     12 x 10  2      -     -          -
    """

    label: str
    cuts: tuple[Cut, ...]
    moments: Moments | None = None

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("cut", "matrix", "bound", "rank", "effective", "entropy")]
        for cut in self.cuts:
            numbers = (cut.bound, cut.rank)
            floats = (cut.effective_rank, cut.entropy)
            rows.append(
                (
                    cut.name,
                    f"{cut.sizes[0]:,} x {cut.sizes[1]:,}",
                    *("-" if n is None else f"{n:,}" for n in numbers),
                    *("-" if x is None else f"{x:.2f}" for x in floats),
                )
            )
        lines = [text_table(rows)]
        if self.moments is not None:
            mean, std, kurtosis = self.moments.mean, self.moments.std, self.moments.kurtosis
            lines.insert(0, f"mean {mean:.3g}, std {std:.3g}, kurtosis {kurtosis:.3g}")
        return "\n".join([self.label, *lines])

    def plot(self) -> Any:
        """The spectrum of every cut that has one, the largest value first.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        SpecError
            Without parameters there is nothing to be seen.
        """
        cuts = [cut for cut in self.cuts if cut.spectrum]
        if not cuts:
            raise SpecError("an analysis without parameters has no spectrum; write dtn.analyze(net, params).plot()")
        figure = optional("matplotlib.figure", "draw").Figure(layout="constrained")
        ax = figure.subplots()
        for number, cut in enumerate(cuts):
            values = [value for value in cut.spectrum if value > 1e-12]
            first = number == 0
            style = {"color": "black", "linewidth": 2.0} if first else {"color": f"C{number % 10}", "alpha": 0.7}
            ax.plot(range(1, len(values) + 1), values, label=cut.name, zorder=3 - number / len(cuts), **style)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("singular value, by size")
        ax.set_ylabel("share of the norm")
        ax.legend(fontsize="x-small", ncols=2)
        return figure

    def to_json(self) -> str:
        """Plain data, spectra included; a complex number as the pair of its parts."""
        return json.dumps(asdict(self), default=lambda number: [number.real, number.imag])


def analyze(net: Network, params: ParamsLike | None = None, tolerance: float = TOLERANCE) -> Analysis:
    """Bounds of the rank of every cut, and with parameters what the cut is.

    Parameters
    ----------
    net : Network
    params : mapping of str to array, optional
        Then the weight is decoded once, and decomposed at every cut.
    tolerance : float
        Singular values below this times the largest one count as zero.

    Returns
    -------
    Analysis
        A cut for rows | columns (axis 0 of the weight against the others, without the padding), and one after each leg
        in the order of the layout, of the whole padded tensor.

    Examples
    --------
    Depth raises what a brick wall can do; one layer is a tensor train of ranks 2 and 4:

    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.BrickWall(layers=1), (8, 8))
    >>> [cut.bound for cut in dtn.analyze(net).cuts]
    [2, 2, 4, 2, 4, 2]
    >>> deep = dtn.network(dtn.BrickWall(layers=2), (8, 8))
    >>> analysis = dtn.analyze(deep, deep.init(seed=0, dtype="float64"))
    >>> analysis.cuts[0].bound, analysis.cuts[0].rank
    (8, 8)
    """
    legs, layout = net.layout.legs, net.layout
    tensor = weight = None
    if params is not None:
        check_params(net.spec, params)
        weight = to_numpy(net.materialize(params))
        tensor = _whole_tensor(net, params)
    cuts = []
    rows = [leg.name for leg in legs if leg.axis == 0]
    if len(net.shape) > 1 and 0 < len(rows) < len(legs):
        sizes = net.shape[0], math.prod(net.shape[1:])
        bound = min(rank_bound(net, rows), *sizes)
        cuts.append(_cut("rows | columns", sizes, bound, None if weight is None else weight.reshape(sizes), tolerance))
    for place in range(1, len(legs)):
        inside = [leg.name for leg in legs[:place]]
        sizes = math.prod(layout.leg_sizes[:place]), math.prod(layout.leg_sizes[place:])
        matrix = None if tensor is None else tensor.reshape(sizes)
        cuts.append(
            _cut(f"{legs[place - 1].name} | {legs[place].name}", sizes, rank_bound(net, inside), matrix, tolerance)
        )
    return Analysis(repr(net), tuple(cuts), None if weight is None else _moments(weight))


def _whole_tensor(net: Network, params: ParamsLike) -> np.ndarray:
    """The generated tensor over all legs, padding included."""
    padded = Layout(net.layout.padded_shape, net.layout.factors, net.layout.order)
    whole = to_numpy(Network(net.spec, padded).materialize(params))
    return np.asarray(padded.to_legs(whole))


def inspect(weight: Array, layout: Layout | None = None, tolerance: float = TOLERANCE) -> Analysis:
    """Rank, spectrum, effective rank and entropy of a given weight at every cut.

    Parameters
    ----------
    weight : array
        Of any library.
    layout : Layout, optional
        How it is cut into legs; prime factors by default. A padded layout pads with zeros.
    tolerance : float
        As for `analyze`.

    Returns
    -------
    Analysis
        As from `analyze`, without bounds.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> cuts = dtn.inspect(np.outer(np.ones(4), np.arange(1.0, 7.0))).cuts
    >>> cuts[0].name, cuts[0].rank, round(cuts[0].effective_rank, 6)
    ('rows | columns', 1, 1.0)
    """
    dense = to_numpy(weight)
    layout = Layout(tuple(dense.shape)) if layout is None else layout
    tensor = np.asarray(layout.to_legs(dense))
    cuts = []
    if dense.ndim > 1:
        sizes = dense.shape[0], math.prod(dense.shape[1:])
        cuts.append(_cut("rows | columns", sizes, None, dense.reshape(sizes), tolerance))
    for place in range(1, len(layout.legs)):
        sizes = math.prod(layout.leg_sizes[:place]), math.prod(layout.leg_sizes[place:])
        name = f"{layout.legs[place - 1].name} | {layout.legs[place].name}"
        cuts.append(_cut(name, sizes, None, tensor.reshape(sizes), tolerance))
    return Analysis(f"weight of shape {tuple(dense.shape)}", tuple(cuts), _moments(dense))


def _moments(weight: np.ndarray) -> Moments:
    mean, std = weight.mean().item(), float(weight.std())
    if std <= 1e-15 * abs(mean):  # rounding
        return Moments(mean, 0.0, 0.0)
    return Moments(mean, std, float(np.mean((np.abs(weight - mean) / std) ** 4)))


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
