"""Test that `Matching` fits layers to the outputs of the original, each after those that are compressed already."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
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
from deeptn.models import Matching


def gap_of(model: Any, original: Any, x: Any) -> float:
    """Return the relative error of all outputs."""
    with torch.no_grad():
        return float(torch.linalg.norm(model(x) - original(x)) / torch.linalg.norm(original(x)))


def chain() -> tuple[Any, Any]:
    torch.manual_seed(0)
    sizes = (24, 32, 32, 32, 12)
    parts = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
    x = torch.randn(800, 24) @ (torch.randn(24, 24) * torch.exp(-torch.arange(24) / 4.0)[:, None])
    return nn.Sequential(*parts[:-1]), x


def test_matching_makes_up_for_the_layers_before():
    model, x = chain()
    rules, data = {"*": dtn.LowRank(rank=5)}, list(x[:500].split(100))
    matched, report = deeptn_torch.compress(model, rules, calibration=Matching(data, [x[500:]]))
    alone, _ = deeptn_torch.compress(model, rules, calibration=deeptn_torch.calibrate(model, data))
    blind, _ = deeptn_torch.compress(model, rules)
    gaps = [gap_of(one, model, x[500:]) for one in (matched, alone, blind)]
    assert gaps[0] < 0.95 * gaps[1] < 0.95 * gaps[2]
    # The report has the errors with the new biases, relative to what varies, each with the inputs in its own model.
    for k, (row, layer) in enumerate(zip(report.layers, (1, 3, 5, 7))):
        for inputs, error in ((x[:500], row.output_error), (x[500:], row.held_out_error)):
            with torch.no_grad():
                mean, goal = model[:layer](x[:500]).mean(0), model[:layer](inputs)
                expected = torch.linalg.norm(matched[:layer](inputs) - goal) / torch.linalg.norm(goal - mean)
            assert error == pytest.approx(float(expected), rel=1e-3), k
    in_place = copy.deepcopy(model)
    deeptn_torch.compress_(in_place, rules, calibration=Matching(data))
    assert gap_of(in_place, matched, x) < 1e-4


@pytest.mark.slow
def test_matching_in_other_frameworks():
    model = eqx.nn.MLP(24, 12, 32, 3, key=jax.random.key(0))
    x = jnp.asarray(chain()[1].numpy())
    rules = {"*": dtn.LowRank(rank=5)}

    def gap(small: Any) -> float:
        return float(jnp.linalg.norm(jax.vmap(small)(x) - jax.vmap(model)(x)))

    matched, report = tne.compress(model, rules, calibration=Matching([x]))
    alone, _ = tne.compress(model, rules, calibration=tne.calibrate(model, [x]))
    assert gap(matched) < 0.95 * gap(alone)
    assert [row.name for row in report.layers] == [f"layers.{k}" for k in range(4)]
    rngs = nnx.Rngs(0)
    net: Any = nnx.Sequential(nnx.Linear(24, 32, rngs=rngs), nnx.tanh, nnx.Linear(32, 12, rngs=rngs))
    small, report = tnx.compress(net, rules, calibration=Matching([x], [x[:100]]))
    assert type(net.layers[0]) is nnx.Linear
    errors = jnp.linalg.norm(small(x) - net(x)) / jnp.linalg.norm(net(x) - net(x).mean(0))
    assert report.layers[1].output_error == pytest.approx(float(errors), rel=1e-3)


def test_matching_of_convolutions_and_tables():
    torch.manual_seed(0)
    ids = torch.randint(30, (40, 6))
    turned: Any = nn.ConvTranspose2d(8, 2, 2, 2)
    model = nn.Sequential(nn.Embedding(30, 16), nn.Unflatten(1, (1, 6)), nn.Conv2d(1, 8, 3), nn.ReLU(), turned)
    rules = {"0": dtn.LowRank(rank=6), "2": dtn.LowRank(rank=3), "4": dtn.LowRank(rank=3)}
    small, report = deeptn_torch.compress(model, rules, calibration=Matching([ids]))
    alone, _ = deeptn_torch.compress(model, rules, calibration=deeptn_torch.calibrate(model, [ids]))
    assert [row.name for row in report.layers] == ["0", "2", "4"]
    assert gap_of(small, model, ids) < gap_of(alone, model, ids)
    with torch.no_grad():
        expected = (small(ids) - model(ids)).norm() / (model(ids) - turned.bias.reshape(-1, 1, 1)).norm()
    assert report.layers[2].output_error == pytest.approx(float(expected), rel=1e-3)


def test_wrong_matching():
    model, x = chain()
    rules = {"*": dtn.LowRank(rank=5)}
    for make, text in (
        (lambda: Matching(lambda model: model(x)), "pass batches, not a function"),
        (lambda: Matching(iter([x])), "every weight needs it; pass list"),
        (lambda: Matching([x], damping=math.nan), "damping must be a number"),
        (lambda: deeptn_torch.compress(model, rules, calibration=Matching([])), "data has no batches"),
        (lambda: deeptn_torch.compress(model, rules, workers=1, calibration=Matching([x])), "leave out workers"),
        (lambda: deeptn_torch.compress(model, rules, calibration=Matching([x * math.nan])), "layer '0': inputs have"),
    ):
        with pytest.raises(dtn.DeepTNError, match=text):
            make()
    assert type(model[0]) is nn.Linear
    rules = {"spare": dtn.LowRank(rank=1), "model.0": dtn.LowRank(rank=2)}
    with pytest.warns(UserWarning, match="did not reach 'spare'; fitted without the inputs"):
        _, report = deeptn_torch.compress(Spare(model), rules, calibration=Matching([x]))
    assert [row.output_error is None for row in report.layers] == [True, False]


class Spare(nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.spare, self.model = nn.Linear(6, 4), model[:7]

    def forward(self, x: Any) -> Any:
        return self.model(x)


class InPlace(nn.Module):
    def __init__(self, whole: bool):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.whole = nn.Linear(24, 24), nn.Linear(24, 12), whole

    def forward(self, x: Any) -> Any:
        x = torch.tanh(x)
        h = self.first(x)
        x = x + h if self.whole else x.add_(h)
        return self.second(x)


def test_matching_reads_inputs_before_they_are_overwritten():
    x, rules = chain()[1], {"*": dtn.LowRank(rank=3)}
    reports = [deeptn_torch.compress(InPlace(w), rules, calibration=Matching([x]))[1] for w in (True, False)]
    errors: list[Any] = [[(row.error, row.output_error) for row in report.layers] for report in reports]
    assert np.allclose(errors[0], errors[1])
