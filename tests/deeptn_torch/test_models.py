"""Test compression of models, fits and checkpoints."""

from __future__ import annotations

import json

import pytest
import torch
from deeptn_torch import Fit, TNConv2d, TNLinear, compress, compress_, fit, fold_, load_model, save_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import deeptn as dtn
from deeptn.files import HEADER


class Net(nn.Module):
    def __init__(self, classes: int = 4):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16))
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).flatten(1)
        return self.head(torch.relu(self.body(x)))


@pytest.fixture
def dense() -> Net:
    torch.manual_seed(0)
    return Net().eval()


X = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_compress_is_a_copy_and_reports(dense):
    before = dense(X)
    small, report = compress(dense, {"re:body\\..*": dtn.TTMatrix(rank=2), "conv": "LowRank"}, ignore=["body.2"])
    assert torch.equal(dense(X), before)
    assert isinstance(small.body[0], TNLinear)
    assert isinstance(small.conv, TNConv2d)
    assert isinstance(small.body[2], nn.Linear)
    assert [row.name for row in report.layers] == ["conv", "body.0"]
    row = report.layers[1]
    assert (row.shape, row.params_before, row.topology) == ((24, 64), 1536, "TTMatrix(rank=2)")
    assert row.params_after == small.body[0].network.num_params
    assert report.model_before == sum(p.numel() for p in dense.parameters())
    assert report.model_after == sum(p.numel() for p in small.parameters())
    weight = small.body[0].weight.detach()
    old = dense.body[0].weight.detach()
    assert row.error == pytest.approx(float((weight - old).norm() / old.norm()), rel=1e-5)
    assert (row.flops, row.write) == (small.body[0].network.cost().flops, small.body[0].network.cost().write)
    assert not small.training


def test_exact_names_win_and_networks_are_taken_as_they_are(dense):
    net = dtn.at_budget("TensorTrain", (16, 24), 100)
    small, _ = compress(dense, {"body.*": dtn.LowRank(rank=1), "body.2": net})
    assert small.body[2].network == net
    assert type(small.body[0].network.topology) is dtn.LowRank


def test_fold_gives_the_same_function(dense):
    small, _ = compress(dense, {"body.*": dtn.LowRank(rank=3), "conv": dtn.Tucker(rank=2)})
    expected = small(X)
    assert fold_(small, ["body.*"]) == ["body.0", "body.2"]
    assert isinstance(small.body[0], nn.Linear)
    assert isinstance(small.conv, TNConv2d)
    assert torch.allclose(small(X), expected, atol=1e-5)
    assert fold_(small) == ["conv"]
    assert torch.allclose(small(X), expected, atol=1e-5)
    with pytest.raises(dtn.PlanError):
        fold_(small)


def test_full_rank_changes_nothing(dense):
    small, report = compress(dense, {"*": dtn.TensorTrain(rank=10**6)})
    assert torch.allclose(small(X), dense(X), atol=1e-4)
    assert max(row.error for row in report.layers) < 1e-5


def test_a_module_under_two_names_is_replaced_under_both(dense):
    dense.add_module("again", dense.head)
    compress_(dense, {"head": dtn.LowRank(rank=1)}, fit=None)
    assert dense.get_submodule("again") is dense.head
    assert isinstance(dense.head, TNLinear)


def test_what_is_frozen_stays_frozen(dense):
    dense.body[0].requires_grad_(False)
    compress_(dense, {"body.*": "LowRank"}, fit=None)
    assert not any(p.requires_grad for p in dense.body[0].parameters())
    assert all(p.requires_grad for p in dense.body[2].parameters())
    fold_(dense)
    assert not any(p.requires_grad for p in dense.body[0].parameters())
    assert all(p.requires_grad for p in dense.body[2].parameters())


def test_lazy_layers_are_left_alone(dense):
    dense.add_module("lazy", nn.LazyLinear(3))
    compress_(dense, {"body.0": "LowRank"}, fit=None)
    assert isinstance(dense.body[0], TNLinear)


