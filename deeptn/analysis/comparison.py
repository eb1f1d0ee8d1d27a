"""Compare families at the same parameter budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import relative_error, to_numpy
from ..base import Array, ParamsLike, Shape, optional, positive_int, text_table
from ..budget import at_budget
from ..engine import Cost
from ..errors import LayoutError, SpecError
from ..fitting import can_alternate, decompose
from ..network import Network
from ..topologies import Topology, describe, topology_names
from ..topologies import topology as as_topology
from .cuts import measure_cut, rank_bound

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: Takes a network and a weight, returns parameters; for families without a closed form.
FitFunction = Callable[[Network, Array], ParamsLike]


@dataclass(frozen=True)
class Compared:
    """One family of a `Comparison`.

    Attributes
    ----------
    label : str
        The topology.
    params : int or None
        Trainable entries; None if the family has no network that small.
    cost : Cost or None
        Cost of decoding W once.
    bound : int or None
        The largest rank that W can have as a matrix rows | columns.
    error : float or None
        ``‖W - W'‖ / ‖W‖``; None without a closed form and a `fit`.
    output_error : float or None
        ``‖x Wᵀ - x W'ᵀ‖ / ‖x Wᵀ‖``, with inputs.
    rank, effective_rank : float or None
        Ranks of the generated weight as a matrix rows | columns.
    note : str
        Why a value is missing.

    Examples
    --------
    >>> Compared("LowRank", note="no network so small").error is None
    True
    """

    label: str
    params: int | None = None
    cost: Cost | None = None
    bound: int | None = None
    error: float | None = None
    output_error: float | None = None
    rank: int | None = None
    effective_rank: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Families compared at one budget; prints as a table.

    Attributes
    ----------
    shape : tuple of int
    budget : int
    rows : tuple of Compared

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> print(str(dtn.compare(np.eye(4), ["LowRank"], budget=16)).splitlines()[0])
    weight of shape (4, 4), at most 16 parameters
    """

    shape: Shape
    budget: int
    rows: tuple[Compared, ...]

    def __str__(self) -> str:
        head = ("topology", "params", "error", "on outputs", "rank", "bound", "effective", "flops", "note")
        cells = [
            (
                row.label,
                _text(row.params),
                _text(row.error),
                _text(row.output_error),
                _text(row.rank),
                _text(row.bound),
                _text(row.effective_rank),
                _text(None if row.cost is None else row.cost.flops),
                row.note,
            )
            for row in self.rows
        ]
        return f"weight of shape {self.shape}, at most {self.budget:,} parameters\n{text_table([head, *cells])}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        rows = [asdict(row) | {"ratio": None if row.params is None else self.size / row.params} for row in self.rows]
        return {"shape": list(self.shape), "params": self.size, "budget": self.budget, "rows": rows}

    @property
    def size(self) -> int:
        """Number of entries of the weight."""
        return math.prod(self.shape)

    def plot(self) -> Figure:
        """Plot the errors as bars in a new matplotlib figure.

        Returns
        -------
        matplotlib.figure.Figure
        """
        figure, ax = _axes()
        rows = [row for row in self.rows if row.error is not None][::-1]
        ax.barh(range(len(rows)), [row.error for row in rows], color="C0", label="of W")
        if any(row.output_error is not None for row in rows):
            values = [math.nan if row.output_error is None else row.output_error for row in rows]
            ax.plot(values, range(len(rows)), "k|", markersize=14, label="of the outputs")
            ax.legend()
        ax.set_yticks(range(len(rows)), [f"{row.label.partition('(')[0]} ({row.params:,})" for row in rows])
        ax.set_xlabel("relative error (Frobenius)")
        ax.set_title(f"{' × '.join(map(str, self.shape))}, at most {self.budget:,} parameters")
        return figure


