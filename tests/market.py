"""One of everything: networks that every general law is tried on."""

from __future__ import annotations

import deeptn as dtn

RING = dtn.Graph(nodes={"A": "xay", "B": "ybz", "C": "zcx"}, sizes={"a": 4, "b": 3, "c": 6}, output="abc", rank=3)
#: CP: the bond r is a hyper-index of three nodes.
CP = dtn.Graph(nodes={"A": "ar", "B": "br", "C": "cr"}, sizes={"a": 4, "b": 3, "c": 6}, output="abc", rank=5)
#: The open index a is held by two nodes: an element-wise product along it.
HYPER_LEG = dtn.Graph(nodes={"A": "ax", "B": "axb"}, sizes={"a": 4, "b": 6}, output="ab", rank=2)
#: Two parts without a bond: an outer product.
PARTS = dtn.Graph(nodes={"A": "a", "B": "b"}, sizes={"a": 5, "b": 6}, output="ab")

NETWORKS = {
    "brickwall-relu": dtn.network(dtn.BrickWall(layers=3), (12, 10)),
    "brickwall-linear": dtn.network(dtn.BrickWall(layers=3, activation=None), (12, 10)),
    "brickwall-odd": dtn.network(dtn.BrickWall(layers=2, activation="tanh"), (8, 4)),
    "brickwall-d3": dtn.network(dtn.BrickWall(layers=2, leg_size=3, normalize=None), (9, 7)),
    "brickwall-two-legs": dtn.network(dtn.BrickWall(layers=2), (2, 2)),
    "brickwall-exact": dtn.network(dtn.BrickWall(layers=2), (12, 10), dtn.Layout((12, 10), order="interleaved")),
    "brickwall-conv": dtn.network(dtn.BrickWall(layers=2, activation="leaky_relu:0.2"), (6, 4, 3, 3)),
    "tree-relu": dtn.network(dtn.Tree(rank=3), (12, 10)),
    "tree-linear": dtn.network(dtn.Tree(rank=3, activation=None), (16, 8)),
    "tree-wide": dtn.network(dtn.Tree(rank=99, activation="sigmoid"), (6, 5), dtn.Layout((6, 5))),
    "train": dtn.network(dtn.TensorTrain(rank=4), (12, 10)),
    "train-vector": dtn.network(dtn.TensorTrain(rank=3), (12,)),
    "train-one-leg": dtn.network(dtn.TensorTrain(), (7,), dtn.Layout((7,))),
    "train-permuted": dtn.network(
        dtn.TensorTrain(rank=(2, 3, 2)), (6, 4), dtn.Layout((6, 4), ((2, 3), (2, 2)), order=(3, 0, 2, 1))
    ),
    "ttmatrix": dtn.network(dtn.TTMatrix(rank=3), (12, 18)),
    "ttmatrix-conv": dtn.network(dtn.TTMatrix(rank=2), (6, 4, 3, 3)),
    "tucker": dtn.network(dtn.Tucker(rank=3), (24, 18)),
    "lowrank": dtn.network(dtn.LowRank(rank=3), (12, 10)),
    "lowrank-conv": dtn.network(dtn.LowRank(rank=3), (6, 4, 3, 3)),
    "ring": dtn.network(RING, (12, 6)),
    "cp": dtn.network(CP, (12, 6)),
    "hyper-leg": dtn.network(HYPER_LEG, (4, 6)),
    "parts": dtn.network(PARTS, (5, 6)),
    "scalar-node": dtn.network(dtn.Graph(nodes={"A": "ax", "B": "xb", "s": ""}), (4, 6)),
    "shared": dtn.Network(
        dtn.NetworkSpec(
            (dtn.Leg("a0_0", 4, 0), dtn.Leg("a1_0", 4, 1)),
            (
                dtn.Stage((dtn.Node("A", ("s", "t")),), ("s", "t"), "relu", "rms"),
                dtn.Stage(
                    (dtn.Node("U", ("a0_0", "s"), ("s",), "W"), dtn.Node("V", ("a1_0", "t"), ("t",), "W")),
                    ("a0_0", "a1_0"),
                ),
            ),
            (("s", 4), ("t", 4)),
        ),
        dtn.Layout.single((4, 4)),
    ),
}
LINEAR = {name: net for name, net in NETWORKS.items() if net.is_linear and len(net.shape) > 1}
