"""Test that the inputs of weights are read as they are, in every framework, and that fits and reports use them."""

from __future__ import annotations

import copy
import json
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
from torch.nn.utils.rnn import pack_padded_sequence

import deeptn as dtn
from deeptn.fitting import Covariance
from deeptn.models import Calibration

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride and padding": {"stride": 2, "padding": (2, 1)},
    "dilation, same": {"dilation": 2, "padding": "same"},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "reflect, no bias": {"padding": 1, "padding_mode": "reflect", "bias": False},
}


def compared(model: nn.Module, name: str, data: Any, x: Any, tolerance: float = 1e-5) -> None:
    """Check that the covariance of a weight gives the error of the outputs of a linear model."""
    calibration = deeptn_torch.calibrate(model, data, targets=[name])
    weight: Any = model.get_parameter(f"{name}.weight")
    original = weight.detach().clone()
    changed = original + 0.3 * torch.randn(original.shape).to(original)

    bias = dict(model.named_parameters()).get(f"{name}.bias")

    def outputs(value: Any) -> torch.Tensor:
        shift = calibration.shift(name, value, original)
        with torch.no_grad():
            weight.copy_(value)
            if shift is not None and bias is not None:
                bias.add_(torch.from_numpy(shift))
            found = torch.cat([model(batch).flatten() for batch in x])
            if shift is not None and bias is not None:
                bias.sub_(torch.from_numpy(shift))
            return found

    before, zero, after = outputs(original), outputs(torch.zeros_like(original)), outputs(changed)
    outputs(original)
    expected = float((after - before).norm() / (before - zero).norm())
    assert calibration.inputs[name].error(changed, original) == pytest.approx(expected, rel=tolerance)
    assert (name in calibration.centers) == (bias is not None and calibration.inputs[name].axis == 1)


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=list(CONVOLUTIONS))
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_convolutions(options, ndim):
    torch.manual_seed(0)
    if ndim != 2 and isinstance(options.get("padding"), tuple):
        options = options | {"padding": 1}
    layer: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[ndim - 1]
    model = nn.Sequential(layer(3, 5, 3, **options))
    x = torch.randn(7, 3, *(9, 8, 7)[:ndim])
    compared(model, "0", [x[:3], (x[3:], torch.arange(4))], [x[:3], x[3:]])


def test_other_layers():
    torch.manual_seed(0)
    x = torch.randn(6, 4, 5)
    compared(nn.Sequential(nn.Linear(5, 7)), "0", [x[0], x], [x[0], x])
    index = torch.randint(20, (6, 4))
    compared(nn.Sequential(nn.Embedding(20, 5)), "0", [index], [index])
    compared(nn.Sequential(nn.ConvTranspose2d(4, 3, 2, stride=2)), "0", [x[:, :, :, None]], [x[:, :, :, None]])
    compared(nn.Sequential(nn.ConvTranspose1d(4, 6, 3, stride=3, groups=2)), "0", [x], [x])
    compared(nn.Sequential(nn.Linear(5, 7)).bfloat16(), "0", [x[0].bfloat16()], [x[0].bfloat16()], 0.02)


def test_groups_are_averaged():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, groups=2, bias=False)
    layer.weight.data[3:] = layer.weight.data[:3]  # equal in both groups, so that the average is exact
    x = torch.randn(5, 4, 6, 6)
    y = layer(x).detach()
    covariance = deeptn_torch.calibrate(nn.Sequential(layer), [x]).inputs["0"]
    assert covariance.count == 5 * 4 * 4 * 2
    norm = covariance.norm(layer.weight.detach()[:3].numpy()) ** 2 * covariance.count
    assert norm == pytest.approx(float((y**2).sum()), rel=1e-5)


class Attention(nn.Module):
    def __init__(self, **options: Any):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x: Any) -> Any:
        return self.attn(x, x, x)[0]