def compare(
    weight: Array,
    topologies: Iterable[Topology | str] | None = None,
    budget: int = 1000,
    *,
    inputs: Array | None = None,
    fit: FitFunction | None = None,
) -> Comparison:
    """Compare how well families approximate a weight with the same number of parameters.

    Parameters
    ----------
    weight : array
        Array of any library, with at least two axes.
    topologies : iterable of Topology or str, optional
        Families; only their sizes change. By default all registered families with a good closed form: `LowRank`,
        `TensorTrain`, `TTMatrix`, `Tucker`, `HierarchicalTucker` and your own (`Topology.closed_form_suffices`).
    budget : int
        Maximum number of parameters of each network. The bonds suit the weight, as in `decompose`.
    inputs : array of shape (N, prod(weight.shape[1:])), optional
        If given, the error is also measured on the outputs ``inputs @ W.T``.
    fit : callable, optional
        ``fit(net, weight)`` returns parameters, for families that `decompose` cannot fit, like those with activations;
        for example ``lambda net, W: deeptn_torch.fit(net, W).params``.

    Returns
    -------
    Comparison

    Raises
    ------
    SpecError
        If the inputs do not match the weight.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> W = np.random.default_rng(0).normal(size=(16, 4)) @ np.ones((4, 16))
    >>> rows = dtn.compare(W, ["LowRank", "TensorTrain", "Tree"], budget=100).rows
    >>> [(row.params, row.note) for row in rows]
    [(96, ''), (100, ''), (52, 'cannot be decomposed, and no fit was given')]
    >>> rows[0].error < 1e-12
    True
    """
    budget = positive_int(budget, "budget")
    dense = _checked(weight, inputs)
    rows = []
    for family in _families(topologies):
        try:
            net = at_budget(family, dense.shape, budget)
        except (SpecError, LayoutError) as error:
            rows.append(Compared(type(family).__name__, note=str(error)))
            continue
        net, found, note = _generated(net, weight, fit, budget)
        row = {"label": describe(net.topology), "params": net.num_params, "cost": net.cost(), "note": note}
        inside = [leg.name for leg in net.layout.legs if leg.axis == 0]
        if 0 < len(inside) < len(net.layout.legs):
            row["bound"] = min(rank_bound(net, inside), dense.shape[0], math.prod(dense.shape[1:]))
        if found is not None:
            cut = measure_cut(found.reshape(len(found), -1))
            row |= {"rank": cut.rank, "effective_rank": cut.effective_rank, "error": relative_error(found, dense)}
            row["output_error"] = None if inputs is None else _on_outputs(found, dense, to_numpy(inputs))
        rows.append(Compared(**row))
    return Comparison(dense.shape, budget, tuple(rows))


def _families(topologies: Iterable[Topology | str] | None) -> list[Topology]:
    if topologies is None:
        return [family for family in map(as_topology, topology_names()) if family.closed_form_suffices]
    if isinstance(topologies, (str, Topology)):
        raise SpecError(f"topologies = {topologies!r:.60}; expected a list, for example ['LowRank', 'TTMatrix']")
    return [as_topology(given) for given in topologies]


def _checked(weight: Array, inputs: Array | None) -> np.ndarray:
    dense = to_numpy(weight)
    if dense.ndim < 2:
        raise SpecError(f"weight of shape {dense.shape}; expected at least two axes")
    columns = math.prod(dense.shape[1:])
    shape = None if inputs is None else tuple(getattr(inputs, "shape", ()))
    if shape is not None and (len(shape) != 2 or shape[1] != columns):
        raise SpecError(f"inputs of shape {shape}; expected (N, {columns}) for a weight of shape {dense.shape}")
    return dense


def _generated(
    net: Network, weight: Array, fit: FitFunction | None, budget: int | None = None
) -> tuple[Network, np.ndarray | None, str]:
    """Return a network and the weight that it generates to approximate the given one, or None and the reason.

    With a budget, the network may have other bonds than the given one.
    """
    family = net.topology
    assert family is not None
    if family.closed_form_suffices or can_alternate(net):
        net, params, _ = decompose(to_numpy(weight), family, net.layout, budget=budget)
        return net, to_numpy(net.materialize(params)), ""
    if fit is None:
        return net, None, "cannot be decomposed, and no fit was given"
    return net, to_numpy(net.materialize(fit(net, weight))), ""


def _on_outputs(found: np.ndarray, dense: np.ndarray, inputs: np.ndarray) -> float:
    rows = len(dense)
    return relative_error(inputs @ found.reshape(rows, -1).T, inputs @ dense.reshape(rows, -1).T)


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _axes() -> tuple[Figure, Any]:
    figure = optional("matplotlib.figure", "draw").Figure(layout="constrained")
    return figure, figure.subplots()
