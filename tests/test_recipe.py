"""Test the schedules of a recipe against those of PyTorch."""

from __future__ import annotations

import math
from typing import Any

import pytest

from deeptn.recipe import Recipe


def of_torch(make: Any, steps: int) -> list[tuple[float, float]]:
    """Return learning rates and first betas of a scheduler for Adam with a peak rate of 1."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, found = make(torch.optim.lr_scheduler, optimizer), []
    for _ in range(steps):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]))
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("warmup", [0.1, 0.3, 0.5])
def test_one_cycle(warmup):
    total = 40
    recipe = Recipe(epochs=1, schedule="one-cycle", warmup=warmup)
    exact = lambda schedules, optimizer: schedules.OneCycleLR(optimizer, 1.0, total_steps=total, pct_start=warmup)
    expected = of_torch(exact, total - 1)
    for step, (rate, beta) in enumerate(expected):
        assert recipe.at(step, total) == pytest.approx((rate, beta), abs=1e-9), step


def test_cosine():
    total = 30
    recipe = Recipe(epochs=1, schedule="cosine", warmup=0.0)
    cosine = lambda schedules, optimizer: schedules.CosineAnnealingLR(optimizer, total)
    for step, (rate, beta) in enumerate(of_torch(cosine, total)):
        assert recipe.at(step, total) == pytest.approx((rate, beta), abs=1e-9), step


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_warmup_is_linear(schedule):
    recipe = Recipe(epochs=1, schedule=schedule, warmup=0.25)
    assert [recipe.at(step, 40)[0] for step in range(10)] == pytest.approx([(k + 1) / 11 for k in range(10)])
    after = [recipe.at(step, 40)[0] for step in range(10, 40)]
    wanted = [1.0] * 30 if schedule == "constant" else [(1 + math.cos(math.pi * k / 30)) / 2 for k in range(30)]
    assert after == pytest.approx(wanted)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_few_steps(schedule, total):
    recipe = Recipe(epochs=1, schedule=schedule)
    rates = [recipe.at(step, total)[0] for step in range(total)]
    assert all(0 <= rate <= 1 for rate in rates)
    assert max(rates) > 0


def test_steps():
    assert [Recipe(epochs=3, batch=32).steps(rows) for rows in (1, 32, 33, 64)] == [3, 3, 6, 6]


def test_growth_in_the_order_of_epochs():
    assert Recipe(epochs=9, grow=((4, 8), (2, 4))).grow == ((2, 4), (4, 8))
