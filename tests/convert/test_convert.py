from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

import deeptn as dtn

from ..conftest import close
from ..market import NETWORKS

nets = pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)


def legs_to_weight(net, array):
    return net.layout.from_legs(array)


@nets
def test_quimb_contracts_to_the_same(net, library):
    params = net.init(seed=1, like=library)
    networks = dtn.to_quimb(net, params)
    assert len(networks) == len(net.spec.stages)
    found = sum(
        networks[number]
        .contract(output_inds=[leg.name for leg in net.spec.legs], optimize="greedy", preserve_tensor=True)
        .data
        for number in net.spec.summands
    )
    assert close(legs_to_weight(net, found), net.materialize(params), 1e-5)
    for number, stage in enumerate(net.spec.stages):
        assert {node.name for node in stage.nodes} | {f"STAGE{number}"} <= set(networks[number].tags)


@nets
def test_tensornetwork_contracts_to_the_same(net):
    import tensornetwork

    params = net.init(seed=1, dtype="float64")
    groups = dtn.to_tensornetwork(net, params)
    found = 0
    for number in net.spec.summands:
        nodes, edges = groups[number]
        found = found + tensornetwork.contractors.greedy(nodes, output_edge_order=edges).tensor
    assert close(legs_to_weight(net, found), net.materialize(params), 1e-12)


def test_tensornetwork_of_torch_arrays():
    import tensornetwork

    net = NETWORKS["brickwall-relu"]
    params = net.init(like="torch")
    nodes, edges = dtn.to_tensornetwork(net, params)[-1]
    found = tensornetwork.contractors.greedy(nodes, output_edge_order=edges).tensor
    assert close(legs_to_weight(net, found), net.materialize(params), 1e-5)


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("residual", "product-deep", "sum-nested")])
def test_stage_by_stage_there_and_back(name):
    net = NETWORKS[name]
    between = {(stage.activation, stage.normalize) for stage in net.spec.stages} - {(None, None)} or {(None, None)}
    ((activation, normalize),) = between
    params = net.init(seed=2, dtype="float64")
    names = [leg.name for leg in net.spec.legs]
    options = {"layout": net.layout, "activation": activation, "normalize": normalize}
    for again, arrays in (
        dtn.from_quimb(dtn.to_quimb(net, params), output=names, **options),
        dtn.from_tensornetwork(dtn.to_tensornetwork(net, params), **options),
    ):
        assert len(again.spec.stages) == len(net.spec.stages)
        assert close(again.materialize(arrays), net.materialize(params), 1e-12)


def test_a_deep_product_comes_back():
    net = dtn.network(dtn.Product(terms=(dtn.BrickWall(layers=2), dtn.Tree(rank=2), dtn.MERA(rank=2))), (6, 8))
    params = net.init(seed=2, dtype="float64")
    for again, arrays in (
        dtn.from_quimb(dtn.to_quimb(net, params), [x.name for x in net.spec.legs], None, net.layout, "relu", "rms"),
        dtn.from_tensornetwork(dtn.to_tensornetwork(net, params), None, None, net.layout, "relu", "rms"),
    ):
        assert close(again.materialize(arrays), net.materialize(params), 1e-12)


def test_what_does_not_come_back():
    net = NETWORKS["residual"]
    with pytest.raises(dtn.SpecError, match="network 4 has 2 tensors STATE; only chains of stages"):
        dtn.from_quimb(dtn.to_quimb(net, net.init()), activation="relu")
    net = NETWORKS["product-deep"]
    with pytest.raises(dtn.SpecError, match="a product of sums, which does not come back"):
        dtn.from_quimb(dtn.to_quimb(net, net.init()), [x.name for x in net.spec.legs], None, net.layout, "relu", "rms")


@pytest.mark.parametrize("name", [n for n, net in NETWORKS.items() if len(net.spec.stages) == 1])
def test_there_and_back(name):
    net = NETWORKS[name]
    params = net.init(seed=2, dtype="float64")
    weight = net.materialize(params)
    (tn,) = dtn.to_quimb(net, params)
    names = [leg.name for leg in net.spec.legs]
    again, arrays = dtn.from_quimb(tn, output=names, layout=net.layout)
    assert again.num_params >= net.num_params  # constants and shared tensors become parameters of their own
    assert close(again.materialize(arrays), weight, 1e-12)
    ((nodes, edges),) = dtn.to_tensornetwork(net, params)
    again, arrays = dtn.from_tensornetwork(nodes, edges, layout=net.layout)
    assert close(again.materialize(arrays), weight, 1e-12)


def test_copy_nodes_become_hyper_indices():
    net = NETWORKS["cp"]
    ((nodes, edges),) = dtn.to_tensornetwork(net, net.init(seed=0, dtype="float64"))
    again, _ = dtn.from_tensornetwork(nodes, edges, net.shape)
    assert len(again.spec.nodes) == 3
    assert sum("b0" in node.indices for node in again.spec.nodes) == 3


def test_quimb_builds_what_deeptn_imports():
    import quimb.tensor as qtn

    peps = qtn.PEPS.rand(3, 3, bond_dim=2, seed=1)
    net, params = dtn.from_quimb(peps, shape=(8, 64))
    assert close(net.materialize(params), peps.to_dense().reshape(8, 64), 1e-10)
    mpo = qtn.MPO_rand(4, bond_dim=3, seed=2)
    output = [*(mpo.upper_inds or ()), *(mpo.lower_inds or ())]
    net, params = dtn.from_quimb(mpo, output=output, shape=(16, 16))
    assert close(net.materialize(params), mpo.to_dense(), 1e-10)
    assert close(net.apply(params, np.eye(16)), mpo.to_dense().T, 1e-10)


def test_names_are_deterministic():
    import quimb.tensor as qtn

    specs = {dtn.from_quimb(qtn.MPS_rand_state(5, 3, seed=1))[0].spec for _ in range(3)}
    assert len(specs) == 1
    assert [node.name for node in specs.pop().nodes] == ["T0", "T1", "T2", "T3", "T4"]


def test_stripped_exponent_is_kept():
    import quimb.tensor as qtn

    mps = qtn.MPS_rand_state(4, 2, seed=1)
    dense = mps.to_dense().reshape(-1)
    mps.equalize_norms_(1.0)
    net, params = dtn.from_quimb(mps, shape=(16,))
    assert close(net.materialize(params), dense, 1e-12)


def test_open_indices_are_checked():
    import quimb.tensor as qtn

    mps = qtn.MPS_rand_state(4, 2, seed=1)
    with pytest.raises(dtn.SpecError, match="dangles"):
        dtn.from_quimb(mps, output=["k0", "k1"])
    with pytest.raises(dtn.SpecError, match="open index 'q' belongs to no tensor"):
        dtn.from_quimb(mps, output=["q"])
    with pytest.raises(dtn.SpecError, match="repeats the index 'k0'"):
        dtn.from_quimb(mps, output=["k0", "k0"])
    with pytest.raises(dtn.SpecError, match="the layout has legs of sizes"):
        dtn.from_quimb(mps, layout=dtn.Layout((4, 8)))
    with pytest.raises(dtn.LayoutError, match="do not make up the shape"):
        dtn.from_quimb(mps, shape=(3, 5))


def nodes_drawn(figure):
    """Centres of the nodes; hyper-indices are smaller dots without an edge."""
    nodes = [c for c in figure.axes[0].collections if c.get_zorder() == 3]
    return np.concatenate([np.asarray(c.get_offsets()) for c in nodes])


@nets
def test_nothing_is_cut_off_or_written_over(net):
    figure = dtn.draw(net)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
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
