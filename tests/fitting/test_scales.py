"""Test decompositions and fits of weights that are zero, tiny or huge."""

from __future__ import annotations

import json

import numpy as np
import pytest

import deeptn as dtn
from deeptn.arrays import convert, relative_error, to_numpy

CLOSED = {
    "low-rank": dtn.LowRank(rank=4),
    "train": dtn.TensorTrain(rank=4),
    "matrix": dtn.TTMatrix(rank=4),
    "tucker": dtn.Tucker(rank=3),
    "hierarchical": dtn.HierarchicalTucker(rank=3),
    "wall": dtn.BrickWall(layers=2, activation=None),
    "tree": dtn.Tree(rank=3, activation=None),
    "vector": dtn.TensorTrain(rank=2),
}
FITTED = {"kronecker": dtn.Kronecker(terms=2), "ring": dtn.TensorRing(rank=2), "relu": dtn.BrickWall(layers=2)}
SCALES = {"float64": (0.0, 1e-310, 1e-160, 1e-25, 1e20, 1e160, 1e300), "float32": (0.0, 1e-30, 1e-25, 1e20, 1e34)}
WEIGHT = np.random.default_rng(0).standard_normal((24, 36))


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", SCALES)
@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_do_not_depend_on_the_scale(name, dtype):
    weight = WEIGHT[0] if name == "vector" else WEIGHT
    expected = dtn.decompose(weight, CLOSED[name]).error
    for scale in SCALES[dtype]:
        net, params, error = dtn.decompose((weight * scale).astype(dtype), CLOSED[name])
        found = net.materialize(params)
        assert np.isfinite(found).all()
        assert found.any() == (scale > 0)
        # 1e-310 is subnormal: it has few digits
        assert error == (pytest.approx(expected, rel=1e-4 if scale > 1e-300 else 1e-2) if scale else 0), scale


@pytest.mark.few(1)
@pytest.mark.parametrize("like", ["torch", "jax"])
@pytest.mark.parametrize("name", FITTED)
def test_fits_do_not_depend_on_the_scale(name, like):
    fit = pytest.importorskip(f"deeptn_{like}").fit
    net = dtn.network(FITTED[name], (8, 12))
    how = dtn.fitting.Fit(steps=5, seed=0)
    weight = WEIGHT[:8, :12]
    expected = fit(net, convert(weight, like), how=how).error
    for scale in SCALES["float32"] if like == "torch" else (0.0, 1e-30, 1e20):
        goal = convert(weight * scale, like)
        result = fit(net, goal, how=how)
        assert result.error == (pytest.approx(expected, rel=1e-3, abs=1e-6) if scale else 0), scale
        assert result.error == relative_error(net.materialize(result.params), goal)
        assert to_numpy(net.materialize(result.params)).any() == (scale > 0)
        assert (len(result.history) > 1) == (scale > 0)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e20])
def test_models_of_any_scale_are_compressed(scale):
    torch = pytest.importorskip("torch")
    import deeptn_torch

    model = torch.nn.Sequential(torch.nn.Linear(36, 24), torch.nn.Linear(24, 8))
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(torch.tensor(WEIGHT[: layer.out_features, : layer.in_features] * scale))
    for topology in (dtn.LowRank(rank=4), dtn.Tucker(rank=3), dtn.BrickWall(layers=2), dtn.CP(rank=3)):
        small, report = deeptn_torch.compress(model, {"*": topology}, fit="auto")
        assert all(torch.isfinite(layer.weight).all() for layer in small)
        assert all(bool(layer.weight.detach().any()) == (scale > 0) for layer in small)
        assert all(np.isfinite(row.error) for row in report.layers)
        assert json.dumps(report.to_dict(), allow_nan=False)
