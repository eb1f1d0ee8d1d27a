"""Test the stacking of equal contractions: fewer steps, the same numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import deeptn as dtn
from deeptn.arrays import CPU
from deeptn.engine import Contract, merge_alike, run, schedule, stacking

from ..oracle import einsum

Problem = tuple[list[tuple[int, ...]], tuple[int, ...], list[int]]


def chain(length: int, bond: int = 3, leg: int = 2) -> Problem:
    """Return a ring of equal tensors: legs 0 … length - 1, then the bonds."""
    inputs = [(length + k, k, length + (k + 1) % length) for k in range(length)]
    return inputs, tuple(range(length)), [leg] * length + [bond] * length


def check(path: stacking.Path, problem: Problem) -> None:
    """Check that every tensor is used once, and that no group reads its own results or mixes shapes."""
    inputs, output, sizes = problem
    orders = [set(order) for order in inputs]
    used: set[int] = set()
    for group in path:
        known = len(orders)
        shapes = set()
        for i, j in group:
            assert i < j < known
            assert used.isdisjoint((i, j))
            used.update((i, j))
            others = set(output).union(*(orders[k] for k in range(len(orders)) if k not in used))
            shapes.add(tuple(tuple(sorted(sizes[ix] for ix in orders[k])) for k in (i, j)))
            orders.append((orders[i] | orders[j]) & (others | (orders[i] ^ orders[j])))
        assert len(shapes) == 1
    assert len(used) == 2 * len(inputs) - 2


def random_problem(seed: int) -> Problem:
    rng = random.Random(seed)
    count, indices = rng.randint(2, 9), rng.randint(2, 10)
    sizes = [rng.choice((1, 2, 2, 2, 3)) for _ in range(indices)]
    inputs = [tuple(rng.sample(range(indices), rng.randint(0, min(4, indices)))) for _ in range(count)]
    held = sorted({ix for order in inputs for ix in order})
    # An index of only one tensor has to stay open, because nothing contracts it.
    open_ones = tuple(ix for ix in held if rng.random() < 0.3 or sum(ix in order for order in inputs) == 1)
    return inputs, open_ones, sizes


@pytest.mark.parametrize("length", [2, 3, 8, 13, 16, 31])
def test_a_ring_of_equal_tensors_needs_as_many_steps_as_levels(length):
    problem = chain(length, leg=1)
    pairs = merge_alike(*problem, singles=0, growth=1)
    assert pairs is not None
    cost, path = schedule(pairs, *problem, singles=0)
    check(path, problem)
    assert len(path) <= 2 * (length - 1).bit_length()
    assert cost < (len(path) + 1) * CPU.step


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("growth", [0, 4])
def test_paths_of_random_networks_are_whole(seed, growth):
    problem = random_problem(seed)
    pairs = merge_alike(*problem, singles=0, growth=growth)
    assert pairs is not None
    check(schedule(pairs, *problem, singles=0)[1], problem)


def test_what_is_no_parameter_stands_in_no_stack():
    problem = chain(8)
    pairs = merge_alike(*problem, singles=8, growth=1)
    assert pairs is not None
    path = schedule(pairs, *problem, singles=8)[1]
    assert all(len(group) == 1 for group in path if min(group[0]) < 8)


def test_large_tensors_stand_in_no_stack():
    inputs = [(2 * k, 2 * k + 1) for k in range(4)] + [(2 * k + 1, 8 + k) for k in range(4)]
    sizes = [1024, 64] * 4 + [1024] * 4
    output = (0, 2, 4, 6, 8, 9, 10, 11)
    path = schedule([(k, k + 4) for k in range(4)] + [(8, 9), (10, 11), (12, 13)], inputs, output, sizes, 0)[1]
    assert CPU.stack < 1024 * 1024
    assert all(len(group) == 1 for group in path)


def test_too_many_neighbors_are_left_to_the_other_searches(monkeypatch):
    monkeypatch.setattr(stacking, "PAIRS", 3)
    assert merge_alike(*chain(8), singles=0, growth=1) is None


@pytest.mark.slow
@given(
    st.sampled_from([dtn.BrickWall, dtn.Tree, dtn.TensorTrain]),
    st.integers(2, 9),
    st.integers(1, 4),
    st.sampled_from([None, "relu"]),
    st.integers(0, 3),
)
def test_regular_networks_give_the_numbers_of_einsum(family, legs, size, activation, seed):
    options = {} if family is dtn.TensorTrain else {"activation": activation}
    topology = family(**{family.size_field: size}, **options)
    shape = (2 ** (legs // 2), 2 ** (legs - legs // 2))
    net = dtn.network(topology, shape, dtn.Layout(shape))
    params = net.init(seed=seed, dtype="float64")
    assert np.allclose(net.materialize(params), einsum(net, params), rtol=1e-10, atol=1e-12)


def test_a_small_brick_wall_takes_few_steps():
    linear = dtn.network(dtn.BrickWall(layers=2, activation=None), (120, 400))
    assert len(linear.spec.nodes) == 30
    assert linear.cost().steps <= 13
    assert linear.cost("apply", batch=128).steps <= 14  # including padding and cropping
    assert dtn.network(dtn.BrickWall(layers=2), (120, 400)).cost().steps <= 17


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_stack_is_read_item_by_item_once(layers):
    program = dtn.network(dtn.BrickWall(layers=layers, activation=None), (64, 64)).program("materialize")
    seen: dict[int, list[int]] = {}
    for step in program.steps:
        for view in (step.left, step.right) if isinstance(step, Contract) else ():
            if isinstance(view.items, int):
                seen.setdefault(view.register, []).append(view.items)
            elif view.items is not None:
                seen.setdefault(view.register, []).extend(range(*view.items))
    assert seen
    for items in seen.values():
        assert len(items) == len(set(items))


def alike_with_a_shared_parameter() -> dtn.Network:
    layout = dtn.Layout((9, 9), ((3, 3), (3, 3)))
    legs = layout.legs
    nodes = tuple(dtn.Node(f"U{k}", (leg.name, f"s{k}"), param="U") for k, leg in enumerate(legs))
    middle = tuple(dtn.Node(f"V{k}", (f"s{k}", f"s{(k + 1) % 4}q"), param="V") for k in range(4))
    last = tuple(dtn.Node(f"R{k}", (f"s{k}q", f"t{k}", f"t{(k + 1) % 4}")) for k in range(4))
    sizes = tuple((f"s{k}", 2) for k in range(4)) + tuple((f"s{k}q", 2) for k in range(4))
    sizes += tuple((f"t{k}", 2) for k in range(4))
    spec = dtn.NetworkSpec(legs, (dtn.Stage(nodes + middle + last, tuple(leg.name for leg in legs)),), sizes)
    return dtn.Network(spec, layout)


def test_nodes_that_share_a_parameter_are_stacked_with_it():
    net = alike_with_a_shared_parameter()
    assert any(len(set(stack)) < len(stack) for stack in net.program("materialize").stacks)
    params = net.init(seed=1, dtype="float64")
    assert np.allclose(net.materialize(params), einsum(net, params), rtol=1e-10, atol=1e-12)


def test_the_gradient_of_a_shared_parameter(torch):
    net = alike_with_a_shared_parameter()
    params = net.init(seed=1, dtype="float64")
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in params.items()}
    (grad,) = torch.autograd.grad(net.materialize(tensors).square().sum(), [tensors["U"]])
    step = 1e-6 * np.random.default_rng(0).standard_normal(grad.shape)
    values = [(net.materialize(params | {"U": params["U"] + sign * step}) ** 2).sum() for sign in (1, -1)]
    assert np.isclose((values[0] - values[1]) / 2, float((grad.numpy() * step).sum()), rtol=1e-6)


def test_a_program_runs_on_lists_of_arrays():
    net = dtn.network(dtn.BrickWall(layers=1), (8, 8))
    params = net.init(dtype="float64")
    found = run(net.program("materialize"), list(params.values()))
    assert np.allclose(found, net.materialize(params))
