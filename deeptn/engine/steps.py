"""The steps of a program. Each defines what it reads, how it runs, what its gradient needs, and what it costs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from ..arrays import Operations, View
from ..base import Array, Shape
from .pool import Pool


@dataclass(slots=True)
class Run:
    """State shared by the steps of one run.

    Attributes
    ----------
    registers : list of array
        Indexed by number; a step reads some and fills another with its result.
    lib : Operations
    pool : Pool, optional
        Source of the buffers that large results are written into.
    tape : dict, optional
        Receives, under the register of the result, the operand of each activation (its result if that is enough) and
        the factor by which it is multiplied.
    operands : dict, optional
        Receives, under the register of the result, both operands of each product or sum.
    """

    registers: list[Any]
    lib: Operations
    pool: Pool | None = None
    tape: dict[int, Any] | None = None
    operands: dict[int, Any] | None = None


class Step(ABC):
    """One step of a program.

    Attributes
    ----------
    result : int
        Register that the step fills.
    free : tuple of int
        Registers that it is the last step to read.
    """

    __slots__ = ()
    result: int
    free: tuple[int, ...]

    @property
    @abstractmethod
    def reads(self) -> tuple[int, ...]:
        """The registers that the step reads."""

    @property
    @abstractmethod
    def saves(self) -> tuple[int, ...]:
        """The registers in `reads` whose values the gradient needs."""

    @abstractmethod
    def forward(self, run: Run) -> Array:
        """Compute the result."""

    @abstractmethod
    def work(self, elements: Sequence[int]) -> tuple[int, int]:
        """Return flops, and elements written in addition to the result; `elements` has one size per register."""


@final
@dataclass(frozen=True, slots=True)
class Contract(Step):
    """``result = left @ right``: two matrices, two stacks, or a matrix on the left and a batch on the right.

    `shape` is the shape of the product; -1 marks the axis that includes the rows of an input.
    """

    left: View
    right: View
    shape: Shape
    result: int
    free: tuple[int, ...] = ()

    @property
    def reads(self) -> tuple[int, ...]:
        return self.left.register, self.right.register

    @property
    def saves(self) -> tuple[int, ...]:
        return self.reads

    def forward(self, run: Run) -> Array:
        lib, registers, left, right = run.lib, run.registers, self.left, self.right
        x = lib.view(registers[left.register], left)
        y = lib.view(registers[right.register], right)
        if run.operands is not None:
            run.operands[self.result] = x, y
        return lib.matmul(x, y) if run.pool is None else lib.matmul(x, y, run.pool.take(self.result, self.shape, y))

    def work(self, elements: Sequence[int]) -> tuple[int, int]:
        summed = self.left.shape[-2 if self.left.transposed else -1]
        copied = sum(_volume(view, elements) for view in (self.left, self.right) if view.perm is not None)
        return 2 * elements[self.result] * summed, copied


def _volume(view: View, elements: Sequence[int]) -> int:
    return elements[view.register] if view.items is None else math.prod(view.shape)


@final
@dataclass(frozen=True, slots=True)
class Permute(Step):
    """``result = transpose(operand)``, or a copy if `perm` is None. If `settled`, the result has its own memory."""

    operand: int
    axes: tuple[int, ...]
    perm: tuple[int, ...] | None
    result: int
    free: tuple[int, ...] = ()
    settled: bool = False

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.operand,)

    @property
    def saves(self) -> tuple[int, ...]:
        return self.reads if self.settled else ()

    def forward(self, run: Run) -> Array:
        array = run.registers[self.operand].reshape(self.axes)
        result = array * 1 if self.perm is None else run.lib.permute(array, self.perm)
        return run.lib.settled(result) if self.settled else result

    def work(self, elements: Sequence[int]) -> tuple[int, int]:
        return 0, 0


@final
@dataclass(frozen=True, slots=True)
class Activate(Step):
    """``result = activation(operand / rms(operand))``."""

    operand: int
    activation: str | None
    normalize: bool
    result: int
    free: tuple[int, ...] = ()

    @property
    def in_place(self) -> bool:
        """Whether the result alone determines the derivative, so that the operand need not be kept."""
        return not self.normalize and self.activation == "relu"

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.operand,)

    @property
    def saves(self) -> tuple[int, ...]:
        return () if self.in_place else self.reads

    def forward(self, run: Run) -> Array:
        lib, pool, array = run.lib, run.pool, run.registers[self.operand]
        array, scale, lift = lib.normalizer(array, pool is not None) if self.normalize else (array, None, 1.0)
        out = None
        if pool is not None:
            free = self.operand in self.free and (run.tape is None or self.in_place)
            moved = free and pool.move(self.operand, self.result)
            out = array if moved else pool.take(self.result, array.shape, array)
        result = lib.activate(array, self.activation, scale, out)
        if run.tape is not None:
            run.tape[self.result] = result if self.in_place else array, scale, lift
        return result

    def work(self, elements: Sequence[int]) -> tuple[int, int]:
        return elements[self.result] * (bool(self.activation) + 3 * self.normalize), 0


@final
@dataclass(frozen=True, slots=True)
class Crop(Step):
    """``result = operand`` reshaped to `axes`, then cropped to the first entries along each axis, as `shape` says.

    A first axis of size -1 (the rows of an input) is kept whole.
    """

    operand: int
    axes: tuple[int, ...]
    shape: Shape
    result: int
    free: tuple[int, ...] = ()

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.operand,)

    @property
    def saves(self) -> tuple[int, ...]:
        return ()

    def forward(self, run: Run) -> Array:
        return run.lib.crop(run.registers[self.operand], self.axes, self.shape)

    def work(self, elements: Sequence[int]) -> tuple[int, int]:
        return 0, 0


@final
@dataclass(frozen=True, slots=True)
class Pad(Step):
    """``result = operand`` reshaped to `axes`, then padded with zeros to `shape`."""

    operand: int
    axes: tuple[int, ...]
    shape: Shape
    result: int
    free: tuple[int, ...] = ()

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.operand,)

    @property
    def saves(self) -> tuple[int, ...]:
        return ()

    def forward(self, run: Run) -> Array:
        return run.lib.pad(run.registers[self.operand].reshape(self.axes), self.shape)

    def work(self, elements: Sequence[int]) -> tuple[int, int]:
        return 0, 0


@final
@dataclass(frozen=True, slots=True)
class Join(Step):
    """``result = left + right``, or ``left * right``, element by element."""

    left: int
    right: int
    product: bool
    result: int
    free: tuple[int, ...] = ()

    @property
    def reads(self) -> tuple[int, ...]:
        return self.left, self.right

    @property
    def saves(self) -> tuple[int, ...]:
        return self.reads

    def forward(self, run: Run) -> Array:
        x = run.registers[self.left]
        y = run.registers[self.right].reshape(x.shape)
        if run.operands is not None:
            run.operands[self.result] = x, y
        return x * y if self.product else x + y

    def work(self, elements: Sequence[int]) -> tuple[int, int]:
        return elements[self.result], 0