def test_attention():
    torch.manual_seed(0)
    model, x = Attention().double(), torch.randn(3, 5, 8).double()
    compared(model, "attn.out_proj", [x], [x])
    found = deeptn_torch.calibrate(model, [x]).inputs
    rows = x.reshape(-1, 8)
    assert np.allclose(found["attn.in_proj_weight"].matrix, rows.T @ rows / 15)
    parts = nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
    query, key, value = (torch.randn(5, 3, size) for size in (8, 4, 6))
    found = deeptn_torch.calibrate(parts, lambda model: model(query, key, value=value)).inputs
    for name, part in (("q_proj_weight", query), ("k_proj_weight", key), ("v_proj_weight", value)):
        rows = part.reshape(15, -1).double()
        assert np.allclose(found[name].matrix, rows.T @ rows / 15)


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
def test_a_transformer_in_which_pytorch_would_take_its_fast_path():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    x, padding = torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    found = deeptn_torch.calibrate(encoder.eval(), lambda model: model(x, src_key_padding_mask=padding))
    names = ("self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "linear2")
    assert set(found.inputs) == {f"layers.{k}.{name}" for k in (0, 1) for name in names}
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("packed", [False, True])
def test_recurrent_modules(kind, packed):
    torch.manual_seed(0)
    module = kind(4, 3, 2, bidirectional=True).double()
    x, lengths = torch.randn(6, 2, 4).double(), [6, 4]
    inputs = pack_padded_sequence(x, torch.tensor(lengths)) if packed else x
    state = torch.randn(4, 2, 3).double()
    hx = (state, state) if kind is nn.LSTM else state
    found = deeptn_torch.calibrate(module, lambda model: model(inputs, hx)).inputs
    cell_of: Any = {nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell, nn.RNN: nn.RNNCell}[kind]
    sums: dict[str, list[torch.Tensor]] = {}
    for b in range(2):
        steps = x[: lengths[b] if packed else 6, b]
        for layer in range(2):
            sides = []
            for direction, suffix in enumerate(("", "_reverse")):
                end = f"_l{layer}{suffix}"
                cell = cell_of(steps.shape[1], 3).double()
                cell.load_state_dict({name: getattr(module, name + end) for name in cell.state_dict()})
                h = c = state[2 * layer + direction, b]
                outs = []
                for step in steps.flip(0) if suffix else steps:
                    sums.setdefault(f"weight_ih{end}", []).append(step)
                    sums.setdefault(f"weight_hh{end}", []).append(h)
                    if kind is nn.LSTM:
                        h, c = cell(step[None], (h[None], c[None]))
                        h, c = h[0], c[0]
                    else:
                        h = cell(step[None], h[None])[0]
                    outs.append(h)
                sides.append(torch.stack(outs).flip(0) if suffix else torch.stack(outs))
            steps = torch.cat(sides, -1)
    assert set(found) == set(sums)
    for name, rows in sums.items():
        x_of = torch.stack(rows).detach()
        assert found[name].count == len(x_of)
        assert np.allclose(found[name].matrix, x_of.T @ x_of / len(x_of))
    assert module.training


def test_cells_and_other_calls():
    cell = nn.LSTMCell(4, 3)
    x, h = torch.randn(5, 4), torch.randn(5, 3)
    found = deeptn_torch.calibrate(cell, lambda model: (model(x), model(x, hx=(h, h)))).inputs
    assert (found["weight_ih"].count, found["weight_hh"].count) == (10, 5)
    named = nn.Sequential(nn.Linear(4, 3))
    assert deeptn_torch.calibrate(named, [{"input": x}]).inputs["0"].count == 5
    array = [np.ones((2, 4), "float32")]
    assert deeptn_torch.calibrate(named, array).inputs["0"].matrix.tolist() == np.ones((4, 4)).tolist()


def equinox_error(layer: Any, name: str, x: Any, axis: int = 0) -> None:
    """Check a covariance of Equinox against the outputs."""
    model: Any = [layer]
    calibration = tne.calibrate(model, lambda called: jax.vmap(called[0])(x))
    weight = layer.weight
    changed = weight + 0.3 * jax.random.normal(jax.random.key(3), weight.shape)
    outputs = []
    for value in (weight, 0 * weight, changed):
        made, shift = eqx.tree_at(lambda one: one.weight, layer, value), calibration.shift(name, value, weight)
        if shift is not None:
            made = eqx.tree_at(lambda one: one.bias, made, made.bias + shift.reshape(made.bias.shape))
        outputs.append(jax.vmap(made)(x))
    assert (name in calibration.centers) == (getattr(layer, "bias", None) is not None)
    expected = jnp.linalg.norm(outputs[2] - outputs[0]) / jnp.linalg.norm(outputs[0] - outputs[1])
    assert calibration.inputs[name].error(changed, weight) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
def test_equinox():
    key = jax.random.key(0)
    x = jax.random.normal(key, (6, 3, 9, 8))
    equinox_error(eqx.nn.Linear(8, 4, key=key), "0", x[:, 0, 0])
    equinox_error(eqx.nn.Linear("scalar", 4, key=key), "0", x[:, 0, 0, 0])
    equinox_error(eqx.nn.Embedding(20, 4, key=key), "0", jnp.arange(6))
    for options in (
        {},
        {"padding": "SAME", "dilation": 2},
        {"padding": 1, "padding_mode": "CIRCULAR", "use_bias": False},
        {"stride": 2, "padding": ((1, 0), (2, 1))},
    ):
        equinox_error(eqx.nn.Conv2d(3, 5, 3, key=key, **options), "0", x)
    cell = eqx.nn.LSTMCell(8, 4, key=key)
    state = jnp.ones(4), jnp.zeros(4)
    found = tne.calibrate([cell], lambda model: jax.vmap(lambda a: model[0](a, state))(x[:, 0, 0])).inputs
    assert np.allclose(found["0.weight_hh"].matrix, 1)
    assert found["0.weight_ih"].count == 6
    mlp = eqx.nn.MLP(8, 4, 6, 1, key=key)
    assert {name: one.count for name, one in tne.calibrate(mlp, [x[:, 0, 0], (x[:2, 0, 0], 1)]).inputs.items()} == {
        "layers.0": 8,
        "layers.1": 8,
    }


class Layers(nnx.Module):
    def __init__(self, layer: Any):
        self.layer = layer

    def __call__(self, x: Any) -> Any:
        return self.layer(x)


def nnx_error(layer: Any, x: Any, merged: Any = None) -> None:
    """Check a covariance of NNX against the outputs."""
    model = Layers(layer)
    calibration = tnx.calibrate(model, [x])
    own = "embedding" if isinstance(layer, nnx.Embed) else "kernel"
    kernel = getattr(layer, own)[...]
    changed = kernel + 0.3 * jax.random.normal(jax.random.key(3), kernel.shape)

    def in_order(value: Any) -> np.ndarray:
        if own == "embedding":
            return np.asarray(value)
        value = np.asarray(value).reshape(merged or value.shape)
        return value.transpose(-1, -2, *range(value.ndim - 2))

    outputs, bias = [], getattr(layer, "bias", None)
    old_bias = None if bias is None else bias[...]
    for value in (kernel, 0 * kernel, changed):
        setattr(layer, own, nnx.Param(value))
        shift = calibration.shift("layer", in_order(value), in_order(kernel))
        assert (shift is None) == (bias is None)
        if bias is not None and shift is not None:
            bias[...] = old_bias + shift.reshape(bias.shape)
        outputs.append(layer(x))
    expected = jnp.linalg.norm(outputs[2] - outputs[0]) / jnp.linalg.norm(outputs[0] - outputs[1])
    found = calibration.inputs["layer"].error(in_order(changed), in_order(kernel))
    assert found == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
def test_nnx():
    rngs, x = nnx.Rngs(0), jax.random.normal(jax.random.key(0), (6, 9, 8, 3))
    nnx_error(nnx.Linear(3, 5, rngs=rngs), x)
    nnx_error(nnx.Embed(20, 4, rngs=rngs), jnp.arange(6))
    nnx_error(nnx.LinearGeneral((8, 3), (2, 4), axis=(-2, -1), rngs=rngs), x, (24, 8))
    convolutions: tuple[Any, ...] = (
        {},
        {"padding": "CIRCULAR", "use_bias": False},
        {"strides": 2, "kernel_dilation": 2},
    )
    for options in convolutions:
        nnx_error(nnx.Conv(3, 5, (3, 3), rngs=rngs, **options), x)
    attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
    found = tnx.calibrate(Layers(attention), [jnp.ones((2, 5, 8))]).inputs
    assert {name: one.count for name, one in found.items()} == {
        f"layer.{part}": 10 for part in ("query", "key", "value", "out")
    }
    assert type(attention.query) is nnx.LinearGeneral


def test_inside_transformations_of_jax():
    model = eqx.nn.MLP(4, 4, 4, 1, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (3, 5, 4))
    expected = tne.calibrate(model, list(x)).inputs["layers.1"].matrix

    def nested(called: Any) -> None:
        jax.jit(jax.vmap(jax.vmap(called)))(x)

    def scanned(called: Any) -> None:
        jax.lax.map(jax.vmap(called), x)

    for run in (nested, scanned):
        found = tne.calibrate(model, run).inputs["layers.1"]
        assert found.count == 15
        assert np.allclose(found.matrix, expected, atol=1e-6)


def network() -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 36), nn.ReLU(), nn.Linear(36, 12))
    return model, torch.randn(10, 30, 24) @ (torch.randn(24, 24) * torch.exp(-torch.arange(24) / 4.0)[:, None])


