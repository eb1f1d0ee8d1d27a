"""The smallest errors of a model for several numbers of parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import optional, text_table
from ..errors import PlanError
from .allocation import allocate
from .curves import Candidate, Sensitivity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Parts of the parameters of a model for which its error is listed.
SHARES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)


@dataclass(frozen=True)
class Point:
    """One line of a `Pareto` table.

    Attributes
    ----------
    params : int
        Parameters of the compressed model.
    share : float
        In parts of those before.
    error : float
        Root mean square of the relative errors of all layers that may be compressed, or of the changes that these make
        in the outputs, weighted by the importance of the layers.
    uniform : float or None
        The same, if every layer gets the same share of its parameters; None if that is below the smallest networks.
    dense, layers : int
        Number of these layers that stay dense, and of all of them.

    Examples
    --------
    >>> Point(100, 0.1, 0.01, None, 0, 3).decibel
    40.0
    """

    params: int
    share: float
    error: float
    uniform: float | None
    dense: int
    layers: int

    @property
    def decibel(self) -> float:
        """``-20 log10(error)``."""
        return -20 * math.log10(self.error) if self.error else math.inf


@dataclass(frozen=True)
class Pareto:
    """The smallest errors for several numbers of parameters; prints as a table.

    Attributes
    ----------
    points : tuple of Point

    Examples
    --------
    >>> Pareto((Point(100, 0.1, 0.01, None, 0, 3),)).to_dict()["points"][0]["share"]
    0.1
    """

    points: tuple[Point, ...]

    def __str__(self) -> str:
        rows = [("parameters", "of all", "error", "dB", "same share for every layer", "dense layers")]
        for point in self.points:
            uniform = "–" if point.uniform is None else f"{point.uniform:.3f}"
            numbers = f"{point.params:,}", f"{point.share:.1%}", f"{point.error:.3f}", f"{point.decibel:.1f}"
            rows.append((*numbers, uniform, f"{point.dense} of {point.layers}"))
        return text_table(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"points": [asdict(point) for point in self.points]}

    def plot(self) -> Figure:
        """Plot the errors against the parameters in a new matplotlib figure."""
        figure = optional("matplotlib.figure", "draw").Figure(figsize=(6, 4), layout="constrained")
        ax = figure.subplots()
        points = [point for point in self.points if point.error > 0]
        if not points:
            raise PlanError("no budget between the smallest and the dense model has been measured")
        chosen = [point.error for point in points]
        ax.plot([100 * point.share for point in points], chosen, "o-", label="chosen for each layer")
        same = [point for point in points if point.uniform]
        ax.plot(
            [100 * p.share for p in same],
            [p.uniform for p in same],
            "s--",
            color="C1",
            label="same share for every layer",
        )
        ax.set_xscale("log")
        ax.set_yscale("log")
        ticker = optional("matplotlib.ticker", "draw")
        for axis, form, subs in ((ax.xaxis, "{x:.3g} %", (1, 2, 5)), (ax.yaxis, "{x:.3g}", (1, 2, 3, 5))):
            axis.set_major_locator(ticker.LogLocator(subs=subs))
            axis.set_minor_locator(ticker.NullLocator())
            axis.set_major_formatter(ticker.StrMethodFormatter(form))
        ax.set_xlabel("parameters of the model, in percent of those before")
        ax.set_ylabel("root mean square of the relative errors")
        ax.grid(alpha=0.3, which="both")
        ax.legend()
        return figure


def pareto(
    curves: Mapping[str, Sequence[Candidate]],
    sensitivities: Mapping[str, Sensitivity],
    total: int,
    shares: Sequence[float],
) -> Pareto:
    """Allocate parameters to layers, for several shares of all parameters of a model.

    Parameters
    ----------
    curves : mapping of str to sequence of Candidate
        One candidate of each layer is the dense weight.
    sensitivities : mapping of str to Sensitivity
    total : int
        Parameters of the dense model.
    shares : sequence of float
        Shares below the smallest model are left out.

    Examples
    --------
    >>> pareto({"fc": [Candidate(None, 0.0)]}, {}, 10, [1.0]).points[0].error
    Traceback (most recent call last):
    deeptn.errors.PlanError: no layer can become smaller
    """
    dense = {name: _size(found) for name, found in curves.items()}
    if not any(dense.values()):
        raise PlanError("no layer can become smaller")
    counts = [sensitivities.get(name, Sensitivity()) for name in curves]
    scale = sum(count.importance for count in counts)
    values = [np.array([count(one.error) for one in found]) for found, count in zip(curves.values(), counts)]
    costs = [np.array([[_params(one, dense[name])] for one in found]) for name, found in curves.items()]
    fixed = total - sum(dense.values())
    points: list[Point] = []
    for share in sorted(shares):
        limit = int(total * share) - fixed
        if limit < sum(int(cost.min()) for cost in costs):
            continue
        chosen = allocate(values, costs, [limit])
        spent = fixed + sum(int(cost[number, 0]) for cost, number in zip(costs, chosen))
        error = _mean(values, chosen, scale)
        same = [_best(value, cost[:, 0], limit / sum(dense.values())) for value, cost in zip(values, costs)]
        uniform = None if None in same else _mean(values, [number for number in same if number is not None], scale)
        left = sum(found[number].network is None for found, number in zip(curves.values(), chosen))
        points.append(Point(spent, spent / total, error, uniform, left, len(curves)))
    return Pareto(tuple(points))


def _size(candidates: Sequence[Candidate]) -> int:
    """Return the size of the dense weight; 0 if no network is smaller."""
    return next((one.network.size for one in candidates if one.network is not None), 0)


def _params(candidate: Candidate, dense: int) -> int:
    return dense if candidate.network is None else candidate.network.num_params


def _best(values: np.ndarray, costs: np.ndarray, share: float) -> int | None:
    """Return the number of the best candidate with at most a share of the dense parameters."""
    fitting = [number for number, cost in enumerate(costs) if cost <= share * costs.max()]
    return min(fitting, key=lambda number: values[number]) if fitting else None


def _mean(values: Sequence[np.ndarray], chosen: Sequence[int], scale: float) -> float:
    return math.sqrt(sum(float(value[number]) for value, number in zip(values, chosen)) / (scale or 1.0))
