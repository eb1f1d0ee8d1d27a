"""Test the experiment of ``benchmarks/lenet5.py``."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from deeptn_demo.data import load_images
from deeptn_demo.networks import ConvNet
from deeptn_torch import TNLinear

import deeptn as dtn
from deeptn.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
experiment = importlib.import_module("experiment")
SETTINGS, Result = experiment.SETTINGS, experiment.Result
methods, run_seed, steps, summarize = experiment.methods, experiment.run_seed, experiment.steps, experiment.summarize


@pytest.fixture
def short():
    """The small setting: two epochs of training, one of healing, one number of layers."""
    return replace(SETTINGS["small"], train=Recipe(epochs=2, batch=128), heal=Recipe(epochs=1, batch=256), layers=(1,))


def test_lenet5_rows_are_at_most_as_large_as_brickwall():
    rows = methods(SETTINGS["lenet5"])
    walls = [row.params for row in rows if row.family == "BrickWall"]
    assert walls == [268, 716, 1612, 2956]
    for row in rows:
        assert row.params is None or row.budget is None or row.params <= row.budget
        assert (row.params is None) == (row.missing is not None or "dense" in row.family or "random" in row.family)


def test_the_narrower_network_is_as_large_as_the_budget_allows():
    setting = SETTINGS["lenet5"]
    dense = sum(p.numel() for p in ConvNet("lenet5").parameters())
    rows = [row for row in methods(setting) if row.family == "narrower dense"]
    assert len(rows) == len(setting.layers)
    for row in rows:
        assert row.hidden is not None
        assert row.budget is not None
        first, second = row.hidden
        total = dense - 58_080 + row.budget
        sizes = [sum(p.numel() for p in ConvNet("lenet5", h).parameters()) for h in (row.hidden, (first, second + 1))]
        assert sizes[0] <= total < sizes[1]


@pytest.mark.slow
def test_steps_counts_all_runs(short):
    data = load_images()
    taken = []

    class Count:
        def begin(self, what, steps):
            pass

        def step(self):
            taken.append(1)

    run_seed(short, data, 0, Count())
    assert len(taken) == steps(short, len(data.train_x))


def test_paired_seeds_and_controls(short):
    data = load_images()
    kept = []
    rows = [run_seed(short, data, 3, keep=lambda r, m, p: kept.append((r, m)), skip=lambda m, s: m.family not in
            ("dense", "fixed random")) for _ in range(2)]  # fmt: skip
    for first, second in zip(*rows):
        assert (first.before, first.after, first.train_loss) == (second.before, second.after, second.train_loss)
    random_model = next(m for r, m in kept if r.family == "fixed random")
    assert not random_model.fc1.weight.requires_grad
    assert random_model.fc3.weight.requires_grad
    dense = next(r for r, _ in kept if r.family == "dense")
    assert (dense.params, dense.ratio) == (40_800, 1.0)


def test_summary_takes_the_start_with_the_lower_training_loss():
    def row(start, loss, after, seed):
        return Result("Tree", "Tree rank 2", 100, seed, 90, start=start, train_loss=loss, before=1.0, after=after)

    rows = [
        row("weight", 0.5, 70.0, 0),
        row("random", 0.4, 60.0, 0),
        row("weight", 0.7, 80.0, 1),
        row("random", 0.3, 64.0, 1),
    ]
    (summary,) = summarize(rows)
    assert (summary["start"], summary["after"], summary["after_other"]) == ("random", 62.0, 75.0)
    assert summary["after_sd"] == pytest.approx(2.8284, rel=1e-4)


def test_the_time_to_decode_is_the_best_of_the_repeats(monkeypatch):
    model = torch.nn.Sequential(TNLinear(8, 4), torch.nn.ReLU(), TNLinear(4, 2))
    ticks = iter([0.0, 0.5, 1.0, 1.003, 2.0, 2.004])  # of three repeats
    decoded = []
    monkeypatch.setattr(experiment.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(dtn.Network, "materialize", lambda net, params: decoded.append(net.shape))
    assert experiment._decode_ms(model, repeats=3) == pytest.approx(3.0)
    assert decoded == [(4, 8), (2, 4)] * 3
    assert next(ticks, None) is None
    assert experiment._decode_ms(torch.nn.Linear(2, 2)) is None