def test_loading_draws_nothing_and_does_not_mind_the_dense_weights(dense, tmp_path):
    small = trained(dense)
    save_model(small, tmp_path / "m")
    with torch.no_grad():
        dense.body[0].weight.fill_(torch.nan)
    state = torch.get_rng_state()
    again = load_model(dense, tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again(X), small(X))


def test_complex_models(tmp_path):
    model = nn.Sequential(nn.Linear(8, 6, dtype=torch.complex64))
    small, _ = compress(model, {"0": dtn.TensorTrain(rank=99)})
    save_model(small, tmp_path / "m")
    x = torch.randn(2, 8, dtype=torch.complex64)
    assert torch.allclose(load_model(model, tmp_path / "m")(x), model(x), atol=1e-5)


def test_generated_layers_are_not_compressed_again(dense):
    compress_(dense, {"body.0": "LowRank"})
    with pytest.raises(dtn.PlanError, match=r"'body.0', which is already generated; fold it first"):
        compress_(dense, {"body.0": "LowRank"})
    compress_(dense, {"body.*": "LowRank"}, ignore=["body.0"])  # only body.2
    assert isinstance(dense.body[2], TNLinear)


@pytest.mark.few(1)
@pytest.mark.parametrize("how", [Fit(method="adam", steps=400), Fit(method="lbfgs", steps=150), Fit(method="als")])
def test_fit_finds_a_weight_that_the_network_can_make(how):
    net = dtn.network(dtn.BrickWall(layers=1), (8, 8))
    goal = net.materialize(net.init(seed=50, like="torch", dtype="float64"))
    result = fit(net, goal, how=how)
    assert result.error < 0.15
    assert result.history[-1] < result.history[0]
    found = net.materialize(result.params)
    assert result.error == pytest.approx(float((found - goal).norm() / goal.norm()))
    assert not any(p.requires_grad for p in result.params.values())


def test_fit_never_gets_worse_than_its_start():
    weight = torch.randn(12, 10, generator=torch.Generator().manual_seed(0))
    start = dtn.decompose(weight, dtn.TensorTrain(rank=3))
    result = fit(start.net, weight, start.params, Fit(method="adam", steps=60, lr=0.01))
    assert result.error <= start.error + 1e-6
    assert fit(start.net, weight, start.params, Fit(steps=0)).error == pytest.approx(start.error, rel=1e-5)


def test_fit_keeps_dtype_and_works_without_grad_mode():
    weight = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    net = dtn.network(dtn.LowRank(rank=2), (8, 6))
    with torch.no_grad():
        result = fit(net, weight, how=Fit(steps=50))
    assert result.params["U"].dtype == torch.bfloat16
    assert result.history[-1] < result.history[0]


@pytest.mark.parametrize("family", [dtn.LowRank(rank=1), dtn.BrickWall(layers=2), dtn.Tree(rank=2)])
def test_a_fit_of_zeros_is_exact_and_can_be_trained(family):
    net = dtn.network(family, (4, 4))
    result = fit(net, torch.zeros(4, 4), how=Fit(steps=3))
    assert result.error == 0
    params = {name: core.requires_grad_() for name, core in result.params.items()}
    weight = net.materialize(params)
    assert not weight.any()
    weight.sum().backward()
    assert any(core.grad.any() for core in params.values())


def trained(dense: Net) -> Net:
    small, _ = compress(dense, {"body.*": dtn.BrickWall(layers=2), "conv": "LowRank"}, fit=None)
    small.train()
    optimizer = torch.optim.Adam(small.parameters(), lr=1e-2)
    small(X).square().sum().backward()
    optimizer.step()
    return small.eval()


def test_save_and_load_a_model(dense, tmp_path):
    small = trained(dense)
    path = tmp_path / "small.safetensors"
    save_model(small, path)
    torch.manual_seed(99)
    fresh = Net().eval()
    again = load_model(fresh, path)
    assert torch.equal(again(X), small(X))
    assert isinstance(again.body[0], TNLinear)
    assert isinstance(fresh.body[0], nn.Linear)
    assert again.body[0].network == small.body[0].network
    assert again.body[0].network == dtn.network(dtn.BrickWall(layers=2), (24, 64))
    assert {str(k): v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in small.state_dict().items()
    }
    assert path.stat().st_size < 60_000


