"""Choose one candidate for every layer, so that the total error is smallest within the limits."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import PlanError


def allocate(values: Sequence[np.ndarray], costs: Sequence[np.ndarray], limits: Sequence[float]) -> list[int]:
    """Solve a multiple-choice knapsack problem exactly, by SciPy's `scipy.optimize.milp`.

    "Exactly" means up to the solver's tolerance, 1e-6 of the largest value.

    Parameters
    ----------
    values : sequence of array
        For every layer, the value of each candidate; the sum over the layers is minimized.
    costs : sequence of array of int
        For every layer, an array of shape ``(candidates, limits)``.
    limits : sequence of float
        Upper limits for the sums of the costs.

    Returns
    -------
    list of int
        The number of the candidate chosen for each layer; of equally good choices, one with low costs.

    Raises
    ------
    PlanError
        If even the cheapest candidates exceed a limit, or no choice keeps all of them.

    Examples
    --------
    >>> values = [np.array([0.0, 0.5, 0.9]), np.array([0.0, 0.1, 0.2])]
    >>> costs = [np.array([[100], [50], [10]]), np.array([[100], [50], [10]])]
    >>> allocate(values, costs, [120])
    [0, 2]
    """
    bounds = np.asarray(limits, float)
    least = sum((cost.min(0) for cost in costs), start=np.zeros(len(bounds)))
    for number, (low, limit) in enumerate(zip(least, bounds)):
        if low > limit:
            raise PlanError(f"limit {number}: at least {low:,.0f} are needed, more than {limit:,.0f}")
    kept = [_undominated(value, cost) for value, cost in zip(values, costs)]
    found = _solve([v[k] for v, k in zip(values, kept)], [c[k] for c, k in zip(costs, kept)], bounds)
    return [int(numbers[number]) for numbers, number in zip(kept, found)]


def _undominated(value: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Return the numbers of the candidates that no other one matches or beats in value and in every cost."""
    kept: list[int] = []
    for number in np.lexsort((*cost.T, value)):
        if not any((cost[other] <= cost[number]).all() for other in kept):
            kept.append(int(number))
    return np.array(kept)


@contextmanager
def _without_output() -> Iterator[None]:
    """Discard what C code writes to standard output: HiGHS prints lines for developers, whatever its options say."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # closed
        yield
        return
    try:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _solve(values: Sequence[np.ndarray], costs: Sequence[np.ndarray], limits: np.ndarray) -> list[int]:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    counts = [len(value) for value in values]
    layer = np.repeat(np.arange(len(counts)), counts)
    one_each = csr_array((np.ones(len(layer)), (layer, np.arange(len(layer)))))
    cost = np.concatenate(costs).astype(float).T
    unit = np.maximum(limits, 1.0)
    # Values far below the largest ones would be less than the solver's tolerance: scale them.
    value = np.concatenate(values)
    value = value / (value.max() or 1.0)
    tightened = limits.copy()
    for _ in range(20):
        with _without_output():
            result = milp(
                value,
                integrality=np.ones(len(value)),
                bounds=Bounds(0, 1),
                constraints=[
                    LinearConstraint(one_each, 1, 1),
                    LinearConstraint(cost / unit[:, None], ub=tightened / unit),  # pyright: ignore[reportArgumentType]
                ],
                options={"mip_rel_gap": 0.0},
            )
        if result.x is None:
            raise PlanError(f"no choice of candidates keeps all limits: {result.message}")
        chosen = [int(part.argmax()) for part in np.split(result.x, np.cumsum(counts)[:-1])]
        spent = sum((part[number] for part, number in zip(costs, chosen)), start=np.zeros(len(limits)))
        if (spent <= limits).all():
            return chosen
        tightened = tightened - np.maximum(spent - limits, 0)  # the solver keeps constraints up to a tolerance
    raise PlanError("no choice of candidates keeps all limits")
