"""Networks drawn at random, of every kind that a specification allows, against numpy.einsum and the plain steps."""

from __future__ import annotations

import contextlib
import dataclasses
import random

import numpy as np
import pytest
import torch
from deeptn_torch.engine import autograd as engine

import deeptn as dtn
from deeptn.engine import run, run_plain

from .. import tables
from ..oracle import einsum

#: With the limits at their values, and so low that everything uses buffers; operands kept, and made again.
SIZES = ("small", "middle", "large")


def draw_indices(rng: random.Random, pool: list[str], bonds: list[str], must: list[str]) -> list[tuple[str, ...]]:
    """Nodes by their indices: no bond hangs loose, and what `must` be held is."""
    nodes = [tuple(rng.sample(pool, rng.randint(0, min(4, len(pool))))) for _ in range(rng.randint(1, 8))]
    for bond in bonds:
        holders = [k for k, node in enumerate(nodes) if bond in node]
        free = [k for k, node in enumerate(nodes) if bond not in node and len(node) < 6]
        if len(holders) == 1 and free:
            nodes[rng.choice(free)] += (bond,)
        elif len(holders) == 1:
            nodes.append((bond,))
    loose = tuple(ix for ix in must if not any(ix in node for node in nodes))
    return [*nodes, loose] if loose else nodes


def draw(seed: int) -> dtn.Network:
    """One to three stages; hyper-indices, scalars, parts without a bond, sizes of 1, shared parameters, activations."""
    rng = random.Random(seed)
    shape = tuple(rng.choice((1, 2, 2, 2, 3)) for _ in range(rng.randint(1, 6)))
    layout = dtn.Layout((int(np.prod(shape)),), (shape,))
    legs = layout.legs
    sizes: dict[str, int] = {leg.name: leg.size for leg in legs}
    stages, before = [], ()
    count = rng.randint(1, 3)
    for number in range(count):
        last = number == count - 1
        output = tuple(leg.name for leg in legs) if last else tuple(f"s{number}_{k}" for k in range(rng.randint(1, 6)))
        bonds = [f"b{number}_{k}" for k in range(rng.randint(0, 6))]
        sizes |= {ix: rng.choice((1, 2, 2, 2, 3)) for ix in (*bonds, *(() if last else output))}
        must = [ix for ix in (*output, *before) if not (ix in output and ix in before)]
        held = draw_indices(rng, [*output, *before, *bonds], bonds, must)
        shared: dict[tuple[int, ...], str] = {}
        nodes = []
        for k, indices in enumerate(held):
            size = tuple(sizes[ix] for ix in indices)
            param = shared.get(size) if rng.random() < 0.3 else None
            shared.setdefault(size, f"N{number}_{k}")
            nodes.append(dtn.Node(f"N{number}_{k}", indices, param=param))
        between = (
            {}
            if last
            else {"activation": rng.choice(("relu", "tanh", "leaky_relu:0.2")), "normalize": rng.choice((None, "rms"))}
        )
        stages.append(dtn.Stage(tuple(nodes), output, **between))
        before = output
    used = {ix for stage in stages for node in stage.nodes for ix in node.indices}
    used |= {ix for stage in stages[:-1] for ix in stage.output}
    names = {leg.name for leg in legs}
    inner = tuple((ix, size) for ix, size in sizes.items() if ix in used and ix not in names)
    return dtn.Network(dtn.NetworkSpec(legs, tuple(stages), inner), layout)


