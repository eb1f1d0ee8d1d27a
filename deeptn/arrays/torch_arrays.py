"""PyTorch tensors. PyTorch is imported when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np

from ..base import Array, Params, Shape, optional
from .array_library import ArrayLibrary, numpy_dtype
from .operations import squared_norm
from .tuning import Tuning


@final
class TorchArrays(ArrayLibrary):
    """PyTorch, using only operations that its tracers and transformations can follow.

    `deeptn_torch.engine` has faster ones, for tensors with data.
    """

    name = "torch"
    has_gradients = True
    home = "cpu"  # regardless of the current default device
    buffers = False

    def __init__(self, tuning: Tuning):
        super().__init__(tuning)
        self._torch: Any = optional("torch", "torch")

    def permute(self, array: Array, axes: Sequence[int]) -> Array:
        return array.permute(axes)

    def stack(self, arrays: Sequence[Array]) -> Array:
        return self._torch.stack(arrays)

    def matmul(self, x: Array, y: Array, out: Array | None = None) -> Array:
        product = self._torch.mm if x.ndim == y.ndim == 2 else self._torch.bmm
        if x.ndim < y.ndim:
            x = x.expand(y.shape[0], -1, -1)  # torch would fold the batch, which moves the larger operand
        return product(x, y) if out is None else product(x, y, out=out)

    def empty(self, size: int, like: Array) -> Array:
        return like.new_empty(size)

    def settled(self, array: Array) -> Array:
        return array

    def sum_of_squares(self, x: Array) -> Array:
        # Exported models contain these operations, and onnxruntime loses digits in one long sum.
        if not x.ndim:
            return squared_norm(x.reshape(-1))
        return (x * x.conj()).sum(-1).sum().real if x.is_complex() else (x * x).sum(-1).sum()

    def peak(self, x: Array) -> Array:
        x = x.detach()
        return super().peak(x) if x.is_complex() else x.abs().max()  # ONNX lacks the operation that autoray takes

    def on_cpu(self, array: Array) -> bool:
        return array.is_cpu

    def device(self, array: Array) -> Any:
        return array.device

    def place(self, array: Array) -> str | None:
        return str(array.device)

    def from_numpy(self, array: np.ndarray, dtype: str, device: Any) -> Array:
        # An explicit device takes precedence over the default device.
        tensor = self._torch.tensor(np.asarray(array, order="C"), device=device)
        return tensor.to(device=device, dtype=getattr(self._torch, dtype))

    def from_raw(self, array: np.ndarray) -> Array:
        own = np.array(array, order="C")
        if array.dtype.kind != "V":
            return self._torch.from_numpy(own)
        flat = self._torch.from_numpy(own.reshape(-1).view("uint8"))
        return flat.view(getattr(self._torch, array.dtype.name)).reshape(array.shape)

    def to_raw(self, array: Array) -> np.ndarray:
        array = array.detach().resolve_conj().resolve_neg().cpu().contiguous()
        name = self.dtype(array)
        if name != "bfloat16" and not name.startswith("float8"):
            return array.numpy()
        raw = array.reshape(-1).view(self._torch.uint8).numpy()
        return raw.view(numpy_dtype(name)).reshape(tuple(array.shape))

    def constant(self, values: tuple[float, ...], shape: Shape, like: Array) -> Array:
        made = like.new_tensor(values).reshape(shape)
        if hasattr(like, "full_tensor"):  # a DTensor, which combines with DTensors only
            dtensors = optional("torch.distributed.tensor", "torch")
            return dtensors.DTensor.from_local(made, like.device_mesh, [dtensors.Replicate()] * like.device_mesh.ndim)
        # A trace or export would fix the dtype: its constants follow the parameters to another one.
        return made.type_as(like) if self._torch.jit.is_tracing() or self._torch.compiler.is_exporting() else made

    def astype(self, array: Array, dtype: str) -> Array:
        return array.to(dtype=getattr(self._torch, dtype))

    def threads(self) -> int | None:
        return self._torch.get_num_threads()

    def compiled(self, function: Callable[..., Array]) -> Callable[..., Array]:
        return function

    def wait(self, array: Array) -> None:
        if not array.is_cpu:
            array.reshape(-1)[:1].cpu()

    def pull_back(
        self, function: Callable[[Params], Array], params: Mapping[str, Array], cotangent: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
        found = function(leaves)
        weights = self._torch.from_numpy(cotangent).to(found)
        grads = self._torch.autograd.grad(found, [*leaves.values()], weights, allow_unused=True)
        zeros = {name: np.zeros(leaf.shape) for name, leaf in leaves.items()}
        return self.to_raw(found), {
            name: zeros[name] if grad is None else self.to_raw(grad) for name, grad in zip(leaves, grads)
        }
