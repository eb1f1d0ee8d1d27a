from __future__ import annotations

import numpy as np
import pytest

import deeptn as dtn

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(24, 3)) @ RNG.normal(size=(3, 40)) + 0.01 * RNG.normal(size=(24, 40))
INPUTS = RNG.normal(size=(50, 40))


def by_gradient(net, weight):
    import deeptn_torch
    import torch

    found = deeptn_torch.fit(net, torch.as_tensor(weight, dtype=torch.float64), how=dtn.fitting.Fit(steps=60)).params
    return {name: p.numpy() for name, p in found.items()}


@pytest.mark.slow
def test_compare_measures_what_it_says():
    families = ["LowRank", dtn.TensorTrain(), dtn.Tree(activation=None), "Tucker", "BrickWall", "CP"]
    found = dtn.compare(WEIGHT, families, budget=300, inputs=INPUTS)
    assert [row.params is not None and row.params <= 300 for row in found.rows] == [True] * len(families)
    low = found.rows[0]
    assert low.params == 256
    assert low.rank == low.bound == 4
    values = np.linalg.svd(WEIGHT, compute_uv=False)
    assert low.error == pytest.approx(np.linalg.norm(values[4:]) / np.linalg.norm(values))
    net, params, error = dtn.decompose(WEIGHT, dtn.LowRank(rank=4))
    assert low.error == pytest.approx(error)
    gap = INPUTS @ (WEIGHT - net.materialize(params)).T
    assert low.output_error == pytest.approx(np.linalg.norm(gap) / np.linalg.norm(INPUTS @ WEIGHT.T))
    assert low.cost == net.cost()
    wall = found.rows[4]
    assert wall.error is None
    assert "no fit was given" in wall.note
    for row in found.rows:
        if row.rank is not None and row.bound is not None:
            assert row.rank <= row.bound
    text = str(found)
    assert "LowRank(rank=4)" in text
    assert len(text.splitlines()) == 2 + len(families)


@pytest.mark.slow
def test_compare_fits_by_gradient():
    found = dtn.compare(WEIGHT, ["BrickWall"], budget=500, fit=by_gradient).rows[0]
    net = dtn.at_budget("BrickWall", WEIGHT.shape, 500)
    again = net.materialize(by_gradient(net, WEIGHT))
    assert found.error == pytest.approx(np.linalg.norm(again - WEIGHT) / np.linalg.norm(WEIGHT))


def test_a_family_that_cannot_be_so_small_is_named():
    found = dtn.compare(WEIGHT, ["LowRank", "TensorTrain"], budget=60)
    assert found.rows[0].params is None
    assert "at least 64 parameters" in found.rows[0].note
    assert found.rows[1].params is not None
    needed = dtn.analysis.compressibility(WEIGHT, (10,), ["LowRank"], most=60).rows[0]
    assert (needed.params, "at least 64" in needed.note) == (None, True)


