"""Layouts: how the axes of a weight are split into the legs of a network."""

# pyright: reportUnnecessaryIsInstance=false
# Arguments are checked at run time, whatever their annotations say.
from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, TypeAlias

from msgspec import Meta

from ..base import Array, Part, Shape, converted, do, positive_int, positive_ints
from ..errors import FormatError, LayoutError
from .nodes import count_nodes


@dataclass(frozen=True, slots=True)
class Leg:
    """An open index of the generated tensor.

    Attributes
    ----------
    name : str
        ``"a{axis}_{k}"``: the k-th leg of that weight axis, most significant first.
    size : int
        Dimension of the index.
    axis : int
        The weight axis that the leg belongs to.

    Examples
    --------
    >>> Layout((6, 5)).legs
    (Leg(name='a0_0', size=2, axis=0), Leg(name='a0_1', size=3, axis=0), Leg(name='a1_0', size=5, axis=1))
    """

    name: str
    size: int
    axis: int


#: Largest size that is split into prime factors, which takes 2^20 divisions.
LARGEST = 2**40

#: Axes and legs that a layout of a file may have.
AXES, LEGS = 64, 1024

#: A size in a file.
Size: TypeAlias = Annotated[int, Meta(gt=0, le=2**62)]


def prime_factors(n: int) -> tuple[int, ...]:
    """Return the prime factors of `n` in ascending order (none for 1).

    Raises `LayoutError` beyond `LARGEST`.

    Examples
    --------
    >>> prime_factors(400)
    (2, 2, 2, 2, 5, 5)
    """
    if n > LARGEST:
        raise LayoutError(f"an axis of {n:.6g} entries is too large to be split into legs; pass a layout with factors")
    count_nodes(math.isqrt(n) // 128)  # files pay for the search
    factors: list[int] = []
    divisor = 2
    while divisor * divisor <= n:
        while n % divisor == 0:
            factors.append(divisor)
            n //= divisor
        divisor += 1
    if n > 1:
        factors.append(n)
    return tuple(factors)


def balanced_factors(n: int, count: int) -> tuple[int, ...]:
    """Split `n` exactly into at most `count` factors of similar size.

    Examples
    --------
    >>> balanced_factors(120, 2), balanced_factors(4096, 4), balanced_factors(7, 2)
    ((12, 10), (8, 8, 8, 8), (7,))
    """
    primes = prime_factors(n)
    factors = [1] * min(count, max(1, len(primes)))
    for prime in reversed(primes):
        factors[factors.index(min(factors))] *= prime
    return tuple(sorted((f for f in factors if f > 1), reverse=True))


def padded_factors(n: int, count: int, near: int) -> tuple[int, ...]:
    """Return `count` factors of similar size, at least 2, whose product is `n` or as little above as possible.

    Beyond six factors, the first ones are `near`.

    Examples
    --------
    >>> padded_factors(127, 2, 8), padded_factors(50_257, 5, 8)
    ((13, 10), (10, 10, 9, 8, 7))
    """
    if count > 6:
        return (near,) * (count - 6) + padded_factors(-(-n // near ** (count - 6)), 6, near)
    middle = math.ceil(n ** (1 / count))
    sizes = range(max(2, middle - 3), middle + 4)
    enough = [f for f in itertools.combinations_with_replacement(sizes, count) if math.prod(f) >= n]
    return tuple(sorted(min(enough, key=lambda factors: (math.prod(factors), max(factors))), reverse=True))


def _digits(n: int, base: int) -> tuple[int, ...]:
    """Return the fewest legs of size `base` that can index `n` values."""
    count = 0
    while base**count < n:
        count += 1
    return (base,) * count


@dataclass(frozen=True)
class Layout:
    """How a weight's shape maps to legs: factors per axis, padding and order.

    Parameters
    ----------
    shape : tuple of int
        Shape of the weight, any number of axes. A scalar, of shape ``()``, needs ``factors=()``.
    factors : tuple of tuple of int, optional
        Sizes of the legs of each axis, most significant first. Their product is the axis size, or larger (then the
        axis is padded, and the padding is cut off after decoding). By default, the prime factors.
    order : {"rows", "interleaved"} or tuple of int
        ``"rows"``: all legs of axis 0, then all legs of axis 1, …  ``"interleaved"``: the first leg of every axis, then
        the second of every axis, …  A tuple permutes the ``"rows"`` order: entry k is the number of the leg at place k.

    Raises
    ------
    LayoutError
        If the factors of an axis multiply to less than its size, or the order is not a permutation of the legs.

    Examples
    --------
    >>> layout = Layout((120, 400), order="interleaved")
    >>> layout.leg_sizes
    (2, 2, 2, 2, 2, 2, 3, 2, 5, 5, 5)
    >>> Layout.padded((120, 400)).padded_shape
    (128, 512)
    """

    shape: Shape
    factors: tuple[tuple[int, ...], ...] | None = None
    order: str | tuple[int, ...] = "rows"

    def __post_init__(self):
        shape = positive_ints(self.shape, "shape", LayoutError)
        if self.factors is None:
            _need_axes(shape)
            factors = tuple(prime_factors(n) for n in shape)
        elif isinstance(self.factors, (tuple, list)):
            factors = tuple(positive_ints(f, f"factors[{k}]", LayoutError) for k, f in enumerate(self.factors))
        else:
            raise LayoutError(f"factors must be one tuple of integers per axis, got {self.factors!r}")
        if len(factors) != len(shape):
            raise LayoutError(f"factors has {len(factors)} entries, but the shape {shape} has {len(shape)} axes")
        for axis, (n, axis_factors) in enumerate(zip(shape, factors)):
            if math.prod(axis_factors) < n:
                raise LayoutError(
                    f"factors[{axis}] = {axis_factors} multiply to {math.prod(axis_factors)}; axis {axis} has size {n}"
                )
        count = sum(map(len, factors))
        count_nodes(12 + count // 2)  # files pay for legs
        order = self.order
        if isinstance(order, (tuple, list)):
            order = tuple(int(k) if hasattr(k, "__index__") else k for k in order)
            if not all(isinstance(k, int) for k in order) or sorted(order) != list(range(count)):
                raise LayoutError(f"order = {order} is not a permutation of the {count} legs 0..{count - 1}")
        elif order not in ("rows", "interleaved"):
            raise LayoutError(f"order = {order!r}; expected 'rows', 'interleaved' or a permutation of the legs")
        else:
            order = str(order)
        for name, value in (("shape", shape), ("factors", factors), ("order", order)):
            object.__setattr__(self, name, value)

    @classmethod
    def padded(cls, shape: Sequence[int], d: int = 2, order: str | tuple[int, ...] = "rows") -> Layout:
        """Pad every axis to a power of `d`, so that all legs have size `d` (the layout of arXiv:2305.06058).

        Examples
        --------
        >>> len(Layout.padded((512, 512, 3, 3)).legs)
        22
        """
        if positive_int(d, "d", LayoutError) < 2:
            raise LayoutError(f"d = {d!r}; the legs of a padded layout must have size 2 or more")
        shape = _need_axes(positive_ints(shape, "shape", LayoutError))
        return cls(shape, tuple(_digits(n, d) for n in shape), order)

    @classmethod
    def balanced(
        cls,
        shape: Sequence[int],
        near: int = 8,
        order: str | tuple[int, ...] = "rows",
        even: bool = False,
        pad: bool = False,
    ) -> Layout:
        """Split every axis into factors close to `near`, exactly unless `pad`.

        Parameters
        ----------
        shape : sequence of int
            Shape of the weight.
        near : int
            Target size of a leg.
        order : str or tuple of int
            As in `Layout`.
        even : bool
            Aim for the same number of legs on every axis (an MPO needs this).
        pad : bool
            Pad an axis that has a factor above ``2 * near`` otherwise, because of a large prime, if less than a quarter
            of it is added.

        Examples
        --------
        >>> Layout.balanced((120, 400)).factors
        ((12, 10), (10, 8, 5))
        >>> Layout.balanced((127, 400)).factors, Layout.balanced((127, 400), pad=True).factors
        (((127,), (10, 8, 5)), ((13, 10), (10, 8, 5)))
        """
        shape = _need_axes(positive_ints(shape, "shape", LayoutError))
        if positive_int(near, "near", LayoutError) < 2:
            raise LayoutError(f"near = {near!r}; the target size of a leg must be at least 2")
        counts = [max(1, round(math.log(n, near))) for n in shape]
        if even:
            counts = [max(counts)] * len(counts)
        factors = [balanced_factors(n, count) for n, count in zip(shape, counts)]
        for axis, (n, count) in enumerate(zip(shape, counts)):
            if pad and count > 1 and max(factors[axis], default=1) > 2 * near:
                padded = padded_factors(n, count, near)
                if math.prod(padded) < 1.25 * n:
                    factors[axis] = padded
        return cls(shape, tuple(factors), order)

    @classmethod
    def single(cls, shape: Sequence[int]) -> Layout:
        """Use one leg per axis, so that the tensor is the weight itself; a scalar, of shape (), has no legs."""
        shape = positive_ints(shape, "shape", LayoutError)
        return cls(shape, tuple((n,) for n in shape))

    @classmethod
    def grouped(cls, shape: Sequence[int], sizes: Sequence[int]) -> Layout:
        """Build a layout from the sizes of its legs: consecutive legs make up an axis.

        Examples
        --------
        >>> Layout.grouped((20, 6), (4, 5, 6)).factors
        ((4, 5), (6,))
        """
        shape, rest = positive_ints(shape, "shape", LayoutError), positive_ints(sizes, "sizes", LayoutError)
        if not shape and not rest:
            return cls.single(shape)
        factors: list[tuple[int, ...]] = []
        for n in shape[:-1]:
            # The fewest legs that make up the axis; an axis of size 1 takes a leg of size 1 if that comes next.
            end = next((k for k in range(n == 1 and rest[:1] == (1,), len(rest) + 1) if math.prod(rest[:k]) == n), -1)
            if end < 0:
                break
            factors.append(rest[:end])
            rest = rest[end:]
        if len(factors) < len(shape) - 1 or not shape or math.prod(rest) != shape[-1]:
            raise LayoutError(
                f"legs of sizes {tuple(sizes)} do not make up the shape {shape}, axis by axis; pass layout= instead"
            )
        factors.append(rest)
        return cls(shape, tuple(factors))

    def __hash__(self):
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """A hash that is the same in every process, unlike those of strings."""
        text = repr((self.shape, self.factors, self.order))
        return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)

    @cached_property
    def axis_legs(self) -> tuple[Leg, ...]:
        """The legs in axis-major order: a tensor with these axes can be reshaped to the (padded) weight."""
        assert self.factors is not None
        return tuple(
            Leg(f"a{axis}_{k}", size, axis) for axis, sizes in enumerate(self.factors) for k, size in enumerate(sizes)
        )

    @cached_property
    def sides(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Two tuples, the names of the legs of axis 0 and of all other axes, in axis-major order."""
        legs = self.axis_legs
        return tuple(leg.name for leg in legs if not leg.axis), tuple(leg.name for leg in legs if leg.axis)

    @cached_property
    def permutation(self) -> tuple[int, ...]:
        """Entry k is the position of ``legs[k]`` in `axis_legs`."""
        if isinstance(self.order, tuple):
            return self.order
        places = range(len(self.axis_legs))
        if self.order == "rows":
            return tuple(places)
        within = [int(leg.name.rpartition("_")[2]) for leg in self.axis_legs]
        return tuple(sorted(places, key=lambda p: (within[p], self.axis_legs[p].axis)))

    @cached_property
    def legs(self) -> tuple[Leg, ...]:
        """The legs in the order in which a topology sees them."""
        return tuple(self.axis_legs[p] for p in self.permutation)

    @property
    def leg_sizes(self) -> tuple[int, ...]:
        """Sizes of `legs`."""
        return tuple(leg.size for leg in self.legs)

    @cached_property
    def padded_shape(self) -> Shape:
        """Shape of the decoded weight before the padding is cut off."""
        assert self.factors is not None
        return tuple(math.prod(f) for f in self.factors)

    @property
    def is_padded(self) -> bool:
        """Whether the network generates more entries than the weight has."""
        return self.padded_shape != self.shape

    def to_legs(self, weight: Array) -> Array:
        """Convert a weight of shape `shape` to a tensor with one axis per leg, padded with zeros.

        Raises
        ------
        LayoutError
            If the weight has a different shape.
        """
        if tuple(weight.shape) != self.shape:
            raise LayoutError(f"the weight has shape {tuple(weight.shape)}, but the layout is for {self.shape}")
        tensor = do("reshape", pad_axes(weight, self.padded_shape), tuple(leg.size for leg in self.axis_legs))
        return do("transpose", tensor, self.permutation)

    def from_legs(self, tensor: Array) -> Array:
        """Convert a tensor with the axes `legs` to a weight of shape `shape`; the inverse of `to_legs`.

        Examples
        --------
        >>> import numpy as np
        >>> layout, W = Layout((6, 5), order="interleaved"), np.arange(30.0).reshape(6, 5)
        >>> bool((layout.from_legs(layout.to_legs(W)) == W).all())
        True
        """
        if tuple(tensor.shape) != self.leg_sizes:
            raise LayoutError(f"the tensor has shape {tuple(tensor.shape)}, but the legs have sizes {self.leg_sizes}")
        inverse = sorted(range(len(self.permutation)), key=self.permutation.__getitem__)
        return self.crop(do("transpose", tensor, tuple(inverse)))

    def crop(self, tensor: Array) -> Array:
        """Reshape a tensor with the axes `axis_legs` to the padded shape, and cut off the padding."""
        weight = do("reshape", tensor, self.padded_shape)
        return weight[tuple(slice(0, n) for n in self.shape)] if self.is_padded else weight

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        order = list(self.order) if isinstance(self.order, tuple) else self.order
        return {"shape": list(self.shape), "factors": [list(f) for f in self.factors or ()], "order": order}

    @classmethod
    def from_dict(cls, data: Any) -> Layout:
        """Inverse of `to_dict`; raises `FormatError` for malformed data."""
        return cls.of(converted(data, LayoutData, "bad layout"))

    @classmethod
    def of(cls, data: LayoutData) -> Layout:
        """Build the layout in a file; raises `FormatError` for an invalid one."""
        legs = sum(map(len, data.factors))
        if len(data.shape) > AXES or legs > LEGS:
            raise FormatError(f"a layout of a file has at most {AXES} axes and {LEGS} legs")
        try:
            return cls(data.shape, data.factors, data.order)
        except LayoutError as error:
            raise FormatError(f"bad layout: {error!s:.500}") from error


class LayoutData(Part, frozen=True):
    """A layout in a file."""

    shape: tuple[Size, ...]
    factors: tuple[tuple[Size, ...], ...]
    order: str | tuple[int, ...]


def _need_axes(shape: Shape) -> Shape:
    """Raise `LayoutError` for a scalar where a weight is meant."""
    if not shape:
        raise LayoutError("shape is empty; a weight has at least one axis, for example (120, 400)")
    return shape


def rows_of(shape: Shape) -> int:
    """Return the size of axis 0.

    Raises
    ------
    LayoutError
        For a scalar, which has no axes.

    Examples
    --------
    >>> rows_of((6, 5))
    6
    """
    if not shape:
        raise LayoutError("the network generates a scalar, of shape (), which has no rows; use materialize(params)")
    return shape[0]


def pad_axes(array: Array, shape: Sequence[int]) -> Array:
    """Append zeros to the last ``len(shape)`` axes of `array` until they have the sizes `shape`."""
    lead = len(array.shape) - len(shape)
    widths = [(0, 0)] * lead + [(0, size - array.shape[lead + k]) for k, size in enumerate(shape)]
    return do("pad", array, widths) if any(after for _, after in widths) else array
