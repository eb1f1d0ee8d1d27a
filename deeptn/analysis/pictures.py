"""Where the parts of a drawing are: nodes in columns along the data flow, or as a cloud."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, TypeAlias, final

from ..spec import NetworkSpec, Node, Stage
from .spreading import spread

#: Colors of bonds, of bars between stages, and of text.
BOND, BAR, TEXT = "#555555", "#888888", "#444444"

#: Minimum distance between nodes of a column, and between a node and the bar after its stage, in leg spacings.
APART, GAP = 0.7, 0.8

#: Length of a bond and minimum distance of nodes in a cloud, in leg spacings.
LONG, ROOM = 1.8, 1.0

#: How many curved bonds and hyper-indices there may be in columns, and how near two parts; otherwise, a cloud is drawn.
MOST, NEAR = 8, 0.45

#: Number of nodes above which a cloud would take too long.
HUGE = 2000

Point: TypeAlias = tuple[float, float]


class Picture(ABC):
    """Positions of what is drawn. x grows to the right, y downward; legs in a column are 1 apart."""

    spec: NetworkSpec
    numbers: Sequence[int]
    places: dict[str, Point]
    bars: dict[int, float]
    left: float
    width: float
    top: float
    bottom: float

    @abstractmethod
    def hubs(self) -> list[tuple[Point, str]]:
        """Return dots for hyper-indices: indices of three or more tensors of a stage, or of two and open."""

    @abstractmethod
    def lines(self, width: float) -> list[tuple[list[Point], str]]:
        """Return polylines, each with its index; `width` is where a column of legs ends."""

    @abstractmethod
    def tip(self, ix: str, width: float) -> tuple[Point, int]:
        """Return where the line of a leg ends, and whether its text goes to the right (1) or to the left (-1)."""

    def paint(self, ax: Any, shift: float, width: float, colors: dict[str, str]) -> None:
        """Draw into matplotlib axes, `shift` lower, with the legs ending at `width`."""

        def line(points: Sequence[Point], color: str) -> None:
            xs, ys = zip(*points)
            ax.plot(xs, [y + shift for y in ys], color=color, linewidth=1.2, zorder=1, solid_joinstyle="round")

        for points, ix in self.lines(width):
            line(points, colors.get(ix, BOND))
        for (x, y), ix in self.hubs():
            ax.scatter([x], [y + shift], s=14.0, c=[colors.get(ix, BOND)], zorder=2)
        for number, bar in self.bars.items():
            stage = self.spec.stages[number]
            words = [word for word in (stage.normalize, stage.activation) if word]
            inside = [k for k in stage.multiply + stage.add if k in self.bars]
            words = [f"{'×' if k in stage.multiply else '+'} stage {k}" for k in inside] + words
            if words:
                ends = [self.top + shift - 0.4, self.bottom + shift + 0.4]
                ax.plot([bar, bar], ends, color=BAR, linewidth=5, alpha=0.35, zorder=0)
                ax.text(bar, ends[0] - 0.15, "\n".join(words), ha="center", va="bottom", fontsize=7, color=TEXT)
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
        for ix in names:
            leg, ((x, y), side) = legs[names[ix]], self.tip(ix, width)
            text, align = f"{leg.name} ({leg.size})", "left" if side > 0 else "right"
            ax.text(x + 0.1 * side, y + shift, text, va="center", ha=align, fontsize=7, color=colors[leg.name])


def picture_of(spec: NetworkSpec, numbers: Sequence[int]) -> Picture:
    """Arrange nodes in columns, or as a cloud if the columns of a graph without directions would hide many bonds."""
    columns, nodes = _Columns(spec, numbers), spec.stages[numbers[0]].nodes
    if len(numbers) > 1 or len(nodes) > HUGE or any(node.inputs for node in nodes):
        return columns
    bows = sum(len(points) > 2 for points, _ in columns.lines(columns.width))
    spots = [*columns.places.values(), *(spot for spot, _ in columns.hubs())]
    covered = any(math.dist(*pair) < NEAR for pair in itertools.combinations(spots, 2))
    return _Cloud(spec, numbers) if covered or bows + len(columns.hubs()) > MOST else columns


@final
@dataclass
class _Columns(Picture):
    """Nodes in columns from the first stage to the legs."""

    spec: NetworkSpec
    numbers: Sequence[int]
    places: dict[str, Point] = field(default_factory=dict)
    legs: dict[str, float] = field(default_factory=dict)
    heights: dict[str, float] = field(default_factory=dict)
    bars: dict[int, float] = field(default_factory=dict)
    left: float = 0.0
    width: float = 0.0
    top: float = 0.0
    bottom: float = 0.0

    def __post_init__(self):
        # Work backward from the legs: a node's height is the mean height of its outputs.
        self.heights |= {ix: float(k) for k, ix in enumerate(self.spec.stages[self.numbers[-1]].output)}
        self.legs = dict(self.heights)
        columns = {number: _columns(self.spec.stages[number]) for number in self.numbers}
        starts, x = {}, 0.0
        for number in self.numbers:
            starts[number] = x
            x += max(columns[number].values()) + 2 * GAP
            self.bars[number] = x - GAP
        self.width = x - GAP
        for number in reversed(self.numbers):
            stage = self.spec.stages[number]
            # Cores of a chain or a grid are placed next to their own legs.
            upright = not any(columns[number].values()) or all(set(n.indices) & set(self.legs) for n in stage.nodes)
            for node in sorted(stage.nodes, key=lambda node: -columns[number][node.name]):
                self.places[node.name] = starts[number] + columns[number][node.name], self._height(node, upright)
            self._separate([node.name for node in stage.nodes])
        ys = [y for _, y in self.places.values()] + list(self.legs.values()) + [y for (_, y), _ in self.hubs()]
        self.top, self.bottom = min(ys), max(ys)
        furthest = min((x for points, _ in self.lines(self.width) for x, _ in points), default=0.0)
        self.left = min(0.0, furthest + 0.85)  # the margin has room for short bows

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
            ys = _separated([self.places[name][1] for name in column])
            self.places |= {name: (x, y) for name, y in zip(column, ys)}

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

    def hubs(self) -> list[tuple[Point, str]]:
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
        return (left - 0.6, y) if left == right else ((left + right) / 2, max(y for _, y in points) + APART)

    def tip(self, ix: str, width: float) -> tuple[Point, int]:
        return (width, self.legs[ix]), 1

    def lines(self, width: float) -> list[tuple[list[Point], str]]:
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


def _separated(ys: Sequence[float]) -> list[float]:
    """Return ascending heights at least `APART` apart, as close to the given ones as possible: isotonic regression."""
    blocks: list[list[float]] = []  # heights less the room that those before need; equal within a block
    for k, y in enumerate(ys):
        blocks.append([y - APART * k])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    flat = [fmean(block) for block in blocks for _ in block]
    return [y + APART * k for k, y in enumerate(flat)]


@final
class _Cloud(Picture):
    """Nodes anywhere in the plane, at distances like those in the graph; legs end beside their nodes."""

    def __init__(self, spec: NetworkSpec, numbers: Sequence[int]):
        self.spec, self.numbers, self.bars = spec, numbers, {}
        self.stage = spec.stages[numbers[0]]
        holders: dict[str, list[str]] = {}
        for node in self.stage.nodes:
            for ix in node.indices:
                holders.setdefault(ix, []).append(node.name)
        # Vertices: nodes by name, then (0, index) for hubs and (1, index) for the tips of legs.
        vertices: dict[Any, int] = {node.name: k for k, node in enumerate(self.stage.nodes)}
        self.bonds: list[tuple[Any, Any, str]] = []
        for ix, ends in holders.items():
            joined: list[Any] = [*ends, *[(1, ix)] * (ix in self.stage.output)]
            if len(joined) > 2:
                self.bonds += [(end, (0, ix), ix) for end in joined]
            else:
                self.bonds.append((*joined, ix))
            for vertex in (*joined, *[(0, ix)] * (len(joined) > 2)):
                vertices.setdefault(vertex, len(vertices))
        places = spread(len(vertices), [(vertices[a], vertices[b]) for a, b, _ in self.bonds], ROOM / LONG)
        places = LONG * (places - places.min(0))
        self.spots: dict[Any, Point] = {
            v: (0.6 * float(places[k, 0]), float(places[k, 1])) for v, k in vertices.items()
        }
        self.places = {node.name: self.spots[node.name] for node in self.stage.nodes}
        self.left, self.width = -0.4, max(x for x, _ in self.spots.values())  # room for text on the left
        self.top, self.bottom = 0.0, max(y for _, y in self.spots.values())

    def hubs(self) -> list[tuple[Point, str]]:
        return [(spot, vertex[1]) for vertex, spot in self.spots.items() if isinstance(vertex, tuple) and not vertex[0]]

    def lines(self, width: float) -> list[tuple[list[Point], str]]:
        found: list[tuple[list[Point], str]] = []
        drawn: Counter[frozenset[Any]] = Counter()
        for a, b, ix in self.bonds:
            pair = frozenset((a, b))
            found.append((_bowed(self.spots[a], self.spots[b], drawn[pair]), ix))
            drawn[pair] += 1
        return found

    def tip(self, ix: str, width: float) -> tuple[Point, int]:
        tip = self.spots[1, ix]
        (end,) = {a for bond in self.bonds if (1, ix) in bond for a in bond[:2]} - {(1, ix)}
        return tip, 1 if tip[0] >= self.spots[end][0] else -1


def _bowed(a: Point, b: Point, number: int) -> list[Point]:
    """Return the line of the first bond between two nodes, and curves to alternating sides for further ones."""
    if not number:
        return [a, b]
    bow = 0.3 * ((number + 1) // 2) * (-1) ** number
    steps = [k / 16 for k in range(17)]
    return [
        (
            a[0] + (b[0] - a[0]) * t - bow * (b[1] - a[1]) * 4 * t * (1 - t),
            a[1] + (b[1] - a[1]) * t + bow * (b[0] - a[0]) * 4 * t * (1 - t),
        )
        for t in steps
    ]


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
