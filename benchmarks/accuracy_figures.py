"""The table and the figure of the results of ``lenet5.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deeptn.base import optional

#: Color and marker of each family, the same in every figure.
STYLES = {
    "BrickWall": ("#D55E00", "o"),
    "Tree": ("#E69F00", "^"),
    "TensorTrain": ("#0072B2", "s"),
    "TTMatrix": ("#009E73", "D"),
    "Tucker": ("#CC79A7", "v"),
    "LowRank": ("#56B4E9", "P"),
}
CONTROLS = {"dense": "#222222", "fixed random": "#888888"}
NARROW = "narrower dense"


def number(value: Any, form: str = "{:,.0f}", sd: Any = None) -> str:
    """Format a cell: a dash for None, and the standard deviation if given."""
    if value is None:
        return "–"
    return form.format(value) + (f" ± {form.format(sd)}" if sd is not None else "")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Format one row of the table, for the terminal, the page and the documentation."""
    return (
        row["label"],
        number(row["params"]),
        number(row["ratio"], "{:,.1f}"),
        row["start"] or "–",
        number(row["before"], "{:.1f}", row["before_sd"]),
        number(row["after"], "{:.1f}", row["after_sd"]),
        number(row["decode_ms"], "{:.2f}"),
    )


HEADINGS = ("method", "params", "ratio", "start", "before %", "healed %", "decode ms")


def accuracy_figure(summary: Sequence[dict[str, Any]], title: str) -> Any:
    """Plot test accuracy after healing against parameters, with the controls as lines."""
    figure = optional("matplotlib.figure", "demo").Figure(figsize=(7.5, 4.4), layout="constrained")
    ax = figure.add_subplot()
    for family, (color, marker) in STYLES.items():
        rows = [row for row in summary if row["family"] == family and row["after"] is not None]
        rows.sort(key=lambda row: row["params"])
        if rows:
            x, y = [row["params"] for row in rows], [row["after"] for row in rows]
            errors = [row["after_sd"] or 0.0 for row in rows]
            ax.errorbar(x, y, yerr=errors, color=color, marker=marker, label=family, linewidth=1.4, capsize=2)
    rows = [row for row in summary if row["family"] == NARROW]
    if rows:  # placed at the network whose model has as many parameters in total
        x, y = [row["budget"] for row in rows], [row["after"] for row in rows]
        errors = [row["after_sd"] or 0.0 for row in rows]
        ax.errorbar(
            x, y, yerr=errors, color="#222222", marker="x", label=NARROW, linewidth=1.0, linestyle=":", capsize=2
        )
    for family, color in CONTROLS.items():
        for row in summary:
            if row["family"] == family:
                ax.axhline(row["after"], color=color, linestyle="--", linewidth=1.1)
                place = {"transform": ax.get_yaxis_transform(), "va": "bottom", "fontsize": 8}
                ax.text(0.01, row["after"], row["label"], color=color, **place)
    ax.set_xscale("log")
    ticker = optional("matplotlib.ticker", "demo")
    ax.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_locator(ticker.LogLocator(subs=(2.0, 3.0, 5.0)))
    ax.set_xlabel("parameters of the compressed layers")
    ax.set_ylabel("test accuracy after healing [%]")
    ax.set_title(title, fontsize=10)
    ax.grid(True, which="both", alpha=0.25)
    ax.legend(fontsize=8, loc="lower right", ncols=2)
    return figure
