"""Drawings and text summaries of a network. Matplotlib is imported only when needed."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Any

from ..base import optional
from ..network import Network
from ..spec import NetworkSpec
from ..topologies import describe
from .pictures import BAR, TEXT, picture_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colors of the weight's axes (the Okabe-Ito palette, safe for color-blind readers).
_AXIS_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


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

    A graph without directions that columns would hide, such as PEPS or a random graph from quimb, is drawn as a cloud:
    distances on paper are like those in the graph, and every leg ends beside its node. The terms of a sum or a product
    are drawn one below the other, each with its legs.

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
    pictures = [picture_of(spec, numbers) for numbers in _branches(spec)]
    width = max(picture.width for picture in pictures)
    tops = [0.0]
    for picture in pictures:
        tops.append(tops[-1] + picture.bottom - picture.top + 1.6)
    into: Any = ax
    if into is None:
        inches = 3.2 + 0.62 * (width - min(picture.left for picture in pictures)) + 0.5 * (len(pictures) > 1)
        title = _title(net, inches)
        size = (inches, 0.6 + 0.36 * tops[-1] + 0.16 * (len(title) - 2))
        into = figure_module.Figure(figsize=size, layout="constrained").add_subplot()
    else:
        title = _title(net, into.bbox.width / into.figure.dpi)
    axes = {leg.name: _AXIS_COLORS[leg.axis % len(_AXIS_COLORS)] for leg in spec.legs}
    for picture, top in zip(pictures, tops):
        picture.paint(into, top - picture.top, width, axes)
    if len(pictures) > 1:
        x, last = width + 2.5, spec.stages[-1]
        into.plot([x, x], [0.0, tops[-1] - 1.6], color=BAR, linewidth=1.0)
        sign, middle = "+" if last.add else "×", tops[-1] / 2 - 0.8
        into.text(x + 0.15, middle, sign, fontsize=16, va="center", color=TEXT)
    into.set_title("\n".join(title), fontsize=9, loc="left", color=TEXT)
    left = min(picture.left for picture in pictures)
    into.set_xlim(left - 0.9, width + 2.4 + 0.8 * (len(pictures) > 1))
    into.set_ylim(tops[-1] - 1.0, -1.3)
    into.axis("off")
    return into.figure


def _title(net: Network, inches: float) -> list[str]:
    """Return the lines of the title, as long as the width allows: 9 points high, a letter is about 5.5 wide."""
    name, letters = describe(net.topology), max(16, int(72 * inches / 5.5))
    shape = " × ".join(map(str, net.shape)) or "scalar"
    lines = (name if len(name) < 60 else type(net.topology).__name__, f"{shape} from {net.num_params:,} parameters")
    return [part for line in lines for part in textwrap.wrap(line, letters)]


def _branches(spec: NetworkSpec) -> list[list[int]]:
    """Group the stages that are connected by contraction; sums and products combine the groups."""
    group = list(range(len(spec.stages)))
    for number in range(len(spec.stages)):
        for source in spec.sources(number):
            group = [group[source] if g == group[number] else g for g in group]
    return [[n for n, g in enumerate(group) if g == first] for first in dict.fromkeys(group)]
