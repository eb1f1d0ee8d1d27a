"""The forward pass of a program, and what it keeps for the one backwards."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deeptn.engine import Pool, Program, Run, execute, start

from .arrays import HOST, TORCH, TORCH_ON_GPU, TensorOperations


def full_precision(tensor: Tensor) -> Any:
    """Switch autocast off: a contraction of many small tensors is not for half precision."""
    return torch.autocast(tensor.device.type, enabled=False) if autocasts(tensor) else contextlib.nullcontext()


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on for the device of a tensor."""
    kind = tensor.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def operations_for(program: Program, leaves: Sequence[Tensor]) -> TensorOperations:
    """NumPy on the tensors' memory for small programs on the CPU, else torch."""
    if not all(leaf.is_cpu for leaf in leaves):
        return TORCH_ON_GPU
    return HOST if program.is_small(HOST.tuning) else TORCH


def leaves_of(program: Program, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What the steps read, contiguous. Stacks are made here, where autograd follows: it handles many tensors faster."""
    registers = start(program, inputs, TORCH)
    return [registers[number].contiguous() for number in program.leaves]


def registers_of(program: Program, leaves: Sequence[Tensor]) -> list[Any]:
    """All registers of a program, filled with what the steps read and do not make."""
    registers: list[Any] = [None] * (program.first_step + len(program.steps))
    for number, leaf in zip(program.leaves, leaves):
        registers[number] = leaf
    return registers


@dataclass(slots=True)
class Kept:
    """What a backward pass wants to find.

    The registers hold ``program.kept``, where the others are recomputed. The tape has, by result, operand and
    factor of an activation and, where nothing is recomputed, the operands of a product.
    """

    lib: TensorOperations
    registers: list[Any] = field(default_factory=list)
    tape: dict[int, Any] = field(default_factory=dict)


def forward(program: Program, leaves: Sequence[Tensor]) -> tuple[Tensor, Kept]:
    """The result, and what a backward pass wants to find."""
    lib = operations_for(program, leaves)
    kept = Kept(lib)
    run = Run(registers_of(program, lib.enter(leaves)), lib, tape=kept.tape)
    if program.recompute:
        run.pool = Pool(lib)
        result = execute(program, program.steps, run, program.kept)
        run.registers[program.result] = None
        kept.registers = run.registers
    else:
        run.operands = kept.tape
        result = execute(program, program.steps, run)
    return lib.leave(result), kept
