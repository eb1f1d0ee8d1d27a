"""Laws that every topology keeps, and strategies that draw topologies: for the tests of your own.

A topology's test is two lines::

    def test_cross():
        check_laws(Cross(copies=2), shape=(6, 8))
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from autoray import do
from cotengra import array_contract_path

from . import activations
from ._typing import ParamsLike
from .bridge import optional
from .budget import at_budget
from .errors import SpecError
from .init import target_std
from .layout import Layout
from .network import Network, network
from .params import to_numpy
from .serialize import load, save
from .spec import NetworkSpec
from .topologies import Graph, Topology, topology, topology_from_dict, topology_names, topology_to_dict

#: Networks that the strategies draw have at most so many entries and parameters, and take so many operations.
ENTRIES, PARAMETERS, FLOPS = 2**12, 2**16, 2**24


def reference(net: Network, params: ParamsLike) -> np.ndarray:
    """Decode a network by its definition, stage by stage with `numpy.einsum`; no program, no views, no buffers.

    Parameters
    ----------
    net : Network
    params : mapping of str to array
        NumPy arrays.

    Returns
    -------
    numpy.ndarray of shape ``net.shape``

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.Tree(rank=2), (6, 8))
    >>> params = net.init(dtype="float64")
    >>> bool(np.allclose(reference(net, params), net.materialize(params)))
    True
    """
    spec = net.spec
    results: list[np.ndarray] = []
    for number, stage in enumerate(spec.stages):
        tensors = [(results[source], spec.stages[source].output) for source in spec.sources(number)]
        for node in stage.nodes:
            shape = spec.node_shape(node)
            array = np.reshape(node.constant, shape) if node.constant is not None else params[str(node.param)]
            tensors.append((np.asarray(array), node.indices))
        state = _einsum(tensors, stage.output)
        for other in stage.multiply:
            state = state * results[other]
        for other in stage.add:
            state = state + results[other]
        if stage.normalize:
            state = state / np.sqrt(np.mean(np.abs(state) ** 2))
        results.append(state if stage.activation is None else activations.resolve(stage.activation)(state))
    order = sorted(range(len(spec.legs)), key=lambda k: net.layout.permutation[k])
    weight = results[-1].transpose(order).reshape(net.layout.padded_shape)
    return weight[tuple(slice(n) for n in net.shape)]


def _einsum(tensors: Sequence[tuple[np.ndarray, tuple[str, ...]]], output: tuple[str, ...]) -> np.ndarray:
    """Two tensors at a time, in an order that cotengra's greedy search finds."""
    arrays, held = [array for array, _ in tensors], [indices for _, indices in tensors]
    count = Counter(ix for indices in (*held, output) for ix in indices)
    sizes = {ix: n for array, indices in tensors for ix, n in zip(indices, array.shape)}
    for pair in array_contract_path(held, output, sizes, optimize="greedy") if len(held) > 1 else ():
        first, second = ((arrays.pop(k), held.pop(k)) for k in sorted(map(int, pair), reverse=True))
        count.subtract(first[1] + second[1])
        keep = tuple(ix for ix in dict.fromkeys(first[1] + second[1]) if count[ix])
        count.update(keep)
        arrays.append(_call([first, second], keep))
        held.append(keep)
    return _call([(arrays[0], held[0])], output)


def _call(tensors: Sequence[tuple[np.ndarray, tuple[str, ...]]], output: tuple[str, ...]) -> np.ndarray:
    numbers: dict[str, int] = {}
    operands: list[Any] = []
    for array, indices in tensors:
        operands += [array, [numbers.setdefault(ix, len(numbers)) for ix in indices]]
    return np.einsum(*operands, [numbers[ix] for ix in output], optimize=len(tensors) > 1)


def check_laws(
    given: Topology | Network | str,
    shape: Sequence[int] = (12, 10),
    layout: Layout | None = None,
    libraries: Sequence[str] = ("numpy",),
    seed: int = 0,
) -> Network:
    """Check what holds for every network.

    Decoding is the einsum of the definition; `apply` is the product with W; parameters are as many as the spec says;
    spec, layout and topology survive JSON, with their hash; the same seed gives the same numbers; `init` hits the
    standard deviation; files are read as they were written; `at_budget` keeps to the budget; and with other libraries
    the same values and gradients.

    Parameters
    ----------
    given : Topology, Network or str
    shape : sequence of int
        Shape of the weight, if a topology is given.
    layout : Layout, optional
    libraries : sequence of str
        Among ``"numpy"``, ``"torch"``, ``"jax"``.
    seed : int

    Returns
    -------
    Network
        The one that was checked.

    Raises
    ------
    AssertionError
        With the name of the law, the network, and what was found.

    Examples
    --------
    >>> import deeptn as dtn
    >>> check_laws(dtn.MERA(rank=3), (6, 8)).num_params
    137
    """
    net = given if isinstance(given, Network) else network(given, shape, layout)
    params = net.init(seed=seed, dtype="float64")
    weight = np.asarray(net.materialize(params))
    laws: dict[str, Callable[[], None]] = {
        "einsum": lambda: _near(weight, reference(net, params), 1e-10),
        "apply": lambda: _check_apply(net, params, weight, seed),
        "parameters": lambda: _check_parameters(net, params),
        "json": lambda: _check_json(net),
        "seed": lambda: _check_seed(net, params, seed),
        "init": lambda: _check_init(net, weight),
        "file": lambda: _check_file(net, params),
        "budget": lambda: _check_budget(net),
    }
    for library in libraries:
        if library != "numpy":
            laws[library] = lambda library=library: _check_library(net, params, weight, library, seed)
    for name, law in laws.items():
        try:
            law()
        except AssertionError as error:
            raise AssertionError(f"law {name!r} of {net!r}: {error}") from error
    return net