def draw_joined(seed: int) -> dtn.Network:
    """Two to five stages of equal sizes that contract, multiply and add the results of any earlier ones."""
    rng = random.Random(seed)
    shape = tuple(rng.choice((1, 2, 2, 3)) for _ in range(rng.randint(1, 4)))
    layout = dtn.Layout((int(np.prod(shape)),), (shape,))
    sizes: dict[str, int] = {}
    stages: list[dtn.Stage] = []
    count = rng.randint(2, 5)
    bare = [rng.random() < 0.3 for _ in range(count - 1)]  # their outputs are the legs: they may be added to W
    some = lambda numbers, chance: tuple(n for n in numbers if rng.random() < chance)
    for number in range(count):
        last = number == count - 1
        legs = last or bare[number]
        output = tuple(leg.name if legs else f"s{number}_{k}" for k, leg in enumerate(layout.legs))
        multiply, add = some(range(number), 0.2), some(range(number), 0.3)
        if last:
            add = tuple(k for k in range(number) if bare[k] and rng.random() < 0.8)
        read = {k for stage in stages for k in (*(stage.sources or ()), *stage.multiply, *stage.add)} | {
            *multiply,
            *add,
        }
        unread = [k for k in range(number) if k not in read]
        # What shares its names with this stage's output is no tensor of it.
        sources = some([k for k in range(number) if not (legs and bare[k])], 0.3)
        if last:
            sources = tuple(sorted({*sources, *unread}))
        states = [ix for k in sources for ix in stages[k].output]
        bonds = [f"b{number}_{k}" for k in range(rng.randint(0, 3))]
        own = {ix: rng.choice((1, 2, 3)) for ix in bonds} | dict(zip(output, shape))
        sizes |= {ix: size for ix, size in own.items() if not legs or ix in bonds}
        held = draw_indices(rng, [*output, *states, *bonds], bonds, [*output, *states])
        nodes = tuple(dtn.Node(f"N{number}_{k}", indices) for k, indices in enumerate(held))
        between: dict = {}
        if not legs:
            between = {"activation": rng.choice(("relu", "tanh")), "normalize": rng.choice((None, "rms"))}
        stages.append(dtn.Stage(nodes, output, **between, sources=sources, multiply=multiply, add=add))
    held = {ix for stage in stages for ix in stage.output} | {ix for s in stages for n in s.nodes for ix in n.indices}
    inner = tuple((ix, size) for ix, size in sizes.items() if ix in held)
    return dtn.Network(dtn.NetworkSpec(layout.legs, tuple(stages), inner), layout)


def drawn_joined(seed: int) -> dtn.Network:
    """The first of some draws that is a network: an activated stage may not be added to the weight itself."""
    for k in range(20):
        with contextlib.suppress(dtn.SpecError):
            return draw_joined(1000 * seed + k)
    raise AssertionError(seed)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("start", [*range(0, 120, 10), *range(1000, 1120, 10)])
def test_values_and_gradients(start, size, monkeypatch):
    if size != "small":
        tables.use(monkeypatch, tables.BUFFERED)
    for seed in range(start, start + 10):
        net = draw(seed) if seed < 1000 else drawn_joined(seed)
        generator = np.random.default_rng(seed)
        params = {name: generator.standard_normal(shape) for name, shape in net.spec.param_shapes.items()}
        program = dataclasses.replace(net.program("materialize"), recompute=size == "large")
        with np.errstate(invalid="ignore"):
            expected = einsum(net, params)
        if not np.isfinite(expected).all():  # the oracle divides by the mean square of nothing but zeros
            continue
        assert np.allclose(run(program, list(params.values())), expected, rtol=1e-8, atol=1e-10), seed
        tensors = [torch.tensor(array, requires_grad=k % 5 != 3) for k, array in enumerate(params.values())]
        found, plain = engine.run(program, tensors), run_plain(program, tensors)
        assert np.allclose(found.detach(), expected, rtol=1e-8, atol=1e-10), seed
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        grad = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(seed))
        theirs = torch.autograd.grad(plain, wanted, grad, allow_unused=True)
        first = torch.autograd.grad(found, wanted, grad, allow_unused=True, retain_graph=True)
        for mine, again, other in zip(first, torch.autograd.grad(found, wanted, grad, allow_unused=True), theirs):
            if other is None or mine is None:
                assert mine is None or not mine.any(), seed
                assert other is None or not other.any(), seed
                continue
            scale = 1.0 + float(other.abs().max())
            assert torch.allclose(mine, other, rtol=1e-7, atol=1e-9 * scale), seed
            assert torch.equal(mine, again), seed


@pytest.mark.parametrize("batch", [1, 2, 7, 33])
def test_products(batch):
    for seed in range(60):
        net = draw(seed)
        if not net.is_linear:
            continue
        legs = net.layout.legs
        if len(legs) < 2:
            continue
        rows = tuple(leg.size for leg in legs[:1])
        columns = tuple(leg.size for leg in legs[1:])
        layout = dtn.Layout((rows[0], int(np.prod(columns))), (rows, columns))
        names = dict(zip((leg.name for leg in legs), (leg.name for leg in layout.legs)))
        rename = lambda indices, names=names: tuple(names.get(ix, ix) for ix in indices)
        stage = net.spec.stages[0]
        nodes = tuple(dataclasses.replace(node, indices=rename(node.indices)) for node in stage.nodes)
        spec = dtn.NetworkSpec(layout.legs, (dtn.Stage(nodes, rename(stage.output)),), net.spec.sizes)
        matrix = dtn.Network(spec, layout)
        generator = np.random.default_rng(seed)
        params = {name: generator.standard_normal(shape) for name, shape in spec.param_shapes.items()}
        x = generator.standard_normal((batch, matrix.shape[1]))
        assert np.allclose(matrix.apply(params, x), x @ einsum(matrix, params).T, rtol=1e-8, atol=1e-10), seed
