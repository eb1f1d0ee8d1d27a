"""The result page on fits to trained weights."""

from __future__ import annotations

import math
from typing import Any

from tables import about, table

#: What the weights are.
TITLES = {
    "digits": "First layer of a perceptron trained on scikit-learn's digits",
    "lenet5": "fc1 of LeNet-5 trained on Fashion-MNIST",
    "minilm": "First feed-forward layer of all-MiniLM-L6-v2",
}


def _groups(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[Any, list[dict[str, Any]]]:
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def fits_page(data: dict[str, Any]) -> str:
    """Return the page on fits to trained weights."""
    rows = data["rows"]
    ratios = [row["ratio"] for row in rows]
    lines = [
        "# Fits to trained weights",
        "",
        "How well networks approximate a trained weight W, at the same number of parameters and on the same layout: "
        "`dtn.decompose(W, family, layout, budget=…)` against TensorLy-Torch (which `FactorizedLinear.from_linear` runs) for Tucker, TT "
        "and TT-matrix, and against TensorLy's ALS for CP and rings. The peer chooses its ranks for 2, 5, 10 or 20 % of the "
        "entries of W; deeptn gets the number of parameters that the peer then has. The error is ‖W − W′‖ / ‖W‖. TensorLy's is the "
        f"best of {len(data['seeds'])} starts; none was given another sweep after {data['seconds']['CP']} s (CP) or "
        f"{data['seconds']['TensorRing']} s (ring).",
        "",
        f"Of {len(rows)} rows, the largest ratio of errors (deeptn divided by the peer) is {max(ratios):.4f}, the smallest "
        f"{min(ratios):.3f}, the geometric mean {math.exp(sum(map(math.log, ratios)) / len(ratios)):.3f}.",
        "",
        "![Error against parameters](fits.svg)",
        "",
        "All these errors are large: trained weights have little structure that any of these families can use. What counts in "
        "the end is the accuracy after healing; see [what compression costs](../honesty.md).",
        "",
    ]
    for (weight,), found in _groups(rows, ("weight",)).items():
        shape = " × ".join(map(str, found[0]["shape"]))
        shares = sorted({row["share"] for row in found})
        cells = []
        for (family, peer), some in _groups(found, ("family", "peer")).items():
            by_share = {row["share"]: row for row in some}
            times = [sum(row[key] for row in some) for key in ("peer_seconds", "seconds")]
            cells.append(
                [
                    f"{family}, {peer}",
                    *(
                        f"{min(by_share[share]['peer_errors']):.3f} → {by_share[share]['error']:.3f}"
                        if share in by_share
                        else ""
                        for share in shares
                    ),
                    f"{times[0]:.1f} → {times[1]:.1f}",
                ]
            )
        headings = ["family, peer", *(f"{share:.0%}" for share in shares), "seconds, all sizes"]
        lines += [f"## {TITLES[weight]} ({shape})", "", "Error of the peer → error of deeptn.", ""]
        lines += [*table(headings, cells), ""]
    lines += [
        f"Measured by `python benchmarks/fits.py`: {about(data['environment'], ('tensorly', 'tensorly-torch'))}; seeds "
        f"{', '.join(map(str, data['seeds']))}. All rows: `benchmarks/results/fits.json`. This page is written by "
        "`benchmarks/pages.py`.",
        "",
    ]
    if len(rows) < len({row["share"] for row in rows}) * len(_groups(rows, ("weight", "family"))):
        lines.insert(4, "**Empty cells have not been measured yet: at these sizes the peer takes hours.**")
        lines.insert(5, "")
    return "\n".join(lines)


def fits_figure(data: dict[str, Any]) -> Any:
    """Plot the errors against the number of parameters, for every weight."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import NullFormatter

    groups = _groups(data["rows"], ("weight",))
    figure = Figure(figsize=(10.5, 4.0), layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    colors = dict(
        zip(
            ("TensorTrain", "TTMatrix", "Tucker", "CP", "TensorRing"),
            ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00"),
        )
    )
    for ax, ((weight,), found) in zip(axes, groups.items()):
        for (family,), some in _groups(found, ("family",)).items():
            color = colors[family]
            theirs = [(row["peer_params"], min(row["peer_errors"])) for row in some]
            ax.plot(*zip(*theirs), "--", marker="o", color=color, markersize=4, markerfacecolor="white")
            ax.plot(*zip(*((row["params"], row["error"]) for row in some)), "-", marker="o", color=color, markersize=4)
        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_title(f"{weight}, {' × '.join(map(str, found[0]['shape']))}", fontsize=10)
        ax.set_xlabel("parameters")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("‖W − W′‖ / ‖W‖")
    handles = [Line2D([], [], color=color, label=family) for family, color in colors.items()]
    handles += [Line2D([], [], color="#555555", label="deeptn")]
    handles += [Line2D([], [], color="#555555", linestyle="--", marker="o", markerfacecolor="white", label="peer")]
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    return figure


def calibrated_page(data: dict[str, Any]) -> str:
    """Return the page on fits that know the inputs of a layer."""
    rows, counts = data["rows"], data["examples"]
    gains = [row["gain_db"] for row in rows]
    lines = [
        "# Fits that know the inputs of a layer",
        "",
        "`compress(calibration=…)` minimizes the error of a layer's outputs on calibration data, and not that of its weight. Both "
        f"fits below have the same network. Calibration: {counts['calibration']:,} images or sentences; held out: "
        f"{counts['held_out']:,} others. The tables have the signal-to-noise ratio of the outputs on the held-out data in dB, "
        "−20 log₁₀ of the relative error (20 dB: 10 % error); higher is better.",
        "",
        f"Of {len(rows)} pairs, the calibrated fit is better in {sum(gain > 0 for gain in gains)}; it gains "
        f"{min(gains):.1f} to {max(gains):.1f} dB, {sum(gains) / len(gains):.1f} dB on average.",
        "",
    ]
    for (layer,), found in _groups(rows, ("layer",)).items():
        shares = sorted({row["share"] for row in found})
        cells = []
        for (family,), some in _groups(found, ("family",)).items():
            by_share = {row["share"]: row for row in some}
            seconds = [sum(row[kind]["seconds"] for row in some) for kind in ("plain", "calibrated")]
            cells.append(
                [
                    family,
                    *(
                        f"{by_share[share]['plain']['held_out_db']:.1f} → {by_share[share]['calibrated']['held_out_db']:.1f}"
                        if share in by_share
                        else ""
                        for share in shares
                    ),
                    f"{seconds[0]:.0f} → {seconds[1]:.0f}",
                ]
            )
        headings = ["family", *(f"{share:.0%}" for share in shares), "seconds, all sizes"]
        lines += [f"## {layer}", "", "From the weight alone → with the inputs.", "", *table(headings, cells), ""]
    lines += [
        "Empty cells and missing families: the family has no network of that size, or only a fit by gradient, which would take "
        "hours for the table of embeddings (CP has ranks of 9,451 and more there, too many for alternating least squares).",
        "",
        f"Measured by `python benchmarks/calibrated.py`: {about(data['environment'])}; seed {data['seed']}. All rows: "
        "`benchmarks/results/calibrated.json`. This page is written by `benchmarks/pages.py`.",
        "",
    ]
    return "\n".join(lines)