def _near(found: Any, expected: Any, tolerance: float) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"shape {found.shape} instead of {expected.shape}"
    assert np.isfinite(found).all(), "not finite"
    difference = np.abs(found - expected).max(initial=0.0) / max(1e-30, np.abs(expected).max(initial=0.0))
    assert difference <= tolerance, f"differs by {difference:.1e} of the largest entry"


def _check_apply(net: Network, params: ParamsLike, weight: np.ndarray, seed: int) -> None:
    if len(net.shape) > 1:
        matrix = weight.reshape(net.shape[0], -1)
        x = np.random.default_rng(seed).standard_normal((2, 3, matrix.shape[1]))
        _near(net.apply(params, x), x @ matrix.T, 1e-9)


def _check_parameters(net: Network, params: ParamsLike) -> None:
    shapes = {name: tuple(array.shape) for name, array in params.items()}
    assert shapes == net.spec.param_shapes, f"parameters {shapes} instead of {net.spec.param_shapes}"
    assert net.num_params == sum(map(math.prod, shapes.values())) == net.cost().params, "num_params is wrong"


def _check_json(net: Network) -> None:
    spec = NetworkSpec.from_dict(json.loads(json.dumps(net.spec.to_dict())))
    layout = Layout.from_dict(json.loads(json.dumps(net.layout.to_dict())))
    assert (spec, layout) == (net.spec, net.layout), "comes back as another network"
    assert hash(Network(spec, layout)) == hash(net), "comes back with another hash"
    if net.topology is not None:
        again = topology_from_dict(json.loads(json.dumps(topology_to_dict(net.topology))))
        assert again == net.topology, f"the topology comes back as {again!r}"
        assert again.build(net.layout.legs) == net.spec, "the topology builds another network the second time"


def _check_seed(net: Network, params: ParamsLike, seed: int) -> None:
    again, other = net.init(seed=seed, dtype="float64"), net.init(seed=seed + 1, dtype="float64")
    assert all(np.array_equal(again[name], params[name]) for name in params), "other numbers from the same seed"
    if net.num_params > 8:  # a few orthogonal entries may well be the same
        assert any(not np.array_equal(other[name], params[name]) for name in params), "the same numbers from any seed"


def _check_init(net: Network, weight: np.ndarray) -> None:
    if net.size < 8:  # few entries may cancel, or all be zero behind an activation
        return
    found, goal = math.sqrt(float(np.mean(np.abs(weight) ** 2))), target_std(net.layout)
    assert abs(found - goal) <= 1e-3 * goal, f"root mean square {found:.3g} instead of {goal:.3g}"


def _check_file(net: Network, params: ParamsLike) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        save(path, net, dict(params))
        again, arrays = load(path)
    assert (again, again.topology) == (net, net.topology), "another network is read than was written"
    assert all(np.array_equal(arrays[name], params[name]) for name in params), (
        "other numbers are read than were written"
    )


def _check_budget(net: Network) -> None:
    if net.topology is not None:
        found = at_budget(net.topology, net.shape, net.num_params, net.layout)
        assert found.num_params <= net.num_params, f"at_budget({net.num_params}) has {found.num_params} parameters"


def _check_library(net: Network, params: ParamsLike, weight: np.ndarray, library: str, seed: int) -> None:
    """Values, and the derivative along a direction against a central difference in NumPy."""
    arrays = {name: do("array", np.asarray(array, "float32"), like=library) for name, array in params.items()}
    generator = np.random.default_rng(seed)
    probe = generator.standard_normal(net.shape).astype("float32")
    found, gradients = _decode_with_gradients(net, arrays, probe, library)
    _near(found, weight, 1e-4)
    step = {name: generator.standard_normal(array.shape) for name, array in params.items()}
    size = 1e-6

    def loss(sign: float) -> float:
        moved = {name: array + sign * size * step[name] for name, array in params.items()}
        return float((np.asarray(net.materialize(moved)) * probe).sum())

    expected = (loss(1.0) - loss(-1.0)) / (2.0 * size)
    found = sum(float((gradients[name] * step[name]).sum()) for name in step)
    scale = sum(float(np.abs(gradients[name] * step[name]).sum()) for name in step)
    assert abs(found - expected) <= 2e-3 * scale + 1e-6, f"derivative {found:.6g} instead of {expected:.6g}"


