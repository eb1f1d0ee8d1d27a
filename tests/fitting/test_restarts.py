"""Test fits from several starting points."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import deeptn_jax
import deeptn_torch
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import deeptn as dtn
from deeptn.fitting import Covariance, Fit, FitResult

WEIGHT = np.random.default_rng(0).normal(size=(16, 16)).astype("float32")
NET = dtn.network(dtn.BrickWall(layers=2, activation="relu"), (16, 16))


def torch_fit(how: Fit, **options: Any) -> FitResult:
    return deeptn_torch.fit(NET, torch.from_numpy(WEIGHT), how=how, **options)


@pytest.mark.few(1)
@pytest.mark.parametrize("method", ["auto", "lbfgs", "adam"])
def test_the_best_of_several_is_kept(method):
    gains, errors = 0, list[float]()
    for seed in range(3):
        how = Fit(method=method, steps=25, seed=seed)
        errors = [torch_fit(replace(how, restarts=restarts)).error for restarts in (0, 1, 3)]
        assert errors[0] >= errors[1] >= errors[2]  # each has the starts of the one before
        gains += errors[2] < errors[0]
    assert gains > 1
    best = torch_fit(Fit(method=method, steps=25, seed=2, restarts=3))
    made = np.asarray(NET.materialize(best.params))
    assert best.error == errors[2]  # it repeats
    assert best.error == pytest.approx(float(np.linalg.norm(made - WEIGHT) / np.linalg.norm(WEIGHT)), rel=1e-4)
    assert min(best.history) >= best.error - 1e-6  # of the same fit; scaling as a whole comes after it


@pytest.mark.slow
def test_all_libraries_start_at_the_same_points():
    how = Fit(method="adam", steps=15, seed=1, restarts=2)
    weight = jnp.asarray(WEIGHT)
    assert deeptn_jax.fit(NET, weight, how=how).error == pytest.approx(torch_fit(how).error, rel=1e-4)


@pytest.mark.slow
def test_a_given_start_is_one_of_them():
    start = torch_fit(Fit(steps=200, restarts=3)).params
    known = torch_fit(Fit(method="lbfgs", steps=0), params=start).error
    assert torch_fit(Fit(method="lbfgs", steps=1, restarts=2), params=start).error <= known + 1e-6


@pytest.mark.slow
def test_with_als_and_a_covariance():
    covariance = Covariance(16)
    covariance.add(np.random.default_rng(1).normal(size=(40, 16)) * np.linspace(0.1, 2, 16))
    cp, weight = dtn.network(dtn.CP(rank=6), (16, 16)), torch.from_numpy(WEIGHT)
    errors = [
        deeptn_torch.fit(cp, weight, how=Fit(method="als", steps=8, restarts=restarts), covariance=covariance).error
        for restarts in (0, 6)
    ]
    assert errors[1] < errors[0]


@pytest.mark.slow
def test_compress_passes_it_on():
    torch.manual_seed(0)
    model: Any = torch.nn.Sequential(torch.nn.Linear(16, 16))
    for seed in range(3):
        how = Fit(method="lbfgs", steps=25, seed=seed, restarts=3)
        row = deeptn_torch.compress(model, {"0": NET}, fit=how)[1].layers[0]
        assert row.error == pytest.approx(deeptn_torch.fit(NET, model[0].weight.detach(), how=how).error)


@pytest.mark.parametrize("wrong", [-1, 1.5, True, None, "3"])
def test_wrong_numbers(wrong):
    with pytest.raises(dtn.SpecError, match=r"Fit\.restarts must be a non-negative integer"):
        Fit(restarts=wrong)
