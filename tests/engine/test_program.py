"""Test compiled programs: golden counts, determinism, and what a step must not do."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

import deeptn as dtn
from deeptn.base import CACHE
from deeptn.engine import Contract, Permute

#: Golden counts: parameters, flops, written and peak elements, steps. If they change, so does the cost of a decode.
GOLDEN = {
    "brickwall-1": (224, 67382272, 16845964, 16845244, 9),
    "brickwall-3-linear": (960, 1096226048, 17314956, 17106812, 21),
    "brickwall-3-relu": (792, 616678016, 13674212, 2102988, 30),
    "lenet-4-relu": (864, 45140672, 1074428, 136076, 33),
    "tree-4": (656, 90092096, 7625360, 2098384, 23),
    "train-8": (2472, 269638656, 16854528, 16847016, 17),
    "ttmatrix-8": (9216, 269484032, 33689600, 33563648, 4),
    "tucker-4": (4288, 11016192, 350400, 335232, 5),
    "lowrank-8": (65536, 268435456, 16777216, 16842752, 1),
}

#: The same for products with an input, by (name, number of rows).
GOLDEN_APPLY = {
    ("brickwall-1", 1): (224, 46080, 11772, 12732, 11),
    ("brickwall-1", 128): (224, 4467712, 538012, 1053116, 10),
    ("brickwall-3-linear", 128): (960, 76748032, 1397900, 1574780, 24),
    ("train-8", 128): (2472, 17258560, 1094944, 1577128, 19),
    ("ttmatrix-8", 128): (9216, 1074790400, 4849664, 5284864, 4),
    ("tucker-4", 128): (4288, 2883584, 180224, 168128, 7),
}

SCRIPT = """
import deeptn as dtn
for net in (
    dtn.network(dtn.BrickWall(layers=3), (120, 400)),
    dtn.network(dtn.BrickWall(layers=4, activation=None), (120, 400)),
    dtn.network(dtn.Tree(rank=5), (120, 400)),
    dtn.network(dtn.TTMatrix(rank=3), (512, 512, 3, 3)),
):
    print(net.program("materialize", 1))
    if net.is_linear:
        print(net.program("apply", 64))
"""


def test_programs_do_not_depend_on_the_hash_seed():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(outputs) == 1
    assert "Contract" in outputs.pop()


CASES = {
    "brickwall-1": (dtn.BrickWall(layers=1), (4096, 4096)),
    "brickwall-3-linear": (dtn.BrickWall(layers=3, activation=None), (4096, 4096)),
    "brickwall-3-relu": (dtn.BrickWall(layers=3), (1024, 1024)),
    "lenet-4-relu": (dtn.BrickWall(layers=4), (120, 400)),
    "tree-4": (dtn.Tree(rank=4), (1024, 1024)),
    "train-8": (dtn.TensorTrain(rank=8), (4096, 4096)),
    "ttmatrix-8": (dtn.TTMatrix(rank=8), (4096, 4096)),
    "tucker-4": (dtn.Tucker(rank=4), (512, 512)),
    "lowrank-8": (dtn.LowRank(rank=8), (4096, 4096)),
}


def figures(name: str, batch: int | None = None) -> tuple[int, ...]:
    family, shape = CASES[name]
    net = dtn.network(family, shape)
    cost = net.cost() if batch is None else net.cost("apply", batch)
    return (cost.params, cost.flops, cost.write, cost.peak, cost.steps)


@pytest.mark.parametrize("name", CASES)
def test_golden_counts(name):
    assert figures(name) == GOLDEN[name]


@pytest.mark.parametrize(("name", "batch"), GOLDEN_APPLY)
def test_golden_counts_of_apply(name, batch):
    assert figures(name, batch) == GOLDEN_APPLY[name, batch]


def kinds(name: str) -> str:
    """Return the steps of a decode: a letter each, with the number of stacked contractions and a ' per permutation."""
    family, shape = CASES[name]
    text = []
    for step in dtn.network(family, shape).program("materialize").steps:
        if isinstance(step, Contract):
            moved = sum(view.perm is not None for view in (step.left, step.right))
            stack = f"x{step.shape[0]}" if len(step.left.shape) == len(step.right.shape) == 3 else ""
            text.append(("I" if len(step.left.shape) < len(step.right.shape) else "M") + stack + "'" * moved)
        else:
            text.append(type(step).__name__[0].lower())
    return " ".join(text)


