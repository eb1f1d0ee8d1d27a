"""Test the weight as users get it: a copy that can be read in every way and refuses writes, which would be lost."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from deeptn_torch import TNLinear, parametrize_
from torch import nn

import deeptn as dtn

from .test_kept_weight import INPUTS, MAKERS

REFUSED: dict[str, Any] = {
    "data in place": lambda w: w.data.normal_(),
    "in place": lambda w: w.mul_(0),
    "init": lambda w: nn.init.normal_(w),
    "init with a name": lambda w: nn.init.zeros_(tensor=w),
    "copy": lambda w: w.copy_(torch.zeros_like(w)),
    "row": lambda w: w[0].zero_(),
    "row of data": lambda w: w.data[0].zero_(),
    "entry": lambda w: w.__setitem__(0, 0.0),
    "augmented": lambda w: w.__iadd__(1),
    "transposed": lambda w: w.mT.fill_(1),
    "flat": lambda w: w.view(-1).fill_(1),
    "rows": lambda w: w.unbind(0)[0].fill_(1),
    "iteration": lambda w: next(iter(w)).fill_(1),
    "out": lambda w: torch.add(torch.ones(()), 1, out=w),
    "assigned data": lambda w: setattr(w, "data", torch.zeros_like(w)),
    "inplace": lambda w: nn.functional.relu(w, inplace=True),
    "embedding": lambda w: nn.functional.embedding(torch.tensor([0]), w, max_norm=0.01),
    "operator": lambda w: torch.ops.aten.add_.Tensor(w, 1),
    "view by name": lambda w: torch.transpose(input=w, dim0=0, dim1=1).zero_(),
    "after reading": lambda w: (pickle.dumps(w), copy.deepcopy(w), f"{w[0, 0]:.3f}", w.zero_()),
    "freezing": lambda w: w.requires_grad_(False),
    "freezing by attribute": lambda w: setattr(w, "requires_grad", False),
}


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("write", REFUSED.values(), ids=REFUSED)
def test_writes_into_the_weight_are_refused(write, grad):
    layer = TNLinear(20, 12).eval()
    with torch.no_grad():
        before = layer(INPUTS["relu"])
    with torch.set_grad_enabled(grad), pytest.raises(dtn.SpecError, match=r"layer\.load_cores"):
        write(layer.weight)
    with torch.no_grad():
        assert torch.equal(layer(INPUTS["relu"]), before)


@pytest.mark.parametrize("name", MAKERS)
def test_the_weight_is_a_copy(name):
    layer, x = MAKERS[name]().eval(), INPUTS[name]
    with torch.no_grad():
        before = layer(x)
        layer.weight.detach().mul_(0)
        layer.weight.detach().numpy().fill(0)
        assert torch.equal(layer(x), before)


def test_any_other_use_of_the_weight():
    layer, x = TNLinear(20, 12), INPUTS["relu"]
    plain = layer.network.materialize(dict(layer.cores.items()))
    assert torch.equal(layer.weight, plain)
    assert type(layer.weight @ x.T) is torch.Tensor
    assert type(layer.weight * 2) is torch.Tensor
    assert torch.equal(nn.functional.linear(x, layer.weight), nn.functional.linear(x, plain))
    layer.weight.square().sum().backward()
    assert next(iter(layer.cores.values())).grad is not None
    parameter = nn.Parameter(layer.weight)
    dense = nn.Linear(20, 12)
    dense.weight = parameter
    assert "weight" in dict(dense.named_parameters())
    torch.optim.SGD(dense.parameters(), 1.0)
    with torch.no_grad():
        parameter.mul_(0)
        dense.weight.copy_(layer.weight)
        dense.weight.data = layer.weight
        weight = layer.weight
        assert weight.requires_grad_() is weight
        assert copy.deepcopy(weight).sum() == weight.sum()
        assert type(pickle.loads(pickle.dumps(layer.weight))) is torch.Tensor
        stored = io.BytesIO()
        torch.save({"w": layer.weight}, stored)
        stored.seek(0)
        assert torch.equal(torch.load(stored, weights_only=True)["w"], plain)
    assert "GeneratedWeight" in repr(layer.weight)
    with torch.no_grad():
        assert torch.allclose(torch.compile(lambda w: w * 2, backend="eager")(layer.weight), 2 * plain)
    with torch.no_grad():
        compiled = torch.compile(lambda a, w: (a @ w.T).relu(), backend="eager")
        assert torch.allclose(compiled(x, layer.weight), (x @ plain.T).relu(), atol=1e-5)
    weight = layer.weight
    assert torch.allclose(torch.vmap(lambda a: weight @ a)(x), x @ plain.T, atol=1e-5)
    assert torch.func.jacrev(lambda a: weight @ a)(x[0]).shape == (12, 20)
    assert torch.allclose(torch.eye(12).to_sparse() @ weight, plain)
    assert torch.equal(torch.detach(input=layer.weight), plain)
    assert dtn.decompose(layer.weight, dtn.LowRank(rank=12)).error < 1e-5
    net = dtn.network(dtn.TTMatrix(rank=2), (12, 20))
    assert net.apply(net.init(like=layer.weight), layer.weight).shape == (12, 12)
    assert len([*layer.weight]) == 12
    assert layer.weight.max(0).values.shape == (20,)
    assert layer.weight.to_sparse().is_sparse


def test_assigning_the_weight_fits_the_cores():
    layer = TNLinear(16, 8, dtn.LowRank(rank=8))
    goal = torch.randn(8, 16)
    layer.weight = goal
    assert torch.allclose(layer.weight, goal, atol=1e-5)
    layer.weight = nn.Parameter(2 * goal)
    assert torch.allclose(layer.weight, 2 * goal, atol=1e-5)
    assert "weight" not in dict(layer.named_parameters())
    with pytest.raises(dtn.SpecError, match=r"shape \(8, 16\), got \(16, 8\)"):
        layer.weight = goal.T
    with pytest.raises(dtn.SpecError, match="got int"):
        layer.weight = 3  # type: ignore[assignment]
    small = TNLinear(16, 8, dtn.LowRank(rank=1))
    with pytest.warns(UserWarning, match="relative error of 0"):
        small.weight = goal
    with pytest.warns(UserWarning, match="relative error of 0"):
        small.weight = 1e-25 * goal
    small.weight = torch.zeros(8, 16)
    assert (small.weight == 0).all()


def test_a_generated_weight_of_a_module_is_protected():
    lstm: Any = nn.LSTM(8, 16)
    parametrize_(lstm, "weight_hh_l0", dtn.BrickWall(layers=2), fit=None)
    lstm.eval()
    with torch.no_grad():
        before = lstm(torch.ones(3, 8))[0]
        with pytest.raises(dtn.SpecError, match="decoded copy"):
            lstm.weight_hh_l0.data.normal_()
        assert torch.equal(lstm(torch.ones(3, 8))[0], before)
