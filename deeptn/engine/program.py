"""Programs: a flat tuple of steps, pairwise matrix products of views."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
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

    A register holds its entries in order, in any shape; `axes` is the shape to which `perm` applies. `items` takes
    one tensor out of a stack, or some of them: ``(start, stop, step)``.

    `strided` says the same in one step: sizes, strides and offset (in elements, from the first entry of the register)
    of the matrix, or of the permuted axes where there is a `perm`. None where a size is unknown.
    """

    register: int
    axes: tuple[int, ...] | None
    perm: tuple[int, ...] | None
    shape: tuple[int, ...]
    transposed: bool
    items: int | tuple[int, int, int] | None = None
    strided: tuple[tuple[int, ...], tuple[int, ...], int] | None = field(init=False, compare=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "strided", None if -1 in self.shape else self._strided())

    def _strided(self) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        sizes = list(self.shape if self.axes is None else self.axes)
        strides = [math.prod(sizes[k + 1 :]) for k in range(len(sizes))]
        offset = 0
        if isinstance(self.items, int):
            offset = self.items * math.prod(sizes)
        elif self.items is not None:
            start, _, step = self.items
            offset, strides[0] = start * strides[0], step * strides[0]
        places = list(range(len(sizes)) if self.perm is None else self.perm)
        if self.transposed:
            places[-2:] = places[-1], places[-2]
        return tuple(sizes[k] for k in places), tuple(strides[k] for k in places), offset


@dataclass(frozen=True, slots=True)
class Contract:
    """``result = left @ right``; both may be stacks, or the left matrix may meet a batch.

    `free` are the registers that are read for the last time.

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

    @property
    def in_place(self) -> bool:
        """Whether the derivative can be told from the result alone, so that the state need not be kept."""
        return not self.normalize and self.activation == "relu"


@dataclass(frozen=True, slots=True)
class Crop:
    """``result = register`` seen with the axes `axes`, of which the first entries are kept: as many as `shape` says.

    A first axis of size -1, that of the rows of an input, is kept whole.
    """

    register: int
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    result: int
    free: tuple[int, ...] = ()

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the result, in elements."""
        return tuple(math.prod(self.axes[k + 1 :]) for k in range(len(self.axes)))


@dataclass(frozen=True, slots=True)
class Pad:
    """``result = register`` seen with the axes `axes`, zeros appended until they have the sizes `shape`."""

    register: int
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    result: int
    free: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Join:
    """``result = left + right``, or ``left * right``, element by element."""

    left: int
    right: int
    product: bool
    result: int
    free: tuple[int, ...] = ()


Step: TypeAlias = Contract | Permute | Activate | Crop | Pad | Join


def reads(step: Step) -> tuple[int, ...]:
    """The registers that a step reads."""
    if type(step) is Contract:
        return step.left.register, step.right.register
    return (step.left, step.right) if type(step) is Join else (step.register,)  # type: ignore[union-attr,return-value]


@dataclass(frozen=True)
class Program:
    """A compiled network.

    Attributes
    ----------
    inputs : tuple of str
        Register k starts as the array of this name: the parameters, then `INPUT` where there is one.
    constants : tuple of (shape, values)
        The next registers: fixed entries.
    stacks : tuple of tuple of int
        The registers after these: arrays of one shape, each a register of its own, along a new first axis.
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
    constants: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]
    stacks: tuple[tuple[int, ...], ...]
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
        """Registers that are multiplied or joined, or activated otherwise than in place: what a gradient needs."""
        read: set[int] = set()
        for step in reversed(self.steps):
            permuted = type(step) is Permute and step.result in self.joined
            if permuted or type(step) in (Contract, Join) or (type(step) is Activate and not step.in_place):
                read.update(reads(step))
        return frozenset(read)

    @cached_property
    def joined(self) -> frozenset[int]:
        """Registers that are added or multiplied element by element."""
        return frozenset(number for step in self.steps if type(step) is Join for number in reads(step))

    @cached_property
    def first_reads(self) -> dict[int, int]:
        """For every register that is read the step that does it first, by its result."""
        return {number: step.result for step in reversed(self.steps) for number in reads(step)}

    @cached_property
    def crossing(self) -> frozenset[int]:
        """Registers that are read outside of their segment, otherwise than by an activation: by joins and skips."""
        made = {step.result: number for number, segment in enumerate(self.segments) for step in segment}
        return frozenset(
            number
            for place, segment in enumerate(self.segments)
            for step in segment
            if type(step) is not Activate
            for number in reads(step)
            if made.get(number, place) != place
        )

    @cached_property
    def is_small(self) -> bool:
        """Whether the time goes into dispatching the steps: what they write fits into the caches, and is kept."""
        return not self.recompute and self.cost.write < 2**20

    @cached_property
    def checkpoints(self) -> frozenset[int]:
        """Registers around the activations: from these, the operands can be made again stage by stage."""
        found = (step for step in self.steps if type(step) is Activate)
        return self.crossing | {step.result if step.in_place else step.register for step in found}

    @cached_property
    def kept(self) -> frozenset[int]:
        """What a forward pass keeps where the rest is made again: checkpoints, and the operands of the last stage.

        A backward pass starts with these, so that it would need their memory at once.
        """
        last = {step.result for step in self.segments[-1]}
        return self.checkpoints | (self.operands & last)

    @cached_property
    def inner(self) -> tuple[tuple[Step, ...], ...]:
        """For each segment the steps whose results are operands that a backward pass makes again."""
        made = self.operands - self.kept
        return tuple(tuple(step for step in segment if step.result in made) for segment in self.segments)

    @cached_property
    def first_step(self) -> int:
        """Register of the first step: before it stand inputs, constants and stacks."""
        return len(self.inputs) + len(self.constants) + len(self.stacks)

    @cached_property
    def numbered_stacks(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The stacks with their registers."""
        return tuple(enumerate(self.stacks, len(self.inputs) + len(self.constants)))

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """Registers that the steps read and do not make."""
        read = self.operands.union(*map(reads, self.steps))
        return tuple(sorted(number for number in read if number < self.first_step))

    @cached_property
    def stack_shapes(self) -> dict[int, tuple[int, int]]:
        """For the registers that are read item by item: how many items, of how many entries."""
        lengths = {number: len(stack) for number, stack in self.numbered_stacks}
        lengths |= {step.result: step.shape[0] for step in self.steps if isinstance(step, Contract)}
        found = {}
        for step in self.steps:
            for view in (step.left, step.right) if isinstance(step, Contract) else ():
                if view.items is not None:
                    sizes = view.shape if isinstance(view.items, int) else view.shape[1:]
                    found[view.register] = lengths[view.register], math.prod(sizes)
        return found

    def active(self, needed: tuple[bool, ...]) -> tuple[bool, ...]:
        """For each register whether it depends on one of the leaves that are `needed`."""
        if needed not in self._active:
            found = [False] * self.first_step
            for number, is_needed in zip(self.leaves, needed):
                found[number] = is_needed
            for step in self.steps:
                found.append(any(found[number] for number in reads(step)))
            self._active[needed] = tuple(found)
        return self._active[needed]

    @cached_property
    def _active(self) -> dict[tuple[bool, ...], tuple[bool, ...]]:
        return {}
