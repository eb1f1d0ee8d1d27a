"""One of everything: families, and networks on which every general law is tested."""

from __future__ import annotations

import pytest

import deeptn as dtn

from .conftest import LIBRARIES
from .tiers import choose, grid

RING = dtn.Graph(nodes={"A": "xay", "B": "ybz", "C": "zcx"}, sizes={"a": 4, "b": 3, "c": 6}, output="abc", rank=3)
#: CP: the bond r is a hyper-index of three nodes.
CP = dtn.Graph(nodes={"A": "ar", "B": "br", "C": "cr"}, sizes={"a": 4, "b": 3, "c": 6}, output="abc", rank=5)
#: Two nodes share the open index a: an element-wise product along it.
HYPER_LEG = dtn.Graph(nodes={"A": "ax", "B": "axb"}, sizes={"a": 4, "b": 6}, output="ab", rank=2)
#: Two parts without a bond: an outer product.
PARTS = dtn.Graph(nodes={"A": "a", "B": "b"}, sizes={"a": 5, "b": 6}, output="ab")


def _residual() -> dtn.Network:
    """Build layers that add to their state: each result is read twice, and one is contracted by two later stages."""
    layout = dtn.Layout((4, 4), ((2, 2), (2, 2)))
    legs = layout.legs
    wires = [tuple(f"w{m}_{k}" for k in range(4)) for m in range(4)] + [tuple(leg.name for leg in legs)]
    stages = []
    for m, output in enumerate(wires):
        before = wires[m - 1] if m else (None,) * 4
        nodes = []
        for k in (0, 2):
            inputs = tuple(ix for ix in before[k : k + 2] if ix)
            nodes.append(dtn.Node(f"L{m}_g{k}", (*output[k : k + 2], *inputs), inputs))
        joins: dict = {1: {"add": (0,)}, 2: {"multiply": (0,), "add": (1,)}}.get(m, {})
        if m == 4:  # reads the results of the fourth and the first layer
            nodes.append(dtn.Node("R", (*wires[0][:2], *wires[3][2:]), wires[0][:2]))
            nodes = [dtn.Node("S", (*output[:2], *wires[3][:2])), dtn.Node("T", (*output[2:], *wires[0][2:])), nodes[2]]
            joins = {"sources": (0, 3)}
        last = m == 4
        stages.append(
            dtn.Stage(tuple(nodes), output, None if last else ("relu", "tanh")[m % 2], None if last else "rms", **joins)
        )
    sizes = {ix: 2 for part in wires[:4] for ix in part}
    return dtn.Network(dtn.NetworkSpec(legs, tuple(stages), tuple(sizes.items())), layout)


