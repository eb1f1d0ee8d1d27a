"""Second moments of the inputs of a layer, so that fits count the errors that its outputs see."""

from __future__ import annotations

import math

import numpy as np

from ..arrays import relative_error, to_numpy
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
        Number of columns of the weight as a matrix of shape (outputs, inputs): the product of all axes but the first.
        The inputs of a convolution are patches, in the order of `torch.nn.functional.unfold`.

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

    def __init__(self, size: int):
        self.size = positive_int(size, "size")
        self.count = 0
        self._sum = np.zeros((size, size))

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
        self._sum += rows.T @ rows
        self.count += len(rows)

    @property
    def matrix(self) -> np.ndarray:
        """The mean of ``x xᵀ``, of shape (size, size); raises `SpecError` before the first input."""
        if not self.count:
            raise SpecError("no inputs have been added; call add(inputs) first")
        return self._sum / self.count

    def root(self) -> np.ndarray:
        """Return a matrix R with ``R Rᵀ`` proportional to C, and entries of about 1 or less."""
        values, vectors = np.linalg.eigh(self.matrix)
        return vectors * np.sqrt(np.maximum(values, 0.0) / max(float(values[-1]), np.finfo(float).tiny))

    def error(self, found: Array, weight: Array) -> float:
        """Return ``‖(W - W') C^½‖ / ‖W C^½‖``: the relative error of the outputs; 0 if both are zero.

        Examples
        --------
        >>> covariance = Covariance(2)
        >>> covariance.add(np.array([[2.0, 0.0]]))
        >>> covariance.error(np.array([[1.0, 5.0]]), np.array([[2.0, 0.0]]))  # the second input is always zero
        0.5
        """
        dense, made = (to_numpy(array).reshape(len(array), -1) for array in (weight, found))
        matrix = self.matrix
        scale, gap = (math.sqrt(max(float(((m @ matrix) * m).sum()), 0.0)) for m in (dense, dense - made))
        return gap / scale if scale else (0.0 if gap == 0.0 else math.inf)


def error_of(found: Array, weight: Array, covariance: Covariance | None) -> float:
    """Return `Covariance.error`, or the relative error in the Frobenius norm without a covariance."""
    return relative_error(found, weight) if covariance is None else covariance.error(found, weight)


class LegMetric:
    """A covariance between the legs of a layout that belong to inputs, with zeros for padding.

    Attributes
    ----------
    names : tuple of str
        The legs of the inputs, in the order of the layout.
    tensor : array
        One axis for each of these legs, then one for each again.
    """

    def __init__(self, layout: Layout, matrix: np.ndarray):
        shape = layout.shape
        if len(shape) < 2 or matrix.shape != (math.prod(shape[1:]),) * 2:
            raise SpecError(f"the covariance is for {len(matrix)} inputs, but the weight has shape {shape}")
        numbers = np.arange(1, len(matrix) + 1).reshape(1, *shape[1:])  # 0 is the padding
        places = layout.to_legs(np.broadcast_to(numbers, shape).copy())
        flat = places[tuple(slice(None) if leg.axis else 0 for leg in layout.legs)].ravel()
        padded = np.pad(matrix, ((1, 0), (1, 0)))
        self.names = tuple(leg.name for leg in layout.legs if leg.axis)
        self._axes = tuple(k for k, leg in enumerate(layout.legs) if leg.axis)
        self._rest = tuple(k for k, leg in enumerate(layout.legs) if not leg.axis)
        self.matrix = padded[np.ix_(flat, flat)]
        sizes = tuple(leg.size for leg in layout.legs if leg.axis)
        self.tensor = self.matrix.reshape(sizes + sizes)

    def times(self, tensor: np.ndarray) -> np.ndarray:
        """Multiply a tensor over all legs by the covariance, at the inputs."""
        order = self._rest + self._axes
        moved = tensor.transpose(order)
        product = moved.reshape(-1, len(self.matrix)) @ self.matrix
        return product.reshape(moved.shape).transpose(tuple(np.argsort(order)))

    def norm(self, tensor: np.ndarray) -> float:
        """Return ``‖T C^½‖``."""
        return math.sqrt(max(float(np.vdot(tensor, self.times(tensor)).real), 0.0))

    def roots(self) -> dict[str, np.ndarray]:
        """Return a matrix for each input leg; their Kronecker product is close to C^½, and equal for a single leg."""
        count, found = len(self.names), {}
        for k, name in enumerate(self.names):
            rest = [m for m in range(count) if m != k]
            axes = [k, count + k, *rest, *(count + m for m in rest)]
            n = self.tensor.shape[k]
            block = self.tensor.transpose(axes).reshape(n, n, -1)
            side = math.isqrt(block.shape[-1])
            values, vectors = np.linalg.eigh(np.trace(block.reshape(n, n, side, side), axis1=2, axis2=3))
            values = np.maximum(values, FLOOR * max(float(values[-1]), np.finfo(float).tiny))
            found[name] = (vectors * np.sqrt(values / values[-1])) @ vectors.T
        return found


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
    return LegMetric(net.layout, covariance.matrix)