FAMILIES = (dtn.LowRank(rank=3), dtn.TTMatrix(rank=3), dtn.BrickWall(layers=3))


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_compressed_outputs_are_closer(family, tmp_path):
    model, x = network()
    calibration = deeptn_torch.calibrate(model, list(x[:6]), held_out=list(x[6:]))
    fit = dtn.fitting.Fit(method="lbfgs", steps=60) if isinstance(family, dtn.BrickWall) else "auto"
    _, plain = deeptn_torch.compress(model, {"0": family}, fit=fit, seed=0)
    small, report = deeptn_torch.compress(model, {"0": family}, fit=fit, seed=0, calibration=calibration)
    row = report.layers[0]
    with torch.no_grad():
        mean = model[0](torch.from_numpy(calibration.centers["0"]).float())
        gap = torch.linalg.norm(small[0](x[6:]) - model[0](x[6:])) / torch.linalg.norm(model[0](x[6:]) - mean)
    assert row.held_out_error == pytest.approx(float(gap), rel=1e-4)
    assert row.output_error is not None
    assert row.held_out_error is not None
    assert row.output_error < row.held_out_error < plain.layers[0].error
    assert plain.layers[0].output_error is None
    assert f"error of W {row.error:.3f}, of outputs {row.output_error:.3f} ({row.held_out_error:.3f})" in str(report)
    assert "of outputs" not in str(plain)
    report.to_json(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["layers"][0]["held_out_error"] == row.held_out_error
    for one, columns in ((plain, 8), (report, 9)):
        assert len(one.__rich__().columns) == columns


def test_the_same_cores_from_workers_and_folders(tmp_path):
    model, x = network()
    calibration = deeptn_torch.calibrate(model, list(x))
    rules = {"0": dtn.TTMatrix(rank=2), "2": dtn.LowRank(rank=2)}
    expected, _ = deeptn_torch.compress(model, rules, calibration=calibration)
    workers = dtn.models.Workers(processes=1, folder=tmp_path / "work")
    for found, report in [
        deeptn_torch.compress(model, rules, workers=workers, calibration=calibration) for _ in range(2)
    ]:
        assert report.layers[1].output_error is not None
        for name, tensor in expected.state_dict().items():
            assert torch.allclose(found.state_dict()[name], tensor, atol=1e-5)
    plain, _ = deeptn_torch.compress(model, rules, workers=workers)
    assert not torch.allclose(plain[0].weight, expected[0].weight, atol=1e-2)


def test_calibration_draws_nothing_and_takes_packed_sequences():
    module, x = nn.LSTM(4, 3), torch.randn(6, 2, 4)
    packed = pack_padded_sequence(x, torch.tensor([6, 4]))
    state = torch.get_rng_state()
    assert deeptn_torch.calibrate(module, [packed]).inputs["weight_hh_l0"].count == 10
    assert deeptn_torch.calibrate(module, lambda model: model(input=x)).inputs["weight_ih_l0"].count == 12
    assert torch.equal(torch.get_rng_state(), state)
    attention, y = Attention(), torch.randn(2, 3, 8)
    state = torch.get_rng_state()
    deeptn_torch.calibrate(attention, [y])
    assert torch.equal(torch.get_rng_state(), state)


def test_generated_layers_are_read_too():
    model, x = network()
    small, _ = deeptn_torch.compress(model, {"*": dtn.TTMatrix(rank=2)})
    found = deeptn_torch.calibrate(small, list(x))
    assert {name: one.count for name, one in found.inputs.items()} == {"0": 300, "2": 300}
    grown, _ = tne.compress(eqx.nn.MLP(24, 4, 6, 1, key=jax.random.key(0)), {"*": dtn.TTMatrix(rank=2)})
    assert tne.calibrate(grown, [jnp.ones((2, 24))]).inputs["layers.1"].count == 2


def test_the_model_stays_as_it_is():
    model, x = network()
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ZeroDivisionError):
        deeptn_torch.calibrate(model, lambda called: (called(x), 1 / 0))
    assert model.training
    assert model[0].training
    assert not model[2].training
    assert not model[0]._forward_pre_hooks
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_bad_data():
    model, x = network()
    for data, error, text in (
        ([], dtn.SpecError, "data has no batches"),
        ([[]], dtn.SpecError, "a batch is empty"),
        (lambda called: None, dtn.PlanError, "the data reached none of '0', '2'; check targets, or pass a function"),
        ([x[0] * torch.nan], dtn.SpecError, "layer '0': inputs have entries that are not finite"),
    ):
        with pytest.raises(error, match=text):
            deeptn_torch.calibrate(model, data)
    with pytest.raises(dtn.SpecError, match="held_out has no batches"):
        deeptn_torch.calibrate(model, list(x), held_out=iter([]))
    with pytest.raises(dtn.PlanError, match="'fc'"):
        deeptn_torch.calibrate(model, list(x), targets=["fc"])
    with pytest.raises(dtn.SpecError, match="damping must be a number of at least 0, got -1"):
        deeptn_torch.calibrate(model, list(x), damping=-1)
    mlp = eqx.nn.MLP(4, 4, 4, 1, key=jax.random.key(0))
    with pytest.raises(dtn.SpecError, match=r"layer 'layers\.0': inputs have entries that are not finite"):
        tne.calibrate(mlp, [jnp.full((2, 4), jnp.nan)])
    calibration = deeptn_torch.calibrate(model, list(x), targets=["0"])
    with pytest.warns(UserWarning, match="the calibration data did not reach '2'; fitted without the inputs"):
        _, report = deeptn_torch.compress(model, {"*": dtn.LowRank(rank=2)}, calibration=calibration)
    assert report.layers[1].output_error is None
    assert "–" in [cell for column in report.__rich__().columns for cell in column.cells]
    wrong = Calibration({"0": Covariance(5)})
    wrong.inputs["0"].add(np.eye(5))
    with pytest.raises(dtn.SpecError, match=r"layer '0': the covariance is for 5 inputs, but the weight has shape"):
        deeptn_torch.compress(model, {"0": dtn.LowRank(rank=2)}, calibration=wrong)
