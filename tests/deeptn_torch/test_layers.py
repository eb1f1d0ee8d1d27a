from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from deeptn_torch import Fit, TNConv2d, TNConvTranspose2d, TNLinear, compress, load_model, save_model
from deeptn_torch.layers import cache
from torch import nn

import deeptn as dtn
from deeptn.network import decode

LINEAR = dtn.BrickWall(layers=2, activation=None)
TOPOLOGIES = [
    dtn.BrickWall(layers=2),
    LINEAR,
    dtn.Tree(),
    dtn.TensorTrain(),
    dtn.TTMatrix(),
    dtn.Tucker(),
    dtn.LowRank(),
]


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("mode", ["auto", "apply", "materialize"])
def test_linear_is_its_dense_twin(topology, mode):
    torch.manual_seed(0)
    layer = TNLinear(20, 12, topology, mode=mode)
    dense = layer.to_linear()
    for shape in ((20,), (3, 20), (2, 3, 20), (0, 20)):
        x = torch.randn(shape)
        assert torch.allclose(layer(x), dense(x), atol=1e-5)
        with torch.no_grad():
            assert torch.allclose(layer(x), dense(x), atol=1e-5)
    assert layer.weight.shape == (12, 20)


CONVS = [
    {"kernel_size": 3},
    {"kernel_size": (3, 2), "stride": 2, "padding": 1},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 3, "groups": 2, "bias": False},
    {"kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": "same", "padding_mode": "circular"},
    {"kernel_size": 1, "stride": (2, 1)},
]


@pytest.mark.parametrize("options", CONVS, ids=str)
@pytest.mark.parametrize("topology", [dtn.BrickWall(layers=2), dtn.TTMatrix(rank=3)], ids=lambda t: type(t).__name__)
def test_conv_is_its_dense_twin(options, topology):
    torch.manual_seed(0)
    dense = nn.Conv2d(4, 6, **options)
    layer = TNConv2d.from_conv(dense, topology, fit=None)
    again = layer.to_conv()
    x = torch.randn(2, 4, 9, 8)
    assert layer.weight.shape == dense.weight.shape
    assert torch.allclose(layer(x), again(x), atol=1e-5)
    with torch.no_grad():
        dense.weight.copy_(layer.weight)
    assert torch.allclose(layer(x), dense(x), atol=1e-5)


OTHERS = {
    "conv1d": (nn.Conv1d(4, 6, 3, padding="same", padding_mode="circular"), (2, 4, 9)),
    "conv1d-groups": (nn.Conv1d(4, 6, 3, stride=2, groups=2, bias=False), (2, 4, 9)),
    "conv3d": (nn.Conv3d(4, 6, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 1)), (2, 4, 3, 5, 6)),
    "transposed1d": (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (2, 4, 7)),
    "transposed2d": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2, dilation=2), (2, 4, 7, 6)),
    "transposed3d": (nn.ConvTranspose3d(4, 6, 2, bias=False), (2, 4, 3, 4, 5)),
}


@pytest.mark.parametrize("case", OTHERS.values(), ids=OTHERS)
def test_other_convolutions_are_their_dense_twins(case, tmp_path):
    dense, shape = copy.deepcopy(case[0]), case[1]
    x = torch.randn(shape)
    model = nn.Sequential(dense, nn.Flatten())
    small, report = compress(model, {"0": dtn.TTMatrix(rank=3)}, fit=None)
    layer: Any = small[0]
    assert type(layer).__name__ == f"TN{type(dense).__name__}"
    assert layer.weight.shape == dense.weight.shape
    assert report.layers[0].params_after == layer.network.num_params
    assert layer.bias is None or layer.bias.shape == (6,)
    again = layer.to_conv()
    assert type(again) is type(dense)
    assert torch.allclose(layer(x), again(x), atol=1e-5)
    with torch.no_grad():
        dense.weight.copy_(layer.weight)
    assert torch.allclose(layer(x), dense(x), atol=1e-5)
    assert str(layer.stride) in repr(layer)
    save_model(small, tmp_path / "small.safetensors")
    loaded = load_model(model, tmp_path / "small.safetensors")
    assert torch.equal(loaded(x), small(x))
    layer(x).sum().backward()
    assert all(core.grad is not None for core in layer.cores.values())


