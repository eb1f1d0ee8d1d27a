"""Run programs in torch: one autograd function per call, whose backward pass is written by hand.

Plain autograd would keep every state between two products and allocate a new buffer for each. Here, the forward pass
of a large program keeps only the states around the activations and those of the last stage. The backward pass
recomputes the others stage by stage, in reused buffers (Griewank & Walther, ACM Trans. Math. Softw. 26, 19 (2000), with
one checkpoint per stage). The forward pass of a smaller program keeps every operand as the matrix that was multiplied.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from deeptn.arrays import library_of
from deeptn.engine import Pool, Program, Run, execute, run_plain, start

from .arrays import HOST, TORCH, TORCH_ON_GPU, TensorOperations
from .reverse import Reverse, autograd_on, registers_of

# Bound here because every call of a layer asks whether it is traced.
_functorch_stack = torch._C._functorch.peek_interpreter_stack  # type: ignore[attr-defined]
_tracing_state = torch._C._get_tracing_state
_dispatch_modes = torch._C._len_torch_dispatch_stack
_depth = torch._C._functorch.get_dynamic_layer_stack_depth  # type: ignore[attr-defined]
_jit: Any = torch.jit
is_recorded = _jit.is_tracing  # by torch.jit.trace
_saving_hooks = torch._C._autograd._top_saved_tensors_default_hooks  # type: ignore[attr-defined]
_forward_ad = torch.autograd.forward_ad


def run(program: Program, inputs: Sequence[Tensor]) -> Tensor:
    """Execute a program on tensors; registered as the runner for torch.

    The tensors are in the order of ``program.inputs``; the result can be differentiated any number of times. Under
    `torch.compile`, `torch.export`, `torch.func`, forward-mode differentiation and dispatch modes, the program runs as
    plain steps, which these can trace.
    """
    if is_transformed(inputs):
        return run_plain(program, inputs)
    with full_precision(inputs[0]), np.errstate(all="ignore"):  # torch does not warn of overflow either
        leaves = leaves_of(program, inputs)
        if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves):
            return _Contraction.apply(program, *leaves)  # type: ignore[no-any-return]
        lib = operations_for(program, leaves)
        registers = registers_of(program, lib.enter(leaves))
        return lib.leave(execute(program, program.steps, Run(registers, lib, Pool(lib) if lib.buffers else None)))


def is_transformed(inputs: Sequence[Tensor]) -> bool:
    """Return whether a tracer or a transformation of torch sees the operations on these tensors."""
    return is_traced() or not all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in inputs)


def is_traced() -> bool:
    """Return whether a tracer or a transformation of torch is active."""
    return (
        torch.compiler.is_compiling()
        or _functorch_stack() is not None
        or _tracing_state() is not None  # torch.jit.trace
        or _forward_ad._current_level >= 0
        or _dispatch_modes() > 0
    )


def is_followed() -> bool:
    """Return whether a compiler or tracer has to see the steps: it cannot use an operator of deeptn."""
    return torch.compiler.is_exporting() or _depth() > 0 or is_recorded()


def gradients(program: Program, inputs: Sequence[Tensor], needed: Sequence[bool], grad: Tensor) -> list[Tensor]:
    """Return gradients for the `needed` inputs, computed from the inputs alone; each has its own memory."""
    with torch.enable_grad(), autograd_on():
        leaves = [x.detach().requires_grad_(is_needed) for x, is_needed in zip(inputs, needed)]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        found = torch.autograd.grad(run(program, leaves), wanted, grad, materialize_grads=True)
    return [g.clone(memory_format=torch.contiguous_format) for g in found]


def full_precision(tensor: Tensor) -> Any:
    """Return a context that disables autocast: half precision does not suit contractions of many small tensors."""
    return torch.autocast(tensor.device.type, enabled=False) if autocasts(tensor) else contextlib.nullcontext()


def autocasts(tensor: Tensor) -> bool:
    """Return whether autocast is enabled for the device of a tensor."""
    kind = tensor.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def operations_for(program: Program, leaves: Sequence[Tensor]) -> TensorOperations:
    """Choose NumPy, on the memory of the tensors, for small programs on the CPU, otherwise torch."""
    if not all(leaf.is_cpu for leaf in leaves):
        return TORCH_ON_GPU
    return HOST if program.is_small(HOST.tuning) else TORCH


def leaves_of(program: Program, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return what the steps read, contiguous. Stacks are built under autograd, which handles many tensors faster."""
    registers = start(program, inputs, TORCH)
    return [registers[number].contiguous() for number in program.leaves]


