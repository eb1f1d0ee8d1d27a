"""Test what is said about arguments of another kind than expected."""

from __future__ import annotations

from typing import Any

import deeptn_jax
import deeptn_torch
import numpy as np
import pytest
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx

import deeptn as dtn
from deeptn.recipe import Recipe
from deeptn.report import Row

from .perceptrons import CLASSES, X, equinox_of, mlp, nnx_of

DATA = X, CLASSES
TRAIN: Any = {
    "torch": lambda *args: deeptn_torch.train(mlp(3), DATA, *args),
    "equinox": lambda *args: tne.train(equinox_of(mlp(3)), DATA, *args),
    "nnx": lambda *args: tnx.train(nnx_of(mlp(3)), DATA, *args),
    "jax": lambda *args: deeptn_jax.train(lambda p, x: x, {}, {}, *DATA, *args),
}


@pytest.mark.parametrize("library", TRAIN)
def test_recipes_and_seeds(library):
    with pytest.raises(dtn.SpecError, match=r"the recipe is a dict; write deeptn\.recipe\.Recipe\(epochs=2\)"):
        TRAIN[library]({"epochs": 2}, 0)
    with pytest.raises(dtn.SpecError, match=r"the recipe is a int; write deeptn\.recipe\.Recipe\(epochs=5\)"):
        TRAIN[library](3, 0)
    with pytest.raises(dtn.SpecError, match="the seed is a tuple; expected an integer"):
        TRAIN[library](Recipe(epochs=1), DATA)


def test_calibrations():
    model: Any = mlp(3)
    with pytest.raises(dtn.PlanError, match=r"calibration is a ndarray; write calibration=calibrate\(model, data\)"):
        deeptn_torch.compress(model, {"0": dtn.LowRank(rank=2)}, calibration=np.asarray(X))  # type: ignore[arg-type]


def test_scores_of_rows():
    with pytest.raises(dtn.SpecError, match="write a tuple"):
        Row(label="a", scores=91.0)  # type: ignore[arg-type]