RESIDUAL = _residual()

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
    "brickwall-cyclic": dtn.network(dtn.BrickWall(layers=2, cyclic=True), (8, 4)),
    "brickwall-three": dtn.network(dtn.BrickWall(layers=2, sites=3, activation="leaky_relu:0.2"), (8, 10)),
    "brickwall-bond": dtn.network(dtn.BrickWall(layers=2, bond=3), (12, 10), dtn.Layout((12, 10))),
    "staircase": dtn.network(dtn.BrickWall(layers=2, pattern="staircase", sites=3, cyclic=True), (12, 10)),
    "staircase-linear": dtn.network(dtn.BrickWall(layers=2, pattern="staircase", activation=None), (12, 10)),
    "tree-ternary": dtn.network(dtn.Tree(rank=3, arity=3), (12, 10), dtn.Layout((12, 10))),
    "tree-caterpillar": dtn.network(dtn.Tree(rank=3, balanced=False), (6, 10)),
    "augmented-tree": dtn.network(dtn.AugmentedTree(rank=3), (12, 10)),
    "augmented-tree-linear": dtn.network(dtn.AugmentedTree(rank=3, activation=None, cyclic=True), (12, 10)),
    "augmented-tree-one-node": dtn.network(dtn.AugmentedTree(), (2, 2)),
    "mera": dtn.network(dtn.MERA(rank=3), (12, 10)),
    "mera-linear": dtn.network(dtn.MERA(rank=3, activation=None), (12, 10), dtn.Layout((12, 10))),
    "mera-ternary": dtn.network(dtn.MERA(rank=2, arity=3, cyclic=True), (8, 16)),
    "mera-shared": dtn.network(dtn.MERA(rank=2, shared=True), (16, 16)),
    "hierarchical-tucker": dtn.network(dtn.HierarchicalTucker(rank=3), (24, 18), dtn.Layout((24, 18))),
    "train": dtn.network(dtn.TensorTrain(rank=4), (12, 10)),
    "train-vector": dtn.network(dtn.TensorTrain(rank=3), (12,)),
    "train-one-leg": dtn.network(dtn.TensorTrain(), (7,), dtn.Layout((7,))),
    "train-permuted": dtn.network(
        dtn.TensorTrain(rank=(2, 3, 2)), (6, 4), dtn.Layout((6, 4), ((2, 3), (2, 2)), order=(3, 0, 2, 1))
    ),
    "ttmatrix": dtn.network(dtn.TTMatrix(rank=3), (12, 18)),
    "ttmatrix-conv": dtn.network(dtn.TTMatrix(rank=2), (6, 4, 3, 3)),
    "train-uniform": dtn.network(dtn.TensorTrain(rank=3, shared=True), (16, 16)),
    "ring-train": dtn.network(dtn.TensorRing(rank=3), (12, 10)),
    "ring-uniform": dtn.network(dtn.TensorRing(rank=2, shared=True), (16, 8)),
    "peps": dtn.network(dtn.PEPS(rank=2), (12, 10)),
    "block-term": dtn.network(dtn.BlockTerm(terms=3, rank=2), (24, 18)),
    "cp-family": dtn.network(dtn.CP(rank=5), (24, 18)),
    "kronecker": dtn.network(dtn.Kronecker(terms=3), (12, 90)),
    "butterfly": dtn.network(dtn.Butterfly(terms=2), (12, 10)),
    "monarch": dtn.network(dtn.Butterfly(levels=2), (12, 18)),
    "tucker": dtn.network(dtn.Tucker(rank=3), (24, 18)),
    "lowrank": dtn.network(dtn.LowRank(rank=3), (12, 10)),
    "lowrank-conv": dtn.network(dtn.LowRank(rank=3), (6, 4, 3, 3)),
    "sum": dtn.network(dtn.Sum(terms=(dtn.LowRank(rank=1), dtn.BrickWall(layers=2))), (12, 10)),
    "sum-linear": dtn.network(
        dtn.Sum(terms=(dtn.LowRank(rank=2), dtn.TTMatrix(rank=2), dtn.BrickWall(layers=1))), (12, 10)
    ),
    "sum-nested": dtn.network(
        dtn.Sum(terms=(dtn.Tree(rank=2), dtn.Sum(terms=(dtn.CP(rank=2), dtn.MERA(rank=2, activation="tanh"))))), (6, 8)
    ),
    "sum-of-one": dtn.network(dtn.Sum(terms=(dtn.TensorTrain(rank=2),)), (6, 4)),
    "product": dtn.network(dtn.Product(terms=(dtn.LowRank(rank=2), dtn.Tree(rank=2, activation=None))), (12, 10)),
    "product-deep": dtn.network(
        dtn.Product(terms=(dtn.Sum(terms=(dtn.LowRank(rank=2), dtn.BrickWall(layers=3))), dtn.BrickWall(layers=2))),
        (6, 8),
    ),
    "residual": RESIDUAL,
    "ring": dtn.network(RING, (12, 6)),
    "cp": dtn.network(CP, (12, 6)),
    "hyper-leg": dtn.network(HYPER_LEG, (4, 6)),
    "parts": dtn.network(PARTS, (5, 6)),
    "scalar-node": dtn.network(dtn.Graph(nodes={"A": "ax", "B": "xb", "s": ""}), (4, 6)),
    "shared": dtn.Network(
        dtn.NetworkSpec(
            (dtn.spec.Leg("a0_0", 4, 0), dtn.spec.Leg("a1_0", 4, 1)),
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

#: The networks that differ most: a padded weight, capped ranks, copies, hyper-indices, joins, sums, shared parameters.
FEW = ("brickwall-odd", "tree-wide", "mera-shared", "train-permuted", "cp", "residual", "sum-nested", "shared")

nets = pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)
linear_nets = pytest.mark.parametrize("net", LINEAR.values(), ids=LINEAR)
#: For tests in which a case takes seconds.
few_nets = choose("net", NETWORKS, FEW)
#: JAX compiles every step of every network, which takes as long as all other libraries together.
nets_and_libraries = grid(lambda net, library: library != "jax" or net in FEW, net=NETWORKS, library=LIBRARIES)

#: A small example of each family, with activations where it has them.
FAMILIES = {
    "brickwall": dtn.BrickWall(layers=2),
    "brickwall-three-sites": dtn.BrickWall(layers=2, sites=3, activation="leaky_relu:0.2"),
    "brickwall-cyclic": dtn.BrickWall(layers=2, cyclic=True, activation=None),
    "brickwall-lifted": dtn.BrickWall(layers=2, bond=3),
    "staircase": dtn.BrickWall(layers=2, pattern="staircase"),
    "tree": dtn.Tree(rank=4),
    "tree-ternary": dtn.Tree(rank=4, arity=3),
    "augmented-tree": dtn.AugmentedTree(rank=4),
    "mera": dtn.MERA(rank=4),
    "mera-ternary": dtn.MERA(rank=3, arity=3, activation="leaky_relu:0.2"),
    "mera-invariant": dtn.MERA(rank=4, shared=True),
    "hierarchical-tucker": dtn.HierarchicalTucker(rank=4),
    "train": dtn.TensorTrain(rank=4),
    "train-uniform": dtn.TensorTrain(rank=4, shared=True),
    "ttmatrix": dtn.TTMatrix(rank=3),
    "ring": dtn.TensorRing(rank=3),
    "tucker": dtn.Tucker(rank=3),
    "block-term": dtn.BlockTerm(terms=3, rank=2),
    "cp": dtn.CP(rank=6),
    "kronecker": dtn.Kronecker(terms=4),
    "butterfly": dtn.Butterfly(),
    "monarch": dtn.Butterfly(levels=2),
    "peps": dtn.PEPS(rank=2),
    "lowrank": dtn.LowRank(rank=3),
    "residual": dtn.Sum(terms=(dtn.LowRank(rank=1), dtn.BrickWall(layers=2))),
    "sum": dtn.Sum(terms=(dtn.LowRank(rank=1), dtn.TTMatrix(rank=2))),
    "product": dtn.Product(terms=(dtn.LowRank(rank=2), dtn.LowRank(rank=2))),
}
