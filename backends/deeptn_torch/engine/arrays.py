"""The array operations of a program, for tensors: torch's own, and NumPy's for small programs on the CPU.

To dispatch an operation costs NumPy a third of what it costs torch, and small contractions are little else. Large
products and activations are torch's in both, on the same memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deeptn.base import Array
from deeptn.engine import LARGE, TINY, Crop, Library, View

#: From so many multiplications on, torch's product is the faster one.
PRODUCT = 2**17


class TorchLibrary(Library):
    """torch, views in one step. Every register is contiguous; stacks own their memory."""

    def __init__(self):
        super().__init__("torch")

    def view(self, array: Array, view: View) -> Array:
        if view.strided is None:
            return super().view(array, view)
        if view.items is None and view.perm is None and not view.transposed and array.shape == view.shape:
            return array
        sizes, strides, offset = view.strided
        array = array.as_strided(sizes, strides) if view.items is None else array.as_strided(sizes, strides, offset)
        return array if view.perm is None else array.reshape(view.shape)

    def crop(self, array: Array, step: Crop) -> Array:
        if step.shape[0] < 0 or not array.is_contiguous():  # what a permutation left
            return super().crop(array, step)
        return array.as_strided(step.shape, step.strides)

    def settled(self, array: Array) -> Array:
        return array.clone(memory_format=torch.contiguous_format)

    def write(self, whole: Array, view: View, array: Array) -> None:
        """Write a matrix where a view reads it in a register, of which `whole` are the entries, item by item."""
        assert view.strided is not None
        part = whole.as_strided(*view.strided)
        part.copy_(array if view.perm is None else array.view(part.shape))

    def pad(self, array: Array, shape: Sequence[int]) -> Array:
        """Append zeros to every axis, but not to a first one of size -1."""
        shape = (array.shape[0], *shape[1:]) if shape[0] < 0 else shape
        padded = self.empty(math.prod(shape), array).reshape(shape)
        padded[tuple(slice(0, n) for n in array.shape)] = array
        for axis, n in enumerate(array.shape):  # what lies behind, written once
            padded[(*(slice(0, m) for m in array.shape[:axis]), slice(n, None))] = 0
        return padded

    def enter(self, tensors: Sequence[Tensor]) -> Sequence[Array]:
        """From tensors to what this library computes with."""
        return tensors

    def leave(self, array: Array) -> Tensor:
        """Back to a tensor."""
        return array

    def conj(self, array: Array) -> Array:
        """Conjugated, where it is complex."""
        return array.conj() if array.is_complex() else array

    def adjoint(self, array: Array) -> Array:
        """Transposed and conjugated."""
        return array.mH if array.is_complex() else array.mT

    def sum_products(self, x: Array, y: Array) -> Array:
        """``sum_b x[b] @ y[b]``, in parts, so that the single products need little room."""
        batch, m, k = x.shape
        n = y.shape[2]
        if x.numel() + y.numel() < min(batch * m * n, LARGE):  # one long product of two copies
            return x.movedim(1, 0).reshape(m, batch * k) @ y.movedim(2, 0).reshape(n, batch * k).mT
        size = max(1, LARGE // (m * n))
        if batch <= size:
            return torch.bmm(x, y).sum(0)
        return sum(torch.bmm(a, b).sum(0) for a, b in zip(x.split(size), y.split(size)))  # type: ignore[return-value]


class HostLibrary(TorchLibrary):
    """NumPy arrays over the memory of tensors."""

    def __init__(self):
        Library.__init__(self, "numpy")

    view = Library.view
    crop = Library.crop
    settled = Library.settled

    def enter(self, tensors: Sequence[Tensor]) -> Sequence[Array]:
        # Parameters are copied: NumPy takes their memory away from those who would resize it, as FSDP2 does.
        own = (t.detach().clone() if type(t) is torch.nn.Parameter else t.detach() for t in tensors)
        return [tensor.resolve_conj().resolve_neg().numpy() for tensor in own]

    def leave(self, array: Array) -> Tensor:
        return torch.from_numpy(array)

    def matmul(self, x: Array, y: Array, out: Array | None = None) -> Array:
        if x.size * y.shape[-1] * (y.shape[0] if x.ndim < y.ndim else 1) < PRODUCT:
            return np.matmul(x, y)
        return TORCH.matmul(torch.from_numpy(x), torch.from_numpy(y)).numpy()

    def write(self, whole: Array, view: View, array: Array) -> None:
        assert view.items is not None
        part = whole[view.items if isinstance(view.items, int) else slice(*view.items)]
        if view.perm is not None:
            part = part.reshape(view.axes).transpose(view.perm)
        elif view.transposed:
            part = part.reshape(view.shape).swapaxes(-1, -2)
        part[...] = array.reshape(part.shape)

    def empty(self, size: int, like: Array) -> Array:
        return np.empty(size, like.dtype)

    def conj(self, array: Array) -> Array:
        return array.conj() if array.dtype.kind == "c" else array

    def adjoint(self, array: Array) -> Array:
        return self.conj(array.swapaxes(-1, -2))

    def sum_products(self, x: Array, y: Array) -> Array:
        return TORCH.sum_products(torch.from_numpy(x), torch.from_numpy(y)).numpy()

    def inverse_rms(self, x: Array, in_pieces: bool = False) -> Array:
        flat = torch.from_numpy(x).reshape(-1)  # NumPy's own product would call up threads beside those of torch
        return 1.0 / math.sqrt(torch.vdot(flat, flat).real.item() / x.size + TINY)

    def activate(self, x: Array, activation: str | None, scale: Array | None, out: Array | None = None) -> Array:
        return TORCH.activate(torch.from_numpy(x), activation, scale).numpy()


TORCH = TorchLibrary()
HOST = HostLibrary()
