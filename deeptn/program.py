"""Programs: a flat tuple of steps, pairwise matrix products of views."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

from .cost import Cost

#: Name of the index that numbers the rows of an input, and of the array that holds the input. No identifiers, so no
#: parameter can have the second one; the compiler refuses an index of the first.
BATCH = "(batch)"
INPUT = "(input)"


@dataclass(frozen=True, slots=True)
class View:
    """An operand as a matrix (or a batch of them): permute the `axes`, reshape, transpose the last two axes.

    A register holds its entries in order, in any shape; `axes` is the shape to which `perm` applies.
    """

    register: int
    axes: tuple[int, ...] | None
    perm: tuple[int, ...] | None
    shape: tuple[int, ...]
    transposed: bool


@dataclass(frozen=True, slots=True)
class Contract:
    """``result = left @ right``; the left matrix may meet a batch. `free`: registers read for the last time.

    `shape` is that of the product; -1 stands where the rows of an input are among the axis.
    """

    left: View
    right: View
    shape: tuple[int, ...]
    result: int
    free: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Permute:
    """``result = transpose(register)``; without `perm` a copy."""

    register: int
    axes: tuple[int, ...]
    perm: tuple[int, ...] | None
    result: int
    free: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Activate:
    """``result = activation(register / rms(register))``."""

    register: int
    activation: str | None
    normalize: bool
    result: int
    free: tuple[int, ...] = ()


Step: TypeAlias = Contract | Permute | Activate


@dataclass(frozen=True)
class Program:
    """A compiled network.

    Attributes
    ----------
    inputs : tuple of str
        Register k starts as the array of this name: the parameters, then `INPUT` where there is one.
    constants : tuple of (int, shape, values)
        Registers with fixed entries.
    steps : tuple of Step
        Executed in order.
    result : int
        Register of the result.
    shape : tuple of int
        Its axes; -1 for the rows of an input.
    cost : Cost
        Counted while compiling.
    recompute : bool
        Whether the backward pass makes the states within a stage again.
    """

    inputs: tuple[str, ...]
    constants: tuple[tuple[int, tuple[int, ...], tuple[float, ...]], ...]
    steps: tuple[Step, ...]
    result: int
    shape: tuple[int, ...]
    cost: Cost
    recompute: bool

    @cached_property
    def segments(self) -> tuple[tuple[Step, ...], ...]:
        """The steps of each stage; an activation stands at the head of the stage that it leads to."""
        starts = [0, *(k for k, step in enumerate(self.steps) if type(step) is Activate), len(self.steps)]
        return tuple(self.steps[a:b] for a, b in pairwise(starts))

    @cached_property
    def operands(self) -> frozenset[int]:
        """Registers that are multiplied or activated: what a gradient needs."""
        read: set[int] = set()
        for step in self.steps:
            if type(step) is Contract:
                read |= {step.left.register, step.right.register}
            elif type(step) is Activate:
                read.add(step.register)
        return frozenset(read)

    @cached_property
    def checkpoints(self) -> frozenset[int]:
        """Registers that enter an activation: from these, the operands can be made again stage by stage."""
        return frozenset(step.register for step in self.steps if type(step) is Activate)
