"""Test isometries: projections are the same in every library."""

from __future__ import annotations

import numpy as np
import pytest
from autoray import do

import deeptn as dtn
from deeptn.arrays import to_numpy


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_isometrize_is_a_projection(dtype):
    net = dtn.network(dtn.MERA(rank=3, activation=None), (12, 10))
    params = net.init(scheme="gaussian", dtype=dtype)
    made = dtn.isometrize(net, params)
    again = dtn.isometrize(net, made)
    for name, core in made.items():
        assert np.allclose(core, again[name])
        assert np.isclose(np.linalg.norm(core), np.linalg.norm(params[name]))


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("like", ["torch", "jax"])
def test_isometrize_is_the_same_in_every_library(dtype, like, x64):
    pytest.importorskip(like)
    net = dtn.network(dtn.MERA(rank=3, activation=None), (12, 10))
    params = net.init(scheme="gaussian", dtype=dtype)
    made = dtn.isometrize(net, {name: do("array", core, like=like) for name, core in params.items()})
    for name, core in dtn.isometrize(net, params).items():
        assert np.allclose(core, to_numpy(made[name]))


def test_which_nodes_can_be_isometries():
    net = dtn.network(dtn.BrickWall(layers=2), (8, 8))
    with pytest.raises(dtn.SpecError, match="no node of BrickWall"):
        dtn.isometrize(net, net.init())
    with pytest.raises(dtn.SpecError, match="unknown node 'L9_g0'"):
        dtn.isometrize(net, net.init(), ["L9_g0"])
    with pytest.raises(dtn.SpecError, match="has no inputs"):
        dtn.isometrize(net, net.init(), ["L1_g0"])
    made = dtn.isometrize(net, net.init(scheme="gaussian", dtype="float64"), ["L2_g1"])
    square = made["L2_g1"].reshape(4, 4) @ made["L2_g1"].reshape(4, 4).T
    assert np.allclose(square, square[0, 0] * np.eye(4))
