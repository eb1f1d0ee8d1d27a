"""Helpers for legs: a minimum number, names, the two sides of a matrix, and pairs of row and column legs."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import SpecError
from ..spec import Leg, NetworkSpec


def need_legs(legs: Sequence[Leg], least: int, what: str) -> None:
    """Raise `SpecError` if there are fewer legs than a family needs (1 or 2)."""
    if len(legs) >= least:
        return
    if least == 1:
        raise SpecError(f"a {what} network needs at least 1 leg, got none; a weight with one entry has no legs")
    raise SpecError(f"a {what} needs at least {least} legs, got {len(legs)}; choose a layout with smaller factors")


def names(legs: Sequence[Leg]) -> tuple[str, ...]:
    """Return the names of the legs."""
    return tuple(leg.name for leg in legs)


def bond_names(spec: NetworkSpec) -> tuple[str, ...]:
    """Return b0, b1, …: all indices of a spec that are not legs, if they have these names."""
    return tuple(f"b{k}" for k in range(len(spec.sizes)))


def sides(legs: Sequence[Leg], what: str) -> tuple[list[Leg], list[Leg]]:
    """Return the legs of axis 0 (rows of the matrix) and all others (columns); `SpecError` if either is empty."""
    rows, columns = [leg for leg in legs if leg.axis == 0], [leg for leg in legs if leg.axis != 0]
    if not rows or not columns:
        raise SpecError(
            f"a {what} needs row legs (axis 0) and column legs (other axes), got {len(rows)} and {len(columns)}"
        )
    return rows, columns


def matched(rows: Sequence[Leg], columns: Sequence[Leg]) -> list[tuple[tuple[Leg, ...], tuple[Leg, ...]]]:
    """Pair the k-th row leg with the k-th column leg; surplus legs of the longer side stay alone."""
    return [(tuple(rows[k : k + 1]), tuple(columns[k : k + 1])) for k in range(max(len(rows), len(columns)))]
