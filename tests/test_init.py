from __future__ import annotations

import math

import numpy as np
import pytest

import deeptn as dtn
from deeptn import init as init_module
from deeptn.init import SCHEMES, root_mean_square, target_std

from .market import LINEAR, NETWORKS
from .tiers import grid

FAMILIES = {
    **{f"brickwall-{depth}": dtn.BrickWall(layers=depth) for depth in (1, 2, 4, 8, 16)},
    **{f"brickwall-linear-{depth}": dtn.BrickWall(layers=depth, activation=None) for depth in (3, 16)},
    "brickwall-leaky": dtn.BrickWall(layers=8, activation="leaky_relu:0.2"),
    "brickwall-bare": dtn.BrickWall(layers=8, normalize=None),
    "brickwall-residual": dtn.BrickWall(layers=8, residual=True),
    "brickwall-tanh": dtn.BrickWall(layers=4, activation="tanh"),
    "tree": dtn.Tree(rank=4),
    "tree-linear": dtn.Tree(rank=4, activation=None),
    "augmented": dtn.AugmentedTree(rank=4),
    "mera": dtn.MERA(rank=3),
    "train": dtn.TensorTrain(rank=6),
    "ttmatrix": dtn.TTMatrix(rank=4),
    "tucker": dtn.Tucker(rank=4),
    "lowrank": dtn.LowRank(rank=4),
}


@pytest.mark.few(7)
@grid(family=FAMILIES, scheme=list(SCHEMES))
def test_moments_of_the_weight(family, scheme):
    net = dtn.network(family, (60, 50))
    weights = np.stack([net.materialize(net.init(seed=seed, dtype="float64", scheme=scheme)) for seed in range(16)])
    goal = math.sqrt(2 / 50)
    assert np.allclose(np.sqrt((weights**2).mean(axis=(1, 2))), goal, rtol=1e-6)
    mean, std = weights.mean(axis=(1, 2)) / goal, weights.std(axis=(1, 2)) / goal
    assert abs(std.mean() - 1) <= 0.05
    assert abs(mean.mean()) <= 0.05


def test_a_copy_node_copies():
    net = dtn.network(dtn.Tree(rank=2, activation=None), (4, 4))
    node = net.spec.nodes[1]
    assert node.param is not None
    draw = {name: np.zeros(shape) for name, shape in net.spec.param_shapes.items()}
    core = init_module._fill(net.spec, node, draw[node.param], SCHEMES["copy"], False)
    assert np.array_equal(core, np.eye(2)[:, :, None] * np.eye(2)[:, None, :])
    wall = dtn.network(dtn.BrickWall(layers=2), (4, 4))
    gate = wall.spec.stages[1].nodes[0]
    assert np.array_equal(
        init_module._fill(wall.spec, gate, np.zeros((2,) * 4), SCHEMES["copy"], False).reshape(4, 4), np.eye(4)
    )


def test_a_copy_node_between_legs_of_unequal_sizes():
    """Ones run along the longest index, modulo the sizes of the others; columns have norm one."""
    one = init_module.SCHEMES["copy"](np.zeros((3, 10)), (3,), (2, 5))
    wanted = np.zeros((3, 2, 5))
    for k in range(5):
        wanted[k % 3, k % 2, k] = 1.0
    np.testing.assert_array_equal(one, wanted.reshape(3, 10))
    many = init_module.SCHEMES["copy"](np.zeros((10, 3)), (2, 5), (3,))
    np.testing.assert_allclose(np.linalg.norm(many, axis=0), 1.0)
    assert (many != 0).sum() == 5


def test_the_identity_stands_on_a_spread_state():
    net = dtn.network(dtn.BrickWall(layers=4), (16, 16))
    weight = net.materialize(net.init(seed=0, dtype="float64", scheme="identity"))
    assert (weight != 0).mean() > 0.9  # identities on [1, 0] would leave one nonzero entry


@pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)
def test_the_std_can_be_asked_for(net):
    weight = net.materialize(net.init(seed=0, dtype="float64", std=0.37))
    assert np.isclose(np.sqrt((weight**2).mean()), 0.37, rtol=1e-3)


