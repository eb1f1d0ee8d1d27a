"""Test that the allocation is the best one."""

from __future__ import annotations

import os
from itertools import product

import numpy as np
import pytest

import deeptn as dtn
from deeptn.planning import allocate
from deeptn.planning.allocation import _without_output


@pytest.mark.few(1)
@pytest.mark.parametrize("limits", [1, 2])
def test_brute_force_finds_nothing_better(limits):
    draw = np.random.default_rng(limits)
    solved = 0
    for _ in range(60):
        layers = int(draw.integers(1, 6))
        values = [draw.random(draw.integers(1, 6)) ** draw.integers(1, 8) for _ in range(layers)]
        high = 10 ** int(draw.integers(2, 7))
        costs = [draw.integers(1, high, (len(value), limits)) for value in values]
        bounds = sum(cost.min(0) for cost in costs) + draw.integers(0, high, limits)
        best = np.inf
        for chosen in product(*(range(len(value)) for value in values)):
            if (sum(cost[k] for cost, k in zip(costs, chosen)) <= bounds).all():
                best = min(best, sum(value[k] for value, k in zip(values, chosen)))
        if best == np.inf:
            with pytest.raises(dtn.PlanError, match="no choice of candidates keeps all limits"):
                allocate(values, costs, bounds)
            continue
        found = allocate(values, costs, bounds)
        assert (sum(cost[k] for cost, k in zip(costs, found)) <= bounds).all()
        assert sum(value[k] for value, k in zip(values, found)) == pytest.approx(best, abs=1e-6)
        solved += 1
    assert solved > 30


def test_of_equal_values_the_cheaper_one_is_chosen():
    values = [np.array([0.5, 0.5, 0.0]), np.array([0.2, 0.2])]
    costs = [np.array([[5], [3], [100]]), np.array([[7], [9]])]
    assert allocate(values, costs, [50]) == [1, 0]


def test_limits_below_the_minimum():
    with pytest.raises(dtn.PlanError, match=r"limit 0: at least 30 are needed, more than 29"):
        allocate([np.array([0.0]), np.array([0.1])], [np.array([[10]]), np.array([[20]])], [29])


def test_the_solver_writes_nothing(capfd):
    """HiGHS may print lines to standard output, which would spoil JSON there."""
    with _without_output():
        os.write(1, b"noise")
    os.write(1, b"kept")
    assert capfd.readouterr().out == "kept"
