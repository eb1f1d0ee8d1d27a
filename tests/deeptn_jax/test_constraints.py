"""Check that isometries stay isometries while a function is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deeptn_jax import train as jax_train

import deeptn as dtn
from deeptn.recipe import Recipe

from ..tiers import choose
from ..toy import X, Y, deviation, forward, model, to_jax


@pytest.mark.slow
@choose("family", {"tree": dtn.Tree(rank=3), "mera": dtn.MERA(rank=3)}, ["mera"])
def test_isometries_stay_isometries_in_jax(family):
    net = model(family, dtype=torch.float32)
    found = jax_train(
        forward, to_jax(net), {"first": net[0].network}, X.astype("float32"), Y, Recipe(epochs=50, lr=0.05, batch=48),
        seed=0, isometric=True,
    )  # fmt: skip
    made = dtn.isometrize(net[0].network, found.params["first"])
    net[0].load_cores({name: torch.tensor(np.asarray(core)) for name, core in made.items()})
    assert deviation(net[0]) < 1e-5
