"""Make the report page, a single self-contained HTML file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deeptn.analysis import draw
from deeptn.base import optional
from deeptn.network import Network
from deeptn.topologies import describe

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


def takeaway(summary: Sequence[dict[str, Any]], best: dict[str, Any]) -> str:
    """Say in two or three sentences what the table shows for one row, in comparison with its controls."""
    after = {row["family"]: row["after"] for row in summary if row["family"] in CONTROLS}
    after |= {
        row["family"]: row["after"] for row in summary if (row["family"], row["budget"]) == (NARROW, best["budget"])
    }
    text = (
        f"{best['label']} classifies {best['after']:.1f} % of the test images correctly with {best['ratio']:.0f} times "
        f"fewer parameters in the compressed layers; the dense network reaches {after.pop('dense'):.1f} %."
    )
    controls = sorted(after.items(), key=lambda item: -item[1])
    text += " Controls: " + ", ".join(f"{name} {value:.1f} %" for name, value in controls) + "."
    same = [
        row
        for row in summary
        if row["budget"] == best["budget"] and row["family"] != NARROW and row["after"] is not None
    ]
    top = max(same, key=lambda row: row["after"])
    if top["after"] > best["after"]:
        text += f" {top['label']} reaches {top['after']:.1f} % at this size."
    name, value = controls[0]
    if value >= best["after"]:
        text += f" So here the generated layers are not worth their parameters: {name} is at least as good."
    if best["seeds"] == 1:
        text += " This is one seed; differences of a point or less mean little."
    return text


def inline(figure: Any) -> str:
    """Return a figure as an SVG data URL."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def render(
    title: str,
    takeaway: str,
    summary: Sequence[dict[str, Any]],
    best: dict[str, Any],
    nets: dict[str, Network],
    facts: dict[str, str],
) -> str:
    """Render the report page.

    Parameters
    ----------
    title, takeaway : str
    summary : sequence of dict
        As returned by `deeptn_demo.experiment.summarize`.
    best : dict
        The row whose model was saved.
    nets : dict of str to Network
        Networks of that model, to draw.
    facts : dict of str to str
        What was run, and where.

    Returns
    -------
    str
        HTML without external references.
    """
    jinja2 = optional("jinja2", "demo")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        takeaway=takeaway,
        headings=HEADINGS,
        rows=[(row["family"] in {*CONTROLS, NARROW}, row is best, cells(row)) for row in summary],
        best=best,
        plot=inline(accuracy_figure(summary, title)),
        drawings=[(name, describe(net.topology), inline(draw(net))) for name, net in nets.items()],
        facts=facts,
    )
