"""Test rows of a weight, and the weight in blocks of rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

import deeptn as dtn
from deeptn.engine import blocks_of, walk

from ..market import FEW, NETWORKS
from ..tiers import grid


@pytest.mark.parametrize("sizes", [(5,), (2, 2, 2), (3, 4), (2, 3, 1, 2)])
def test_blocks_cover_any_range_in_order(sizes):
    total = math.prod(sizes)
    numbers = np.arange(total).reshape(sizes)
    for start in range(total + 1):
        for stop in range(start, total + 1):
            found = [
                numbers[tuple(slice(a, a + n) for a, n in block)].ravel() for block in blocks_of(start, stop, sizes)
            ]
            assert np.array_equal(np.concatenate([[], *found]), np.arange(start, stop))
            assert len(found) <= 2 * len(sizes)


@grid(lambda net, like: like == "numpy" or net in FEW, net=NETWORKS, like=["numpy", "torch"])
def test_rows_are_those_of_the_weight(net, like):
    pytest.importorskip(like)
    params = net.init(seed=1, like=like, dtype="float64")
    weight = np.asarray(net.materialize(params))
    n = net.shape[0]
    for rows in (slice(0, 1), slice(1, n), slice(None), slice(-2, None), slice(n // 3, 2 * n // 3 + 1), slice(2, 2)):
        assert np.allclose(net.materialize(params, rows=rows), weight[rows], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_make_up_the_weight(name):
    net = NETWORKS[name]
    params = net.init(seed=1, dtype="float64")
    weight = net.materialize(params)
    budget = 8 * net.cost().peak
    for _ in range(30):
        try:
            blocks = list(net.iter_blocks(params, max_bytes=budget))
        except dtn.SpecError:
            break
        assert np.allclose(np.concatenate([block for _, block in blocks]), weight, rtol=1e-10, atol=1e-12)
        assert [rows.start for rows, _ in blocks] == [0, *(rows.stop for rows, _ in blocks)][:-1]
        assert blocks[-1][0].stop == net.shape[0]
        assert max(block.nbytes for _, block in blocks) <= budget
        budget //= 2
    else:
        pytest.fail("iter_blocks accepted a budget of almost no bytes")


def test_gradients_flow_through_rows(torch):
    net = dtn.network(dtn.BrickWall(layers=2, activation=None), (12, 10))
    params = {name: p.requires_grad_() for name, p in net.init(like="torch", dtype="float64").items()}
    net.materialize(params, rows=slice(3, 9)).square().sum().backward()
    rows = {name: p.grad.clone() for name, p in params.items()}
    for p in params.values():
        p.grad = None
    net.materialize(params)[3:9].square().sum().backward()
    assert all(np.allclose(rows[name], p.grad, rtol=1e-10) for name, p in params.items())


def test_blocks_of_a_weight_of_a_gibibyte_need_little():
    net = dtn.network(dtn.BrickWall(layers=1), (2**14, 2**14))
    params = net.init()
    size = 4 * net.size
    _, block = next(net.iter_blocks(params, max_bytes=size // 16))
    assert block.shape == (512, 2**14)
    assert np.allclose(block[100:101], net.materialize(params, rows=slice(100, 101)))


def test_walk_takes_ragged_ranges():
    assert list(walk((1, 2), (2, 3))) == [
        ((0, 1), (0, 2)),
        ((0, 1), (2, 1)),
        ((1, 1), (0, 2)),
        ((1, 1), (2, 1)),
    ]


@pytest.mark.parametrize("rows", [3, slice(0, 8, 2), slice(8, 0, -1), (0, 3)])
def test_rows_that_are_no_slice_of_single_steps(rows):
    net = dtn.network(dtn.TensorTrain(rank=2), (8, 8))
    with pytest.raises(dtn.SpecError, match="slice with step 1"):
        net.materialize(net.init(), rows=rows)


@pytest.mark.parametrize("limit", [0, -1, 2.5, None, 8])
def test_too_little_memory(limit):
    net = dtn.network(dtn.TensorTrain(rank=2), (8, 8))
    with pytest.raises(dtn.SpecError, match="max_bytes"):
        net.iter_blocks(net.init(), max_bytes=limit)


def test_a_weight_of_one_row():
    net = dtn.network(dtn.TensorTrain(rank=2), (1, 8))
    ((rows, block),) = net.iter_blocks(net.init(), max_bytes=2**20)
    assert rows == slice(0, 1)
    assert block.shape == (1, 8)
