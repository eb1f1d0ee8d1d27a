"""The array operations of a program on tensors: torch's own, and NumPy's for small programs on the CPU.

NumPy dispatches an operation in a third of the time that torch needs, and small contractions spend most of their time
on dispatch. Both use torch for large products and activations, on the same memory.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from deeptn.arrays import CPU, GPU, Operations, PlainActivations, PlainViews, Tuning, View, inverse_rms, library
from deeptn.base import Array

_PLAIN: Any = library("torch")
_NUMPY: Any = library("numpy")


class TensorOperations(Operations, ABC):
    """The operations that a program and its gradient need. Every register is contiguous; stacks own their memory."""

    @abstractmethod
    def enter(self, tensors: Sequence[Tensor]) -> Sequence[Array]:
        """Convert tensors to the arrays of this library."""

    @abstractmethod
    def leave(self, array: Array) -> Tensor:
        """Convert an array back to a tensor."""

    @abstractmethod
    def write(self, whole: Array, view: View, array: Array) -> None:
        """Write a matrix where a view reads it; `whole` contains the entries of the view's register, item by item."""

    @abstractmethod
    def conj(self, array: Array) -> Array:
        """Return the complex conjugate; a real array is returned as it is."""

    @abstractmethod
    def sum_products(self, x: Array, y: Array) -> Array:
        """Return ``sum_b x[b] @ y[b]``, computed in parts so that the separate products need little memory."""

    def adjoint(self, array: Array) -> Array:
        """Return the conjugate transpose."""
        return self.conj(array.swapaxes(-1, -2))

    def pad(self, array: Array, shape: Sequence[int]) -> Array:
        shape = (array.shape[0], *shape[1:]) if shape[0] < 0 else shape
        padded = self.empty(math.prod(shape), array).reshape(shape)
        padded[tuple(slice(0, n) for n in array.shape)] = array
        for axis, n in enumerate(array.shape):  # the padding; every entry is written once
            padded[(*(slice(0, m) for m in array.shape[:axis]), slice(n, None))] = 0
        return padded


