"""How torch runs a program: one autograd function per call, whose backward pass is written out by hand.

Autograd would keep every state between two products, and pay for a fresh buffer each time. Here the forward pass of a
large program keeps the states around the activations and those of the last stage, and the backward pass makes the
others again, stage by stage, in buffers that it uses again (Griewank & Walther, ACM Trans. Math. Softw. 26, 19 (2000),
with one checkpoint per stage). That of a smaller one keeps every operand as it was multiplied.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deeptn import activations
from deeptn._typing import Array
from deeptn.program import Activate, Contract, Crop, Join, Pad, Permute, Program, View
from deeptn.runner import Pool, execute, library, pieces, run_plain, start

from .libraries import HOST, TORCH, TorchLibrary


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
    with _full_precision(inputs[0]):
        leaves = _leaves(program, inputs)
        if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves):
            return _Contraction.apply(program, *leaves)  # type: ignore[no-any-return]
        lib = _library(program, leaves)
        registers = _registers(program, lib.enter(leaves))
        return lib.leave(execute(program, program.steps, registers, lib, Pool(TORCH) if lib is TORCH else None))


def _full_precision(tensor: Tensor) -> Any:
    """Switch autocast off: a contraction of many small tensors is not for half precision."""
    return torch.autocast(tensor.device.type, enabled=False) if autocasts(tensor) else contextlib.nullcontext()


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on for the device of a tensor."""
    kind = tensor.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _library(program: Program, leaves: Sequence[Tensor]) -> TorchLibrary:
    return HOST if program.is_small and all(leaf.is_cpu for leaf in leaves) else TORCH


def _is_transformed(inputs: Sequence[Tensor]) -> bool:
    return (
        torch.compiler.is_compiling()
        or _is_functorch_active()
        or torch._C._get_tracing_state() is not None  # torch.jit.trace
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or not all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in inputs)
    )


