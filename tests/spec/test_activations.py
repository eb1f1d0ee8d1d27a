"""Activations of the user's own."""

from __future__ import annotations

import pytest

import deeptn as dtn

from ..conftest import close


def test_activations_of_the_users_own():
    def steps(x, alpha):
        return alpha * x

    for _ in range(2):  # as a notebook cell that is run twice
        dtn.spec.register_activation("test_scaled", steps, default=3.0)
    one = dtn.network(dtn.BrickWall(layers=2, activation="test_scaled", normalize=None), (4, 4))
    two = dtn.network(dtn.BrickWall(layers=2, activation="test_scaled:6", normalize=None), (4, 4))
    params = one.init(dtype="float64")
    assert close(two.materialize(params), 2 * one.materialize(params), 1e-12)
    with pytest.raises(dtn.SpecError, match="already registered"):
        dtn.spec.register_activation("test_scaled", lambda x: x)