def test_target_is_kaimings():
    assert target_std(dtn.Layout((120, 400))) == math.sqrt(2 / 400)
    assert target_std(dtn.Layout((16, 6, 5, 5))) == math.sqrt(2 / 150)


def test_gates_are_orthogonal_up_to_the_scale():
    net = dtn.network(dtn.BrickWall(layers=2, activation=None), (16, 16))
    params = net.init(seed=0, dtype="float64")
    matrix = params["L2_g3"].reshape(4, 4)
    square = matrix @ matrix.T
    assert np.allclose(square, square[0, 0] * np.eye(4))
    first_stage = dtn.network(dtn.BrickWall(layers=2), (16, 16)).init(seed=0, dtype="float64")
    assert np.allclose(np.linalg.norm(first_stage["L1_g0"]), 1.0)


def test_complex_gates_are_unitary():
    params = dtn.network(dtn.BrickWall(layers=2, activation=None), (16, 16)).init(dtype="complex128")
    matrix = params["L2_g0"].reshape(4, 4)
    square = matrix @ matrix.conj().T
    assert np.allclose(square, square[0, 0] * np.eye(4))
    assert np.abs(matrix.imag).max() > 0.01


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("net", LINEAR.values(), ids=LINEAR)
def test_the_contracted_norm_is_that_of_the_decoded_weight(net, dtype, monkeypatch):
    params = net.init(seed=1, dtype=dtype)
    decoded = root_mean_square(net.spec, net.layout, params)
    monkeypatch.setattr(init_module, "DECODE_LIMIT", 1)
    monkeypatch.setattr(init_module, "seconds", lambda cost: -cost.peak if cost.params > net.num_params else 0.0)
    contracted = root_mean_square(net.spec, net.layout, params)
    assert np.isclose(contracted, decoded, rtol=1e-10)


def test_a_weight_too_large_to_decode_is_calibrated():
    shape = (3 * 2**18, 3 * 2**18)  # 6e11 entries
    net = dtn.network(dtn.TensorTrain(rank=3), shape)
    params = net.init(seed=0, dtype="float64")
    assert np.isclose(root_mean_square(net.spec, net.layout, params), math.sqrt(2 / shape[1]))


@pytest.mark.parametrize(
    ("family", "shape"),
    [(dtn.Tree(rank=1), (16, 16)), (dtn.Tree(rank=2), (84, 120)), (dtn.BrickWall(layers=2), (2, 2))],
)
def test_no_draw_is_dead(family, shape):
    net = dtn.network(family, shape)
    for seed in range(100):
        weight = net.materialize(net.init(seed=seed, dtype="float64"))
        assert np.isclose(np.sqrt((weight**2).mean()), target_std(net.layout)), seed


def test_zero_weights_stay_finite():
    net = NETWORKS["brickwall-relu"]
    draws = {name: np.zeros(shape) for name, shape in net.spec.param_shapes.items()}
    params = init_module.initialize(net.spec, net.layout, draws, scheme="gaussian")
    assert all(np.isfinite(p).all() for p in params.values())


def test_calibration_leaves_a_saturated_state_in_the_right_direction():
    """Where the weight hardly changes with the factor, the secant's slope is a small positive number."""
    nodes = dtn.Node("A", ("s", "t")), dtn.Node("U", ("a0_0", "s"), ("s",)), dtn.Node("V", ("a1_0", "t"), ("t",))
    stages = dtn.Stage(nodes[:1], ("s", "t"), "tanh"), dtn.Stage(nodes[1:], ("a0_0", "a1_0"))
    legs = dtn.spec.Leg("a0_0", 4, 0), dtn.spec.Leg("a1_0", 4, 1)
    net = dtn.Network(dtn.NetworkSpec(legs, stages, (("s", 4), ("t", 4))), dtn.Layout.single((4, 4)))
    params = {name: 20 * array for name, array in net.init(seed=0, dtype="float64").items()}  # tanh is 1 or -1
    reached = float(init_module.root_mean_square(net.spec, net.layout, params))
    for goal, more in ((1.1 * reached, True), (reached / 1.1, False)):
        found = init_module._calibrate(net.spec, net.layout, params, {"A": 1.0}, goal, passes=3)
        assert (np.abs(found["A"]).max() > np.abs(params["A"]).max()) == more