def test_shared_tensors_are_stored_once(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    model[1].weight = model[0].weight
    small, _ = compress(model, {"2": dtn.LowRank(rank=1)})
    save_model(small, tmp_path / "m")
    assert (tmp_path / "m").stat().st_size < 2 * 64 * 64 * 4
    again = load_model(model, tmp_path / "m")
    assert torch.equal(again(torch.ones(1, 64)), small(torch.ones(1, 64)))
    assert again[1].weight is again[0].weight


def rewritten(path, change):
    """Write the file again after a change to its header or tensors."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[HEADER])
    tensors = load_file(path)
    change(header, tensors)
    save_file(tensors, path, metadata={HEADER: json.dumps(header)})


DAMAGE = {
    "other model": (lambda h, t: None, "the tensors of"),
    "no such layer": (lambda h, t: h["layers"].update({"nose": h["layers"].pop("body.0")}), "layer 'nose'"),
    "kind": (lambda h, t: h["layers"]["body.0"].update(kind="conv2d"), "'conv2d' layer 'body.0'"),
    "unknown kind": (lambda h, t: h["layers"]["body.0"].update(kind="exec"), "'exec' layer 'body.0'"),
    "plan no table": (lambda h, t: h["layers"].update({"body.0": 3}), "Expected `object`, got `int`"),
    "layers": (lambda h, t: h.update(layers=[]), r"Expected `object`, got `array` - at `.\.layers`"),
    "layer of a later version": (
        lambda h, t: h["layers"]["body.0"].update(scale=2.0),
        "unknown field `scale`.*later version",
    ),
    "header of a later version": (lambda h, t: h.update(seeds={}), "unknown field `seeds`.*later version"),
    "networks": (lambda h, t: h.update(networks={}), r"Expected `array`, got `object` - at `.\.networks`"),
    "network number": (lambda h, t: h["layers"]["body.0"].update(network=3), "names network 3 of 3"),
    "network text": (lambda h, t: h["layers"]["body.0"].update(network="0"), "Expected `int`, got `str`"),
    "alias of cores": (lambda h, t: h.update(aliases={"body.0.cores": "nothing"}), "is an alias of 'nothing'"),
    "cores twice": (
        lambda h, t: h.update(aliases={"body.0.cores": "body.2.cores"}),
        "the cores of layer 'body.0' have the shape",
    ),
    "alias": (lambda h, t: h.update(aliases={"a": "b"}), "is an alias of 'b'"),
    "format": (lambda h, t: h.update(format="deeptn.network"), "expected a file of the format 'deeptn.model'"),
    "swapped": (
        lambda h, t: h["layers"].update({"body.2": h["layers"]["body.0"]}),
        "the cores of layer 'body.2' have the shape",
    ),
    "tensor missing": (lambda h, t: t.pop("head.weight"), "digits of checksums for"),
    "tensor shape": (lambda h, t: t.update({"head.weight": torch.ones(2, 2)}), "does not have its checksum"),
}


@pytest.mark.few(7)
@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_checkpoints(change, message, dense, tmp_path):
    path = tmp_path / "m"
    save_model(trained(dense), path)
    rewritten(path, change)
    with pytest.raises(dtn.FormatError, match=message):
        load_model(Net(classes=5) if message == "the tensors of" else dense, path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(dtn.FormatError, match="is not a safetensors file"):
        load_model(dense, path)


def test_attention_projection_can_be_generated():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    small, _ = compress(model, {"linear1": dtn.LowRank(rank=16), "self_attn.out_proj": dtn.LowRank(rank=16)})
    x = torch.randn(2, 5, 16)
    assert torch.allclose(small(x), model(x), atol=1e-4)
