"""Draw random networks of every kind that a specification allows."""

from __future__ import annotations

import contextlib
import random

import numpy as np

import deeptn as dtn

#: First seeds for `draw_any`; each test takes ten seeds in a row.
STARTS = tuple(range(0, 240, 10))


def draw_indices(rng: random.Random, pool: list[str], bonds: list[str], must: list[str]) -> list[tuple[str, ...]]:
    """Draw the indices of each node: no bond has a loose end, and every index in `must` is on some node."""
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
    """Draw one to three stages: hyper-indices, scalars, separate parts, sizes of 1, shared parameters, activations."""
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
    """Draw two to five stages of equal sizes that contract, multiply and add results of any earlier stages."""
    rng = random.Random(seed)
    shape = tuple(rng.choice((1, 2, 2, 3)) for _ in range(rng.randint(1, 4)))
    layout = dtn.Layout((int(np.prod(shape)),), (shape,))
    sizes: dict[str, int] = {}
    stages: list[dtn.Stage] = []
    count = rng.randint(2, 5)
    bare = [rng.random() < 0.3 for _ in range(count - 1)]  # their outputs are the legs, so they can be added to W
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
        # A result whose index names are those of this stage's output cannot be one of its tensors.
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
    """Draw until the network is valid: an activated stage, for example, must not be added to the weight itself."""
    for k in range(20):
        with contextlib.suppress(dtn.SpecError):
            return draw_joined(1000 * seed + k)
    raise AssertionError(seed)


def draw_any(seed: int) -> dtn.Network:
    """Draw stages in a row for even seeds, stages that join for odd ones."""
    return drawn_joined(seed) if seed % 2 else draw(seed)


def parameters(net: dtn.Network, seed: int) -> dict[str, np.ndarray]:
    """Draw standard normal entries."""
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape) for name, shape in net.spec.param_shapes.items()}
