"""Read a tensor as a matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..base import Shape


@dataclass(frozen=True, slots=True)
class View:
    """An operand as a matrix (or a batch of them): permute the `axes`, reshape, transpose the last two axes.

    A register contains its entries in order, in any shape; `axes` is the shape to which `perm` applies. `items`
    selects one tensor from a stack, or several: ``(start, stop, step)``.

    `strided` describes the same in one step: sizes, strides and offset (in elements, from the first entry of the
    register) of the matrix or, with a `perm`, of the permuted axes. None if a size is unknown.

    Examples
    --------
    >>> View(0, (2, 3, 4), (0, 2, 1), (8, 3), False).strided
    ((2, 4, 3), (12, 1, 4), 0)
    """

    register: int
    axes: tuple[int, ...] | None
    perm: tuple[int, ...] | None
    shape: Shape
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