def _leaves(program: Program, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What the steps read, contiguous. Stacks are made here, where autograd follows: it handles many tensors faster."""
    registers = start(program, inputs, TORCH)
    return [registers[number].contiguous() for number in program.leaves]


def _registers(program: Program, leaves: Sequence[Tensor]) -> list[Any]:
    registers: list[Any] = [None] * (program.first_step + len(program.steps))
    for number, leaf in zip(program.leaves, leaves):
        registers[number] = leaf
    return registers


def gradients(program: Program, inputs: Sequence[Tensor], needed: Sequence[bool], grad: Tensor) -> list[Tensor]:
    """Gradients towards the inputs that are `needed`, from the inputs alone; each with its own memory."""
    reads = {number: needed[number] for number in range(len(inputs))}
    reads |= {number: any(needed[k] for k in stack) for number, stack in program.numbered_stacks}
    wanted = [reads.get(number, False) for number in program.leaves]
    with _full_precision(grad):
        leaves = _leaves(program, inputs)
        parts = _Reverse(program, leaves, _forward(program, leaves)[1], wanted).run(grad)
    found: list[Tensor | None] = [None] * len(inputs)

    def add(number: int, part: Tensor) -> None:
        held = found[number]
        found[number] = part if held is None else held + part

    stacks = dict(program.numbered_stacks)
    for number, part in zip(program.leaves, parts):
        if part is not None:
            for k, piece in zip(stacks[number], part.unbind()) if number in stacks else [(number, part)]:
                add(k, piece)
    empty = (x.new_zeros(x.shape) if g is None else g for x, g in zip(inputs, found))
    return [g.clone(memory_format=torch.contiguous_format) for g, is_needed in zip(empty, needed) if is_needed]


class _Contraction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, program: Program, *leaves: Tensor) -> Tensor:
        result, ctx.kept = _forward(program, leaves)
        ctx.program = program
        ctx.save_for_backward(*leaves)
        # No view, so that it may be changed in place.
        return result.new_empty(0).set_(result)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        program, leaves, needed = ctx.program, ctx.saved_tensors, ctx.needs_input_grad[1:]
        again = torch.is_grad_enabled()  # create_graph=True: the gradient itself is to be differentiated
        with _full_precision(grad):
            if not again and not _is_batched(grad):
                return None, *_Reverse(program, leaves, ctx.kept, needed, not _keeps_graph()).run(grad)
            with torch.enable_grad():
                result = execute(program, program.steps, _registers(program, leaves), library("torch"), None)
            wanted = [tensor for tensor, is_needed in zip(leaves, needed) if is_needed]
            found = iter(torch.autograd.grad(result, wanted, grad, create_graph=again))
            return None, *(next(found) if is_needed else None for is_needed in needed)


def _is_batched(grad: Tensor) -> bool:
    """Whether many gradients come at a time: ``torch.autograd.grad(is_grads_batched=True)``, or `torch.func`."""
    functorch = torch._C._functorch  # type: ignore[attr-defined]
    return functorch.is_legacy_batchedtensor(grad) or functorch.is_batchedtensor(grad)


def _is_functorch_active() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None  # type: ignore[attr-defined]


def _keeps_graph() -> bool:
    """Whether a second backward pass may follow, so that what is kept may not be written over."""
    autograd: Any = torch._C._autograd  # type: ignore[attr-defined]
    ask = getattr(autograd, "_get_current_graph_task_keep_graph", None)  # not in every version of torch
    return ask is None or ask()


@dataclass(slots=True)
class _Kept:
    """What a backward pass wants to find.

    Attributes
    ----------
    registers : list of Tensor
        Results of the steps, where those in between are to be made again: ``program.kept``.
    tape : dict
        By result: operand and factor of an activation, and, where nothing is made again, the operands of a product.
    library : TorchLibrary
        What computed them.
    """

    library: TorchLibrary
    registers: list[Any] = field(default_factory=list)
    tape: dict[int, Any] = field(default_factory=dict)


def _forward(program: Program, leaves: Sequence[Tensor]) -> tuple[Tensor, _Kept]:
    lib = _library(program, leaves)
    registers = _registers(program, lib.enter(leaves))
    kept = _Kept(lib)
    keep, pool = (program.kept, Pool(TORCH)) if program.recompute else ((), None)
    result = execute(program, program.steps, registers, lib, pool, keep, kept.tape)
    if program.recompute:
        registers[program.result] = None
        kept.registers = registers
    return lib.leave(result), kept


class _Reverse:
    """One backward pass. Keys of the pool: a register for its value, its bitwise complement for its gradient."""

    def __init__(
        self, program: Program, leaves: Sequence[Tensor], kept: _Kept, needed: Sequence[bool], last: bool = True
    ):
        self.program = program
        self.leaves = leaves
        self.lib = kept.library
        self.tape = kept.tape if last else dict(kept.tape)
        self.last = last
        self.registers: list[Any] = []
        if program.recompute:
            self.registers = _registers(program, leaves)
            self.registers[program.first_step :] = kept.registers[program.first_step :]
            if last:
                kept.registers = []
        self.pool = Pool(TORCH) if self.lib is TORCH else None
        self.grads: list[Any] = [None] * (program.first_step + len(program.steps))
        self.active = program.active(tuple(needed))

    def run(self, grad: Tensor) -> list[Tensor | None]:
        """Gradients towards the leaves, None for those that are not needed."""
        program, grads = self.program, self.grads
        # An expanded gradient, as that of a sum, has strides of zero, of which BLAS knows nothing.
        grads[program.result] = self.lib.enter([grad.contiguous()])[0]
        for segment, inner in zip(reversed(program.segments), reversed(program.inner)):
            if program.recompute:
                missing = [step for step in inner if self.registers[step.result] is None]
                execute(program, missing, self.registers, TORCH, self.pool, program.operands)
            for step in reversed(segment):
                found = grads[step.result]
                grads[step.result] = None
                if found is None:
                    continue
                if type(step) is Contract:
                    self.product(step, found)
                elif type(step) is Activate:
                    self.activation(step, found)
                elif type(step) is Crop:
                    self.add(step.register, self.lib.pad(found, step.axes))
                elif type(step) is Pad:
                    if self.active[step.register]:
                        part = found.reshape(step.shape)
                        self.add(step.register, part[(slice(None), *(slice(0, n) for n in step.axes[1:]))])
                elif type(step) is Join:
                    self.join(step, found)
                else:
                    assert type(step) is Permute
                    if self.active[step.register]:
                        self.add(step.register, self.permuted_back(found, step.axes, step.perm))
                if self.pool is not None:
                    self.pool.give(~step.result)
        found = [grads[number] if self.active[number] else None for number in program.leaves]
        return [
            None if grad is None else self.lib.leave(grad.reshape(leaf.shape)) for grad, leaf in zip(found, self.leaves)
        ]

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
        # The gradient of the smaller operand reads the larger one, whose buffer the other gradient then takes.
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
            parts = grad, grad * 1 if both else grad  # each may be written into, here or by its parameter's optimizer
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
        """Gradient of one operand of a product: ``grad @ otherᴴ`` of the left one, ``otherᴴ @ grad`` of the right."""
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
        """Add the gradient of an operand to that of its register."""
        if view.items is None:
            if view.perm is not None:
                grad = self.permuted_back(grad, view.axes, view.perm)
            self.add(view.register, grad)
            return
        # Every item of a stack is read once, so that its gradient is written once.
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
        """Gradient of ``f(s·x)``, 1/s being the root of the mean square of the n entries of x.

        With g, that of f at s·x, it is ``s·g − x·s³·(x·g)/n``.
        """
        x, scale = self.tape.pop(step.result)
        if self.active[step.register]:
            x = self.lib.leave(x)
            grad = self.lib.leave(grad).reshape(x.shape)
            derivative = None if step.activation is None else _derivative(step.activation)
            moved, out = False, None
            if self.pool is not None:
                moved = grad.is_contiguous() and self.pool.move(~step.result, ~step.register)
                out = grad if moved else self.pool.take(~step.register, tuple(grad.shape), grad)
            if out is None:
                out = torch.empty_like(grad, memory_format=torch.contiguous_format)
            inner: Any = 0.0
            for value, g, target in pieces(x, grad, out):
                found = g if derivative is None else derivative(g, value, scale)
                if scale is not None:
                    inner = inner + torch.vdot(value, found).real
                    torch.mul(found, scale, out=target)
                elif found is not target:
                    target.copy_(found)
            if scale is not None:
                slope = inner * (-(scale**3) / x.numel())
                for value, target in pieces(x, out):
                    target.addcmul_(value, slope)
            self.add(step.register, self.lib.enter([out])[0])
        if step.register >= self.program.first_step:
            if self.program.recompute:
                self.registers[step.register] = None
            if self.pool is not None and self.last:
                self.pool.adopt(x)

    def release(self, reader: Contract, view: View, operand: Array) -> None:
        """Nobody reads this value again: its buffer may hold a gradient."""
        if self.pool is None or view.items is not None or view.register < self.program.first_step:
            return
        if self.program.first_reads[view.register] != reader.result:
            return
        step = self.program.steps[view.register - self.program.first_step]
        if type(step) is Activate and step.in_place:  # its derivative is still to be told
            return
        if self.program.recompute:
            self.registers[view.register] = None
        if not self.pool.give(view.register) and self.last:
            self.pool.adopt(operand)


def _derivative(activation: str) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The gradient of an activation f at s·x, from that towards f(s·x), x and s."""
    if activation == "relu":
        return lambda grad, x, scale: torch.ops.aten.threshold_backward(grad, x, 0)
    function = activations.resolve(activation)

    def derivative(grad: Tensor, x: Tensor, scale: Tensor | None) -> Tensor:
        with torch.enable_grad(), _autograd_on():
            x = (x if scale is None else x * scale).detach().requires_grad_()
            return torch.autograd.grad(function(x), x, grad)[0]

    return derivative


def _autograd_on() -> Any:
    """Let autograd record inside a custom operator too, which runs below it."""
    return torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)
