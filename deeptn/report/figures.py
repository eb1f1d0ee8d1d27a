"""Figures of a page, as SVG that takes its colors from the page, so that they are light or dark as it is."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..analysis import draw
from ..analysis.pictures import BAR, BOND, TEXT
from ..base import optional
from ..models import History
from ..network import Network
from .rows import Row

#: Colors that the page defines, in place of those of matplotlib and of drawings.
INK, GROUND = "#010203", "#fefdfc"
_THEME = {INK: "var(--ink)", GROUND: "var(--ground)", TEXT: "var(--ink)", BOND: "var(--quiet)", BAR: "var(--quiet)"}

#: Okabe and Ito's colors that are readable on light and dark ground; markers; lines, which change when colors repeat.
_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS, _LINES = "osDv^PX<>phd", ("-", "--", ":")


def _style(number: int) -> tuple[str, str, str]:
    """Return the color, the marker and the line of a series."""
    lines = _LINES[number // len(_COLORS) % len(_LINES)]
    return _COLORS[number % len(_COLORS)], _MARKERS[number % len(_MARKERS)], lines


#: Largest width on the page, in pixels for each point; a narrow page shows figures of 3.9 inches as they are.
SCALE = 1.8

#: Networks with more nodes are not drawn, and larger weights not decomposed: their smaller side counts.
NODES, SIDE = 200, 2048


def figure(width: float = 3.9, height: float = 2.7) -> tuple[Any, Any]:
    """Return a new figure and its axes."""
    made = optional("matplotlib.figure", "report").Figure(figsize=(width, height), layout="constrained")
    ax = made.add_subplot()
    ax.set_facecolor("none")
    for text in (ax.xaxis.label, ax.yaxis.label):
        text.set_color(INK)
        text.set_fontsize(8)
    ax.tick_params(which="both", colors=INK, labelsize=8)
    ax.spines[:].set_color(INK)
    ax.grid(True, which="major", color=INK, alpha=0.15)
    return made, ax


def svg(made: Any, label: str) -> str:
    """Return a figure as inline SVG with a label for screen readers."""
    rc_context = optional("matplotlib", "report").rc_context
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        made.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for color, variable in _THEME.items():
        text = text.replace(color, variable)
    text = text.replace("white;", "var(--ground);").replace("#ffffff", "var(--ground)")
    width = float(re.search(r'width="([\d.]+)pt"', text)[1])  # type: ignore[index]
    # Ids of glyphs and clips must differ between the figures of a page.
    mark = f"f{zlib.crc32(label.encode())}"
    text = re.sub(r'\bid="', f'id="{mark}', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{mark}", text)
    head = f'<svg role="img" aria-label="{_escaped(label)}" style="width: 100%; max-width: {width * SCALE:.0f}px" '
    return head + re.sub(r'(width|height)="[\d.]+pt" ?', "", text[len("<svg ") :], count=2)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def comparison(rows: Sequence[Row], score: str) -> str | None:
    """Plot scores against bytes."""
    shown = [row for row in rows if row.mean is not None and row.bytes is not None]
    if len(shown) < 2:
        return None
    made, ax = figure(3.9, 2.8 + 0.09 * len(shown))
    for number, row in enumerate(shown):
        color, marker = (INK, "*") if row.role == "dense" else _style(number)[:2]
        size, face = (9, color) if row.role in ("chosen", "dense") else (6, color if row.role == "family" else "none")
        style = {"color": color, "marker": marker, "markersize": size, "markerfacecolor": face, "linestyle": "none"}
        ax.errorbar([row.bytes], [row.mean], yerr=[row.sd or 0.0], label=row.label, capsize=2, **style)
    ax.set_xscale("log")
    plain(ax.xaxis, "{x:,.0f}")
    ax.set_xlabel("bytes of the whole model at rest")
    ax.set_ylabel(score)
    made.legend(fontsize=7, frameon=False, labelcolor=INK, loc="outside lower center", ncols=2)
    return svg(made, f"{score} against bytes for {len(shown)} networks")


def plain(axis: Any, form: str) -> None:
    """Label a logarithmic axis with numbers."""
    ticker = optional("matplotlib.ticker", "report")
    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.StrMethodFormatter(form))


def spectra(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, str]:
    """Plot the singular values of each weight, before and after."""
    found = {}
    for name, (before, after) in pairs.items():
        made, ax = figure(2.9, 2.1)
        largest = max(float(before[0]), 1e-300)
        for values, color, style, label in ((before, INK, "-", "before"), (after, _COLORS[0], "--", "generated")):
            shares = values / largest
            shares = shares[shares > 1e-7]
            ax.plot(range(1, len(shares) + 1), shares, style, color=color, label=label, linewidth=1.5)
        ax.set_yscale("log")
        ax.set_xlabel("number")
        ax.set_ylabel("singular value")
        ax.legend(fontsize=7, frameon=False, labelcolor=INK)
        found[name] = svg(made, f"Singular values of {name} before and after, as shares of the largest one")
    return found


def values_of(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the singular values of two weights as matrices of outputs by inputs; None for large ones and vectors."""
    if before.ndim < 2:
        return None
    pair = [np.asarray(array, np.float64).reshape(len(array), -1) for array in (before, after)]
    if min(pair[0].shape) > SIDE:
        return None
    first, second = (np.linalg.svd(matrix, compute_uv=False) for matrix in pair)
    return first, second


def curves(histories: Mapping[str, History], fits: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Plot losses of training over epochs, and errors of fits over steps."""
    found = {}
    shown = {name: history for name, history in histories.items() if len(history.epochs) > 1}
    if shown:
        made, ax = figure(3.9, 2.5 + 0.09 * len(shown))
        for place, (name, history) in enumerate(shown.items()):
            color, _, line = _style(place)
            losses = [epoch.loss for epoch in history.epochs]
            ax.plot(range(1, len(losses) + 1), losses, line, color=color, label=name, linewidth=1.4)
        if all(epoch.loss > 0 for history in shown.values() for epoch in history.epochs):
            ax.set_yscale("log")
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_ylabel("mean training loss")
        made.legend(fontsize=7, frameon=False, labelcolor=INK, loc="outside lower center", ncols=2)
        found["Healing"] = svg(made, f"Training loss over epochs for {', '.join(shown)}")
    long = {name: history for name, history in fits.items() if len(history) > 2}
    if long:
        made, ax = figure()
        for place, (name, errors) in enumerate(long.items()):
            color, _, line = _style(place)
            ax.plot(range(len(errors)), errors, line, color=color, label=name, linewidth=1.4)
        ax.set_yscale("log")
        ax.set_xlabel("step of the fit, or sweep")
        ax.set_ylabel("relative error")
        ax.legend(fontsize=7, frameon=False, labelcolor=INK)
        found["Fits"] = svg(made, f"Errors of fits over steps for {', '.join(long)}")
    return found


def drawing(name: str, net: Network) -> str | None:
    """Draw a network; None if it has too many nodes."""
    if sum(len(stage.nodes) for stage in net.spec.stages) > NODES:
        return None
    return svg(draw(net), f"The network that generates {name}")