@final
class Tensors(TensorOperations, PlainActivations):
    """Operations on torch tensors; a view is taken in one strided step."""

    buffers = True

    permute = staticmethod(_PLAIN.permute)
    stack = staticmethod(_PLAIN.stack)
    matmul = staticmethod(_PLAIN.matmul)
    empty = staticmethod(_PLAIN.empty)

    def normalizer(self, x: Tensor, in_pieces: bool = False) -> tuple[Tensor, float | Tensor, float]:
        if self.tuning is GPU:
            return x, inverse_rms_on_gpu(x), 1.0
        total = sum(torch.vdot(part, part).real.item() for part in (self.pieces(x) if in_pieces else [x.reshape(-1)]))
        scale, lift = inverse_rms(total, x.numpy())
        return x if lift == 1 else x * lift, scale, lift

    def view(self, array: Tensor, view: View) -> Tensor:
        if view.strided is None:
            return _PLAIN.view(array, view)
        if view.items is None and view.perm is None and not view.transposed and array.shape == view.shape:
            return array
        sizes, strides, offset = view.strided
        array = array.as_strided(sizes, strides) if view.items is None else array.as_strided(sizes, strides, offset)
        return array if view.perm is None else array.reshape(view.shape)

    def crop(self, array: Tensor, axes: Sequence[int], shape: Sequence[int]) -> Tensor:
        if shape[0] < 0 or not array.is_contiguous():  # non-contiguous after a permutation
            return _PLAIN.crop(array, axes, shape)
        return array.as_strided(shape, [math.prod(axes[k + 1 :]) for k in range(len(axes))])

    def settled(self, array: Tensor) -> Tensor:
        return array.clone(memory_format=torch.contiguous_format)

    def enter(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return tensors

    def leave(self, array: Tensor) -> Tensor:
        return array

    def write(self, whole: Tensor, view: View, array: Tensor) -> None:
        assert view.strided is not None
        part = whole.as_strided(*view.strided)
        part.copy_(array if view.perm is None else array.view(part.shape))

    def conj(self, array: Tensor) -> Tensor:
        return array.conj() if array.is_complex() else array

    def sum_products(self, x: Tensor, y: Tensor) -> Tensor:
        batch, m, k = x.shape
        n, large = y.shape[2], self.tuning.large
        if x.numel() + y.numel() < min(batch * m * n, large):  # two copies, then one long product
            return x.movedim(1, 0).reshape(m, batch * k) @ y.movedim(2, 0).reshape(n, batch * k).mT
        size = max(1, large // (m * n))
        if batch <= size:
            return torch.bmm(x, y).sum(0)
        return sum(torch.bmm(a, b).sum(0) for a, b in zip(x.split(size), y.split(size)))  # type: ignore[return-value]


@final
class Hosted(TensorOperations, PlainViews):
    """NumPy arrays over the memory of tensors on the CPU.

    Parameters
    ----------
    tensors : Tensors
        The operations for large products and activations.
    """

    buffers = False

    permute = staticmethod(_NUMPY.permute)
    stack = staticmethod(_NUMPY.stack)
    empty = staticmethod(_NUMPY.empty)
    settled = staticmethod(_NUMPY.settled)

    def __init__(self, tuning: Tuning, tensors: Tensors):
        super().__init__(tuning)
        self._tensors = tensors

    def matmul(self, x: np.ndarray, y: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        if x.size * y.shape[-1] * (y.shape[0] if x.ndim < y.ndim else 1) < self.tuning.product:
            return np.matmul(x, y)
        return self._tensors.matmul(torch.from_numpy(x), torch.from_numpy(y)).numpy()

    def normalizer(self, x: np.ndarray, in_pieces: bool = False) -> tuple[np.ndarray, float, float]:
        flat = torch.from_numpy(x).reshape(-1)  # NumPy's own product would start threads in addition to torch's
        scale, lift = inverse_rms(torch.vdot(flat, flat).real.item(), x)
        return x if lift == 1 else x * x.dtype.type(lift), scale, lift

    def activate(
        self, x: np.ndarray, activation: str | None, scale: Array | None, out: np.ndarray | None = None
    ) -> np.ndarray:
        return self._tensors.activate(torch.from_numpy(x), activation, scale).numpy()

    def enter(self, tensors: Sequence[Tensor]) -> Sequence[np.ndarray]:
        # Copy parameters: memory that is shared with NumPy cannot be resized any more, and FSDP2 resizes it.
        own = (t.detach().clone() if type(t) is torch.nn.Parameter else t.detach() for t in tensors)
        return [tensor.resolve_conj().resolve_neg().numpy() for tensor in own]

    def leave(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array)

    def write(self, whole: np.ndarray, view: View, array: np.ndarray) -> None:
        assert view.items is not None
        part = whole[view.items if isinstance(view.items, int) else slice(*view.items)]
        if view.perm is not None:
            part = part.reshape(view.axes).transpose(view.perm)
        elif view.transposed:
            part = part.reshape(view.shape).swapaxes(-1, -2)
        part[...] = array.reshape(part.shape)

    def conj(self, array: np.ndarray) -> np.ndarray:
        return array.conj() if array.dtype.kind == "c" else array

    def sum_products(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self._tensors.sum_products(torch.from_numpy(x), torch.from_numpy(y)).numpy()


def inverse_rms_on_gpu(x: Tensor) -> Tensor:
    """Return the scale of `inverse_rms`, at most the largest number of the dtype, without waiting for the device."""
    peak: Any = 1.0
    if x.dtype in (torch.float64, torch.complex128):  # no wider dtype holds the squares, so the largest entry divides
        peak = torch.linalg.vector_norm(x, math.inf)
        peak = torch.where(peak == 0, 1.0, peak)
        x = x / peak
    norm = torch.linalg.vector_norm(x, dtype=torch.complex128 if x.is_complex() else torch.float64)
    scale = math.sqrt(x.numel()) / norm / peak + 0 * norm  # NaN for an infinite norm
    limits = torch.finfo(x.dtype)
    return torch.where(norm == 0, 0.0, scale).clamp_max(limits.max).to(getattr(torch, limits.dtype))


TORCH = Tensors(CPU)
TORCH_ON_GPU = Tensors(GPU)
HOST = Hosted(CPU, TORCH)