def test_transposed_convolutions_take_an_output_size():
    dense = nn.ConvTranspose2d(4, 6, 3, stride=2)
    layer = TNConvTranspose2d.from_conv(dense, dtn.LowRank(rank=2), fit=None)
    x = torch.randn(2, 4, 7, 7)
    assert layer(x, output_size=(16, 15)).shape == dense(x, output_size=(16, 15)).shape
    assert layer(x, output_size=(16, 15)).shape[2:] == (16, 15)
    with pytest.raises(ValueError, match="output size"):
        layer(x, output_size=(40, 15))


def test_from_linear_at_full_rank_is_exact():
    torch.manual_seed(0)
    dense = nn.Linear(20, 12, dtype=torch.float64)
    layer = TNLinear.from_linear(dense, dtn.TensorTrain(rank=10**6))
    x = torch.randn(3, 20, dtype=torch.float64)
    assert torch.allclose(layer(x), dense(x))
    assert layer.bias is not dense.bias
    assert next(iter(layer.cores.values())).dtype == torch.float64
    assert TNLinear.from_linear(nn.Linear(20, 12, bias=False), LINEAR, fit=None).bias is None
    assert TNConv2d.from_conv(nn.Conv2d(3, 4, 3), dtn.Tucker(rank=99)).weight.shape == (4, 3, 3, 3)


def test_training_mode_follows_the_dense_layer():
    assert not TNLinear.from_linear(nn.Linear(8, 6).eval(), LINEAR, fit=None).training
    assert not TNLinear(8, 6).eval().to_linear().training


def test_the_weight_of_a_new_layer_is_calibrated():
    torch.manual_seed(0)
    weight = TNLinear(400, 120).weight.detach()
    assert abs(float(weight.square().mean().sqrt()) / (2 / 400) ** 0.5 - 1) < 1e-3


def test_torchs_generator_draws_the_layer():
    layers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        layers.append(TNLinear(20, 12))
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert torch.equal(layers[0].bias, layers[1].bias)
    assert not torch.equal(layers[0].weight, layers[2].weight)


def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the decodes of all layers from now on; the count is the list's only entry."""
    calls = [0]

    def counting(*args):
        calls[0] += 1
        return decode(*args)

    monkeypatch.setattr(cache, "decode", counting)
    return calls


def test_cache_lives_only_while_gradients_are_off(monkeypatch):
    layer = TNLinear(20, 12).eval()
    calls = decodes(monkeypatch)
    x = torch.randn(3, 20)
    for _ in range(3):
        layer(x)
    assert calls == [3]
    with torch.no_grad():
        for _ in range(3):
            layer(x)
    assert calls == [4]
    assert layer(x).requires_grad
    assert calls == [5]


