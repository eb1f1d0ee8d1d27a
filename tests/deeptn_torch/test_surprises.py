"""Uses of modules that once gave another result than the dense module, or failed later."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from deeptn_torch import (
    TNConv2d,
    TNEmbedding,
    TNLinear,
    compress,
    compress_,
    fold_,
    load_model,
    parametrize_,
    save_model,
)
from deeptn_torch.view import TorchModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils import parametrize, prune

import deeptn as dtn

WALL = dtn.BrickWall(layers=2)


def test_functional_call_with_the_weight_is_refused():
    layer, lstm = TNLinear(24, 16, WALL), nn.LSTM(8, 6)
    parametrize_(lstm, "weight_hh_l0", WALL, fit=None)
    for module, name, x in ((layer, "weight", torch.ones(2, 24)), (lstm, "weight_hh_l0", torch.ones(2, 3, 8))):
        before = {key: value.clone() for key, value in module.state_dict().items()}
        weight = torch.randn_like(getattr(module, name).detach())
        with pytest.raises(dtn.SpecError, match="functional_call cannot replace a weight that is generated; pass the"):
            functional_call(module, {name: weight}, (x,))
        assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_ties_and_hooks_that_would_be_lost_are_refused():
    layer, table = TNLinear(16, 20, dtn.LowRank(rank=16)), TNEmbedding(20, 16, WALL)
    with pytest.raises(dtn.SpecError, match="two generated weights cannot be tied by assignment"):
        layer.weight = table.weight
    layer.weight = nn.Parameter(table.weight.detach())
    for name in ("register_hook", "retain_grad"):
        with pytest.raises(dtn.SpecError, match=f"{name} would act on this decoded weight only"):
            getattr(layer.weight, name)(*[print] * (name == "register_hook"))
    (layer.weight * 1).register_hook(print)


def test_a_forward_on_the_instance_is_refused():
    model: Any
    for model in (nn.Sequential(nn.Linear(24, 16)), nn.Sequential(TNLinear(24, 16))):
        old = model[0].forward
        model[0].forward = lambda input, old=old: 2 * old(input)
        change = fold_ if isinstance(model[0], TNLinear) else lambda m: compress(m, {"0": WALL})
        with pytest.raises(dtn.PlanError, match="has a forward of its own, set on the instance"):
            change(model)


class BurnIn(nn.LSTM):
    def forward(self, x: Any) -> Any:  # type: ignore[override]
        with torch.no_grad():
            state = super().forward(x[:2])[1]
        return super().forward(x[2:], state)


def test_recurrent_modules_that_run_twice():
    lstm = BurnIn(8, 6)
    made = parametrize_(lstm, "weight_hh_l0", WALL, fit=None)
    lstm(torch.randn(5, 3, 8))[0].sum().backward()
    assert all(core.grad is not None for core in made.cores.parameters())


def test_recurrent_modules_in_several_threads():
    lstm = nn.LSTM(8, 6, 2).eval()
    parametrize_(lstm, "weight_hh_l0", WALL, fit=None)
    x, failed = torch.randn(5, 3, 8), []

    def work() -> None:
        try:
            with torch.no_grad():
                for _ in range(50):
                    lstm(x)
        except Exception as error:  # shown by the assertion
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.slow
def test_a_bare_recurrent_module_is_exported():
    lstm = nn.LSTM(8, 6)
    parametrize_(lstm, "weight_hh_l0", WALL, fit=None)
    x = torch.randn(5, 3, 8)
    program = torch.export.export(lstm, (x,), dynamic_shapes=({1: torch.export.Dim("batch", min=2)},))
    assert torch.allclose(program.module()(x)[0], lstm(x)[0], atol=1e-6)


def test_the_order_of_parameters_after_folding():
    for make in (lambda: nn.LSTM(8, 6, 2), lambda: nn.MultiheadAttention(8, 2, bias=True), lambda: nn.GRU(8, 6)):
        dense = make()
        small, _ = compress(nn.Sequential(dense), {"*": WALL}, fit=None)
        fold_(small)
        assert list(small[0].state_dict()) == list(dense.state_dict())
        x = torch.randn(5, 3, 8)
        small[0](x, x, x) if isinstance(dense, nn.MultiheadAttention) else small[0](x)


def test_layers_with_other_attributes_are_copied_after_evaluation():
    layer = TNLinear(24, 16)
    parametrize.register_parametrization(layer, "bias", nn.Softplus())
    x = torch.randn(3, 24)
    with torch.no_grad():
        y = layer(x)
        assert torch.equal(copy.deepcopy(layer)(x), y)


def test_inputs_by_name():
    assert TNLinear(24, 16)(input=torch.ones(2, 24)).shape == (2, 16)
    assert TNConv2d(4, 6, 3)(input=torch.ones(2, 4, 5, 5)).shape == (2, 6, 3, 3)
    assert TNEmbedding(10, 6)(input=torch.arange(3)).shape == (3, 6)


def test_vmap_of_a_linear_embedding():
    table = TNEmbedding(10, 6, dtn.TTMatrix(rank=2), mode="apply")
    indices = torch.arange(8).reshape(4, 2)
    assert torch.allclose(vmap(table)(indices), table(indices), atol=1e-6)


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated")  # from torch itself, inside jvp
@pytest.mark.parametrize("family", [WALL, dtn.Tree(rank=2, activation="relu"), dtn.MERA(rank=2, activation="relu")])
def test_forward_over_reverse_in_float32(family):
    layer, x = TNLinear(16, 16, family), torch.randn(5, 16)
    params = {name: param.detach() for name, param in layer.named_parameters()}

    def loss(params: Any) -> torch.Tensor:
        return functional_call(layer, params, (x,)).square().sum()

    slope = jvp(grad(loss), (params,), (params,))[1]
    assert all(part.isfinite().all() for part in slope.values())


def test_nested_inputs():
    layer = TNLinear(512, 512, dtn.LowRank(rank=2))
    parts = [torch.randn(3, 512), torch.randn(2, 512)]
    found = layer(torch.nested.nested_tensor(parts, layout=torch.jagged))
    assert torch.allclose(found[1], layer(parts[1]), atol=1e-5)


class Exp(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.exp()

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.log()


def test_a_parametrization_on_top_keeps_the_weight(tmp_path):
    layer = nn.Linear(10, 12)
    nn.init.uniform_(layer.weight, 0.5, 1.5)
    model = nn.Sequential(layer)
    parametrize_(layer, "weight", dtn.LowRank(rank=10))
    before = layer.weight.detach().clone()
    parametrize.register_parametrization(layer, "weight", Exp())
    assert torch.allclose(layer.weight, before, atol=1e-5)
    with pytest.raises(dtn.PlanError, match="has a Exp on top, which files do not store"):
        save_model(model, tmp_path / "model.safetensors")


def test_parameters_assigned_to_weights_inside():
    lstm = nn.LSTM(8, 6)
    parametrize_(lstm, "weight_hh_l0", dtn.LowRank(rank=6), fit=None)
    wanted = torch.randn(24, 6)
    lstm.weight_hh_l0 = nn.Parameter(wanted)
    assert torch.allclose(lstm.weight_hh_l0, wanted, atol=1e-5)


def test_masked_and_other_weights_are_not_targets():
    lstm = nn.LSTM(8, 6)
    prune.random_unstructured(lstm, "weight_hh_l0", 0.5)
    report = compress_(nn.Sequential(lstm), {"*": WALL}, fit=None)
    assert [layer.name for layer in report.layers] == ["0.weight_ih_l0"]
    prune.remove(lstm, "weight_hh_l0")
    for layer in (nn.Linear(8, 6), nn.EmbeddingBag(8, 6)):
        weight = layer.weight.detach()
        del layer.weight
        layer.register_buffer("weight", weight)
        with pytest.raises(dtn.PlanError, match="has a weight that is not a parameter; make it one first"):
            compress(nn.Sequential(layer), {"*": WALL})


def test_bags_are_reset():
    bag = nn.EmbeddingBag(30, 8)
    parametrize_(bag, "weight", dtn.TTMatrix(rank=2), fit=None)
    bag.reset_parameters()
    assert float(bag.weight.detach().std()) == pytest.approx(1, rel=0.2)


def test_files_of_compiled_recurrent_modules(tmp_path):
    lstm = nn.LSTM(8, 6)
    parametrize_(lstm, "weight_hh_l0", WALL, fit=None)
    save_model(torch.compile(lstm, backend="eager"), tmp_path / "model.safetensors")  # type: ignore[arg-type]
    read = load_model(nn.LSTM(8, 6), tmp_path / "model.safetensors", names={"_orig_mod": ""})
    x = torch.randn(5, 3, 8)
    assert torch.equal(read(x)[0], lstm(x)[0])


def test_rows_of_padding_that_are_not_zero(tmp_path):
    index, values = torch.tensor([[3, 4], [0, 3]]), torch.randn(20, 8)
    table = nn.Embedding.from_pretrained(values, freeze=False, padding_idx=3)
    with pytest.raises(dtn.SpecError, match=r"has a row 3 \(padding_idx\) that is not zero, where TNEmbedding returns"):
        TNEmbedding.from_embedding(table, dtn.LowRank(rank=8))
    model = nn.Sequential(table)
    small, _ = compress(model, {"*": dtn.LowRank(rank=8)})
    assert torch.allclose(small(index), model(index), atol=1e-5)
    small(torch.tensor([3])).sum().backward()
    assert not any(param.grad.any() for param in small.parameters() if param.grad is not None)  # as in the dense one
    save_model(small, tmp_path / "table.safetensors")
    for other in (model, nn.Sequential(nn.Embedding(20, 8, padding_idx=3)), small):  # the new one's row is zero
        assert torch.equal(load_model(other, tmp_path / "table.safetensors")(index), small(index))
    fold_(small)
    assert type(small[0]) is nn.Embedding
    assert torch.allclose(small(index), model(index), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is deprecated in favor of:FutureWarning")
def test_parameters_are_not_replaced_by_weights():
    layer = TNLinear(24, 16, WALL)
    for change in (nn.utils.weight_norm, nn.utils.spectral_norm):
        with pytest.raises(dtn.SpecError, match="'weight' is generated, so it is not among the parameters"):
            change(layer)
    with pytest.raises(dtn.SpecError, match="parametrize a core, generate the weight inside a dense module"):
        layer._parameters["weight"] = nn.Parameter(torch.zeros(16, 24))
    assert list(layer._parameters) == ["bias"]
    assert "weight" not in layer._parameters
    with pytest.raises(KeyError, match="offset"):
        layer._parameters["offset"]
    with pytest.raises(ValueError, match="does not have a parameter"):
        parametrize.register_parametrization(layer, "weigth", nn.Identity())


def test_layers_made_of_fake_tensors():
    x, index = torch.ones(2, 4, 8, 8), torch.tensor([1, 2])
    with FakeTensorMode(allow_non_fake_inputs=True):
        for made, value, shape in (
            (TNLinear(8, 16, WALL), x, (2, 4, 8, 16)),
            (TNConv2d(4, 6, 3, WALL), x, (2, 6, 6, 6)),
            (TNEmbedding(20, 12, WALL, padding_idx=0), index, (2, 12)),
        ):
            y = made(value)
            y.sum().backward()
            assert y.shape == shape
            assert all(core.grad.shape == core.shape for core in made.cores.values())


@pytest.mark.few(1)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # Dynamo's own
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("mode", ["materialize", "apply"])
def test_create_graph_changes_no_gradient(mode, compiled):
    torch._dynamo.reset()
    layer, tied = TNLinear(12, 12, dtn.LowRank(rank=3), mode=mode).double(), TNLinear(24, 12, WALL).double()
    tied.cores["L1_g1"] = tied.cores["L1_g0"]
    first, second = (torch.compile(one, backend="eager") if compiled else one for one in (tied, layer))
    found, params = [], list(dict.fromkeys((*tied.parameters(), *layer.parameters())))
    x = torch.randn(4, 24).double()
    for again in (False, True):
        y = second(torch.tanh(second(first(x))))  # the inputs of the second call depend on its cores
        found.append(torch.autograd.grad(y.square().sum(), params, create_graph=again))
    assert all(torch.allclose(one, other) for one, other in zip(*found))


@pytest.mark.parametrize("mode", ["materialize", "apply"])
def test_the_hessian_of_a_layer_that_is_used_twice(mode):
    layer, x = TNLinear(12, 12, dtn.LowRank(rank=3), mode=mode).double(), torch.randn(4, 12).double()

    def loss(core):
        y = functional_call(layer, {"cores.U": core}, (x,))
        return functional_call(layer, {"cores.U": core}, (torch.tanh(y),)).square().sum()

    core = layer.cores["U"].detach()
    assert torch.allclose(torch.autograd.functional.hessian(loss, core), torch.func.hessian(loss)(core))


def test_double_gradients_through_a_compiled_module():
    torch._dynamo.reset()
    model, x = TNLinear(24, 16, WALL), torch.randn(3, 24)
    found = []
    for call in (model, torch.compile(model, backend="eager")):
        slopes = torch.autograd.grad(call(x).square().sum(), list(model.parameters()), create_graph=True)
        penalty = torch.stack([slope.square().sum() for slope in slopes]).sum()
        found.append(torch.autograd.grad(penalty, list(model.cores.values())))
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in zip(*found))


def test_rows_of_padding_that_are_zero(tmp_path):
    index, made = torch.tensor([[3, 4], [0, 3]]), nn.Sequential(TNEmbedding(20, 8, WALL, padding_idx=3))
    save_model(made, tmp_path / "table.safetensors")
    dense = nn.Sequential(nn.Embedding.from_pretrained(torch.zeros(20, 8), padding_idx=3))
    found = load_model(dense, tmp_path / "table.safetensors")
    assert type(found[0]) is TNEmbedding
    assert torch.equal(found(index), made(index))
    assert not found(index)[0, 0].any()
    with FakeTensorMode():
        assert TorchModel(nn.Sequential(nn.Embedding(20, 8, padding_idx=3))).weights()[0].kind == "embedding"
