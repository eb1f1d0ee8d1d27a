"""Test what is said about arguments of another kind than expected."""

from __future__ import annotations

import re
import warnings
from typing import Any

import deeptn_jax
import deeptn_torch
import numpy as np
import pytest
import torch
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx

import deeptn as dtn
from deeptn.models import loss_for
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


@pytest.mark.few(1)
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


@pytest.mark.parametrize(
    ("outputs", "labels", "loss", "advice"),
    [
        ((8, 1), (8,), None, "labels[..., None]"),
        ((8,), (8, 1), None, "labels[..., 0]"),
        ((8, 3), (8, 1), "cross_entropy", "labels[..., 0]"),
        ((8, 3), (8, 3), "cross_entropy", "labels.argmax(-1)"),
    ],
)
def test_the_advice_for_labels_works(outputs, labels, loss, advice):
    integer = loss == "cross_entropy"
    given = np.zeros(labels, int if integer else float)
    with pytest.raises(dtn.SpecError, match=f"write {re.escape(advice)}"):
        loss_for(loss, np.zeros(outputs), given, integer)
    better = eval(advice, {"labels": given})
    assert loss_for(loss, np.zeros(outputs), better, integer) == (loss or "mse")


def test_no_advice_that_would_be_wrong():
    with pytest.raises(dtn.SpecError) as caught:
        loss_for("cross_entropy", np.zeros((8, 1)), np.zeros((8, 1), int), True)
    assert "argmax" not in str(caught.value)


def test_numbers_that_look_like_one_class():
    with pytest.raises(dtn.SpecError, match="for numbers, not classes, write loss='mse', and labels of"):
        deeptn_torch.train(mlp(1), DATA, Recipe(epochs=1))


class Casting(torch.nn.Linear):
    def __init__(self):
        super().__init__(5, 3)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.float())


def test_inputs_of_another_dtype():
    with pytest.raises(RuntimeError) as caught:
        deeptn_torch.train(mlp(3), (torch.from_numpy(X).double(), torch.from_numpy(CLASSES)), Recipe(epochs=1))
    note = "The inputs are torch.float64, but the parameters torch.float32; convert one: x.to(torch.float32)"
    assert caught.value.__notes__ == [note]
    for x in (X, torch.from_numpy(X).double()):  # the shape is wrong, and not the dtype
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
            deeptn_torch.train(Casting(), (x, torch.from_numpy(CLASSES)), Recipe(epochs=1))
        assert not hasattr(caught.value, "__notes__")


@pytest.mark.few(1)
@pytest.mark.parametrize("library", ["torch", "equinox", "nnx"])
def test_model_and_teacher_in_the_wrong_order(library):
    front: Any = {"torch": deeptn_torch, "equinox": tne, "nnx": tnx}[library]
    made: Any = {"torch": lambda net: net, "equinox": equinox_of, "nnx": nnx_of}[library](mlp(3))
    small, _ = front.compress(made, {"0" if library == "torch" else "layers.0": dtn.LowRank(rank=2)})
    with pytest.warns(UserWarning, match=r"the teacher is compressed, but the model is not; write heal\(small, "):
        front.heal(made, small, DATA, Recipe(epochs=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        front.heal(small, made, DATA, Recipe(epochs=1))


def test_histories_print_in_one_line():
    history = deeptn_torch.train(mlp(3), DATA, Recipe(epochs=2), validation=DATA)
    assert re.fullmatch(r"History\(2 epochs, loss=[\d.]+, score=-[\d.]+, best=[01], [\d.e-]+ s\)", repr(history))


def test_the_closest_of_many_names():
    with pytest.raises(
        AttributeError, match=r"^module 'deeptn' has no attribute 'TTMatix'; did you mean 'TTMatrix'\?$"
    ):
        _ = dtn.TTMatix  # type: ignore[attr-defined]
