"""The reverse pass of a program, written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from deeptn.arrays import View
from deeptn.base import Array
from deeptn.engine import Activate, Contract, Crop, Join, Pad, Permute, Pool, Program, Run, Step, execute
from deeptn.spec import activations

from .arrays import TensorOperations

#: Scales between this and its inverse can be squared in every dtype.
SAFE = 1e-15


def registers_of(program: Program, leaves: Sequence[Any]) -> list[Any]:
    """Return the registers of a program, with values for those that the steps read but do not compute."""
    registers: list[Any] = [None] * (program.first_step + len(program.steps))
    for number, leaf in zip(program.leaves, leaves):
        registers[number] = leaf
    return registers


class Reverse:
    """One backward pass. In the pool, the value of register k has the key ``k``, and its gradient the key ``~k``."""

    def __init__(
        self, program: Program, leaves: Sequence[Tensor], kept: Run, needed: Sequence[bool], last: bool = True
    ):
        self.program = program
        self.leaves = leaves
        self.lib = cast("TensorOperations", kept.lib)
        tape = cast("dict[int, Any]", kept.tape)
        self.tape = tape if last else dict(tape)
        self.last = last
        self.registers: list[Any] = []
        if program.recompute:
            self.registers = registers_of(program, leaves)
            self.registers[program.first_step :] = kept.registers[program.first_step :]
            if last:
                kept.registers = []
        self.pool = Pool(self.lib) if self.lib.buffers else None
        self.grads: list[Any] = [None] * (program.first_step + len(program.steps))
        self.active = program.active(tuple(needed))

    def run(self, grad: Tensor) -> list[Tensor | None]:
        """Return the gradients with respect to the leaves, None for those that do not need one."""
        program, grads = self.program, self.grads
        # An expanded gradient, such as that of a sum, has strides of zero, which BLAS does not support.
        grads[program.result] = self.lib.enter([grad.contiguous()])[0]
        for segment, inner in zip(reversed(program.segments), reversed(program.inner)):
            if program.recompute:
                missing = [step for step in inner if self.registers[step.result] is None]
                execute(program, missing, Run(self.registers, self.lib, self.pool), program.operands)
            for step in reversed(segment):
                found = grads[step.result]
                grads[step.result] = None
                if found is None:
                    continue
                _RULES[type(step)](self, step, found)
                if self.pool is not None:
                    self.pool.give(~step.result)
        found = [grads[number] if self.active[number] else None for number in program.leaves]
        return [
            None if grad is None else self.lib.leave(grad.reshape(leaf.shape)) for grad, leaf in zip(found, self.leaves)
        ]

    def crop(self, step: Crop, grad: Array) -> None:
        self.add(step.operand, self.lib.pad(grad, step.axes))

    def pad(self, step: Pad, grad: Array) -> None:
        if self.active[step.operand]:
            part = grad.reshape(step.shape)
            self.add(step.operand, part[(slice(None), *(slice(0, n) for n in step.axes[1:]))])

    def permute(self, step: Permute, grad: Array) -> None:
        if self.active[step.operand]:
            self.add(step.operand, self.permuted_back(grad, step.axes, step.perm))

    def add(self, register: int, grad: Array) -> None:
        held = self.grads[register]
        self.grads[register] = grad if held is None else held.reshape(-1) + grad.reshape(-1)

    def product(self, step: Contract, grad: Array) -> None:
        near, far = step.left, step.right
        if grad.shape != step.shape:
            grad = grad.reshape(step.shape)
        if not self.program.recompute:
            x, y = self.tape.pop(step.result)
        else:
            x = self.lib.view(self.registers[near.register], near)
            y = self.lib.view(self.registers[far.register], far)
        # Smaller operand first: its gradient reads the larger one, whose buffer the second gradient then reuses.
        if math.prod(x.shape) > math.prod(y.shape):
            x, y, near, far = y, x, far, near
        if self.active[near.register]:
            self.place(near, self.operand(near, x.shape, y, grad, near is step.left))
        shape = y.shape
        self.release(step, far, y)
        del y
        if self.active[far.register]:
            self.place(far, self.operand(far, shape, x, grad, far is step.left))
        self.release(step, near, x)

    def join(self, step: Join, grad: Array) -> None:
        if not step.product:
            if self.pool is not None:
                self.pool.move(~step.result, ~step.left)
            both = self.active[step.left] and self.active[step.right]
            parts = grad, grad * 1 if both else grad  # each may be modified in place, here or by an optimizer
        else:
            if self.program.recompute:
                x, y = self.registers[step.left], self.registers[step.right]
            else:
                x, y = self.tape.pop(step.result)
            parts = grad * self.lib.conj(y).reshape(grad.shape), grad * self.lib.conj(x).reshape(grad.shape)
        for register, part in zip((step.left, step.right), parts):
            if self.active[register]:
                self.add(register, part)

    def operand(self, view: View, shape: Sequence[int], other: Array, grad: Array, is_left: bool) -> Array:
        """Return the gradient of an operand of a product: ``grad @ otherᴴ`` (left) or ``otherᴴ @ grad`` (right)."""
        other = self.lib.adjoint(other)
        first, second = (grad, other) if is_left else (other, grad)
        if view.transposed and view.items is None:
            first, second = second.swapaxes(-1, -2), first.swapaxes(-1, -2)
            shape = (*shape[:-2], shape[-1], shape[-2])
        if len(shape) < first.ndim:
            return self.lib.sum_products(first, second)
        if self.pool is None or view.items is not None:
            return self.lib.matmul(first, second)
        return self.lib.matmul(first, second, self.pool.take(~view.register, tuple(shape), grad))

    def place(self, view: View, grad: Array) -> None:
        """Add the gradient of an operand to the gradient of its register."""
        if view.items is None:
            if view.perm is not None:
                grad = self.permuted_back(grad, view.axes, view.perm)
            self.add(view.register, grad)
            return
        # Every item of a stack is read exactly once, so its gradient is written exactly once.
        whole = self.grads[view.register]
        if whole is None:
            count, volume = self.program.stack_shapes[view.register]
            whole = self.grads[view.register] = self.lib.empty(count * volume, grad).reshape(count, volume)
        self.lib.write(whole, view, grad)

    def permuted_back(self, array: Array, axes: tuple[int, ...] | None, perm: tuple[int, ...] | None) -> Array:
        if perm is None:
            return array
        assert axes is not None
        inverse = sorted(range(len(perm)), key=perm.__getitem__)
        return self.lib.permute(array.reshape([axes[k] for k in perm]), inverse)

    def activation(self, step: Activate, grad: Array) -> None:
        """Propagate a gradient through ``f(s·x)``, where 1/s is the root mean square of the n entries of x.

        If g is the gradient with respect to s·x, the gradient with respect to x is ``s·g − x·s³·(x·g)/n``. Here x is
        the state times `lift`.
        """
        x, scale, lift = self.tape.pop(step.result)
        if self.active[step.operand]:
            x = self.lib.leave(x)
            grad = self.lib.leave(grad).reshape(x.shape)
            derivative = None if step.activation is None else _derivative(step.activation)
            moved, out = False, None
            if self.pool is not None:
                moved = grad.is_contiguous() and self.pool.move(~step.result, ~step.operand)
                out = grad if moved else self.pool.take(~step.operand, tuple(grad.shape), grad)
            if out is None:
                out = torch.empty_like(grad, memory_format=torch.contiguous_format)
            inner: Any = 0.0
            for value, g, target in self.lib.pieces(x, grad, out):
                found = g if derivative is None else derivative(g, value, scale)
                if scale is not None:
                    torch.mul(found, scale, out=target)
                    inner = inner + torch.vdot(value, target).real
                elif found is not target:
                    target.copy_(found)
            if scale is not None:
                slope = inner / -x.numel()
                for value, target in self.lib.pieces(x, out):
                    if isinstance(scale, float) and SAFE < scale < 1 / SAFE:
                        target.add_(value, alpha=float(slope * scale * scale))
                    else:  # the square of the scale may not be a number of the dtype
                        target.addcmul_(value * scale, slope * scale)
            if lift != 1:
                out.mul_(lift)
            self.add(step.operand, self.lib.enter([out])[0])
        if step.operand >= self.program.first_step:
            if self.program.recompute:
                self.registers[step.operand] = None
            if self.pool is not None and self.last:
                self.pool.adopt(x)

    def release(self, reader: Contract, view: View, operand: Array) -> None:
        """Free the buffer of a value for gradients if this was the last step that needs the value."""
        if self.pool is None or view.items is not None or view.register < self.program.first_step:
            return
        if self.program.first_reads[view.register] != reader.result:
            return
        step = self.program.steps[view.register - self.program.first_step]
        if isinstance(step, Activate) and step.in_place:  # its derivative still needs the value
            return
        if self.program.recompute:
            self.registers[view.register] = None
        if not self.pool.give(view.register) and self.last:
            self.pool.adopt(operand)


#: How each kind of step propagates the gradient of its result to the registers that it read.
_RULES: dict[type[Step], Callable[[Reverse, Any, Array], None]] = {
    Contract: Reverse.product,
    Permute: Reverse.permute,
    Activate: Reverse.activation,
    Crop: Reverse.crop,
    Pad: Reverse.pad,
    Join: Reverse.join,
}


def _derivative(activation: str) -> Callable[[Tensor, Tensor, float | Tensor | None], Tensor]:
    """Return a function that turns the gradient for f(s·x), with x and s, into the gradient for s·x."""
    if activation == "relu":
        return lambda grad, x, scale: torch.ops.aten.threshold_backward(grad, x, 0)
    function = activations.resolve(activation)

    def derivative(grad: Tensor, x: Tensor, scale: float | Tensor | None) -> Tensor:
        with torch.enable_grad(), autograd_on():
            x = (x if scale is None else x * scale).detach().requires_grad_()
            return torch.autograd.grad(function(x), x, grad)[0]

    return derivative


def autograd_on() -> Any:
    """Let autograd record inside a custom operator, where it is normally off."""
    return torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)
