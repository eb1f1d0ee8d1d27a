"""Test the prediction whether a network is faster than its decoded weight."""

from __future__ import annotations

import pytest

import deeptn as dtn
from deeptn.engine.cost import TYPICAL
from deeptn.models import is_faster, modes

NETS = [dtn.network(dtn.TTMatrix(rank=2), (512, 512)), dtn.network(dtn.LowRank(rank=500), (512, 512))]


@pytest.mark.parametrize("net", NETS, ids=["few", "many"])
@pytest.mark.parametrize("rows", [1, 4096])
def test_products_are_chosen_as_the_network_says(net, rows):
    assert is_faster(net, "apply", rows, "numpy") == (net.choose(rows, "numpy").mode == "apply")


def test_small_and_large_batches_differ():
    few, many = NETS
    assert is_faster(few, "apply", 1, "numpy")
    assert not is_faster(many, "apply", 100_000, "numpy")


@pytest.mark.parametrize("net", NETS, ids=["few", "many"])
def test_rows_are_chosen_by_their_cost(net, monkeypatch):
    """With given figures of a machine, the answer follows from the counts alone."""
    figures = TYPICAL
    monkeypatch.setattr(modes, "machine", lambda like: figures)
    for rows in (1, 64, 4096):
        gather, decode = (modes.seconds(cost, figures) for cost in (net.cost("gather", rows), net.cost()))
        assert is_faster(net, "gather", rows, "numpy") == (gather < decode)
    assert is_faster(NETS[0], "gather", 1, "numpy")
    assert not is_faster(NETS[0], "gather", 2**20, "numpy")
