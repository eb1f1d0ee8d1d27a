"""The leading singular values and vectors of a matrix."""

from __future__ import annotations

import importlib
from typing import NamedTuple

import numpy as np

#: Up to this many entries, all singular vectors are computed, to full accuracy.
SMALL = 2**18

#: A range finder is used where the shorter side is longer than `LONG`, and at least `FEW` times as long as the number
#: of vectors.
LONG, FEW = 1024, 8


class Svd(NamedTuple):
    """``matrix ≈ left * values @ right``, with the values in descending order."""

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray


def leading_svd(matrix: np.ndarray, rank: int) -> Svd:
    """Return at most `rank` singular values and vectors.

    Parameters
    ----------
    matrix : array of shape (m, n)
    rank : int

    Returns
    -------
    Svd
        Arrays of shapes (m, k), (k,) and (k, n) with k = min(rank, m, n).

    Notes
    -----
    For a large matrix, the vectors come from the eigenvectors of ``matrixᴴ matrix``, in double precision: singular
    values below 1e-8 times the largest are inaccurate, and so are their vectors. If both sides are long and few vectors
    are wanted, they come from a randomized range finder with four power iterations (Halko, Martinsson & Tropp, SIAM
    Review 53, 217 (2011), algorithms 4.4 and 5.1, from TensorLy); the error of the truncated matrix is then within 1 %
    of the optimum.

    Examples
    --------
    >>> left, values, right = leading_svd(np.diag([1.0, 3.0, 2.0]), 2)
    >>> values.tolist(), left.shape, right.shape
    ([3.0, 2.0], (3, 2), (2, 3))
    """
    short = min(matrix.shape)
    rank = min(rank, short)
    if matrix.size <= SMALL:
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        return Svd(left[:, :rank], values[:rank], right[:rank])
    if _has_few(matrix, rank):
        return _by_range_finder(matrix, rank)
    if matrix.shape[0] < matrix.shape[1]:
        found = _by_eigenvectors(matrix.conj().T, rank)
        return Svd(found.right.conj().T, found.values, found.left.conj().T)
    return _by_eigenvectors(matrix, rank)


def squared_values(matrix: np.ndarray, most: int) -> np.ndarray:
    """Return the squared singular values in descending order, to about 1e-16 of the largest; at least `most` of them.

    If `most` is small, only so many, a little too small (see `leading_svd`).
    """
    if matrix.size > SMALL and _has_few(matrix, most):
        return _by_range_finder(matrix, most).values ** 2
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.conj().T
    return np.maximum(np.linalg.eigvalsh(_gram(tall))[::-1], 0.0)


def _has_few(matrix: np.ndarray, rank: int) -> bool:
    """Return whether so few singular vectors are wanted that a range finder is faster."""
    short = min(matrix.shape)
    return short > LONG and FEW * rank <= short


def _gram(tall: np.ndarray) -> np.ndarray:
    wide = tall.astype(np.result_type(tall, np.float64), copy=False)
    return wide.conj().T @ wide


def _by_eigenvectors(tall: np.ndarray, rank: int) -> Svd:
    vectors = np.linalg.eigh(_gram(tall))[1][:, ::-1][:, :rank]
    vectors = np.ascontiguousarray(vectors, tall.dtype)  # otherwise the product does not use BLAS
    left = tall @ vectors
    values = np.linalg.norm(left, axis=0)
    return Svd(left / np.maximum(values, np.finfo(values.dtype).tiny), values, vectors.conj().T)


def _by_range_finder(matrix: np.ndarray, rank: int) -> Svd:
    tensorly, svd = map(importlib.import_module, ("tensorly", "tensorly.tenalg.svd"))
    with tensorly.backend.backend_context("numpy", local_threadsafe=True):
        found = svd.randomized_svd(matrix, rank, n_oversamples=10, n_iter=4, random_state=0)
    return Svd(*map(np.asarray, found))
