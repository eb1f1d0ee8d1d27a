"""Test the reference method against a gate-by-gate oracle and the paper's parameter count."""

from __future__ import annotations

import numpy as np
import pytest

import deeptn as dtn
from deeptn.arrays import to_numpy

from ..conftest import LIBRARIES, close
from ..oracle import gate_by_gate
from ..tiers import grid


def test_vgg16_from_424_parameters():
    counts = [dtn.network(dtn.BrickWall(layers=1), shape).num_params for shape in ((4096, 512), (4096, 4096))]
    assert counts == [200, 224]
    assert sum(counts) == 424


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 7])
def test_lenet5_counts(layers):
    counts = [dtn.network(dtn.BrickWall(layers=layers), shape).num_params for shape in ((120, 400), (84, 120))]
    assert counts == [144 + 240 * (layers - 1), 124 + 208 * (layers - 1)]


def test_conv_kernel_of_the_paper():
    net = dtn.network(dtn.BrickWall(layers=1), (512, 512, 3, 3))
    assert (len(net.layout.legs), net.num_params) == (22, 204)


@pytest.mark.parametrize("legs", range(2, 12))
@pytest.mark.parametrize("d", [2, 3])
def test_parameter_formula(legs, d):
    for layers in (1, 2, 5):
        net = dtn.network(dtn.BrickWall(layers=layers, leg_size=d), (d**legs,))
        assert net.num_params == legs // 2 * d**2 + (legs - 1) // 2 * d**4 + (layers - 1) * (legs - 1) * d**4


BETWEEN = {"linear": (None, "rms"), "bare": ("relu", None), "relu": ("relu", "rms"), "tanh": ("tanh", "rms")}


@grid(2, count=[2, 3, 4, 5, 8, 9], layers=[1, 2, 3, 4], between=BETWEEN)
def test_gate_by_gate(count, layers, between):
    activation, normalize = between
    shape = (2 ** (count // 2), 2 ** (count - count // 2))
    net = dtn.network(dtn.BrickWall(layers=layers, activation=activation, normalize=normalize), shape)
    seed = 10 + layers  # seeds for which ReLU leaves more than rounding errors of a four-entry state
    params = net.init(seed=seed, dtype="float64")
    expected = gate_by_gate(params, (2,) * count, layers, activation, normalize).reshape(shape)
    assert np.abs(net.materialize(params) - expected).max() <= 1e-12


@grid(1, count=[2, 3, 4, 5, 8, 9], layers=[1, 2, 3, 4], between=BETWEEN, library=LIBRARIES)
def test_gate_by_gate_in_single_precision(count, layers, between, library):
    pytest.importorskip(library)
    activation, normalize = between
    shape = (2 ** (count // 2), 2 ** (count - count // 2))
    net = dtn.network(dtn.BrickWall(layers=layers, activation=activation, normalize=normalize), shape)
    seed = 10 + layers
    wide = {name: array.astype("float64") for name, array in net.init(seed=seed).items()}
    expected = gate_by_gate(wide, (2,) * count, layers, activation, normalize).reshape(net.shape)
    assert close(net.materialize(net.init(seed=seed, like=library)), expected, 1e-6)


@pytest.mark.parametrize("d", [3, 4])
def test_gate_by_gate_other_leg_sizes(d):
    net = dtn.network(dtn.BrickWall(layers=3, leg_size=d), (d**2, d**3))
    params = net.init(seed=0, dtype="float64")
    expected = gate_by_gate(params, (d,) * 5, 3, "relu", "rms").reshape(net.shape)
    assert np.abs(net.materialize(params) - expected).max() <= 1e-12


def test_padding_is_cut_off():
    padded = dtn.network(dtn.BrickWall(layers=2), (128, 512))
    cut = dtn.network(dtn.BrickWall(layers=2), (120, 400))
    params = padded.init(seed=0, dtype="float64")
    assert np.array_equal(cut.materialize(params), padded.materialize(params)[:120, :400])


def test_normalization_changes_only_the_scale_for_relu():
    weights = []
    for normalize in (None, "rms"):
        net = dtn.network(dtn.BrickWall(layers=4, normalize=normalize), (64, 64))
        weights.append(net.materialize(net.init(seed=1, dtype="float64")))
    assert close(weights[0] / np.linalg.norm(weights[0]), weights[1] / np.linalg.norm(weights[1]), 1e-12)


def test_half_of_the_gate_on_the_vacuum_never_acts(torch):
    net = dtn.network(dtn.BrickWall(layers=1), (4, 2))
    params = {k: p.requires_grad_() for k, p in net.init(like="torch", dtype="float64").items()}
    net.materialize(params).square().sum().backward()
    gradient = params["L1_g1"].grad
    assert gradient is not None
    assert int((gradient == 0).sum()) == 8


def test_depth_raises_the_rank():
    """With Q=12, the rank is 4 for one layer, 16 for two linear layers, and higher with an activation."""
    ranks = {}
    for layers, activation in ((1, None), (2, None), (2, "relu")):
        net = dtn.network(dtn.BrickWall(layers=layers, activation=activation), (64, 64))
        ranks[layers, activation] = np.linalg.matrix_rank(net.materialize(net.init(seed=0, dtype="float64")), rtol=1e-9)
    assert ranks[1, None] == 4
    assert ranks[2, None] == 16
    assert ranks[2, "relu"] > 40


def test_depth_16_neither_overflows_nor_dies(torch):
    net = dtn.network(dtn.BrickWall(layers=16), (64, 64))
    params = {k: p.requires_grad_() for k, p in net.init(like="torch").items()}
    weight = net.materialize(params)
    weight.square().sum().backward()
    assert bool(torch.isfinite(weight).all())
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in params.values())
    assert 0 < float(to_numpy(weight).std()) < 1