def _forward(program: Program, leaves: Sequence[Tensor]) -> tuple[Tensor, Run]:
    """Return the result and what a backward pass needs.

    If the backward pass recomputes states, it needs the registers in ``program.kept``; otherwise the operands of every
    product, which the tape then stores next to the operands and scales of the activations.
    """
    lib = operations_for(program, leaves)
    kept = Run(registers_of(program, lib.enter(leaves)), lib, tape={})
    if program.recompute:
        kept.pool = Pool(lib)
        result = execute(program, program.steps, kept, program.kept)
        kept.registers[: program.first_step] = [None] * program.first_step
        kept.registers[program.result] = None
        kept.pool = None
    else:
        kept.operands = kept.tape
        result = execute(program, program.steps, kept)
        kept.registers = []
    return lib.leave(result), kept


class _Contraction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, program: Program, *leaves: Tensor) -> Tensor:
        result, kept = _forward(program, leaves)
        ctx.program, ctx.kept, ctx.arrays = program, kept, None
        arrays: list[Tensor] = []
        if _saving_hooks(False) is not None:
            arrays, ctx.arrays = _arrays_of(kept)
        ctx.save_for_backward(*leaves, *arrays)
        # A tensor that is not a view, so that it may be modified in place.
        return result.new_empty(0).set_(result)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        program, saved, needed = ctx.program, ctx.saved_tensors, ctx.needs_input_grad[1:]
        leaves, arrays = saved[: len(needed)], saved[len(needed) :]
        again = torch.is_grad_enabled()  # create_graph=True: the gradient will be differentiated
        with full_precision(grad), np.errstate(all="ignore"):
            if not again and not _is_batched(grad):
                kept = ctx.kept if ctx.arrays is None else _with_arrays(ctx.kept, ctx.arrays, arrays)
                last = ctx.arrays is None and not _keeps_graph()  # tensors from a hook are not ours to overwrite
                return None, *Reverse(program, leaves, kept, needed, last).run(grad)
            with torch.enable_grad():
                views = [leaf.view_as(leaf) for leaf in leaves]  # one leaf may depend on another, or be the same
                plain = Run(registers_of(program, views), library_of(grad))
                result = execute(program, program.steps, plain)
            wanted = [tensor for tensor, is_needed in zip(views, needed) if is_needed]
            found = iter(torch.autograd.grad(result, wanted, grad, create_graph=again))
            return None, *(next(found) if is_needed else None for is_needed in needed)


def _arrays_of(kept: Run) -> tuple[list[Tensor], Any]:
    """Take the arrays out of what a backward pass needs; also return where they belong, for `_with_arrays`.

    Where hooks on saved tensors are active, autograd has to save these arrays: activation checkpointing then frees
    them, and other hooks move them to another device. Without hooks, it would only take time to save each of them.
    """
    values, form = tree_flatten((kept.tape, kept.registers))
    kept.tape, kept.operands, kept.registers = None, None, []
    is_array = [isinstance(value, (Tensor, np.ndarray)) for value in values]
    lib = cast("TensorOperations", kept.lib)
    arrays = [lib.leave(value) for value, found in zip(values, is_array) if found]
    return arrays, (form, [None if found else value for value, found in zip(values, is_array)], is_array)


def _with_arrays(kept: Run, places: Any, arrays: Sequence[Tensor]) -> Run:
    """Put saved arrays back where they belong."""
    form, others, is_array = places
    entered = iter(cast("TensorOperations", kept.lib).enter(arrays))
    values = [next(entered) if found else value for value, found in zip(others, is_array)]
    tape, registers = tree_unflatten(values, form)
    # A hook may return a tensor with other strides.
    return replace(kept, tape=tape, registers=[None if x is None else x.contiguous() for x in registers])


def _is_batched(grad: Tensor) -> bool:
    """Return whether gradients come as a batch: from ``torch.autograd.grad(is_grads_batched=True)`` or `torch.func`."""
    functorch = torch._C._functorch  # type: ignore[attr-defined]
    return functorch.is_legacy_batchedtensor(grad) or functorch.is_batchedtensor(grad)


def _keeps_graph() -> bool:
    """Return whether a second backward pass may follow, so that this one must not overwrite what is kept."""
    autograd: Any = torch._C._autograd  # type: ignore[attr-defined]
    ask = getattr(autograd, "_get_current_graph_task_keep_graph", None)  # not in every version of torch
    return ask is None or ask()
