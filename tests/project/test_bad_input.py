# These tests pass wrong arguments on purpose.
# pyright: reportArgumentType=false
"""Call every public function with wrong input; check the type of the error and its message."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

import deeptn as dtn
from deeptn import FormatError, LayoutError, Node, ProgramError, SpecError, Stage
from deeptn.engine import compile_network
from deeptn.spec import Leg
from deeptn.testing import networks

from ..conftest import check_error

NET = dtn.network(dtn.BrickWall(layers=2), (12, 10))
LINEAR = dtn.network(dtn.TensorTrain(rank=2), (12, 10))
OTHER = dtn.network(dtn.BrickWall(layers=1), (12, 10))
LEGS = (Leg("a0_0", 2, 0), Leg("a1_0", 3, 1))
U, V = Node("U", ("a0_0", "b")), Node("V", ("b", "a1_0"))
OUT = ("a0_0", "a1_0")


def spec(*nodes, output=OUT, sizes=(("b", 4),), legs=LEGS, **kwargs):
    return dtn.NetworkSpec(legs, (Stage(nodes, output, **kwargs),), sizes)


def two_stages(**kwargs):
    first = Stage((Node("A", ("s", "t")),), ("s", "t"), **kwargs)
    last = Stage((Node("B", ("a0_0", "s")), Node("C", ("a1_0", "t"))), OUT)
    return dtn.NetworkSpec(LEGS, (first, last), (("s", 2), ("t", 2)))


def hubs(**attributes):
    graph = nx.Graph()
    graph.add_edge("one", "other", size=3)
    graph.add_edge("one", "third", size=5)
    nx.set_node_attributes(graph, attributes)
    return graph


def stages(first, last=None):
    before = Stage((Node("A", ("s", "t")),), ("s", "t"), "relu", **first)
    after = Stage((Node("B", ("a0_0", "s")), Node("C", ("a1_0", "t"))), OUT, **(last or {}))
    return dtn.NetworkSpec(LEGS, (before, after), (("s", 2), ("t", 2)))


def params(**changes):
    return NET.init() | changes


CASES = {
    # topologies
    "unknown topology": (lambda: dtn.network("BrickWal", (4, 4)), SpecError, "did you mean 'BrickWall'"),
    "topology class": (lambda: dtn.network(dtn.BrickWall, (4, 4)), SpecError, r"write BrickWall\(\)"),
    "topology number": (lambda: dtn.network(3, (4, 4)), SpecError, "expected a topology"),
    "layers 0": (lambda: dtn.BrickWall(layers=0), SpecError, r"BrickWall.layers must be at least 1, got 0"),
    "layers float": (lambda: dtn.BrickWall(layers=1.5), SpecError, "must be an integer"),
    "layers bool": (lambda: dtn.BrickWall(layers=True), SpecError, "must be an integer"),
    "leg size 1": (lambda: dtn.BrickWall(leg_size=1), SpecError, "at least 2"),
    "rank 0": (lambda: dtn.TensorTrain(rank=0), SpecError, "TensorTrain.rank must be at least 1, got 0"),
    "rank text": (lambda: dtn.TTMatrix(rank="8"), SpecError, "TTMatrix.rank must be an integer"),
    "rank 0 in tuple": (lambda: dtn.Tucker(rank=(2, 0)), SpecError, r"Tucker.rank\[1\] must be at least 1"),
    "low rank 0": (lambda: dtn.LowRank(rank=-1), SpecError, "LowRank.rank must be at least 1"),
    "tree rank 0": (lambda: dtn.Tree(rank=0), SpecError, "Tree.rank must be at least 1"),
    "rank tuple length": (
        lambda: dtn.network(dtn.TensorTrain(rank=(2, 2)), (4, 4)),
        SpecError,
        "2 entries, expected 3",
    ),
    "tucker tuple length": (lambda: dtn.network(dtn.Tucker(rank=(2,)), (4, 4)), SpecError, "1 entries, expected 2"),
    "activation": (lambda: dtn.network(dtn.BrickWall(activation="rellu"), (4, 4)), SpecError, "did you mean 'relu'"),
    "activation number": (
        lambda: dtn.network(dtn.BrickWall(activation=1), (4, 4)),
        SpecError,
        "must be a string or None",
    ),
    "activation slope": (
        lambda: dtn.network(dtn.Tree(activation="leaky_relu:x"), (4, 4)),
        SpecError,
        "'x' is not a number",
    ),
    "activation argument": (
        lambda: dtn.network(dtn.Tree(activation="relu:1"), (4, 4)),
        SpecError,
        "takes no parameter",
    ),
    "normalize": (lambda: dtn.BrickWall(activation=None, normalize="l2"), SpecError, "expected 'rms' or None"),
    "one leg": (lambda: dtn.network("BrickWall", (2,)), SpecError, "at least 2 legs, got 1"),
    "one leg tree": (lambda: dtn.network("Tree", (2,)), SpecError, "at least 2 legs, got 1"),
    "no leg": (
        lambda: dtn.network("TensorTrain", (1,)),
        SpecError,
        "1 leg, got none; a weight with one entry",
    ),
    "no tucker leg": (lambda: dtn.network("Tucker", (1,)), SpecError, "at least 1 leg"),
    "vector low rank": (lambda: dtn.network("LowRank", (8,)), SpecError, "column legs"),
    "vector ttmatrix": (lambda: dtn.network("TTMatrix", (8,)), SpecError, "column legs"),
    "register no class": (lambda: dtn.register_topology(int), SpecError, "is not a topology"),
    "register twice": (lambda: dtn.spec.register_activation("relu", abs), SpecError, "already registered"),
    "register no callable": (lambda: dtn.spec.register_activation("new", 3), SpecError, "must be a callable"),
    "register colon": (lambda: dtn.spec.register_activation("a:b", abs), SpecError, "without a colon"),
    "sites 1": (lambda: dtn.BrickWall(sites=1), SpecError, r"BrickWall.sites = 1; expected at least 2"),
    "pattern": (lambda: dtn.BrickWall(pattern="bricks"), SpecError, "did you mean 'brick'"),
    "bond 0": (lambda: dtn.BrickWall(bond=0), SpecError, "BrickWall.bond must be at least 1, got 0"),
    "arity 1": (lambda: dtn.MERA(arity=1), SpecError, "MERA.arity = 1; a node splits its block"),
    "one leg mera": (lambda: dtn.network("MERA", (2,)), SpecError, "a MERA needs at least 2 legs, got 1"),
    "cp rank tuple": (lambda: dtn.CP(rank=(2, 2)), SpecError, "CP.rank must be an integer"),
    "block terms": (lambda: dtn.BlockTerm(terms=0), SpecError, "BlockTerm.terms must be at least 1"),
    "butterfly levels": (lambda: dtn.Butterfly(levels=0), SpecError, "Butterfly.levels must be at least 1"),
    "vector kronecker": (lambda: dtn.network("Kronecker", (8,)), SpecError, "a Kronecker needs row legs"),
    "vector butterfly": (lambda: dtn.network("Butterfly", (8,)), SpecError, "a Butterfly needs row legs"),
    "ring ranks": (lambda: dtn.network(dtn.TensorRing(rank=(2, 2)), (4, 4)), SpecError, "2 entries, expected 4"),
    "peps columns": (lambda: dtn.PEPS(columns=-1), SpecError, "PEPS.columns must be at least 1"),
    "no peps leg": (lambda: dtn.network("PEPS", (1,)), SpecError, "at least 1 leg"),
    "no cp leg": (lambda: dtn.network(dtn.CP(), (4,), dtn.Layout((1,), ((),))), LayoutError, "layout is for"),
    "sum of nothing": (lambda: dtn.Sum(terms=()), SpecError, "Sum.terms is empty"),
    "sum of a family": (lambda: dtn.Sum(terms=dtn.CP()), SpecError, "must be a tuple of topologies"),
    "sum of numbers": (lambda: dtn.Sum(terms=(3,)), SpecError, "expected a topology"),
    "product of sums": (
        lambda: dtn.network(dtn.Product(terms=(dtn.CP(), dtn.Sum(terms=(dtn.CP(), dtn.Tree())))), (4, 4)),
        SpecError,
        "the last term of a Product may not be a Sum",
    ),
    # Graph
    "graph stages": (
        lambda: dtn.Graph(nodes=[{"A": "xy"}, {"B": "xya"}], output=["xy"]),
        SpecError,
        "2 stages and the output",
    ),
    "graph gaps": (
        lambda: dtn.Graph(nodes=[{"A": "xy"}, {"B": "xya"}], output=["xy", "a"], activation=("relu", "tanh")),
        SpecError,
        "activation has 2 entries, expected 1",
    ),
    "graph activation": (
        lambda: dtn.Graph(nodes=[{"A": "xy"}, {"B": "xya"}], output=["xy", "a"], activation="sgn"),
        SpecError,
        "unknown activation 'sgn'",
    ),
    "graph no gap": (
        lambda: dtn.network(
            dtn.Graph(nodes=[{"A": "xy"}, {"B": "xya"}], output=["xy", "a"], activation=None, normalize=None), (3,)
        ),
        SpecError,
        "neither activation nor normalization; move its nodes into the next stage",
    ),
    "graph dangles": (
        lambda: dtn.network(dtn.Graph(nodes={"A": "axq", "B": "xb"}), (3, 4)),
        SpecError,
        "the index 'q' of node 'A' dangles",
    ),
    "graph repeats": (
        lambda: dtn.network(dtn.Graph(nodes={"A": "axx", "B": "xb"}), (3, 4)),
        SpecError,
        "node 'A' repeats the index 'x'",
    ),
    "graph lost output": (
        lambda: dtn.network(dtn.Graph(nodes={"A": "ax", "B": "x"}), (3, 4)),
        SpecError,
        "the output index 'a1_0' belongs to no node",
    ),
    "graph output twice": (
        lambda: dtn.network(dtn.Graph(nodes={"A": "ax", "B": "xb"}, output="aa"), (3, 3)),
        SpecError,
        "output repeats the index 'a'",
    ),
    "einsum ellipsis": (lambda: dtn.Graph.from_einsum("a...x,xb->ab"), SpecError, "without an ellipsis"),
    "einsum arrows": (lambda: dtn.Graph.from_einsum("ax->x->"), SpecError, "write for example 'abx,bcy->acxy'"),
    "einsum output twice": (lambda: dtn.Graph.from_einsum("ax->aa"), SpecError, "the output repeats the index 'a'"),
    "einsum output": (lambda: dtn.Graph.from_einsum("ax->ab"), SpecError, "has the index 'b', but no operand has it"),
    "einsum operands": (lambda: dtn.from_einsum("ax,xb->ab", np.ones((2, 3))), SpecError, "2 operands, got 1 arrays"),
    "einsum axes": (
        lambda: dtn.from_einsum("ax,xb->ab", np.ones((2, 3)), np.ones(3)),
        SpecError,
        "operand 1 is 'xb', but its array has shape",
    ),
    "einsum sizes": (
        lambda: dtn.from_einsum("ax,xb->ab", np.ones((2, 3)), np.ones((4, 2))),
        SpecError,
        "tensor 1: the index 'x' has size 4 here and 3 elsewhere",
    ),
    "adjacency square": (lambda: dtn.from_adjacency([[1, 2]]), SpecError, "must be square"),
    "adjacency symmetric": (
        lambda: dtn.from_adjacency([[4, 2], [3, 4]]),
        SpecError,
        r"entry \(0, 1\) = 2, entry \(1, 0\) = 3; they must be equal and >= 0",
    ),
    "adjacency numbers": (lambda: dtn.from_adjacency([["a"]]), SpecError, "rows of integers"),
    "networkx loop": (lambda: dtn.from_networkx(nx.Graph([(0, 0)])), SpecError, "node 0 has an edge to itself"),
    "networkx empty": (lambda: dtn.from_networkx(nx.Graph()), SpecError, "no nodes"),
    "networkx directed": (lambda: dtn.from_networkx(nx.DiGraph([(0, 1)])), SpecError, "got DiGraph"),
    "networkx no leg": (lambda: dtn.from_networkx(nx.path_graph(3)), SpecError, "the graph has no legs"),
    # stages
    "stage cycle": (
        lambda: stages({"sources": (1,)}),
        SpecError,
        "stage 0 names stage 1 in sources; a stage can only read earlier stages",
    ),
    "stage adds itself": (lambda: stages({}, {"add": (1,)}), SpecError, "stage 1 names stage 1 in add"),
    "stage adds other sizes": (
        lambda: stages({}, {"sources": (0,), "add": (0,)}),
        SpecError,
        r"stage 1 has sizes \[2, 3\], but stage 0, named in add, has \[2, 2\]",
    ),
    "stage unread": (
        lambda: dtn.NetworkSpec(
            LEGS,
            (Stage((U, V), OUT, "relu"), Stage((Node("A", OUT),), OUT, sources=())),
            (("b", 4),),
        ),
        SpecError,
        "no other stage reads the result of stage 0",
    ),
    "stage numbers": (lambda: Stage((U, V), OUT, sources=("0",)), SpecError, "tuple of stage numbers"),
    "stage twice": (lambda: stages({}, {"sources": (0, 0)}), SpecError, "repeats a stage in sources"),
    "weight adds an activated stage": (
        lambda: dtn.NetworkSpec(
            LEGS,
            (Stage((U, V), OUT, "relu"), Stage((Node("A", OUT),), OUT, sources=(), add=(0,))),
            (("b", 4),),
        ),
        SpecError,
        "stage 0 is added to the weight itself and has an activation",
    ),
    "weight adds a stage of other legs": (
        lambda: dtn.NetworkSpec(
            LEGS,
            (Stage((Node("A", ("p", "q")),), ("p", "q")), Stage((Node("B", OUT),), OUT, sources=(), add=(0,))),
            (("p", 2), ("q", 3)),
        ),
        SpecError,
        r"its output must be the legs \('a0_0', 'a1_0'\), in this order; got \('p', 'q'\)",
    ),
    "weight adds a constant": (
        lambda: dtn.NetworkSpec(
            LEGS,
            (
                Stage((Node("A", OUT, constant=(1.0,) * 6),), OUT),
                Stage((Node("B", OUT),), OUT, sources=(), add=(0,)),
            ),
        ),
        SpecError,
        "has no parameter, so its scale cannot be chosen",
    ),
    "weight adds a stage twice": (
        lambda: dtn.NetworkSpec(
            LEGS,
            (
                Stage((Node("A", OUT),), OUT),
                Stage((Node("B", OUT),), OUT, sources=(), add=(0,)),
                Stage((Node("C", OUT),), OUT, sources=(), add=(0, 1)),
            ),
        ),
        SpecError,
        "along two paths; add it once",
    ),
    "cyclic no": (lambda: dtn.MERA(cyclic="no"), SpecError, "MERA.cyclic must be True or False, got 'no'"),
    "shared 1": (lambda: dtn.TensorTrain(shared=1), SpecError, "TensorTrain.shared must be True or False, got 1"),
    "brickwall cyclic": (lambda: dtn.BrickWall(cyclic=None), SpecError, "BrickWall.cyclic must be True or False"),
    "decompose shared": (
        lambda: dtn.decompose(np.ones((64, 64)), dtn.TensorTrain(rank=2, shared=True)),
        SpecError,
        "no closed-form decomposition; fit it by gradient",
    ),
    "joint number": (lambda: dtn.joint.joint("BrickWall", 5), LayoutError, "expected shapes"),
    "adjacency no leg": (lambda: dtn.from_adjacency([[0, 2], [2, 0]]), SpecError, "no node has a leg"),
    "networkx hubs": (
        lambda: dtn.from_networkx(hubs(one={"hyper": True}, other={"hyper": True})),
        SpecError,
        "both hyper-indices",
    ),
    "networkx sizes": (
        lambda: dtn.from_networkx(hubs(one={"hyper": True}, other={"legs": 2})),
        SpecError,
        "has size 5, but its index has size 3",
    ),
    "networkx float": (lambda: dtn.from_networkx(hubs(one={"legs": 3.0})), SpecError, "legs of node 'one'"),
    "strategy of a sum": (lambda: networks("Sum"), SpecError, "Sum has no choices to draw from"),
    "graph nodes": (lambda: dtn.Graph(nodes=3), SpecError, "a Graph needs nodes"),
    "graph leg count": (lambda: dtn.network(dtn.Graph(), (4, 4), dtn.Layout((4, 4))), SpecError, "2 open indices"),
    "graph size clash": (
        lambda: dtn.network(dtn.Graph(sizes={"a": 3, "b": 4}), (4, 4), dtn.Layout.single((4, 4))),
        SpecError,
        "index 'a' has size 3 in the Graph and 4 in the layout",
    ),
    "graph unused size": (
        lambda: dtn.network(dtn.Graph(sizes={"q": 3}), (4, 4)),
        SpecError,
        "no node of the Graph has",
    ),
    "graph bond like leg": (
        lambda: dtn.network(dtn.Graph(nodes={"A": [["a0_0"], "a"][0] + ["a"], "B": ["a0_0", "b"]}), (4, 4)),
        SpecError,
        "has the name of a leg",
    ),
    "graph shape": (
        lambda: dtn.network(dtn.Graph(sizes={"a": 4, "b": 4}), (3, 5)),
        LayoutError,
        "do not make up the shape",
    ),
    "graph missing size": (
        lambda: dtn.network(dtn.Graph(sizes={"a": 4}), (4, 4)),
        LayoutError,
        "does not name the open",
    ),
    # specifications
    "node dot": (lambda: Node("L1.g0", ("a",)), SpecError, "is not an identifier"),
    "node repeats": (lambda: Node("A", ("x", "x")), SpecError, "node 'A' repeats the index 'x'"),
    "node input": (lambda: Node("A", ("x",), inputs=("y",)), SpecError, "the input 'y' is not one of its indices"),
    "node string": (lambda: Node("A", "xy"), SpecError, "must be a tuple of index names"),
    "node param": (lambda: Node("A", ("x",), param="a.b"), SpecError, "is not an identifier"),
    "node both": (lambda: Node("A", ("x",), param="p", constant=(1.0,)), SpecError, "constant and names a parameter"),
    "constant length": (
        lambda: spec(U, V, Node("c", ("b",), constant=(1.0,))),
        SpecError,
        r"node 'c' has the shape \(4,\), but 1 constant entries",
    ),
    "all constant": (
        lambda: spec(Node("c", OUT, constant=(1.0,) * 6), sizes=()),
        SpecError,
        "no parameters",
    ),
    "unknown index": (lambda: spec(U, V, sizes=()), SpecError, "node 'U': the index 'b' has no size"),
    "dangling": (lambda: spec(U, Node("V", ("a1_0",))), SpecError, "the index 'b' of node 'U' dangles"),
    "same name": (lambda: spec(U, Node("U", ("b", "a1_0"))), SpecError, "two nodes are named 'U'"),
    "output unheld": (
        lambda: spec(Node("U", ("a0_0",)), sizes=()),
        SpecError,
        "output index 'a1_0' belongs to no node",
    ),
    "output repeats": (
        lambda: spec(U, V, output=("a0_0", "a1_0", "a1_0")),
        SpecError,
        "repeats an index in its output",
    ),
    "output order": (lambda: spec(U, V, output=("a1_0", "a0_0")), SpecError, "the legs are"),
    "size of leg": (lambda: spec(U, V, sizes=(("b", 4), ("a0_0", 2))), SpecError, "is a leg and gets its size"),
    "size 0": (lambda: spec(U, V, sizes=(("b", 0),)), SpecError, "size of index 'b' must be at least 1"),
    "no stages": (lambda: dtn.NetworkSpec(LEGS, ()), SpecError, "at least one stage"),
    "no nodes": (lambda: spec(), SpecError, "stage 0 has no nodes"),
    "stage of strings": (lambda: Stage(("A",), ("a",)), SpecError, "must be deeptn.Node objects"),
    "last activation": (lambda: spec(U, V, activation="relu"), SpecError, "belong between stages"),
    "nothing between": (lambda: two_stages(), SpecError, "neither activation nor normalization"),
    "state dangles": (
        lambda: dtn.NetworkSpec(
            LEGS,
            (
                Stage((Node("A", ("s",)),), ("s",), "relu"),
                Stage((Node("U", ("a0_0", "b")), V), OUT),
            ),
            (("s", 2), ("b", 2)),
        ),
        SpecError,
        "of the result of stage 0 dangles",
    ),
    "legs repeat": (lambda: spec(U, V, legs=(LEGS[0], LEGS[0])), SpecError, "repeat a name"),
    "shared shape": (
        lambda: spec(Node("U", ("a0_0", "b"), param="p"), Node("V", ("b", "a1_0"), param="p")),
        SpecError,
        "node 'V' shares the parameter 'p'",
    ),
    "network of other legs": (
        lambda: dtn.Network(NET.spec, dtn.Layout((12, 10))),
        SpecError,
        "the spec has legs",
    ),
    "network of strings": (lambda: dtn.Network("x", "y"), SpecError, "takes a NetworkSpec and a Layout"),
    # layouts
    "shape empty": (lambda: dtn.Layout(()), LayoutError, "shape is empty"),
    "shape 0": (lambda: dtn.network("BrickWall", (0, 4)), LayoutError, r"shape\[0\] must be at least 1, got 0"),
    "shape text": (lambda: dtn.network("BrickWall", "44"), LayoutError, "sequence of positive integers"),
    "factors too small": (lambda: dtn.Layout((12,), ((2, 5),)), LayoutError, "multiply to 10; axis 0 has size 12"),
    "factors count": (lambda: dtn.Layout((4, 4), ((2, 2),)), LayoutError, "1 entries, but the shape"),
    "factors number": (lambda: dtn.Layout((4, 4), 2), LayoutError, "one tuple of integers per axis"),
    "order word": (lambda: dtn.Layout((4, 4), order="columns"), LayoutError, "expected 'rows', 'interleaved'"),
    "order floats": (lambda: dtn.Layout((4, 4), order=(3.0, 1, 0, 2)), LayoutError, "not a permutation of the 4 legs"),
    "order tuple": (lambda: dtn.Layout((4, 4), order=(0, 1, 2, 2)), LayoutError, "not a permutation of the 4 legs"),
    "d 1": (lambda: dtn.Layout.padded((4, 4), 1), LayoutError, "size 2 or more"),
    "near 1": (lambda: dtn.Layout.balanced((4, 4), near=1), LayoutError, "at least 2"),
    "layout of other shape": (lambda: dtn.network("Tree", (4, 4), dtn.Layout((4, 8))), LayoutError, "the weight has"),
    "layout text": (lambda: dtn.network("Tree", (4, 4), "rows"), LayoutError, "must be a deeptn.Layout"),
    "to_legs shape": (lambda: NET.layout.to_legs(np.ones((3, 3))), LayoutError, "the layout is for"),
    "from_legs shape": (lambda: NET.layout.from_legs(np.ones((3, 3))), LayoutError, "the legs have"),
    # parameters
    "params of another network": (
        lambda: NET.materialize(OTHER.init()),
        SpecError,
        "params of another network: missing",
    ),
    "params surplus": (lambda: NET.materialize(params(extra=np.ones(2))), SpecError, r"surplus \['extra'\]"),
    "params shape": (
        lambda: NET.materialize(params(L1_g0=np.ones(3))),
        SpecError,
        r"'L1_g0'.*shape \(2, 2\), got shape \(3,\)",
    ),
    "params list": (lambda: NET.materialize(params(L1_g0=[[1, 2], [3, 4]])), SpecError, "got no array"),
    "params no dict": (lambda: NET.materialize([1]), SpecError, "must be a dict of arrays"),
    "params dtype": (
        lambda: NET.materialize({k: p.astype("int64") for k, p in NET.init().items()}),
        SpecError,
        "has the dtype int64",
    ),
    "apply params": (lambda: LINEAR.apply(NET.init(), np.ones(10)), SpecError, "params of another network"),
    "apply width": (lambda: NET.apply(NET.init(), np.ones((2, 11))), LayoutError, r"expected \(\.\.\., 10\)"),
    "apply scalar": (lambda: NET.apply(NET.init(), 3.0), LayoutError, "x has shape"),
    "like": (lambda: NET.init(like="tensorflow"), SpecError, "is not a supported library or array"),
    "dtype": (lambda: NET.init(dtype="int32"), SpecError, "dtype = 'int32'"),
    "seed": (lambda: NET.init(seed=-1), SpecError, "non-negative integer"),
    "seed none": (lambda: NET.init(seed=None), SpecError, "non-negative integer"),
    "batch index": (
        lambda: dtn.network(dtn.Graph(nodes={"A": ["a", "(batch)"], "B": ["(batch)", "b"]}), (4, 4)).cost(),
        ProgramError,
        "is reserved",
    ),
    "scheme": (lambda: NET.init(scheme="ortho"), SpecError, "did you mean 'orthogonal'"),
    "std": (lambda: NET.init(std=0.0), SpecError, "expected a positive number"),
    "mode": (lambda: NET.cost("decode"), SpecError, "mode = 'decode'"),
    "batch": (lambda: LINEAR.cost("apply", batch=0), SpecError, "batch must be at least 1"),
    "choose batch": (lambda: LINEAR.choose(batch=0), SpecError, "batch must be at least 1"),
    "apply program": (lambda: compile_network(NET.spec, (), ()), ProgramError, "has to be decoded"),
    # functions of networks
    "budget": (lambda: dtn.at_budget("Tucker", (120, 400), 30), SpecError, r"at least 46 parameters \(rank=1\)"),
    "budget 0": (lambda: dtn.at_budget("Tucker", (120, 400), 0), SpecError, "params must be at least 1"),
    "budget family": (lambda: dtn.at_budget("Tuker", (120, 400), 100), SpecError, "did you mean 'Tucker'"),
    "decompose brick wall": (lambda: dtn.decompose(np.ones((4, 4)), "BrickWall"), SpecError, "no closed-form"),
    "decompose nan": (lambda: dtn.decompose(np.full((4, 4), np.nan), "LowRank"), SpecError, "not finite"),
    "decompose list": (lambda: dtn.decompose([[1.0]], "LowRank"), LayoutError, "must be an array"),
    "from_quimb": (lambda: dtn.from_quimb(3), SpecError, "must be a quimb TensorNetwork"),
    "to_quimb": (lambda: dtn.to_quimb(NET, OTHER.init()), SpecError, "params of another network"),
    "to_tensornetwork": (lambda: dtn.to_tensornetwork(NET, OTHER.init()), SpecError, "params of another network"),
    "from_tensornetwork": (lambda: dtn.from_tensornetwork([3], []), SpecError, "must be tensornetwork nodes"),
    "save arguments": (
        lambda: dtn.save_model("x", dtn.files.StoredModel({}, {})),  # type: ignore[arg-type]
        SpecError,
        r"save_model\(model, path\): the model must be a deeptn.files.StoredModel, got str",
    ),
    # data as JSON
    "layout json": (lambda: dtn.Layout.from_dict({"shape": [2]}), FormatError, "missing required field `factors`"),
    "layout json value": (
        lambda: dtn.Layout.from_dict({"shape": [2], "factors": [[3, "x"]], "order": "rows"}),
        FormatError,
        "bad layout",
    ),
    "spec json": (lambda: dtn.NetworkSpec.from_dict({"legs": []}), FormatError, "bad network"),
    "spec json text": (lambda: dtn.NetworkSpec.from_dict("x"), FormatError, "bad network"),
}


@pytest.mark.parametrize(("call", "error", "message"), CASES.values(), ids=CASES)
def test_message(call, error, message):
    check_error(call, error, message)


def test_missing_package(monkeypatch):
    import importlib

    real = importlib.import_module

    def refuse(name, *args):
        if name.startswith("tensornetwork"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(dtn.MissingBackendError, match=r"pip install 'deeptn\[tensornetwork\]'") as caught:
        dtn.to_tensornetwork(NET, NET.init())
    assert isinstance(caught.value, ImportError)


def test_missing_library(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(dtn.MissingBackendError, match=r"deeptn\[torch\]"):
        NET.init(like="torch")
