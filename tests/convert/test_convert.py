"""Test round trips: quimb and TensorNetwork contract to the same weight, and their networks convert back."""

from __future__ import annotations

import pytest

import deeptn as dtn

from ..conftest import close
from ..market import NETWORKS, nets, nets_and_libraries


def legs_to_weight(net, array):
    return net.layout.from_legs(array)


@pytest.mark.few(13)
@nets_and_libraries
def test_quimb_contracts_to_the_same(net, library):
    pytest.importorskip(library)
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


def test_tensornetwork_of_torch_arrays(torch):
    import tensornetwork

    net = NETWORKS["brickwall-relu"]
    params = net.init(like="torch")
    nodes, edges = dtn.to_tensornetwork(net, params)[-1]
    found = tensornetwork.contractors.greedy(nodes, output_edge_order=edges).tensor
    assert close(legs_to_weight(net, found), net.materialize(params), 1e-5)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_copy_nodes_have_the_dtype_of_the_arrays(library, request):
    import tensornetwork

    like = "numpy" if library == "numpy" else request.getfixturevalue("torch").ones(1)
    ((nodes, edges),) = dtn.to_tensornetwork(NETWORKS["cp"], NETWORKS["cp"].init(like=like))
    assert any(isinstance(node, tensornetwork.CopyNode) for node in nodes)
    found = tensornetwork.contractors.greedy(nodes, output_edge_order=edges).tensor
    assert str(found.dtype).removeprefix("torch.") == "float32"


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
    with pytest.raises(dtn.SpecError, match="network 4 has 2 STATE tensors; only chains of stages"):
        dtn.from_quimb(dtn.to_quimb(net, net.init()), activation="relu")
    net = NETWORKS["product-deep"]
    with pytest.raises(dtn.SpecError, match="a product of sums, which is not supported"):
        dtn.from_quimb(dtn.to_quimb(net, net.init()), [x.name for x in net.spec.legs], None, net.layout, "relu", "rms")


@pytest.mark.parametrize("name", [n for n, net in NETWORKS.items() if len(net.spec.stages) == 1])
def test_there_and_back(name):
    net = NETWORKS[name]
    params = net.init(seed=2, dtype="float64")
    weight = net.materialize(params)
    (tn,) = dtn.to_quimb(net, params)
    names = [leg.name for leg in net.spec.legs]
    again, arrays = dtn.from_quimb(tn, output=names, layout=net.layout)
    assert again.num_params >= net.num_params  # constants and shared tensors become separate parameters
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
