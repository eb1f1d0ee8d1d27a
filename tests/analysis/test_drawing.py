"""Check drawings: nothing is cut off, text covers nothing, nothing is missing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

import deeptn as dtn

from ..market import NETWORKS, nets
from .drawings import FILE, description


def nodes_drawn(figure):
    """Return the centers of the nodes, without the smaller dots of hyper-indices."""
    nodes = [c for c in figure.axes[0].collections if c.get_zorder() == 3]
    return np.concatenate([np.asarray(c.get_offsets()) for c in nodes])


@nets
def test_nothing_is_cut_off_or_written_over(net):
    figure = dtn.draw(net)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    ax: Any
    (ax,) = figure.axes
    renderer = canvas.get_renderer()
    frame = figure.bbox
    boxes = [t.get_window_extent(renderer) for t in (*ax.texts, ax.title, ax._left_title) if t.get_text()]
    points = ax.transData.transform(nodes_drawn(figure))
    for box in boxes:
        assert frame.x0 - 1 <= box.x0, net
        assert box.x1 <= frame.x1 + 1, net
        assert frame.y0 - 1 <= box.y0, net
        assert box.y1 <= frame.y1 + 1, net
        assert not any(box.contains(*point) for point in points), net
    assert all(frame.contains(*point) for point in points), net
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[k + 1 :]), net


@nets
def test_drawing_and_summary(net):
    import matplotlib.figure

    figure = dtn.draw(net)
    assert isinstance(figure, matplotlib.figure.Figure)
    text = "".join(t.get_text() for t in figure.axes[0].texts)
    assert all(leg.name in text for leg in net.layout.legs)
    assert len(nodes_drawn(figure)) == len(net.spec.nodes)
    lines = dtn.summary(net).splitlines()
    assert len(lines) == 2 + len(net.spec.stages)
    assert f"num_params={net.num_params}" in lines[0]


def test_no_two_nodes_are_drawn_on_top_of_each_other():
    for net in NETWORKS.values():
        points = nodes_drawn(dtn.draw(net))
        gaps = np.linalg.norm(points[:, None] - points[None], axis=-1) + 9 * np.eye(len(points))
        assert gaps.min() > 0.5, net


def test_draw_into_given_axes():
    from matplotlib.figure import Figure

    figure = Figure()
    ax = figure.add_subplot()
    assert dtn.draw(NETWORKS["train"], ax=ax) is figure


@pytest.mark.parametrize("name", NETWORKS)
def test_drawings_are_as_approved(name):
    """If a drawing changes on purpose, look at it, then run ``python -m tests.analysis.drawings``."""
    wanted, found = json.loads(FILE.read_text())[name], description(NETWORKS[name])
    assert found["texts"].keys() == wanted["texts"].keys()
    for key, parts in wanted.items():
        pairs = zip(parts.values(), found[key].values()) if key == "texts" else zip(parts, found[key])
        assert len(parts) == len(found[key])
        assert all(np.allclose(one, other, atol=0.02) for one, other in pairs), key
