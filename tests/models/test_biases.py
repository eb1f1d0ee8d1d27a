"""Test that biases make up for the error at the mean of the inputs, where nothing else depends on them."""

from __future__ import annotations

import copy
from typing import Any

import deeptn_torch
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx
from flax import nnx
from torch import nn

import deeptn as dtn
from deeptn.models import Workers

RULES = {"*": dtn.LowRank(rank=2)}


class Layers(nnx.Module):
    def __init__(self, layer: Any):
        self.layer = layer

    def __call__(self, x: Any) -> Any:
        return self.layer(x)


def far_from_zero() -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 8, bias=False))
    return model, 5 + torch.randn(200, 24)


@pytest.mark.parametrize("workers", [None, 1])
def test_biases_make_up_for_the_mean_of_the_inputs(workers):
    model, x = far_from_zero()
    calibration = deeptn_torch.calibrate(model, x)
    assert list(calibration.centers) == ["0"]
    small, report = deeptn_torch.compress(model, {"*": dtn.LowRank(rank=2)}, workers=workers, calibration=calibration)
    expected = model[0].bias + (model[0].weight - small[0].weight) @ x.mean(0)
    assert torch.allclose(small[0].bias, expected, atol=1e-4)
    with torch.no_grad():
        inner, goal = small[0](x), model[0](x)
    assert torch.allclose(inner.mean(0), goal.mean(0), atol=1e-4)
    # The best two directions of what varies, and no other.
    variation = (goal - goal.mean(0)).double()
    values = torch.linalg.svdvals(variation)
    assert float((inner - goal).norm()) == pytest.approx(float(values[2:].norm()), rel=1e-3)
    assert report.layers[0].output_error == pytest.approx(float(values[2:].norm() / values.norm()), rel=1e-3)


@pytest.mark.slow
def test_biases_in_other_frameworks_and_dtypes():
    model, x = far_from_zero()
    half = copy.deepcopy(model).bfloat16()
    rules = {"*": dtn.LowRank(rank=2)}
    small, _ = deeptn_torch.compress(half, rules, calibration=deeptn_torch.calibrate(half, x.bfloat16()))
    assert small[0].bias.dtype == torch.bfloat16
    with torch.no_grad():
        gap = small[0](x.bfloat16()).mean(0) - half[0](x.bfloat16()).mean(0)
    assert float(gap.abs().max()) < 0.1
    inputs = jnp.asarray(x.numpy())
    mlp = eqx.nn.MLP(24, 4, 6, 1, key=jax.random.key(0))
    found, _ = tne.compress(mlp, rules, calibration=tne.calibrate(mlp, [inputs]))
    means = [jax.vmap(one.layers[0])(inputs).mean(0) for one in (mlp, found)]
    assert np.allclose(*means, atol=1e-4)
    convolution = eqx.nn.Conv1d(3, 5, 2, key=jax.random.key(0))
    images = inputs.reshape(200, 3, 8)
    found, _ = tne.compress(
        [convolution],
        {"*": dtn.LowRank(rank=1)},
        calibration=tne.calibrate([convolution], lambda called: jax.vmap(called[0])(images)),
    )
    means = [jax.vmap(one)(images).mean((0, 2)) for one in (convolution, found[0])]
    assert np.allclose(*means, atol=1e-4)
    net = Layers(nnx.LinearGeneral((3, 8), (2, 4), axis=(-2, -1), rngs=nnx.Rngs(0)))
    small, _ = tnx.compress(net, rules, calibration=tnx.calibrate(net, [images]))
    assert np.allclose(small(images).mean(0), net(images).mean(0), atol=1e-4)


class Gated(nn.Linear):
    """Does not add its bias."""

    def forward(self, input: Any) -> Any:
        return nn.functional.linear(input, self.weight) * self.bias


