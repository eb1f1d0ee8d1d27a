"""Second moments of the inputs of a layer, so that fits count the errors that its outputs see."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from ..arrays import relative_error, to_numpy, to_raw
from ..base import Array, positive_int
from ..errors import SpecError
from ..network import Network
from ..spec import Layout

#: Smallest eigenvalue of what whitens a leg, relative to the largest: legs can be transformed back without loss.
FLOOR = 1e-6


class Covariance:
    """The second moments C = E[x xᵀ] of the inputs of a layer, summed batch by batch in double precision.

    A fit with a covariance minimizes ``‖(W - W') C^½‖``, and so ``E ‖(W - W') x‖²``: the mean squared error of the
    layer's outputs on the inputs that were added.

    Parameters
    ----------
    size : int
        Number of entries of an input: the columns of the weight as a matrix of shape (first axis, all others), or its
        rows. The inputs of a convolution are patches, in the order of `torch.nn.functional.unfold`.
    axis : {1, 0}
        Whether inputs multiply the columns, or the rows, as those of an embedding and a transposed convolution do.
    diagonal : bool
        Keep the diagonal of C alone, which is all of it if only one entry of every input is not zero: for embeddings,
        `add_indices` counts how often each row is used.

    Attributes
    ----------
    count : int
        Number of inputs added.

    Examples
    --------
    >>> covariance = Covariance(2)
    >>> covariance.add(np.array([[1.0, 0.0], [3.0, 0.0]]))
    >>> covariance.count, covariance.matrix.tolist()
    (2, [[5.0, 0.0], [0.0, 0.0]])
    """

    def __init__(self, size: int, *, axis: Literal[0, 1] = 1, diagonal: bool = False):
        if axis not in (0, 1):
            raise SpecError(f"axis = {axis!r}; expected 1 (inputs multiply columns) or 0 (rows)")
        self.size, self.diagonal = positive_int(size, "size"), bool(diagonal)
        self.axis: Literal[0, 1] = axis
        self.count = 0
        self._sum = np.zeros(size if diagonal else (size, size))
        self._total = np.zeros(size)

    def add(self, inputs: Array) -> None:
        """Add inputs: an array of shape (…, size) of NumPy, PyTorch or JAX.

        Raises `SpecError` if the shape is another, or an entry is not finite; then nothing is added.
        """
        rows = to_numpy(inputs)
        if rows.ndim == 0 or rows.shape[-1] != self.size:
            raise SpecError(f"inputs must have shape (…, {self.size}), got {rows.shape}")
        if np.iscomplexobj(rows):
            raise SpecError(f"inputs must be real, got {rows.dtype}")
        rows = rows.reshape(-1, self.size)
        if not np.isfinite(rows).all():
            raise SpecError("inputs have entries that are not finite (nan or inf)")
        self._sum += (rows**2).sum(axis=0) if self.diagonal else rows.T @ rows
        self._total += rows.sum(axis=0)
        self.count += len(rows)

    def add_indices(self, indices: Array) -> None:
        """Add inputs of which one entry is 1 and all others are 0; negative indices count from the end.

        Examples
        --------
        >>> covariance = Covariance(4, axis=0, diagonal=True)
        >>> covariance.add_indices(np.array([[0, 3], [3, 3]]))
        >>> covariance.moments.tolist()
        [0.25, 0.0, 0.0, 0.75]
        """
        places = to_raw(indices)
        if places.dtype.kind != "i" and places.dtype.kind != "u":
            raise SpecError(f"indices must be integers, got {places.dtype}")
        if places.size and not -self.size <= places.min() <= places.max() < self.size:
            raise SpecError(f"indices must be from {-self.size} to {self.size - 1}, got {places.min()}…{places.max()}")
        counts = np.bincount(places.ravel() % self.size, minlength=self.size)
        self._sum += counts if self.diagonal else np.diag(counts)
        self._total += counts
        self.count += places.size

    @property
    def moments(self) -> np.ndarray:
        """C, of shape (size, size), or its diagonal, of shape (size,); raises `SpecError` before the first input."""
        return self._sum / self._counted()

    @property
    def mean(self) -> np.ndarray:
        """Mean of the inputs, of shape (size,); raises `SpecError` before the first input."""
        return self._total / self._counted()

    def _counted(self) -> int:
        if not self.count:
            raise SpecError("no inputs have been added; call add(inputs) first")
        return self.count

    @property
    def matrix(self) -> np.ndarray:
        """C, of shape (size, size)."""
        return np.diag(self.moments) if self.diagonal else self.moments

    def about(self, center: np.ndarray) -> Covariance:
        """Return the second moments of ``x - center``; about the mean, C is the covariance in the strict sense.

        A layer with a bias needs no more than that: ``bias + (W - W') center`` makes up for the rest.

        Examples
        --------
        >>> covariance = Covariance(2)
        >>> covariance.add(np.array([[1.0, 4.0], [3.0, 4.0]]))
        >>> covariance.about(covariance.mean).matrix.tolist()
        [[1.0, 0.0], [0.0, 0.0]]
        """
        if self.diagonal:
            moved = self._sum - 2 * self._total * center + self.count * center**2
        else:
            both = np.outer(self._total, center)
            moved = self._sum - both - both.T + self.count * np.outer(center, center)
        return self._like(moved, self._total - self.count * center)

    def _like(self, squares: np.ndarray, total: np.ndarray) -> Covariance:
        found = Covariance(self.size, axis=self.axis, diagonal=self.diagonal)
        found.count, found._sum, found._total = self.count, squares, total
        return found

    def damped(self, share: float) -> Covariance:
        """Return C with a share of its mean eigenvalue added to all, so that no direction is free.

        The closed forms and fits would otherwise set W' to anything where the inputs have no part, and other inputs may
        have one. GPTQ (Frantar et al., arXiv:2210.17323) does the same, with a share of 0.01.

        Examples
        --------
        >>> covariance = Covariance(2)
        >>> covariance.add(np.array([[2.0, 0.0]]))
        >>> covariance.damped(0.5).matrix.tolist()
        [[5.0, 0.0], [0.0, 1.0]]
        """
        mean = share * float(self._sum.sum() if self.diagonal else np.trace(self._sum)) / self.size
        return self._like(self._sum + (mean if self.diagonal else mean * np.eye(self.size)), self._total.copy())

    def root(self) -> np.ndarray:
        """Return a matrix R with ``R Rᵀ`` proportional to C, and entries of about 1 or less; of a diagonal, its root.

        `times_root` multiplies a weight by it.
        """
        moments = self.moments
        if self.diagonal:
            return np.sqrt(moments / max(float(moments.max()), np.finfo(float).tiny))
        values, vectors = np.linalg.eigh(moments)
        return vectors * np.sqrt(np.maximum(values, 0.0) / max(float(values[-1]), np.finfo(float).tiny))

    def times_root(self, weight: Array, root: Array) -> Array:
        """Multiply a weight of shape (first axis, all others) by the root, on the side of the inputs."""
        if self.diagonal:
            return weight * (root[:, None] if self.axis == 0 else root)
        return root.T @ weight if self.axis == 0 else weight @ root

    def norm(self, weight: np.ndarray) -> float:
        """Return ``‖W C^½‖``."""
        matrix = weight.reshape(len(weight), -1)
        moments = self.moments
        if self.diagonal:
            square = self.times_root(matrix**2, moments).sum()
        else:
            square = (matrix * (moments @ matrix if self.axis == 0 else matrix @ moments)).sum()
        return math.sqrt(max(float(square), 0.0))

    def error(self, found: Array, weight: Array) -> float:
        """Return ``‖(W - W') C^½‖ / ‖W C^½‖``: the relative error of the outputs; 0 if both are zero.

        Examples
        --------
        >>> covariance = Covariance(2)
        >>> covariance.add(np.array([[2.0, 0.0]]))
        >>> covariance.error(np.array([[1.0, 5.0]]), np.array([[2.0, 0.0]]))  # the second input is always zero
        0.5
        """
        dense, made = (to_numpy(array).astype(np.float64, copy=False) for array in (weight, found))
        scale, gap = self.norm(dense), self.norm(dense - made)
        return gap / scale if scale else (0.0 if gap == 0.0 else math.inf)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise `SpecError` if the inputs are not those of a weight of this shape."""
        expected = (shape[0], math.prod(shape[1:]))[self.axis]
        if len(shape) < 2 or self.size != expected:
            side = ("rows", "inputs")[self.axis]
            raise SpecError(f"the covariance is for {self.size} {side}, but the weight has shape {shape}")


def error_of(found: Array, weight: Array, covariance: Covariance | None) -> float:
    """Return `Covariance.error`, or the relative error in the Frobenius norm without a covariance."""
    return relative_error(found, weight) if covariance is None else covariance.error(found, weight)


class Coupling(NamedTuple):
    """The legs that a covariance weights, and whether it is diagonal."""

    legs: tuple[str, ...]
    diagonal: bool


class LegMetric:
    """A covariance between the legs of a layout that belong to inputs, with zeros for padding.

    Attributes
    ----------
    coupling : Coupling
        The legs of the inputs, in the order of the layout.
    tensor : array
        One axis for each of these legs, then one for each again, unless it is diagonal.
    """

    def __init__(self, layout: Layout, covariance: Covariance):
        shape = layout.shape
        covariance.check(shape)
        is_input = [(leg.axis > 0) == (covariance.axis == 1) for leg in layout.legs]
        columns = covariance.axis == 1
        numbers = np.arange(1, covariance.size + 1).reshape(
            *((1, *shape[1:]) if columns else (-1, *[1] * len(shape[1:])))
        )
        places = layout.to_legs(np.broadcast_to(numbers, shape).copy())  # 0 is the padding
        flat = places[tuple(slice(None) if own else 0 for own in is_input)].ravel()
        self._axes = tuple(k for k, own in enumerate(is_input) if own)
        self._rest = tuple(k for k, own in enumerate(is_input) if not own)
        legs = [layout.legs[k] for k in self._axes]
        sizes = tuple(leg.size for leg in legs)
        self.coupling = Coupling(tuple(leg.name for leg in legs), covariance.diagonal)
        padded = np.pad(covariance.moments, (1, 0))
        self._flat = padded[flat] if covariance.diagonal else padded[np.ix_(flat, flat)]
        self.tensor = self._flat.reshape(sizes if covariance.diagonal else sizes + sizes)

    def times(self, tensor: np.ndarray) -> np.ndarray:
        """Multiply a tensor over all legs by the covariance, at the inputs."""
        order = self._rest + self._axes
        moved = tensor.transpose(order)
        flat = moved.reshape(-1, len(self._flat))
        product = flat * self._flat if self.coupling.diagonal else flat @ self._flat
        return product.reshape(moved.shape).transpose(tuple(np.argsort(order)))

    def norm(self, tensor: np.ndarray) -> float:
        """Return ``‖T C^½‖``."""
        return math.sqrt(max(float(np.vdot(tensor, self.times(tensor)).real), 0.0))

    def roots(self) -> dict[str, np.ndarray]:
        """Return a matrix for each input leg; their Kronecker product is close to C^½, and equal for a single leg.

        Those of a diagonal covariance are diagonals.
        """
        count, found = len(self.coupling.legs), {}
        for k, name in enumerate(self.coupling.legs):
            rest = [m for m in range(count) if m != k]
            if self.coupling.diagonal:
                values = self.tensor.sum(axis=tuple(rest))
                found[name] = np.sqrt(_raised(values, float(values.max())))
                continue
            axes = [k, count + k, *rest, *(count + m for m in rest)]
            n = self.tensor.shape[k]
            block = self.tensor.transpose(axes).reshape(n, n, -1)
            side = math.isqrt(block.shape[-1])
            values, vectors = np.linalg.eigh(np.trace(block.reshape(n, n, side, side), axis1=2, axis2=3))
            found[name] = (vectors * np.sqrt(_raised(values, float(values[-1])))) @ vectors.T
        return found


def _raised(values: np.ndarray, largest: float) -> np.ndarray:
    """Divide eigenvalues by the largest, and raise small ones to `FLOOR`."""
    return np.maximum(values / max(largest, np.finfo(float).tiny), FLOOR)


def metric_of(net: Network, covariance: Covariance | None) -> LegMetric | None:
    """Return the covariance between the legs of a network, for closed forms and alternating least squares.

    Raises `SpecError` if it is for another weight, or a leg belongs to several nodes, which it would couple.
    """
    if covariance is None:
        return None
    for stage in (net.spec.stages[number] for number in net.spec.summands):
        for leg in stage.output:
            holders = [node.name for node in stage.nodes if leg in node.indices]
            if len(holders) != 1:
                raise SpecError(
                    f"closed forms and ALS with a covariance need one node for each leg, but {holders[:3]} share one; "
                    "fit by gradient: deeptn_torch.fit(net, weight, how=Fit(method='lbfgs'), covariance=covariance)"
                )
    return LegMetric(net.layout, covariance)
