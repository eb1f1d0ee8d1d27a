"""Choose which cases run every time, and which, marked ``slow``, run before a release (``pytest -m slow``)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import pytest

Axis = Mapping[str, Any] | Iterable[Any]


def choose(name: str, axis: Axis, kept: Collection[str]) -> pytest.MarkDecorator:
    """Parametrize over an axis: the cases whose ids are in `kept` run every time, the others are slow."""
    values = _by_id(axis)
    assert set(kept) <= values.keys(), set(kept) - values.keys()
    return pytest.mark.parametrize(name, [_case([value], [key], key not in kept) for key, value in values.items()])


def grid(kept: int | Callable[..., bool] = 1, **axes: Axis) -> pytest.MarkDecorator:
    """Parametrize over all combinations of some axes: few run every time, the others are slow.

    If `kept` is 1, the few contain every value of every axis; if it is 2, every pair of values of two axes. A function
    gets the ids of a combination and returns whether it runs every time.
    """
    values = [_by_id(axis) for axis in axes.values()]
    few = covering([len(axis) for axis in values], 1 if callable(kept) else kept)
    cases = []
    for place in itertools.product(*(range(len(axis)) for axis in values)):
        ids, chosen = zip(*(list(axis.items())[k] for axis, k in zip(values, place)))
        cases.append(_case(chosen, ids, not kept(*ids) if callable(kept) else place not in few))
    return pytest.mark.parametrize(tuple(axes), cases)


def covering(sizes: list[int], strength: int) -> list[tuple[int, ...]]:
    """Return few points of a grid that contain all values (`strength` 1) or all pairs of values (2) of its axes.

    >>> covering([3, 2], 1)
    [(0, 0), (1, 1), (2, 0)]
    >>> len(covering([4, 3, 3], 2)), len(covering([5, 4], 2))
    (12, 20)
    """
    if strength == 1:
        return [tuple(k % size for size in sizes) for k in range(max(sizes))]
    pairs = list(itertools.combinations(range(len(sizes)), strength))
    covered = lambda place: {(axes, tuple(place[k] for k in axes)) for axes in pairs}
    places = list(itertools.product(*map(range, sizes)))
    missing = set().union(*map(covered, places))
    found = []
    while missing:
        found.append(max(places, key=lambda place, missing=missing: len(covered(place) & missing)))
        missing -= covered(found[-1])
    return sorted(found)


def _by_id(axis: Axis) -> dict[str, Any]:
    return dict(axis) if isinstance(axis, Mapping) else {str(value): value for value in axis}


def _case(values: Iterable[Any], ids: Iterable[str], slow: bool) -> Any:
    return pytest.param(*values, id="-".join(ids), marks=[pytest.mark.slow] if slow else [])
