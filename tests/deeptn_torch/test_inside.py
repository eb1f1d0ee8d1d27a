"""Weights that networks generate inside modules: files, parametrizations on top, embeddings, threads."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from deeptn_torch import TNLinear, compress, fold_, load_model, parametrize_, save_model
from deeptn_torch.layers.inside import generated_inside
from deeptn_torch.view import TorchModel
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel

import deeptn as dtn
from deeptn import models

RANK = dtn.LowRank(rank=3)


class Transposed(nn.Module):
    """``y = x @ weight + bias``, as in models of Hugging Face; the weight is (inputs, outputs)."""

    def __init__(self, outputs: int, inputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


class Conv1D(Transposed):
    pass


Conv1D.__module__ = "transformers.pytorch_utils"


@pytest.mark.parametrize(
    "make",
    [lambda: Transposed(12, 10), lambda: nn.Linear(10, 12), lambda: nn.Bilinear(10, 10, 12), lambda: nn.GRU(10, 12)],
    ids=["own", "linear", "bilinear", "gru"],
)
def test_files_of_weights_inside_any_module(make, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(make())
    name = next(key for key, _ in model[0].named_parameters() if key.startswith("weight"))
    parametrize_(model[0], name, RANK, fit=None)
    save_model(model, tmp_path / "model.safetensors")
    dense = nn.Sequential(make())
    read = load_model(dense, tmp_path / "model.safetensors")
    assert "Parametrized" in type(read[0]).__name__ or type(read[0]) is TNLinear
    assert type(dense[0]) is type(make())
    x = [torch.randn(2, 5, 10)] * (2 if isinstance(dense[0], nn.Bilinear) else 1)
    assert str(read[0](*x)) == str(model[0](*x))
    assert fold_(read)
    assert torch.allclose(getattr(read[0], name), getattr(model[0], name))


def test_files_that_do_not_fit_weights_inside(tmp_path):
    model = nn.Sequential(Transposed(12, 10))
    parametrize_(model[0], "weight", RANK, fit=None)
    save_model(model, tmp_path / "model.safetensors")
    for other, came in ((Transposed(12, 9), "a 'weight' layer of shape"), (nn.ReLU(), "none there")):
        with pytest.raises(dtn.FormatError, match=rf"layer '0.weight' of shape \(10, 12\); the model has {came}"):
            load_model(nn.Sequential(other), tmp_path / "model.safetensors")


def test_transposed_weights_of_hugging_face(tmp_path):
    model: Any = nn.Sequential(Conv1D(12, 10))
    small, report = compress(model, {"*": dtn.LowRank(rank=10)})
    x = torch.randn(3, 10)
    assert report.layers[0].shape == (12, 10)
    assert torch.allclose(small(x), model(x), atol=1e-5)
    save_model(small, tmp_path / "model.safetensors")
    assert torch.equal(load_model(model, tmp_path / "model.safetensors")(x), small(x))
    fold_(small)
    assert type(small[0]) is Conv1D
    assert torch.allclose(small[0].weight, model[0].weight, atol=1e-5)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_embeddings(mode):
    bag = nn.EmbeddingBag(30, 8, mode=mode, padding_idx=2, include_last_offset=True)
    small, _ = compress(nn.Sequential(bag), {"*": dtn.LowRank(rank=8)})
    indices, offsets = torch.randint(30, (20,)), torch.tensor([0, 4, 4, 20])
    assert torch.allclose(small[0](indices, offsets), bag(indices, offsets), atol=1e-5)
    small[0](indices, offsets).sum().backward()
    assert all(param.grad is not None for param in small.parameters())


@pytest.mark.parametrize("cls", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"sparse": True}], ids=str)
def test_embeddings_that_need_their_rows(cls, option):
    with pytest.raises(dtn.SpecError, match=f"uses {min(option)}, for which its rows have to be parameters"):
        parametrize_(cls(20, 8, **option), "weight", RANK)
    with pytest.raises(dtn.DeepTNError, match=min(option)):
        compress(nn.Sequential(cls(20, 8, **option)), {"*": RANK})


def test_a_norm_on_top_of_a_generated_weight(tmp_path):
    def make() -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, 12))
        parametrize_(model[0], "weight", RANK, fit=None)
        parametrizations.spectral_norm(model[0])
        return model.eval()

    model, other = make(), make()
    assert float(torch.linalg.matrix_norm(model[0].weight.detach(), 2)) == pytest.approx(1, abs=0.2)
    with pytest.raises(dtn.PlanError, match="has a _SpectralNorm on top, which would be lost; remove it first"):
        fold_(model)
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(1.5)
    save_model(model, tmp_path / "model.safetensors")
    models.load_model(TorchModel(other), tmp_path / "model.safetensors")
    assert torch.equal(other[0].weight, model[0].weight)
    with pytest.raises(dtn.FormatError, match="surplus"):
        load_model(nn.Sequential(nn.Linear(10, 12)), tmp_path / "model.safetensors")


def test_what_cannot_be_put_on_top():
    layer = nn.LSTM(10, 12)
    parametrize_(layer, "weight_hh_l0", RANK, fit=None)
    for norm in (parametrizations.weight_norm, parametrizations.orthogonal):
        with pytest.raises(dtn.SpecError, match=r"cannot follow the network that generates the weight .*call fold_"):
            norm(layer, "weight_hh_l0")
    for module, name in ((layer, "weight_hh_l0"), (TNLinear(10, 12), "weight")):
        with pytest.raises(dtn.SpecError, match=f"'{name}' is generated, so its entries cannot be pruned"):
            prune.random_unstructured(module, name, 0.5)
    layer(torch.ones(2, 3, 10))
    parametrize.remove_parametrizations(layer, "weight_hh_l0")
    assert isinstance(layer.weight_hh_l0, nn.Parameter)
    assert layer.weight_hh_l0.requires_grad


def test_parametrized_biases_are_kept_in_files(tmp_path):
    def make() -> Any:
        model = nn.Sequential(TNLinear(10, 12, RANK))
        parametrize.register_parametrization(model[0], "bias", nn.Softplus())
        return model

    model, other = make(), make()
    save_model(model, tmp_path / "model.safetensors")
    models.load_model(TorchModel(other), tmp_path / "model.safetensors")
    x = torch.randn(3, 10)
    assert torch.equal(other(x), model(x))
    with pytest.raises(dtn.PlanError, match="has 'parametrizations' besides cores and bias, which would be lost"):
        fold_(model)


def test_prefixes_of_wrappers(tmp_path):
    model, path = nn.Sequential(TNLinear(10, 12, RANK)), tmp_path / "model.safetensors"
    compiled: Any = torch.compile(model, backend="eager")
    save_model(compiled, path)
    x = torch.randn(3, 10)
    read = load_model(nn.Sequential(nn.Linear(10, 12)), path, names={"_orig_mod": ""})
    assert torch.equal(read(x), model(x))
    save_model(AveragedModel(model), path)
    assert torch.equal(load_model(nn.Sequential(nn.Linear(10, 12)), path, names={"module": ""})(x), model(x))
    save_model(model, path)
    wrapped: Any = load_model(nn.DataParallel(nn.Sequential(nn.Linear(10, 12))), path, names={"": "module"})
    assert torch.equal(wrapped.module(x), model(x))


def test_copies_of_parametrized_modules_are_independent():
    layer = nn.GRU(10, 12)
    parametrize_(layer, "weight_hh_l0", RANK, fit=None)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    x = torch.randn(2, 3, 10)
    y = layer(x)[0]
    assert torch.equal(copy.copy(layer)(x)[0], y)
    copies += [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    parametrize.register_parametrization(layer, "bias_hh_l0", nn.Softplus())
    for other in copies:
        assert torch.equal(other(x)[0], y)
        assert generated_inside(other) == ["weight_hh_l0"]
        fold_(nn.Sequential(other))
        assert type(other) is nn.GRU
    assert not torch.equal(layer(x)[0], y)


def test_threads_do_not_share_decoded_weights():
    """A thread within the call of a recurrent module must not keep the weights of another thread."""
    outer, inner = nn.LSTM(10, 12), nn.LSTM(10, 12)
    for layer in (outer, inner):
        parametrize_(layer, "weight_hh_l0", RANK, fit=None)
    x = torch.randn(2, 3, 10)
    found: list[torch.Tensor] = []

    def other() -> None:
        for _ in range(2):
            found.append(inner(x)[0])
            with torch.no_grad():
                for param in inner.parameters():
                    param.add_(1.0)

    def hook(*args: Any) -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    outer.parametrizations["weight_hh_l0"][0].register_forward_hook(hook)  # type: ignore[operator]
    outer(x)
    assert len(found) >= 2
    assert not torch.allclose(found[0], found[1])


def test_moves_and_resets_decode_nothing(monkeypatch):
    layer = nn.LSTM(10, 12)
    made = parametrize_(layer, "weight_hh_l0", RANK, fit=None)
    monkeypatch.setattr(type(made), "weight", property(lambda self: pytest.fail("decoded")))
    layer.double().reset_parameters()
    attention = nn.MultiheadAttention(8, 2)
    made = parametrize_(attention, "in_proj_weight", RANK, fit=None)
    before = next(made.cores.parameters()).clone()
    attention._reset_parameters()
    assert not torch.equal(next(made.cores.parameters()), before)
    monkeypatch.undo()
    assert float(attention.in_proj_weight.detach().std()) == pytest.approx((2 / 32) ** 0.5, rel=0.05)
