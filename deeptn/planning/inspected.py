"""What an inspection finds out about the weights of a model, as data and as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..analysis import Needed
from ..base import Shape, text_table
from ..network import Network
from ..topologies import describe
from .sizes import NONE_SMALLER, NOT_REACHED, allowed

#: Advice is given for the level closest to this one, in decibels: an error of 10 %.
TYPICAL = 20.0


@dataclass(frozen=True)
class Inspected:
    """What `inspect_model` found out about one weight.

    Attributes
    ----------
    name, kind : str
        The layer. A file without model code does not know kinds for sure.
    shape : tuple of int
    params : int
        Entries of the dense weight.
    spectrum : tuple of float
        Singular values of the matrix rows | columns in descending order, normalized so that their squares sum to 1.
    rank : int or None
        Numerical rank.
    effective_rank : float or None
        As in `deeptn.analysis.Cut`: the number of equal singular values with the same entropy.
    needed : tuple of deeptn.analysis.Needed
        Parameters for every family and level; None if no network smaller than the weight reaches the level.
    network : Network or None
        The smallest network at the level of the advice.
    seconds_before, seconds_after : float or None
        Estimated time of a call on this machine with NumPy, dense and with `network` [s]. A call is a product with
        `batch` rows of input; for an embedding, a lookup of `batch` rows.
    way : str
        The faster way to use the network: ``"materialize"``, ``"apply"`` or ``"gather"``.
    advice : str
        One sentence.
    refused : str
        Why the weight cannot be compressed: the end of a sentence that starts with the layer.

    Examples
    --------
    >>> import deeptn as dtn
    >>> layer = Inspected("fc", "linear", (120, 400), 48_000, network=dtn.network(dtn.LowRank(rank=3), (120, 400)))
    >>> layer.narrower, layer.outputs
    (3, 120)
    """

    name: str
    kind: str
    shape: Shape
    params: int
    spectrum: tuple[float, ...] = ()
    rank: int | None = None
    effective_rank: float | None = None
    needed: tuple[Needed, ...] = ()
    network: Network | None = None
    seconds_before: float | None = None
    seconds_after: float | None = None
    way: str = ""
    advice: str = ""
    refused: str = ""

    @property
    def narrower(self) -> int | None:
        """Outputs that a dense layer with as many parameters as `network` could keep, of `outputs`."""
        return None if self.network is None else self.network.num_params * self.outputs // self.params

    @property
    def outputs(self) -> int:
        """Outputs of the layer: rows of the weight; for an embedding, entries of a row."""
        return math.prod(self.shape[1:]) if self.kind == "embedding" else self.shape[0]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        net = self.network
        data: dict[str, Any] = {"name": self.name, "kind": self.kind, "shape": list(self.shape), "params": self.params}
        if self.refused:
            return data | {"refused": self.refused}
        return data | {
            "rank": self.rank,
            "effective_rank": self.effective_rank,
            "spectrum": list(self.spectrum),
            "needed": [
                {"family": _family(one.label), "topology": one.label, "decibels": one.decibels, "params": one.params}
                | {"share": None if one.params is None else one.params / self.params}
                | {"error": one.error, "note": one.note}
                for one in self.needed
            ],
            "smallest": None
            if net is None
            else {"topology": describe(net.topology), "params": net.num_params, "ratio": self.params / net.num_params},
            "outputs": self.outputs,
            "narrower_outputs": self.narrower,
            "seconds_before": self.seconds_before,
            "seconds_after": self.seconds_after,
            "way": self.way,
            "advice": self.advice,
        }


@dataclass(frozen=True)
class Inspection:
    """What `inspect_model` found out about a model; prints as a table and a sentence for each layer.

    Attributes
    ----------
    layers : tuple of Inspected
    families : tuple of str
    levels : tuple of float
        Accuracies in decibels, ``-20 log10(‖W - W'‖ / ‖W‖)``.
    batch : int
        Rows of a call, for the times.
    params : int
        All parameters of the model.

    Examples
    --------
    >>> layer = Inspected("fc", "linear", (4, 6), 24, refused="shares its weight with 'head'; untie them")
    >>> print(Inspection((layer,), ("LowRank",), (20.0,), 1, 24))
    1 weight with 24 of the model's 24 parameters
    fc (4 × 6) shares its weight with 'head'; untie them
    """

    layers: tuple[Inspected, ...]
    families: tuple[str, ...]
    levels: tuple[float, ...]
    batch: int
    params: int

    @property
    def level(self) -> float:
        """The level that the advice, the times and the narrower layers refer to."""
        return typical(self.levels)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "params": self.params,
            "families": list(self.families),
            "decibels": list(self.levels),
            "advice_at": self.level,
            "batch": self.batch,
            "layers": [layer.to_dict() for layer in self.layers],
        }

    def __str__(self) -> str:
        shown = [layer for layer in self.layers if not layer.refused]
        total = sum(layer.params for layer in self.layers)
        weights = f"{len(self.layers)} weight{'s' * (len(self.layers) != 1)}"
        lines = [f"{weights} with {total:,} of the model's {self.params:,} parameters"]
        if shown:
            head = ("layer", "kind", "weight", "parameters", "effective rank", "σ at 1/4, 1/2, 3/4", *self.families)
            rows = [self._row(layer) for layer in shown]
            lines += ["", text_table([(*head, "narrower dense", "time of a call"), *rows]), "", *self._legend(), ""]
        lines += [f"{layer.name}: {layer.advice}" for layer in shown]
        lines += [f"{x.name} ({' × '.join(map(str, x.shape))}) {x.refused}" for x in self.layers if x.refused]
        return "\n".join(lines)

    def _row(self, layer: Inspected) -> tuple[str, ...]:
        full = len(layer.spectrum)
        first = layer.spectrum[0] or 1.0
        places = (layer.spectrum[full * part // 4] / first for part in (1, 2, 3))
        count = len(self.levels)
        groups = [layer.needed[k : k + count] for k in range(0, len(layer.needed), count)]
        return (
            layer.name,
            layer.kind,
            " × ".join(map(str, layer.shape)),
            f"{layer.params:,}",
            f"{layer.effective_rank:.3g} of {full}",
            ", ".join(f"{value:.2g}" for value in places),
            *(" / ".join(_cell(one, layer.params) for one in group) for group in groups),
            "-" if layer.narrower is None else f"{layer.narrower} of {layer.outputs} outputs",
            _time(layer.seconds_before) + ("" if layer.network is None else f" -> {_time(layer.seconds_after)}"),
        )

    def _legend(self) -> list[str]:
        levels = " / ".join(f"{level:g}" for level in self.levels)
        errors = " / ".join(percent(allowed(level)) for level in self.levels)
        rows = f"{self.batch} row{'s' * (self.batch > 1)}"
        lines = [
            "σ: singular values of the matrix rows | columns, a quarter, half and three quarters of the way down, "
            "relative to the largest",
            f"{', '.join(self.families)}: share of the parameters needed for {levels} dB, an error of W of {errors}; "
            '"-": no smaller network',
            f"narrower dense: outputs of a dense layer of the size of the smallest network for {self.level:g} dB",
            f"time: estimate for {rows} with NumPy on this machine, dense -> that network",
        ]
        if any(_cell(one, 1) == "?" for layer in self.layers for one in layer.needed):
            lines.insert(2, '"?": not tried, or only up to the size of a short fit; the notes (--json) say more')
        return lines


def typical(levels: Sequence[float]) -> float:
    """Return the level that advice refers to."""
    return min(levels, key=lambda level: abs(level - TYPICAL))


def _family(label: str) -> str:
    return label.partition("(")[0]


def _cell(one: Needed, params: int) -> str:
    if one.params is not None:
        return percent(one.params / params)
    return "-" if one.note in (NONE_SMALLER, NOT_REACHED) else "?"


def percent(share: float) -> str:
    """Format a share with two digits."""
    return f"{100 * share:.2g}%" if share < 0.095 else f"{100 * share:.0f}%"


def _time(value: float | None) -> str:
    if value is None:
        return "-"
    for unit, name in ((1e-3, "µs"), (1.0, "ms")):
        if value < unit:
            return f"{1e3 * value / unit:.3g} {name}"
    return f"{value:.3g} s"
