"""Find how many parameters each family needs for a given weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import relative_error, to_numpy
from ..base import Array, Shape, positive_int, text_table
from ..budget import at_common_size
from ..errors import LayoutError, SpecError
from ..network import Network, network
from ..topologies import Topology, describe
from .comparison import FitFunction, _axes, _checked, _families, _generated, _on_outputs, _text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Needed:
    """Parameters that a family needs to reach an accuracy.

    Attributes
    ----------
    label : str
        The topology, with the size that suffices.
    decibels : float
        The requested accuracy: ``-20 log10(error)``.
    params : int or None
        Number of parameters at the smallest size found to suffice; None if no size within the limit does.
    error, output_error : float or None
        Errors of that network; if no size suffices, `error` is the smallest one reached.
    note : str

    Examples
    --------
    >>> Needed("LowRank(rank=2)", 20.0, 16, 0.05).params
    16
    """

    label: str
    decibels: float
    params: int | None
    error: float | None = None
    output_error: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Compressibility:
    """Parameters against accuracy for one weight; prints as a table.

    Attributes
    ----------
    shape : tuple of int
    dense : int
        Number of entries of the weight.
    rows : tuple of Needed
        One row per family and level, grouped by family.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> dtn.analysis.compressibility(np.ones((4, 4)), (20,), ["LowRank"]).rows[0].params
    8
    """

    shape: Shape
    dense: int
    rows: tuple[Needed, ...]

    def __str__(self) -> str:
        head = ("topology", "dB", "params", "of dense", "error", "on outputs", "note")
        cells = [
            (
                row.label,
                f"{row.decibels:g}",
                _text(row.params),
                "-" if row.params is None else f"{100 * row.params / self.dense:.3g} %",
                _text(row.error),
                _text(row.output_error),
                row.note,
            )
            for row in self.rows
        ]
        return f"weight of shape {self.shape}, {self.dense:,} entries\n{text_table([head, *cells])}"

    def plot(self) -> Figure:
        """Plot parameters against accuracy, one line per family.

        Returns
        -------
        matplotlib.figure.Figure
        """
        figure, ax = _axes()
        count = len(dict.fromkeys(row.decibels for row in self.rows))
        groups = [list(self.rows[k : k + count]) for k in range(0, len(self.rows), count)]
        lines: dict[str, list[Needed]] = {}
        for rows in groups:
            name = rows[0].label.partition("(")[0]
            lines[name if name not in lines else f"{name} {len(lines) + 1}"] = rows
        for name, rows in lines.items():
            reached = [row for row in rows if row.params is not None]
            ax.plot([row.decibels for row in reached], [row.params for row in reached], "o-", label=name)
        ax.axhline(self.dense, color="black", linewidth=0.8, label="dense")
        ax.set_yscale("log")
        ax.set_xlabel("accuracy of W [dB]")
        ax.set_ylabel("parameters")
        ax.legend()
        return figure


def compressibility(
    weight: Array,
    decibels: Iterable[float] = (10.0, 20.0, 40.0),
    topologies: Iterable[Topology | str] | None = None,
    *,
    inputs: Array | None = None,
    fit: FitFunction | None = None,
    most: int | None = None,
) -> Compressibility:
    """Find how many parameters each family needs for a weight at given accuracies.

    Parameters
    ----------
    weight : array
        Array of any library, with at least two axes.
    decibels : iterable of float
        Levels ``-20 log10(‖W - W'‖ / ‖W‖)``: 20 dB is an error of 10 %.
    topologies, inputs, fit
        As for `compare`.
    most : int, optional
        Maximum number of parameters to try, by default the number of entries of the weight.

    Returns
    -------
    Compressibility
        The size of each family is doubled until the level is reached, then refined by bisection. This finds the
        smallest size if the error falls with the size, which a gradient fit does not guarantee.

    Raises
    ------
    SpecError
        If the inputs do not match the weight, or a level is not a positive number.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> W = np.diag([1.0, 0.1, 0.01, 0.001]) @ np.linalg.qr(np.arange(16.0).reshape(4, 4) ** 2 + np.eye(4))[0]
    >>> report = dtn.analysis.compressibility(W, (10, 30), ["LowRank"])
    >>> [(row.label, row.params) for row in report.rows]
    [('LowRank(rank=1)', 8), ('LowRank(rank=2)', 16)]
    """
    dense = _checked(weight, inputs)
    try:
        levels = [float(level) for level in decibels]
    except (TypeError, ValueError):
        levels = [math.nan]
    if not all(0 < level < math.inf for level in levels):
        raise SpecError(f"decibels = {decibels!r}; expected positive numbers, for example (10, 20, 40)")
    limit = dense.size if most is None else positive_int(most, "most")
    rows: list[Needed] = []
    for family in _families(topologies):
        try:
            largest = at_common_size(family, dense.shape, limit).topology or family
        except (SpecError, LayoutError) as error:
            rows += [Needed(type(family).__name__, level, None, note=str(error)) for level in levels]
            continue
        known: dict[int, tuple[Network, np.ndarray | None, str]] = {}

        def at(size: int, family: Topology = family, known: dict[int, Any] = known) -> Any:
            if size not in known:
                net = network(family.resized(size), dense.shape)
                known[size] = _generated(net, weight, fit)
            return known[size]

        rows += [_needed(at, largest.size, dense, level, inputs) for level in levels]
    return Compressibility(dense.shape, dense.size, tuple(rows))


def _needed(at: Callable[[int], Any], top: int, dense: np.ndarray, level: float, inputs: Array | None) -> Needed:
    """Double the size until the level is reached, then bisect."""
    allowed = 10 ** (-level / 20)

    def error(size: int) -> float:
        found = at(size)[1]
        return math.inf if found is None else relative_error(found, dense)

    low, high = 0, 1
    while not error(high) <= allowed:  # the error of a failed fit may be nan
        net, found, note = at(high)
        if found is None or high >= top:
            smallest = min(error(size) for size in (low, high) if size)
            note = note or "no size within the limit suffices"
            return Needed(describe(net.topology), level, None, None if found is None else smallest, None, note)
        low, high = high, min(2 * high, top)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if error(middle) <= allowed else (middle, high)
    net, found, _ = at(high)
    on_outputs = None if inputs is None else _on_outputs(found, dense, to_numpy(inputs))
    return Needed(describe(net.topology), level, net.num_params, error(high), on_outputs)
