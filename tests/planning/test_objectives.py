"""Test what plans limit, and what they count."""

from __future__ import annotations

import copy

import equinox as eqx
import jax
import numpy as np
import pytest
import torch
from deeptn_jax.equinox.view import EquinoxModel
from deeptn_jax.nnx.view import NNXModel
from deeptn_torch import compress, save_model
from deeptn_torch.view import TorchModel
from flax import nnx
from torch import nn

import deeptn as dtn
from deeptn import models
from deeptn.files import StoredModel
from deeptn.planning import plan

from .test_plans import tensors


@pytest.mark.slow
@pytest.mark.parametrize("share", ["70%", "45%", "30%"])
def test_a_limit_in_bytes_is_kept_by_the_file(tmp_path, share):
    dense = tmp_path / "dense.safetensors"
    dtn.files.save_checkpoint(StoredModel({}, tensors()), dense)
    found = plan(dense, {"bytes": share})
    view = models.StoredView(dtn.files.load_checkpoint(dense))
    models.compress(view, found)
    models.save_model(view, tmp_path / "small.safetensors")
    whole = models.size_of(models.StoredView(dtn.files.load_checkpoint(dense)), {})
    assert abs(whole - dense.stat().st_size) < 200  # another header
    small, limit = (tmp_path / "small.safetensors").stat().st_size, int(whole * float(share[:-1]) / 100)
    assert 0.9 * limit < small <= limit
    again = plan(dense, {"bytes": limit})
    assert again.layers == found.layers


@pytest.mark.slow
def test_a_limit_in_bytes_of_a_model(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32)).half()
    found = plan(model, {"bytes": 5000})
    save_model(compress(model, found)[0], tmp_path / "small.safetensors")
    assert 4500 < (tmp_path / "small.safetensors").stat().st_size <= 5000


@pytest.mark.slow
def test_a_limit_of_operations():
    source = StoredModel({}, tensors())
    found = plan(source, {"flops": "40%"})
    dense = 2 * sum(array.size for name, array in tensors().items() if name.endswith("weight") and array.ndim == 2)
    spent = 0
    for layer in found.layers.values():
        if layer.network is None:
            spent += 2 * layer.params
        else:
            spent += min(2 * layer.network.size, layer.network.cost("apply", 1).flops)
    assert 0.3 * dense < spent <= 0.4 * dense
    both = plan(source, {"flops": "40%", "params": "25%"})
    assert both.params_after <= 0.25 * both.params_before
    assert sum(layer.error**2 for layer in both.layers.values()) >= sum(
        layer.error**2 for layer in found.layers.values()
    )


@pytest.mark.slow
def test_overrides():
    source = StoredModel({}, tensors())
    overrides = {
        "fc*": {"topologies": ["LowRank"]},
        "fc1": {"topologies": [dtn.TensorTrain()], "importance": 100.0},
        "head": {"max_error": 0.01},
    }
    found, free = plan(source, {"params": "40%"}, overrides=overrides), plan(source, {"params": "40%"})
    kinds = {name: layer.network and type(layer.network.topology).__name__ for name, layer in found.layers.items()}
    assert kinds["fc1"] in ("TensorTrain", None)
    assert kinds["fc2"] in ("LowRank", None)
    assert kinds["head"] is None
    assert found.layers["head"].why == "every network has an error above 0.01"
    assert found.layers["fc1"].error < free.layers["fc1"].error


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"fx": {}}, "overrides: 'fx' matches none"),
        ({"fc1": 3}, "overrides: 'fc1' has 3; expected settings"),
        ({"fc1": {"eror": 1}}, r"overrides: 'fc1' has the key 'eror'; expected one of"),
        ({"fc1": {"max_error": -1}}, "overrides: 'fc1': 'max_error' is -1; expected a positive number"),
        ({"fc1": {"topologies": "LowRank"}}, "overrides: 'fc1': 'topologies' is 'LowRank'; expected a list"),
        ([], r"overrides must map patterns to settings"),
        (["fc1"], r"overrides must map patterns to settings"),
    ],
)
def test_wrong_overrides(overrides, message):
    with pytest.raises(dtn.PlanError, match=message):
        plan(StoredModel({}, tensors()), {"params": "40%"}, overrides=overrides)


class Net(nn.Module):
    """The outputs hardly depend on the branch `off`."""

    def __init__(self):
        super().__init__()
        self.on, self.off, self.drop = nn.Linear(32, 32), nn.Linear(32, 32), nn.Dropout()

    def forward(self, x, scale=1.0):
        return {"y": self.drop(self.on(x)) * scale + 1e-3 * self.off(x), "index": torch.arange(3)}


@pytest.mark.slow
def test_weights_count_by_what_they_change():
    torch.manual_seed(0)
    model, x = Net(), torch.randn(100, 32)
    model.drop.train()
    before = copy.deepcopy(model.state_dict())
    found = plan(model, {"params": "60%"}, objective="outputs", inputs=x)
    assert found.layers["on"].params > 2 * found.layers["off"].params
    assert found.layers["on"].error < 0.3 < found.layers["off"].error
    assert model.drop.training
    assert all(torch.equal(before[name], array) for name, array in model.state_dict().items())
    given = plan(model, {"params": "60%"}, objective="outputs", inputs={"x": x, "scale": 0.0})
    assert given.layers["on"].error > 0.3 > given.layers["off"].error


class Saturated(nn.Module):
    """A small error of `sign` changes the outputs more than in proportion; one of `plain` in proportion."""

    def __init__(self):
        super().__init__()
        self.sign, self.plain = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)

    def forward(self, x):
        return torch.cat([torch.tanh(3000 * self.sign(x)), self.plain(x)], -1)


