# These tests pass wrong arguments on purpose.
# pyright: reportArgumentType=false
"""Call the front-ends with wrong input; check the type of the error and its message."""

from __future__ import annotations

import deeptn_jax
import deeptn_torch as dtt
import numpy as np
import pytest
import torch
from torch import nn

import deeptn as dtn
from deeptn import PlanError, SpecError

from ..conftest import check_error

NET = dtn.network(dtn.BrickWall(layers=2), (12, 10))
OTHER = dtn.network(dtn.BrickWall(layers=1), (12, 10))


def model():
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))


class Twice(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def odd_model():
    odd = nn.Sequential(Twice(8, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    odd[1].register_forward_hook(lambda module, args, output: output)
    odd[3].bias = odd[2].bias
    return odd


CASES = {
    # torch
    "linear topology": (lambda: dtt.TNLinear(8, 6, "TensorTran"), SpecError, "did you mean 'TensorTrain'"),
    "linear network": (lambda: dtt.TNLinear(8, 6, NET), SpecError, "the layer needs"),
    "linear mode": (lambda: dtt.TNLinear(8, 6, mode="fast"), SpecError, "mode = 'fast'"),
    "conv groups": (lambda: dtt.TNConv2d(3, 4, 3, groups=2), ValueError, "divisible by groups"),
    "fit argument": (lambda: dtt.TNLinear.from_linear(nn.Linear(8, 6), "Tree", fit="yes"), SpecError, "fit = 'yes'"),
    "fit shape": (lambda: dtt.fit(NET, torch.ones(3, 3)), SpecError, r"of shape \(12, 10\), got \(3, 3\)"),
    "fit array": (lambda: dtt.fit(NET, np.ones((12, 10))), SpecError, "must be a torch array"),
    "fit integers": (
        lambda: dtt.fit(NET, torch.ones(12, 10, dtype=torch.int32)),
        SpecError,
        "real and floating-point",
    ),
    "fit nan": (lambda: dtt.fit(NET, torch.full((12, 10), torch.nan)), SpecError, "not finite"),
    "fit method": (lambda: dtt.Fit(method="sgd"), SpecError, "Fit.method = 'sgd'"),
    "fit steps": (lambda: dtt.Fit(steps=-1), SpecError, "non-negative integer"),
    "fit lr": (lambda: dtt.Fit(lr=0), SpecError, "Fit.lr must be a positive number"),
    "target that matches nothing": (
        lambda: dtt.compress(model(), {"fc*": "Tree"}),
        PlanError,
        "matches none of the 2 layers",
    ),
    "target near": (lambda: dtt.compress(model(), {"00": "Tree"}), PlanError, "did you mean '0'"),
    "targets empty": (lambda: dtt.compress(model(), {}), PlanError, "must map patterns to topologies"),
    "targets list": (lambda: dtt.compress(model(), ["0"]), PlanError, "must map patterns to topologies"),
    "target regular expression": (
        lambda: dtt.compress(model(), {"re:(": "Tree"}),
        PlanError,
        "not a valid regular expression",
    ),
    "target number": (lambda: dtt.compress(model(), {0: "Tree"}), PlanError, "a rule is a layer name"),
    "target topology": (
        lambda: dtt.compress(model(), {"0": "Tre"}),
        PlanError,
        "layer '0': unknown.*did you mean 'Tree'",
    ),
    "target too small": (
        lambda: dtt.compress(nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1)), {"*": "BrickWall"}),
        PlanError,
        "layer '0': a BrickWall needs at least 2 legs",
    ),
    "own forward": (
        lambda: dtt.compress(odd_model(), {"0": "LowRank"}),
        PlanError,
        "is a Twice with its own forward",
    ),
    "hooks": (lambda: dtt.compress(odd_model(), {"1": "LowRank"}), PlanError, "has hooks, which would be lost"),
    "tied bias": (lambda: dtt.compress(odd_model(), {"2": "LowRank"}), PlanError, "shares its bias with '3.bias'"),
    "save one layer": (lambda: dtt.save_model(dtt.TNLinear(8, 6), "x"), PlanError, "is a single generated layer"),
    "save meta": (
        lambda: dtt.save_model(nn.Sequential(dtt.TNLinear(8, 6, device="meta")), "x"),
        PlanError,
        "is on the meta device",
    ),
    "parameter name": (
        lambda: dtt.TNLinear(4, 4, dtn.Graph(nodes={"keys": "ax", "B": "xb"})),
        SpecError,
        "torch.nn.ParameterDict cannot store a parameter named 'keys'",
    ),
    "target network": (lambda: dtt.compress(model(), {"0": NET}), PlanError, "its network makes"),
    "ignore all": (lambda: dtt.compress(model(), {"0": "Tree"}, ignore=["0"]), PlanError, "also in ignore"),
    "ignore text": (lambda: dtt.compress(model(), {"0": "Tree"}, ignore="0"), PlanError, r"write \['0'\]"),
    "ignore nothing": (
        lambda: dtt.compress(model(), {"0": "Tree"}, ignore=["x"]),
        PlanError,
        "ignore: 'x' matches none",
    ),
    "nothing to compress": (
        lambda: dtt.compress(nn.ReLU(), {"*": "Tree"}),
        PlanError,
        "no layer that can be compressed",
    ),
    "a layer itself": (
        lambda: dtt.compress(nn.Linear(8, 6), {"*": "Tree"}),
        PlanError,
        "a single layer; write from_dense",
    ),
    "decompress dense": (lambda: dtt.fold_(model()), PlanError, "has no generated layer"),
    "save dense": (lambda: dtt.save_model(model(), "x.safetensors"), PlanError, "no generated layer"),
    # JAX
    "jax dtype": (
        lambda: deeptn_jax.init(NET, __import__("jax").random.key(0), dtype="int32"),
        SpecError,
        "expected one of float64",
    ),
    "jax params": (lambda: deeptn_jax.materialize(NET, OTHER.init(like="jax")), SpecError, "params of another network"),
    "jax scheme": (
        lambda: deeptn_jax.init(NET, __import__("jax").random.key(0), scheme="x"),
        SpecError,
        "scheme = 'x'",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), CASES.values(), ids=CASES)
def test_message(call, error, message):
    check_error(call, error, message)


def test_a_shared_weight_is_refused():
    shared = model()
    shared.add_module("tied", nn.Linear(8, 6))
    shared.get_submodule("tied").weight = shared.get_submodule("0").weight
    with pytest.raises(PlanError, match=r"shares its weight with 'tied.weight'"):
        dtt.compress(shared, {"0": "Tree"})


def test_a_failed_compression_changes_nothing():
    dense = model()
    with pytest.raises(PlanError):
        dtt.compress_(dense, {"0": "Tree", "nothing": "Tree"})
    with pytest.raises(PlanError, match="layer '2'"):
        dtt.compress_(dense, {"0": "Tree", "2": dtn.TensorTrain(rank=(1,))})
    assert all(isinstance(layer, nn.Linear) for layer in (dense[0], dense[2]))
