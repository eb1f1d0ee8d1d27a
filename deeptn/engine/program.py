"""Programs: a flat tuple of steps, pairwise matrix products of views."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from ..arrays import Tuning
from ..base import Shape
from .cost import Cost
from .steps import Activate, Contract, Step

#: Name of the index that numbers the rows of an input, and of the array that holds the input. No identifiers, so no
#: parameter can have the second one; the compiler refuses an index of the first.
BATCH = "(batch)"
INPUT = "(input)"


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
        Whether the backward pass recomputes the states within a stage.
    """

    inputs: tuple[str, ...]
    constants: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]
    stacks: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    result: int
    shape: Shape
    cost: Cost
    recompute: bool

    @cached_property
    def segments(self) -> tuple[tuple[Step, ...], ...]:
        """The steps of each stage; an activation is the first step of the stage that it leads to."""
        starts = [0, *(k for k, step in enumerate(self.steps) if isinstance(step, Activate)), len(self.steps)]
        return tuple(self.steps[a:b] for a, b in pairwise(starts))

    @cached_property
    def operands(self) -> frozenset[int]:
        """Registers whose values a gradient needs: those that are multiplied, joined, or activated not in place."""
        return frozenset(number for step in self.steps for number in step.saves)

    @cached_property
    def first_reads(self) -> dict[int, int]:
        """For every register that is read the step that does it first, by its result."""
        return {number: step.result for step in reversed(self.steps) for number in step.reads}

    @cached_property
    def crossing(self) -> frozenset[int]:
        """Registers that are read outside of their segment, otherwise than by an activation: by joins and skips."""
        made = {step.result: number for number, segment in enumerate(self.segments) for step in segment}
        return frozenset(
            number
            for place, segment in enumerate(self.segments)
            for step in segment
            if not isinstance(step, Activate)
            for number in step.reads
            if made.get(number, place) != place
        )

    def is_small(self, tuning: Tuning) -> bool:
        """Whether the time goes into dispatching the steps: what they write fits into the caches, and is kept."""
        return not self.recompute and self.cost.write < tuning.small

    @cached_property
    def checkpoints(self) -> frozenset[int]:
        """Registers around the activations: from these, the operands can be recomputed stage by stage."""
        found = (step for step in self.steps if isinstance(step, Activate))
        return self.crossing | {step.result if step.in_place else step.operand for step in found}

    @cached_property
    def kept(self) -> frozenset[int]:
        """What a forward pass keeps where the rest is recomputed: checkpoints, and the operands of the last stage.

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
        """Register of the first step; inputs, constants and stacks come before."""
        return len(self.inputs) + len(self.constants) + len(self.stacks)

    @cached_property
    def numbered_stacks(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The stacks with their registers."""
        return tuple(enumerate(self.stacks, len(self.inputs) + len(self.constants)))

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """Registers that the steps read and do not make."""
        read = self.operands.union(*(step.reads for step in self.steps))
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
                found.append(any(found[number] for number in step.reads))
            self._active[needed] = tuple(found)
        return self._active[needed]

    @cached_property
    def _active(self) -> dict[tuple[bool, ...], tuple[bool, ...]]:
        return {}