@pytest.mark.slow
def test_outputs_are_measured_for_small_and_large_errors():
    torch.manual_seed(0)
    model, x = Saturated(), torch.randn(200, 32)
    for layer in (model.sign, model.plain):
        left, right = nn.init.orthogonal_(torch.empty(2, 32, 32))
        layer.weight.data = (left * 0.8 ** torch.arange(32)) @ right
    found = plan(model, {"params": "60%"}, objective="outputs", inputs=x)
    sign, plain = (found.sensitivities[name] for name in ("sign", "plain"))
    assert len(plain.measured) >= 3
    with torch.no_grad():
        expected = float(model.plain(x).norm() / model(x).norm())
    for error, change in plain.measured:  # the inputs are white, so the change is about proportional
        assert change / error == pytest.approx(expected, rel=0.15)
    slopes = [change / error for error, change in sign.measured]
    assert max(slopes) > 2 * min(slopes)
    (low, first), (high, last) = sign.measured[0], sign.measured[-1]
    assert sign(low) == pytest.approx(first**2)
    assert sign(high) == pytest.approx(last**2)
    assert first**2 < sign((low + high) / 2) < last**2
    assert sign(low / 2) == pytest.approx((first / 2) ** 2)
    assert sign(0.0) == 0.0
    point = found.pareto([0.6]).points[0]
    expected = sum(count(found.layers[name].error) for name, count in found.sensitivities.items()) / 2
    assert point.error**2 == pytest.approx(expected, rel=0.3)  # of the candidates that the search tried at last


def test_outputs_of_every_framework():
    """The views run their models with other weights, without a change of the models."""
    draw = np.random.default_rng(0)
    x, weight = draw.standard_normal((5, 6)).astype("float32"), draw.standard_normal((4, 6)).astype("float32")
    dense, flat = nn.Linear(6, 4), nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    tree = eqx.nn.Linear(6, 4, key=jax.random.key(0))
    for view, given in (
        (TorchModel(nn.Sequential(dense)), torch.tensor(x)),
        (EquinoxModel(eqx.nn.Sequential([tree])), x),
        (NNXModel(nnx.Sequential(flat)), (x,)),
    ):
        (name,) = [one.name for one in view.weights()]
        before = view.outputs(given, {})
        bias = np.asarray(view.entries()[f"{name}.bias"].read())
        np.testing.assert_allclose(view.outputs(given, {name: weight}), (x @ weight.T + bias).ravel(), atol=1e-5)
        assert np.array_equal(view.outputs(given, {}), before)


def test_objectives_that_cannot_be():
    source = StoredModel({}, tensors())
    with pytest.raises(dtn.PlanError, match="objective = 'speed'; expected 'weights' or 'outputs'"):
        plan(source, {"params": "40%"}, objective="speed")
    with pytest.raises(dtn.PlanError, match="needs inputs="):
        plan(source, {"params": "40%"}, objective="outputs")
    with pytest.raises(dtn.PlanError, match="a checkpoint has no code; pass the model itself"):
        plan(source, {"params": "40%"}, objective="outputs", inputs=3)
    with pytest.raises(dtn.PlanError, match="zero, or not finite"):
        plan(Net(), {"params": "40%"}, objective="outputs", inputs=torch.full((2, 32), torch.nan))


@pytest.mark.slow
def test_the_smallest_file_can_be_asked_for(tmp_path):
    dense = tmp_path / "dense.safetensors"
    dtn.files.save_checkpoint(StoredModel({}, tensors()), dense)
    with pytest.raises(dtn.PlanError, match="at least") as refused:
        plan(dense, {"bytes": 1000})
    least = int(str(refused.value).partition("at least ")[2].split()[0].replace(",", ""))
    with pytest.raises(dtn.PlanError, match="at least"):
        plan(dense, {"bytes": least - 1})
    for budget in ({"bytes": least, "flops": "100%"}, {"flops": "100%", "bytes": least}):
        assert plan(dense, budget).layers
    for spare in (0, 100):
        view = models.StoredView(dtn.files.load_checkpoint(dense))
        models.compress(view, plan(dense, {"bytes": least + spare}))
        models.save_model(view, tmp_path / "small.safetensors")
        assert (tmp_path / "small.safetensors").stat().st_size <= least + spare


def test_equal_weights_do_not_share_what_they_change(tmp_path):
    torch.manual_seed(0)
    model = Net()
    model.off = copy.deepcopy(model.on)
    given = {"objective": "outputs", "inputs": torch.randn(50, 32), "topologies": ["LowRank"]}
    kept = plan(model, {"params": "50%"}, workers=models.Workers(1, folder=tmp_path / "work"), **given)
    assert kept.layers["on"].params > 4 * kept.layers["off"].params
    assert kept.sensitivities == plan(model, {"params": "50%"}, **given).sensitivities


def test_changes_of_the_outputs_are_kept(tmp_path):
    torch.manual_seed(0)
    model, x, runs = Net(), torch.randn(100, 32), []
    model.on.register_forward_pre_hook(lambda *_: runs.append(1))
    workers = models.Workers(1, folder=tmp_path / "work")
    given = {"objective": "outputs", "workers": workers, "topologies": ["LowRank"]}
    first = plan(model, {"params": "60%"}, inputs=x, **given)
    assert len(runs) > 4
    runs.clear()
    again = plan(model, {"params": "60%"}, inputs=x, **given)
    assert len(runs) == 1  # the outputs before
    assert again == first
    assert again.sensitivities == first.sensitivities
    other = plan(model, {"params": "60%"}, inputs=2 * x, **given)
    assert len(runs) > 4
    assert other.sensitivities != first.sensitivities
