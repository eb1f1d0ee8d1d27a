"""Check drawings: nothing is cut off, text covers nothing, nothing is missing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import deeptn as dtn

from ..market import NETWORKS, nets
from .drawings import FILE, description


def nodes_drawn(figure):
    """Return the centers of the nodes, without the smaller dots of hyper-indices."""
    nodes = [c for c in figure.axes[0].collections if c.get_zorder() == 3]
    return np.concatenate([np.asarray(c.get_offsets()) for c in nodes])


@pytest.mark.few(13)
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


@pytest.mark.few(31)
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


def quimb_graphs() -> dict[str, dtn.Network]:
    """Return large graphs without directions: with and without legs, hyper-indices, parts and symmetries."""
    qtn: Any = pytest.importorskip("quimb.tensor")
    hyper = {f"hyper {seed}": qtn.HTN_rand(60, 3, n_out=4, n_hyper_in=8, seed=seed) for seed in range(3)}
    networks = hyper | {
        "regular": qtn.TN_rand_reg(60, 3, 2, phys_dim=2, seed=1),
        "closed": qtn.TN_rand_reg(60, 3, 2, seed=1),
        "clauses": qtn.HTN_random_ksat(3, 12, alpha=3.0, seed=0),
        "PEPS": qtn.PEPS.rand(6, 6, 2, seed=1),
        "tree": qtn.TN_rand_tree(60, 3, phys_dim=2, seed=2),
        "parts": qtn.TensorNetwork([qtn.TN_rand_reg(12, 3, 2, seed=k) for k in range(5)]),
        "star": qtn.TensorNetwork([qtn.Tensor(np.ones((2, 2)), ("hub", f"k{k}")) for k in range(60)]),
    }
    return {name: dtn.from_quimb(tn)[0] for name, tn in networks.items()}


@pytest.mark.slow
def test_large_graphs_are_readable():
    for name, net in quimb_graphs().items():
        figure = dtn.draw(net)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        ax: Any = figure.axes[0]
        spots = [c for c in ax.collections if c.get_zorder() >= 2]  # nodes, and the dots of hyper-indices
        points = np.concatenate([ax.transData.transform(c.get_offsets()) for c in spots])
        radii = np.array([np.sqrt(c.get_sizes()[0]) / 2 * figure.dpi / 72 for c in spots])
        gaps = np.linalg.norm(points[:, None] - points[None], axis=-1) - radii[:, None] - radii[None]
        assert (gaps + 99 * np.eye(len(points)) > 0).all(), name
        boxes = [text.get_window_extent(canvas.get_renderer()) for text in (*ax.texts, ax._left_title)]
        lines = np.concatenate([ax.transData.transform(line.get_xydata()) for line in ax.lines])
        frame = figure.bbox.padded(1)
        assert all(frame.containsx(x) and frame.containsy(y) for box in boxes for x, y in (box.min, box.max)), name
        assert all(frame.contains(*point) for point in lines), name
        assert len(nodes_drawn(figure)) == len(net.spec.nodes)


@pytest.mark.parametrize("shape", [(2,) * 16, (1, 2) * 12, (10**6, 3), ()])
def test_the_title_fits(shape):
    words = ",".join(f"{chr(97 + k)}z" for k in range(len(shape))) or "z"
    net = dtn.network(dtn.Graph.from_einsum(f"{words}->{''.join(chr(97 + k) for k in range(len(shape)))}"), shape)
    given: Any = Figure(figsize=(4, 6)).add_subplot()
    for figure in (dtn.draw(net), dtn.draw(net, given)):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        ax: Any = figure.axes[0]
        box = ax._left_title.get_window_extent(canvas.get_renderer())
        assert figure.bbox.padded(1).containsx(box.x0)
        assert figure.bbox.padded(1).containsx(box.x1)
        assert figure.bbox.padded(1).containsy(box.y1)
        words = " ".join(ax._left_title.get_text().split())
        assert f"{' × '.join(map(str, shape)) or 'scalar'} from {net.num_params:,} parameters" in words


def test_draw_into_given_axes():
    figure = Figure()
    ax = figure.add_subplot()
    assert dtn.draw(NETWORKS["train"], ax=ax) is figure


@pytest.mark.few(23)
@pytest.mark.parametrize("name", NETWORKS)
def test_drawings_are_as_approved(name):
    """If a drawing changes on purpose, look at it, then run ``python -m tests.analysis.drawings``."""
    wanted, found = json.loads(FILE.read_text())[name], description(NETWORKS[name])
    assert found["texts"].keys() == wanted["texts"].keys()
    for key, parts in wanted.items():
        pairs = zip(parts.values(), found[key].values()) if key == "texts" else zip(parts, found[key])
        assert len(parts) == len(found[key])
        assert all(np.allclose(one, other, atol=0.02) for one, other in pairs), key
