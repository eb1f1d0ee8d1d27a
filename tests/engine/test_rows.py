"""Test rows of a weight, and the weight in blocks of rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

import deeptn as dtn
from deeptn.arrays import from_raw, to_numpy
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


@pytest.mark.few(35)
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


INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("family", "rows"),
    [(dtn.LowRank(rank=2), 256), (dtn.LowRank(rank=2), 30_000), (dtn.TTMatrix(rank=2), 300), (dtn.BrickWall(), 300)],
    ids=str,
)
def test_row_numbers_of_all_integer_types(family, rows, library):
    net = dtn.network(family, (rows, 4))
    params = net.init(seed=0, like=library)
    weight = to_numpy(net.materialize(params))
    numbers = np.array([[0, 5], [100, 127]])
    for dtype in INTEGERS:
        narrow = numbers.astype(dtype)
        for given in (narrow, from_raw(narrow, library)):
            assert np.allclose(to_numpy(net.gather(params, given)), weight[numbers], atol=1e-6), dtype
    assert np.allclose(to_numpy(net.gather(params, numbers.tolist())), weight[numbers], atol=1e-6)
    assert np.allclose(to_numpy(net.gather(params, 127)), weight[127], atol=1e-6)


@pytest.mark.parametrize("family", [dtn.TTMatrix(rank=2), dtn.BrickWall(layers=2)], ids=str)
def test_what_is_no_row_number_is_refused(family, library):
    net = dtn.network(family, (12, 10))
    params = net.init(like=library)
    for mask in (np.arange(12) > 8, from_raw(np.arange(12) > 8, library), [True, False]):
        with pytest.raises(dtn.SpecError, match=r"rows have the dtype bool.*flatnonzero"):
            net.gather(params, mask)
    for floats in (np.ones(3, "float32"), from_raw(np.ones(3, "float32"), library), [0.0, 1.0]):
        with pytest.raises(dtn.SpecError, match=r"rows have the dtype float.*expected integers"):
            net.gather(params, floats)


@pytest.mark.few(16)
@pytest.mark.parametrize(
    "family", [dtn.TensorTrain(rank=2), dtn.Tucker(rank=2), dtn.CP(rank=2), dtn.LowRank(rank=1)], ids=str
)
@pytest.mark.parametrize("count", [1, 3, 8])
def test_rows_of_a_weight_of_one_row(family, count, library):
    net = dtn.network(family, (1, 24))
    params = net.init(seed=0, like=library)
    found = net.gather(params, np.zeros(count, "int64"))
    assert np.array_equal(to_numpy(found), np.tile(to_numpy(net.materialize(params)), (count, 1)))
    if library != "jax":
        found += 1  # the rows have their own memory


@pytest.mark.parametrize("rows", [[], (), range(0)], ids=repr)
def test_no_rows(rows, library):
    net = dtn.network(dtn.TTMatrix(rank=2), (12, 10))
    assert net.gather(net.init(like=library), rows).shape == (0, 10)


@pytest.mark.parametrize("rows", [[[1, 2], [3]], None, slice(3), "3"], ids=repr)
def test_what_is_no_number_is_refused(rows):
    net = dtn.network(dtn.TTMatrix(rank=2), (12, 10))
    with pytest.raises(dtn.SpecError, match=r"rows = .*expected integers, for example"):
        net.gather(net.init(), rows)


@pytest.mark.parametrize("rows", [[True, 2], [[1, 2], [np.True_, 3]]], ids=repr)
def test_true_is_not_a_row_number(rows):
    net = dtn.network(dtn.TTMatrix(rank=2), (12, 10))
    with pytest.raises(dtn.SpecError, match="without True or False among them"):
        net.gather(net.init(), rows)


def test_cores_of_two_kinds_are_refused_by_name(torch):
    net = dtn.network(dtn.TensorTrain(rank=2), (12, 10))
    params = net.init()
    for other, found in ((torch.from_numpy(params["core1"]), "float32 in torch"), (np.float64(params["core1"]), "64")):
        mixed = params | {"core1": other}
        for call in (
            lambda mixed=mixed: net.gather(mixed, [1, 2]),
            lambda mixed=mixed: net.materialize(mixed, rows=slice(2, 5)),
            lambda mixed=mixed: list(net.iter_blocks(mixed, 3000)),
        ):
            with pytest.raises(dtn.SpecError, match=f"parameter 'core1' is .*{found}.* but parameter 'core0' is"):
                call()


def test_rows_that_32_bits_cannot_number(jax):
    net = dtn.network(dtn.TTMatrix(rank=2), (2**40, 4))
    params = net.init(seed=0)
    rows = np.array([2**33 + 5, 7])
    assert net.gather(params, rows).shape == (2, 4)
    params = {name: jax.numpy.asarray(core) for name, core in params.items()}
    with pytest.raises(dtn.SpecError, match="need wider integers than jax's int32"):
        net.gather(params, rows)


def test_rows_of_another_library(torch, jax):
    net = dtn.network(dtn.TTMatrix(rank=2), (12, 10))
    with pytest.raises(dtn.SpecError, match="rows are an array of torch, the parameters of jax"):
        net.gather(net.init(like="jax"), torch.tensor([1, 2]))
