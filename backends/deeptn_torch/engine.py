"""How torch runs a program: one autograd function per call, whose backward pass is written out by hand.

Autograd would keep every state between two products, and pay for a fresh buffer each time. Here the forward pass keeps
the states that enter the stages, and the backward pass makes the others again, stage by stage, in buffers that it uses
again (Griewank & Walther, ACM Trans. Math. Softw. 26, 19 (2000), with one checkpoint per stage).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deeptn import activations
from deeptn.program import Activate, Contract, Permute, Program, View
from deeptn.runner import LARGE, Pool, execute, library, pieces, root_mean_square, run_plain, start

_TORCH = library("torch")


def run(program: Program, inputs: Sequence[Tensor]) -> Tensor:
    """Execute a program on tensors; registered as the runner for torch.

    Parameters
    ----------
    program : deeptn.program.Program
    inputs : sequence of Tensor
        In the order of ``program.inputs``.

    Returns
    -------
    Tensor
        Differentiable any number of times. Under `torch.compile`, `torch.export`, `torch.func`, forward-mode automatic
        differentiation and dispatch modes the plain steps run, which those can follow.
    """
    if _is_transformed(inputs):
        return run_plain(program, inputs)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _Contraction.apply(program, *inputs)  # type: ignore[no-any-return]
    return execute(program, program.steps, start(program, inputs), _TORCH, Pool(_TORCH))


def _is_transformed(inputs: Sequence[Tensor]) -> bool:
    return (
        torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None  # type: ignore[attr-defined]
        or torch._C._get_tracing_state() is not None  # torch.jit.trace
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or not all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in inputs)
    )


def gradients(program: Program, inputs: Sequence[Tensor], needed: Sequence[bool], grad: Tensor) -> list[Tensor | None]:
    """Gradients towards the inputs that are `needed`, contiguous, from the inputs alone."""
    kept = _forward(program, inputs)[1]
    found = _Reverse(program, inputs, kept, needed).run(grad)
    empty = (x.new_zeros(x.shape) if g is None and is_needed else g for x, g, is_needed in zip(inputs, found, needed))
    return [None if g is None else g.contiguous() for g in empty]


def _forward(program: Program, inputs: Sequence[Tensor]) -> tuple[Tensor, dict[int, Tensor]]:
    """The result, and the registers that the backward pass wants to find."""
    wanted = program.checkpoints if program.recompute else program.operands
    registers = start(program, inputs)
    result = execute(program, program.steps, registers, _TORCH, Pool(_TORCH), wanted)
    return result, {number: registers[number] for number in wanted if number >= len(inputs)}


class _Contraction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, program: Program, *inputs: Tensor) -> Tensor:
        result, ctx.kept = _forward(program, inputs)
        ctx.program = program
        ctx.save_for_backward(*inputs)
        # No view, so that it may be changed in place.
        return result.new_empty(0).set_(result)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        program, inputs = ctx.program, ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the gradient itself is to be differentiated
            wanted = [tensor for tensor, needed in zip(inputs, ctx.needs_input_grad[1:]) if needed]
            found = iter(torch.autograd.grad(run_plain(program, inputs), wanted, grad, create_graph=True))
            return None, *(next(found) if needed else None for needed in ctx.needs_input_grad[1:])
        return None, *_Reverse(program, inputs, ctx.kept, ctx.needs_input_grad[1:]).run(grad)


class _Reverse:
    """One backward pass. Keys of the pool: a register for its value, its bitwise complement for its gradient."""

    def __init__(self, program: Program, inputs: Sequence[Tensor], kept: dict[int, Tensor], needed: Sequence[bool]):
        self.program = program
        self.registers = registers = start(program, inputs)
        for number, array in kept.items():
            registers[number] = array
        self.pool = Pool(_TORCH)
        self.grads: list[Any] = [None] * len(registers)
        self.needed = needed
        self.active = [*needed, *[False] * (len(registers) - len(needed))]
        for step in program.steps:
            if type(step) is Contract:
                self.active[step.result] = self.active[step.left.register] or self.active[step.right.register]
            else:
                self.active[step.result] = self.active[step.register]  # type: ignore[union-attr]

    def run(self, grad: Tensor) -> list[Tensor | None]:
        program, registers = self.program, self.registers
        self.grads[program.result] = grad
        for segment in reversed(program.segments):
            inner = program.operands - program.checkpoints
            missing = [step for step in segment if step.result in inner and registers[step.result] is None]
            execute(program, missing, registers, _TORCH, self.pool, program.operands)
            for step in reversed(segment):
                grad = self.grads[step.result]
                self.grads[step.result] = None
                if grad is None:
                    continue
                if type(step) is Contract:
                    self.product(step, grad)
                elif type(step) is Activate:
                    self.activation(step, grad)
                elif type(step) is Permute:
                    self.permutation(step, grad)
                self.pool.give(~step.result)
        shapes = [tensor.shape for tensor in registers[: len(self.needed)]]
        grads = [None if g is None else g.reshape(shape) for g, shape in zip(self.grads, shapes)]
        return [g if needed else None for g, needed in zip(grads, self.needed)]

    def add(self, register: int, grad: Tensor) -> None:
        held = self.grads[register]
        self.grads[register] = grad if held is None else held.reshape(-1) + grad.reshape(-1)

    def product(self, step: Contract, grad: Tensor) -> None:
        grad = grad.reshape(step.shape)
        left = _TORCH.view(self.registers[step.left.register], step.left)
        right = _TORCH.view(self.registers[step.right.register], step.right)
        if left.numel() <= right.numel():
            near, far, x, y = step.left, step.right, left, right
        else:
            near, far, x, y = step.right, step.left, right, left
        del left, right
        # The gradient of the smaller operand reads the larger one, whose buffer the other gradient then takes.
        self.operand(near, x.shape, y, grad, near is step.left)
        shape = y.shape
        del y
        self.release(far.register)
        self.operand(far, shape, x, grad, far is step.left)
        self.release(near.register)

    def operand(self, view: View, shape: torch.Size, other: Tensor, grad: Tensor, is_left: bool) -> None:
        """Gradient of one operand of a product: ``grad @ otherᴴ`` of the left one, ``otherᴴ @ grad`` of the right."""
        if not self.active[view.register]:
            return
        if other.is_complex():
            other = other.conj()
        if other.ndim < grad.ndim:
            other = other.expand(grad.shape[0], -1, -1)
        first, second = (grad, other.mT) if is_left else (other.mT, grad)
        if view.transposed:
            first, second = second.mT, first.mT
            shape = torch.Size((*shape[:-2], shape[-1], shape[-2]))
        if len(shape) < first.ndim:
            found = _summed_over_batch(first, second)
        elif (out := self.pool.take(~view.register, shape, grad)) is not None:
            torch.matmul(first, second, out=out)
            found = out
        else:
            found = torch.matmul(first, second)
        if view.perm is not None:
            assert view.axes is not None
            found = _permuted_back(found, view.axes, view.perm)
        self.add(view.register, found)

    def activation(self, step: Activate, grad: Tensor) -> None:
        """Gradient of ``f(x / r)``, r being the root of the mean square of x, piece by piece."""
        x = self.registers[step.register]
        if self.active[step.register]:
            if not (grad.is_contiguous() and self.pool.move(~step.result, ~step.register)):
                out = self.pool.take(~step.register, grad.shape, grad)
                grad = grad.clone(memory_format=torch.contiguous_format) if out is None else out.copy_(grad)
            scale = root_mean_square(list(pieces(x))) if step.normalize else None
            function = activations.resolve(step.activation) if step.activation else None
            inner: Any = 0.0
            for value, g in pieces(x, grad):
                value = value if scale is None else value / scale
                if function is not None:
                    with torch.enable_grad(), _autograd_on():
                        value = value.detach().requires_grad_()
                        (found,) = torch.autograd.grad(function(value), value, g)
                    g.copy_(found)
                if scale is not None:
                    inner = inner + torch.vdot(value.detach(), g).real
            if scale is not None:
                for value, g in pieces(x, grad):
                    g.div_(scale).sub_(value * (inner / (x.numel() * scale**2)))
            self.add(step.register, grad)
        self.release(step.register)

    def permutation(self, step: Permute, grad: Tensor) -> None:
        if self.active[step.register]:
            self.add(step.register, grad if step.perm is None else _permuted_back(grad, step.axes, step.perm))

    def release(self, register: int) -> None:
        """Nobody reads this value again."""
        if register >= len(self.needed):
            self.registers[register] = None
            self.pool.give(register)


def _permuted_back(array: Tensor, axes: tuple[int, ...], perm: tuple[int, ...]) -> Tensor:
    inverse = sorted(range(len(perm)), key=perm.__getitem__)
    return array.reshape([axes[k] for k in perm]).permute(inverse)


def _autograd_on() -> Any:
    """Let autograd record inside a custom operator too, which runs below it."""
    return torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)


def _summed_over_batch(x: Tensor, y: Tensor) -> Tensor:
    """``sum_b x[b] @ y[b]``, in parts, so that the single products need little room."""
    size = max(1, LARGE // (x.shape[1] * y.shape[2]))
    if len(x) <= size:
        return torch.bmm(x, y).sum(0)
    return sum(torch.bmm(a, b).sum(0) for a, b in zip(x.split(size), y.split(size)))  # type: ignore[return-value]
