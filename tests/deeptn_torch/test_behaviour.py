"""Check that generated layers behave like the layers they replace, whatever is done to the module."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deeptn_torch import (
    TNConv2d,
    TNLinear,
    TNWeight,
    compress,
    export_onnx,
    fold_,
    load_model,
    parametrize_,
    save_model,
)
from safetensors.torch import load_file
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import deeptn as dtn

from ..models.matrix import LAYERS, torch_layer

DATA = Path(__file__).parents[1] / "data"
layers = pytest.mark.parametrize("layer", LAYERS)
families = pytest.mark.parametrize("family", [dtn.BrickWall(layers=2), dtn.TTMatrix(rank=2)], ids=["relu", "train"])


@layers
@families
def test_copies_and_pickles(layer, family):
    module, inputs = torch_layer(layer, family, "float32")
    x = inputs(3)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))
        assert repr(twin) == repr(module)
        with torch.no_grad():
            next(twin.cores.parameters()).add_(1.0)
        assert not torch.equal(twin(x), module(x))
    other = torch_layer(layer, family, "float32")[0]
    other.reset_parameters()  # type: ignore[operator]
    assert not torch.equal(other(x), module(x))
    other.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(other(x), module(x))
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({}, strict=True)


@layers
@families
def test_devices_and_dtypes(layer, family):
    module: Any = torch_layer(layer, family, "float32")[0]
    module.to(torch.float64)
    assert module.weight.dtype == torch.float64
    meta = copy.deepcopy(module).to("meta")
    assert meta.weight.device.type == "meta"
    assert meta.weight.shape == module.weight.shape
    with torch.device("meta"):
        born = type(module)(*torch_layer_arguments(layer), family)
    assert all(p.is_meta for p in born.parameters())
    born = born.to_empty(device="cpu")
    born.reset_parameters()
    assert torch.isfinite(born.weight).all()


def torch_layer_arguments(layer):
    return {"linear": (20, 12), "embedding": (20, 12)}.get(layer, (4, 6, 3))


@layers
@families
def test_autocast_and_checkpointing(layer, family):
    module, inputs = torch_layer(layer, family, "float32")
    x = inputs(3)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert y.dtype == (torch.float32 if layer == "embedding" else torch.bfloat16)
    y.float().sum().backward()
    assert all(core.grad.dtype == torch.float32 for core in module.cores.parameters())
    module.zero_grad()
    plain = torch.autograd.grad(module(x).square().sum(), list(module.cores.parameters()))
    again = checkpoint(module, x, use_reentrant=False).square().sum()
    assert all(torch.allclose(a, b) for a, b in zip(torch.autograd.grad(again, list(module.cores.parameters())), plain))


@layers
@families
@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated")  # from torch itself, inside jvp
def test_torch_func_and_forward_mode(layer, family):
    module, inputs = torch_layer(layer, family, "float64")
    x = inputs(3)
    params = dict(module.named_parameters())

    def loss(params):
        return torch.func.functional_call(module, params, (x,)).square().sum()

    gradient = torch.func.grad(loss)(params)
    loss(params).backward()
    found = {name: p.grad for name, p in module.named_parameters()}
    assert all(torch.allclose(gradient[name], found[name]) for name in params)
    tangents = {name: torch.randn_like(p) for name, p in params.items()}
    slope: Any = torch.func.jvp(loss, (params,), (tangents,))[1]
    along = torch.stack([(gradient[name] * tangents[name]).sum() for name in params]).sum()
    assert torch.allclose(slope, along)
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(p.detach(), tangents[name]) for name, p in params.items()}
        tangent = forward_ad.unpack_dual(loss(duals)).tangent
    assert tangent is not None
    assert torch.allclose(tangent, slope)
    many = {name: torch.stack([p.detach(), 2 * p.detach()]) for name, p in params.items()}
    both = torch.func.vmap(loss)(many)
    assert torch.allclose(both[0], loss(params))


def test_channels_last():
    module: Any = TNConv2d(4, 6, 3, dtn.BrickWall(layers=2))
    x = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    assert module(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(module(x), module(x.contiguous()), atol=1e-6)


@families
def test_freezing_stages(family):
    layer = TNLinear(20, 12, family)
    stages = len(layer.network.spec.stages)
    assert layer.requires_grad_(False, stages=[-1]) is layer
    last = {node.param for node in layer.network.spec.stages[-1].nodes}
    assert {name for name, core in layer.cores.items() if not core.requires_grad} == last
    assert layer.bias is not None
    assert layer.bias.requires_grad
    for wrong in (stages, "x", 0.5):
        with pytest.raises(dtn.SpecError, match=f"stage {wrong!r} does not exist; number of stages: {stages}"):
            layer.requires_grad_(False, stages=[0, wrong])  # type: ignore[list-item]
    assert next(iter(layer.cores.values())).requires_grad or stages == 1
    layer.requires_grad_(False)
    assert not any(p.requires_grad for p in layer.parameters())


# --- files of the first version ---------------------------------------------------------------------------------------


class First(nn.Module):
    def __init__(self, conv, fc):
        super().__init__()
        self.conv, self.fc = conv, fc

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean(1).reshape(len(x), -1))


def test_a_state_dict_of_the_first_version():
    stored = load_file(DATA / "state-1.safetensors")
    x, y = stored.pop("x"), stored.pop("y")
    model = First(TNConv2d(2, 4, 3, dtn.BrickWall(layers=1)), TNLinear(36, 5, dtn.TensorTrain(rank=2)))
    model.load_state_dict(stored, strict=True)
    assert torch.allclose(model(x), y, atol=1e-5)
    read = load_model(First(nn.Conv2d(2, 4, 3), nn.Linear(36, 5)), DATA / "model-1.safetensors")
    assert torch.allclose(read(x), y, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64"])
def test_files_of_the_first_version(dtype):
    wanted = np.load(DATA / f"network-1-{dtype}.npy")
    net, params = dtn.load(DATA / f"network-1-{dtype}.safetensors")
    assert np.allclose(net.materialize(params), wanted, atol=1e-5)
    assert str(next(iter(dtn.load(DATA / f"network-1-{dtype}.safetensors", like="torch")[1].values())).dtype) == (
        f"torch.{dtype}"
    )


# --- weights inside other modules -------------------------------------------------------------------------------------


class Sequence(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.rnn = kind(8, 16, 2, batch_first=True)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        h = self.rnn(self.embed(x))[0]
        return self.head(self.attention(h, h, h)[0])


TARGETS = {"rnn.weight_*": dtn.LowRank(rank=16), "attention.in_proj_weight": dtn.LowRank(rank=16), "head": "LowRank"}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_and_attention_weights_are_compressed(kind, tmp_path):
    torch.manual_seed(0)
    model, x = Sequence(kind), torch.randint(0, 20, (2, 5))
    small, report = compress(model, TARGETS)
    assert [row.name for row in report.layers if row.name.startswith("att")] == ["attention.in_proj_weight"]
    assert len(report.layers) == 6
    assert torch.allclose(small(x), model(x), atol=1e-5)  # the ranks are full
    small(x).sum().backward()
    assert all(p.grad is not None for n, p in small.named_parameters() if ".cores." in n)
    save_model(small, tmp_path / "m")
    assert "rnn.weight_hh_l0" in dtn.load_model(tmp_path / "m").layers
    read = load_model(model, tmp_path / "m")
    assert torch.equal(read(x), small(x))
    twin = copy.deepcopy(small)  # after a forward pass with gradients
    before = small(x)
    assert sorted(fold_(twin)) == sorted(row.name for row in report.layers)
    assert type(twin.rnn) is kind
    assert torch.equal(twin(x), before)
    assert torch.equal(small(x), before)  # it shared a class with its copy
    more, _ = compress(small, {"embed": "LowRank"})
    assert torch.isfinite(more(x)).all()
    small.eval()
    with torch.no_grad():
        assert torch.allclose(small(x), before, atol=1e-6)


def test_a_recurrent_weight_is_decoded_once(monkeypatch):
    model = nn.LSTM(8, 16)
    weight = parametrize_(model, "weight_hh_l0", dtn.BrickWall(layers=2), fit=None)
    calls = []
    decode = weight._decoded
    monkeypatch.setattr(weight, "_decoded", lambda cores: calls.append(1) or decode(cores))
    model(torch.ones(3, 8))
    assert len(calls) == 1
    with pytest.raises(RuntimeError):
        model(torch.ones(3, 9))
    model(torch.ones(3, 8))
    assert len(calls) >= 2


def test_a_class_that_was_changed_later():
    """Wrappers such as fully_shard derive a class of their own; our methods must not call themselves."""
    model = nn.LSTM(8, 16)
    parametrize_(model, "weight_hh_l0", dtn.BrickWall(layers=2), fit=None)
    model.__class__ = type("Later", (type(model),), {})
    parametrize_(model, "weight_ih_l0", dtn.BrickWall(layers=2), fit=None)
    assert model(torch.ones(3, 8))[0].shape == (3, 16)
    model.reset_parameters()
    assert model.double()(torch.ones(3, 8).double())[0].dtype == torch.float64


def test_a_generated_weight_inside_a_module():
    torch.manual_seed(0)
    module = nn.Bilinear(4, 6, 5)
    before = module.weight.detach().clone()
    weight = parametrize_(module, "weight", dtn.Tucker(rank=6))
    assert isinstance(weight, TNWeight)
    assert torch.allclose(module.weight, before, atol=1e-5)
    module.weight = 2 * before  # an assignment fits the cores
    assert torch.allclose(module.weight, 2 * before, atol=1e-5)
    with pytest.raises(dtn.SpecError, match="already parametrized"):
        parametrize_(module, "weight", "LowRank")
    with pytest.raises(dtn.SpecError, match="has no weight 'bias'"):
        parametrize_(module, "bias", "LowRank")
    with pytest.raises(dtn.SpecError, match="the network generates"):
        weight.right_inverse(torch.ones(3))
    assert parametrize.is_parametrized(module, "weight")


def test_transformer_encoder_layers():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    full = dtn.LowRank(rank=16)
    small, _ = compress(model, {"linear*": full, "self_attn.*": full})
    x = torch.randn(2, 5, 16)
    assert torch.allclose(small(x), model(x), atol=1e-4)
    small.eval()
    with torch.no_grad():
        assert torch.allclose(small(x), model.eval()(x), atol=1e-4)


# --- ONNX -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_files_are_small_or_plain(tmp_path):
    import onnxruntime

    model = nn.Sequential(TNLinear(784, 1024, dtn.BrickWall(layers=2)), nn.ReLU())
    x = torch.randn(5, 784)
    rows = torch.export.Dim("rows", min=2)
    wanted = model(x).detach().numpy()
    sizes = {}
    for fold in (False, True):
        path = tmp_path / f"{fold}.onnx"
        export_onnx(model, (torch.ones(3, 784),), path, fold=fold, dynamic_shapes=({0: rows},))
        session = onnxruntime.InferenceSession(path)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        # The root mean square of a million entries is a sum in single precision, in another order.
        assert np.allclose(np.asarray(found), wanted, rtol=1e-4, atol=1e-4)
        sizes[fold] = path.stat().st_size
    assert sizes[True] > 4 * 784 * 1024
    assert sizes[False] < sizes[True] / 40
    assert isinstance(model[0], TNLinear)
    with pytest.raises(dtn.PlanError, match="no generated layer"):
        export_onnx(nn.Linear(3, 3), (torch.ones(1, 3),), tmp_path / "no.onnx")
    export_onnx(model[0].eval(), (torch.ones(3, 784),), tmp_path / "one.onnx", fold=True)
