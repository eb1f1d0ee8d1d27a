"""Small argument checks used by several modules, each with its own message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

from ..errors import DeepTNError, SpecError


def positive_int(value: Any, what: str, error: type[DeepTNError] = SpecError) -> int:
    """Return `value` if it is a positive integer, else raise `error`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise error(f"{what} must be an integer of at least 1, got {value!r}")
    number = int(value.__index__())
    if number < 1:
        raise error(f"{what} must be at least 1, got {value!r}")
    return number


def boolean(value: Any, what: str) -> None:
    """Raise `SpecError` unless `value` is True or False."""
    if not isinstance(value, bool):
        raise SpecError(f"{what} must be True or False, got {value!r}")


def positive_ints(values: Any, what: str, error: type[DeepTNError] = SpecError) -> tuple[int, ...]:
    """Return `values` as a tuple of positive integers, else raise `error`."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise error(f"{what} must be a sequence of positive integers, got {values!r}")
    return tuple(positive_int(value, f"{what}[{k}]", error) for k, value in enumerate(values))


def ranks(rank: int | Sequence[int], count: int, what: str) -> tuple[int, ...]:
    """Repeat a single rank for `count` bonds, or check that a tuple has one rank for each."""
    if isinstance(rank, (tuple, list)):
        if len(rank) != count:
            raise SpecError(f"{what} has {len(rank)} entries, expected {count} (one per bond) or a single integer")
        return positive_ints(rank, what)
    return (positive_int(rank, what),) * count


def rank_field(rank: Any, what: str) -> int | tuple[int, ...]:
    """Check a rank before the number of bonds is known: a positive integer or a tuple of them."""
    if isinstance(rank, (tuple, list)):
        return positive_ints(rank, what)
    return positive_int(rank, what)


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer of Python or NumPy, and not a flag."""
    return hasattr(value, "__index__") and not isinstance(value, bool) and not hasattr(value, "__len__")


def is_list(data: Any) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Return whether plain data is a list (from JSON) or a tuple."""
    return isinstance(data, (list, tuple))


def is_object(data: Any) -> TypeGuard[dict[str, Any]]:
    """Return whether plain data is a JSON object: a dict with string keys."""
    return isinstance(data, dict)