def test_biases_that_stay():
    x = 5 + torch.randn(50, 24)
    deeptn_torch.register_layer(Gated, "linear")
    model = nn.Sequential(Gated(24, 16))
    same = nn.Sequential(nn.Linear(24, 16))
    for one, data in ((model, x), (same, x[:1]), (same, torch.ones(7, 24) / 3), (same, torch.zeros(7, 24))):
        calibration = deeptn_torch.calibrate(one, data)
        assert not calibration.centers
        small, _ = deeptn_torch.compress(one, {"*": dtn.LowRank(rank=2)}, calibration=calibration)
        assert torch.equal(small[0].bias, one[0].bias)  # type: ignore[arg-type]


class Conv1D(nn.Module):
    """That of Hugging Face, which need not be installed."""

    def __init__(self, outputs: int, inputs: int):
        super().__init__()
        self.nf = outputs
        self.weight, self.bias = nn.Parameter(0.1 * torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Any) -> Any:
        return torch.addmm(self.bias, x, self.weight)


Conv1D.__module__ = "transformers.pytorch_utils"


def test_conv1d_of_hugging_face():
    torch.manual_seed(0)
    x = 5 + torch.randn(50, 24)
    model: Any = nn.Sequential(Conv1D(16, 24), nn.LayerNorm(16))
    small, _ = deeptn_torch.compress(model, {"0": RULES["*"]}, calibration=deeptn_torch.calibrate(model, x))
    assert torch.allclose(small[0](x).mean(0), model[0](x).mean(0), atol=1e-3)
    model[1].bias = model[0].bias
    calibration = deeptn_torch.calibrate(model, x)
    assert not calibration.centers
    small, _ = deeptn_torch.compress(model, {"0": RULES["*"]}, calibration=calibration)
    assert torch.equal(small[1].bias, model[1].bias)


def test_a_bias_under_shared_of_equinox():
    keys = jax.random.split(jax.random.key(0))

    class Tied(eqx.Module):
        shared: eqx.nn.Shared

        def __init__(self):
            layers = [eqx.nn.Linear(24, 24, key=key) for key in keys]
            self.shared = eqx.nn.Shared(layers, lambda pair: pair[1].bias, lambda pair: pair[0].bias)

        def __call__(self, x: Any) -> Any:
            first, second = self.shared()
            return second(jax.nn.relu(first(x)))

    model, x = Tied(), 5 + jax.random.normal(keys[0], (50, 24))
    calibration = tne.calibrate(model, lambda called: jax.vmap(called)(x))
    assert calibration.inputs
    assert not calibration.centers
    small, _ = tne.compress(model, {"shared.pytree.0": RULES["*"]}, calibration=calibration)
    assert np.array_equal(small.shared()[1].bias, model.shared()[1].bias)


@pytest.mark.slow
def test_groups_differ_in_their_means():
    x = torch.randn(20, 4, 6, 6) + torch.tensor([5.0, 5, -5, -5])[:, None, None]
    layer = nn.Conv2d(4, 6, 3, groups=2)
    calibration = deeptn_torch.calibrate(nn.Sequential(layer), [x])
    assert not calibration.centers
    made = eqx.nn.Conv2d(4, 6, 3, groups=2, key=jax.random.key(0))
    assert not tne.calibrate([made], lambda called: jax.vmap(called[0])(jnp.asarray(x.numpy()))).centers
    rngs = nnx.Rngs(0)
    other = nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=rngs)
    masked = nnx.Conv(4, 6, (3, 3), mask=jnp.ones((3, 3, 4, 6)).at[0].set(0.0), rngs=rngs)
    for one in (other, masked):
        assert not tnx.calibrate(Layers(one), [jnp.asarray(x.numpy()).transpose(0, 2, 3, 1)]).centers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_biases_from_a_folder(dtype, tmp_path):
    model, x = far_from_zero()
    model, x = model.to(dtype), x.to(dtype)
    calibration = deeptn_torch.calibrate(model, x)
    workers = Workers(processes=1, folder=tmp_path)
    first, again = (deeptn_torch.compress(model, RULES, workers=workers, calibration=calibration)[0] for _ in range(2))
    for name, tensor in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
