"""Singular values and moments of generated weights."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..arrays import to_numpy
from ..base import Array, ParamsLike, optional, text_table
from ..errors import SpecError
from ..network import Network
from ..params import check_params
from ..spec import Layout
from .cuts import TOLERANCE, Cut, _cut, rank_bound

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Moments:
    """Moments of the entries of a weight, excluding padding.

    Attributes
    ----------
    mean : float or complex
    std : float
    kurtosis : float
        ``E|w - mean|⁴ / std⁴``: 3 for a normal distribution, more for heavy tails, 0 if all entries are equal.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> dtn.analysis.inspect(np.array([[1.0, -1.0], [1.0, -1.0]])).moments
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
        What was analyzed.
    cuts : tuple of Cut
        Rows | columns first, if the weight has both; then in the order of the legs.
    moments : Moments or None
        None without parameters.

    Examples
    --------
    >>> import deeptn as dtn
    >>> print(dtn.analysis.analyze(dtn.network(dtn.LowRank(rank=2), (12, 10))))
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

    def plot(self) -> Figure:
        """Plot the spectrum of every cut that has one, in descending order.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        SpecError
            If the analysis was made without parameters, so that it has no spectrum.
        """
        cuts = [cut for cut in self.cuts if cut.spectrum]
        if not cuts:
            raise SpecError(
                "an analysis without parameters has no spectrum; write dtn.analysis.analyze(net, params).plot()"
            )
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
        """Return the data as JSON text, including spectra; complex numbers become pairs [real, imaginary]."""
        return json.dumps(asdict(self), default=lambda number: [number.real, number.imag])


def analyze(net: Network, params: ParamsLike | None = None, tolerance: float = TOLERANCE) -> Analysis:
    """Bound the rank of every cut and, given parameters, measure its rank and spectrum.

    Parameters
    ----------
    net : Network
    params : mapping of str to array, optional
        If given, the weight is decoded once and decomposed at every cut.
    tolerance : float
        Singular values below this times the largest one count as zero.

    Returns
    -------
    Analysis
        One cut for rows | columns (axis 0 of the weight against the others, without padding), and one cut of the whole
        padded tensor after each leg, in the order of the layout.

    Examples
    --------
    Depth raises the rank that a brick wall can reach; one layer is a tensor train of ranks 2 and 4:

    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.BrickWall(layers=1), (8, 8))
    >>> [cut.bound for cut in dtn.analysis.analyze(net).cuts]
    [2, 2, 4, 2, 4, 2]
    >>> deep = dtn.network(dtn.BrickWall(layers=2), (8, 8))
    >>> analysis = dtn.analysis.analyze(deep, deep.init(seed=0, dtype="float64"))
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
    """Return the generated tensor over all legs, including padding."""
    padded = Layout(net.layout.padded_shape, net.layout.factors, net.layout.order)
    whole = to_numpy(Network(net.spec, padded).materialize(params))
    return np.asarray(padded.to_legs(whole))


def inspect(weight: Array, layout: Layout | None = None, tolerance: float = TOLERANCE) -> Analysis:
    """Measure the rank, spectrum, effective rank and entropy of a given weight at every cut.

    Parameters
    ----------
    weight : array
        Array of any library.
    layout : Layout, optional
        How the weight is split into legs; into prime factors by default. A padded layout pads with zeros.
    tolerance : float
        As for `analyze`.

    Returns
    -------
    Analysis
        As from `analyze`, without bounds.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> cuts = dtn.analysis.inspect(np.outer(np.ones(4), np.arange(1.0, 7.0))).cuts
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
    if std <= 1e-15 * abs(mean):  # constant up to rounding
        return Moments(mean, 0.0, 0.0)
    return Moments(mean, std, float(np.mean((np.abs(weight - mean) / std) ** 4)))