#: Golden step lists: M is a matrix product, I one inside a large tensor, a an activation, p a permutation, c a crop.
STEPS = {
    "brickwall-1": "Mx11' Mx5 M Mx2 M M M",
    "brickwall-3-linear": "Mx24 Mx11 Mx9'' M'' Mx5'' M'' M Mx4'' M M'' Mx2'' M'' M'' M'' M'' M'' I' M' M'",
    "brickwall-3-relu": "Mx9' Mx4 M Mx2 M M a M Mx4 M' Mx4 M' Mx4' I' I' I' M' a M Mx4 M' Mx4 M' Mx4' I' I' I' M'",
    "lenet-4-relu": "Mx7 Mx3' I M' M' M''" + 3 * " a Mx7'' Mx3 M M' I' I' M'" + " c",
    "tree-4": "a M M a M I I M a M I I I I I I M a Mx2 M'' I' p",
    "train-8": "M Mx7 M M Mx2 M M M M M M M M M M M",
    "ttmatrix-8": "M M' M'' p",
    "tucker-4": "Mx3 M' I' M'",
    "lowrank-8": "M",
}


@pytest.mark.parametrize("name", CASES)
def test_golden_steps(name):
    assert kinds(name) == STEPS[name]


def test_decoding_one_layer_writes_the_weight_once():
    net = dtn.network(dtn.BrickWall(layers=1), (4096, 4096))
    cost = net.cost()
    assert cost.write < 1.01 * 2**24
    assert cost.peak < 1.01 * 2**24
    assert not any(isinstance(step, Permute) for step in net.program("materialize", 1).steps)


def test_every_contraction_is_a_product_of_matrix_views():
    program = dtn.network(dtn.BrickWall(layers=3), (64, 64)).program("materialize", 1)
    for step in program.steps:
        if isinstance(step, Contract):
            assert 2 <= len(step.left.shape) <= len(step.right.shape) <= 3


@pytest.mark.parametrize("legs", [20, 21, 24])
@pytest.mark.parametrize("layers", [2, 4])
def test_a_large_state_is_touched_block_by_block_and_never_moved(legs, layers):
    net = dtn.network(dtn.BrickWall(layers=layers), (2 ** (legs // 2), 2 ** (legs - legs // 2)))
    steps = net.program("materialize", 1).steps
    large = [
        step
        for step in steps
        if isinstance(step, Contract) and max(math.prod(step.left.shape), math.prod(step.right.shape)) >= 2**legs
    ]
    assert len(large) <= (layers - 1) * -(-legs // 4)
    for step in large:
        for view in (step.left, step.right):
            assert view.perm is None or math.prod(view.shape) <= 2**12
    assert not any(isinstance(step, Permute) for step in steps)
    touches = len(large) + layers - 1  # one per activation
    assert net.cost().write < (touches + 1.1) * 2**legs


def test_cost_counts_one_product():
    cost = dtn.network(dtn.LowRank(rank=3), (7, 11)).cost()
    assert (cost.flops, cost.write, cost.peak, cost.steps) == (2 * 7 * 3 * 11, 77, 3 * 18 + 77, 1)


def test_cost_of_apply_grows_with_the_batch_and_spares_the_weight():
    net = dtn.network(dtn.TTMatrix(rank=8), (4096, 4096))
    one, many = net.cost("apply", batch=1), net.cost("apply", batch=128)
    assert one.flops < many.flops < 2 * 128 * 4096**2
    assert one.peak < 2**17
    relu = dtn.network(dtn.BrickWall(layers=2), (64, 64))
    assert relu.cost("apply", batch=8).flops == relu.cost().flops + 2 * 8 * 64 * 64


def test_choose():
    net = dtn.network(dtn.TTMatrix(rank=8), (4096, 4096))
    choice = net.choose(batch=1)
    assert choice.mode == "apply"
    assert set(choice.seconds) == {"apply", "materialize"}
    assert "1 rows" in str(choice)
    assert dtn.network(dtn.BrickWall(layers=2), (64, 64)).choose(batch=1).mode == "materialize"
    for batch in (1, 64, 4096, 10**6):
        choice = dtn.network(dtn.BrickWall(layers=4, activation=None), (16, 16)).choose(batch)
        assert choice.seconds[choice.mode] == min(choice.seconds.values())


def test_programs_are_cached_and_one_serves_a_range_of_batches():
    net = dtn.network(dtn.TensorTrain(rank=4), (16, 16))
    params = net.init(dtype="float64")
    misses = None
    for batch in (33, 40, 64):
        x = np.ones((batch, 16))
        assert np.allclose(net.apply(params, x), x @ net.materialize(params).T)
        misses = misses or CACHE.misses
        assert misses == CACHE.misses
