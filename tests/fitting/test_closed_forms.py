"""Test decompositions: exact at full rank, optimal where the optimum is known, an error if there is no closed form."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

import deeptn as dtn
from deeptn.topologies import topology, topology_names

from ..conftest import close

CLOSED = {
    "lowrank": (dtn.LowRank, {}),
    "train": (dtn.TensorTrain, {}),
    "train-interleaved": (dtn.TensorTrain, {"order": "interleaved"}),
    "ttmatrix": (dtn.TTMatrix, {}),
    "tucker": (dtn.Tucker, {}),
    "tree": (functools.partial(dtn.Tree, activation=None), {}),
    "tree-of-three": (functools.partial(dtn.Tree, activation=None, arity=3), {"order": "interleaved"}),
    "caterpillar": (functools.partial(dtn.Tree, activation=None, balanced=False), {}),
    "hierarchical-tucker": (dtn.HierarchicalTucker, {}),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("case", CLOSED.values(), ids=CLOSED)
@pytest.mark.parametrize("shape", [(12, 10), (6, 4, 3, 3)])
def test_decompose_is_exact_at_full_rank_and_better_with_rank(case, shape):
    family, options = case
    weight = np.random.default_rng(0).standard_normal(shape)
    layout = dtn.Layout(shape, **options) if options else None
    full = dtn.decompose(weight, family(rank=10**6), layout)
    assert full.error < 1e-12
    assert close(full.net.materialize(full.params), weight, 1e-12)
    errors = [dtn.decompose(weight, family(rank=rank), layout).error for rank in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert all(0 <= error <= 1 for error in errors)


@pytest.mark.few(1)
@pytest.mark.parametrize("shape", [(16, 16), (8, 16), (12, 18), (4,), (8,), (6, 5), (32,)])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_brick_wall_takes_over_a_tensor_train_of_rank_two(shape, layers):
    layout = dtn.Layout(shape)
    train = dtn.network(dtn.TensorTrain(rank=2), shape, layout)
    weight = train.materialize(train.init(dtype="float64"))
    wall = dtn.BrickWall(layers=layers, activation=None)
    assert dtn.decompose(weight, wall, layout).error < 1e-12
    padded = dtn.decompose(weight, wall)
    assert padded.net.layout.is_padded == (layout.leg_sizes != padded.net.layout.leg_sizes)
    assert padded.error < 1.0


@pytest.mark.few(1)
@pytest.mark.parametrize(("rank", "side"), [(2, 16), (3, 256)])
def test_a_tree_takes_over_a_tensor_train_where_its_bonds_allow(rank, side):
    train = dtn.network(dtn.TensorTrain(rank=rank), (side, side))
    weight = train.materialize(train.init(dtype="float64"))
    assert dtn.decompose(weight, dtn.Tree(rank=rank**2, activation=None), train.layout).error < 1e-12
    assert dtn.decompose(weight, dtn.Tree(rank=rank**2 - 1, activation=None), train.layout).error > 1e-3


def test_one_layer_of_a_brick_wall_is_the_best_train_of_its_bonds():
    weight = np.random.default_rng(3).standard_normal((4, 4))
    wall = dtn.decompose(weight, dtn.BrickWall(layers=1, activation=None))
    left, right = (np.linalg.svd(weight.reshape(sides), compute_uv=False) for sides in ((2, 8), (8, 2)))
    assert left.size == right.size == 2  # bonds of size 2 truncate nothing at the ends: legs 0 | 1 2 | 3
    assert wall.error < 1e-12
    larger = np.random.default_rng(3).standard_normal((8, 4))
    values = np.linalg.svd(larger.reshape(8, 4), compute_uv=False)
    assert dtn.decompose(larger, dtn.BrickWall(layers=1, activation=None)).error == pytest.approx(
        np.linalg.norm(values[2:]) / np.linalg.norm(values), rel=1e-9
    )


@pytest.mark.parametrize(
    "family",
    [
        dtn.Tree(rank=4),
        dtn.BrickWall(),
        dtn.TensorTrain(shared=True),
    ],
)
def test_families_without_a_closed_form_say_so(family):
    assert not family.closed_form_suffices
    with pytest.raises(dtn.SpecError, match=r"no closed-form decomposition; fit it by gradient"):
        dtn.decompose(np.ones((16, 16)), family)


def test_svd_error_is_eckart_young():
    weight = np.random.default_rng(1).standard_normal((12, 10))
    singular = np.linalg.svd(weight, compute_uv=False)
    expected = math.sqrt((singular[3:] ** 2).sum() / (singular**2).sum())
    assert np.isclose(dtn.decompose(weight, dtn.LowRank(rank=3)).error, expected)


def test_decompose_of_a_padded_layout():
    weight = np.random.default_rng(1).standard_normal((5, 7))
    assert dtn.decompose(weight, dtn.TensorTrain(rank=8)).error < 1e-12


def test_tucker_agrees_with_tensorly():
    import tensorly
    from tensorly.decomposition import tucker

    weight = np.random.default_rng(2).standard_normal((6, 5))
    layout = dtn.Layout((6, 5), ((2, 3), (5,)))
    mine = dtn.decompose(weight, dtn.Tucker(rank=2), layout, sweeps=0)
    core, factors = tucker(weight.reshape(2, 3, 5), rank=[2, 2, 2], init="svd", n_iter_max=50, tol=1e-8)
    theirs = tensorly.tucker_to_tensor((core, factors)).reshape(6, 5)
    assert close(mine.net.materialize(mine.params), theirs, 1e-8)


@pytest.mark.parametrize("rank", [1, 3, 9])
def test_tucker_of_a_single_leg(rank):
    found, again = (
        dtn.decompose(np.arange(1.0, 6.0), dtn.Tucker(rank=rank), dtn.Layout.single((5,))) for _ in range(2)
    )
    assert found.error < 1e-12
    assert all(np.array_equal(found.params[name], again.params[name]) for name in found.params)


def test_decompose_keeps_library_and_dtype(library):
    weight = dtn.network("LowRank", (6, 5)).init(like=library)["U"]
    _, params, error = dtn.decompose(weight, dtn.TensorTrain(rank=2))
    assert {type(p) for p in params.values()} == {type(weight)}
    assert {str(p.dtype) for p in params.values()} == {str(weight.dtype)}
    assert 0 < error < 1


def test_decompose_zeros_and_half_precision(torch):
    assert dtn.decompose(np.zeros((4, 4)), dtn.LowRank(rank=1)).error == 0
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    result = dtn.decompose(weight, dtn.LowRank(rank=8))
    assert result.params["U"].dtype == torch.bfloat16
    assert 0 < result.error < 0.02


def test_tucker_ranks_above_what_the_others_allow():
    weight = np.random.default_rng(0).standard_normal((6, 4))
    net, params, _ = dtn.decompose(weight, dtn.Tucker(rank=(6, 2)), dtn.Layout.single((6, 4)))
    assert params["core"].shape == (6, 2)
    best = dtn.decompose(weight, dtn.LowRank(rank=2))
    assert close(net.materialize(params), best.net.materialize(best.params), 1e-6)


def test_which_closed_forms_are_enough():
    enough = {name for name in topology_names() if hasattr(dtn, name) and topology(name).closed_form_suffices}
    assert enough == {"HierarchicalTucker", "LowRank", "TTMatrix", "TensorTrain", "Tucker"}
    assert dtn.Tree(activation=None).closed_form_suffices
    wall = dtn.BrickWall(layers=1, activation=None)
    assert (wall.closed_form_suffices, wall.resized(2).closed_form_suffices) == (True, False)


def test_decompose_with_a_rank_per_bond():
    weight = np.random.default_rng(0).standard_normal((8, 8))
    for rank in ((1, 4, 4, 4, 4), (2, 99, 99, 99, 1), (99,) * 5):
        net, params, error = dtn.decompose(weight, dtn.TensorTrain(rank=rank))
        found = np.linalg.norm(net.materialize(params) - weight) / np.linalg.norm(weight)
        assert error == pytest.approx(found)
        assert (error < 1e-12) == (rank == (99,) * 5)
