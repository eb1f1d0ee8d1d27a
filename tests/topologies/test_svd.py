"""Test the truncated singular value decompositions."""

from __future__ import annotations

import numpy as np
import pytest

from deeptn.topologies import svd
from deeptn.topologies.svd import leading_svd, squared_values

RNG = np.random.default_rng(0)
FLAT = RNG.standard_normal((80, 60))
FALLING = FLAT / np.arange(1, 61)
MATRICES = {"flat": FLAT, "falling": FALLING, "wide": FALLING.T, "complex": FALLING + 1j * FALLING[::-1]}


@pytest.fixture(params=["exact", "eigenvectors", "range finder"])
def way(request, monkeypatch):
    if request.param != "exact":
        monkeypatch.setattr(svd, "SMALL", 0)
    if request.param == "range finder":
        monkeypatch.setattr(svd, "LONG", 1)
        monkeypatch.setattr(svd, "FEW", 4)
    return request.param


@pytest.mark.parametrize("rank", [1, 5, 15, 60, 100])
@pytest.mark.parametrize("name", MATRICES)
def test_it_is_about_the_best_of_its_rank(name, rank, way):
    matrix = MATRICES[name]
    left, values, right = leading_svd(matrix, rank)
    kept = min(rank, 60)
    assert (left.shape, values.shape, right.shape) == ((len(matrix), kept), (kept,), (kept, matrix.shape[1]))
    exact = np.linalg.svd(matrix, compute_uv=False)
    best = np.linalg.norm(exact[kept:])
    error = np.linalg.norm(matrix - (left * values) @ right)
    assert error <= (1.01 if way == "range finder" else 1 + 1e-9) * best + 1e-12 * exact[0] * len(matrix)
    assert np.allclose(left.conj().T @ left, np.eye(kept), atol=1e-8)
    assert np.allclose(right @ right.conj().T, np.eye(kept), atol=1e-8)
    assert np.all(np.diff(values) <= 1e-12)
    assert np.allclose(values, exact[:kept], rtol=0.05 if way == "range finder" else 1e-8)


@pytest.mark.parametrize("name", MATRICES)
def test_squared_values(name, way):
    found = squared_values(MATRICES[name], 10)
    exact = np.linalg.svd(MATRICES[name], compute_uv=False) ** 2
    assert len(found) == (10 if way == "range finder" else 60)
    assert np.allclose(found, exact[: len(found)], rtol=0.1 if way == "range finder" else 1e-6, atol=1e-9)


def test_single_precision_stays_and_is_not_lost():
    matrix = FALLING.astype(np.float32)
    small, large = leading_svd(matrix, 20), svd._by_eigenvectors(matrix, 20)
    assert small.left.dtype == large.left.dtype == large.right.dtype == np.float32
    assert np.allclose(small.values, large.values, rtol=1e-5)


def test_zeros_have_finite_vectors(way):
    left, values, right = leading_svd(np.zeros((40, 30)), 3)
    assert not values.any()
    assert np.isfinite(left).all()
    assert np.isfinite(right).all()