@pytest.mark.parametrize("mode", ["apply", "materialize"])
def test_autocast(mode):
    layer = TNLinear(20, 12, LINEAR, mode=mode)
    x = torch.randn(3, 20)
    expected = layer(x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert layer.weight.dtype == torch.float32
    with torch.no_grad():
        assert torch.allclose(layer(x), expected, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.sum().backward()
    assert torch.allclose(y.float(), expected, atol=0.1)
    assert torch.equal(layer.weight, layer.to_linear().weight)


def test_cache_under_inference_mode_and_afterwards():
    layer = TNLinear(20, 12)
    x = torch.randn(3, 20)
    with torch.inference_mode():
        inferred = layer(x)
    with torch.no_grad():
        assert torch.equal(layer(x), inferred)
    x.requires_grad_()
    layer.requires_grad_(False)
    layer(x).sum().backward()
    assert x.grad is not None


def test_frozen_cores_are_decoded_once_in_training(monkeypatch):
    layer = TNLinear(20, 12).requires_grad_(False)
    calls = decodes(monkeypatch)
    x = torch.randn(3, 20, requires_grad=True)
    for _ in range(3):
        layer(x).sum().backward()
    assert calls == [1]


def test_module_created_in_inference_mode():
    with torch.inference_mode():
        layer = TNLinear(20, 12)
        assert layer(torch.randn(3, 20)).shape == (3, 12)
        assert layer._kept is None


def test_functional_transforms_and_meta_device():
    layer = TNLinear(20, 12)
    cores = {name: torch.stack([p, 2 * p]) for name, p in layer.named_parameters()}
    x = torch.randn(3, 20)
    with torch.no_grad():
        y = torch.func.vmap(lambda p: torch.func.functional_call(layer, p, (x,)))(cores)
        assert y.shape == (2, 3, 12)
        assert torch.allclose(y[0], layer(x), atol=1e-6)
    assert TNLinear(20, 12, device="meta").cores["L1_g0"].is_meta


def test_state_dict_names_and_pickle():
    layer = TNLinear(20, 12, dtn.BrickWall(layers=1))
    with torch.no_grad():
        layer(torch.randn(1, 20))
    assert set(layer.state_dict()) == {"bias"} | {f"cores.{name}" for name in layer.network.spec.param_shapes}
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    assert again._kept is None
    assert torch.equal(again.weight, layer.weight)


def test_the_bias_is_drawn_as_in_pytorch():
    torch.manual_seed(0)
    for made, dense in (
        (TNLinear(50, 2000), nn.Linear(50, 2000)),
        (TNConv2d(4, 2000, 3, "Tucker"), nn.Conv2d(4, 2000, 3)),
    ):
        assert made.bias is not None
        assert dense.bias is not None
        for measure in (torch.std, torch.amax):
            assert torch.isclose(measure(made.bias), measure(dense.bias), rtol=0.05)


def test_repr():
    text = repr(nn.Sequential(TNLinear(20, 12, dtn.BrickWall(layers=3)), TNConv2d(4, 6, 3)))
    assert "in_features=20, out_features=12, bias=True, topology=BrickWall(layers=3), num_params=" in text
    assert "kernel_size=(3, 3)" in text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    layer = TNLinear(20, 12, dtype=dtype)
    y = layer(torch.ones(2, 20, dtype=dtype))
    y.sum().backward()
    assert y.dtype == dtype
    assert all(p.grad is not None and p.grad.dtype == dtype for p in layer.parameters())


def test_gradients_reach_every_core():
    for topology in TOPOLOGIES:
        layer = TNLinear(20, 12, topology)
        F.mse_loss(layer(torch.randn(5, 20)), torch.randn(5, 12)).backward()
        assert all(p.grad is not None for p in layer.parameters()), topology


def test_a_layer_learns():
    torch.manual_seed(0)
    layer = TNLinear(16, 8, dtn.BrickWall(layers=3))
    goal = nn.Linear(16, 8)
    x = torch.randn(256, 16)
    y = goal(x).detach()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.mse_loss(layer(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_fit_options_reach_from_linear():
    dense = nn.Linear(8, 6)
    torch.manual_seed(0)
    random = TNLinear.from_linear(dense, dtn.BrickWall(layers=2), fit=None)
    fitted = TNLinear.from_linear(dense, dtn.BrickWall(layers=2), fit=Fit(steps=200))
    error = lambda layer: float(((layer.weight - dense.weight).norm() / dense.weight.norm()).detach())
    assert error(fitted) < error(random)
    rms = lambda w: float(w.detach().square().mean().sqrt())
    assert abs(rms(random.weight) / rms(dense.weight) - 1) < 1e-3


@pytest.mark.parametrize("mode", ["auto", "materialize"])
@pytest.mark.parametrize("family", [dtn.BrickWall(layers=2), dtn.LowRank(rank=2)], ids=["relu", "lowrank"])
def test_a_fused_optimizer_makes_no_weight_stale(family, mode):
    """The steps of a fused optimizer do not count as writes."""
    layer = TNLinear(16, 16, family, mode=mode)
    optimizer = torch.optim.Adam(layer.parameters(), 0.1, fused=True)
    x = torch.randn(4, 16)
    for _ in range(2):
        with torch.no_grad():
            layer(x)
        layer(x).square().sum().backward()
        with torch.no_grad():
            layer(x)
        optimizer.step()
        with torch.no_grad():
            found = layer(x)
        layer.unfreeze()
        with torch.no_grad():
            assert torch.allclose(found, layer(x), atol=1e-6)
        optimizer.zero_grad()