@pytest.mark.slow
def test_compressibility_finds_the_smallest_size():
    found = dtn.analysis.compressibility(WEIGHT, (5, 20, 40, 60), ["LowRank", "TensorTrain", "TTMatrix"], inputs=INPUTS)
    values = np.linalg.svd(WEIGHT, compute_uv=False)
    errors = [np.linalg.norm(values[rank:]) / np.linalg.norm(values) for rank in range(1, 25)]
    for row in found.rows[:4]:
        enough = [rank for rank, error in enumerate(errors, 1) if error <= 10 ** (-row.decibels / 20)]
        assert row.error is not None
        if enough and 64 * enough[0] <= WEIGHT.size:
            assert row.params == 64 * enough[0]
            assert row.error <= 10 ** (-row.decibels / 20)
        else:
            assert row.params is None
            assert row.error == pytest.approx(errors[WEIGHT.size // 64 - 1])
    train = found.rows[5]
    rank = int(train.label.removeprefix("TensorTrain(rank=").removesuffix(")").partition(",")[0])
    assert dtn.decompose(WEIGHT, dtn.TensorTrain(rank=rank)).error <= 0.1
    assert dtn.decompose(WEIGHT, dtn.TensorTrain(rank=rank - 1)).error > 0.1
    assert "dB" in str(found)


def test_compressibility_of_deep_networks():
    easy = np.outer(np.arange(1.0, 17.0), np.ones(16)) / 16 + np.eye(16) / 4
    rows = dtn.analysis.compressibility(easy, (3, 60), ["BrickWall"], fit=by_gradient, most=200).rows
    assert rows[0].params is not None
    assert rows[1].params is None
    assert rows[1].error is not None
    assert rows[1].error > 1e-3
    alone = dtn.analysis.compressibility(easy, (10,), ["Tree"]).rows[0]
    assert alone.note == "cannot be decomposed, and no fit was given"


@pytest.mark.slow
def test_plots(tmp_path):
    found = dtn.compare(WEIGHT, budget=300, inputs=INPUTS)
    found.plot().savefig(tmp_path / "a.png")
    dtn.compare(WEIGHT, budget=300).plot().savefig(tmp_path / "b.png")
    figure = dtn.analysis.compressibility(WEIGHT, (10, 20)).plot()
    assert [line.get_label() for line in figure.axes[0].lines] == [
        "HierarchicalTucker",
        "LowRank",
        "TensorTrain",
        "TTMatrix",
        "Tucker",
        "dense",
    ]
    net = dtn.network("BrickWall", (8, 8))
    spectra = dtn.analysis.analyze(net, net.init()).plot().axes[0].lines
    assert len(spectra) == 6
    assert [line.get_color() for line in spectra] == ["black", "C1", "C2", "C3", "C4", "C5"]
    on_top = [line.get_zorder() for line in spectra]
    assert on_top == sorted(on_top, reverse=True)
    assert 2 < on_top[-1] < on_top[0] == 3
    assert np.size(dtn.analysis.inspect(WEIGHT).plot().axes[0].lines[0].get_xdata()) == 24
    with pytest.raises(dtn.SpecError, match="no spectrum"):
        dtn.analysis.analyze(net).plot()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: dtn.compare(np.ones(8)), "two axes"),
        (lambda: dtn.compare(WEIGHT, inputs=np.ones((5, 7))), r"expected \(N, 40\)"),
        (lambda: dtn.compare(WEIGHT, budget=0), "budget"),
        (lambda: dtn.analysis.compressibility(WEIGHT, (0,)), "positive numbers"),
        (lambda: dtn.analysis.compressibility(WEIGHT, (10,), most=-1), "most"),
        (lambda: dtn.compare(WEIGHT, ["LowRnk"]), "LowRank"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(dtn.DeepTNError, match=match):
        call()


def test_a_fit_that_fails_is_not_enough():
    nothing = lambda net, weight: {name: np.full(shape, np.nan) for name, shape in net.spec.param_shapes.items()}
    assert dtn.analysis.compressibility(WEIGHT, (10,), ["BrickWall"], fit=nothing, most=200).rows[0].params is None


def test_levels_may_be_an_array_and_one_family_may_not_fit():
    rows = dtn.analysis.compressibility(
        WEIGHT, np.arange(10, 30, 10), [dtn.Tree(activation=None), dtn.Tree(activation=None, arity=3)]
    )
    assert [row.decibels for row in rows.rows] == [10, 20, 10, 20]
    assert len(rows.plot().axes[0].lines) == 3
    kernel = RNG.normal(size=(4, 3, 2, 2))
    graph = dtn.Graph(nodes={"A": "ax", "B": "xb"}, sizes={"x": 2}, output="ab")
    found = dtn.compare(kernel, [graph, "LowRank"], budget=100)
    assert found.rows[0].note
    assert found.rows[1].error is not None


@pytest.mark.parametrize("topologies", ["LowRank", dtn.LowRank()])
def test_one_family_alone_is_not_a_list(topologies):
    with pytest.raises(dtn.SpecError, match="expected a list"):
        dtn.compare(WEIGHT, topologies)


def test_moments_at_the_edges():
    flat = dtn.analysis.inspect(np.full((12, 10), 0.1)).moments
    assert flat is not None
    assert (flat.std, flat.kurtosis) == (0.0, 0.0)
    tiny = dtn.analysis.inspect(RNG.normal(size=(50, 40)) * 1e-83).moments
    assert tiny is not None
    assert tiny.kurtosis == pytest.approx(3, abs=0.5)
