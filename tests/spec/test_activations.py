"""Test the values of activations, also of user-defined ones."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from autoray import do

import deeptn as dtn
from deeptn import testing
from deeptn.arrays import to_numpy
from deeptn.spec import activations

from ..conftest import close
from ..oracle import ACTIVATIONS


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name is not None])
def test_values(name, library):
    x = np.linspace(-4.0, 4.0, 33, dtype="float32")
    found = activations.resolve(name)(do("array", x, like=library))
    np.testing.assert_allclose(to_numpy(found), ACTIVATIONS[name](x.astype("float64")), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name is not None])
def test_nan_is_kept(name, library):
    x = np.array([np.nan, 1.0, -1.0], "float32")
    found = to_numpy(activations.resolve(name)(do("array", x, like=library)))
    assert np.isnan(found).tolist() == [True, False, False]


@pytest.mark.parametrize("recompute", [False, True])
def test_a_nan_in_a_core_is_seen_in_the_weight(library, recompute):
    net = dtn.network(dtn.BrickWall(layers=2, normalize=None), (32, 32))
    params = net.init(seed=0)
    first = next(iter(params))
    params[first][...] = np.nan
    params = {name: do("array", core, like=library) for name, core in params.items()}
    assert np.isnan(to_numpy(net.materialize(params, recompute=recompute))).all()
    assert np.isnan(testing.reference(net, {name: to_numpy(core) for name, core in params.items()})).all()


def test_every_activation_is_tested():
    names = re.findall(r'^    \("(\w+)", deeptn_', Path(activations.__file__).read_text(), re.MULTILINE)
    assert len(names) >= 7
    assert {name.partition(":")[0] for name in ACTIVATIONS if name} == set(names)


def test_activations_of_the_users_own():
    def steps(x, alpha):
        return alpha * x

    for _ in range(2):  # like a notebook cell that is run twice
        dtn.spec.register_activation("test_scaled", steps, default=3.0)
    one = dtn.network(dtn.BrickWall(layers=2, activation="test_scaled", normalize=None), (4, 4))
    two = dtn.network(dtn.BrickWall(layers=2, activation="test_scaled:6", normalize=None), (4, 4))
    params = one.init(dtype="float64")
    assert close(two.materialize(params), 2 * one.materialize(params), 1e-12)
    with pytest.raises(dtn.SpecError, match="already registered"):
        dtn.spec.register_activation("test_scaled", lambda x: x)
