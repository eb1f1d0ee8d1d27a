"""Programs: flat tuples of steps, such as matrix products of two views."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from typing import Any

from ..arrays import Tuning
from ..base import Shape
from .cost import Cost
from .steps import Activate, Contract, Step

#: Names of the index that runs over the rows of an input, and of the input array. They are not identifiers, so no
#: parameter can be named `INPUT`; the compiler rejects an index named `BATCH`.
BATCH = "(batch)"
INPUT = "(input)"


@dataclass(frozen=True)
class Program:
    """A compiled network.

    Attributes
    ----------
    inputs : tuple of str
        Names of the arrays in the first registers: the parameters, then `INPUT` if an input exists.
    constants : tuple of (shape, values)
        Fixed arrays in the next registers.
    stacks : tuple of tuple of int
        Each fills the next register: the arrays in the listed registers, of one shape, stacked along a new first axis.
    steps : tuple of Step
        Steps, executed in order.
    result : int
        Register of the result.
    shape : tuple of int
        Shape of the result; -1 for the rows of an input.
    cost : Cost
        Cost, counted during compilation.
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

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # what is cached belongs to this process

    @cached_property
    def number(self) -> int:
        """A number of 62 bits from a hash of all fields, the same for equal programs in every process."""
        return int(hashlib.sha256(repr(self).encode()).hexdigest()[:16], 16) >> 2

    @cached_property
    def segments(self) -> tuple[tuple[Step, ...], ...]:
        """The steps of each stage; an activation is the first step of the stage that follows it."""
        starts = [0, *(k for k, step in enumerate(self.steps) if isinstance(step, Activate)), len(self.steps)]
        return tuple(self.steps[a:b] for a, b in pairwise(starts))

    @cached_property
    def operands(self) -> frozenset[int]:
        """Registers whose values the gradient needs: those that are multiplied, joined, or activated out of place."""
        return frozenset(number for step in self.steps for number in step.saves)

    @cached_property
    def first_reads(self) -> dict[int, int]:
        """For every register that is read, the first step that reads it, identified by its result."""
        return {number: step.result for step in reversed(self.steps) for number in step.reads}

    @cached_property
    def crossing(self) -> frozenset[int]:
        """Registers that steps other than activations (joins and skips) read outside their own segment."""
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
        """Return whether dispatching the steps takes most of the time: the results fit into the caches and are kept."""
        return not self.recompute and self.cost.write < tuning.small

    @cached_property
    def checkpoints(self) -> frozenset[int]:
        """Registers from which the operands can be recomputed stage by stage: at the activations, and `crossing`."""
        found = (step for step in self.steps if isinstance(step, Activate))
        return self.crossing | {step.result if step.in_place else step.operand for step in found}

    @cached_property
    def kept(self) -> frozenset[int]:
        """Registers that the forward pass keeps if the rest is recomputed: checkpoints and operands of the last stage.

        The backward pass starts with the last stage, so it would need that memory right away.
        """
        last = {step.result for step in self.segments[-1]}
        return self.checkpoints | (self.operands & last)

    @cached_property
    def inner(self) -> tuple[tuple[Step, ...], ...]:
        """For each segment, the steps whose results are operands that the backward pass recomputes."""
        made = self.operands - self.kept
        return tuple(tuple(step for step in segment if step.result in made) for segment in self.segments)

    @cached_property
    def first_step(self) -> int:
        """Result register of the first step; inputs, constants and stacks come before it."""
        return len(self.inputs) + len(self.constants) + len(self.stacks)

    @cached_property
    def numbered_stacks(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The stacks, each with its register number."""
        return tuple(enumerate(self.stacks, len(self.inputs) + len(self.constants)))

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """Registers that the steps read but do not compute."""
        read = self.operands.union(*(step.reads for step in self.steps))
        return tuple(sorted(number for number in read if number < self.first_step))

    @cached_property
    def stack_shapes(self) -> dict[int, tuple[int, int]]:
        """For each register that is read item by item, the number of items and the number of entries per item."""
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
        """Return, for each register, whether it depends on one of the `needed` leaves."""
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
