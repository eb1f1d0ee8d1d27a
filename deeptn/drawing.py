"""Pictures and tables of a network. Matplotlib is imported on use."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from .bridge import optional
from .network import Network
from .spec import NetworkSpec, Stage

#: Colours of the weight's axes (Okabe & Ito's palette, safe for colour-blind readers).
_AXIS_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def summary(net: Network) -> str:
    """Describe a network in a few lines: stages, nodes, parameters and cost.

    Examples
    --------
    >>> import deeptn as dtn
    >>> print(dtn.summary(dtn.network(dtn.LowRank(rank=1), (4, 4))))
    Network(LowRank(rank=1), shape=(4, 4), legs=(4, 4), num_params=8)
    stage 1: 2 nodes, 8 parameters
    decode: 32 flops, 16 elements written, 24 at the peak, 1 steps
    """
    lines = [repr(net)]
    seen: set[str] = set()
    for number, stage in enumerate(net.spec.stages):
        fresh = {node.param for node in stage.nodes if node.param is not None} - seen
        seen |= fresh
        count = sum(int(np.prod(net.spec.param_shapes[name])) for name in fresh)
        after = [word for word in (stage.normalize, stage.activation) if word]
        nodes = sum(node.param is not None for node in stage.nodes)
        then = f", then {', '.join(after)}" if after else ""
        lines.append(f"stage {number + 1}: {nodes} nodes, {count:,} parameters{then}")
    cost = net.cost("materialize")
    lines.append(
        f"decode: {cost.flops:,} flops, {cost.write:,} elements written, {cost.peak:,} at the peak, {cost.steps} steps"
    )
    return "\n".join(lines)


def draw(net: Network, ax: Any = None) -> Any:
    """Draw a network: nodes in columns from the first stage (left) to the legs (right), activations as bars.

    Parameters
    ----------
    net : Network
    ax : matplotlib Axes, optional
        To draw into; by default a figure of a fitting size is made.

    Returns
    -------
    matplotlib.figure.Figure
        Save it with ``savefig``. Legs are coloured by weight axis; the area of a node grows with its parameters.

    Raises
    ------
    MissingBackendError
        If matplotlib is not installed.

    Examples
    --------
    >>> import deeptn as dtn
    >>> figure = dtn.draw(dtn.network(dtn.BrickWall(layers=2), (16, 16)))
    """
    figure_module = optional("matplotlib.figure", "demo")
    places, bars, width = _place(net.spec)
    legs = net.layout.legs
    if ax is None:
        figure = figure_module.Figure(
            figsize=(max(5.0, 2.0 + 0.75 * width), 1.2 + 0.42 * len(legs)), layout="constrained"
        )
        ax = figure.add_subplot()
    figure = ax.figure
    for points, colour in _lines(net, places, bars, width):
        ax.plot(*zip(*points), color=colour, linewidth=1.3, zorder=1)
    for bar, label in bars:
        if label:
            ax.plot([bar, bar], [-0.5, len(legs) - 0.5], color="#888888", linewidth=5, alpha=0.35, zorder=0)
            ax.text(bar, -0.85, label, ha="center", va="bottom", fontsize=8, color="#444444")
    for node in net.spec.nodes:
        x, y = places[node.name]
        constant = node.constant is not None
        entries = float(np.prod(net.spec.node_shape(node)))
        size = 60.0 if constant else 45.0 + 22.0 * min(np.log2(entries + 1.0), 10.0)
        face, marker = ("white", "o") if constant else ("#F0E442", "s" if node.inputs else "o")
        ax.scatter([x], [y], s=size, c=face, edgecolors="#333333", marker=marker, linewidths=0.9, zorder=2)
    for k, leg in enumerate(legs):
        colour = _AXIS_COLOURS[leg.axis % len(_AXIS_COLOURS)]
        ax.text(width + 0.1, k, f"{leg.name} ({leg.size})", va="center", fontsize=8, color=colour)
    name = "Graph" if net.topology is None else type(net.topology).__name__
    ax.set_title(f"{name}, {'x'.join(map(str, net.shape))} from {net.num_params:,} parameters", fontsize=10, pad=18)
    ax.set_xlim(-0.7, width + 1.6)
    ax.set_ylim(len(legs) - 0.3, -1.1)
    ax.axis("off")
    return figure


Point = tuple[float, float]


def _place(spec: NetworkSpec) -> tuple[dict[str, Point], list[tuple[float, str]], float]:
    """Position of every node, the place and label of the bar behind every stage, and the total width.

    Backwards from the legs: a node stands at the mean height of what leaves it. Within a stage, directed nodes stand
    in the columns of their data flow; undirected ones in one column, or on a spring layout where they would collide.
    """
    heights = {leg.name: float(k) for k, leg in enumerate(spec.legs)}
    places: dict[str, Point] = {}
    columns = [_columns(stage) for stage in spec.stages]
    starts = np.concatenate([[0.0], np.cumsum([max(c.values()) + 1.6 for c in columns])])
    bars = []
    for number in reversed(range(len(spec.stages))):
        stage = spec.stages[number]
        words = [word for word in (stage.normalize, stage.activation) if word]
        bars.insert(0, (float(starts[number + 1]) - 0.8, " ".join(words)))
        for node in sorted(stage.nodes, key=lambda n: -columns[number][n.name]):
            known = [heights[ix] for ix in node.outputs if ix in heights]
            known = known or [heights[ix] for ix in node.indices if ix in heights]
            y = float(np.mean(known)) if known else (len(spec.legs) - 1) / 2
            places[node.name] = (float(starts[number]) + columns[number][node.name], y)
            spread = sorted(known) if len(known) == len(node.inputs) else [y] * len(node.inputs)
            heights |= dict(zip(node.inputs, spread))
            if not node.inputs:
                heights |= {ix: y for ix in node.outputs if ix not in heights}
    _separate(spec, places)
    return places, bars, float(starts[-1]) - 0.8


def _columns(stage: Stage) -> dict[str, int]:
    """Length of the longest chain of nodes that leads to a node, along inputs."""
    makers = {ix: node for node in stage.nodes for ix in node.outputs if node.inputs or len(stage.nodes) > 1}
    depth: dict[str, int] = {}
    for node in stage.nodes:  # nodes are listed in the order in which they act
        depth[node.name] = 1 + max(
            (depth.get(makers[ix].name, -1) for ix in node.inputs if ix in makers and makers[ix] is not node),
            default=-1,
        )
    if len(depth) == 1 + max(depth.values()):  # a plain chain stands upright
        return dict.fromkeys(depth, 0)
    return depth


def _separate(spec: NetworkSpec, places: dict[str, Point]) -> None:
    """Move nodes of one column apart until no two lie on top of each other."""
    columns: dict[float, list[str]] = {}
    for node in spec.nodes:
        columns.setdefault(places[node.name][0], []).append(node.name)
    for x, names in columns.items():
        names.sort(key=lambda name: places[name][1])
        for above, below in itertools.pairwise(names):
            if places[below][1] - places[above][1] < 0.7:
                places[below] = (x, places[above][1] + 0.7)


def _lines(net: Network, places: dict[str, Point], bars: list[tuple[float, str]], width: float) -> list[Any]:
    """Polylines of all indices with their colours."""
    spec = net.spec
    lines: list[Any] = []
    ends = {leg.name: (k, _AXIS_COLOURS[leg.axis % len(_AXIS_COLOURS)]) for k, leg in enumerate(spec.legs)}
    sources: dict[str, list[Point]] = {}
    for number, stage in enumerate(spec.stages):
        for node in stage.nodes:
            for ix in node.indices:
                sources.setdefault(ix, []).append(places[node.name])
        final = number == len(spec.stages) - 1
        if final:
            for name, (height, colour) in ends.items():
                lines += [([point, (width, float(height))], colour) for point in sources.get(name, [])]
    for ix, points in sources.items():
        if ix not in ends and len(points) == 2:
            lines.append((points, "#555555"))
        elif ix not in ends and len(points) > 2:
            hub = tuple(np.mean(points, axis=0))
            lines += [([point, hub], "#555555") for point in points]
    return lines