def _decode_with_gradients(
    net: Network, arrays: dict[str, Any], probe: np.ndarray, library: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    if library == "torch":
        torch = importlib.import_module("torch")
        leaves = {name: array.requires_grad_() for name, array in arrays.items()}
        found = net.materialize(leaves)
        (found * torch.from_numpy(probe)).sum().backward()
        zeros = {name: np.zeros(leaf.shape) for name, leaf in leaves.items()}
        return to_numpy(found), {
            name: zeros[name] if leaf.grad is None else leaf.grad.numpy() for name, leaf in leaves.items()
        }

    def loss(some: Any) -> Any:
        found = net.materialize(some)
        return (found * probe).sum(), found

    jax = importlib.import_module("jax")
    (_, found), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(arrays)
    return np.asarray(found), {name: np.asarray(array) for name, array in gradients.items()}


#: What the strategies try besides sizes, by the name of a field.
_CHOICES: Mapping[str, Sequence[Any]] = {
    "activation": (None, "relu", "leaky_relu:0.2", "tanh"),
    "normalize": ("rms", None),
    "arity": (2, 3, 4),
    "balanced": (True, False),
    "cyclic": (False, True),
    "shared": (False, True),
    "sites": (2, 3, 4),
    "pattern": ("brick", "staircase"),
    "bond": (None, 1, 2, 3),
    "columns": (None, 1, 2, 5),
    "levels": (None, 1, 2),
}


def networks(family: Topology | str) -> Any:
    """Return a Hypothesis strategy of networks of a family.

    Parameters
    ----------
    family : Topology or str
        One of `families`. Its size is drawn between 1 and far above any useful one, its other fields among the
        choices that are known for their names; legs have sizes of 1, primes and others, 1 to 14 of them, in one to
        three axes, in any order, the weight padded or not.

    Returns
    -------
    hypothesis.strategies.SearchStrategy of Network

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(networks("MERA"))
    ... def test_mera(net):
    ...     check_laws(net)
    """
    optional("hypothesis", "dev")
    st = importlib.import_module("hypothesis.strategies")
    hypothesis = importlib.import_module("hypothesis")
    cls = type(topology(family))
    if cls.__name__ not in families():
        raise SpecError(f"{cls.__name__} does not fit any legs by one integer; draw of {', '.join(families())}")

    @st.composite
    def draw(drawn: Callable[[Any], Any]) -> Network:
        count = drawn(st.integers(1, 14))
        some = (1, 2, 2, 3, 4, 5, 7) if count < 7 else (1, 2, 2, 2, 3)
        sizes = drawn(st.lists(st.sampled_from(some), min_size=count, max_size=count))
        while math.prod(sizes) > ENTRIES:
            sizes.pop()
        axes = drawn(st.integers(1, min(3, len(sizes))))
        ends = [0, *sorted(drawn(st.permutations(range(1, len(sizes))))[: axes - 1]), len(sizes)]
        factors = tuple(tuple(sizes[a:b]) for a, b in itertools.pairwise(ends))
        shape = tuple(max(1, math.prod(part) - drawn(st.sampled_from((0, 0, 1, 2)))) for part in factors)
        order = drawn(st.sampled_from(("rows", "interleaved", None)))
        order = tuple(drawn(st.permutations(range(len(sizes))))) if order is None else order
        values = {
            field.name: drawn(st.sampled_from(_CHOICES[field.name])) for field in fields(cls) if field.name in _CHOICES
        }
        values[cls.size_field] = drawn(st.sampled_from((1, 2, 3, 50) if cls.size_field != "layers" else (1, 2, 3)))
        try:
            net = network(cls(**values), shape, Layout(shape, factors, order))
        except SpecError:  # too few legs, or none on one side
            hypothesis.reject()
            raise
        hypothesis.assume(net.num_params <= PARAMETERS and net.cost().flops <= FLOPS)
        return net

    return draw()


def families() -> tuple[str, ...]:
    """Names of the registered families that `networks` draws of: those that fit any legs, with an integer for a size.

    Examples
    --------
    >>> "BrickWall" in families(), "Graph" in families(), "Sum" in families()
    (True, False, False)
    """
    found = []
    for name in topology_names():
        family = topology(name)
        if isinstance(getattr(family, family.size_field), int) and not isinstance(family, Graph):
            found.append(name)
    return tuple(found)
