"""Drawings and text summaries of a network. Matplotlib is imported only when needed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from ..base import optional
from ..network import Network
from ..spec import NetworkSpec, Node, Stage
from ..topologies import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Colors of the weight's axes (the Okabe-Ito palette, safe for color-blind readers).
_AXIS_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_BOND, _BAR, _TEXT = "#555555", "#888888", "#444444"

#: Minimum distance between nodes of a column, and between a node and the bar after its stage, in leg spacings.
_APART, _GAP = 0.7, 0.8

Point: TypeAlias = tuple[float, float]


def summary(net: Network) -> str:
    """Describe a network in a few lines: stages, nodes and their shapes, parameters and cost.

    Examples
    --------
    >>> import deeptn as dtn
    >>> print(dtn.summary(dtn.network(dtn.BrickWall(layers=2), (4, 4))))
    Network(BrickWall(layers=2), shape=(4, 4), legs=(2, 2, 2, 2), num_params=72)
    stage 0: 3 nodes, 24 parameters: 2 of (2, 2), 1 of (2, 2, 2, 2); then rms, relu
    stage 1: 3 nodes, 48 parameters: 3 of (2, 2, 2, 2)
    decode: 576 flops, 144 elements written, 104 at the peak, 7 steps
    """
    spec = net.spec
    lines = [repr(net)]
    seen: set[str] = set()
    for number, stage in enumerate(spec.stages):
        fresh = {node.param for node in stage.nodes if node.param is not None} - seen
        seen |= fresh
        count = sum(math.prod(spec.param_shapes[name]) for name in fresh)
        shapes = Counter(spec.node_shape(node) for node in stage.nodes if node.param is not None)
        listed = ", ".join(f"{times} of {shape}" for shape, times in shapes.items())
        after = [
            f"{word} {', '.join(map(str, n))}" for word, n in (("times", stage.multiply), ("plus", stage.add)) if n
        ]
        after += [word for word in (stage.normalize, stage.activation) if word]
        then = f"; then {', '.join(after)}" if after else ""
        lines.append(f"stage {number}: {shapes.total()} nodes, {count:,} parameters: {listed}{then}")
    cost = net.cost("materialize")
    lines.append(
        f"decode: {cost.flops:,} flops, {cost.write:,} elements written, {cost.peak:,} at the peak, {cost.steps} steps"
    )
    return "\n".join(lines)


def draw(net: Network, ax: Axes | None = None) -> Figure:
    """Draw a network: nodes in columns from the first stage (left) to the legs (right), activations as bars.

    The terms of a sum or a product are drawn one below the other, each with its legs.

    Parameters
    ----------
    net : Network
    ax : matplotlib Axes, optional
        Axes to draw into; by default, a figure of suitable size is created.

    Returns
    -------
    matplotlib.figure.Figure
        Save it with ``savefig``. Legs are colored by weight axis; the area of a node grows with its parameters.
        Squares have inputs, circles have none, and white nodes are constant; dots are hyper-indices.

    Raises
    ------
    MissingBackendError
        If matplotlib is not installed.

    Examples
    --------
    >>> import deeptn as dtn
    >>> figure = dtn.draw(dtn.network(dtn.BrickWall(layers=2), (16, 16)))
    """
    figure_module = optional("matplotlib.figure", "draw")
    spec = net.spec
    pictures = [_Picture(spec, numbers) for numbers in _branches(spec)]
    width = max(picture.width for picture in pictures)
    tops = [0.0]
    for picture in pictures:
        tops.append(tops[-1] + picture.bottom - picture.top + 1.6)
    into: Any = ax
    if into is None:
        size = (3.2 + 0.62 * width + 0.5 * (len(pictures) > 1), 0.6 + 0.36 * tops[-1])
        into = figure_module.Figure(figsize=size, layout="constrained").add_subplot()
    axes = {leg.name: _AXIS_COLORS[leg.axis % len(_AXIS_COLORS)] for leg in spec.legs}
    for picture, top in zip(pictures, tops):
        picture.paint(into, top - picture.top, width, axes)
    if len(pictures) > 1:
        x, last = width + 2.5, spec.stages[-1]
        into.plot([x, x], [0.0, tops[-1] - 1.6], color=_BAR, linewidth=1.0)
        sign, middle = "+" if last.add else "×", tops[-1] / 2 - 0.8
        into.text(x + 0.15, middle, sign, fontsize=16, va="center", color=_TEXT)
    name = describe(net.topology)
    title = f"{name if len(name) < 60 else type(net.topology).__name__}\n"
    into.set_title(
        f"{title}{' × '.join(map(str, net.shape))} from {net.num_params:,} parameters",
        fontsize=9,
        loc="left",
        color=_TEXT,
    )
    into.set_xlim(-0.9, width + 2.4 + 0.8 * (len(pictures) > 1))
    into.set_ylim(tops[-1] - 1.0, -1.3)
    into.axis("off")
    return into.figure


def _branches(spec: NetworkSpec) -> list[list[int]]:
    """Group the stages that are connected by contraction; sums and products combine the groups."""
    group = list(range(len(spec.stages)))
    for number in range(len(spec.stages)):
        for source in spec.sources(number):
            group = [group[source] if g == group[number] else g for g in group]
    return [[n for n, g in enumerate(group) if g == first] for first in dict.fromkeys(group)]


@dataclass
class _Picture:
    """Positions of the nodes in a chain of stages. x grows with the data flow, y downward; legs are 1 apart."""

    spec: NetworkSpec
    numbers: Sequence[int]
    places: dict[str, Point] = field(default_factory=dict)
    heights: dict[str, float] = field(default_factory=dict)
    bars: dict[int, float] = field(default_factory=dict)
    width: float = 0.0

    def __post_init__(self):
        # Work backward from the legs: a node's height is the mean height of its outputs.
        self.heights |= {ix: float(k) for k, ix in enumerate(self.spec.stages[self.numbers[-1]].output)}
        self.legs = dict(self.heights)
        columns = {number: _columns(self.spec.stages[number]) for number in self.numbers}
        starts, x = {}, 0.0
        for number in self.numbers:
            starts[number] = x
            x += max(columns[number].values()) + 2 * _GAP
            self.bars[number] = x - _GAP
        self.width = x - _GAP
        for number in reversed(self.numbers):
            stage = self.spec.stages[number]
            # Cores of a chain or a grid are placed next to their own legs.
            upright = not any(columns[number].values()) or all(set(n.indices) & set(self.legs) for n in stage.nodes)
            for node in sorted(stage.nodes, key=lambda node: -columns[number][node.name]):
                self.places[node.name] = starts[number] + columns[number][node.name], self._height(node, upright)
            self._separate([node.name for node in stage.nodes])
        ys = [y for _, y in self.places.values()] + list(self.legs.values()) + [y for (_, y), _ in self._hubs()]
        self.top, self.bottom = min(ys), max(ys)

    def _height(self, node: Node, upright: bool) -> float:
        own = [self.heights[ix] for ix in node.indices if ix in self.legs]
        known = (own if upright else []) or [self.heights[ix] for ix in node.outputs if ix in self.heights]
        known = known or [self.heights[ix] for ix in node.indices if ix in self.heights]
        far = [h for h in known if h > (min(known) + max(known)) / 2]
        if len(known) == 2 and max(known) - min(known) > max(2.0, 0.6 * len(self.legs)):  # around a ring
            y = far[0] + 0.5
        else:
            y = sum(known) / len(known) if known else (len(self.legs) - 1) / 2
        through = len(node.inputs) == len(node.outputs) and all(ix in self.heights for ix in node.outputs)
        spread = [self.heights[ix] for ix in node.outputs] if through else [y] * len(node.inputs)
        self.heights |= {ix: h for ix, h in zip(node.inputs, spread) if ix not in self.legs}
        self.heights |= {ix: y for ix in node.outputs if ix not in self.heights}
        return y

    def _separate(self, names: Sequence[str]) -> None:
        """Move nodes of a column apart, evenly to both sides, until none overlap."""
        columns: dict[float, list[str]] = {}
        for name in names:
            columns.setdefault(self.places[name][0], []).append(name)
        for x, column in columns.items():
            column.sort(key=lambda name: self.places[name][1])
            ys = [self.places[name][1] for name in column]
            for _ in range(2 * len(ys)):
                for k in range(len(ys) - 1):
                    lack = _APART - (ys[k + 1] - ys[k])
                    if lack > 1e-9:
                        ys[k], ys[k + 1] = ys[k] - lack / 2, ys[k + 1] + lack / 2
            self.places |= {name: (x, y) for name, y in zip(column, ys)}

    def paint(self, ax: Any, shift: float, width: float, colors: dict[str, str]) -> None:
        """Draw into matplotlib axes, `shift` lower, with the legs ending at `width`."""

        def line(points: Sequence[Point], color: str) -> None:
            xs, ys = zip(*points)
            ax.plot(xs, [y + shift for y in ys], color=color, linewidth=1.2, zorder=1, solid_joinstyle="round")

        for points, ix in self._lines(width):
            line(points, colors.get(ix, _BOND))
        for (x, y), ix in self._hubs():
            ax.scatter([x], [y + shift], s=14.0, c=[colors.get(ix, _BOND)], zorder=2)
        for number, bar in self.bars.items():
            stage = self.spec.stages[number]
            words = [word for word in (stage.normalize, stage.activation) if word]
            inside = [k for k in stage.multiply + stage.add if k in self.bars]
            words = [f"{'×' if k in stage.multiply else '+'} stage {k}" for k in inside] + words
            if words:
                ends = [self.top + shift - 0.4, self.bottom + shift + 0.4]
                ax.plot([bar, bar], ends, color=_BAR, linewidth=5, alpha=0.35, zorder=0)
                ax.text(bar, ends[0] - 0.15, "\n".join(words), ha="center", va="bottom", fontsize=7, color=_TEXT)
        for number in self.numbers:
            for node in self.spec.stages[number].nodes:
                x, y = self.places[node.name]
                area = 40.0 + 16.0 * min(math.log2(math.prod(self.spec.node_shape(node)) + 1.0), 10.0)
                face, marker = ("white", "o") if node.constant is not None else ("#F0E442", "s" if node.inputs else "o")
                size = 40.0 if node.constant is not None else area
                ax.scatter(
                    [x], [y + shift], s=size, c=face, edgecolors="#333333", marker=marker, linewidths=0.9, zorder=3
                )
        legs = {leg.name: leg for leg in self.spec.legs}
        names = dict(zip(self.spec.stages[self.numbers[-1]].output, self.spec.stages[-1].output))
        for ix, y in self.legs.items():
            leg = legs[names[ix]]
            text = f"{leg.name} ({leg.size})"
            ax.text(width + 0.1, y + shift, text, va="center", fontsize=7, color=colors[leg.name])

    def _ends(self) -> dict[str, list[list[Point]]]:
        """Return for each index the positions of the nodes that have it, grouped by stage."""
        ends: dict[str, list[list[Point]]] = {}
        for number in self.numbers:
            here: dict[str, list[Point]] = {}
            for node in self.spec.stages[number].nodes:
                for ix in node.indices:
                    here.setdefault(ix, []).append(self.places[node.name])
            for ix, points in here.items():
                ends.setdefault(ix, []).append(points)
        return ends

    def _hubs(self) -> list[tuple[Point, str]]:
        """Return dots for hyper-indices: indices of three or more tensors of a stage, or of two and open."""
        hubs = []
        for ix, groups in self._ends().items():
            for points in groups:
                if len(points) + (ix in self.legs) > 2:
                    hubs.append((self._hub(ix, points), ix))
        return hubs

    def _hub(self, ix: str, points: Sequence[Point]) -> Point:
        left, right = min(x for x, _ in points), max(x for x, _ in points)
        if ix in self.legs:
            return right + 0.45, self.legs[ix]
        y = sum(y for _, y in points) / len(points)
        return (left - 0.6, y) if left == right else ((left + right) / 2, max(y for _, y in points) + _APART)

    def _lines(self, width: float) -> list[tuple[list[Point], str]]:
        """Return polylines, each with its index."""
        lines: list[tuple[list[Point], str]] = []
        for ix, groups in self._ends().items():
            whole: list[Point] = []
            for points in groups:
                if len(points) + (ix in self.legs) > 2:
                    hub = self._hub(ix, points)
                    lines += [([point, hub], ix) for point in points]
                    points = [hub]
                whole += sorted(points)
            lines += [(self._bond(ix, a, b), ix) for a, b in zip(whole, whole[1:])]  # noqa: RUF007
            if ix in self.legs:
                lines.append((_routed(whole[-1], (width, self.legs[ix]), self.legs[ix]), ix))
        return lines

    def _bond(self, ix: str, a: Point, b: Point) -> list[Point]:
        if a[0] == b[0]:  # same column: curve around the nodes in between
            between = [p for p in self.places.values() if p[0] == a[0] and a[1] < p[1] < b[1]]
            bow = 0.25 + 0.06 * len(between)
            if not between:
                return [a, b]
            steps = [k / 16 for k in range(17)]
            return [(a[0] - 4 * bow * t * (1 - t), a[1] + (b[1] - a[1]) * t) for t in steps]
        return _routed(a, b, self.heights.get(ix, a[1]))


def _routed(a: Point, b: Point, height: float) -> list[Point]:
    """Return a line that runs at `height` if there is enough room."""
    if b[0] - a[0] <= 1.3:
        return [a, b]
    return [a, (a[0] + 0.5, height), (b[0] - 0.5, height) if b[1] != height else b, b]


def _columns(stage: Stage) -> dict[str, int]:
    """Return the column of each node within its stage: the length of the longest chain of nodes leading to it."""
    names = [node.name for node in stage.nodes]
    inner = Counter(ix for node in stage.nodes for ix in set(node.indices) - set(stage.output))
    if not any(node.inputs for node in stage.nodes):
        return _distances(stage)
    if len(names) > 1 and not inner:  # they share only legs: place them side by side
        return {name: k for k, name in enumerate(names)}
    makers = {ix: node for node in stage.nodes for ix in node.outputs}
    depth: dict[str, int] = {}
    open_nodes: set[str] = set()

    def measure(node: Node) -> int:
        if node.name in open_nodes:  # a ring
            return -1
        if node.name not in depth:
            open_nodes.add(node.name)
            before = [makers[ix] for ix in node.inputs if ix in makers and makers[ix] is not node]
            depth[node.name] = 1 + max(map(measure, before), default=-1)
            open_nodes.remove(node.name)
        return depth[node.name]

    for node in stage.nodes:
        measure(node)
    if len(depth) == 1 + max(depth.values()):  # a plain chain is drawn vertically
        return dict.fromkeys(depth, 0)
    return depth


def _distances(stage: Stage) -> dict[str, int]:
    """Return the columns of an undirected graph: nodes with legs on the right, others by their distance from them."""
    neighbors: dict[str, set[str]] = {node.name: set() for node in stage.nodes}
    holders: dict[str, list[str]] = {}
    for node in stage.nodes:
        for ix in node.indices:
            holders.setdefault(ix, []).append(node.name)
    for names in holders.values():
        for name in names:
            neighbors[name] |= set(names) - {name}
    layer = [node.name for node in stage.nodes if set(node.indices) & set(stage.output)]
    distance = dict.fromkeys(layer, 0)
    while layer:
        layer = [name for known in layer for name in sorted(neighbors[known]) if name not in distance]
        layer = list(dict.fromkeys(layer))
        distance |= dict.fromkeys(layer, 1 + max(distance.values()))
    farthest = max(distance.values(), default=0)
    return {node.name: farthest - distance.get(node.name, farthest) for node in stage.nodes}
