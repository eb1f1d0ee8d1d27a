"""Programs as torch operators: `torch.compile` sees a contraction as one opaque call, without a graph break."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from deeptn.base import Owner
from deeptn.engine import Program, run_plain

from .runner import gradients, run

_PROGRAMS: WeakValueDictionary[int, Program] = WeakValueDictionary()
_LOCK = threading.Lock()


def register(program: Program, owner: Owner) -> int:
    """Register a program for as long as its owner lives; return its number, which the operators take.

    The number is the same in every process, because compiled graphs that contain it may be kept on disk.
    """
    with _LOCK:
        owner.pinned[program.number] = _PROGRAMS.setdefault(program.number, program)
    return program.number


def _registered(number: int) -> Program:
    program = _PROGRAMS.get(number)
    if program is None:
        raise RuntimeError(
            "a compiled graph needs the program of a deeptn layer that does not exist in this process, or no longer; "
            "keep or build the model that was compiled"
        )
    return program


@torch.library.custom_op("deeptn::contract", mutates_args=())
def contract(inputs: Sequence[Tensor], number: int) -> Tensor:
    """Run a registered program on float32, float64 or complex inputs, in the order of ``program.inputs``."""
    return run(_registered(number), inputs).contiguous()


@contract.register_fake
def _(inputs: Sequence[Tensor], number: int) -> Tensor:
    shape = [inputs[-1].shape[0] if size == -1 else size for size in _registered(number).shape]
    return inputs[0].new_empty(shape)


@torch.library.custom_op("deeptn::contract_backward", mutates_args=())
def contract_backward(grad: Tensor, inputs: Sequence[Tensor], number: int, needed: Sequence[bool]) -> list[Tensor]:
    """Return the gradients of `contract` for the inputs that need one; nothing is kept from the forward pass."""
    return gradients(_registered(number), inputs, needed, grad)


@contract_backward.register_fake
def _(grad: Tensor, inputs: Sequence[Tensor], number: int, needed: Sequence[bool]) -> list[Tensor]:
    return [
        torch.empty_like(x, memory_format=torch.contiguous_format) for x, is_needed in zip(inputs, needed) if is_needed
    ]


@torch.compiler.allow_in_graph
def contract_in_steps(inputs: Sequence[Tensor], number: int) -> Tensor:
    """Run a registered program as plain steps, which exports, `torch.func` and `torch.jit.trace` can follow."""
    return run_plain(_registered(number), inputs)


def _setup(ctx: Any, inputs: Any, output: Tensor) -> None:
    tensors, ctx.number = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[list[Tensor | None], None]:
    inputs = ctx.saved_tensors
    needed = [x.requires_grad for x in inputs]
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True: to be differentiated again
        views = [x.view_as(x) for x in inputs]  # one input may depend on another, or be the same
        wanted = [view for view in views if view.requires_grad]
        result = run(_registered(ctx.number), views)
        found = iter(torch.autograd.grad(result, wanted, grad, create_graph=True, materialize_grads=True))
    else:
        found = iter(contract_backward(grad, list(inputs), ctx.number, needed))
    return [next(found) if is_needed else None for is_needed in needed], None


contract.register_autograd(_backward, setup_context=_setup)
