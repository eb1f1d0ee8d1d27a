"""Test the largest network of a family within a budget."""

from __future__ import annotations

import pytest

import deeptn as dtn

from .market import FAMILIES
from .tiers import grid


@grid(family=FAMILIES, shape=[(120, 400), (16, 6, 5, 5)])
def test_at_budget_never_exceeds_the_budget(family, shape):
    least = dtn.network(family.resized(1), shape).num_params
    for params in (least, least + 1, 2 * least, 3000):
        if params < least:
            continue
        net = dtn.at_budget(family, shape, params)
        assert net.num_params <= params
        assert net.topology is not None
        if not getattr(family, "shared", False):  # with capped ranks, fewer nodes may be alike
            bigger = dtn.network(family.resized(net.topology.size + 1), shape).num_params
            assert bigger > params or bigger == net.num_params
    with pytest.raises(dtn.SpecError, match=rf"at least {least} parameters .* more than {least - 1}"):
        dtn.at_budget(family, shape, least - 1)


def test_at_budget_stops_where_ranks_are_full():
    net = dtn.at_budget("TensorTrain", (8, 8), 10**9)
    assert net.num_params == dtn.network(dtn.TensorTrain(rank=8), (8, 8)).num_params


def test_at_budget_keeps_the_other_fields_and_the_layout():
    layout = dtn.Layout((12, 10), order="interleaved")
    net = dtn.at_budget(dtn.BrickWall(activation=None), (12, 10), 400, layout)
    assert net.layout == layout
    assert net.is_linear
